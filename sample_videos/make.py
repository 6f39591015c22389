"""Makes clips, ground truth and mugshots of people who do not exist.  Run: .venv/bin/python sample_videos/make.py

The faces in `people/` belong to nobody: `people.py` draws them.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scene import Array, Bytes, Camera, Clip, CutOut, Head, Person, Walk, between, body, write_all

HERE = Path(__file__).parent

ADA = Person("ada", (164, 84, 52), (58, 60, 70), (24, 22, 26))
BRUNO = Person("bruno", (30, 31, 40), (26, 27, 34), (196, 196, 200))
CARLO = Person("carlo", (64, 96, 72), (40, 42, 52), (190, 178, 160))
DARIA = Person("daria", (120, 118, 112), (62, 52, 44), (40, 60, 92))
EMIL = Person("emil", (52, 72, 108), (74, 70, 62), (210, 208, 204))
FIONA = Person("fiona", (150, 132, 60), (44, 46, 54), (60, 34, 40))
GWEN = Person("gwen", (110, 60, 88), (40, 40, 44), (220, 214, 206))
HANNA = Person("hanna", (70, 62, 52), (36, 40, 48), (150, 40, 40))
PEOPLE = (ADA, BRUNO, CARLO, DARIA, EMIL, FIONA, GWEN, HANNA)
ENROLLED = (ADA, BRUNO, CARLO, DARIA, GWEN, HANNA)
"""Emil and Fiona walk, but are in no gallery; Gwen and Hanna are in the gallery, but walk nowhere."""

CANVAS, CORNER = (208, 176), (24, 36)  # rows, columns; where the face's own picture begins: x, y
LANDMARKS = ((0.335, 0.483), (0.650, 0.478), (0.495, 0.650), (0.375, 0.815), (0.625, 0.815))


def head(person: Person, which: str) -> Head:
    """Around the picture `gallery`, `walk-1` or `walk-2` of a person, 128×128 in the canonical frame.

    It ends at the brow and the chin: what it lacks is drawn in its own colours.
    """
    with Image.open(HERE / "people" / f"{person.name}-{which}.png") as opened:
        face: Bytes = np.asarray(opened.convert("RGB"))
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

    picture: Array = np.empty((*CANVAS, 3), np.float32)
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
    alpha = cv2.GaussianBlur(matte, (0, 0), 1.4).astype(np.float32)[..., None] / 255
    return Head(np.clip(picture, 0, 255).astype(np.uint8), alpha, landmarks)


def clips() -> tuple[Clip, ...]:
    corridor_clip = Clip(
        name="corridor",
        fps=25,
        seconds=10.0,
        camera=Camera(1280, 720, 900, 120),
        walks=(
            # Ada comes from far on the left to near on the right. Bruno drifts the other way and passes behind her;
            # Emil overtakes both on the left; Carlo stays far, and is hidden by Bruno for a moment.
            Walk(
                ADA,
                head(ADA, "walk-1"),
                lambda s: between(s, 2.0, 7.5, -0.85, b=0.55),
                lambda s: 9.6 - 0.57 * s,
                False,
                0.0,
            ),
            Walk(
                BRUNO,
                head(BRUNO, "walk-1"),
                lambda s: between(s, 1.0, 8.0, 1.05, b=-0.75),
                lambda s: 8.8 - 0.40 * s,
                False,
                0.4,
            ),
            Walk(
                EMIL,
                head(EMIL, "walk-1"),
                lambda s: between(s, 0.0, 9.0, -0.2, b=-1.35),
                lambda s: 11.2 - 0.66 * s,
                False,
                0.7,
            ),
            Walk(
                CARLO,
                head(CARLO, "walk-1"),
                lambda s: between(s, 3.0, 9.5, 1.35, b=0.55),
                lambda s: 11.6 - 0.50 * s,
                False,
                0.2,
            ),
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
            # Daria comes near and leaves on the right; Fiona crosses behind her.
            Walk(
                DARIA,
                head(DARIA, "walk-1"),
                lambda s: between(s, 0.5, 4.0, 0.45, b=-0.1) + between(s, 6.0, 8.2, 0.0, b=1.7),
                lambda s: 5.4 - 0.52 * min(s, 6.2),
                False,
                0.15,
            ),
            Walk(
                FIONA,
                head(FIONA, "walk-1"),
                lambda s: between(s, 1.0, 6.0, -0.85, b=0.75),
                lambda s: 5.9 - 0.42 * s,
                False,
                0.6,
            ),
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
            Walk(
                BRUNO,
                head(BRUNO, "walk-2"),
                lambda s: between(s, 1.0, 6.0, -0.7, b=0.6),
                lambda s: 7.8 - 0.58 * s,
                False,
                0.3,
            ),
            Walk(
                FIONA,
                head(FIONA, "walk-2"),
                lambda s: between(s, 2.0, 7.0, 0.8, b=-0.5),
                lambda s: 8.6 - 0.55 * s,
                False,
                0.8,
            ),
        ),
        wall=(150, 156, 172),
        floor=(96, 98, 104),
        light=0.7,
        blur=0.8,
        grain=4.5,
        crf=26,
        seed=3,
    )
    return corridor_clip, entrance, night


def mugshot(person: Person) -> Bytes:
    """Head and shoulders in front of a grey wall, 320×400."""
    shape, unit = (400, 320), 168.0
    colour, cover = body(person, shape, (160, 170), unit, step=0.0)
    size = shape[::-1]
    alpha = (
        cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    )
    picture: Array = 178 + 14 * np.linspace(1, -1, shape[0], dtype=np.float32)[
        :, None, None
    ].repeat(shape[1], 1).repeat(3, 2)
    picture = picture * (1 - alpha) + cv2.resize(colour, size, interpolation=cv2.INTER_AREA) * alpha
    portrait, _ = CutOut(head(person, "gallery")).place(shape, (160, 170), unit, 0.0, mirror=False)
    picture = picture * (1 - portrait[..., 3:] / 255) + portrait[..., :3]
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def main() -> None:
    (HERE / "mugshots").mkdir(exist_ok=True)
    for person in ENROLLED:
        Image.fromarray(mugshot(person)).save(HERE / "mugshots" / f"{person.name}.jpg", quality=92)
    write_all(clips(), HERE)


if __name__ == "__main__":
    main()
