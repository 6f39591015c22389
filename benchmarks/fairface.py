"""FairFace's photographs that nothing was trained on, and groups of their people."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pictures
from torch import Tensor

Flags = NDArray[np.bool_]
Label = dict[str, str]
# By kind of group, then by name: which of the people are in it.
Groups = dict[str, dict[str, Flags]]
RACE, GENDER, AGE, RACE_AND_GENDER = ("race",), ("gender",), ("age",), ("race", "gender")


@dataclass(frozen=True)
class Photographs:
    """One of each person."""

    pictures: Tensor
    """N×3×128×128 uint8 RGB, the canonical frame."""
    labels: list[Label]

    def __len__(self) -> int:
        return len(self.labels)


def read_unseen(folder: Path, count: int | None = None) -> Photographs:
    """Return the first photographs with even numbers: those with odd ones were trained on."""
    with (folder / "fairface.csv").open(newline="") as stream:
        labels = [label for label in csv.DictReader(stream) if photo_number(label["path"]) % 2 == 0]
    labels = labels[:count]
    wanted = {label["path"] for label in labels}
    found: dict[str, NDArray[np.uint8]] = {}
    with tarfile.open(folder / "fairface.tar") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name in wanted else None
            if file is not None:
                with Pictures.open(io.BytesIO(file.read())) as picture:
                    found[member.name] = np.asarray(picture.convert("RGB"))
    block = np.stack([found[label["path"]] for label in labels])
    return Photographs(torch.from_numpy(block).permute(0, 3, 1, 2).contiguous(), labels)


def photo_number(path: str) -> int:
    """Return 12 for fairface/12.avif."""
    return int(Path(path).stem)


def groups_of(labels: Sequence[Label], kinds: Sequence[Sequence[str]]) -> Groups:
    """Return the people of each group, the groups of each kind in order: ages from young to old."""
    found: Groups = {}
    for columns in kinds:
        names = [", ".join(label[column] for column in columns) for label in labels]
        ordered = sorted(set(names), key=_sort_key)
        flags = {name: np.array([other == name for other in names]) for name in ordered}
        found[" and ".join(columns)] = flags
    return found


def _sort_key(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+", name)
    return (int(digits.group()) if digits else 0, name)
