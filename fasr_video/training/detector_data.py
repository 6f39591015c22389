"""Training pictures for the builtin detector: labelled scenes, portraits, and rooms without a face.

Scenes have real context and small faces; portraits have large faces without a margin. All are then
damaged as cameras damage pictures. Only PIL and numpy are used, so this code runs without OpenCV
and PyAV.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor

from fasr_video.csv_file import read_csv
from fasr_video.pictures import decoded

# 5×2: left eye, right eye, nose, left mouth corner, right mouth corner, in pixels.
Points = NDArray[np.float64]
# N×4: x1, y1, x2, y2 in pixels.
Boxes = NDArray[np.float64]

# The teacher's score from which a box counts as a face; others are neither face nor background.
SURE = 0.5
SMALLEST, LARGEST = 8.0, 180.0  # px, height that a chosen face is scaled to
MOST_ENLARGED = 2.0
PATCH = 48  # px, smallest side of a part of a mosaic
MIRRORED = [1, 0, 2, 4, 3]  # the landmark that each one becomes in a mirror image


@dataclass(frozen=True, slots=True)
class Faces:
    """The labelled faces of one picture."""

    boxes: Boxes
    landmarks: NDArray[np.float64]
    """N×5×2."""
    sure: NDArray[np.bool_]
    """N: True for a face; False for a box that may be one, which is ignored."""

    def __len__(self) -> int:
        return len(self.boxes)

    def moved(self, scale: float, left: float, top: float) -> Faces:
        """Return the faces of a picture that is cropped at (left, top) and then scaled."""
        corner = np.array([left, top])
        boxes = (self.boxes - np.tile(corner, 2)) * scale
        return Faces(boxes, (self.landmarks - corner) * scale, self.sure)

    def inside(self, width: float, height: float, least_share: float = 0.5) -> Faces:
        """Return the visible faces; those mostly cut off are no longer sure."""
        visible = self.boxes.clip(0, np.array([width, height, width, height]))
        visible_share = _areas(visible) / _areas(self.boxes).clip(1e-6)
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        within = ((centres > 0) & (centres < [width, height])).all(1)
        sure = self.sure & within & (visible_share >= least_share)
        visible_at_all = visible_share > 0
        return Faces(
            self.boxes[visible_at_all], self.landmarks[visible_at_all], sure[visible_at_all]
        )

    def mirrored(self, width: float) -> Faces:
        """Return the faces of the picture's mirror image: its left eye is the face's right one."""
        boxes = self.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
        landmarks = self.landmarks[:, MIRRORED] * [-1, 1] + [width, 0]
        return Faces(boxes, landmarks, self.sure)


NO_FACES = Faces(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, np.bool_))


def concatenate_faces(parts: Sequence[Faces]) -> Faces:
    """Return the faces of several parts of one picture together."""
    return Faces(
        np.concatenate([NO_FACES.boxes, *(p.boxes for p in parts)]),
        np.concatenate([NO_FACES.landmarks, *(p.landmarks for p in parts)]),
        np.concatenate([NO_FACES.sure, *(p.sure for p in parts)]),
    )


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def face_box(points: Points) -> tuple[float, float, float, float]:
    """Return the teacher's usual box (x1, y1, x2, y2) around five landmarks, by 8,176 faces.

    Its size depends on the distance from eyes to mouth, which turning the head hardly changes.
    """
    eyes = points[:2].mean(0)
    mouth = points[3:].mean(0)
    reach = max(
        float(np.linalg.norm(mouth - eyes)), 0.6 * float(np.linalg.norm(points[1] - points[0]))
    )
    centre = eyes + 0.31 * (mouth - eyes)
    half_w, half_h = 1.06 * reach, 1.34 * reach
    return centre[0] - half_w, centre[1] - half_h, centre[0] + half_w, centre[1] + half_h


@dataclass(frozen=True, slots=True)
class Scene:
    picture: NDArray[np.uint8]
    """H×W×3 RGB."""
    faces: Faces


@dataclass(frozen=True, slots=True)
class Portrait:
    encoded: bytes
    landmarks: Points


class Material:
    """All scenes, decoded in memory, and all portraits, as file contents."""

    def __init__(self, data: Path, shards: int) -> None:
        scenes = list(read_scenes(data / "scenes", "train"))
        self.scenes = [scene for scene in scenes if scene.faces.sure.any()]
        self.empty = [scene for scene in scenes if not len(scene.faces)]
        self.portraits = list(_portraits(data / "celeba", shards))


def read_scenes(folder: Path, split: str) -> Iterator[Scene]:
    """Yield the scenes of one split (train or check) of a folder."""
    with gzip.open(folder / "scenes.json.gz", "rt") as stream:
        entries = [entry for entry in json.load(stream) if entry["split"] == split]
    for name in sorted({entry["tar"] for entry in entries}):
        with tarfile.open(folder / name) as tar:
            for entry in entries:
                if entry["tar"] != name:
                    continue
                file = tar.extractfile(entry["name"])
                assert file is not None
                picture = decoded(file.read())
                labels = np.array(entry["boxes"], np.float64).reshape(-1, 15)
                landmarks = labels[:, 5:].reshape(-1, 5, 2)
                yield Scene(picture, Faces(labels[:, :4], landmarks, labels[:, 4] >= SURE))


def _portraits(folder: Path, shards: int) -> Iterator[Portrait]:
    keys = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    table = read_csv(folder / "labels.csv", ("path", "found"), "give the labels of the portraits")
    rows = {row["path"]: row for row in table.rows.values() if row["found"] == "1"}
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:02d}.tar") as tar:
            for member in tar:
                row = rows.get(member.name)
                file = tar.extractfile(member)
                if row is not None and file is not None:
                    points = np.array([[float(row[f"{k}_x"]), float(row[f"{k}_y"])] for k in keys])
                    yield Portrait(file.read(), points)


# ----------------------------------------------------------------------------------------- pictures

Sample = tuple[Image.Image, Faces]


def scene_part(material: Material, width: int, height: int, rng: np.random.Generator) -> Sample:
    """Cut width×height out of a scene, scaled so that one of its faces has a size drawn at random.

    What lies outside the scene is one colour.
    """
    scene = material.scenes[rng.integers(len(material.scenes))]
    sure = np.flatnonzero(scene.faces.sure)
    box = scene.faces.boxes[rng.choice(sure)]
    tall = float(box[3] - box[1])
    largest = min(LARGEST, 0.8 * min(width, height))
    wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(largest)))
    if rng.random() < 0.5:
        wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(min(36.0, largest))))
    scale = min(MOST_ENLARGED, float(wanted) / tall)
    centre = (box[:2] + box[2:]) / 2
    window = np.array((width, height)) / scale
    corner = centre - rng.uniform(0.1, 0.9, 2) * window
    if rng.random() < 0.9:  # with as little as possible from outside the scene
        room = np.array(scene.picture.shape[1::-1]) - window
        corner = corner.clip(np.minimum(room, 0), np.maximum(room, 0))
    return cut(scene, float(corner[0]), float(corner[1]), scale, size=(width, height), rng=rng)


def empty_part(material: Material, width: int, height: int, rng: np.random.Generator) -> Sample:
    """Cut width×height out of a picture that shows no face."""
    scene = material.empty[rng.integers(len(material.empty))]
    rows, columns = scene.picture.shape[:2]
    least = max(width / columns, height / rows)
    scale = min(MOST_ENLARGED, least * float(np.exp(rng.uniform(-0.3, 1.2))))
    left = rng.uniform(min(0.0, columns - width / scale), max(0.0, columns - width / scale))
    top = rng.uniform(min(0.0, rows - height / scale), max(0.0, rows - height / scale))
    return cut(scene, left, top, scale, size=(width, height), rng=rng)


def cut(
    scene: Scene,
    left: float,
    top: float,
    scale: float,
    *,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Sample:
    """Return a window at (left, top) of a scene, scaled to `size`, mirrored half the time."""
    width, height = size
    rows, columns = scene.picture.shape[:2]
    canvas = Image.new("RGB", size, _colour(rng))
    x1, y1 = max(0.0, left), max(0.0, top)
    x2, y2 = min(float(columns), left + width / scale), min(float(rows), top + height / scale)
    target = (round((x1 - left) * scale), round((y1 - top) * scale))
    pasted_size = (round((x2 - x1) * scale), round((y2 - y1) * scale))
    if min(pasted_size) >= 1 and x2 - x1 >= 1 and y2 - y1 >= 1:
        method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR
        canvas.paste(
            Image.fromarray(scene.picture).resize(pasted_size, method, (x1, y1, x2, y2)), target
        )
    faces = scene.faces.moved(scale, left, top).inside(width, height)
    if rng.random() < 0.5:
        return canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT), faces.mirrored(width)
    return canvas, faces


def portraits(material: Material, width: int, height: int, rng: np.random.Generator) -> Sample:
    """Paste one to three portraits on a picture without a face."""
    canvas, _ = empty_part(material, width, height, rng)
    if rng.random() < 0.3:
        canvas = Image.new("RGB", (width, height), _colour(rng))
    placed: list[Faces] = []
    for _ in range(int(rng.integers(1, 4))):
        portrait = material.portraits[rng.integers(len(material.portraits))]
        picture = Image.fromarray(decoded(portrait.encoded))
        box = np.array([face_box(portrait.landmarks)])
        faces = Faces(box, portrait.landmarks[None], np.ones(1, np.bool_))
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            faces = faces.mirrored(picture.width)
        # Tight crops as well as full portraits.
        rim = rng.uniform(0, 0.12) * picture.width
        side = picture.width - 2 * rim
        size = int(np.exp(rng.uniform(np.log(24), np.log(1.3 * min(width, height)))))
        picture = picture.resize(
            (size, size), Image.Resampling.BILINEAR, (rim, rim, rim + side, rim + side)
        )
        faces = faces.moved(size / side, rim, rim)
        x, y = (int(rng.uniform(min(0, n - size), max(0, n - size) + 1)) for n in (width, height))
        faces = faces.moved(1.0, -x, -y)
        if any(_overlap(faces.boxes[0], other) for one in placed for other in one.boxes):
            continue
        mask = _oval(size, rng) if rng.random() < 0.35 else None
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.3))
        canvas.paste(picture, (x, y), mask)
        placed.append(faces)
    return canvas, concatenate_faces(placed).inside(width, height)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Return whether two boxes touch, with the rim that a portrait has around its face."""
    rim = 0.3 * (a[2:] - a[:2] + b[2:] - b[:2]) / 2
    return bool((np.maximum(a[:2], b[:2]) - rim < np.minimum(a[2:], b[2:]) + rim).all())


