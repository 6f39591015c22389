"""Making a calibration: who serves for what, from features with known answers, from photographs,
after a kill.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from fasr_video.calibration import calibrate
from fasr_video.calibration.calibrate import (
    LabelledProbe,
    Protocol,
    choose_people,
    compare,
    divide,
    from_probes,
)
from fasr_video.commands.calibrate import calibrate_command
from fasr_video.datasets.faces import CELEBA, read_faces
from fasr_video.errors import UsageError
from fasr_video.evaluation import open_set
from fasr_video.gallery.calibration import Calibration, Tail
from fasr_video.gallery.encoder import Feature, Kind, make_encoder
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr.methods.bicubic import Bicubic
from tests.support.commands import run_command

LENGTH = 48
FACTS: dict[str, object] = {"embedder": "e", "pooled_by": "c", "restorer": None}


def normalise(x: np.ndarray) -> Feature:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_crowd(
    people: int, noise: dict[Kind, float], seed: int = 0, searches: int = 1
) -> tuple[list[LabelledProbe], dict[str, Feature]]:
    """People as random directions, half of them enrolled; a probe is its person's direction and
    noise.
    """
    generator = np.random.default_rng(seed)
    truth = normalise(generator.normal(size=(people, LENGTH)))
    gallery = {f"p{i:04d}": truth[i] for i in range(0, people, 2)}
    probes = [
        LabelledProbe(
            person=f"p{i:04d}",
            features={
                k: normalise(truth[i] + generator.normal(0, s / LENGTH**0.5, LENGTH))
                for k, s in noise.items()
            },
            side=16,
        )
        for i in range(people)
        for _ in range(searches)
    ]
    return probes, gallery


NOISE = {Kind.BEST: 2.8, Kind.POOLED: 2.0, Kind.SR: 2.4}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return from_probes(*make_crowd(600, NOISE), FACTS, "600 directions", seed=0)


# --- who serves for what


def test_no_person_is_used_for_two_steps() -> None:
    probes, gallery = make_crowd(120, NOISE, searches=2)
    people = divide(probes, gallery, 0)
    everyone = {p.person for p in probes}
    assert people.fit | people.choose | people.report == everyone
    assert len(people.fit) + len(people.choose) + len(people.report) == len(everyone)
    for part, share in ((people.fit, 1 / 3), (people.choose, 1 / 6), (people.report, 1 / 2)):
        assert len(part & set(gallery)) == len(part - set(gallery)) == share * len(gallery)
    assert divide(probes, gallery, 0) == people != divide(probes, gallery, 1)


def test_people_of_a_part_are_compared_within_that_part() -> None:
    probes, gallery = make_crowd(60, NOISE)
    people = divide(probes, gallery, 0)
    held = compare(probes, gallery, people.report)
    assert set(held.person) == people.report
    subjects = sorted(people.report & set(gallery))
    assert held.gallery == len(subjects)
    for person, column in zip(held.person, held.own, strict=True):
        assert subjects.index(person) == column if person in gallery else column == -1
    row = held.person.index(subjects[3])
    probe = next(p for p in probes if p.person == subjects[3])
    assert held.cosines[Kind.SR][row, 3] == pytest.approx(
        float(probe.features[Kind.SR] @ gallery[subjects[3]])
    )


def test_too_few_people_raise_a_usage_error() -> None:
    probes, gallery = make_crowd(22, NOISE)
    with pytest.raises(UsageError, match="here are 11 enrolled and 11 others"):
        from_probes(probes, gallery, FACTS, "", seed=0)
    with pytest.raises(UsageError, match="and 0 others"):
        divide([p for p in probes if p.person in gallery], gallery, 0)


# --- what comes out


def test_every_kind_and_both_fusions_have_a_scale(calibration: Calibration) -> None:
    assert list(calibration.bands[0].scales) == [
        "best",
        "pooled",
        "sr",
        "best+pooled",
        "best+pooled+sr",
    ]
    assert calibration.gallery_size == 150
    assert (calibration.people, calibration.enrolled, calibration.searches) == (600, 300, 600)
    alone = from_probes(*make_crowd(60, {Kind.BEST: 1.0, Kind.POOLED: 0.5}), FACTS, "", seed=0)
    assert list(alone.bands[0].scales) == ["best", "pooled", "best+pooled"]


def test_independent_kinds_are_weighted_by_their_information(calibration: Calibration) -> None:
    weights = calibration.bands[0].scale("best+pooled+sr").scorer.weights
    assert weights[1] > weights[2] > weights[0] > 0
    alone, together = (calibration.bands[0].scale(n).report for n in ("pooled", "best+pooled+sr"))
    assert together.cllr < alone.cllr
    assert together.ranks[0][1] >= alone.ranks[0][1]


def test_a_redundant_kind_never_has_a_negative_weight() -> None:
    probes, gallery = make_crowd(300, {Kind.POOLED: 1.0})
    generator = np.random.default_rng(9)
    worse = [
        LabelledProbe(
            p.person,
            {
                **p.features,
                Kind.BEST: normalise(p.features[Kind.POOLED] + generator.normal(0, 0.3, LENGTH)),
            },
            16,
        )
        for p in probes
    ]
    for seed in range(4):
        scorer = (
            from_probes(worse, gallery, FACTS, "", seed=seed).bands[0].scale("best+pooled").scorer
        )
        assert min(scorer.weights) >= 0


def test_ratios_hold_on_people_that_nothing_was_fitted_on(calibration: Calibration) -> None:
    for scale in calibration.bands[0].scales.values():
        r = scale.report
        assert r.cllr_least <= r.cllr < r.cllr_least + 0.1
        assert (
            r.cllr < r.cllr_raw or len(scale.scorer.kinds) > 1
        )  # a fused score is nearly a ratio already


def test_the_better_form_is_stored(calibration: Calibration) -> None:
    for scale in calibration.bands[0].scales.values():
        cost = dict(scale.cllr_by_form)
        assert scale.map.form == min(cost, key=lambda f: cost[f])


def test_the_observed_fpir_is_the_requested_one() -> None:
    """Held-out halves of twenty crowds of independent directions follow FPIR(N) = 1 - (1 -
    FMR)^N.
    """
    requested, observed = np.array([0.3, 0.1, 0.03]), []
    for seed in range(20):
        probes, gallery = make_crowd(600, {Kind.BEST: 2.8}, seed=seed)
        people = divide(probes, gallery, seed)
        fit, held = (
            compare(probes, gallery, part) for part in (people.fit | people.choose, people.report)
        )
        tail = Tail.of(fit.different(fit.cosines[Kind.BEST]))
        searches_ = held.searches(held.cosines[Kind.BEST])
        observed.append(
            open_set.fpir(searches_, [tail.threshold(f, held.gallery).score for f in requested])
        )
    assert np.mean(observed, 0) == pytest.approx(requested, rel=0.15)


def test_each_point_of_the_report_lies_in_its_band(calibration: Calibration) -> None:
    for scale in calibration.bands[0].scales.values():
        for p in scale.report.points:
            assert p.observed_band[0] <= p.observed <= p.observed_band[1]
            assert p.fnir_band[0] <= p.fnir <= p.fnir_band[1]
        assert [p.resolved for p in scale.report.points] == [True, True, True, True, False]


def test_thresholds_hold_on_a_new_crowd_of_another_size(calibration: Calibration) -> None:
    """A gallery four times as large, of people from nowhere in the calibration."""
    probes, gallery = make_crowd(1200, NOISE, seed=77)
    new = compare(probes, gallery, frozenset(p.person for p in probes))
    scores = calibration.bands[0].fused_score(new.cosines)
    searches_ = new.searches(scores)
    for fpir in (0.3, 0.1):
        threshold = calibration.bands[0].threshold("best+pooled+sr", fpir, new.gallery)
        observed = float((searches_.wrong[~searches_.mated] >= threshold.score).mean())
        assert fpir / 2 < observed < fpir * 2


def test_the_nearest_scores_are_the_highest_of_the_data(calibration: Calibration) -> None:
    probes, gallery = make_crowd(600, NOISE)
    block = np.stack(list(gallery.values()))
    strangers = np.stack([p.features[Kind.SR] for p in probes if p.person not in gallery])
    assert calibration.bands[0].scale("sr").nearest_stranger == pytest.approx(
        float((strangers @ block.T).max()), abs=1e-5
    )
    enrolled = np.stack([p.features[Kind.SR] for p in probes if p.person in gallery]) @ block.T
    np.fill_diagonal(enrolled, -1)
    assert calibration.bands[0].scale("sr").nearest_pair == pytest.approx(
        float(enrolled.max()), abs=1e-5
    )


def test_the_same_data_and_seed_give_the_same_numbers(calibration: Calibration) -> None:
    repeated = from_probes(*make_crowd(600, NOISE), FACTS, "600 directions", seed=0)
    assert repeated.bands[0].scales == calibration.bands[0].scales


# --- from photographs


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 'people': smooth random pictures, three of each with a little noise; and files that are no
    faces.
    """
    folder = tmp_path_factory.mktemp("faces")
    generator = np.random.default_rng(0)
    for person in range(36):
        base = torch.from_numpy(generator.random((1, 3, 8, 8), np.float32))
        picture = (
            torch.nn.functional.interpolate(base, 128, mode="bicubic")
            .clamp(0, 1)[0]
            .permute(1, 2, 0)
            .numpy()
        )
        (folder / f"{person:02d}").mkdir()
        for photo in range(3):
            noisy = (picture + generator.normal(0, 0.03, picture.shape)).clip(0, 1)
            Pictures.fromarray((noisy * 255).astype(np.uint8)).save(
                folder / f"{person:02d}" / f"{photo}.png"
            )
    (folder / "00" / "broken.png").write_bytes(b"no picture")
    (folder / "alone").mkdir()
    Pictures.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(folder / "alone" / "only.png")
    return folder


