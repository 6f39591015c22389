"""IDFSR as a method: references and identities that condition it, what its results hold, and its
command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fasr_video.cli import main
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import shrink
from fasr_video.sr.identity import Identity, load_identity
from fasr_video.sr.idfsr import identity_denoiser
from fasr_video.sr.networks.idfsr import COMPACT
from fasr_video.sr.restoration import FaceInput, as_image, restore
from fasr_video.sr.weights import load_idfsr, save_idfsr
from fasr_video.weights.manifest import bundled
from tests.support.idfsr_faces import (
    ABOUT,
    make_network,
    make_pictures,
    restorer,
)
from tests.support.paths import ROOT

# ----------------------------------------------------------------------------------------- restorer


def make_input(seed: int, side: int = 16, light: float = 0.5) -> np.ndarray:
    picture = light + 0.4 * light * (make_pictures(1, seed=seed, side=side)[0] - 0.5)
    return as_image(picture)


PROBE = FaceInput(make_input(0), (make_input(1, 128), make_input(2, 100)))
DARK = 0.1


def test_references_change_the_picture_and_a_warning_limits_its_use() -> None:
    answer = restore(restorer(), PROBE, 2, seed=3)
    assert (
        answer.picture.shape == (128, 128, 3)
        and len(answer.samples) == 2
        and answer.spread.max() > 0
    )
    assert answer.feature == "mean" and answer.calls == 6
    assert answer.warnings == (
        "conditioned on its references: never compare it with those photographs",
    )
    other = restore(restorer(), FaceInput(PROBE.lr0, (make_input(7, 128),)), 2, seed=3)
    assert not np.array_equal(other.picture, answer.picture)


def test_without_references_the_face_is_its_own_with_a_warning() -> None:
    answer = restore(restorer(), FaceInput(PROBE.lr0), 1, seed=3)
    assert answer.feature == "own" and len(answer.warnings) == 1
    assert answer.warnings[0].startswith("reference-free") and "not used" not in answer.warnings[0]


def test_without_landmarks_references_are_not_used_with_a_warning() -> None:
    dark = FaceInput(make_input(0, light=DARK), PROBE.auxiliaries)
    answer = restore(restorer(), dark, 1, seed=3)
    all_warnings = " ".join(answer.warnings)
    assert answer.feature == "own" and "no usable landmarks on the LR face" in all_warnings
    assert "references given were not used" in all_warnings
    assert np.array_equal(
        answer.picture, restore(restorer(), FaceInput(dark.lr0), 1, seed=3).picture
    )


def test_at_4_px_references_are_warped_to_the_usual_landmarks() -> None:
    dot = FaceInput(make_input(0, 4, light=DARK), PROBE.auxiliaries)
    answer = restore(restorer(), dot, 1, seed=3)
    all_warnings = " ".join(answer.warnings)
    assert (
        answer.feature == "mean" and "the usual ones of its frame take their place" in all_warnings
    )
    assert "conditioned on its references" in all_warnings and "not used" not in all_warnings
    assert not np.array_equal(
        answer.picture, restore(restorer(), FaceInput(dot.lr0), 1, seed=3).picture
    )


def test_conditioned_on_names_the_subject_only_if_its_photographs_were_used() -> None:
    named = replace(PROBE, subject="somebody")
    answer = restore(restorer(), named, 1, seed=3)
    assert answer.conditioned_on == "somebody"
    assert any(w.startswith("conditioned on subject somebody") for w in answer.warnings)
    assert restore(restorer(), PROBE, 1, seed=3).conditioned_on == ""
    unused = restore(restorer(), replace(named, lr0=make_input(0, light=DARK)), 1, seed=3)
    assert unused.feature == "own" and unused.conditioned_on == ""


def test_a_reference_without_landmarks_is_left_out_and_counted() -> None:
    answer = restore(
        restorer(),
        FaceInput(PROBE.lr0, (make_input(1, 128), make_input(2, 128, light=DARK))),
        1,
        seed=3,
    )
    assert any("reference 2 of 2 left out" in w for w in answer.warnings)
    assert np.array_equal(
        answer.picture,
        restore(restorer(), FaceInput(PROBE.lr0, (make_input(1, 128),)), 1, seed=3).picture,
    )


def test_a_fitted_identity_takes_precedence_over_the_references_features() -> None:
    identity = Identity(3 * torch.randn(512, generator=torch.Generator().manual_seed(0)), ABOUT)
    plain, fitted = (restore(r, PROBE, 1, seed=3) for r in (restorer(), restorer(identity)))
    assert fitted.feature == "fitted" and not np.array_equal(plain.picture, fitted.picture)
    alone = restore(restorer(identity), FaceInput(PROBE.lr0), 1, seed=3)
    assert alone.feature == "fitted"
    assert [w.partition(":")[0] for w in alone.warnings] == [
        "conditioned on its references",
        "no reference for the style",
    ]


@pytest.mark.parametrize(("side", "drawn"), [(4, True), (16, True), (20, False)])
def test_a_face_outside_the_trained_sizes_is_not_drawn(side: int, drawn: bool) -> None:
    answer = restore(
        restorer(), FaceInput(make_input(0, side), PROBE.auxiliaries, subject="somebody"), 1, seed=0
    )
    assert (answer.calls > 0) == (answer.conditioned_on == "somebody") == drawn
    refused = (
        "nothing is reconstructed: the face has 20 px, and the network was trained on 4 to 16 px"
    )
    assert (refused in answer.warnings) == (not drawn)


def test_a_picture_depends_on_its_own_seed_and_not_on_its_neighbours() -> None:
    others = [
        FaceInput(make_input(7, 8)),
        PROBE,
        FaceInput(make_input(8, light=DARK), PROBE.auxiliaries),
    ]
    together, alone = (
        restorer().restore_all(others, 2, [1, 3, 2])[1],
        restore(restorer(), PROBE, 2, seed=3),
    )
    assert np.abs(together.picture.astype(int) - alone.picture).max() <= 1
    assert not np.array_equal(restore(restorer(), PROBE, 2, seed=4).picture, alone.picture)


def test_provenance_names_all_that_the_picture_depends_on() -> None:
    facts = restorer(Identity(torch.zeros(512), ABOUT)).provenance()
    assert {facts[k] for k in ("network", "embedder", "landmarks", "identity")} == {
        "aa",
        "bb",
        "dd",
        "ii",
    }
    assert facts["sampler"] == "ddim-3" and facts["precision"] == "float32"


# ------------------------------------------------------------------------------------- command line

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_sr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fasr-video", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "idfsr.safetensors"
    save_idfsr(identity_denoiser(make_network()), file)
    return file


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` with two pictures of one person, `two` with a picture each of two, and a still
    of the first.
    """
    root = tmp_path_factory.mktemp("album")
    ada, bruno = (
        np.asarray(Image.open(ROOT / "sample_videos" / "people" / f"{name}-gallery.png"))
        for name in ("ada", "bruno")
    )
    brighter = np.clip(ada * 0.9 + 10, 0, 255).astype(np.uint8)
    for name, picture in (("one/a", ada), ("one/b", brighter), ("two/a", ada), ("two/b", bruno)):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / f"{name}.png")
    Image.fromarray(as_image(shrink(as_tensor([ada]), 16)[0])).save(root / "still.png")
    return root


