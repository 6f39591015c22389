"""The face of a photograph: found if it fills the picture, and chosen if there are several."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from fasr_video.detection import Detector, open_detector
from fasr_video.detection.photograph import (
    ALONE,
    MIN_SCORE,
    Choice,
    Unclear,
    Which,
    choose_face,
    find_faces,
    list_faces,
)
from fasr_video.types import Detections, Image
from tests.support.detectors import (
    LANDMARKS,
    RED,
    blank_picture,
    builtin_weights,
    centres,
    insightface_graph,
    retinaface_weights,
)
from tests.support.paths import PORTRAITS

pytestmark = pytest.mark.usefixtures("one_thread")

SCRFD = Path("/work/shared/data/teachers/scrfd_2.5g_kps.onnx")
PUBLISHED = [("insightface", SCRFD)] if SCRFD.is_file() else []


def open_small_detector(backend: str, weights: Path | None) -> Detector:
    return open_detector(backend, weights=weights, device="cpu", min_score=0.3)


def tight_portrait(side: int) -> Image:
    """A photograph of that width which a face fills."""
    whole = np.asarray(PilImage.open(PORTRAITS / "mugshots" / "grace_hopper.jpg").convert("RGB"))
    face = whole[101:322, 114:291]
    return np.asarray(
        cv2.resize(face, (side, side * 5 // 4), interpolation=cv2.INTER_CUBIC), np.uint8
    )


def detections_at(*centres: tuple[float, float], side: float = 20) -> Detections:
    """Faces of that size around these places."""
    boxes = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in centres]
    return Detections(np.array(boxes, np.float32), np.ones(len(boxes), np.float32), None)


# --- the margin --------------------------------------------------------------------------------


@dataclass(frozen=True)
class DotDetector:
    """A learned backend for which a red dot at multiples of 8 is a face, shifted by `shift`."""

    detector: Detector
    shift: int


@pytest.fixture(scope="module", params=["builtin", "retinaface", "insightface"])
def dots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DotDetector]:
    make, name, shift = {
        "builtin": (builtin_weights, "weights.safetensors", 2),
        "retinaface": (retinaface_weights, "weights.safetensors", 4),
        "insightface": (insightface_graph, "pack/det.onnx", 0),
    }[request.param]
    file = tmp_path_factory.mktemp("dots") / name
    yield DotDetector(open_small_detector(request.param, make(file)), shift)
    file.unlink()


WIDTH, HEIGHT = 33, 48  # with margins of 13 and 19 px
# Row and column of a dot: 13 + 19 and 19 + 13 are multiples of 8.
ONLY_WITH_MARGIN = (13, 19)


def test_a_face_found_with_a_margin_is_in_pixels_of_the_picture(dots: DotDetector) -> None:
    picture = blank_picture(WIDTH, HEIGHT)
    picture[ONLY_WITH_MARGIN] = RED
    assert len(dots.detector.detect([picture])[0]) == 0
    detections = find_faces(picture, dots.detector)
    assert centres(detections) == pytest.approx(
        np.array([(19 + dots.shift, 13 + dots.shift)]), abs=1e-3
    )
    assert (
        detections.landmarks is not None
        and detections.landmarks.dtype == detections.boxes.dtype == np.float32
    )
    assert detections.landmarks[0] == pytest.approx(centres(detections)[0] + LANDMARKS, abs=1e-3)


def test_a_face_found_without_a_margin_is_returned_unchanged(dots: DotDetector) -> None:
    picture = blank_picture(WIDTH, HEIGHT)
    picture[16, 16] = picture[ONLY_WITH_MARGIN] = RED
    plain, detections = dots.detector.detect([picture])[0], find_faces(picture, dots.detector)
    assert len(detections) == 1 and np.array_equal(detections.boxes, plain.boxes)


def test_a_face_in_the_margin_does_not_count(dots: DotDetector) -> None:
    picture = blank_picture(WIDTH, HEIGHT)
    picture[13, WIDTH - 1] = RED  # the margin continues it to the right, over multiples of 8
    framed = cv2.copyMakeBorder(picture, 19, 19, 13, 13, cv2.BORDER_REPLICATE)
    assert len(dots.detector.detect([np.asarray(framed, np.uint8)])[0]) > 0
    assert len(find_faces(picture, dots.detector)) == 0


@pytest.mark.parametrize("size", [(300, 200), (7, 5), (1, 1), (1000, 1)])
def test_a_picture_without_a_face_has_none(dots: DotDetector, size: tuple[int, int]) -> None:
    detections = find_faces(blank_picture(*size), dots.detector)
    assert len(detections) == 0 and detections.landmarks is not None


@pytest.mark.parametrize(("backend", "weights"), [("builtin", None), ("haar", None), *PUBLISHED])
def test_a_face_that_fills_the_photograph_is_found(
    backend: str, weights: Path | None, tmp_path: Path
) -> None:
    if weights is not None:
        shutil.copy(weights, tmp_path)
        weights = tmp_path
    picture = tight_portrait(224)
    detections = find_faces(picture, open_small_detector(backend, weights))
    assert len(detections) == 1 and detections.scores[0] >= MIN_SCORE
    height, width = picture.shape[:2]
    assert centres(detections)[0] == pytest.approx((width / 2, height / 2), abs=0.12 * height)


@pytest.mark.skipif(not PUBLISHED, reason="it is about a published model that is not here")
def test_scrfd_needs_the_margin(tmp_path: Path) -> None:
    shutil.copy(SCRFD, tmp_path)
    detector = open_small_detector("insightface", tmp_path)
    assert (
        len(detector.detect([tight_portrait(224)])[0])
        == 0
        < len(find_faces(tight_portrait(224), detector))
    )


def test_a_face_too_large_for_the_detector_is_found_in_the_shrunk_picture() -> None:
    detector, picture = open_small_detector("builtin", None), tight_portrait(2600)
    (box,) = find_faces(picture, detector).boxes
    assert box == pytest.approx(np.array([0, 0, *picture.shape[1::-1]]), abs=0.08 * 2600)


# --- several faces -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> Detector:
    return open_small_detector("builtin", None)


@pytest.fixture(scope="module")
def photograph_of_two() -> Image:
    """Eileen at the top left, Grace, larger, at the right."""
    people = {
        n: PilImage.open(PORTRAITS / "mugshots" / f"{n}.jpg")
        for n in ("eileen_collins", "grace_hopper")
    }
    sheet = PilImage.new("RGB", (600, 300), "grey")
    sheet.paste(people["eileen_collins"].resize((200, 200)), (0, 0))
    sheet.paste(people["grace_hopper"].resize((300, 300)), (300, 0))
    return np.asarray(sheet)


def test_several_faces_are_named_by_number_place_and_size(
    detector: Detector, photograph_of_two: Image
) -> None:
    unclear = choose_face(photograph_of_two, detector, Choice(remedy="do this"))
    assert isinstance(unclear, Unclear)
    assert (unclear.faces, unclear.remedy) == (2, "do this")
    assert (
        unclear.reason.startswith("2 faces: 1 at the top left, ")
        and "; 2 at the right, " in unclear.reason
    )
    assert unclear.reason.endswith(" px")


@pytest.mark.parametrize(("face", "left"), [(1, True), (2, False), ("largest", False)])
def test_a_number_from_the_left_or_the_largest_is_chosen(
    detector: Detector, photograph_of_two: Image, face: Which, left: bool
) -> None:
    detections = choose_face(photograph_of_two, detector, Choice(face))
    assert isinstance(detections, Detections) and len(detections) == 1
    assert bool(centres(detections)[0, 0] < 300) is left


def test_a_wrong_number_is_refused_with_a_list_of_the_faces(
    detector: Detector, photograph_of_two: Image
) -> None:
    unclear = choose_face(photograph_of_two, detector, Choice(3))
    assert isinstance(unclear, Unclear) and unclear.reason.startswith(
        "there is no face 3, but 2 faces: 1 at the top left"
    )
    one = choose_face(photograph_of_two[:, 300:], detector, Choice(2))
    assert isinstance(one, Unclear) and one.reason.startswith("there is no face 2, but 1 face: 1 ")


def test_the_only_face_needs_no_choice(detector: Detector, photograph_of_two: Image) -> None:
    for choice in (ALONE, Choice(1), Choice("largest")):
        assert isinstance(choose_face(photograph_of_two[:, 300:], detector, choice), Detections)


def test_the_error_about_no_face_says_what_to_do(detector: Detector) -> None:
    unclear = choose_face(np.full((200, 200, 3), 128, np.uint8), detector, ALONE)
    assert isinstance(unclear, Unclear) and unclear.faces == 0
    assert unclear.reason == "no face found, not even with a margin around the picture"
    assert unclear.remedy.startswith("give a photograph")


def test_positions_are_thirds_of_the_picture() -> None:
    faces = detections_at((10, 10), (150, 150), (290, 150), (150, 290), (290, 290))
    text = list_faces(faces, blank_picture(300, 300))
    positions = [part.split(",")[0] for part in text.removeprefix("5 faces: ").split("; ")]
    assert positions == [
        "1 at the top left",
        "2 in the middle",
        "3 at the right",
        "4 at the bottom",
        "5 at the bottom right",
    ]
    assert (
        list_faces(detections_at((150, 10), side=12), blank_picture(300, 300))
        == "1 face: 1 at the top, 12×12 px"
    )
