"""Weights files that no loader may accept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch


class FolderMaker:
    """An object that creates a folder where somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str, int], None], tuple[str, int]]:
        return os.mkdir, (str(self.target), 0o700)


def save_with_torch(content: object, path: Path) -> Path:
    """Save content with torch.save; return the path."""
    torch.save(content, path)
    return path


def halve_file(path: Path) -> Path:
    """Cut off the second half of a file; return the path."""
    os.truncate(path, path.stat().st_size // 2)
    return path


def write_text_file(path: Path) -> Path:
    """Write text that is no model; return the path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("no model\n" * 100)
    return path