def test_a_person_is_fitted_and_drawn_and_the_provenance_names_the_identity(
    run_sr: Call, weights: Path, album: Path, tmp_path: Path
) -> None:
    person_id = tmp_path / "person.id"
    fitting = ("--refs", album / "one", "--model", weights, "--out", person_id, "--steps", 8)
    code, out, err = run_sr("sr", "fit", *fitting)
    assert code == 0, err
    assert "2 references, loss" in out
    assert load_identity(person_id, sha256_file(weights)).about.embedder == sha256_file(
        bundled("embedder.safetensors")
    )
    draw = (
        "sr",
        album / "still.png",
        "--method",
        "idfsr",
        "--model",
        weights,
        "--sampler",
        "ddim-2",
    )
    code, out, err = run_sr(
        *draw, "--aux", album / "one", "--identity", person_id, "--out", tmp_path / "sr"
    )
    assert code == 0 and "never compare it with those" in err
    facts = json.loads(next((tmp_path / "sr").glob("*.json")).read_text())
    assert facts["feature"] == "fitted" and facts["request"]["restorer"]["identity"] == sha256_file(
        person_id
    )
    code, _, err = run_sr("fit", *fitting)
    assert code == 2 and "exists already" in err


def test_references_of_two_people_are_refused_unless_forced(
    run_sr: Call, weights: Path, album: Path, tmp_path: Path
) -> None:
    fitting = (
        "fit",
        "--refs",
        album / "two",
        "--model",
        weights,
        "--out",
        tmp_path / "mixed.id",
        "--steps",
        8,
    )
    code, _, err = run_sr(*fitting)
    assert (
        code == 2
        and "mean cosine" in err
        and "--force" in err
        and len(err.strip().splitlines()) == 1
    )
    assert not (tmp_path / "mixed.id").exists()
    code, _, err = run_sr(*fitting, "--force")
    assert code == 0 and "may not be of one person" in err and (tmp_path / "mixed.id").exists()


