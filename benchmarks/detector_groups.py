"""Whom the builtin detector misses more often: recall by race, gender and age, at three sizes.

python benchmarks/detector_groups.py [--people 2658] [--data ../shared/data]

FairFace's photographs are shrunk and each laid somewhere on a piece of a picture without a face.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from fairface import AGE, GENDER, RACE, Flags, groups_of, read_unseen
from footage import DATA, find_data
from numpy.typing import NDArray
from results import Table, command_line, format_share
from torch import Tensor

from fasr_video.boxes import iou_matrix
from fasr_video.configs import settings
from fasr_video.datasets.faces import read_faces, views
from fasr_video.detection import Detector, open_detector
from fasr_video.sr.degradation import shrink
from fasr_video.sr.restoration import as_image
from fasr_video.training.detector_data import read_scenes
from fasr_video.types import Image

# px of the whole photograph; the face in it is a little smaller.
SIDES = (16, 24, 48)
# px of the square picture that a face is laid on.
FRAME = 256
MATCH = 0.4
BATCH = 32
# px at which the usual box is found out.
BOX_SIDE = 64
GREY = 127
KINDS = (RACE, GENDER, AGE)
# x1, y1, x2, y2.
Box = NDArray[np.float64]


def paste_face(face: Image, background: Image, left: int, top: int) -> Image:
    """Return the background with the face on it."""
    picture = background.copy()
    picture[top : top + len(face), left : left + len(face)] = face
    return picture


def median_face_box(detector: Detector, faces: Sequence[Image]) -> Box:
    """Return the median box that the detector draws in canonical faces, in shares of their side."""
    background = np.full((FRAME, FRAME, 3), GREY, np.uint8)
    boxes = []
    for face in faces:
        corner = (FRAME - len(face)) // 2
        found = detector.detect([paste_face(face, background, corner, corner)])[0]
        if len(found.boxes):
            boxes.append((found.boxes[0] - corner) / len(face))
    if not boxes:
        raise SystemExit(
            "the detector found no face in the photographs that show where it draws its boxes"
        )
    return np.asarray(np.median(boxes, axis=0), np.float64)


def crop_at_random(scene: Image, side: int, rng: np.random.Generator) -> Image:
    """Return a random square of the scene; a smaller scene is enlarged first."""
    least = min(scene.shape[:2])
    if least < side:
        rows, columns = (int(np.ceil(n * side / least)) for n in scene.shape[:2])
        scene = np.asarray(
            cv2.resize(scene, (columns, rows), interpolation=cv2.INTER_CUBIC), np.uint8
        )
    top, left = (int(rng.integers(n - side + 1)) for n in scene.shape[:2])
    return np.ascontiguousarray(scene[top : top + side, left : left + side])


def paste_on_scenes(
    faces: Sequence[Image], scenes: Sequence[Image], box: Box, first: int
) -> Iterator[tuple[Image, Box]]:
    """Yield each face on a part of a scene, and its box; `first` numbers the first face."""
    for number, face in enumerate(faces, first):
        side = len(face)
        rng = np.random.default_rng([side, number])
        background = crop_at_random(scenes[int(rng.integers(len(scenes)))], FRAME, rng)
        left, top = (int(v) for v in rng.integers(0, FRAME - side + 1, 2))
        yield paste_face(face, background, left, top), box * side + np.array([left, top, left, top])


def find_faces(
    detector: Detector, pictures: Tensor, side: int, scenes: Sequence[Image], *, box: Box
) -> Flags:
    """Return which of N×3×128×128 uint8 faces the detector finds at this size."""
    hits = []
    for first in range(0, len(pictures), BATCH):
        small = as_images(shrink(pictures[first : first + BATCH].float() / 255, side))
        pictures_with_boxes = list(paste_on_scenes(small, scenes, box, first))
        found = detector.detect([frame for frame, _ in pictures_with_boxes])
        for faces, (_, wanted) in zip(found, pictures_with_boxes, strict=True):
            hits.append(bool(iou_matrix(faces.boxes, wanted[None]).max(initial=0) >= MATCH))
    return np.array(hits)


def as_images(pictures: Tensor) -> list[Image]:
    return [as_image(picture) for picture in pictures]


def read_plain_faces(file: Path, count: int) -> list[Image]:
    """Return a photograph of each of `count` CelebA people, at the size for the median box."""
    faces, _ = read_faces([file])
    rows = [own[0] for own in list(faces.people.values())[:count]]
    return as_images(shrink(views(faces.pictures[rows], 128, False, torch.Generator()), BOX_SIDE))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, help="only the first ones")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    detect_settings = settings.load("cpu").detect
    detector = open_detector(
        "builtin",
        weights=None,
        device="cpu",
        max_side=detect_settings.max_side,
        min_score=detect_settings.min_score,
    )
    faces = read_unseen(find_data(args.data / "fairface"), args.people)
    plain_faces = read_plain_faces(
        find_data(args.data / "celeba" / "val-00.tar"), min(200, len(faces))
    )
    box = median_face_box(detector, plain_faces)
    scenes = [
        scene.picture
        for scene in read_scenes(find_data(args.data / "scenes"), "train")
        if not len(scene.faces)
    ]
    hits = {side: find_faces(detector, faces.pictures, side, scenes, box=box) for side in SIDES}
    columns = ("group", "people", *(f"{side} px" for side in SIDES))
    title = f"Recall of the builtin detector within groups: {len(faces)} people"
    table = Table("detector_groups", title, command_line(), columns)
    table.add_row(["all", len(faces), *(format_share(hits[side]) for side in SIDES)])
    for kind, members in groups_of(faces.labels, KINDS).items():
        for group, flags in members.items():
            table.add_row(
                [group, int(flags.sum()), *(format_share(hits[side][flags]) for side in SIDES)]
            )
        table.add_note(describe_worst_group(kind, hits, members))
    table.add_note(
        f"Share of faces for which the detector draws a box with IoU ≥ {MATCH:g} and a score ≥ "
        f"{detect_settings.min_score:g}, with 95 % bands (Wilson). The sizes are of the whole "
        f"photograph; the face box in it, as the detector draws it in {len(plain_faces)} CelebA "
        f"photographs on grey (the median), goes from {box[0]:.2f} to {box[2]:.2f} of the width "
        f"and from {box[1]:.2f} to {box[3]:.2f} of the height."
    )
    table.add_note(
        "People are FairFace's; the detector was trained on none of them. Race, gender and age "
        "are as FairFace's annotators judged them. Each face is pasted at random on "
        f"{FRAME}×{FRAME} px of one of {len(scenes)} pictures without a face; the detector was "
        "trained on those pictures, and on portraits that were pasted on them in the same way: "
        "footage is harder. FairFace's photographs end above the forehead; the rows above repeat "
        "the last one."
    )
    table.write()


def describe_worst_group(kind: str, hits: dict[int, Flags], members: dict[str, Flags]) -> str:
    """Return in words which group of a kind is missed most often at each size."""
    parts = []
    for side, found in hits.items():
        recall = {group: float(found[flags].mean()) for group, flags in members.items()}
        worst, best = min(recall, key=lambda g: recall[g]), max(recall, key=lambda g: recall[g])
        ratio = (1 - recall[worst]) / (1 - recall[best]) if recall[best] < 1 else float("inf")
        comparison = (
            f"{ratio:.1f} times as often as {best}" if np.isfinite(ratio) else f"{best}: never"
        )
        parts.append(f"{side} px **{worst}**, {1 - recall[worst]:.1%} ({comparison})")
    return f"Missed most often, by {kind}: " + "; ".join(parts) + "."


if __name__ == "__main__":
    main()
