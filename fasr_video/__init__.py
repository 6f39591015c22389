"""fasr-video: camera footage in, a case of faces, candidates and reports out.

The Python interface is in `fasr_video.api`; its names are here, too, loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasr_video.api import (
        Case,
        Gallery,
        Track,
        crop_face,
        load_detector,
        load_embedder,
        load_restorer,
        run,
    )

__version__ = "0.2.0"
__all__ = [
    "Case",
    "Gallery",
    "Track",
    "__version__",
    "crop_face",
    "load_detector",
    "load_embedder",
    "load_restorer",
    "run",
]


def __getattr__(name: str) -> object:
    """Return a name of the Python interface: importing `fasr_video` alone loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'fasr_video' has no attribute {name!r}")
    return getattr(import_module("fasr_video.api"), name)
