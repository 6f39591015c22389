"""Photographs of known people: the store, the index, enrolment (and what tracks ask them)."""
