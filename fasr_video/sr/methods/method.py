"""The description of a super-resolution method: how to open it, what it needs and supports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from fasr_video.recognition.embedder import Embedder
from fasr_video.sr.guidance import Guidance
from fasr_video.sr.restoration import SMALLEST, Restorer


class Need(StrEnum):
    """Something that a method cannot work without."""

    NETWORK = "network"
    EMBEDDER = "embedder"
    COMBINER = "combiner"
    ATTRIBUTES = "attributes"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a method's models; None for the bundled ones, and for no identity."""

    network: Path | None = None
    embedder: Embedder | Path | None = None
    """The weights of the builtin embedder, or an opened embedder of any kind."""
    combiner: Path | None = None
    identity: Path | None = None
    """A fitted identity, for methods that support it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to open a method."""

    device: torch.device
    files: ModelFiles = ModelFiles()
    sampler: str | None = None
    """None for the method's default."""
    precision: str = "float32"
    guidance: Guidance | None = None
    batch: int | None = None
    """Number of pictures drawn at a time; None for as many as suit the device."""


@dataclass(frozen=True, slots=True)
class Defaults:
    samples: int = 1
    sampler: str = ""
    """Empty if the method does not sample, or if its network names the sampler."""


@dataclass(frozen=True, slots=True)
class Supports:
    """The optional inputs that a method uses."""

    feature: bool = False
    """The person's merged feature, or auxiliary faces to merge it from."""
    samples: bool = False
    """Several pictures of a face."""
    sampler: bool = False
    attributes: bool = False
    references: bool = False
    """Photographs whose appearance it transfers."""
    identity: bool = False
    weights: bool = False
    """Weights other than the bundled ones."""
    smallest: int = SMALLEST
    """Side of the smallest face in pixels."""


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    """As on the command line; if it ends in a colon, a file follows."""
    open: Callable[[Method, Options], Restorer]
    needs: frozenset[Need] = frozenset()
    defaults: Defaults = Defaults()
    supports: Supports = Supports()

    @property
    def merge(self) -> str | None:
        """How to merge several features: combiner, mean, or None for a method without a feature."""
        if not self.supports.feature:
            return None
        return "combiner" if Need.COMBINER in self.needs else "mean"
