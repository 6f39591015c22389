"""Makes the sample clips, their ground truth and the mugshots.  Run: .venv/bin/python sample_videos/make.py

Two people are cut out of public-domain photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image
from scene import HERE, Bytes, Camera, Clip, Head, Person, Point, Walk, between, face_box, write_all
from skimage import data


@dataclass(frozen=True)
class Portrait:
    """A photograph with what was set on it by hand, in its pixels."""

    person: Person
    photo: Bytes  # H×W×3, RGB
    landmarks: tuple[Point, Point, Point, Point, Point]  # eyes, nose tip, mouth corners; left in the picture first
    outline: tuple[Point, ...]  # hair or cap, jaw, neck, collar
    mugshot: tuple[int, int, int, int]

    def head(self) -> Head:
        matte = np.zeros(self.photo.shape[:2], np.uint8)
        cv2.fillPoly(matte, [np.round(np.array(self.outline) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        landmarks = np.array(self.landmarks, np.float32)
        height = 2 * face_box(landmarks)[2]
        # Blur and keep the inner half, so that nothing of the photograph's own background comes along.
        soft = cv2.GaussianBlur(matte, (0, 0), 0.018 * height).astype(np.float32) / 255
        return Head(self.photo, np.clip((soft - 0.35) / 0.6, 0, 1)[..., None], landmarks)


def people() -> tuple[Portrait, Portrait]:
    collins = Portrait(
        person=Person("eileen_collins", (164, 84, 52), (58, 60, 70), (24, 22, 26)),
        photo=data.astronaut(),
        landmarks=((203, 101.5), (245, 103.5), (223, 128), (204, 141.5), (244, 141.5)),
        outline=(
            (179, 131), (172, 126), (163, 112), (157, 99), (155, 84), (157, 66), (163, 51), (176, 44), (190, 40),
            (197, 28), (211, 20), (235, 17), (260, 21), (279, 34), (291, 50), (298, 70), (299, 88), (295, 105),
            (288, 120), (276, 133), (266, 136), (260, 151), (253, 169), (250, 188), (251, 204), (240, 210), (222, 211),
            (204, 209), (192, 202), (188, 186), (185, 162), (182, 145),
        ),
        mugshot=(96, 0, 352, 256),
    )  # fmt: skip
    hopper = Portrait(
        person=Person("grace_hopper", (30, 31, 40), (26, 27, 34), (30, 31, 40)),
        photo=np.asarray(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")),
        landmarks=((221.5, 190), (308, 186), (266, 243), (229.5, 280.5), (305, 277)),
        outline=(
            (196, 298), (180, 290), (168, 276), (163, 260), (166, 248), (157, 222), (155, 200), (155, 180), (153, 150),
            (155, 114), (162, 96), (174, 84), (184, 66), (202, 48), (219, 41), (226, 30), (246, 25), (272, 25),
            (296, 33), (306, 42), (330, 50), (346, 64), (353, 86), (363, 90), (370, 107), (371, 136), (369, 172),
            (375, 188), (374, 204), (365, 240), (357, 268), (349, 292), (337, 303), (328, 316), (331, 342), (324, 376),
            (302, 430), (284, 442), (254, 446), (218, 441), (206, 420), (200, 376), (197, 340),
        ),
        mugshot=(64, 10, 464, 410),
    )  # fmt: skip
    return collins, hopper


def clips() -> tuple[Clip, Clip]:
    collins, hopper = people()
    corridor_clip = Clip(
        name="corridor",
        fps=25,
        seconds=8.0,
        camera=Camera(1280, 720, 900, 120),
        walks=(
            # From far on the left to near on the right; passes in front of the other, who drifts to the left.
            Walk(
                collins.person,
                collins.head(),
                lambda s: between(s, 1.5, 6.0, -0.85, 0.55),
                lambda s: 7.5 - 0.705 * s,
                False,
                0.0,
            ),
            Walk(
                hopper.person,
                hopper.head(),
                lambda s: between(s, 1.0, 6.5, 1.05, -1.0),
                lambda s: 6.9 - 0.42 * s,
                True,
                0.4,
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
        seconds=6.0,
        camera=Camera(640, 480, 500, 84),
        walks=(
            Walk(
                hopper.person,
                hopper.head(),
                lambda s: between(s, 0.5, 3.5, 0.35, -0.1) + between(s, 4.5, 6.2, 0.0, 1.9),
                lambda s: 5.2 - 0.86 * min(s, 4.7),
                False,
                0.15,
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
    return corridor_clip, entrance


def main() -> None:
    (HERE / "mugshots").mkdir(exist_ok=True)
    for portrait in people():
        x1, y1, x2, y2 = portrait.mugshot
        file = HERE / "mugshots" / f"{portrait.person.name}.jpg"
        Image.fromarray(portrait.photo[y1:y2, x1:x2]).save(file, quality=92)
    write_all(clips(), HERE / "ground_truth.json")


if __name__ == "__main__":
    main()
