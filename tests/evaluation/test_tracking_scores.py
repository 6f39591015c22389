"""HOTA, IDF1 and MOTA: small cases worked out by hand, and TrackEval itself as the judge of the
rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fasr_video.boxes import iou_matrix
from fasr_video.evaluation.tracking import LabelledFrame, TrackingScores, score

# Who, and where (x of a box 10 px wide).
Sighting = tuple[int, float]


def frame(true: Sequence[Sighting], predicted: Sequence[Sighting]) -> LabelledFrame:
    def part(sightings: Sequence[Sighting]) -> tuple[Any, Any]:
        ids = np.array([i for i, _ in sightings], np.int64)
        return ids, np.array([[x, 0.0, x + 10, 10] for _, x in sightings]).reshape(-1, 4)

    return LabelledFrame(*part(true), *part(predicted))


# --- by hand --------------------------------------------------------------------------------------


def test_perfect_tracking_scores_1() -> None:
    """Whatever the identities are called."""
    frames = [frame([(1, k), (7, 100 - k)], [(52, k), (3, 100 - k)]) for k in range(10)]
    assert dataclasses.astuple(score(frames)) == pytest.approx((1, 1, 1, 1, 1, 0))


def test_no_detections_score_0() -> None:
    assert dataclasses.astuple(score([frame([(1, 0)], [])] * 4)) == pytest.approx(
        (0, 0, 0, 0, 0, 0)
    )


def test_wrong_detections_have_a_negative_mota() -> None:
    """Each frame brings one miss and one false face for one true face: MOTA is 1 - 2."""
    assert dataclasses.astuple(score([frame([(1, 0)], [(1, 50)])] * 4)) == pytest.approx(
        (0, 0, 0, 0, -1, 0)
    )


def test_one_switch_half_way_lowers_idf1_and_mota() -> None:
    """Eight sightings, four under each name. Every true sighting shares its name with 4 of the
    8.
    """
    frames = [frame([(1, 0)], [(1 if k < 4 else 2, 0)]) for k in range(8)]
    expected = TrackingScores(
        hota=math.sqrt(0.5), deta=1, assa=0.5, idf1=2 * 4 / (8 + 8), mota=1 - 1 / 8, switches=1
    )
    assert dataclasses.astuple(score(frames)) == pytest.approx(dataclasses.astuple(expected))


def test_missed_and_false_faces_lower_mota() -> None:
    """10 true, 9 found, 8 of them right: DetA 8 / 11, and each right one shares 8 of 11 with its
    partner.
    """
    frames = [frame([(1, 0)], [(1, 0)])] * 8 + [frame([(1, 0)], [(1, 50)]), frame([(1, 0)], [])]
    expected = TrackingScores(
        hota=8 / 11, deta=8 / 11, assa=8 / 11, idf1=16 / 19, mota=1 - 3 / 10, switches=0
    )
    assert dataclasses.astuple(score(frames)) == pytest.approx(dataclasses.astuple(expected))


def test_switch_is_counted_across_a_gap() -> None:
    frames = [frame([(1, 0)], [(1, 0)]), frame([(1, 0)], []), frame([(1, 0)], [(2, 0)])]
    assert score(frames).switches == 1


def test_crossed_names_are_two_switches() -> None:
    true = [(1, 0.0), (2, 50.0)]
    frames = [frame(true, [(1, 0), (2, 50)])] * 3 + [frame(true, [(2, 0), (1, 50)])] * 3
    result = score(frames)
    assert (result.switches, result.mota, result.idf1) == (
        2,
        pytest.approx(1 - 2 / 12),
        pytest.approx(0.5),
    )


def test_the_partner_of_the_frame_before_stays_while_it_fits() -> None:
    """Found face 2 lies better on the true one, but 1 was its partner and still overlaps by
    half.
    """
    frames = [frame([(1, 0)], [(1, 0)]), frame([(1, 0)], [(1, 3), (2, 0)])]
    assert score(frames).switches == 0


@pytest.mark.parametrize(("shift", "mota"), [(10 / 3, 1.0), (10 / 3 + 1e-3, -1.0)])
def test_half_overlap_is_enough(shift: float, mota: float) -> None:
    assert score([frame([(1, 0)], [(1, shift)])]).mota == pytest.approx(mota)


def test_localisation_counts_in_hota() -> None:
    """Boxes that share 0.5 are found at the 10 thresholds of 0.05 … 0.5, of 19."""
    assert score([frame([(1, 0)], [(1, 10 / 3)])] * 3).hota == pytest.approx(10 / 19)


# --- against TrackEval ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Any:
    """TrackEval 1.3.0 still says np.float, which numpy 2 no longer has."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (float, int, bool):
            if kind.__name__ not in np.__dict__:
                patch.setattr(np, kind.__name__, kind, raising=False)
        metrics = pytest.importorskip("trackeval.metrics")
        quiet = {"PRINT_CONFIG": False}
        judges = (metrics.HOTA(), metrics.CLEAR(quiet), metrics.Identity(quiet))

        def evaluate(frames: list[LabelledFrame]) -> TrackingScores:
            data = as_trackeval(frames)
            hota, clear, identity = (j.eval_sequence(data) for j in judges)
            return TrackingScores(
                hota=float(np.mean(hota["HOTA"])),
                deta=float(np.mean(hota["DetA"])),
                assa=float(np.mean(hota["AssA"])),
                idf1=float(identity["IDF1"]),
                mota=float(clear["MOTA"]),
                switches=int(clear["IDSW"]),
            )

        yield evaluate


