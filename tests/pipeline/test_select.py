"""The quality of face pictures, and the choice of those that represent a track."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from fasr_video.configs.settings import SelectSettings, load
from fasr_video.pipeline.quality import cut, measure
from fasr_video.pipeline.select import POOL_FACTOR, Candidate, Choice, Pool, choose, judge
from fasr_video.recognition.align import CANONICAL
from fasr_video.types import REASON_TEXT, Detections, FaceCrop, Image, Quality, Reason

SETTINGS = load("cpu").select
patient = settings(deadline=None, max_examples=60)

ASTRONAUT: Image = skimage.data.astronaut()
FACE = np.array([176, 66, 266, 178], np.float32)  # in ASTRONAUT
MARKS = np.array([[203, 111], [245, 108], [227, 131], [209, 149], [242, 147]], np.float32)

# A frontal face in the canonical frame: the nose on the middle line, the mouth corners at equal
# distances from it.
_EYES, _MOUTH = CANONICAL[:2], CANONICAL[2]
_DOWN = _MOUTH - _EYES.mean(0)
_ACROSS = np.array([_DOWN[1], -_DOWN[0]]) / np.linalg.norm(_DOWN)
_NOSE = _EYES.mean(0) + 0.55 * _DOWN
FRONTAL = np.array([*_EYES, _NOSE, _MOUTH - 0.12 * _ACROSS, _MOUTH + 0.12 * _ACROSS])


def detections(
    *boxes: Sequence[float] | NDArray[np.floating],
    landmarks: NDArray[np.floating] | None = None,
    score: float = 0.9,
) -> Detections:
    count = len(boxes)
    landmarks = (
        None if landmarks is None else np.repeat(landmarks[None], count, 0).astype(np.float32)
    )
    return Detections(np.array(boxes, np.float32), np.full(count, score, np.float32), landmarks)


def quality_of(image: Image, faces: Detections, i: int = 0) -> Quality:
    landmarks = None if faces.landmarks is None else faces.landmarks[i]
    return measure(image, faces, i, cut(image, faces.boxes[i], landmarks).aligned)


def astronaut(image: Image = ASTRONAUT) -> Quality:
    return quality_of(image, detections(FACE, landmarks=MARKS))


def blurred_astronaut(radius: float) -> Quality:
    return astronaut(np.asarray(cv2.GaussianBlur(ASTRONAUT, (0, 0), radius), np.uint8))


def turn_of(landmarks: NDArray[np.floating]) -> float:
    """With the canonical square as a face of 200 px."""
    return quality_of(
        np.zeros((300, 300, 3), np.uint8),
        detections([50, 50, 250, 250], landmarks=50 + 200 * landmarks),
    ).turn


# --- the measures ------------------------------------------------------------------------------


def test_good_face_is_usable() -> None:
    quality = astronaut()
    assert judge(quality, SETTINGS) is None
    assert quality.eye_px == pytest.approx(np.hypot(42, 3))
    assert (quality.inside, quality.clear) == (1, 1)
    assert quality.score == pytest.approx(0.9)


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_blur_lowers_sharpness_and_quality(radius: float) -> None:
    sharp, blurred = astronaut(), blurred_astronaut(radius)
    assert blurred.sharpness < 0.5 * sharp.sharpness
    assert blurred.total < 0.95 * sharp.total


def test_more_blur_is_less_sharp() -> None:
    values = [blurred_astronaut(r).sharpness for r in (0.5, 1, 2, 3, 4, 6, 8)]
    assert values == sorted(values, reverse=True)
    assert judge(blurred_astronaut(8), SETTINGS) is Reason.BLURRED


def test_enlarging_a_face_does_not_raise_its_quality() -> None:
    """A face enlarged to four times its size has more pixels, but no better quality."""
    shrunk = cv2.resize(ASTRONAUT, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = np.asarray(shrunk, np.uint8)
    few = quality_of(small, detections(FACE / 4, landmarks=MARKS / 4))
    blown_up = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    many = quality_of(np.asarray(blown_up, np.uint8), detections(FACE, landmarks=MARKS))
    assert many.eye_px == pytest.approx(4 * few.eye_px, rel=1e-5)
    assert many.sharpness < 0.5 * few.sharpness
    assert many.total < astronaut().total


def test_flat_picture_has_no_detail_and_no_contrast() -> None:
    quality = astronaut(np.full_like(ASTRONAUT, 128))
    assert (quality.sharpness, quality.contrast) == (0, 0)
    assert quality.exposure == pytest.approx(128 / 255, abs=1e-3)


@pytest.mark.parametrize("gain", [0.1, 0.5, 0.8, 1.2])
def test_exposure_follows_brightness(gain: float) -> None:
    usual = astronaut()
    changed = astronaut(np.clip(ASTRONAUT * gain, 0, 255).astype(np.uint8))
    assert changed.exposure == pytest.approx(usual.exposure * gain, abs=0.02)
    assert changed.contrast == pytest.approx(usual.contrast * gain, abs=0.03)


def test_dark_and_bright_faces_have_lower_quality() -> None:
    dark, bright = (
        astronaut(np.clip(c, 0, 255).astype(np.uint8))
        for c in (ASTRONAUT * 0.1, ASTRONAUT * 0.1 + 229)
    )
    assert dark.exposure < 0.1 and bright.exposure > 0.9
    assert max(dark.total, bright.total) < astronaut().total


def test_frontal_face_is_not_turned() -> None:
    assert turn_of(FRONTAL) < 0.1


@given(degrees=st.floats(-180, 180))
@patient
def test_leaning_head_is_not_turned(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    leaning = (FRONTAL - 0.5) @ np.array([[c, s], [-s, c]]) + 0.5
    assert turn_of(leaning) == pytest.approx(turn_of(FRONTAL), abs=1e-4)


@pytest.mark.parametrize("side", [-1, 1])
def test_nose_to_the_side_is_a_turn(side: int) -> None:
    turns = []
    for beside in (0.0, 0.04, 0.08, 0.12):
        landmarks = FRONTAL.copy()
        landmarks[2] += side * beside * _ACROSS
        turns.append(turn_of(landmarks))
    assert turns == sorted(turns)
    assert len(set(turns)) == 4
    assert turns[-1] > 0.7


def test_eyes_that_come_near_each_other_are_a_turn() -> None:
    landmarks = FRONTAL.copy()
    landmarks[:2] = landmarks[:2].mean(0) + 0.3 * (landmarks[:2] - landmarks[:2].mean(0))
    assert turn_of(landmarks) == pytest.approx(0.7, abs=0.02)


def test_landmarks_that_coincide_count_as_a_profile() -> None:
    landmarks = np.array([[0.4, 0.5], [0.6, 0.5], [0.5, 0.5], [0.4, 0.5], [0.6, 0.5]])
    assert turn_of(landmarks) == 1


def test_turn_is_unknown_without_landmarks() -> None:
    quality = quality_of(ASTRONAUT, detections(FACE))
    assert math.isnan(quality.turn)
    assert not math.isnan(quality.total)
    assert judge(quality, SETTINGS) is None


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([-50, 100, 50, 200], 0.5),
        ([462, 100, 562, 200], 0.5),
        ([100, -25, 200, 75], 0.75),
        ([462, 462, 562, 562], 0.25),
        ([600, 100, 700, 200], 0.0),
        ([412, 412, 512, 512], 1.0),
    ],
    ids=["left", "right", "top", "corner", "outside", "touching"],
)
def test_share_of_a_face_inside_the_picture(box: list[float], inside: float) -> None:
    assert quality_of(ASTRONAUT, detections(box)).inside == pytest.approx(inside)


def test_larger_face_covers_a_smaller_one_and_not_the_other_way_round() -> None:
    small, large = [100, 100, 140, 140], [120, 80, 200, 160]
    faces = detections(small, large)
    assert quality_of(ASTRONAUT, faces, 0).clear == pytest.approx(0.5)
    assert quality_of(ASTRONAUT, faces, 1).clear == 1
    alone = quality_of(ASTRONAUT, detections(small))
    assert alone.clear == 1
    assert quality_of(ASTRONAUT, faces, 0).total < alone.total


def test_native_crop_is_the_recording_itself() -> None:
    crop = cut(ASTRONAUT, FACE, MARKS)
    x, y = crop.native_origin
    height, width = crop.native.shape[:2]
    assert (x, y, width, height) == (131, 10, 180, 224)  # half a box more on every side
    assert_array_equal(crop.native, ASTRONAUT[y : y + height, x : x + width])
    assert crop.aligned.shape == (128, 128, 3)


@pytest.mark.parametrize("box", [[-60, -60, 20, 20], [500, 500, 600, 600], [900, 900, 950, 950]])
def test_native_crop_at_the_edge_is_not_empty(box: list[float]) -> None:
    crop = cut(ASTRONAUT, np.array(box, np.float32), None)
    assert min(crop.native_origin) >= 0


# --- is it usable ------------------------------------------------------------------------------

GOOD = Quality(
    eye_px=30,
    sharpness=0.2,
    turn=0.1,
    exposure=0.5,
    contrast=0.2,
    inside=1,
    clear=1,
    score=0.9,
    total=0.8,
)
FLAWS = {  # in the order in which they are looked for
    Reason.LOW_SCORE: {"score": 0.44},
    Reason.CUT_OFF: {"inside": 0.84},
    Reason.COVERED: {"clear": 0.74},
    Reason.TOO_SMALL: {"eye_px": 5.9},
    Reason.TURNED: {"turn": 0.76},
    Reason.TOO_DARK: {"exposure": 0.07},
    Reason.TOO_BRIGHT: {"exposure": 0.96},
    Reason.BLURRED: {"sharpness": 0.02},
}


@pytest.mark.parametrize("reason", FLAWS)
def test_each_flaw_is_named(reason: Reason) -> None:
    assert judge(GOOD, SETTINGS) is None
    assert judge(dataclasses.replace(GOOD, **FLAWS[reason]), SETTINGS) is reason


def test_first_of_several_flaws_is_named() -> None:
    flaws = list(FLAWS.items())
    for i, (reason, _) in enumerate(flaws):
        values = {k: v for _, flaw in reversed(flaws[i:]) for k, v in flaw.items()}
        assert judge(dataclasses.replace(GOOD, **values), SETTINGS) is reason


def test_a_face_exactly_at_the_limits_is_usable() -> None:
    s = SETTINGS
    just = Quality(
        eye_px=s.min_eye_px,
        sharpness=s.min_sharpness,
        turn=s.max_turn,
        exposure=s.min_exposure,
        contrast=0,
        inside=s.min_inside,
        clear=s.min_clear,
        score=s.min_score,
        total=0.1,
    )
    assert judge(just, s) is None
    assert judge(dataclasses.replace(just, exposure=s.max_exposure), s) is None


def test_every_reason_has_a_text() -> None:
    assert set(REASON_TEXT) == set(Reason)


# --- while a track runs ------------------------------------------------------------------------

_RANDOM = np.random.default_rng(0)
PICTURES = [_RANDOM.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(8)]
# Pictures that differ in small, too.
SMOOTH: list[Image] = [
    cv2.normalize(cv2.GaussianBlur(x, (0, 0), 12), None, 20, 220, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    for x in PICTURES
]


def face(number: int, seconds: float, total: float, picture: Image = PICTURES[0]) -> Candidate:
    return Candidate(
        number, seconds, dataclasses.replace(GOOD, total=total), FaceCrop(picture, picture, (0, 0))
    )


offers = st.lists(
    st.tuples(
        st.floats(0.01, 3), st.floats(0.05, 1), st.sampled_from([None, None, None, Reason.BLURRED])
    ),
    max_size=60,
)


@given(offers=offers, capacity=st.integers(1, 8))
@patient
def test_a_full_pool_drops_faces_but_never_the_best(
    offers: list[tuple[float, float, Reason | None]], capacity: int
) -> None:
    pool = Pool(capacity)
    seconds, kept, best = 0.0, set[int](), {True: 0.0, False: 0.0}
    for number, (gap, total, reason) in enumerate(offers):
        seconds += gap
        out = pool.offer(face(number, seconds, total), reason)
        kept.add(number)
        if out is not None:
            kept.remove(out)  # a face that is there, or this one
        unusable = {pool.best_unusable.face} if pool.best_unusable else set()
        assert {c.face for c in pool.usable} | unusable == kept
        assert len(pool.usable) <= capacity
        assert [c.seconds for c in pool.usable] == sorted(c.seconds for c in pool.usable)
        best[reason is None] = max(best[reason is None], total)
        if pool.usable:
            assert max(c.quality.total for c in pool.usable) == best[True]
        if pool.best_unusable:
            assert pool.best_unusable.quality.total == best[False]


def measure_spread(quality_of: Sequence[float], capacity: int) -> tuple[float, float]:
    """Return the longest time without a kept face in a track of 1 s, and their mean quality."""
    pool = Pool(capacity)
    for k, total in enumerate(quality_of):
        pool.offer(face(k, k / len(quality_of), total), None)
    kept = [0.0, *(c.seconds for c in pool.usable), 1.0]
    return float(np.diff(kept).max()), float(np.mean([c.quality.total for c in pool.usable]))


@pytest.mark.parametrize("capacity", [6, 12, 27])
def test_equally_good_faces_are_kept_from_the_whole_track(capacity: int) -> None:
    assert measure_spread([0.7] * 500, capacity)[0] <= 3 / capacity


@given(seed=st.integers(0, 1000), capacity=st.integers(6, 27))
@example(seed=0, capacity=27)
@patient
def test_faces_of_similar_quality_are_kept_from_the_whole_track(seed: int, capacity: int) -> None:
    quality_of = np.random.default_rng(seed).uniform(0.69, 0.71, 400)
    assert measure_spread(quality_of.tolist(), capacity)[0] <= 3.5 / capacity


@given(seed=st.integers(0, 1000), capacity=st.integers(6, 27))
@patient
def test_better_faces_are_kept(seed: int, capacity: int) -> None:
    quality_of = np.random.default_rng(seed).uniform(0.2, 1, 400)
    assert measure_spread(quality_of.tolist(), capacity)[1] > 0.8  # of 0.6 on average


# --- at its end --------------------------------------------------------------------------------


def changed_settings(**changed: float) -> SelectSettings:
    return SETTINGS.model_copy(update=changed)


def select(faces: Sequence[Candidate], **changed: float) -> Choice:
    pool = Pool(100)
    for c in faces:
        pool.offer(c, None)
    return choose(pool, changed_settings(**changed))


def of(choice: Choice, reason: Reason) -> set[int]:
    return {number for number, r in choice.reasons.items() if r is reason}


@st.composite
def tracks(draw: st.DrawFn) -> list[Candidate]:
    seconds, faces = 0.0, []
    for number in range(draw(st.integers(1, 40))):
        seconds += draw(st.floats(0.01, 2))
        faces.append(
            face(number, seconds, draw(st.floats(0.05, 1)), SMOOTH[draw(st.integers(0, 7))])
        )
    return faces


@given(faces=tracks(), auxiliaries=st.integers(0, 9))
@patient
def test_every_usable_face_gets_one_reason(faces: list[Candidate], auxiliaries: int) -> None:
    choice = select(faces, auxiliaries=auxiliaries)
    totals = {c.face: c.quality.total for c in faces}
    pictures = {c.face: id(c.crop.aligned) for c in faces}
    assert choice.reasons.keys() == totals.keys()
    assert set(choice.reasons.values()) <= {
        Reason.LR0,
        Reason.AUX,
        Reason.DUPLICATE,
        Reason.REDUNDANT,
    }
    (lr0,) = of(choice, Reason.LR0)
    assert totals[lr0] == max(totals.values())
    assert choice.shown is not None and choice.shown.face == lr0
    chosen = {lr0} | of(choice, Reason.AUX)
    assert choice.kept == chosen
    kept_pictures = [pictures[n] for n in chosen]
    assert len(set(kept_pictures)) == len(kept_pictures), "no picture is kept twice"
    assert all(pictures[n] in kept_pictures for n in of(choice, Reason.DUPLICATE))
    assert len(chosen) - 1 == min(auxiliaries, len(set(pictures.values())) - 1), (
        "as many as are asked for and there are"
    )
    assert all(pictures[n] not in kept_pictures for n in of(choice, Reason.REDUNDANT))


def test_nearly_the_same_picture_is_a_duplicate() -> None:
    noisy = np.clip(SMOOTH[0] + _RANDOM.normal(0, 2, SMOOTH[0].shape), 0, 255).astype(np.uint8)
    brighter = np.clip(SMOOTH[0].astype(int) + 10, 0, 255).astype(np.uint8)
    pictures = [SMOOTH[0], noisy, brighter, SMOOTH[1]]
    choice = select(
        [face(k, k, 0.9 - 0.1 * k, picture) for k, picture in enumerate(pictures)], auxiliaries=3
    )
    assert choice.reasons == {
        0: Reason.LR0,
        1: Reason.DUPLICATE,
        2: Reason.DUPLICATE,
        3: Reason.AUX,
    }


def test_what_counts_as_a_duplicate_can_be_set() -> None:
    faces = [face(k, k, 0.9 - 0.1 * k, picture) for k, picture in enumerate(SMOOTH[:3])]
    assert of(select(faces, duplicate=1.0), Reason.AUX) == {1, 2}
    mixed = np.asarray(cv2.addWeighted(SMOOTH[0], 0.7, SMOOTH[1], 0.3, 0), np.uint8)
    similar = [faces[0], face(1, 1, 0.8, mixed)]
    assert of(select(similar, duplicate=0.985), Reason.AUX) == {1}
    assert of(select(similar, duplicate=0.5), Reason.DUPLICATE) == {1}


def test_auxiliaries_come_from_different_periods() -> None:
    """The best faces all come in the first second of eight; others come from later periods."""
    faces = [face(k, k / 8, 0.9 - 0.01 * k, SMOOTH[k]) for k in range(4)]
    faces += [face(k, 2.0 * (k - 3), 0.5, SMOOTH[k]) for k in range(4, 8)]  # at 2, 4, 6 and 8 s
    kept = select(faces, auxiliaries=4).kept
    assert {min(int(c.seconds / 2), 3) for c in faces if c.face in kept} == {0, 1, 2, 3}
    assert len(kept) == 5


def test_the_better_face_of_a_period_is_chosen() -> None:
    faces = [
        face(0, 0, 0.9, SMOOTH[0]),
        face(1, 3, 0.5, SMOOTH[1]),
        face(2, 3.5, 0.6, SMOOTH[2]),
        face(3, 4, 0.5, SMOOTH[3]),
    ]
    choice = select(faces, auxiliaries=1)
    assert choice.reasons == {
        0: Reason.LR0,
        1: Reason.REDUNDANT,
        2: Reason.AUX,
        3: Reason.REDUNDANT,
    }


def test_best_unusable_face_is_shown_when_there_is_no_usable_one() -> None:
    pool = Pool(3 * POOL_FACTOR)
    for k, total in enumerate((0.2, 0.4, 0.3)):
        pool.offer(face(k, k, total), Reason.TOO_SMALL)
    choice = choose(pool, SETTINGS)
    assert choice.reasons == {}
    assert choice.shown is not None and choice.shown.face == 1
    assert choice.kept == {1}


def test_unusable_face_is_not_shown_beside_a_usable_one() -> None:
    pool = Pool(3 * POOL_FACTOR)
    pool.offer(face(0, 0, 0.9), Reason.TURNED)
    pool.offer(face(1, 1, 0.1), None)
    choice = choose(pool, SETTINGS)
    assert (choice.reasons, choice.kept) == ({1: Reason.LR0}, {1})


def test_track_without_any_face_shows_none() -> None:
    choice = choose(Pool(3), SETTINGS)
    assert (choice.reasons, choice.shown, choice.kept) == ({}, None, set())