@pytest.mark.slow
def test_the_command_writes_a_calibration(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a restorer that needs no weights; every table and number is there, and nothing stays
    behind.
    """
    out = tmp_path / "new" / "c.json"
    code, output, err = run_command(capsys, "calibrate", faces, "--out", out, "--method", "bicubic")
    assert code == 0, err
    calibration = Calibration.load(out)
    assert [list(band.scales) for band in calibration.bands] == [
        ["best", "pooled", "sr", "best+pooled", "best+pooled+sr"]
    ] * 6
    assert (calibration.people, calibration.enrolled, calibration.searches) == (36, 18, 216)
    assert calibration.provenance["restorer"] == {"method": "bicubic", "samples": 1}
    assert calibration.mismatch(make_encoder(BuiltinEmbedder(), Bicubic(), 1).provenance()) is None
    assert (
        f"36 people of {faces.name}" in calibration.data
        and "sha256 of the 109 pictures" in calibration.data
    )
    assert "1 photograph could not be used" in calibration.data and "broken.png" in err
    for word in (
        "rank-1",
        "FNIR at FPIR 0.003",
        "nearest stranger",
        "nearest pair",
        "10,000",
        "Cllr",
        calibration.sha256[:16],
    ):
        assert word in output
    assert [p.name for p in out.parent.iterdir()] == ["c.json"]
    code, _, err = run_command(capsys, "calibrate", faces, "--out", out, "--no-sr")
    assert code == 2 and "exists already" in err and Calibration.load(out) == calibration


@pytest.mark.slow
def test_thresholds_are_made_for_the_worst_group(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = []
    for name, more in (("all", ()), ("group", ("--worst-group", 3))):
        out = tmp_path / f"{name}.json"
        code, _, err = run_command(
            capsys, "calibrate", faces, "--out", out, "--no-sr", "--sizes", "16-32", *more
        )
        assert code == 0, err
        calibration.append(Calibration.load(out))
    everybody, group = calibration
    assert (
        group.data
        == f"{everybody.data}; thresholds for a group whose false match rate is 3 times everybody's"
    )
    (band,), (strict,) = everybody.bands, group.bands
    assert strict.threshold("best", 0.1, 500).score > band.threshold("best", 0.1, 500).score
    assert strict.scales["best"].map == band.scales["best"].map


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sizes", "4-16"], "8 to 128 px"),
        (["--sizes", "32-16"], "ends before it begins"),
        (["--sizes", "12-20", "--sizes", "16-40"], "overlap"),
        (["--sizes", "large"], "not two whole numbers"),
        (["--method", "magic"], "no such method"),
        (["--people", "3"], "--people"),
        (["--worst-group", "0.5"], "--worst-group"),
        (["--device", "cuda:77"], "cannot use it"),
    ],
)
def test_bad_options_give_one_line_errors(
    arguments: list[str], says: str, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "calibrate", faces, "--out", tmp_path / "c.json", *arguments)
    assert code == 2 and says in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


USELESS = {
    **{"--method": "fasr++", "--sampler": "dpmpp-4", "--precision": "float32", "--samples": 2},
    **{"--sizes": "16-16", "--camera": 0, "--people": 24, "--worst-group": 2, "--device": "cpu"},
    **{"--embedder": "builtin", "--weights": "some.file"},
}


def test_options_without_effect_are_refused(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of those that the command has, also where it is what would be taken anyhow."""
    (tmp_path / "labels.csv").write_text("case,track,person\n")
    (tmp_path / "gallery").mkdir()
    out, given = (
        ("--out", tmp_path / "c.json"),
        [str(word) for pair in USELESS.items() for word in pair],
    )
    tracks = ("--tracks", tmp_path / "labels.csv", "--gallery", tmp_path / "gallery", *out)
    code, _, err = run_command(capsys, "calibrate", *tracks, *given, "--flip", "--no-sr")
    assert (
        code == 2
        and "no effect together with --tracks" in err
        and len(err.strip().splitlines()) == 1
    )
    known = {p.opts[0] for p in calibrate_command.params} - {
        "faces",
        "--tracks",
        "--gallery",
        "--out",
        "--seed",
    }
    assert (
        set(err.split(": no effect")[0].removeprefix("fasr-video: ").split(", "))
        == known
        == {*USELESS, "--flip", "--no-sr"}
    )
    code, _, err = run_command(
        capsys, "calibrate", faces, *out, "--no-sr", "--method", "fasr", "--sizes", 16
    )
    assert code == 2 and "--method: no effect together with --no-sr" in err
    code, _, err = run_command(capsys, "calibrate", *tracks, "--seed", 1)
    assert code == 2 and "no effect" not in err


def test_folders_without_people_give_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run_command(
        capsys, "calibrate", tmp_path / "empty", "--out", tmp_path / "c.json", "--no-sr"
    )
    assert code == 2 and "no aligned face" in err
    (tmp_path / "empty" / "a").mkdir()
    Pictures.fromarray(np.zeros((128, 128, 3), np.uint8)).save(tmp_path / "empty" / "a" / "1.png")
    code, _, err = run_command(
        capsys, "calibrate", tmp_path / "empty", "--out", tmp_path / "c.json", "--no-sr"
    )
    assert code == 2 and "here are 0 enrolled and 0 others" in err


def test_random_draws_for_a_person_do_not_depend_on_other_people(faces: Path) -> None:
    opened, _ = read_faces([faces])
    everyone = choose_people(opened, Protocol())
    few = choose_people(opened, Protocol(people=24))
    assert everyone[:24] == few
    assert all(len(p.photos) == 3 for p in everyone) and "alone" not in {p.name for p in everyone}
    assert sum(p.enrolled for p in everyone) == 18
    other = {p.name: p for p in choose_people(opened, Protocol(seed=1))}
    assert any(other[p.name].sightings != p.sightings for p in everyone)


def test_each_person_has_a_search_per_band_and_half_are_camera_degraded(
    faces: Path,
) -> None:
    protocol = Protocol()
    people = choose_people(read_faces([faces])[0], protocol)
    for person in people:
        for sighting, (low, high) in zip(person.sightings, protocol.bands, strict=True):
            assert low <= sighting.side <= high
    share = np.mean([sighting.camera for person in people for sighting in person.sightings])
    assert 0.35 < share < 0.65


@pytest.mark.parametrize("camera", [False, True])
def test_degraded_faces_have_the_requested_size(camera: bool) -> None:
    track = calibrate.degrade(torch.rand(3, 3, 128, 128), calibrate.Sighting(12, camera, 5))
    assert track.small.shape == (12, 12, 3) and track.small.dtype == np.uint8
    assert len(track.auxiliaries) == 2
    assert track.lr0.picture.shape == (128, 128, 3) and track.lr0.landmarks is None


def test_celeba_pictures_are_cropped_to_the_canonical_frame(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*CELEBA, 3), np.uint8)
    (tmp_path / "a").mkdir()
    Pictures.fromarray(picture).save(tmp_path / "a" / "1.png")
    opened, left_out = read_faces([tmp_path])
    assert not left_out
    assert (opened.pictures[0].permute(1, 2, 0).numpy() == picture[42:186, 17:161]).all()


