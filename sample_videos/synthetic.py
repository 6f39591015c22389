"""Makes the sample clips, their ground truth and the mugshots.  Run: .venv/bin/python sample_videos/synthetic.py

The faces in `people/` belong to nobody (`people.py` drew them). They get heads and bodies, and walk through a drawn
corridor towards a camera. Everything follows from the numbers below: the same package versions give the same bytes.

Units: metres in the corridor (x to the right, y down from the camera, z away from it); inside a figure the face height
(brow to chin) is 1 and the origin is the centre of the face box.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Point = tuple[float, float]
Colour = tuple[int, int, int]

HERE = Path(__file__).parent
FACE_METRES = 0.21
FEET = 7.6  # from the face box's centre down to the soles, in face heights
HALF_CORRIDOR, CEILING, FLOOR, END = 2.0, -0.9, 0.66 + FEET * FACE_METRES, 14.0
HEAD_HEIGHT = FLOOR - FEET * FACE_METRES  # of the face's centre, below the camera


# ------------------------------------------------------------------------------------------------ people


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist, and the clothes to wear."""

    name: str
    coat: Colour
    trousers: Colour
    collar: Colour

    def face(self, which: str) -> Bytes:
        """128×128 RGB, the canonical frame: `gallery`, `walk-1` or `walk-2`."""
        with Image.open(HERE / "people" / f"{self.name}-{which}.png") as picture:
            return np.asarray(picture.convert("RGB"))


ADA = Person("ada", (164, 84, 52), (58, 60, 70), (24, 22, 26))
BRUNO = Person("bruno", (30, 31, 40), (26, 27, 34), (196, 196, 200))
CARLA = Person("carla", (64, 96, 72), (40, 42, 52), (190, 178, 160))
DARIO = Person("dario", (120, 118, 112), (62, 52, 44), (40, 60, 92))
EMIL = Person("emil", (52, 72, 108), (74, 70, 62), (210, 208, 204))
FIONA = Person("fiona", (150, 132, 60), (44, 46, 54), (60, 34, 40))
GWEN = Person("gwen", (110, 60, 88), (40, 40, 44), (220, 214, 206))
HUGO = Person("hugo", (70, 62, 52), (36, 40, 48), (150, 40, 40))
PEOPLE = (ADA, BRUNO, CARLA, DARIO, EMIL, FIONA, GWEN, HUGO)
ENROLLED = (ADA, BRUNO, CARLA, DARIO, GWEN, HUGO)
"""Emil and Fiona walk, but are in no gallery; Gwen and Hugo are in the gallery, but walk nowhere."""


def face_box(landmarks: Array) -> tuple[Array, float, float]:
    """Centre, half width and half height of the face, brow to chin and ear to ear, from five landmarks."""
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    reach = float(np.hypot(*(mouth - eyes)))
    return eyes + 0.30 * (mouth - eyes), 1.05 * reach, 1.32 * reach


@dataclass(frozen=True)
class Head:
    """A drawn head around a face: hair above and beside it, a neck below."""

    picture: Bytes  # H×W×3, RGB
    matte: Bytes  # H×W
    landmarks: Array  # eyes, nose tip, mouth corners; left in the picture first


CANVAS, CORNER = (208, 176), (24, 36)  # rows, columns; where the face's own picture begins: x, y
LANDMARKS = ((0.335, 0.483), (0.650, 0.478), (0.495, 0.650), (0.375, 0.815), (0.625, 0.815))


