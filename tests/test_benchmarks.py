"""What benchmarks compute: groups, bands, who is taken for whom, who is found, rates, merges."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bias_groups import (
    FMR,
    FULL_SIZE,
    View,
    describe_rank_correlations,
    describe_worst_group,
    false_matches,
    rate_multiples,
    show,
    view_table,
)
from detector_groups import FRAME, crop_at_random, find_faces, median_face_box, paste_on_scenes
from fairface import AGE, RACE_AND_GENDER, groups_of, read_unseen
from fpir import RATES, cross_validate
from merges import FeatureSet, compare_with_mean, load_combiners, merge_methods, merge_people
from not_faces import LabelledEvidence, measured_limits
from PIL import Image as PilImage
from results import format_share
from torch.nn import functional as F

from fasr_video.calibration.calibrate import LabelledProbe
from fasr_video.detection import open_detector
from fasr_video.evaluation.open_set import Scores
from fasr_video.gallery.encoder import Kind
from fasr_video.pipeline.evidence import Evidence
from fasr_video.pipeline.stills import read_still
from fasr_video.recognition.combiner import FeatureCombiner, Source, mean, save
from fasr_video.recognition.embedder import BuiltinEmbedder, as_tensor
from fasr_video.sr.degradation import shrink
from fasr_video.sr.restoration import as_image
from fasr_video.types import Image
from tests.support.paths import PORTRAITS

pytestmark = pytest.mark.usefixtures("one_thread")


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_a_share_is_written_with_wilsons_interval() -> None:
    assert format_share(np.array([True] * 8 + [False] * 2)) == "0.800 (0.490–0.943)"
    assert format_share(np.zeros(4, np.bool_)) == "0.000 (0.000–0.490)"
    assert format_share(np.zeros(0, np.bool_)) == "too few"


# ----------------------------------------------------------------------------------------- FairFace


def test_photographs_with_odd_numbers_are_left_out(tmp_path: Path) -> None:
    with (tmp_path / "fairface.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "age", "gender", "race"])
        writer.writerows([f"fairface/{n}.avif", "20-29", "Male", str(n)] for n in (1, 2, 3, 10))
    with tarfile.open(tmp_path / "fairface.tar", "w") as tar:
        for number in (10, 3, 2, 1):
            data = io.BytesIO()
            PilImage.new("RGB", (128, 128), (20 * number, 0, 0)).save(data, "AVIF")
            member = tarfile.TarInfo(f"fairface/{number}.avif")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    found = read_unseen(tmp_path)
    assert [label["race"] for label in found.labels] == ["2", "10"]
    assert found.pictures.shape == (2, 3, 128, 128)
    reds = found.pictures[:, 0].float().mean((1, 2))
    assert torch.allclose(reds, torch.tensor([40.0, 200.0]), atol=3)
    assert len(read_unseen(tmp_path, 1)) == 1


def test_groups_are_of_one_label_or_of_two_and_ages_go_from_young_to_old() -> None:
    people = [("60-69", "A"), ("3-9", "B"), ("more than 70", "A"), ("10-19", "A")]
    labels = [{"age": age, "race": race, "gender": "Male"} for age, race in people]
    found = groups_of(labels, (AGE, RACE_AND_GENDER))
    assert list(found["age"]) == ["3-9", "10-19", "60-69", "more than 70"]
    assert found["age"]["3-9"].tolist() == [False, True, False, False]
    assert list(found["race and gender"]) == ["A, Male", "B, Male"]
    assert found["race and gender"]["A, Male"].tolist() == [True, False, True, True]


# ---------------------------------------------------------------------------- who is taken for whom


def test_no_more_pairs_match_than_the_rate_allows_and_nobody_matches_themselves() -> None:
    probes, gallery = unit(100, 16), unit(100, 16, seed=1)
    taken = false_matches(probes, gallery)
    assert taken.sum() == 9, "of 9,900 pairs one in a thousand"
    assert not np.diag(taken).any()
    scores = (probes @ gallery.T).numpy()
    apart = ~np.eye(100, dtype=np.bool_)
    assert scores[taken].min() > scores[apart & ~taken].max()


def test_a_group_has_its_own_rate_as_a_multiple_with_a_band_around_it() -> None:
    which = np.arange(200) < 100
    taken = np.zeros((200, 200), np.bool_)
    taken[range(0, 60, 2), range(1, 61, 2)] = True  # 30 pairs of the group
    taken[0, 150] = True  # and one with somebody else
    values = rate_multiples(taken, which, 300)
    assert values is not None
    assert values[0] == pytest.approx(30 / (100 * 99) / FMR)
    low, high = np.quantile(values[1:], (0.025, 0.975))
    assert low < values[0] < high


def test_a_group_without_an_expected_pair_has_no_rate() -> None:
    taken = np.zeros((100, 100), np.bool_)
    assert rate_multiples(taken, np.arange(100) < 45, 10) is None
    assert rate_multiples(taken, np.arange(100) < 46, 10) is not None


def test_a_camera_degrades_a_face_equally_in_any_batch() -> None:
    pictures = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    view = View("camera", 32, True)
    assert torch.allclose(show(pictures, view, 0)[2:], show(pictures[2:], view, 2), atol=1e-6)
    assert (show(pictures[2:], view, 0) - show(pictures[2:], view, 2)).abs().max() > 0.1


def test_the_worst_group_is_named_with_its_factor() -> None:
    line = describe_worst_group("dlib", "race", {"A": 2.0, "B": 0.5, "C": 1.0})
    assert line == "dlib, by race: **A**, 2.0 times 0.001 (4.0 times that of B)"
    assert "that of B is 0" in describe_worst_group("dlib", "race", {"A": 2.0, "B": 0.0})


def test_a_table_has_a_row_for_each_group_and_says_which_is_worst() -> None:
    race = {"A": np.arange(150) < 90, "B": (np.arange(150) >= 90) & (np.arange(150) < 140)}
    race["C"] = np.arange(150) >= 140
    taken = np.zeros((150, 150), np.bool_)
    taken[[0, 1, 2, 3, 100], [10, 11, 12, 13, 101]] = True
    text = view_table({"ours": taken}, FULL_SIZE, {"race": race}, 20, command="`python`").text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| group", "| ---", "| all", "| A", "| B", "| C"]
    assert [row[1] for row in rows[2:]] == ["150", "90", "50", "10"]
    assert rows[3][2].startswith("0.499 (") and rows[4][2].startswith("0.408 (")
    assert rows[5][2] == "too few |"
    assert "ours, by race: **A**, 0.5 times 0.001 (1.2 times that of B)." in text


def test_embedders_that_fail_the_same_groups_correlate() -> None:
    groups = {"A": 1.0, "B": 2.0, "C": 9.0, "D": 3.0}
    turned = {name: -value for name, value in groups.items()}
    found = describe_rank_correlations({"ours": groups, "teacher": groups, "other": turned}, "race")
    assert "ours and teacher 1.00 (4 groups)" in found[0]
    assert "ours and other -1.00 (4 groups)" in found[0]
    assert describe_rank_correlations({"ours": groups}, "race") == []


# ------------------------------------------------------------------------------------- who is found


def noise(rows: int, columns: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 255, (rows, columns, 3), np.uint8)


@pytest.mark.parametrize("size", [(300, 400), (100, 300), (FRAME, FRAME)])
def test_a_random_crop_has_the_requested_size(size: tuple[int, int]) -> None:
    assert crop_at_random(noise(*size), FRAME, np.random.default_rng(0)).shape == (FRAME, FRAME, 3)


def test_each_face_lies_where_its_box_says_whatever_its_batch() -> None:
    black = np.zeros((300, 300, 3), np.uint8)
    faces = [np.full((24, 24, 3), 50 + n, np.uint8) for n in range(4)]
    whole = np.array([0.0, 0.0, 1.0, 1.0])
    frames = list(paste_on_scenes(faces, [black], whole, 0))
    for number, (frame, box) in enumerate(frames):
        left, top, right, bottom = (int(v) for v in box)
        assert (frame[top:bottom, left:right] == 50 + number).all()
        assert (frame > 0).sum() == 3 * 24 * 24
    _, alone = next(paste_on_scenes(faces[3:], [black], whole, 3))
    assert alone.tolist() == frames[3][1].tolist()
    assert len({tuple(box) for _, box in frames}) == 4


def test_a_face_is_found_and_a_picture_without_one_is_not() -> None:
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.3)
    still = read_still(PORTRAITS / "mugshots" / "grace_hopper.jpg", detector)
    face = as_tensor([np.asarray(PilImage.fromarray(still.face).resize((128, 128)))])
    box = median_face_box(detector, [as_image(shrink(face, 64)[0])])
    assert 0 < box[0] < 0.335 and 0.65 < box[2] < 1, "around both eyes"
    assert 0 < box[1] < 0.48 and 0.815 < box[3] < 1.1, "from above the eyes to below the mouth"
    pictures = (torch.cat([face, torch.full_like(face, 0.5)]) * 255).byte()
    background = np.full((300, 300, 3), 90, np.uint8)
    assert find_faces(detector, pictures, 48, [background], box=box).tolist() == [True, False]


# ------------------------------------------------------------------------- rates that are asked for


def test_rates_hold_for_people_whose_scores_have_nothing_in_common() -> None:
    features = unit(1200, 64).numpy()
    names = [f"p{n:04}" for n in range(len(features))]
    probes = [
        LabelledProbe(name, {Kind.BEST: feature}, 16)
        for name, feature in zip(names, unit(1200, 64, seed=1).numpy(), strict=True)
    ]
    photographs = dict(zip(names, features, strict=True))
    gallery = {name: photographs[name] for name in names[::2]}
    came = cross_validate(probes, gallery, probes, photographs, kinds=(Kind.BEST,), seed=0)
    assert came.named.shape == came.missed.shape == (1200, len(RATES))
    observed = dict(zip(RATES, came.named.mean(0), strict=True))
    assert observed[0.1] == pytest.approx(0.1, abs=0.03)
    assert observed[0.05] == pytest.approx(0.05, abs=0.02)
    assert observed[0.01] < 0.02
    assert came.missed.mean(0).min() > 0.95, "these searches are as far from their own photographs"


def test_a_person_searched_for_with_the_enrolled_photograph_is_found() -> None:
    features = unit(120, 64).numpy()
    names = [f"p{n:03}" for n in range(len(features))]
    photographs = dict(zip(names, features, strict=True))
    probes = [LabelledProbe(name, {Kind.BEST: photographs[name]}, 16) for name in names]
    gallery = {name: photographs[name] for name in names[::2]}
    came = cross_validate(probes, gallery, probes, photographs, kinds=(Kind.BEST,), seed=0)
    assert not came.missed.any()
    assert not came.named[:, 0].any(), "the own photograph is no false answer"


# ------------------------------------------------------------------------------------------ merging


def small_set() -> FeatureSet:
    features = unit(6, 8)
    return FeatureSet(unit(2, 8, seed=1), features, torch.ones(6), [[0, 1, 2], [3, 4, 5]])


def test_a_stranger_is_a_face_of_the_person_before() -> None:
    people, plain = small_set(), merge_methods({})["mean"]
    alone, mixed = (merge_people(plain, people, stranger) for stranger in (False, True))
    assert torch.allclose(alone[0], mean(people.small[[1, 2]]))
    assert torch.allclose(mixed[0], mean(people.small[[1, 2, 4]]))
    assert torch.allclose(mixed[1], mean(people.small[[4, 5, 1]]))


def test_each_combiner_merges_with_its_own_eta_and_is_named_by_eta_and_margin(
    tmp_path: Path,
) -> None:
    embedder = BuiltinEmbedder()
    for eta in (1.0, 0.25):
        combiner = FeatureCombiner(eta=eta, source=Source("builtin", embedder.sha256), margin=0.123)
        last = combiner.delta[-1]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.normal_(last.weight, std=0.02)
        save(combiner, tmp_path / f"{eta}.safetensors")
    found = load_combiners([tmp_path / "1.0.safetensors", tmp_path / "0.25.safetensors"], embedder)
    names = list(found)
    assert "in the package" in names[0]
    assert names[1:] == [
        f"Feature Combiner, eta 1, margin 0.123 ({tmp_path.name}/1.0.safetensors)",
        f"Feature Combiner, eta 0.25, margin 0.123 ({tmp_path.name}/0.25.safetensors)",
    ]
    features, ways = unit(4, 512), merge_methods(found)
    for name in names:
        expected = found[name].combine(features)
        assert torch.equal(ways[name](features, torch.ones(4)), expected)


def test_a_combiner_of_another_embedder_is_refused(tmp_path: Path) -> None:
    save(FeatureCombiner(source=Source("builtin", "ab" * 32)), tmp_path / "other.safetensors")
    with pytest.raises(SystemExit, match=r"other.safetensors: made for another embedder"):
        load_combiners([tmp_path / "other.safetensors"], BuiltinEmbedder())


def test_a_gain_is_tested_in_pairs() -> None:
    plain: Scores = np.array([0.1, 0.5, 0.9, 0.3])
    gain, t, p = compare_with_mean(plain + [0.01, 0.02, 0.03, 0.02], plain)
    assert (gain, t, p) == ("+0.0200", "4.90", "1.6e-02")


# ------------------------------------------------------------------------- tracks that are no faces


def faces_of(eye_px: float, norms: list[float], score: float = 0.5) -> list[LabelledEvidence]:
    return [LabelledEvidence(True, Evidence(score, norm, eye_px)) for norm in norms]


def test_limits_lose_at_most_one_face_in_a_hundred_of_each_band() -> None:
    """Of 200 faces two may be lost, of fewer than 100 none; large ones have a limit of their
    own.
    """
    sure = [30.0] * 20
    seven = faces_of(7, [4.0, 4.5, 5.27, *[9.0] * 197])
    ten = faces_of(10, [6.0, *[9.0] * 98])
    large = faces_of(40, [10.28, *[14.0] * 9]) + faces_of(40, [2.0], score=0.7)
    none = [LabelledEvidence(False, Evidence(0.5, 1.0, 40))]
    every = [
        *seven,
        *ten,
        *large,
        *none,
        *faces_of(7, sure),
        *faces_of(10, sure),
        *faces_of(40, sure),
    ]
    assert measured_limits(every, 0.6) == {"min_norm": 5.2, "min_norm_large": 10.2}


def test_a_limit_leaves_nine_of_ten_faces_with_larger_norms_however_sure_the_detector() -> None:
    sure = [
        LabelledEvidence(True, Evidence(0.9, norm, eye_px))
        for eye_px in (7, 40)
        for norm in np.linspace(5, 15, 101)
    ]
    assert measured_limits(sure, 0.6) == {"min_norm": 6.0, "min_norm_large": 6.0}


def test_limits_are_not_measured_without_faces_of_both_sizes() -> None:
    with pytest.raises(SystemExit, match="no face of 20 px or more"):
        measured_limits(faces_of(7, [9.0]), 0.6)
