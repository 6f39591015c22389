"""What the sample clips share: heads on drawn bodies that walk through a drawn corridor towards a camera.

Everything follows from numbers: the same package versions give the same bytes.

Units: metres in the corridor (x to the right, y down from the camera, z away from it); inside a figure the face height
(brow to chin) is 1 and the origin is the centre of the face box.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Array = NDArray[np.floating]
Bytes = NDArray[np.uint8]
Point = tuple[float, float]
Colour = tuple[int, int, int]

FACE_METRES = 0.21
FEET = 7.6  # from the face box's centre down to the soles, in face heights
HALF_CORRIDOR, CEILING, FLOOR, END = 2.0, -0.9, 0.66 + FEET * FACE_METRES, 14.0
HEAD_HEIGHT = FLOOR - FEET * FACE_METRES  # of the face's centre, below the camera


# ------------------------------------------------------------------------------------------------ people


@dataclass(frozen=True)
class Person:
    """The clothes that somebody wears."""

    name: str
    coat: Colour
    trousers: Colour
    collar: Colour


@dataclass(frozen=True)
class Head:
    picture: Bytes  # H×W×3, RGB
    matte: Array  # H×W×1, 0 to 1
    landmarks: Array  # eyes, nose tip, mouth corners; left in the picture first


def face_box(landmarks: Array) -> tuple[Array, float, float]:
    """Centre, half width and half height of the face, brow to chin and ear to ear, from five landmarks."""
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    reach = float(np.hypot(*(mouth - eyes)))
    return eyes + 0.30 * (mouth - eyes), 1.05 * reach, 1.32 * reach


class CutOut:
    """A head with a soft edge: RGB premultiplied with its matte, at falling sizes so that far heads do not alias."""

    def __init__(self, head: Head) -> None:
        self.landmarks = head.landmarks
        self.centre, _, half = face_box(self.landmarks)
        self.height = 2 * half
        self.sizes = [
            np.concatenate([head.picture.astype(np.float32) * head.matte, head.matte * 255], -1)
        ]
        while min(self.sizes[-1].shape[:2]) > 64:
            last = self.sizes[-1]
            self.sizes.append(cv2.resize(last, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))

    def place(
        self, shape: tuple[int, int], centre: Point, height: float, turn: float, *, mirror: bool
    ) -> tuple[Array, Array]:
        """The head, its face `height` px tall, on an empty picture (H×W×4, premultiplied, 0–255), and its landmarks."""
        scale = height / self.height
        level = int(np.clip(np.floor(-np.log2(max(scale, 1e-6))), 0, len(self.sizes) - 1))
        cos, sin, flip = scale * np.cos(turn), scale * np.sin(turn), -1.0 if mirror else 1.0
        linear = np.array([[cos * flip, -sin], [sin * flip, cos]], np.float32)
        shift = np.array(centre, np.float32) - linear @ self.centre
        source = self.sizes[level]
        step = np.array(
            [self.sizes[0].shape[1] / source.shape[1], self.sizes[0].shape[0] / source.shape[0]],
            np.float32,
        )
        # A pixel's middle is at its index; the middle of a halved pixel lies between the two it came from.
        matrix = np.concatenate([linear * step, (shift + linear @ ((step - 1) / 2))[:, None]], 1)
        placed = cv2.warpAffine(source, matrix, shape[::-1], flags=cv2.INTER_LINEAR)
        landmarks = self.landmarks @ linear.T + shift
        if mirror:
            landmarks = landmarks[[1, 0, 2, 4, 3]]
        return np.asarray(placed, np.float32), landmarks


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
        smooth = cv2.GaussianBlur(wide, (0, 0), grain)
        field = np.asarray(smooth[edge:-edge, edge:-edge], np.float32)
    return (field / field.std()).astype(np.float32)


def corridor(
    camera: Camera, seed: int, wall: tuple[int, int, int], floor: tuple[int, int, int]
) -> Array:
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
    picture -= np.where(is_ceiling, 26 * np.maximum(near(x, 0.6, 0.01), near(z, 0.6, 0.01)), 0)[
        ..., None
    ]

    # Walls: a skirting board, a hand rail, and doors with frames every four metres, on the two sides in turn.
    picture[(at_side | at_end) & (y > FLOOR - 0.12)] = np.array(wall) * 0.45
    picture[at_side & (np.abs(y - (FLOOR - 1.0)) < 0.05)] = (122, 98, 74)
    along = (z + np.where(x > 0, 2.0, 0.0)) % 4 - 2
    tall = y > FLOOR - 2.1
    picture[at_side & (np.abs(along) < 0.56) & tall] = (226, 224, 214)
    leaf = at_side & (np.abs(along) < 0.49) & (y > FLOOR - 2.03)
    picture[leaf] = (112, 84, 62)
    picture[leaf & (np.abs(along) < 0.16) & (np.abs(y - (FLOOR - 1.55)) < 0.2)] = (168, 186, 190)
    picture[leaf & (np.abs(along - 0.38) < 0.05) & (np.abs(y - (FLOOR - 1.02)) < 0.02)] = (
        208,
        208,
        204,
    )
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
    small = cv2.resize(
        np.clip(picture, 0, 255), (camera.width, camera.height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(small, np.float32)


def body(
    person: Person, shape: tuple[int, int], centre: Point, unit: float, *, step: float
) -> tuple[Bytes, Bytes]:
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
            cv2.line(
                target, tuple(a), tuple(b), value, max(1, round(2 * unit * thick)), cv2.LINE_8, 4
            )

    red, green, blue = person.coat
    shade = (int(0.8 * red), int(0.8 * green), int(0.8 * blue))
    for side in (-1, 1):  # legs, then shoes; the foot in the air looks shorter from the front
        lift = 0.45 * max(0.0, side * swing)
        limb(person.trousers, (0.36 * side, 3.4), (0.36 * side, FEET - 0.35 - lift), 0.62)
        limb(
            (26, 22, 20), (0.36 * side, FEET - 0.18 - lift), (0.42 * side, FEET - 0.14 - lift), 0.32
        )
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
    head: Head
    x: Callable[[float], float]
    z: Callable[[float], float]
    mirror: bool
    phase: float


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
    cx, cy = camera.project(
        x + 0.02 * np.sin(2 * np.pi * step), HEAD_HEIGHT - 0.02 * np.cos(4 * np.pi * step), z
    )
    turn = np.deg2rad(3.5) * np.sin(2 * np.pi * (0.45 * seconds + walk.phase))
    shape = (camera.height, camera.width)

    colour, cover = body(walk.person, shape, (cx, cy), unit, step=step)
    size = (camera.width, camera.height)
    premultiplied = cv2.resize(
        colour * (cover > 0)[..., None].astype(np.uint8), size, interpolation=cv2.INTER_AREA
    )
    alpha = cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    across = (np.arange(camera.width, dtype=np.float32) - cx) / unit
    picture = (
        premultiplied.astype(np.float32) * (1.06 - 0.28 * np.clip(across**2, 0, 1.6))[None, :, None]
    )

    head, landmarks = cut.place(shape, (cx, cy), unit, turn, mirror=walk.mirror)
    head_alpha = head[..., 3] / 255
    picture = picture * (1 - head_alpha[..., None]) + head[..., :3]
    alpha = alpha + head_alpha * (1 - alpha)
    # Under a ceiling panel a face is bright, between two it is darker.
    picture *= 0.88 + 0.12 * np.cos(2 * np.pi * z / 3)

    middle, half_width, half_height = face_box(landmarks)
    box = (
        middle[0] - half_width,
        middle[1] - half_height,
        middle[0] + half_width,
        middle[1] + half_height,
    )
    return Layer(walk.person.name, z, picture, alpha, tuple(float(v) for v in box))  # type: ignore[arg-type]


def shadow(camera: Camera, x: float, z: float) -> Array:
    """How much light the floor keeps around a person's feet: H×W."""
    small = np.zeros((camera.height // 4, camera.width // 4), np.float32)
    cx, cy = camera.project(x, FLOOR, z)
    wide = camera.focal * 0.38 / z
    cv2.ellipse(
        small,
        (round(cx / 4), round(cy / 4)),
        (round(wide / 4), round(wide / 14)),
        0,
        0,
        360,
        0.45,
        -1,
    )
    dark = cv2.resize(
        cv2.GaussianBlur(small, (0, 0), max(1.0, wide / 24)), (camera.width, camera.height)
    )
    return np.asarray(1 - dark, np.float32)


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


def between(seconds: float, start: float, end: float, a: float, *, b: float) -> float:
    """From a to b while the time goes from start to end, with a soft start and stop."""
    t = min(max((seconds - start) / (end - start), 0.0), 1.0)
    return a + (b - a) * t * t * (3 - 2 * t)


def render(clip: Clip, file: Path) -> dict[str, object]:
    """Writes the clip into the file; returns its ground truth."""
    rng = np.random.default_rng(clip.seed)
    camera = clip.camera
    scene = corridor(camera, clip.seed, clip.wall, clip.floor)
    cuts = {walk.person.name: CutOut(walk.head) for walk in clip.walks}
    truth: dict[str, dict[str, object]] = {}
    with av.open(str(file), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        stream = out.add_stream(
            "libx264", rate=clip.fps, options={"crf": str(clip.crf), "preset": "medium"}
        )
        stream.width, stream.height, stream.pix_fmt = camera.width, camera.height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = (
            Colorspace.ITU709,
            ColorRange.MPEG,
        )
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
                clipped = (
                    max(x1, 0.0),
                    max(y1, 0.0),
                    min(x2, float(camera.width)),
                    min(y2, float(camera.height)),
                )
                if clipped[0] < clipped[2] and clipped[1] < clipped[3]:
                    here[one.name] = {
                        "box": [round(v, 1) for v in clipped],
                        "occluded": round(max(fraction, 0.0), 3),
                    }
            truth[str(index)] = here
            # The camera: exposure that breathes a little, a soft lens, a noisy sensor.
            frame = cv2.GaussianBlur(frame, (0, 0), clip.blur) * (
                clip.light + 0.03 * np.sin(2 * np.pi * seconds / 5.3)
            )
            frame += rng.standard_normal(frame.shape, dtype=np.float32) * clip.grain
            picture = np.clip(np.round(frame), 0, 255).astype(np.uint8)
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            out.mux(
                stream.encode(
                    rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                )
            )
        out.mux(stream.encode(None))
    return {
        "fps": clip.fps,
        "width": camera.width,
        "height": camera.height,
        "people": sorted(cuts),
        "frames": truth,
    }


def write_all(clips: Sequence[Clip], folder: Path) -> None:
    """Every clip, and in ground_truth.json where its faces are."""
    truth = {f"{clip.name}.mp4": render(clip, folder / f"{clip.name}.mp4") for clip in clips}
    text = json.dumps(truth, indent=1)
    text = re.sub(r"\n {4,}|\n {3}(?=\})", " ", text)  # one line for each frame
    (folder / "ground_truth.json").write_text(text + "\n")
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".mp4", ".jpg", ".json"}:
            print(f"{file.relative_to(folder)}  {file.stat().st_size / 1024:.0f} KiB")