def as_trackeval(frames: list[LabelledFrame]) -> dict[str, Any]:
    true = sorted({int(i) for f in frames for i in f.true_ids})
    predicted_ids = sorted({int(i) for f in frames for i in f.predicted_ids})
    return {
        "num_timesteps": len(frames),
        "num_gt_ids": len(true),
        "num_tracker_ids": len(predicted_ids),
        "num_gt_dets": sum(len(f.true_ids) for f in frames),
        "num_tracker_dets": sum(len(f.predicted_ids) for f in frames),
        "gt_ids": [np.array([true.index(i) for i in f.true_ids], int) for f in frames],
        "tracker_ids": [
            np.array([predicted_ids.index(i) for i in f.predicted_ids], int) for f in frames
        ],
        "similarity_scores": [iou_matrix(f.true_boxes, f.predicted_boxes) for f in frames],
    }


def sequence(seed: int, empty: bool) -> list[LabelledFrame]:
    """People who walk about and cross, found with errors: shaken, missed, false, renamed for a
    while or for good.
    """
    random = np.random.default_rng(seed)
    people, length = int(random.integers(1, 6)), int(random.integers(1, 40))
    where, step = random.uniform(0, 60, (people, 2)), random.normal(0, 2, (people, 2))
    side = random.uniform(15, 30, people)
    names = np.arange(people) + 10
    wrong, absent = random.uniform(0, 0.4), random.uniform(0, 0.3)
    frames = []
    for _ in range(length):
        where += step
        there = random.random(people) >= absent
        if not empty:
            there[0] = True
        if random.random() < wrong:
            names = random.permutation(names)
        if random.random() < wrong:
            names[random.integers(people)] = random.integers(100, 110)
        _, first = np.unique(names, return_index=True)
        caught = there & (random.random(people) >= wrong) & np.isin(np.arange(people), first)
        if not empty and not caught.any():
            caught[first[0]] = True
        true_boxes = np.c_[where, where + side[:, None]]
        shaken = true_boxes + random.normal(0, random.uniform(0, 5), true_boxes.shape)
        extra = int(random.integers(0, 2))
        false_corner = random.uniform(0, 60, (extra, 2))
        frames.append(
            LabelledFrame(
                np.flatnonzero(there),
                true_boxes[there],
                np.r_[names[caught], np.arange(extra) + 500],
                np.r_[shaken[caught], np.c_[false_corner, false_corner + 20]],
            )
        )
    return frames


def agree(ours: TrackingScores, trackevals: TrackingScores) -> None:
    for name, value in dataclasses.asdict(trackevals).items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-9), name


many = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(seed=st.integers(0, 2**32 - 1))
@many
def test_scores_agree_with_trackeval(judge: Any, seed: int) -> None:
    frames = sequence(seed, empty=False)
    agree(score(frames), judge(frames))


@example(seed=92480011)
@given(seed=st.integers(0, 2**32 - 1))
@many
def test_scores_with_empty_frames_agree_with_trackeval(judge: Any, seed: int) -> None:
    frames = sequence(seed, empty=True)
    agree(score(frames), judge(frames))


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(
            [frame([(1, 0)], [(1, 0)]), frame([(1, 0)], [(1, 3), (2, 0)])], id="partner kept"
        ),
        pytest.param(
            [
                frame([(1, 0)], [(1, 0)]),
                frame([(1, 0)], [(2, 50)]),
                frame([(1, 0)], [(1, 3), (2, 0)]),
            ],
            id="partner missed in between",
        ),
        pytest.param(
            [frame([(1, 0)], [(1, 0)]), frame([(1, 0)], []), frame([(1, 0)], [(1, 3), (2, 0)])],
            id="nothing found in between",
        ),
        pytest.param(
            [frame([(1, 0)], [(1, 0)]), frame([], [(1, 0)]), frame([(1, 0)], [(1, 3), (2, 0)])],
            id="nobody there in between",
        ),
        pytest.param([frame([(1, 0)], [])] * 3, id="nothing found"),
        pytest.param([frame([], [(1, 0)])] * 3, id="nobody there"),
        pytest.param([frame([], [])] * 3, id="nothing at all"),
    ],
)
def test_scores_of_edge_cases_agree_with_trackeval(judge: Any, frames: list[LabelledFrame]) -> None:
    agree(score(frames), judge(frames))


def test_random_sequences_have_all_kinds_of_errors() -> None:
    """Switches, misses and false faces occur, and the scores are spread."""
    results = [score(sequence(seed, empty=True)) for seed in range(60)]
    assert sum(r.switches > 0 for r in results) > 30
    assert np.ptp([r.hota for r in results]) > 0.4
    assert np.ptp([r.mota for r in results]) > 0.5
    assert any(len(f.true_ids) == 0 for seed in range(60) for f in sequence(seed, empty=True))
    assert any(len(f.predicted_ids) == 0 for seed in range(60) for f in sequence(seed, empty=True))