def _oval(side: int, rng: np.random.Generator) -> Image.Image:
    """Return a mask, oval to nearly square, with a soft edge so that the seam is no cue."""
    line = (np.arange(side) + 0.5) / side - 0.5
    power = float(rng.choice([2.0, 2.5, 4.0, 8.0]))
    across = np.abs(line / rng.uniform(0.38, 0.5)) ** power
    down = np.abs(line / rng.uniform(0.44, 0.5)) ** power
    radius = (across[None] + down[:, None]) ** (1 / power)
    alpha = np.clip((1.0 - radius) / rng.uniform(0.02, 0.25), 0, 1)
    return Image.fromarray((alpha * 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    kind = rng.random()
    if kind < 0.4:
        return (0, 0, 0)
    if kind < 0.6:
        return (255, 255, 255)
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def mosaic(material: Material, side: int, rng: np.random.Generator) -> Sample:
    """Return four parts of different pictures, side by side and of random sizes."""
    canvas = Image.new("RGB", (side, side))
    placed: list[Faces] = []
    across = int(rng.integers(PATCH, side - PATCH))
    down = int(rng.integers(PATCH, side - PATCH))
    for x, width in ((0, across), (across, side - across)):
        for y, height in ((0, down), (down, side - down)):
            make = scene_part if rng.random() < 0.6 else empty_part
            picture, faces = make(material, width, height, rng)
            canvas.paste(picture, (x, y))
            placed.append(faces.moved(1.0, -x, -y))
    return canvas, concatenate_faces(placed)


# ------------------------------------------------------------------------------------------- damage


def damage(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture with the damage of a recording: optics, light, noise, compression."""
    if rng.random() < 0.12:
        image = image.convert("L").convert("RGB")  # infrared and old cameras
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.5, 1.4))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.65, 1.3))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.3, 1.5))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.4)))
    if rng.random() < 0.2:
        factor = rng.uniform(1.2, 2.0)
        small = image.resize(
            (round(image.width / factor), round(image.height / factor)), Image.Resampling.BILINEAR
        )
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        noise = rng.normal(0, rng.uniform(2, 12), (image.height, image.width, 3)).astype(np.float32)
        image = Image.fromarray(
            np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8)
        )
    if rng.random() < 0.1:
        _write_clock(image, rng)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(20, 90)))
        image = Image.fromarray(decoded(buffer))
    return image


def _write_clock(image: Image.Image, rng: np.random.Generator) -> None:
    """Write a line of digits into the picture, as recorders do."""
    digits = "".join(str(d) for d in rng.integers(0, 10, 12))
    text = f"{digits[:2]}-{digits[2:4]}-{digits[4:6]} {digits[6:8]}:{digits[8:10]}:{digits[10:]}"
    at = (int(rng.integers(image.width // 2)), int(rng.integers(image.height - 12)))
    ImageDraw.Draw(image).text(at, text, fill=_colour(rng))


def make_sample(material: Material, side: int, rng: np.random.Generator) -> Sample:
    """Return a random training picture of side×side and its faces."""
    kind = rng.random()
    if kind < 0.40:
        image, faces = scene_part(material, side, side, rng)
    elif kind < 0.66:
        image, faces = mosaic(material, side, rng)
    elif kind < 0.80:
        image, faces = portraits(material, side, side, rng)
    else:
        image, faces = empty_part(material, side, side, rng)
    return damage(image, rng), faces


class Stream(torch.utils.data.IterableDataset[tuple[Tensor, Faces]]):
    """Yields samples without end; each worker draws its own."""

    def __init__(self, material: Material, side: int, seed: int) -> None:
        self.material, self.side, self.seed = material, side, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Faces]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            image, faces = make_sample(self.material, self.side, rng)
            yield torch.from_numpy(np.array(image)), faces