def test_only_this_method_draws_faces_of_four_pixels(
    run_sr: Call, weights: Path, album: Path, tmp_path: Path
) -> None:
    with Image.open(album / "one" / "a.png") as picture:
        picture.resize((4, 4), Image.Resampling.BOX).save(tmp_path / "dot.png")
    draw = ("sr", tmp_path / "dot.png", "--out", tmp_path / "sr")
    assert run_sr(*draw, "--method", "bicubic")[0] == 2
    code, _, err = run_sr(*draw, "--method", "idfsr", "--model", weights, "--sampler", "ddim-2")
    assert code == 0 and "reference-free" in err


def test_the_bundled_network_draws_a_person_from_photographs(
    run_sr: Call, album: Path, tmp_path: Path
) -> None:
    drawing = (
        "sr",
        album / "still.png",
        "--method",
        "idfsr",
        "--aux",
        album / "one",
        "--out",
        tmp_path / "sr",
    )
    code, _, err = run_sr(*drawing)
    assert code == 0 and "conditioned on its references" in err
    facts = json.loads(next((tmp_path / "sr").glob("*.json")).read_text())
    assert facts["request"]["restorer"]["network"] == sha256_file(bundled("idfsr.safetensors"))
    network = load_idfsr(bundled("idfsr.safetensors"))
    assert network.network.size == COMPACT and network.embedder == sha256_file(
        bundled("embedder.safetensors")
    )


def test_impossible_options_give_a_one_line_error(
    run_sr: Call, weights: Path, album: Path, tmp_path: Path
) -> None:
    still, idfsr = album / "still.png", ("--method", "idfsr", "--out", tmp_path / "sr")
    small = tmp_path / "small"
    small.mkdir()
    for name in "ab":
        with Image.open(album / "one" / f"{name}.png") as picture:
            picture.resize((40, 40)).save(small / f"{name}.png")
    fitting = ("fit", "--model", weights, "--out", tmp_path / "new.id")
    for arguments, message in (
        (("sr", still, *idfsr, "--model", weights, "--identity", "/nowhere.id"), "no such file"),
        (("sr", still, *idfsr, "--model", weights, "--feature-only"), "needs the LR face"),
        (
            ("sr", still, *idfsr, "--model", bundled("sr.safetensors")),
            "does not name an IDFSR network",
        ),
        (("sr", still, "--identity", weights), "takes no fitted identity"),
        (
            ("calibrate", album, "--out", tmp_path / "c.json", "--method", "idfsr"),
            "needs references",
        ),
        ((*fitting, "--refs", "/nowhere"), "no such folder"),
        ((*fitting, "--refs", small), "0 usable"),
    ):
        code, _, err = run_sr(*arguments)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err