KILLED = """
import os, signal, sys
from pathlib import Path
from fasr_video.calibration.calibrate import Protocol, from_images
from fasr_video.gallery.encoder import make_encoder
from fasr_video.recognition.embedder import BuiltinEmbedder

encoder = make_encoder(BuiltinEmbedder(), None, 1)

def tell(done, people):
    if done >= 32:
        os.kill(os.getpid(), signal.SIGKILL)

from_images([Path(sys.argv[1])], encoder, encoder, Protocol(), out=Path(sys.argv[2]), listen=tell)
"""


@pytest.mark.slow
def test_after_a_kill_stored_features_are_used(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, faces, out], capture_output=True, timeout=100
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    parts = tmp_path / ".c.json-parts"
    before = {p: p.stat().st_mtime_ns for p in parts.iterdir()}
    assert len(before) == 2
    plain = make_encoder(BuiltinEmbedder(), None, 1)
    opened, _ = read_faces([faces])
    probes, gallery = calibrate.probe_images(
        opened, plain, plain, Protocol(), parts=parts, listen=lambda *_: None
    )
    after = {p: p.stat().st_mtime_ns for p in parts.iterdir()}
    assert len(after) == 3 and before.items() <= after.items()
    all_probes, subjects = calibrate.probe_images(
        opened, plain, plain, Protocol(), parts=tmp_path / "other", listen=lambda *_: None
    )
    assert subjects.keys() == gallery.keys()
    for a, b in zip(probes, all_probes, strict=True):
        assert a.person == b.person
        assert all((a.features[k] == b.features[k]).all() for k in Kind if k in a.features)


