"""Cases held against ground truth: by hand where the answer is known, and on a clip of the
fixtures.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fasr_video import cli
from fasr_video.case.case import Case
from fasr_video.configs import settings as configs
from fasr_video.errors import InputError
from fasr_video.evaluation import detection, open_set, video
from fasr_video.evaluation.open_set import UNLISTED
from fasr_video.evaluation.video import Truth, _TrackResult
from fasr_video.pipeline.run import run
from tests.support.paths import PORTRAITS

SETTINGS = ("sampling.fps=3", "track.min_sightings=2", "restore.method=bicubic")


@pytest.fixture(scope="module")
def case(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("video") / "case"
    run([entrance], out, configs.load("cpu", SETTINGS), gallery=PORTRAITS / "mugshots")
    return out


def test_the_sample_is_found_tracked_and_named(case: Path, tmp_path: Path) -> None:
    """One person in view; the mugshot is the photograph that the clip was made from."""
    evaluation = video.evaluate([case], PORTRAITS / "ground_truth.json", tmp_path / "out")
    values = {
        t.title: {c.title: t.rows[-1].cells[k].value for k, c in enumerate(t.columns)}
        for t in evaluation.tables
    }
    assert values["Detection"]["faces"] > 5 and values["Detection"]["recall"] > 0.7
    assert values["Tracking"]["IDF1"] > 80 and values["Tracking"]["switches"] == 0
    assert values["Tracks"] == {
        "usable tracks": 1,
        "nobody's or mixed": 0,
        "people": 1,
        "people without a track": 0,
    }
    searched = {r.name: r.cells[2].value for r in evaluation.tables[-1].rows}
    assert not evaluation.warnings and (tmp_path / "out" / "plots" / "cmc.csv").exists()
    assert searched["pooled"] == 1 and set(searched) == {"best", "pooled", "sr", "joined"}
    assert not evaluation.left_out and "HOTA" in evaluation.report.read_text()
    assert len(list((tmp_path / "out" / "tables").glob("*.tex"))) == 4


def test_clips_without_truth_are_listed(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truth.json").write_text(
        json.dumps({"other.mp4": {"fps": 25, "people": [], "frames": {}}})
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        arguments = [
            "eval",
            "video",
            str(case),
            "--truth",
            str(tmp_path / "truth.json"),
            "--out",
            str(tmp_path / "o"),
        ]
        patch.setattr(sys, "argv", ["fasr-video", *arguments])
        cli.main()
    assert ended.value.code == 2 and "none of the cases' files" in capsys.readouterr().err


def test_a_case_given_twice_counts_once_and_unknown_people_give_a_warning(
    case: Path, tmp_path: Path
) -> None:
    truth = json.loads((PORTRAITS / "ground_truth.json").read_text())
    renamed = (
        json.dumps(truth)
        .replace("grace_hopper", "g. hopper")
        .replace("eileen_collins", "e. collins")
    )
    (tmp_path / "truth.json").write_text(renamed)
    evaluation = video.evaluate(
        [case, case / ".." / "case"], tmp_path / "truth.json", tmp_path / "out"
    )
    assert [line.reason for line in evaluation.left_out] == ["the same case twice"] and len(
        evaluation.tables[0].rows
    ) == 1
    assert (
        len(evaluation.warnings) == 1 and "are no subjects of the gallery" in evaluation.warnings[0]
    )
    assert evaluation.warnings[0] in evaluation.report.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "0 frames a second"),
        ({"fps": -25}, "-25 frames a second"),
        ({"people": []}, "a is in a frame and not among people"),
        ({"frames": {"-1": {}}}, "frame -1"),
        ({"frames": {"0": {"a": {"box": [9, 0, 3, 5]}}}}, "is no box"),
    ],
)
def test_impossible_truth_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    clip = {"fps": 25, "people": ["a"], "frames": {"0": {"a": {"box": [0, 0, 3, 5]}}}}
    (tmp_path / "truth.json").write_text(json.dumps({"clip.mp4": {**clip, **change}}))
    with pytest.raises(InputError, match=message):
        video.read_truth(tmp_path / "truth.json")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": {}}', '{"a": {"fps": 0, "people": [], "frames": {"x": {}}}}']
)
def test_a_file_that_is_no_ground_truth_gives_a_one_line_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(InputError, match="no ground truth"):
        video.read_truth(tmp_path / "truth.json")


def test_frames_without_faces_count_too() -> None:
    """At 3 looks a second of 25 fps: the first frame of each third of a second."""
    truth = Truth(Fraction(25), ("a",), {k: {} for k in range(50)})
    looked_at = list(video._processed_frames(truth, configs.load("cpu", ("sampling.fps=3",))))
    assert looked_at == [0, 9, 17, 25, 34, 42]
    assert list(video._processed_frames(truth, configs.load("cpu", ("sampling.every=20",)))) == [
        0,
        20,
        40,
    ]


Listed = list[tuple[str, float]]


def answer(
    person: str,
    enrolled: bool,
    listed: Listed,
    named: bool,
    *,
    gallery: int = 30,
    most_candidates: int = 10,
) -> _TrackResult:
    return _TrackResult(person, enrolled, {"joined": listed}, gallery, most_candidates, named)


def searched(answers: list[_TrackResult]) -> dict[str, float]:
    """The numbers of the joined list by column."""
    table = video._search_table(answers)
    (row,) = table.rows
    return {column.title: cell.value for column, cell in zip(table.columns, row.cells, strict=True)}


def test_a_person_who_is_not_on_the_list_has_no_rank_and_passes_no_threshold() -> None:
    lists: dict[str, Listed] = {"pooled": [("a", 0.9), ("b", 0.4)]}
    results = [
        _TrackResult("a", True, lists, 5, 2, True),
        _TrackResult("c", True, lists, 5, 2, True),
        _TrackResult("x", False, lists, 5, 2, False),
        _TrackResult("a", True, {"pooled": []}, 5, 2, False),
    ]
    searches = video._searches(results, "pooled")
    assert searches is not None and searches.rank.tolist() == [1, UNLISTED, 0, UNLISTED]
    assert (
        searches.right[0] == 0.9
        and np.isneginf(searches.right[[1, 3]]).all()
        and np.isnan(searches.right[2])
    )
    assert searches.wrong.tolist() == [0.4, 0.9, 0.9, -np.inf]
    assert open_set.fnir(searches, [-np.inf, 0.9, 1.0]) == pytest.approx([2 / 3, 2 / 3, 1])
    assert video._searches(results, "sr") is None


def test_empty_lists_count_like_full_lists_where_nobody_passes() -> None:
    """Ten enrolled people, five of them found; ten strangers, one of whom somebody passes for."""
    identified = [answer(f"p{k}", True, [(f"p{k}", 0.9), ("o", 0.3)], True) for k in range(5)]
    named = [answer("s0", False, [("o", 0.8)], True)]
    missed = [answer(f"p{k}", True, [("o", 0.3), (f"p{k}", 0.2)], False) for k in range(5, 10)]
    strangers = [answer(f"s{k}", False, [("o", 0.3)], False) for k in range(1, 10)]
    full = searched([*identified, *named, *missed, *strangers])
    short = searched(
        [*identified, *named, *(replace(a, lists={"joined": []}) for a in (*missed, *strangers))]
    )
    for values in (full, short):
        assert values["tracks of enrolled people"] == values["of others"] == 10
        assert values["Rank-1"] == values["FNIR at FPIR 0.1"] == values["FNIR as decided"] == 0.5
        assert values["FPIR as decided"] == 0.1
    assert full["Rank-5"] == 1 and short["Rank-5"] == 0.5


def test_a_list_has_no_rank_beyond_its_length(
    tmp_path: Path,
) -> None:
    """Two of four are not on lists that end at 0.5, over the threshold of 0.4 that strangers
    leave.
    """
    near: Listed = [("o", 0.7), ("q", 0.6), ("r", 0.5)]
    identified = [
        answer(f"p{k}", True, [(f"p{k}", 0.9), *near[:2]], True, most_candidates=3)
        for k in range(2)
    ]
    unlisted = [answer(f"p{k}", True, near, True, most_candidates=3) for k in range(2, 4)]
    strangers = [answer(f"s{k}", False, [("o", 0.4)], False, most_candidates=3) for k in range(10)]
    values = searched([*identified, *unlisted, *strangers])
    assert values["FNIR at FPIR 0.1"] == 0.5 and values["Rank-1"] == 0.5 and "Rank-5" not in values
    longer_lists = [replace(a, most_candidates=5) for a in (*identified, *unlisted, *strangers)]
    assert searched(longer_lists)["Rank-5"] == 0.5
    assert not video._plot([*identified, *unlisted, *strangers], tmp_path)
    assert [
        line.split(",")[1] for line in (tmp_path / "cmc.csv").read_text().split()[1:] if "," in line
    ] == [*"123"]


def test_empty_lists_differ_from_missing_probes(case: Path, tmp_path: Path) -> None:
    """As a search for identification leaves it when nobody passes, and no reconstruction was
    searched with.
    """
    shutil.copytree(case, tmp_path / "case")
    with Case.open(tmp_path / "case") as opened, opened.transaction():
        opened.db.execute("DELETE FROM candidate")
        opened.db.execute("DELETE FROM probe WHERE kind = 'sr'")
        opened.db.execute("UPDATE answer SET verdict = 'unknown'")
    table = video.evaluate(
        [tmp_path / "case"], PORTRAITS / "ground_truth.json", tmp_path / "out"
    ).tables[-1]
    assert [c.title for c in table.columns] == [
        "tracks of enrolled people",
        "of others",
        "Rank-1",
        "FNIR as decided",
    ]
    rows = {row.name: [cell.value for cell in row.cells] for row in table.rows}
    assert rows.keys() == {"best", "pooled", "joined"} and rows["joined"] == [1, 0, 0, 1]


def test_average_precision_is_the_area_under_monotonic_precision() -> None:
    """Two faces; a hit, a false alarm, a hit: precision 1, 1/2, 2/3, so the area is (1 + 2/3) /
    2.
    """
    faces = np.array([[0, 0, 10, 10], [50, 50, 60, 70]], np.float32)
    boxes = np.array(
        [[0, 0, 10, 10], [200, 200, 210, 210], [50, 50, 60, 70], [0, 1, 10, 11]], np.float32
    )
    rows = detection.assign(boxes[:3], np.array([0.9, 0.8, 0.7], np.float32), faces)
    detections = detection.rank_detections(rows, detection.heights(faces))
    assert detection.average_precision(detections) == pytest.approx((1 + 2 / 3) / 2)
    assert detection.recall(detections) == 1 and detection.recall(detections, 0.8) == 0.5
    assert detection.threshold(detections, 0.9) == pytest.approx(0.9)
    doubled = detection.assign(boxes[[0, 3]], np.array([0.9, 0.8], np.float32), faces)
    assert [true for _, true, _ in doubled] == [True, False]
    assert detections.within(15, 100).faces.tolist() == [20]
    ignored = detection.assign(
        boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), faces, smallest=15
    )
    assert [true for _, true, _ in ignored] == [True]


def test_an_unsure_face_is_neither_a_miss_nor_a_false_alarm() -> None:
    """The second face is unsure: its detection counts for nothing, and a second one of the first
    face is wrong.
    """
    faces = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    boxes = np.array(
        [[50, 50, 60, 60], [0, 0, 10, 10], [0, 1, 10, 11], [90, 90, 99, 99]], np.float32
    )
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    unsure = np.array([False, True])
    matched = detection.match(boxes, scores, faces, ~unsure, overlap=0.5)
    assert matched.tolist() == [
        detection.UNCOUNTED,
        0,
        detection.FALSE_ALARM,
        detection.FALSE_ALARM,
    ]
    rows = detection.assign(boxes, scores, faces, unsure=unsure)
    assert [true for _, true, _ in rows] == [True, False, False]
    assert [true for _, true, _ in detection.assign(boxes, scores, faces)] == [
        True,
        True,
        False,
        False,
    ]


def test_the_largest_window_without_a_face_is_returned() -> None:
    """A face in the upper left third of 300x200: the right of the picture is larger than what lies
    below.
    """
    face = np.array([[10, 10, 90, 80]], np.float32)
    rows, columns = detection.window_between((200, 300), face, 96) or (slice(0), slice(0))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 192, 96, 288)
    assert detection.window_between((200, 150), face, 96) == (slice(96, 192), slice(0, 128))
    assert detection.window_between((96, 96), face, 96) is None
    assert detection.window_between((90, 300), np.zeros((0, 4), np.float32), 96) is None
