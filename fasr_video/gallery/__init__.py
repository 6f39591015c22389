"""Photographs of known people: which of them can be used (the store and the search come with step 3)."""