@pytest.mark.slow
def test_stored_features_of_changed_photographs_or_models_are_not_used(
    faces: Path, tmp_path: Path
) -> None:
    opened, _ = read_faces([faces])
    plain = make_encoder(BuiltinEmbedder(), None, 1)
    protocol = Protocol(people=24)
    first, _ = calibrate.probe_images(
        opened, plain, plain, protocol, parts=tmp_path, listen=lambda *_: None
    )
    assert len(list(tmp_path.iterdir())) == 2
    person = choose_people(opened, protocol)[0]
    opened.pictures[person.photos[1]] = 255 - opened.pictures[person.photos[1]]
    second, _ = calibrate.probe_images(
        opened, plain, plain, protocol, parts=tmp_path, listen=lambda *_: None
    )
    changed = [
        a.person
        for a, b in zip(first, second, strict=True)
        if (a.features[Kind.BEST] != b.features[Kind.BEST]).any()
    ]
    assert changed == [person.name] * len(protocol.bands)
    assert len(list(tmp_path.iterdir())) == 3
    calibrate.probe_images(
        opened,
        make_encoder(BuiltinEmbedder(), Bicubic(), 1),
        plain,
        protocol,
        parts=tmp_path,
        listen=lambda *_: None,
    )
    assert len(list(tmp_path.iterdir())) == 5
