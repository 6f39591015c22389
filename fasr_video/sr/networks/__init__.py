"""The networks that tell a score or a clean picture; `checkpoints` fills the published ones."""
