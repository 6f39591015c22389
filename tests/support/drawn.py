"""Drawn people whose faces differ in form and colour, for what evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from fasr_video.evaluation.photos import Photo, digest_of
from fasr_video.sr.degradation import enlarge
from fasr_video.types import Image
from tests.support.commands import run_command

PEOPLE, EACH = 6, 4


def draw_face(person: int, make_photo: int, side: int = 128) -> Image:
    """Draw coarse random forms that are the person's, with a little of the photograph's own."""
    forms = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(person))
    own = torch.rand(
        1, 3, 16, 16, generator=torch.Generator().manual_seed(1000 * person + make_photo)
    )
    picture = 0.85 * enlarge(forms, side) + 0.15 * enlarge(own, side)
    return (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()


def save_picture(picture: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.fromarray(picture).save(path)


def write_people(folder: Path) -> Path:
    """Write six people with four photographs, one with a single one, and a broken file."""
    for person in range(PEOPLE):
        for make_photo in range(EACH):
            save_picture(draw_face(person, make_photo), folder / f"p{person}" / f"{make_photo}.png")
    save_picture(draw_face(90, 0), folder / "alone" / "0.png")
    (folder / "p0" / "broken.png").write_text("nothing")
    return folder


def run_eval(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `fasr-video eval` in this process; return exit code, standard output and error."""
    return run_command(capsys, "eval", *arguments)


def make_photo(person: str, name: str, value: int, role: str = "") -> Photo:
    """Return a photograph of one grey value."""
    picture = np.full((128, 128, 3), value, np.uint8)
    return Photo(f"{person}/{name}", person, picture, digest_of(picture), {"size": "128"}, role)


def make_photos(counts: Sequence[int]) -> list[Photo]:
    """Return the given number of photographs of each person."""
    return [make_photo(f"p{i}", str(k), 10 * i + k) for i, n in enumerate(counts) for k in range(n)]
