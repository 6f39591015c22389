"""A case: one folder that holds all that a run found, and what people decided about it."""
