"""The canonical frame: the similarity transform that leads there, and the pictures that it gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fasr_video.recognition.align import CANONICAL, CANONICAL_SIDE, IN_BOX, similarity, three_points, to_canonical
from fasr_video.types import Image

Matrix = NDArray[np.float64]
patient = settings(deadline=None, max_examples=100)

coordinate = st.floats(-500, 500)
clouds = st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=6).map(np.array)


def apply(transform: Matrix, points: Matrix) -> Matrix:
    return points @ transform[:, :2].T + transform[:, 2]


def turned(scale: float, angle: float, shift: tuple[float, float]) -> Matrix:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def squared_error(transform: Matrix, source: Matrix, target: Matrix) -> float:
    return float(((apply(transform, source) - target) ** 2).sum())


# --- the transform -----------------------------------------------------------------------------------------------


@given(
    source=clouds,
    scale=st.floats(0.01, 100),
    angle=st.floats(-np.pi, np.pi),
    shift=st.tuples(coordinate, coordinate),
)
@patient
def test_any_turn_scale_and_move_is_recovered(
    source: Matrix, scale: float, angle: float, shift: tuple[float, float]
) -> None:
    assume(np.ptp(source, 0).max() > 1)
    true = turned(scale, angle, shift)
    assert_allclose(similarity(source, apply(true, source)), true, rtol=1e-9, atol=1e-8 * max(scale, 1) * 500)


@given(
    pairs=st.lists(st.tuples(*[coordinate] * 4), min_size=2, max_size=6),
    step=st.tuples(*[st.floats(-1, 1)] * 4),
)
@patient
def test_no_other_similarity_comes_nearer(
    pairs: list[tuple[float, float, float, float]], step: tuple[float, float, float, float]
) -> None:
    source, target = np.array(pairs)[:, :2], np.array(pairs)[:, 2:]
    assume(np.ptp(source, 0).max() > 1)
    best = similarity(source, target)
    a, b, x, y = step
    least = squared_error(best, source, target)
    for size in (1.0, 1e-2, 1e-4):
        other = best + size * np.array([[a, -b, x], [b, a, y]])
        assert squared_error(other, source, target) >= least * (1 - 1e-9) - 1e-6


@given(
    pairs=st.lists(st.tuples(*[coordinate] * 4), min_size=2, max_size=6),
)
@patient
def test_faces_are_never_mirrored_or_bent(pairs: list[tuple[float, float, float, float]]) -> None:
    source, target = np.array(pairs)[:, :2], np.array(pairs)[:, 2:]
    assume(np.ptp(source, 0).max() > 1)
    (a, minus_b, _), (b, d, _) = similarity(source, target)
    assert (d, minus_b) == (a, -b)


def test_mirrored_points_get_the_nearest_transform_that_does_not_mirror() -> None:
    points = np.array([[-1.0, 0], [1, 0], [0, 3]])
    found = similarity(points, points * (-1, 1))
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("points", [np.full((3, 2), 7.0), np.array([[3.0, 4.0]])], ids=["three", "one"])
def test_points_in_one_place_have_no_scale(points: Matrix) -> None:
    with pytest.raises(ValueError, match="one place"):
        similarity(points, CANONICAL[: len(points)])


# --- the points --------------------------------------------------------------------------------------------------


def test_points_of_a_face_with_landmarks_are_its_eyes_and_the_middle_of_its_mouth() -> None:
    landmarks = np.array([[10, 20], [30, 22], [20, 30], [12, 40], [28, 44]], np.float32)
    assert_allclose(three_points(np.zeros(4), landmarks), [[10, 20], [30, 22], [20, 42]])


def test_points_of_a_face_without_landmarks_lie_in_its_box_as_usual() -> None:
    points = three_points(np.array([100.0, 200, 140, 260]), None)
    assert_allclose(points, [100, 200] + IN_BOX * [40, 60])
    left, right, mouth = points
    assert left[0] < mouth[0] < right[0]
    assert left[1] == right[1] < mouth[1]


# --- the picture -------------------------------------------------------------------------------------------------

ROOM = 1.2  # of the canonical square around the face


def dotted(points: Matrix, width: float, side: int) -> Image:
    """A black picture with a soft dot of its own colour at each point, that many pixels wide."""
    y, x = np.mgrid[:side, :side]
    channels = [255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * width**2)) for px, py in points]
    return np.stack(channels, -1).round().astype(np.uint8)


def centres(image: Image) -> Matrix:
    """Of the dots, to a fraction of a pixel."""
    y, x = np.indices(image.shape[:2])
    weight = image.astype(np.float64)
    return (
        np.stack(((x[..., None] * weight).sum((0, 1)), (y[..., None] * weight).sum((0, 1))), -1)
        / weight.sum((0, 1))[:, None]
    )


@pytest.mark.parametrize("size", [0.1, 0.3, 0.7, 1.0, 1.9, 2.1, 3.3, 8.0])
@pytest.mark.parametrize("degrees", [0, 17, 90, 180, -45])
def test_eyes_and_mouth_come_to_lie_where_the_canonical_frame_says(size: float, degrees: float) -> None:
    """For faces from a tenth of the canonical size to eight times."""
    face = turned(size * CANONICAL_SIDE, np.radians(degrees), (0, 0))
    around = apply(face, np.array(list(itertools.product((-0.1, 1.1), repeat=2))))
    face[:, 2] = 3.3 - around.min(0)
    points = apply(face, CANONICAL)
    image = dotted(points, max(0.7, 3 * size), int(np.ptp(around, 0).max()) + 8)
    aligned = to_canonical(image, points)
    assert aligned.shape == (CANONICAL_SIDE, CANONICAL_SIDE, 3)
    assert_allclose(centres(aligned), CANONICAL * CANONICAL_SIDE, atol=0.1 if size >= 0.3 else 0.4)


@pytest.mark.parametrize("side", [24, 64, 256])
def test_any_side_can_be_asked_for(side: int) -> None:
    points = apply(turned(200, 0.2, (60, 10)), CANONICAL)
    aligned = to_canonical(dotted(points, 6, 320), points, side)
    assert aligned.shape == (side, side, 3)
    assert_allclose(centres(aligned), CANONICAL * side, atol=0.1)


def test_canonical_picture_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (CANONICAL_SIDE, CANONICAL_SIDE, 3), dtype=np.uint8)
    assert np.abs(to_canonical(image, CANONICAL * CANONICAL_SIDE).astype(int) - image).max() <= 1


@pytest.mark.parametrize("size", [2.5, 3.0, 4.0, 7.3])
@pytest.mark.parametrize("shift", [0, 0.5, 1])
def test_detail_too_fine_to_show_becomes_grey(size: float, shift: float) -> None:
    """A chessboard of single pixels, whose squares are far smaller than the pixels of the result."""
    side = int(size * CANONICAL_SIDE) + 4
    board = np.indices((side, side)).sum(0) % 2 * 255
    image = np.repeat(board[..., None], 3, 2).astype(np.uint8)
    inner = to_canonical(image, CANONICAL * CANONICAL_SIDE * size + shift)[8:-8, 8:-8]
    assert inner.mean() == pytest.approx(127.5, abs=2)
    assert inner.std() < 0.15 * board.std()


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_beyond_the_edge_of_the_picture_it_is_black(size: float) -> None:
    """The left half of the face lies outside."""
    points = CANONICAL * CANONICAL_SIDE * size - [CANONICAL_SIDE * size / 2, 0]
    aligned = to_canonical(np.full((1000, 1000, 3), 200, np.uint8), points)
    assert (aligned[:, :62] == 0).all()
    assert (aligned[2:, 66:] == 200).all()


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_face_outside_the_picture_is_black(size: float) -> None:
    points = CANONICAL * CANONICAL_SIDE * size + 5000
    assert (to_canonical(np.full((300, 300, 3), 200, np.uint8), points) == 0).all()
