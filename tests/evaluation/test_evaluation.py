"""Comparisons from the command line, on drawn people: what is drawn, scored, kept and reported."""

from __future__ import annotations

import csv
import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from fasr_video.checkpoint import save_own
from fasr_video.errors import FasrError, IntegrityError, UsageError
from fasr_video.evaluation import degradations, plots, protocols, systems
from fasr_video.evaluation.compare import Plan, compare
from fasr_video.evaluation.perceptual import Inception, InceptionNet
from fasr_video.evaluation.photos import LeftOut, digest_of
from fasr_video.evaluation.pictures import psnr
from fasr_video.evaluation.scoring import Judges
from fasr_video.evaluation.store import Store
from fasr_video.evaluation.systems import System, Tools
from fasr_video.recognition.embedder import BuiltinEmbedder, as_tensor
from fasr_video.recognition.network import FORMAT, EmbedderNet
from fasr_video.sr.checkpoints import load_attribute_classifier
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.denoiser import ResidualDenoiser
from fasr_video.sr.idfsr import identity_denoiser
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.idfsr import IdfsrNet, Size
from fasr_video.sr.weights import save_attributes, save_denoiser, save_idfsr
from fasr_video.weights.manifest import bundled
from tests.support.drawn import (
    EACH,
    PEOPLE,
    draw_face,
    make_photos,
    run_eval,
    save_picture,
    write_people,
)
from tests.support.idfsr_faces import make_network
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny super-resolution network; it does not say which embedder it knows."""
    torch.manual_seed(0)
    net = CompactNet((32, 64), 1, 512, 64)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    file = tmp_path_factory.mktemp("network") / "sr.safetensors"
    save_denoiser(ResidualDenoiser(net), file)
    return file


@pytest.fixture(scope="module")
def uninvolved_recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser that conditioned nothing."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("scorer") / "other.safetensors"
    save_own(EmbedderNet().state_dict(), file, FORMAT, "{}")
    return file


# -------------------------------------------------------------------------------------- comparisons


@pytest.mark.slow
def test_the_command_compares_systems_and_writes_tables(
    faces: Path,
    network: Path,
    uninvolved_recogniser: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    common = (
        faces,
        "--out",
        out,
        "--people",
        5,
        "--leave-out",
        0.4,
        "--method",
        "hr",
        "--method",
        "bicubic",
    )
    tiny = (
        "--method",
        "pooled",
        "--method",
        "fasr",
        "--merge",
        "mean",
        "--model",
        network,
        "--sampler",
        "dpmpp-2",
    )
    circular = ("--scorer", bundled("embedder.safetensors"))
    options = (*common, *tiny, "--fuse", "sr", "--fuse", "pooled+sr", "--by", "size")
    code, _, err = run_eval(capsys, "celeba", *options, *circular)
    assert code == 3, err  # a photograph was left out
    assert "skipped: alone: 1 photograph, 3 needed" in err and "left out: p0/broken.png" in err
    assert "5 searches for 5 people, 2 of them not enrolled, gallery of 3" in err
    assert "warning: fasr: builtin" in err and "circular" in err
    report = (out / "report.md").read_text()
    for text in (
        "## Pictures",
        "PSNR ↑",
        "LPIPS: not measured",
        "FID: not measured",
        "## By size",
        "pooled over bicubic",
    ):
        assert text in report
    assert (
        "fasr pooled+sr" in report
        and "5 items" in report
        and "2 strangers" in report
        and "1 left out" in report
    )
    pictures_and_numbers = {
        (p.name.partition("-")[0], p.suffix) for p in (out / "plots").glob("*-*")
    }
    assert pictures_and_numbers == {
        ("scores", ".png"),
        *((k, e) for k in ("cmc", "roc", "det") for e in (".png", ".csv")),
    }
    assert len(list((out / "tables").iterdir())) == 8

    with (out / "tables" / "1-pictures.csv").open() as stream:
        pictures = {r["system"]: r for r in csv.DictReader(stream)}
    trial = json.loads((out / "trial.json").read_text())
    truths = [np.asarray(Pictures.open(faces / i["probe"])) for i in trial["items"]]
    small = degradations.parse("16")(truths, [0] * 5)
    wanted = psnr(as_tensor(degradations.enlarged(small)), as_tensor(truths)).mean()
    assert float(pictures["bicubic"]["PSNR"]) == pytest.approx(float(wanted), abs=1e-3)

    with sqlite3.connect(out / "eval.sqlite") as db:
        before = db.execute("SELECT count(*) FROM drawn").fetchone()[0]
    assert before == 3 * 5  # fusing draws nothing anew
    code, _, err = run_eval(capsys, "celeba", *common, *tiny, "--scorer", uninvolved_recogniser)
    assert code == 3 and "circular" not in err
    with sqlite3.connect(out / "eval.sqlite") as db:
        assert db.execute("SELECT count(*) FROM drawn").fetchone()[0] == before
    assert len((out / "report.md").read_text().split("scored by builtin")) > 2

    code, _, err = run_eval(capsys, "celeba", *common, "--seed", 9)
    assert code == 2 and "another trial (seed" in err


def test_measures_that_a_run_cannot_have_are_left_out(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One person enrolled: no threshold of two people, no fifth rank. Plots of another comparison
    are gone.
    """
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "plots" / "cmc-old.png").write_bytes(b"")
    merges = [word for rule in ("mean", "weighted", "median") for word in ("--merge", rule)]
    references = [word for k in (1, 2, 3) for word in ("--references", k)]
    chosen = (
        "--people",
        2,
        "--leave-out",
        0.5,
        "--method",
        "bicubic",
        "--method",
        "pooled",
        *merges,
        *references,
    )
    code, _, err = run_eval(
        capsys, "celeba", faces, *chosen, "--by", "size", "--out", tmp_path / "run"
    )
    assert code == 3 and "histograms of the first 9 of 10 systems" in err
    assert "references=3: 2 of 2 searches have fewer auxiliaries" in err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Rank-1" in report and "Rank-5" not in report and "verified ↑" not in report
    assert "scored by dlib resnet_v1" in report
    assert "| 16: bicubic | 2 |" in report and "cmc-old" not in report and "![roc-" in report


