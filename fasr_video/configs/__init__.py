"""Settings and their presets."""
