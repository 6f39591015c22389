"""Training pictures for the builtin detector: photographs with labels, and faces pasted on empty rooms.

A labelled photograph gives real context; a composite gives sizes that photographs lack (10-200 px) and exact truth.
Both are then damaged the way cameras damage them. Only PIL and numpy are used, so that the same code runs where
neither OpenCV nor PyAV is installed.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

Points = NDArray[np.float64]
"""5×2: left eye, right eye, nose, left mouth corner, right mouth corner, in pixels."""


@dataclass(frozen=True, slots=True)
class Sample:
    image: NDArray[np.uint8]
    """H×W×3 RGB."""
    faces: list[Points]


def face_box(points: Points) -> tuple[float, float, float, float]:
    """The box (x1, y1, x2, y2) that belongs to five landmarks: brow to chin, ear to ear, whatever labelled it.

    It hangs on the distance from the eyes to the mouth, which turning the head hardly changes.
    """
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    reach = max(float(np.linalg.norm(mouth - eyes)), 0.6 * float(np.linalg.norm(points[1] - points[0])))
    centre = eyes + 0.30 * (mouth - eyes)
    half_w, half_h = 1.05 * reach, 1.32 * reach
    return centre[0] - half_w, centre[1] - half_h, centre[0] + half_w, centre[1] + half_h


def face_size(points: Points) -> float:
    x1, y1, x2, y2 = face_box(points)
    return float(np.sqrt((x2 - x1) * (y2 - y1)))


class Material:
    """Everything that composites are made of, decoded once into memory."""

    def __init__(self, data: Path, shards: int, hold_out: int = 40) -> None:
        photos = json.loads((data / "detect" / "photos.json").read_text())
        names = sorted(photos)
        self.photos = [self._photo(data, name, photos[name]) for name in names[hold_out:]]
        self.held_out = [self._photo(data, name, photos[name]) for name in names[:hold_out]]
        self.rooms = [
            np.asarray(Image.open(p).convert("RGB")) for p in sorted((data / "detect" / "backgrounds").iterdir())
        ]
        self.faces: list[tuple[bytes, Points]] = []
        with (data / "celeba" / "labels.csv").open() as handle:
            rows = {row["path"]: row for row in csv.DictReader(handle) if row["found"] == "1"}
        keys = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
        for shard in range(shards):
            with tarfile.open(data / "celeba" / f"train-{shard:02d}.tar") as tar:
                for member in tar:
                    row, handle2 = rows.get(member.name), tar.extractfile(member)
                    if row is not None and handle2 is not None:
                        points = np.array([[float(row[f"{k}_x"]), float(row[f"{k}_y"])] for k in keys])
                        self.faces.append((handle2.read(), points))

    @staticmethod
    def _photo(data: Path, name: str, labels: list[dict[str, list[list[float]]]]) -> Sample:
        image = np.asarray(Image.open(data / "detect" / "photos" / name).convert("RGB"))
        return Sample(image, [np.array(face["landmarks"], dtype=np.float64) for face in labels])

    def face(self, rng: np.random.Generator) -> tuple[Image.Image, Points]:
        encoded, points = self.faces[rng.integers(len(self.faces))]
        return Image.open(io.BytesIO(encoded)).convert("RGB"), points.copy()


def flip(image: Image.Image, points: list[Points]) -> tuple[Image.Image, list[Points]]:
    mirrored = []
    for p in points:
        q = p[[1, 0, 2, 4, 3]].copy()  # the left eye of the mirror is the right eye of the face
        q[:, 0] = image.width - q[:, 0]
        mirrored.append(q)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored


def rotate(image: Image.Image, points: list[Points], degrees: float) -> tuple[Image.Image, list[Points]]:
    """Turned about the centre, same canvas; points follow."""
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    centre = np.array([image.width / 2, image.height / 2])
    turned = image.rotate(degrees, Image.Resampling.BILINEAR)
    return turned, [(p - centre) @ turn.T + centre for p in points]


def soft_oval(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A feathered mask from oval to nearly square, so that the seam itself is no cue."""
    w, h = size
    ys, xs = np.mgrid[0:h, 0:w]
    power = rng.choice([2.0, 2.5, 4.0, 8.0])
    rx, ry = rng.uniform(0.36, 0.5) * w, rng.uniform(0.42, 0.5) * h
    r = (np.abs((xs + 0.5 - w / 2) / rx) ** power + np.abs((ys + 0.5 - h / 2) / ry) ** power) ** (1 / power)
    alpha = np.clip((1.0 - r) / rng.uniform(0.02, 0.25), 0, 1)
    return Image.fromarray((alpha * 255).astype(np.uint8))


