"""What a super-resolution method is: how it is opened, what it needs, what it takes."""

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
    """What a method is nothing without."""

    NETWORK = "network"
    EMBEDDER = "embedder"
    COMBINER = "combiner"
    ATTRIBUTES = "attributes"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the models of a method are: None for the bundled ones, and for no identity."""

    network: Path | None = None
    embedder: Embedder | Path | None = None
    """Its file; one of another kind than the builtin embedder is given open."""
    combiner: Path | None = None
    identity: Path | None = None
    """A fitted one, for methods that support it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a method is opened."""

    device: torch.device
    files: ModelFiles = ModelFiles()
    sampler: str | None = None
    """None for the method's own."""
    precision: str = "float32"
    guidance: Guidance | None = None
    batch: int | None = None
    """Pictures that are drawn at a time; None for as many as suit the device."""


@dataclass(frozen=True, slots=True)
class Defaults:
    samples: int = 1
    sampler: str = ""
    """Empty where a method does not sample, or its network names the sampler."""


@dataclass(frozen=True, slots=True)
class Supports:
    """What a method makes use of where it is given."""

    feature: bool = False
    """The person's merged feature, and auxiliary faces to merge it from."""
    samples: bool = False
    """More than one picture of a face."""
    sampler: bool = False
    attributes: bool = False
    references: bool = False
    """Photographs whose looks it takes over."""
    identity: bool = False
    weights: bool = False
    """Other weights than the bundled ones."""
    smallest: int = SMALLEST
    """Side of the smallest face in pixels."""


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    """As people give it; one that ends in a colon is followed by a file."""
    open: Callable[[Method, Options], Restorer]
    needs: frozenset[Need] = frozenset()
    defaults: Defaults = Defaults()
    supports: Supports = Supports()

    @property
    def merge(self) -> str | None:
        """How the features of several faces become one: combiner, mean, or None for a method without a feature."""
        if not self.supports.feature:
            return None
        return "combiner" if Need.COMBINER in self.needs else "mean"
