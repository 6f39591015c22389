"""The canonical frame, ArcFace's and dlib's: the transforms to them, and their pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fasr_video.recognition.align import (
    ARCFACE,
    ARCFACE_SIDE,
    CANONICAL,
    CANONICAL_SIDE,
    DLIB,
    DLIB_PADDING,
    DLIB_SIDE,
    IN_BOX,
    align,
    canonical_to_arcface,
    canonical_to_dlib,
    eyes_and_mouth,
    inverse,
    mirror_landmarks,
    similarity,
    three_points,
    to_canonical,
    warp,
)
from fasr_video.types import Image

Matrix = NDArray[np.float64]
patient = settings(deadline=None, max_examples=100)

coordinate = st.floats(-500, 500)
clouds = st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=6).map(np.array)


def apply(transform: Matrix, points: Matrix) -> Matrix:
    return points @ transform[:, :2].T + transform[:, 2]


def rotate(scale: float, angle: float, shift: tuple[float, float]) -> Matrix:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def squared_error(transform: Matrix, source: Matrix, target: Matrix) -> float:
    return float(((apply(transform, source) - target) ** 2).sum())


# --- the transform -----------------------------------------------------------------------------


@given(
    source=clouds,
    scale=st.floats(0.01, 100),
    angle=st.floats(-np.pi, np.pi),
    shift=st.tuples(coordinate, coordinate),
)
@patient
def test_any_rotation_scale_and_shift_is_recovered(
    source: Matrix, scale: float, angle: float, shift: tuple[float, float]
) -> None:
    assume(np.ptp(source, 0).max() > 1)
    true = rotate(scale, angle, shift)
    assert_allclose(
        similarity(source, apply(true, source)), true, rtol=1e-9, atol=1e-8 * max(scale, 1) * 500
    )


@given(
    pairs=st.lists(st.tuples(*[coordinate] * 4), min_size=2, max_size=6),
    step=st.tuples(*[st.floats(-1, 1)] * 4),
)
@patient
def test_no_other_similarity_is_closer(
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


@pytest.mark.parametrize("count", [3, 5])
def test_the_similarity_equals_that_of_a_least_squares_solver(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(50):
        source, target = rng.normal(0, 50, (2, count, 2))
        ones, zeros = np.ones(count), np.zeros(count)
        x, y = source.T
        rows = np.concatenate((np.stack((x, -y, ones, zeros), 1), np.stack((y, x, zeros, ones), 1)))
        (a, b, right, down), (residual,), *_ = np.linalg.lstsq(rows, target.T.ravel())
        transform = similarity(source, target)
        assert_allclose(transform, [[a, -b, right], [b, a, down]], atol=1e-9)
        assert squared_error(transform, source, target) == pytest.approx(residual)


def test_a_stack_of_point_sets_gets_each_its_own_transform() -> None:
    sources = np.random.default_rng(1).normal(0, 50, (4, 5, 2))
    stacked = similarity(sources, ARCFACE)
    assert_allclose(stacked, [similarity(points, ARCFACE) for points in sources], rtol=1e-12)
    for transform, back in zip(stacked, inverse(stacked), strict=True):
        assert_allclose(apply(back, apply(transform, ARCFACE)), ARCFACE, atol=1e-9)


@given(pairs=st.lists(st.tuples(*[coordinate] * 4), min_size=2, max_size=6))
@patient
def test_faces_are_never_mirrored_or_distorted(
    pairs: list[tuple[float, float, float, float]],
) -> None:
    source, target = np.array(pairs)[:, :2], np.array(pairs)[:, 2:]
    assume(np.ptp(source, 0).max() > 1)
    (a, minus_b, _), (b, d, _) = similarity(source, target)
    assert (d, minus_b) == (a, -b)


def test_mirrored_points_get_the_nearest_transform_that_does_not_mirror() -> None:
    points = np.array([[-1.0, 0], [1, 0], [0, 3]])
    transform = similarity(points, points * (-1, 1))
    assert np.linalg.det(transform[:, :2]) > 0


@pytest.mark.parametrize(
    "points", [np.full((3, 2), 7.0), np.array([[3.0, 4.0]])], ids=["three", "one"]
)
def test_points_that_coincide_have_no_scale(points: Matrix) -> None:
    with pytest.raises(ValueError, match="coincide"):
        similarity(points, CANONICAL[: len(points)])


# --- the points --------------------------------------------------------------------------------


def test_with_landmarks_the_three_points_are_eyes_and_mouth() -> None:
    landmarks = np.array([[10, 20], [30, 22], [20, 30], [12, 40], [28, 44]], np.float32)
    assert_allclose(three_points(np.zeros(4), landmarks), [[10, 20], [30, 22], [20, 42]])


def test_without_landmarks_the_three_points_depend_on_the_box() -> None:
    points = three_points(np.array([100.0, 200, 140, 260]), None)
    assert_allclose(points, [100, 200] + IN_BOX * [40, 60])
    left, right, mouth = points
    assert left[0] < mouth[0] < right[0]
    assert left[1] == right[1] < mouth[1]


# --- the picture -------------------------------------------------------------------------------


def draw_dots(points: Matrix, width: float, side: int) -> Image:
    """A black picture with a soft dot of its own colour at each point, that many pixels wide."""
    y, x = np.mgrid[:side, :side]
    channels = [
        255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * width**2)) for px, py in points
    ]
    return np.stack(channels, -1).round().astype(np.uint8)


def find_centres(image: Image | Matrix) -> Matrix:
    """Of the dots, to a fraction of a pixel."""
    y, x = np.indices(image.shape[:2])[..., None]
    weight = image.astype(np.float64)
    return (
        np.stack(((x * weight).sum((0, 1)), (y * weight).sum((0, 1))), -1)
        / weight.sum((0, 1))[:, None]
    )


@pytest.mark.parametrize("size", [0.1, 0.3, 0.7, 1.0, 1.9, 2.1, 3.3, 8.0])
@pytest.mark.parametrize("degrees", [0, 17, 90, 180, -45])
def test_eyes_and_mouth_are_moved_to_the_canonical_frame(size: float, degrees: float) -> None:
    """For faces from a tenth of the canonical size to eight times."""
    face = rotate(size * CANONICAL_SIDE, np.radians(degrees), (0, 0))
    around = apply(face, np.array(list(itertools.product((-0.1, 1.1), repeat=2))))
    face[:, 2] = 3.3 - around.min(0)
    points = apply(face, CANONICAL)
    image = draw_dots(points, max(0.7, 3 * size), int(np.ptp(around, 0).max()) + 8)
    aligned = to_canonical(image, points)
    assert aligned.shape == (CANONICAL_SIDE, CANONICAL_SIDE, 3)
    assert_allclose(
        find_centres(aligned), CANONICAL * CANONICAL_SIDE, atol=0.1 if size >= 0.3 else 0.4
    )


@pytest.mark.parametrize("side", [24, 64, 256])
def test_the_canonical_picture_can_have_any_size(side: int) -> None:
    points = apply(rotate(200, 0.2, (60, 10)), CANONICAL)
    aligned = to_canonical(draw_dots(points, 6, 320), points, side)
    assert aligned.shape == (side, side, 3)
    assert_allclose(find_centres(aligned), CANONICAL * side, atol=0.1)


def test_a_canonical_picture_is_not_changed() -> None:
    image = np.random.default_rng(0).integers(
        0, 256, (CANONICAL_SIDE, CANONICAL_SIDE, 3), dtype=np.uint8
    )
    assert np.abs(to_canonical(image, CANONICAL * CANONICAL_SIDE).astype(int) - image).max() <= 1


@pytest.mark.parametrize("size", [2.5, 3.0, 4.0, 7.3])
@pytest.mark.parametrize("shift", [0, 0.5, 1])
def test_detail_too_fine_to_show_becomes_grey(size: float, shift: float) -> None:
    """A chessboard of single pixels, far smaller than the pixels of the result."""
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


# --- ArcFace's frame ---------------------------------------------------------------------------

THREE = eyes_and_mouth(ARCFACE)
FACE = apply(
    inverse(similarity(CANONICAL * CANONICAL_SIDE, THREE)), ARCFACE
)  # the template in the canonical frame


def place_template(size: float, degrees: float, room: float = 0.2) -> tuple[Matrix, int]:
    """Return the template rotated and scaled from a picture of 112 px, and the side that holds
    it.
    """
    face = rotate(size, np.radians(degrees), (0, 0))
    corners = np.array(list(itertools.product((-room, 1 + room), repeat=2))) * ARCFACE_SIDE
    around = apply(face, corners)
    face[:, 2] = 3.3 - around.min(0)
    return apply(face, ARCFACE), int(np.ptp(around, 0).max()) + 8


def to_arcface(image: Image, points: Matrix) -> Image:
    """Return the face with these landmarks, five or three, in ArcFace's frame."""
    template = ARCFACE if len(points) == len(ARCFACE) else THREE
    return warp(image, similarity(points, template), ARCFACE_SIDE)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("size", [0.3, 1.0, 1.9, 2.1, 6.0])
