"""Face super-resolution by diffusion: SDEs, samplers, networks, and the papers' methods."""