def room(material: Material, side: int, rng: np.random.Generator) -> Image.Image:
    picture = Image.fromarray(material.rooms[rng.integers(len(material.rooms))])
    scale = max(side / min(picture.size), 0.01) * rng.uniform(1.0, 2.5)
    picture = picture.resize((max(side, round(picture.width * scale)), max(side, round(picture.height * scale))))
    x, y = int(rng.integers(picture.width - side + 1)), int(rng.integers(picture.height - side + 1))
    picture = picture.crop((x, y, x + side, y + side))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def composite(material: Material, side: int, rng: np.random.Generator) -> tuple[Image.Image, list[Points]]:
    canvas = room(material, side, rng)
    placed: list[Points] = []
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(int(rng.integers(1, 10))):
        if rng.random() < 0.2:  # a patch that is no face, through the same mask
            source = Image.fromarray(material.rooms[rng.integers(len(material.rooms))])
            s = int(rng.integers(24, 120))
            x, y = int(rng.integers(source.width - s + 1)), int(rng.integers(source.height - s + 1))
            face, points = source.crop((x, y, x + s, y + s)), None
        else:
            face, points = material.face(rng)
            if rng.random() < 0.5:
                face, (points,) = flip(face, [points])
            if rng.random() < 0.4:
                face, (points,) = rotate(face, [points], rng.uniform(-25, 25))
        # log-uniform, small faces favoured: they are the ones the footage has
        target = float(np.exp(rng.uniform(np.log(10), np.log(min(200, 0.8 * side)))))
        scale = target / (face_size(points) if points is not None else face.width * 0.7)
        w, h = max(6, round(face.width * scale)), max(6, round(face.height * scale))
        x = int(rng.integers(-w // 6, max(1, side - w + w // 6)))
        y = int(rng.integers(-h // 6, max(1, side - h + h // 6)))
        area = (x + 0.15 * w, y + 0.15 * h, x + 0.85 * w, y + 0.85 * h)
        if any(area[0] < t[2] and t[0] < area[2] and area[1] < t[3] and t[1] < area[3] for t in taken):
            continue
        taken.append(area)
        small = face.resize((w, h), Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX)
        small = ImageEnhance.Brightness(small).enhance(rng.uniform(0.6, 1.3))
        canvas.paste(small, (x, y), soft_oval((w, h), rng))
        if points is not None:
            placed.append(points * (w / face.width, h / face.height) + (x, y))
    return canvas, placed


def photograph(material: Material, side: int, rng: np.random.Generator) -> tuple[Image.Image, list[Points]]:
    """One to four labelled photographs, scaled so that the face is 12 px to most of the canvas, on a room."""
    canvas = room(material, side, rng)
    placed: list[Points] = []
    many = rng.random() < 0.5
    for cell in range(4 if many else 1):
        sample = material.photos[rng.integers(len(material.photos))]
        image, points = Image.fromarray(sample.image), [p.copy() for p in sample.faces]
        if rng.random() < 0.5:
            image, points = flip(image, points)
        if rng.random() < 0.3:
            image, points = rotate(image, points, rng.uniform(-20, 20))
        room_for = side // 2 if many else side
        size = np.exp(rng.uniform(np.log(12), np.log(0.7 * room_for)))
        scale = size / (face_size(points[0]) if points else 120.0)
        image = image.resize(
            (max(8, round(image.width * scale)), max(8, round(image.height * scale))),
            Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX,
        )
        points = [p * scale for p in points]
        focus = points[0].mean(0) if points else np.array(image.size) / 2
        # Put the face anywhere in its cell, cut the photograph to the cell.
        at = rng.uniform(0.3, 0.7, 2) * room_for
        left, top = (int(v) for v in (focus - at).round())
        right, bottom = min(image.width, left + room_for), min(image.height, top + room_for)
        part = image.crop((max(0, left), max(0, top), right, bottom))
        offset = np.array([cell % 2, cell // 2]) * room_for
        where = offset + (max(0, -left), max(0, -top))
        canvas.paste(part, (int(where[0]), int(where[1])))
        for p in points:
            q = p - (left, top)
            if ((q.mean(0) > 0) & (q.mean(0) < room_for)).all():
                placed.append(q + offset)
    return canvas, placed


def damage(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What lies between a face and a recording: optics, light, sensor noise, compression."""
    if rng.random() < 0.10:
        image = image.convert("L").convert("RGB")  # infrared and old cameras
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.55, 1.35))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.3))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.4, 1.4))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if rng.random() < 0.15:
        f = rng.uniform(1.3, 2.2)
        small = image.resize((round(image.width / f), round(image.height / f)), Image.Resampling.BILINEAR)
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        noise = rng.normal(0, rng.uniform(2, 14), (image.height, image.width, 3)).astype(np.float32)
        image = Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(18, 90)))
        image = Image.open(buffer).convert("RGB")
    return image


def make_sample(material: Material, side: int, rng: np.random.Generator) -> Sample:
    kind = rng.random()
    if kind < 0.5:
        image, faces = photograph(material, side, rng)
    elif kind < 0.92:
        image, faces = composite(material, side, rng)
    else:
        image, faces = room(material, side, rng), []
    return Sample(np.asarray(damage(image, rng)), faces)


class Stream(torch.utils.data.IterableDataset[tuple[Tensor, list[Points]]]):
    """Endless samples; each worker and each start draws its own."""

    def __init__(self, material: Material, side: int, seed: int) -> None:
        self.material, self.side, self.seed = material, side, seed

    def __iter__(self) -> Iterator[tuple[Tensor, list[Points]]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            sample = make_sample(self.material, self.side, rng)
            yield torch.from_numpy(sample.image.copy()), sample.faces