def head(face: Bytes) -> Head:
    """A face picture ends at the brow and the chin: what it lacks is drawn in its own colours."""
    left, top = CORNER
    middle = (left + 63, top + 64)
    skin = np.median(face[70:92, 36:92].reshape(-1, 3), axis=0)
    brow = np.median(face[0:10, 36:92].reshape(-1, 3), axis=0)
    hair = np.minimum(brow, 0.55 * skin)  # a bright background is no hair

    def ellipse(centre: tuple[int, int], axes: tuple[int, int]) -> Bytes:
        shape = np.zeros(CANVAS, np.uint8)
        cv2.ellipse(shape, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
        return shape

    hairdo = ellipse((middle[0], middle[1] - 14), (54, 66))
    oval = ellipse((middle[0], middle[1] + 2), (46, 61))
    neck = np.zeros(CANVAS, np.uint8)
    corners = ((-25, 30), (25, 30), (29, 110), (-29, 110))
    cv2.fillPoly(neck, [np.array(corners, np.int32) + np.array(middle, np.int32)], 255, cv2.LINE_AA)
    neck[middle[1] + 96 :] = 0

    picture = np.empty((*CANVAS, 3), np.float32)
    picture[:] = hair
    for paint, shape, soft in ((0.72 * skin, neck, 2.0), (hair, hairdo, 1.5)):
        alpha = cv2.GaussianBlur(shape, (0, 0), soft).astype(np.float32)[..., None] / 255
        picture = picture * (1 - alpha) + paint * alpha
    placed = np.zeros((*CANVAS, 3), np.float32)
    placed[top : top + 128, left : left + 128] = face
    alpha = cv2.GaussianBlur(oval, (0, 0), 4).astype(np.float32)[..., None] / 255
    alpha[: top + 1] = alpha[top + 127 :] = 0
    picture = picture * (1 - alpha) + placed * alpha
    matte = np.maximum(np.maximum(hairdo, oval), neck)
    landmarks = np.array(LANDMARKS, np.float32) * 128 + np.array(CORNER, np.float32)
    return Head(np.clip(picture, 0, 255).astype(np.uint8), matte, landmarks)


class CutOut:
    """A head with a soft edge: RGB premultiplied with its matte, at falling sizes so that far heads do not alias."""

    def __init__(self, head: Head) -> None:
        self.landmarks = head.landmarks
        self.centre, _, half = face_box(self.landmarks)
        self.height = 2 * half
        alpha = cv2.GaussianBlur(head.matte, (0, 0), 0.012 * self.height).astype(np.float32)[..., None] / 255
        rgba = np.concatenate([head.picture.astype(np.float32) * alpha, alpha * 255], -1)
        self.sizes = [rgba]
        while min(self.sizes[-1].shape[:2]) > 24:
            last = self.sizes[-1]
            self.sizes.append(cv2.resize(last, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))

    def place(
        self, shape: tuple[int, int], centre: Point, height: float, turn: float, mirror: bool
    ) -> tuple[Array, Array]:
        """The head, its face `height` px tall, on an empty picture (H×W×4, premultiplied, 0–255), and its landmarks."""
        scale = height / self.height
        level = int(np.clip(np.floor(-np.log2(max(scale, 1e-6))), 0, len(self.sizes) - 1))
        cos, sin, flip = scale * np.cos(turn), scale * np.sin(turn), -1.0 if mirror else 1.0
        linear = np.array([[cos * flip, -sin], [sin * flip, cos]], np.float32)
        shift = np.array(centre, np.float32) - linear @ self.centre
        source = self.sizes[level]
        step = np.array(
            [self.sizes[0].shape[1] / source.shape[1], self.sizes[0].shape[0] / source.shape[0]], np.float32
        )
        # A pixel's middle is at its index; the middle of a halved pixel lies between the two it came from.
        matrix = np.concatenate([linear * step, (shift + linear @ ((step - 1) / 2))[:, None]], 1)
        picture = cv2.warpAffine(source, matrix, shape[::-1], flags=cv2.INTER_LINEAR)
        landmarks = self.landmarks @ linear.T + shift
        if mirror:
            landmarks = landmarks[[1, 0, 2, 4, 3]]
        return picture, landmarks


# ------------------------------------------------------------------------------------------------ the scene


@dataclass(frozen=True)
class Camera:
    width: int
    height: int
    focal: float  # px
    horizon: float  # px from the top

    def project(self, x: float, y: float, z: float) -> Point:
        return self.width / 2 + self.focal * x / z, self.horizon + self.focal * y / z


def noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> Array:
    """Smooth noise with standard deviation 1 and spots of about `grain` px, repeating at its edges."""
    field = rng.standard_normal(shape).astype(np.float32)
    if grain:
        wide = np.pad(field, int(4 * grain) + 1, mode="wrap")
        edge = int(4 * grain) + 1
        field = cv2.GaussianBlur(wide, (0, 0), grain)[edge:-edge, edge:-edge]
    return (field / field.std()).astype(np.float32)


def corridor(camera: Camera, seed: int, wall: tuple[int, int, int], floor: tuple[int, int, int]) -> Array:
    """The empty corridor as the camera sees it, one ray per quarter pixel: H×W×3, RGB, 0–255."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[0 : camera.height * 2, 0 : camera.width * 2].astype(np.float32)
    dx = (xs / 2 - 0.25 - camera.width / 2) / camera.focal
    dy = (ys / 2 - 0.25 - camera.horizon) / camera.focal
    side = HALF_CORRIDOR / np.maximum(np.abs(dx), 1e-6)
    level = np.where(dy > 0, FLOOR, -CEILING) / np.maximum(np.abs(dy), 1e-6)
    z = np.minimum(np.minimum(side, level), END)
    x, y = dx * z, dy * z
    at_side, at_level, at_end = z == side, (z == level) & (z < side), z == END

    def near(value: Array, period: float, half: float) -> Array:
        """1 on lines of half width `half` that come every `period` metres, softened with distance."""
        away = np.abs((value + period / 2) % period - period / 2)
        return np.clip((half - away) / (0.002 * z) + 0.5, 0, 1)

    def sample(field: Array, u: Array, v: Array, per_metre: float) -> Array:
        rows, columns = field.shape
        return field[(v * per_metre).astype(int) % rows, (u * per_metre).astype(int) % columns]

    fine, coarse = noise(rng, (512, 512), 1.5), noise(rng, (512, 512), 24)
    u = np.where(at_side, z, x) + 50
    v = np.where(at_level, z, y) + 50
    grain = sample(fine, u, v, 60) * np.clip(4 / z, 0.15, 1) * 1.5 + sample(coarse, u, v, 60) * 4

    picture = np.empty((*z.shape, 3), np.float32)
    picture[:] = wall
    is_floor, is_ceiling = at_level & (dy > 0), at_level & (dy <= 0)
    picture[is_floor] = floor
    picture[is_ceiling] = (206, 206, 200)
    tile = np.maximum(near(x, 0.5, 0.006), near(z, 0.5, 0.006))
    checker = ((np.floor(x / 0.5) + np.floor(z / 0.5)) % 2) * 7
    picture += np.where(is_floor, checker - 40 * tile, 0)[..., None]
    picture -= np.where(is_ceiling, 26 * np.maximum(near(x, 0.6, 0.01), near(z, 0.6, 0.01)), 0)[..., None]

    # Walls: a skirting board, a hand rail, and doors with frames every four metres, on the two sides in turn.
    picture[(at_side | at_end) & (y > FLOOR - 0.12)] = np.array(wall) * 0.45
    picture[at_side & (np.abs(y - (FLOOR - 1.0)) < 0.05)] = (122, 98, 74)
    along = (z + np.where(x > 0, 2.0, 0.0)) % 4 - 2
    tall = y > FLOOR - 2.1
    picture[at_side & (np.abs(along) < 0.56) & tall] = (226, 224, 214)
    leaf = at_side & (np.abs(along) < 0.49) & (y > FLOOR - 2.03)
    picture[leaf] = (112, 84, 62)
    picture[leaf & (np.abs(along) < 0.16) & (np.abs(y - (FLOOR - 1.55)) < 0.2)] = (168, 186, 190)
    picture[leaf & (np.abs(along - 0.38) < 0.05) & (np.abs(y - (FLOOR - 1.02)) < 0.02)] = (208, 208, 204)
    picture[at_end & (np.abs(x) < 0.86) & tall] = (226, 224, 214)
    picture[at_end & (np.abs(x) < 0.8) & (np.abs(x) > 0.02) & (y > FLOOR - 2.04)] = (120, 134, 140)
    picture += np.where(is_ceiling, 0, grain)[..., None]

    # Light: panels in the ceiling every three metres, brighter walls near them, corners and distance darker.
    light = 0.80 + 0.14 * np.cos(2 * np.pi * z / 3) * np.clip(3 / z + 0.3, 0, 1) - 0.012 * z
    light = light - 0.10 * np.exp(-np.abs(np.abs(x) - HALF_CORRIDOR) / 0.25) * at_level
    light = light - 0.10 * np.exp(-np.abs(FLOOR - y) / 0.25) * (at_side | at_end) + 0.05 * dx
    picture *= light[..., None]
    panel = is_ceiling & (np.abs(x) < 0.3) & (np.abs((z + 1.5) % 3 - 1.5) < 0.6)
    picture[panel] = (250, 250, 244)
    return cv2.resize(np.clip(picture, 0, 255), (camera.width, camera.height), interpolation=cv2.INTER_AREA)


def body(person: Person, shape: tuple[int, int], centre: Point, unit: float, step: float) -> tuple[Bytes, Bytes]:
    """Clothes and legs at twice the size, `step` in turns of the walk: H×W×3 RGB and H×W coverage."""
    rows, columns = 2 * shape[0], 2 * shape[1]
    colour, cover = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns), np.uint8)
    swing = np.sin(2 * np.pi * step)

    def points(*pairs: Point) -> NDArray[np.int32]:
        return np.round((np.array(pairs) * unit + np.array(centre)) * 2 * 16).astype(np.int32)

    def fill(paint: tuple[int, int, int], *pairs: Point) -> None:
        for target, value in ((colour, paint), (cover, 255)):
            cv2.fillPoly(target, [points(*pairs)], value, cv2.LINE_8, 4)

    def limb(paint: tuple[int, int, int], start: Point, end: Point, thick: float) -> None:
        (a, b) = points(start, end)
        for target, value in ((colour, paint), (cover, 255)):
            cv2.line(target, tuple(a), tuple(b), value, max(1, round(2 * unit * thick)), cv2.LINE_8, 4)

    shade = tuple(int(0.8 * c) for c in person.coat)
    for side in (-1, 1):  # legs, then shoes; the foot in the air looks shorter from the front
        lift = 0.45 * max(0.0, side * swing)
        limb(person.trousers, (0.36 * side, 3.4), (0.36 * side, FEET - 0.35 - lift), 0.62)
        limb((26, 22, 20), (0.36 * side, FEET - 0.18 - lift), (0.42 * side, FEET - 0.14 - lift), 0.32)
    for side in (-1, 1):
        hand = (1.10 * side + 0.04 * swing, 3.75 + 0.12 * side * swing)
        limb((186, 140, 116), hand, (hand[0], hand[1] + 0.2), 0.26)
        limb(shade, (0.92 * side, 1.30), hand, 0.42)
    fill(
        person.coat,
        (-0.36, 0.66), (0.36, 0.66), (0.95, 0.98), (1.12, 1.25), (0.92, 2.4), (0.84, 4.1), (-0.84, 4.1), (-0.92, 2.4),
        (-1.12, 1.25), (-0.95, 0.98),
    )  # fmt: skip
    fill(person.collar, (-0.40, 0.64), (0.40, 0.64), (0.42, 0.86), (0.0, 1.06), (-0.42, 0.86))
    limb(shade, (0.0, 1.1), (0.0, 4.0), 0.03)
    limb(shade, (-0.8, 1.7), (-0.74, 3.9), 0.05)
    limb(shade, (0.8, 1.7), (0.74, 3.9), 0.05)
    return colour, cover


@dataclass(frozen=True)
class Walk:
    """Where a person is at each second: the face height in px grows as they come nearer."""

    person: Person
    x: Callable[[float], float]
    z: Callable[[float], float]
    mirror: bool
    phase: float
    face: str = "walk-1"


@dataclass
class Layer:
    """One person in one frame."""

    name: str
    z: float
    picture: Array  # H×W×3, premultiplied
    alpha: Array  # H×W
    box: tuple[float, float, float, float]


def layer(walk: Walk, cut: CutOut, camera: Camera, seconds: float) -> Layer:
    x, z = walk.x(seconds), walk.z(seconds)
    step = 0.9 * seconds + walk.phase
    unit = camera.focal * FACE_METRES / z
    cx, cy = camera.project(x + 0.02 * np.sin(2 * np.pi * step), HEAD_HEIGHT - 0.02 * np.cos(4 * np.pi * step), z)
    turn = np.deg2rad(3.5) * np.sin(2 * np.pi * (0.45 * seconds + walk.phase))
    shape = (camera.height, camera.width)

    colour, cover = body(walk.person, shape, (cx, cy), unit, step)
    size = (camera.width, camera.height)
    premultiplied = cv2.resize(colour * (cover > 0)[..., None].astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    across = (np.arange(camera.width, dtype=np.float32) - cx) / unit
    picture = premultiplied.astype(np.float32) * (1.06 - 0.28 * np.clip(across**2, 0, 1.6))[None, :, None]

    head, landmarks = cut.place(shape, (cx, cy), unit, turn, walk.mirror)
    head_alpha = head[..., 3] / 255
    picture = picture * (1 - head_alpha[..., None]) + head[..., :3]
    alpha = alpha + head_alpha * (1 - alpha)
    # Under a ceiling panel a face is bright, between two it is darker.
    picture *= 0.88 + 0.12 * np.cos(2 * np.pi * z / 3)

    middle, half_width, half_height = face_box(landmarks)
    box = (middle[0] - half_width, middle[1] - half_height, middle[0] + half_width, middle[1] + half_height)
    return Layer(walk.person.name, z, picture, alpha, tuple(float(v) for v in box))  # type: ignore[arg-type]


def shadow(camera: Camera, x: float, z: float) -> Array:
    """How much light the floor keeps around a person's feet: H×W."""
    small = np.zeros((camera.height // 4, camera.width // 4), np.float32)
    cx, cy = camera.project(x, FLOOR, z)
    wide = camera.focal * 0.38 / z
    cv2.ellipse(small, (round(cx / 4), round(cy / 4)), (round(wide / 4), round(wide / 14)), 0, 0, 360, 0.45, -1)
    return 1 - cv2.resize(cv2.GaussianBlur(small, (0, 0), max(1.0, wide / 24)), (camera.width, camera.height))


def hidden(box: tuple[float, float, float, float], nearer: Array) -> float:
    """The part of a face box that a nearer person covers or that lies outside the picture."""
    height, width = nearer.shape
    x1, y1, x2, y2 = box
    columns = np.clip(np.minimum(np.arange(width) + 1, x2) - np.maximum(np.arange(width), x1), 0, 1)
    rows = np.clip(np.minimum(np.arange(height) + 1, y2) - np.maximum(np.arange(height), y1), 0, 1)
    inside = rows[:, None] * columns[None, :]
    seen = float((inside * (1 - nearer)).sum())
    return 1 - seen / ((x2 - x1) * (y2 - y1))


# ------------------------------------------------------------------------------------------------ clips


@dataclass(frozen=True)
class Clip:
    name: str
    fps: int
    seconds: float
    camera: Camera
    walks: tuple[Walk, ...]
    wall: tuple[int, int, int]
    floor: tuple[int, int, int]
    light: float  # 1 is day
    blur: float  # of the lens, px
    grain: float  # of the sensor, standard deviation out of 255
    crf: int
    seed: int


def between(seconds: float, start: float, end: float, a: float, b: float) -> float:
    """From a to b while the time goes from start to end, with a soft start and stop."""
    t = min(max((seconds - start) / (end - start), 0.0), 1.0)
    return a + (b - a) * t * t * (3 - 2 * t)


def clips() -> tuple[Clip, ...]:
    corridor_clip = Clip(
        name="corridor",
        fps=25,
        seconds=10.0,
        camera=Camera(1280, 720, 900, 120),
        walks=(
            # Ada comes from far on the left to near on the right. Bruno drifts the other way and passes behind her;
            # Emil overtakes both on the left; Carla stays far, and is hidden by Bruno for a moment.
            Walk(ADA, lambda s: between(s, 2.0, 7.5, -0.85, 0.55), lambda s: 9.6 - 0.57 * s, False, 0.0),
            Walk(BRUNO, lambda s: between(s, 1.0, 8.0, 1.05, -0.75), lambda s: 8.8 - 0.40 * s, False, 0.4),
            Walk(EMIL, lambda s: between(s, 0.0, 9.0, -0.2, -1.35), lambda s: 11.2 - 0.66 * s, False, 0.7),
            Walk(CARLA, lambda s: between(s, 3.0, 9.5, 1.35, 0.55), lambda s: 11.6 - 0.50 * s, False, 0.2),
        ),
        wall=(202, 198, 180),
        floor=(120, 122, 124),
        light=1.0,
        blur=0.7,
        grain=2.2,
        crf=24,
        seed=1,
    )
    entrance = Clip(
        name="entrance",
        fps=15,
        seconds=8.0,
        camera=Camera(640, 480, 500, 84),
        walks=(
            # Dario comes near and leaves on the right; Fiona crosses behind him.
            Walk(
                DARIO,
                lambda s: between(s, 0.5, 4.0, 0.45, -0.1) + between(s, 6.0, 8.2, 0.0, 1.7),
                lambda s: 5.4 - 0.52 * min(s, 6.2),
                False,
                0.15,
            ),
            Walk(FIONA, lambda s: between(s, 1.0, 6.0, -0.85, 0.75), lambda s: 5.9 - 0.42 * s, False, 0.6),
        ),
        wall=(178, 190, 198),
        floor=(112, 104, 94),
        light=1.0,
        blur=0.8,
        grain=3.0,
        crf=24,
        seed=2,
    )
    night = Clip(
        name="night",
        fps=20,
        seconds=8.0,
        camera=Camera(960, 540, 700, 96),
        walks=(
            # Bruno and Fiona again, on another camera in poor light.
            Walk(BRUNO, lambda s: between(s, 1.0, 6.0, -0.7, 0.6), lambda s: 7.8 - 0.58 * s, False, 0.3, "walk-2"),
            Walk(FIONA, lambda s: between(s, 2.0, 7.0, 0.8, -0.5), lambda s: 8.6 - 0.55 * s, False, 0.8, "walk-2"),
        ),
        wall=(150, 156, 172),
        floor=(96, 98, 104),
        light=0.62,
        blur=0.9,
        grain=6.0,
        crf=28,
        seed=3,
    )
    return corridor_clip, entrance, night


def render(clip: Clip) -> dict[str, object]:
    """Writes the clip; returns its ground truth."""
    rng = np.random.default_rng(clip.seed)
    camera = clip.camera
    scene = corridor(camera, clip.seed, clip.wall, clip.floor)
    cuts = {walk.person.name: CutOut(head(walk.person.face(walk.face))) for walk in clip.walks}
    truth: dict[str, dict[str, object]] = {}
    with av.open(str(HERE / f"{clip.name}.mp4"), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        stream = out.add_stream("libx264", rate=clip.fps, options={"crf": str(clip.crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = camera.width, camera.height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        stream.codec_context.gop_size = 2 * clip.fps
        for index in range(round(clip.seconds * clip.fps)):
            seconds = index / clip.fps
            frame = scene.copy()
            layers = [layer(walk, cuts[walk.person.name], camera, seconds) for walk in clip.walks]
            for walk in clip.walks:
                frame *= shadow(camera, walk.x(seconds), walk.z(seconds))[..., None]
            here: dict[str, object] = {}
            layers.sort(key=lambda one: -one.z)
            for order, one in enumerate(layers):
                frame = frame * (1 - one.alpha[..., None]) + one.picture
                nearer = np.zeros_like(one.alpha)
                for other in layers[order + 1 :]:
                    nearer = nearer + other.alpha * (1 - nearer)
                fraction = hidden(one.box, nearer)
                x1, y1, x2, y2 = one.box
                clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(camera.width)), min(y2, float(camera.height)))
                if clipped[0] < clipped[2] and clipped[1] < clipped[3]:
                    here[one.name] = {"box": [round(v, 1) for v in clipped], "occluded": round(max(fraction, 0.0), 3)}
            truth[str(index)] = here
            # The camera: exposure that breathes a little, a soft lens, a noisy sensor.
            frame = cv2.GaussianBlur(frame, (0, 0), clip.blur) * (clip.light + 0.03 * np.sin(2 * np.pi * seconds / 5.3))
            frame += rng.standard_normal(frame.shape, dtype=np.float32) * clip.grain
            picture = np.clip(np.round(frame), 0, 255).astype(np.uint8)
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            out.mux(stream.encode(rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")))
        out.mux(stream.encode(None))
    return {
        "fps": clip.fps,
        "width": camera.width,
        "height": camera.height,
        "people": sorted(cuts),
        "frames": truth,
    }


def mugshot(person: Person) -> Bytes:
    """Head and shoulders in front of a grey wall, 320×400."""
    shape, unit = (400, 320), 168.0
    colour, cover = body(person, shape, (160, 170), unit, 0.0)
    size = shape[::-1]
    alpha = cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    picture = 178 + 14 * np.linspace(1, -1, shape[0], dtype=np.float32)[:, None, None].repeat(shape[1], 1).repeat(3, 2)
    picture = picture * (1 - alpha) + cv2.resize(colour, size, interpolation=cv2.INTER_AREA) * alpha
    portrait, _ = CutOut(head(person.face("gallery"))).place(shape, (160, 170), unit, 0.0, False)
    picture = picture * (1 - portrait[..., 3:] / 255) + portrait[..., :3]
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def main() -> None:
    (HERE / "mugshots").mkdir(exist_ok=True)
    for person in ENROLLED:
        Image.fromarray(mugshot(person)).save(HERE / "mugshots" / f"{person.name}.jpg", quality=92)
    truth = {f"{clip.name}.mp4": render(clip) for clip in clips()}
    text = json.dumps(truth, indent=1)
    text = re.sub(r"\n {4,}|\n {3}(?=\})", " ", text)  # one line for each frame
    (HERE / "ground_truth.json").write_text(text + "\n")
    for file in sorted(HERE.rglob("*")):
        if file.suffix in {".mp4", ".jpg", ".json"}:
            print(f"{file.relative_to(HERE)}  {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