@pytest.mark.parametrize("degrees", [0, 17, 180, -45])
def test_landmarks_are_moved_to_the_template(count: int, size: float, degrees: float) -> None:
    """Each landmark has a colour of its own: a mirrored or bent face would show."""
    landmarks, side = place_template(size, degrees)
    shown = landmarks[[0, 1, 4]]
    points = landmarks if count == 5 else eyes_and_mouth(landmarks)
    aligned = to_arcface(draw_dots(shown, max(0.7, 3 * size), side), points)
    assert aligned.shape == (ARCFACE_SIDE, ARCFACE_SIDE, 3)
    assert_allclose(find_centres(aligned), ARCFACE[[0, 1, 4]], atol=0.15)


def test_detail_too_fine_for_arcface_becomes_grey() -> None:
    landmarks, side = place_template(4.0, 0)
    board = np.repeat((np.indices((side, side)).sum(0) % 2 * 255)[..., None], 3, 2).astype(np.uint8)
    inner = to_arcface(board, landmarks)[8:-8, 8:-8]
    assert inner.mean() == pytest.approx(127.5, abs=2)
    assert inner.std() < 0.15 * board.std()


def draw_waves(side: int) -> Image:
    """Colours that change slowly, and differently everywhere."""
    y, x = np.mgrid[:side, :side] / side * 2 * np.pi
    channels = (np.sin(3 * x + y), np.cos(2 * y - x), np.sin(2 * x) * np.cos(3 * y))
    return np.stack([127.5 + 120 * c for c in channels], -1).round().astype(np.uint8)


