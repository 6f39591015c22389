"""What an evaluation varies and shows: degradations, systems, presets, and the tables of what came
of them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fasr_video.errors import UsageError
from fasr_video.evaluation import degradations, open_set, protocols, systems, verification
from fasr_video.evaluation.compare import _baselines
from fasr_video.evaluation.presets import PRESETS
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.report import SystemInfo, gain_table, split_table
from fasr_video.evaluation.scoring import Scored, recognition
from fasr_video.evaluation.systems import Axes, System, labels, suits
from fasr_video.evaluation.tables import Cell, Column, Row, Table
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.combiner import FeatureCombiner
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import shrink
from fasr_video.sr.surveillance import Surveillance
from tests.support.drawn import draw_face, make_photos

# ------------------------------------------------------------------------- degradations and systems


@pytest.mark.parametrize("text", ["16", "8", "12:camera", "16:jpeg-30", "16:h264-35"])
def test_a_degradation_makes_small_faces_by_their_own_seeds(text: str) -> None:
    degradation = degradations.parse(text)
    assert str(degradation) == text
    first, second = draw_face(1, 0), draw_face(2, 0)
    both = degradation([first, second], [7, 8])
    assert [face.shape for face in both] == [(degradation.side, degradation.side, 3)] * 2
    assert (degradation([second], [8])[0] == both[1]).all()


def test_the_plain_degradation_is_that_of_the_papers() -> None:
    small = degradations.parse("16")([draw_face(1, 0)], [0])[0]
    wanted = shrink(as_tensor([draw_face(1, 0)]), 16)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(small - wanted).max() <= 0.5 + 1e-4
    assert (degradations.repeated(small)[::8, ::8] == small).all()


def test_a_face_by_a_camera_has_the_cameras_damage() -> None:
    """Enlarged it is what training sees, but for the rounding to whole numbers."""
    faces = [draw_face(1, 0), draw_face(2, 0)]
    small = degradations.parse("16:camera")(faces, [7, 8])
    expected = Surveillance(side=(16, 16))(as_tensor(faces), [7, 8])
    rounding = 0.5 / 255 * 1.6  # bicubic weights, whose sizes sum to at most 1.6 over both axes
    assert (
        as_tensor(degradations.enlarged(small)) - expected
    ).abs().max() < rounding + 0.5 / 255 + 1e-5


@pytest.mark.parametrize(
    "text", ["", "x", "2", "128", "16:fog", "16:jpeg", "16:jpeg-99", "16:h264-60", "12:h264-30"]
)
def test_an_unknown_degradation_gives_a_clear_error(text: str) -> None:
    with pytest.raises(UsageError):
        degradations.parse(text)


@pytest.mark.parametrize("side", [4, 48, 49, 64])
def test_a_camera_sees_faces_of_every_size(side: int) -> None:
    assert degradations.parse(f"{side}:camera")([draw_face(1, 0)], [7])[0].shape == (side, side, 3)


def combiner_of(eta: float, folder: Path) -> Path:
    """Write a Feature Combiner as if it had been trained at this eta."""
    path = folder / f"{eta:g}.safetensors"
    merging.save(FeatureCombiner(eta=eta), path)
    return path


def test_options_are_combined_where_they_apply_to_a_method(tmp_path: Path) -> None:
    sides = [degradations.parse(s) for s in ("8", "16")]
    files = [combiner_of(eta, tmp_path) for eta in (0.25, 1.0)]
    axes = Axes(
        ["hr", "bicubic", "fasr", "fasr++"], sides, ["dpmpp-2"], combiner=files, references=[2]
    )
    all_systems = axes.systems()
    assert [s.method for s in all_systems] == ["hr"] * 2 + ["bicubic"] * 2 + ["fasr"] * 2 + [
        "fasr++"
    ] * 4
    assert all(
        s.sampler is None and s.combiner is None and s.references is None for s in all_systems[:4]
    )
    assert all(
        s.combiner is None and s.merge == "mean" and s.references == 2 for s in all_systems[4:6]
    )
    assert labels(all_systems)[-4:] == [
        "fasr++ 8 px combiner=0.25 eta=0.25",
        "fasr++ 8 px combiner=1 eta=1",
        "fasr++ 16 px combiner=0.25 eta=0.25",
        "fasr++ 16 px combiner=1 eta=1",
    ]
    assert labels([System("bicubic"), System("fasr", sampler="dpmpp-2")]) == ["bicubic", "fasr"]
    twins = [System("fasr", model=Path(folder) / "sr.safetensors") for folder in "ab"]
    assert labels(twins) == ["fasr model=sr", "fasr model=sr (2)"]
    with pytest.raises(UsageError, match="no such method"):
        Axes(["magic"]).systems()


def test_a_sampler_draws_only_methods_of_its_process() -> None:
    """Otherwise rows of four kinds of SDE would be one picture under four names."""
    sdes = [
        "sde-sr-ve",
        "sde-sr-vecs",
        "sde-sr-vp",
        "sde-sr-subvp",
        "srdg",
        "sr3",
        "fasr",
        "bicubic",
    ]
    axes = Axes(sdes, sampler=["dpmpp-sde-2"])
    samplers_by_method = {s.method: s.sampler for s in axes.systems()}
    assert {m for m, sampler in samplers_by_method.items() if sampler} == {
        "sde-sr-ve",
        "srdg",
        "fasr",
    } and len(samplers_by_method) == 8
    assert axes.unsuited() == ["sde-sr-vecs", "sde-sr-vp", "sde-sr-subvp", "sr3", "bicubic"]
    both = Axes(["sde-sr-ve", "sde-sr-vp"], sampler=["ve-2", "vp-3"]).systems()
    assert [(s.method, s.sampler) for s in both] == [("sde-sr-ve", "ve-2"), ("sde-sr-vp", "vp-3")]
    assert suits("fasr++", "pc-2000") and not suits("idfsr", "pc-2000") and suits("idfsr", "ddim-2")
    with pytest.raises(UsageError, match="sampler ve-2: none of sr3, bicubic"):
        Axes(["sr3", "bicubic"], sampler=["ve-2"]).systems()


def test_labels_name_the_options_in_which_systems_differ() -> None:
    """IDFSR has its own weights; a search that joins the pooled feature knows how that is
    merged.
    """
    models = [Path("a.safetensors"), Path("b.safetensors")]
    assert [s.method for s in Axes(["idfsr", "fasr"], model=models).systems()] == [
        "idfsr",
        "fasr",
        "fasr",
    ]
    joined = Axes(["sde-sr-ve"], merge=["mean", "median"], fuse=["sr", "pooled+sr"]).systems()
    assert [(s.fuse, s.merge) for s in joined] == [
        ("sr", None),
        ("pooled+sr", "mean"),
        ("pooled+sr", "median"),
    ]


def test_a_row_with_more_references_than_exist_gives_a_warning() -> None:
    trial = protocols.celeba(make_photos([4, 6, 12]))
    warnings = systems._few_references([System("fasr", references=k) for k in (1, 8)], trial.items)
    assert warnings == [
        "references=8: 2 of 3 searches have fewer auxiliaries, 2 the least; all of theirs were used"
    ]


def test_gains_are_over_a_system_of_the_same_degradation() -> None:
    """A face of 24 px is easier than one of 12: each system is held against its own size's
    baseline.
    """
    sides = [degradations.parse(s) for s in ("12", "24")]
    found = Axes(["hr", "bicubic", "fasr"], sides).systems()
    names = labels(found)
    over = _baselines(found, names, None)
    assert over["fasr 12 px"] == "bicubic 12 px" and over["fasr 24 px"] == "bicubic 24 px"
    assert _baselines(found, names, "fasr")["bicubic 24 px"] == "fasr 24 px"
    assert _baselines(found[2:4], ["a", "b"], "b") == {"a": "a", "b": "b"}
    with pytest.raises(UsageError, match="no such system"):
        _baselines(found, names, "gfpgan")


def test_every_preset_is_a_comparison_of_known_systems() -> None:
    for preset in PRESETS.values():
        axes = dict(preset.axes)
        sides = [degradations.parse(d) for d in axes.pop("degrade")]
        references = [int(r) for r in axes.pop("references", ())]
        found = Axes(degradation=sides, references=references, **axes).systems()  # type: ignore[arg-type]
        assert found and len(set(labels(found))) == len(found)


# ------------------------------------------------------------------------------------------- tables

TABLE = Table(
    "Two of three",
    "system",
    (Column("up", 2, "up"), Column("down", 1, "down"), Column("note")),
    (
        Row("hr", (Cell(9.0), Cell(0.0), Cell(1.0)), compared=False),
        Row("a_b", (Cell(1.001, "± 0.10"), Cell(3.0), Cell(2.0))),
        Row("c", (Cell(1.0, "± 0.20"), Cell(2.0), Cell(3.0))),
        Row("d", (Cell(0.5), Cell(), Cell(4.0))),
    ),
)


def test_best_and_second_are_marked_by_rounded_values() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[2] == "| system | up ↑ | down ↓ | note |"
    assert lines[4:] == [
        "| hr | 9.00 | 0.0 | 1.000 |",
        "| a_b | **1.00** ± 0.10 | _3.0_ | 2.000 |",
        "| c | **1.00** ± 0.20 | **2.0** | 3.000 |",
        "| d | _0.50_ | – | 4.000 |",
    ]


def test_systems_are_compared_at_the_same_degradation() -> None:
    rows = tuple(
        Row(n, (Cell(v),), among=a)
        for n, v, a in (("a", 1, "8"), ("b", 2, "8"), ("a", 5, "16"), ("b", 4, "16"))
    )
    table = Table("Sizes", "system", (Column("up", 0, "up"),), rows).without_empty_columns()
    assert [table.rank(k, 0) for k in range(4)] == [2, 1, 1, 2]


def random_scores(trial: Trial, seed: int, right: float) -> Scored:
    """Random scores, those of the own subject higher by `right`."""
    scores = np.random.default_rng(seed).normal(size=(len(trial.items), len(trial.gallery)))
    own = np.array(trial.own)
    enrolled = np.flatnonzero(own >= 0)
    scores[enrolled, own[enrolled]] += right
    found = open_set.searches(scores, own, trial.people)
    hit = np.where(found.mated, found.rank == 1, np.nan)
    items = {"own": found.right, "hit": hit}
    values = recognition(found.right[enrolled], scores.ravel(), found, len(trial.gallery))
    return Scored(
        items, found.right[enrolled], scores.ravel(), found, None, values, len(trial.gallery)
    )


def test_an_open_set_is_reported_by_group_and_against_a_baseline() -> None:
    photos = [
        replace(p, labels={"camp": "north" if k % 2 else "south"})
        for k, p in enumerate(make_photos([3] * 25))
    ]
    photos = [
        replace(p, labels={"camp": "north" if int(p.person[1:]) % 2 else "south"}) for p in photos
    ]
    trial = protocols.leave_some_out(protocols.celeba(photos), 0.5)
    found = {
        "weak": random_scores(trial, 0, 0.5),
        "strong": random_scores(trial, 1, 4.0),
        "copy": random_scores(trial, 1, 4),
    }
    shows = {
        name: SystemInfo("16", True, [16 if name == "weak" else 8] * len(trial.items))
        for name in found
    }
    table = split_table(found, trial, shows, "camp", scorer="judge")
    heads = [c.title for c in table.columns]
    assert heads == ["probes", "AUC", "Rank-1", "FNIR at FPIR 0.1", "FPIR where all's is 0.1"]
    cells = {row.name: row.cells for row in table.rows}
    assert set(cells) == {f"{camp}: {name}" for camp in ("north", "south") for name in found}
    assert all(c.around.startswith("(") for row in table.rows for c in row.cells[1:])
    assert cells["north: strong"][3].value < cells["north: weak"][3].value
    threshold = open_set.threshold_at(found["weak"].searches, 0.1)  # type: ignore[arg-type]
    strangers = [
        i
        for i, k in enumerate(trial.own)
        if k < 0 and trial.items[i].probe.labels["camp"] == "north"
    ]
    passed = np.mean([found["weak"].searches.wrong[i] >= threshold for i in strangers])  # type: ignore[union-attr]
    assert cells["north: weak"][4].value == pytest.approx(passed)
    assert [r.name for r in split_table(found, trial, shows, "size", scorer="judge").rows] == [
        "16: weak",
        "8: strong",
        "8: copy",
    ]

    gains = gain_table(found, trial, {"weak": "weak", "strong": "weak", "copy": "strong"}, "judge")
    more = {
        r.name: dict(zip([c.title for c in gains.columns], r.cells, strict=True))
        for r in gains.rows
    }
    assert set(more["strong over weak"]) == {"own score", "Rank-1", "FNIR at FPIR 0.1"}
    assert (
        more["strong over weak"]["Rank-1"].value
        > 0
        > more["strong over weak"]["FNIR at FPIR 0.1"].value
    )
    assert more["copy over strong"]["FNIR at FPIR 0.1"] == Cell(0.0, "(+0.000 to +0.000)")


def test_the_equal_error_rate_is_within_its_bounds() -> None:
    generator = np.random.default_rng(0)
    own, others = generator.normal(1.5, 1, 80), generator.normal(0, 1, 4000)
    low, high = verification.eer_bounds(own, others, [str(k // 2) for k in range(80)])
    assert low < verification.eer(own, others) < high and high - low < 0.2
    assert verification.eer_bounds([2, 3], [0, 1], ["a", "b"]) == (0, 0)


def test_csv_has_unrounded_numbers_and_latex_has_marks() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[1] == {
        "system": "a_b",
        "up": "1.001",
        "up around": "± 0.10",
        "down": "3.0",
        "note": "2.0",
    }
    assert rows[3]["down"] == ""
    latex = TABLE.latex()
    assert r"a\_b & \textbf{1.00} $\pm$ 0.10 & \underline{3.0} & 2.000 \\" in latex
    assert latex.count(r"\\") == 5 and r"\begin{tabular}{lrrr}" in latex


def test_columns_without_any_value_are_left_out() -> None:
    silent = replace(
        TABLE, rows=tuple(replace(r, cells=(Cell(), *r.cells[1:])) for r in TABLE.rows)
    )
    assert [c.title for c in silent.without_empty_columns().columns] == ["down", "note"]
