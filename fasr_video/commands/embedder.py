"""The embedder as the command line names it."""

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
        help="What makes vectors of faces.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="Its file, or folder. [default: builtin's bundled one, dlib's as installed]",
    ),
    click.option("--flip", is_flag=True, help="Average each face with its mirror image."),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """An embedder as the command line names it."""

    backend: str
    weights: Path | None
    flip: bool

    def open(self, device: str) -> Embedder:
        return open_embedder(self.backend, self.weights, device, self.flip)


def embedder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--embedder`, `--weights` and `--flip`, which the command gets as one `Chosen` named `embedder`."""

    @functools.wraps(command)
    def with_embedder(*, embedder: str, weights: Path | None, flip: bool, **others: Any) -> Any:
        return command(embedder=Chosen(embedder, weights, flip), **others)

    decorated: Callable[..., Any] = with_embedder
    for option in reversed(EMBEDDER_OPTIONS):
        decorated = option(decorated)
    return decorated
