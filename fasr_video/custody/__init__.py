"""Keeping a case so that others can rely on it: done again, signed, redacted, and forgotten in time."""
