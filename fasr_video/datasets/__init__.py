"""Labelled pictures as they lie on the disk: what training and evaluation read."""