def test_fid_of_one_picture_is_refused(tmp_path: Path) -> None:
    torch.save(
        InceptionNet().state_dict() | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "inception.pth"
    )
    trial = protocols.first_searches(protocols.celeba(make_photos([3, 3])), 1)
    plan = Plan(
        [System("bicubic", degradations.parse("16"))],
        [],
        Judges(inception=Inception(tmp_path / "inception.pth")),
    )
    with Store(tmp_path / "run") as store, pytest.raises(UsageError, match="--fid: one picture"):
        compare(trial, plan, Tools(store, BuiltinEmbedder(), torch.device("cpu")), lambda *_: None)


def test_scorers_are_named_as_embedders_are(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--scorer", "builtin", "--scorer", "dlib")
    chosen = ("--people", 2, "--method", "bicubic", *names, "--out", tmp_path / "run")
    code, _, err = run_eval(capsys, "celeba", faces, *chosen)
    assert code == 3, err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "scored by builtin" in report and "dlib resnet_v1" in report


def test_without_dlib_the_error_names_the_package_and_another_scorer(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    code, _, err = run_eval(
        capsys, "celeba", faces, "--people", 2, "--method", "bicubic", "--out", tmp_path / "run"
    )
    assert code == 2 and not (tmp_path / "run").exists()
    assert (
        "pip install 'fasr-video[dlib]'; or give another recogniser with --scorer, such as builtin"
        in err
    )


def test_a_combiner_is_not_used_on_another_recognisers_features(
    faces: Path, uninvolved_recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = (
        "--method",
        "pooled",
        "--scorer",
        uninvolved_recogniser,
        "--people",
        3,
        "--out",
        tmp_path / "run",
    )
    code, _, err = run_eval(capsys, "celeba", faces, *chosen)
    assert code == 3 and "with the mean: it was made with the embedder" in err


@pytest.mark.slow
def test_outputs_of_another_program_are_scored_beside_ours(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that enlarges as we do gets our numbers; inputs come from --inputs."""
    trial = (faces, "--people", 4, "--out", tmp_path / "run")
    assert run_eval(capsys, "celeba", *trial, "--inputs", tmp_path / "lr")[0] == 3
    save_picture(draw_face(5, 9), tmp_path / "twins" / "p0" / "0.png")
    save_picture(draw_face(5, 8), tmp_path / "twins" / "p0" / "0.bmp")
    lists = ["path,identity,role", "twins/p0/0.png,a,probe", "twins/p0/0.bmp,b,probe"]
    lists += [f"{faces}/p{i}/0.png,{who},gallery" for i, who in enumerate("ab")]
    (tmp_path / "list.csv").write_text("\n".join(lists))
    two = (
        tmp_path / "list.csv",
        "--fewest",
        2,
        "--out",
        tmp_path / "run",
        "--inputs",
        tmp_path / "no",
    )
    code, _, err = run_eval(capsys, "celeba", *two)
    assert code == 2 and "would be one file, twins/p0/0.png" in err
    inputs = sorted((tmp_path / "lr" / "16").rglob("*.png"))
    assert len(inputs) == 4 and not (tmp_path / "run").exists()
    outputs = tmp_path / "theirs"
    for file in inputs:
        larger = enlarge(as_tensor([np.asarray(Pictures.open(file))]), 128)[0]
        save_picture(
            (larger * 255).round().byte().permute(1, 2, 0).numpy(),
            outputs / file.relative_to(tmp_path / "lr" / "16"),
        )
    methods = ("--method", "bicubic", "--method", f"images:{outputs}")
    assert run_eval(capsys, "celeba", *trial, *methods)[0] == 3
    with (tmp_path / "run" / "tables" / "1-pictures.csv").open() as stream:
        ours, theirs = (
            {k: v for k, v in r.items() if k != "system"} for r in csv.DictReader(stream)
        )
    assert ours == theirs

    for side in ("16", "32"):  # a folder for each size, where there are several
        for file in outputs.rglob("p*/*.png"):
            save_picture(
                np.asarray(Pictures.open(file)) // (1 if side == "16" else 2),
                tmp_path / "both" / side / file.relative_to(outputs),
            )
    sides = ("--degrade", 16, "--degrade", 32, "--method", f"images:{tmp_path / 'both'}")
    assert run_eval(capsys, "celeba", *trial, *sides)[0] == 3
    with (tmp_path / "run" / "tables" / "1-pictures.csv").open() as stream:
        small, large = csv.DictReader(stream)
    assert small["PSNR"] == ours["PSNR"] and float(large["PSNR"]) < float(small["PSNR"])

    one = outputs / inputs[0].relative_to(tmp_path / "lr" / "16")
    save_picture(draw_face(1, 1, 64), one)
    code, _, err = run_eval(capsys, "celeba", *trial, *methods)
    assert code == 2 and "64×64 px, but compared pictures have 128×128" in err
    one.unlink()
    code, _, err = run_eval(capsys, "celeba", *trial, *methods)
    assert code == 2 and "lacks 1 of 4 pictures" in err


def test_faces_as_the_camera_saw_them_are_probes_without_a_true_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in range(3):
        save_picture(draw_face(person, 0), tmp_path / "gallery" / f"p{person}" / "0.png")
        for k in range(1, 4):
            save_picture(
                draw_face(person, k, 12 + 4 * k), tmp_path / "probes" / f"p{person}" / f"{k}.png"
            )
    chosen = (
        "--gallery",
        tmp_path / "gallery",
        "--each",
        3,
        "--by",
        "size",
        "--out",
        tmp_path / "run",
    )
    code, _, err = run_eval(
        capsys,
        "quis-campi",
        tmp_path / "probes",
        *chosen,
        "--method",
        "bicubic",
        "--method",
        "pooled",
    )
    assert code == 0, err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "9 items, 3 people, 3 gallery" in report and "no true picture" in report
    assert "consistency" in report and "PSNR" not in report and "16: bicubic" in report
    code, _, err = run_eval(capsys, "quis-campi", tmp_path / "probes", *chosen, "--method", "hr")
    assert code == 2 and "method hr: the probes are as the camera saw them" in err
    preset = ("--preset", "paper-table1", "--inputs", tmp_path / "lr")
    code, _, err = run_eval(capsys, "quis-campi", tmp_path / "probes", *chosen, *preset)
    assert code == 0 and "Row hr was left out" in err
    code, _, err = run_eval(capsys, "quis-campi", tmp_path / "probes", *chosen, "--degrade", "16")
    assert code == 2 and "as the camera recorded them" in err


def test_references_of_any_size_are_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "FIT_STEPS", 2)
    people = ROOT / "sample_videos" / "people"
    for name in ("ada", "bruno"):
        (tmp_path / "gallery" / name).mkdir(parents=True)
        (tmp_path / "probes" / name).mkdir(parents=True)
        with Pictures.open(people / f"{name}-gallery.png") as picture:
            picture.save(tmp_path / "gallery" / name / "0.png")
            for side in (80, 96, 112):
                picture.resize((side, side)).save(tmp_path / "probes" / name / f"{side}.png")
    save_idfsr(identity_denoiser(make_network()), tmp_path / "idfsr.safetensors")
    chosen = ("--gallery", tmp_path / "gallery", "--each", 3, "--out", tmp_path / "run")
    method = (
        "--method",
        "idfsr-fitted",
        "--idfsr",
        tmp_path / "idfsr.safetensors",
        "--sampler",
        "ddim-2",
    )
    code, _, err = run_eval(capsys, "quis-campi", tmp_path / "probes", *chosen, *method)
    assert code == 0 and "6 items" in (tmp_path / "run" / "report.md").read_text(), err
    assert "references with landmarks" not in err


def test_the_command_compares_systems_on_pairs(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """People who differ in all of their colours are told apart in every fold."""
    lines = ["a,b,same,fold"]
    for k in range(PEOPLE):
        lines += [
            f"p{k}/0.png,p{k}/1.png,1,{k % 2}",
            f"p{k}/0.png,p{(k + 1) % PEOPLE}/1.png,0,{k % 2}",
        ]
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "p0/0.png,p9/0.png,0,1"]))
    chosen = ("--pairs", tmp_path / "pairs.csv", "--method", "bicubic", "--out", tmp_path / "run")
    code, _, err = run_eval(capsys, "pairs", faces, *chosen)
    assert (
        code == 3
        and "pairs.csv line 14: no usable photograph p9/0.png" in err
        and "12 pairs" in err
    )
    (table,) = (tmp_path / "run" / "tables").glob("2-recognition-*.csv")
    with table.open() as stream:
        (row,) = csv.DictReader(stream)
    assert (
        float(row["AUC"]) > 0.9
        and float(row["accuracy"]) > 0.7
        and row["accuracy around"].startswith("±")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "no such method"),
        (["--merge", "sum"], "--merge sum"),
        (["--fuse", "all"], "--fuse all"),
        (["--degrade", "16:fog"], "16:fog"),
        (["--by", "mood"], "no such label; there are size"),
        (["--baseline", "gfpgan", "--method", "bicubic"], "no such system here"),
        (["--fewest", "9"], "0 people can be tested"),
        (["--method", "images:nowhere"], "it lacks 6 of 6"),
        (
            ["--method", "idfsr", "--idfsr", str(bundled("sr.safetensors"))],
            "does not name an IDFSR network",
        ),
        (["--sampler", "dpmpp"], "not KIND-STEPS"),
        (["--scorer", "{text}"], "text.bin"),
        (
            ["--scorer", "facenet"],
            "facenet: no such file or embedder; give a file of weights, or dlib or builtin",
        ),
        (["--labels", "{labels}"], "labels.csv: its column `path` names none of the photographs"),
        (
            ["--preset", "paper-table4"],
            "--preset paper-table4: it compares a network as it was and fine-tuned; give --model",
        ),
        (
            ["--preset", "paper-fig6", "--combiner", str(bundled("combiner.safetensors"))],
            "give --combiner several times",
        ),
        (
            ["--preset", "paper-fig5"],
            "it compares eta of the Feature Combiner; give --combiner several times: one trained "
            "at each eta",
        ),
        (
            ["--preset", "paper-fig5", *2 * ("--combiner", str(bundled("combiner.safetensors")))],
            "were both trained at eta",
        ),
        (["--combiner", "{text}"], "text.bin"),
        (["--eta", "1"], "No such option"),
        (
            ["--method", "srdg", "--labelled"],
            "--labelled: no probe has 1, 0 or -1 in a column male",
        ),
        (["--method", "sr3", "--sampler", "ve-2"], "sampler ve-2: none of sr3"),
    ],
)
def test_bad_options_give_a_one_line_error(
    arguments: list[str],
    message: str,
    faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.bin").write_text("no weights")
    (tmp_path / "labels.csv").write_text("path,male\nfaces/p0/0.png,1")
    options = [
        a.format(text=tmp_path / "text.bin", labels=tmp_path / "labels.csv") for a in arguments
    ]
    code, _, err = run_eval(capsys, "celeba", faces, "--out", tmp_path / "run", *options)
    assert code == 2 and message in err and "Traceback" not in err


@pytest.mark.slow
def test_a_preset_fills_in_options_that_are_not_given(
    faces: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = (
        "--people",
        2,
        "--out",
        tmp_path / "run",
        "--model",
        network,
        "--merge",
        "mean",
        "--sampler",
        "dpmpp-1",
    )
    code, _, err = run_eval(
        capsys, "celeba", faces, *chosen, "--preset", "paper-fig9", "--references", 1
    )
    assert code == 3 and "Row idfsr-fitted was left out: fitting takes a minute or more" in err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Preset paper-fig9: number of references" in report
    assert "bicubic 8 px" in report and "fasr++ 16 px" in report


@pytest.mark.slow
def test_attributes_and_references_reach_their_methods(
    faces: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SRDG draws towards the labels; IDFSR says where it could fit nothing, as drawn forms have no
    landmarks.
    """
    torch.manual_seed(0)
    size = Size(
        128, 8, (16, 32), blocks=1, condition=32, attention=0, style_widths=(16, 32), residual=True
    )
    save_idfsr(identity_denoiser(IdfsrNet(size)), tmp_path / "idfsr.safetensors")
    names = [f"p{i}/{k}.png" for i in range(PEOPLE) for k in range(EACH)]
    chosen = (
        "--people",
        2,
        "--out",
        tmp_path / "run",
        "--labels",
        tmp_path / "labels.csv",
        "--labelled",
    )
    methods = (
        "--method",
        "srdg",
        "--method",
        "idfsr",
        "--method",
        "idfsr-fitted",
        "--sampler",
        "ddim-2",
    )
    drawn_by = []
    for male in (-1, 1):
        lines = ["path,male", *(f"{name},{male}" for name in names)]
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        weights = ("--model", network, "--idfsr", tmp_path / "idfsr.safetensors")
        code, _, err = run_eval(capsys, "celeba", faces, *chosen, *methods, *weights)
        assert (
            code == 3
            and "2 of 2 pictures: drawn without fitting (0 references with landmarks, 2 needed)"
            in err
        ), err
        with sqlite3.connect(tmp_path / "run" / "eval.sqlite") as db:
            drawn_by.append(
                dict(db.execute("SELECT system, count(*) FROM drawn GROUP BY system").fetchall())
            )
        assert "one classifier guides the pictures and judges their attributes" in err
    fewer = ("--method", "srdg", "--method", "bicubic", "--sampler", "ddim-2", "--model", network)
    other = load_attribute_classifier(bundled("attributes.safetensors"))
    next(other.parameters()).data *= 1.01
    save_attributes(other, tmp_path / "other.safetensors")
    code, _, err = run_eval(
        capsys, "celeba", faces, *chosen, *fewer, "--attributes", tmp_path / "other.safetensors"
    )
    assert code == 3 and "circular" not in err
    assert drawn_by == [
        {"srdg": 2, "idfsr": 2, "idfsr-fitted": 2},
        {"srdg": 4, "idfsr": 2, "idfsr-fitted": 2},
    ]


def test_a_missing_file_is_reported_before_anything_is_drawn(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("--method", "bicubic", "--method", "idfsr", "--idfsr", bundled("sr.safetensors"))
    code, _, err = run_eval(capsys, "celeba", faces, *methods, "--out", tmp_path / "run")
    assert code == 2 and "does not name an IDFSR network" in err
    with sqlite3.connect(tmp_path / "run" / "eval.sqlite") as db:
        assert db.execute("SELECT count(*) FROM drawn").fetchone()[0] == 0


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fasr_video.evaluation.photos import read_photos
from fasr_video.evaluation.protocols import celeba
from fasr_video.evaluation.compare import Plan, compare
from fasr_video.evaluation.degradations import parse
from fasr_video.evaluation.scoring import Judges
from fasr_video.evaluation.store import Store
from fasr_video.evaluation.systems import System, Tools
from fasr_video.recognition.embedder import BuiltinEmbedder

def tell(name, done, total):
    if len(sys.argv) > 3 and (name, done) == ("bicubic", 3):
        os.kill(os.getpid(), signal.SIGKILL)

trial = celeba(read_photos([Path(sys.argv[1])])[0])
embedder = BuiltinEmbedder()
plan = Plan([System(m, parse("16")) for m in ("lr", "bicubic")], [embedder], Judges(), batch=1)
with Store(Path(sys.argv[2])) as store:
    compare(trial, plan, Tools(store, embedder, torch.device("cpu")), tell)
"""


@pytest.mark.slow
def test_a_killed_comparison_resumes_with_its_pictures(faces: Path, tmp_path: Path) -> None:
    def compare(folder: str, *more: str) -> int:
        command: list[str | Path] = [sys.executable, "-c", KILLED, faces, tmp_path / folder, *more]
        return subprocess.run(command, capture_output=True, timeout=100).returncode

    def rows(folder: str) -> dict[str, bytes]:
        with sqlite3.connect(tmp_path / folder / "eval.sqlite") as db:
            return dict(db.execute("SELECT key, picture FROM drawn").fetchall())

    assert compare("broken", "kill") == -signal.SIGKILL
    before = rows("broken")
    assert len(before) == PEOPLE + 3 and not (tmp_path / "broken" / "report.md").exists()
    with sqlite3.connect(tmp_path / "broken" / "eval.sqlite") as db:
        # A mark: what is there already is not drawn again.
        db.execute("UPDATE drawn SET system = 'kept'")
    assert compare("broken") == 0 and compare("whole") == 0
    assert rows("broken") == rows("whole") and len(rows("whole")) == 2 * PEOPLE
    with sqlite3.connect(tmp_path / "broken" / "eval.sqlite") as db:
        assert db.execute("SELECT count(*) FROM drawn WHERE system = 'kept'").fetchone()[0] == len(
            before
        )
    first, second = ((tmp_path / f / "report.md").read_text() for f in ("broken", "whole"))
    assert first == second


def test_a_comparison_resumes_after_an_unusable_file_is_added(tmp_path: Path) -> None:
    trial = protocols.celeba(make_photos([3, 3]))
    more = replace(trial, left_out=(LeftOut("notes.png", "not a readable picture"),))
    with Store(tmp_path) as store:
        store.bind(trial)
        store.bind(more)
        with pytest.raises(UsageError, match="seed"):
            store.bind(replace(trial, seed=1))
        for text in ("{", "{}", '{"provenance": 3}', "[]"):
            (tmp_path / "trial.json").write_text(text)
            with pytest.raises(IntegrityError, match=r"trial\.json: it is damaged"):
                store.bind(trial)


def test_a_feature_is_computed_once(tmp_path: Path) -> None:
    class Counted(BuiltinEmbedder):
        calls = 0

        def embed(
            self, faces: torch.Tensor, landmarks: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.calls += len(faces)
            return super().embed(faces, landmarks)

    embedder = Counted()
    pictures = {digest_of(p): p for p in (draw_face(0, 0), draw_face(1, 0))}
    with Store(tmp_path) as store:
        first = store.features(embedder, pictures)
    with Store(tmp_path) as store:
        second = store.features(embedder, pictures)
    assert embedder.calls == 2
    unit, norms = embedder.embed(as_tensor(list(pictures.values())))
    for k, digest in enumerate(pictures):
        assert torch.equal(first[digest], second[digest])
        assert torch.allclose(first[digest], unit[k] * norms[k], atol=1e-5)


def test_a_grid_has_a_head_for_each_picture(tmp_path: Path) -> None:
    plots.grid(
        [[draw_face(0, 0), draw_face(0, 1)]] * 3,
        ["one", "a very long name of a system indeed"],
        tmp_path / "grid.png",
    )
    with Pictures.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (2 * 132 + 4, 18 + 3 * 132 + 4)
        assert "SYNTHETIC" in sheet.info["Description"]
    with pytest.raises(FasrError):
        plots.grid([[draw_face(0, 0)]], ["one", "two"], tmp_path / "grid.png")


def test_the_command_line_starts_without_torch() -> None:
    """It takes seconds to load; how its threads wait has to be set before that."""
    code = "import sys, fasr_video.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_all_methods_that_the_command_names_exist() -> None:
    assert {
        "hr",
        "lr",
        "bicubic",
        "pooled",
        "fasr++",
        "srdg",
        "sr3",
        "idfsr",
        "idfsr-fitted",
    } <= set(systems.NAMES)
