"""The embedder options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fasr_video.recognition.embedder import Embedder
from fasr_video.recognition.embedders import open_embedder

EMBEDDER_OPTIONS = (
    click.option(
        "--embedder",
        type=click.Choice(["builtin", "adaface", "insightface", "dlib"]),
        default="builtin",
        show_default=True,
        help="The embedder, which turns faces into vectors.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="The embedder's file or folder. [default: builtin: bundled; dlib: as installed]",
    ),
    click.option(
        "--flip", is_flag=True, help="Average the vectors of each face and its mirror image."
    ),
)


@dataclass(frozen=True, slots=True)
class EmbedderChoice:
    """The embedder chosen by options."""

    backend: str
    weights: Path | None
    flip: bool

    def open(self, device: str) -> Embedder:
        return open_embedder(self.backend, self.weights, device, self.flip)


def embedder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--embedder`, `--weights` and `--flip`; the command gets them as one argument."""

    @functools.wraps(command)
    def with_embedder(*, embedder: str, weights: Path | None, flip: bool, **others: Any) -> Any:
        return command(embedder=EmbedderChoice(embedder, weights, flip), **others)

    decorated: Callable[..., Any] = with_embedder
    for option in reversed(EMBEDDER_OPTIONS):
        decorated = option(decorated)
    return decorated