def as_canonical(image: Image, landmarks: Matrix) -> tuple[torch.Tensor, torch.Tensor]:
    face = align(image, np.zeros(4), landmarks.astype(np.float32))
    assert face.landmarks is not None
    return torch.from_numpy(face.picture).permute(2, 0, 1)[None] / 255, torch.from_numpy(
        face.landmarks
    )[None]


def as_image(pictures: torch.Tensor) -> Matrix:
    return (pictures[0] * 255).permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [0.8, 1.7, 3.0])
@pytest.mark.parametrize("degrees", [0, 30, -100])
def test_both_ways_to_arcfaces_frame_give_one_picture(
    known: bool, size: float, degrees: float
) -> None:
    """Directly from the image, and by way of the canonical frame, with and without landmarks.

    With landmarks that holds for a face of any form, without them for one of the template's form.
    """
    landmarks, side = place_template(size, degrees)
    if known:
        landmarks = landmarks + np.random.default_rng(0).normal(0, 1.5 * size, (5, 2))
    image = draw_waves(side)
    faces, canonical_landmarks = as_canonical(image, landmarks)
    direct = to_arcface(image, landmarks)
    by_way = as_image(canonical_to_arcface(faces, canonical_landmarks if known else None))
    inside = np.s_[4:-8, 4:-4]  # the canonical picture ends a few rows earlier
    assert np.abs(by_way - direct)[inside].max() < 4
    assert np.abs(by_way - direct)[inside].mean() < 1


