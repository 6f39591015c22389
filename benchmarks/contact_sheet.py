"""Contact sheets: parts of pictures in rows, each with boxes drawn into it and a line below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from footage import REPO
from numpy.typing import NDArray

from fasr_video.types import Boxes, Image

SIDE, LINE = 200, 22  # px: of a part, and of the line below it
COLUMNS = 6
AROUND = 2.5  # sides of the box that are shown
LEAST = 64  # px that are shown at least
LABELLED, DETECTED = (0, 220, 0), (255, 60, 60)


@dataclass(frozen=True)
class Part:
    """What a sheet shows of a picture: the surroundings of `box`."""

    image: Image
    box: NDArray[np.float32]
    labelled: Boxes
    found: Boxes
    caption: str


def refuse_path_in_project(path: Path) -> None:
    """Stop if a sheet would lie in the project: the pictures belong to others."""
    if path.resolve().is_relative_to(REPO):
        raise SystemExit(
            f"{path}: within the project, where others' pictures must not be; choose another folder"
        )


def write_sheet(path: Path, sections: dict[str, Sequence[Part]]) -> None:
    """Write a JPEG with the parts of each section in rows under its title."""
    rows: list[Image] = []
    for title, parts in sections.items():
        rows.append(_draw_text(title, COLUMNS * SIDE, 255))
        cells = [np.concatenate((_draw_part(p), _draw_text(p.caption, SIDE, 230))) for p in parts]
        cells += [np.zeros((SIDE + LINE, SIDE, 3), np.uint8)] * (-len(cells) % COLUMNS)
        for i in range(0, len(cells), COLUMNS):
            rows.append(np.concatenate(cells[i : i + COLUMNS], 1))
    _, encoded = cv2.imencode(".jpg", np.concatenate(rows)[..., ::-1])
    path.write_bytes(encoded.tobytes())
    print(f"written: {path}")


def _draw_part(part: Part) -> Image:
    width = max(LEAST, AROUND * float((part.box[2:] - part.box[:2]).max()))
    corner = (part.box[:2] + part.box[2:]) / 2 - width / 2
    scale = SIDE / width
    transform = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    canvas = cv2.warpAffine(
        part.image, transform, (SIDE, SIDE), flags=method, borderValue=(128, 128, 128)
    )
    for boxes, colour in ((part.labelled, LABELLED), (part.found, DETECTED)):
        for box in (boxes - np.tile(corner, 2)) * scale:
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1)
    return np.asarray(canvas, np.uint8)


def _draw_text(text: str, width: int, grey: int) -> Image:
    strip = np.full((LINE, width, 3), grey, np.uint8)
    cv2.putText(strip, text, (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