def test_landmarks_of_a_canonical_face_are_moved_to_dlibs_template() -> None:
    """A face of dlib's form, rotated in its canonical picture; each landmark has its own colour."""
    points = apply(rotate(0.72, 0.2, (12, 4)), DLIB)
    faces = (
        torch.from_numpy(draw_dots(points[[0, 1, 4]], 2.5, CANONICAL_SIDE)).permute(2, 0, 1)[None]
        / 255
    )
    chips = canonical_to_dlib(faces, torch.from_numpy(points)[None])
    assert chips.shape == (1, 3, DLIB_SIDE, DLIB_SIDE)
    assert_allclose(find_centres(as_image(chips)), DLIB[[0, 1, 4]], atol=0.15)


def test_dlib_itself_cuts_the_same_frame() -> None:
    """dlib aligns by eye corners and nose; the centres of the eyes are moved to where ours are."""
    import dlib

    mean_shape = np.array(
        [[0.8596, 0.2135], [0.6461, 0.2290], [0.1206, 0.2137], [0.3341, 0.2291], [0.4901, 0.6278]]
    )
    points = (100 + 600 * mean_shape).round()
    detection = dlib.full_object_detection(
        dlib.rectangle(100, 100, 700, 700), [dlib.point(*map(int, p)) for p in points]
    )
    eyes = [points[2:4].mean(0), points[:2].mean(0)]
    image = draw_dots(np.array([*eyes, points[4]]), 12, 800)
    chip = dlib.get_face_chip(image, detection, DLIB_SIDE, DLIB_PADDING)
    assert_allclose(find_centres(chip)[:2], DLIB[:2], atol=1)


def test_without_landmarks_the_canonical_points_are_moved_to_the_template() -> None:
    dots = draw_dots(CANONICAL * CANONICAL_SIDE, 3, CANONICAL_SIDE)
    faces = torch.from_numpy(dots).permute(2, 0, 1)[None] / 255
    expected = apply(similarity(CANONICAL * CANONICAL_SIDE, THREE), CANONICAL * CANONICAL_SIDE)
    assert_allclose(expected, THREE, atol=1.5)
    assert_allclose(find_centres(as_image(canonical_to_arcface(faces, None))), expected, atol=0.1)


def test_each_face_of_a_batch_is_aligned_by_its_own_landmarks() -> None:
    faces = torch.rand(
        4, 3, CANONICAL_SIDE, CANONICAL_SIDE, generator=torch.Generator().manual_seed(0)
    )
    landmarks = torch.from_numpy(FACE).float() + 4 * torch.randn(
        4, 5, 2, generator=torch.Generator().manual_seed(1)
    )
    landmarks[1, 3, 0] = torch.nan
    landmarks[2] = 64.0  # all in one place: they tell nothing
    together = canonical_to_arcface(faces, landmarks)
    assert together.shape == (4, 3, ARCFACE_SIDE, ARCFACE_SIDE)
    for i in range(4):
        given = None if i in (1, 2) else landmarks[i : i + 1]
        assert torch.equal(canonical_to_arcface(faces[i : i + 1], given)[0], together[i])
    assert not torch.equal(canonical_to_arcface(faces[:1], None)[0], together[0])


def test_autocast_does_not_move_the_pixels() -> None:
    faces = torch.rand(
        1, 3, CANONICAL_SIDE, CANONICAL_SIDE, generator=torch.Generator().manual_seed(0)
    )
    expected = canonical_to_arcface(faces, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(canonical_to_arcface(faces, None), expected)


def test_mirrored_landmarks_exchange_left_and_right() -> None:
    """A mirrored face with mirrored landmarks is moved to the same position, mirrored."""
    landmarks = torch.from_numpy(FACE).float()[None]
    assert_allclose(mirror_landmarks(mirror_landmarks(landmarks)), landmarks, atol=1e-4)
    dots = (
        torch.from_numpy(draw_dots(FACE[[0, 1, 2]], 3, CANONICAL_SIDE)).permute(2, 0, 1)[None] / 255
    )
    right, left, nose = mirror_landmarks(landmarks)[0, :3].numpy()
    assert_allclose(find_centres(as_image(dots.flip(3))), [left, right, nose], atol=0.1)
    left, right, nose = find_centres(
        as_image(canonical_to_arcface(dots.flip(3), mirror_landmarks(landmarks)))
    )
    assert_allclose([right, left, nose], ARCFACE[:3], atol=1)
