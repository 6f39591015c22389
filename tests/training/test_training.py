"""The trainers: they learn, they resume to the bit, they refuse what they cannot use."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from fasr_video.datasets.faces import Faces, identity_of, read_faces, rows_of, views
from fasr_video.errors import FasrError
from fasr_video.recognition.combiner import FeatureCombiner, Source
from fasr_video.recognition.combiner import save as save_combiner
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr import checkpoints, sde
from fasr_video.sr.samplers import centred
from fasr_video.sr.sde import score
from fasr_video.training import sr
from fasr_video.training.features import make_features
from fasr_video.training.loop import Plan, Progress, rate, train
from fasr_video.training.muon import Muon, orthogonal
from tests.support.paths import ROOT
from tests.support.score_matching import matching_loss

CPU = torch.device("cpu")


def face(seed: int, side: int = 144) -> np.ndarray:
    """A smooth picture with a few ovals: nobody, but not noise."""
    g = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    picture = np.zeros((side, side, 3))
    for _ in range(6):
        cx, cy, r = g.random(3)
        picture += (
            g.random(3) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.02 + 0.1 * r))[..., None]
        )
    return (255 * picture / picture.max()).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people, four photos each."""
    root = tmp_path_factory.mktemp("faces")
    for person in range(6):
        (root / f"p{person}").mkdir()
        for photo in range(4):
            Image.fromarray(face(10 * person + photo)).save(root / f"p{person}" / f"{photo}.png")
    return root


@pytest.fixture(scope="module")
def features(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    faces, _ = read_faces([folder])
    g = np.random.default_rng(0)
    hr, lr = (g.standard_normal((len(faces), 512)).astype(np.float32) for _ in range(2))
    file = tmp_path_factory.mktemp("features") / "features.npz"
    np.savez(file, path=np.array(faces.paths), identity=np.array(faces.identities), hr=hr, lr=lr)
    return file


def check_progress(progress: Progress) -> None:
    assert progress.batches_per_second > 0


# -------------------------------------------------------------------------------------------- faces


def test_folders_and_tar_shards_hold_the_same_faces(folder: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted(folder.rglob("*.png")):
            tar.add(path, path.relative_to(folder).as_posix())
    (a, _), (b, _) = read_faces([folder]), read_faces([shard])
    assert a.paths == b.paths and torch.equal(a.pictures, b.pictures)
    assert a.pictures.shape == (24, 3, 144, 144) and a.pictures.dtype == torch.uint8
    assert a.identities[:5] == ["p0"] * 4 + ["p1"]


def test_pictures_that_are_no_aligned_face_are_left_out_and_reported(tmp_path: Path) -> None:
    Image.fromarray(face(0)).save(tmp_path / "a.png")
    Image.fromarray(face(1)[:100]).save(tmp_path / "b.png")
    Image.fromarray(face(1, 160)).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    faces, left_out = read_faces([tmp_path])
    assert faces.paths == ("a.png",)
    assert [line.partition(":")[0] for line in left_out] == ["b.png", "c.png", "d.png"]


def test_every_file_is_read_or_left_out_with_a_reason(tmp_path: Path) -> None:
    root, shard = tmp_path / "faces", tmp_path / "shard.tar"
    (root / "anna").mkdir(parents=True)
    Image.fromarray(face(0)).save(root / "anna" / "a.png")
    (root / "anna" / "notes.txt").write_text("of somebody")
    (root / "anna" / "b").write_bytes(b"no ending")
    os.mkfifo(root / "anna" / "pipe.png")
    (root / "elsewhere").symlink_to(tmp_path)
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    (root / os.fsdecode(b"h\xf6.png")).write_bytes(b"")
    with tarfile.open(shard, "w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, path.relative_to(root), recursive=False)
    reasons = {
        "anna/b": "its name does not end as a picture's does (no ending)",
        "anna/notes.txt": "its name does not end as a picture's does (.txt)",
        "anna/pipe.png": "cannot be read (not a regular file)",
        "elsewhere": "a link to a folder, which is not followed",
        "gone.png": "cannot be read (No such file or directory)",
        "h\\udcf6.png": "its name is not UTF-8: rename it",
    }
    faces, left_out = read_faces([root])
    assert (
        faces.paths == ("anna/a.png",) and dict(line.split(": ", 1) for line in left_out) == reasons
    )
    faces, left_out = read_faces([shard])
    assert faces.paths == ("anna/a.png",) and {line.split(": ", 1)[0] for line in left_out} == set(
        reasons
    )


def test_two_people_under_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(FasrError, match="more than once"):
        read_faces([folder, folder])


def test_rows_without_finite_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    faces, _ = read_faces([folder])
    for bad in (np.full((24, 4), np.nan), np.ones((23, 4)), np.ones((24, 4), int)):
        np.savez(tmp_path / "bad.npz", path=np.array(faces.paths), hr=bad)
        with pytest.raises(FasrError, match="finite numbers"):
            rows_of(tmp_path / "bad.npz", faces, ("hr",))


def test_making_features_resumes_after_the_last_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, _ = read_faces([folder])
    monkeypatch.setattr("fasr_video.training.features.PART", 10)
    embedder, uninterrupted, broken = (
        BuiltinEmbedder(),
        tmp_path / "whole.npz",
        tmp_path / "broken.npz",
    )
    make_features(faces, embedder, 16, uninterrupted, report=lambda done: None)

    def stop(done: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_features(faces, embedder, 16, broken, report=stop)
    assert not broken.exists()
    progress: list[int] = []
    make_features(faces, embedder, 16, broken, report=progress.append)
    assert progress[0] == 10  # the first part was not made again
    with np.load(uninterrupted) as a, np.load(broken) as b:
        assert all(np.array_equal(a[k], b[k]) for k in a.files) and a["hr"].shape == (24, 512)
    assert {p.name for p in tmp_path.iterdir()} == {"whole.npz", "broken.npz"}


def test_a_folder_without_faces_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FasrError, match="no aligned face"):
        read_faces([tmp_path])
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(FasrError, match=r"bad\.tar"):
        read_faces([tmp_path / "bad.tar"])


def test_the_identity_is_the_name_of_the_folder() -> None:
    assert identity_of("a/0012/photo.webp") == "0012" and identity_of("photo.webp") == "photo"


def test_views_are_crops_and_mirrors_of_the_picture() -> None:
    picture = torch.arange(3 * 12 * 12, dtype=torch.uint8).reshape(1, 3, 12, 12)
    assert torch.equal(
        views(picture, 8, False, torch.Generator()), picture[..., 2:10, 2:10].float() / 255
    )
    crops = {
        (picture[0, :, y : y + 8, x : x + 8].float() / 255).numpy().tobytes()
        for y in range(5)
        for x in range(5)
    }
    mirrored = set()
    for seed in range(40):
        view = views(picture, 8, True, torch.Generator().manual_seed(seed))[0]
        plain, flipped = view.numpy().tobytes(), view.flip(-1).contiguous().numpy().tobytes()
        assert plain in crops or flipped in crops
        mirrored.add(flipped in crops)
    assert mirrored == {True, False}


def test_rows_follow_the_faces_and_missing_ones_are_named(
    folder: Path, features: Path, tmp_path: Path
) -> None:
    faces, _ = read_faces([folder])
    turned = Faces(faces.pictures.flip(0), faces.paths[::-1])
    straight, back = (
        rows_of(features, faces, ("hr",))["hr"],
        rows_of(features, turned, ("hr",))["hr"],
    )
    assert torch.equal(straight, back.flip(0))
    with pytest.raises(FasrError, match="stranger"):
        rows_of(features, Faces(faces.pictures[:1], ("stranger.png",)), ("hr",))
    (tmp_path / "no.npz").write_bytes(b"PK no")
    with pytest.raises(FasrError, match=r"no\.npz"):
        rows_of(tmp_path / "no.npz", faces, ("hr",))


# --------------------------------------------------------------------------------------------- loop


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


TRUTH = torch.tensor([1.0, -2.0, 0.5, 3.0])


def line_loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
    x = torch.randn(64, 4, generator=generator)
    return {"loss": (model(x)[:, 0] - x @ TRUTH).square().mean()}


def run_line(out: Path, plan: Plan) -> dict[str, Tensor]:
    out.mkdir(exist_ok=True)
    weights: dict[str, Tensor] = {}
    train(
        Line(),
        line_loss,
        out,
        plan,
        device=CPU,
        save=lambda state, _: weights.update(state),
        report=check_progress,
    )
    return weights


PLAN = Plan(steps=300, lr=0.1, warmup=10, ema=0.9, weight_decay=0.0, bf16=False, log_every=50)


def test_the_loss_falls(tmp_path: Path) -> None:
    weights = run_line(tmp_path, PLAN)
    assert (weights["layer.weight"][0] - TRUTH).abs().max() < 0.05
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(r["step"]) for r in rows] == [50, 100, 150, 200, 250, 300]
    assert float(rows[-1]["loss"]) < 0.01 < float(rows[0]["loss"])


def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    uninterrupted = run_line(tmp_path / "whole", PLAN)

    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 150:
            raise Killed

    (tmp_path / "broken").mkdir()
    often = Plan(**{f: getattr(PLAN, f) for f in PLAN.__slots__} | {"save_seconds": 0.0})
    with pytest.raises(Killed):
        train(
            Line(),
            line_loss,
            tmp_path / "broken",
            often,
            device=CPU,
            save=lambda state, _: None,
            report=kill,
        )
    resumed = run_line(tmp_path / "broken", PLAN)
    assert all(torch.equal(uninterrupted[k], resumed[k]) for k in uninterrupted)


def test_the_rate_rises_falls_and_ends_at_its_floor() -> None:
    rates = [rate(step, PLAN) for step in range(301)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[300] == pytest.approx(PLAN.floor) and rates.index(max(rates)) in range(8, 14)


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """What torchrun and `accelerate launch` start: the same weights in each, batches of their
    own.
    """
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, torch, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.training.test_training import *\n"
        "import os\n"
        "out = pathlib.Path(sys.argv[1]); net = Line(); seen = []\n"
        "def loss(model, generator):\n"
        "    seen.append(torch.rand((), generator=generator.clone_state()).item())\n"
        "    return line_loss(model, generator)\n"
        "plan = Plan(**{f: getattr(PLAN, f) for f in PLAN.__slots__} | {'seconds': "
        "float(sys.argv[2])})\n"
        "out = out / sys.argv[2]; out.mkdir(exist_ok=True)\n"
        "step = train(net, loss, out, plan, device=CPU, save=lambda s, _: None, "
        "report=check_progress)\n"
        "torch.save((net.state_dict(), seen, step), out / f'end{os.environ[\"RANK\"]}.pt')\n"
    )
    (a, seen_a, steps), (b, seen_b, _) = launch(script, tmp_path, "1000")
    assert all(torch.equal(a[k], b[k]) for k in a) and steps == 300
    assert not set(seen_a) & set(seen_b)
    assert (a["layer.weight"][0] - TRUTH).abs().max() < 0.05
    # A limit of time ends both at one step, whoever's clock is first.
    (c, _, stopped), (d, _, also) = launch(script, tmp_path, "0.05")
    assert stopped == also < 300 and all(torch.equal(c[k], d[k]) for k in c)


def launch(
    script: Path, out: Path, seconds: str
) -> list[tuple[dict[str, Tensor], list[float], int]]:
    port = str(20000 + os.getpid() % 20000)
    shared = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script), str(out), seconds]
    jobs = [subprocess.Popen(command, env=shared | {"RANK": str(r)}) for r in range(2)]
    assert [job.wait(100) for job in jobs] == [0, 0]
    return [torch.load(out / seconds / f"end{r}.pt", weights_only=True) for r in range(2)]


def changed_plan(**fields: object) -> Plan:
    return Plan(**{f: getattr(PLAN, f) for f in PLAN.__slots__} | fields)


def test_sigterm_finishes_the_step_and_writes_a_checkpoint(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 100:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(
            Line(),
            line_loss,
            tmp_path,
            PLAN,
            device=CPU,
            save=lambda state, _: None,
            report=interrupt,
        )
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 100
    whole = tmp_path / "whole"
    assert all(
        torch.equal(v, run_line(whole, PLAN)[k]) for k, v in run_line(tmp_path, PLAN).items()
    )


def test_dropout_is_the_same_after_a_resume(tmp_path: Path) -> None:
    class Dropping(Line):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.nn.functional.dropout(x, 0.3))

    ends = []
    for name, stops in (("whole", ()), ("broken", (7,))):
        (tmp_path / name).mkdir()
        weights: dict[str, Tensor] = {}

        def stop(progress: Progress, stops: tuple[int, ...] = stops) -> None:
            if progress.step in stops:
                os.kill(os.getpid(), signal.SIGTERM)

        def save(state: Mapping[str, Tensor], _: int, weights: dict[str, Tensor] = weights) -> None:
            weights.update(state)

        plan = changed_plan(steps=20, log_every=1)
        for _ in range(len(stops)):
            with pytest.raises(KeyboardInterrupt):
                train(
                    Dropping(),
                    line_loss,
                    tmp_path / name,
                    plan,
                    device=CPU,
                    save=lambda s, _: None,
                    report=stop,
                )
            torch.rand(5)  # what the outside does with its random numbers is its own business
        train(
            Dropping(),
            line_loss,
            tmp_path / name,
            plan,
            device=CPU,
            save=save,
            report=check_progress,
        )
        ends.append(weights["layer.weight"])
    assert torch.equal(*ends)


def test_nan_or_infinite_terms_stop_a_run_and_keep_its_checkpoint(tmp_path: Path) -> None:
    run_line(tmp_path, changed_plan(seconds=0.2, steps=10_000))
    good = (tmp_path / "state.pt").read_bytes()

    def poison(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"loss": line_loss(model, generator)["loss"] * float("nan")}

    with pytest.raises(FasrError, match="NaN"):
        train(
            Line(),
            poison,
            tmp_path,
            changed_plan(steps=10_000),
            device=CPU,
            save=lambda state, _: None,
            report=check_progress,
        )
    assert (tmp_path / "state.pt").read_bytes() == good


def test_a_run_resumes_only_with_its_own_settings(tmp_path: Path) -> None:
    run_line(tmp_path, changed_plan(seconds=0.1))
    with pytest.raises(FasrError, match="seed 0, not 1"):
        run_line(tmp_path, changed_plan(seed=1))
    for damage in (b"", b"no checkpoint", (tmp_path / "state.pt").read_bytes()[:500]):
        (tmp_path / "state.pt").write_bytes(damage)
        with pytest.raises(FasrError, match=r"state\.pt"):
            run_line(tmp_path, PLAN)


def test_a_finished_run_may_have_more_steps_and_an_unfinished_one_may_not(tmp_path: Path) -> None:
    run_line(tmp_path / "finished", changed_plan(steps=100))
    run_line(tmp_path / "finished", changed_plan(steps=200))
    rows = list(csv.DictReader((tmp_path / "finished" / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [50, 100, 150, 200]
    run_line(tmp_path / "stopped", changed_plan(steps=100, seconds=0.0))
    with pytest.raises(FasrError, match="steps 100, not 200"):
        run_line(tmp_path / "stopped", changed_plan(steps=200))


def test_the_log_continues_from_the_checkpoint(tmp_path: Path) -> None:
    run_line(tmp_path, changed_plan(seconds=0.0))  # a checkpoint at step 0
    (tmp_path / "log.csv").write_text(
        "step,loss,slope,batches_per_second\n50,1.0,1.0,9.0\n100,0.5,"
    )
    run_line(tmp_path, PLAN)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(r["step"]) for r in rows] == [50, 100, 150, 200, 250, 300]


# ------------------------------------------------------------------------------------------- models


@pytest.mark.slow
def test_the_sr_trainer_writes_weights_that_load_and_a_manifest(
    folder: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sr.NETWORKS,
        "compact",
        lambda n, dropout: sr.ResidualDenoiser(sr.CompactNet((32, 64), 1, n, 64)),
    )
    job = sr.Job(read_faces([folder])[0], features, None, "compact", sr.Recipe(batch=8), folder)
    plan = Plan(steps=30, lr=2e-3, warmup=5, ema=0.9, log_every=10)
    assert sr.run(job, tmp_path, plan, CPU, report=check_progress) == 30
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (
        manifest["people"] == 6 and manifest["faces"] == 24 and "CelebA" not in manifest["licence"]
    )
    denoiser = checkpoints.load(tmp_path / "sr.safetensors")
    assert denoiser.feature_length == 512 and denoiser.band == (12, 32)
    for picture in ("samples.png", "curves.png", "throughput.png"):
        assert Image.open(tmp_path / picture).size[0] > 100


@pytest.mark.slow
def test_the_identity_term_makes_the_output_more_like_the_person(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sr.NETWORKS,
        "compact",
        lambda n, dropout: sr.ResidualDenoiser(sr.CompactNet((32, 64), 1, n, 64)),
    )
    faces, _ = read_faces([folder])
    file = tmp_path / "features.npz"
    make_features(faces, BuiltinEmbedder(), 16, file, report=lambda done: None)
    recipe = sr.Recipe(batch=8, identity=1.0)
    plan = Plan(steps=20, lr=3e-3, warmup=2, log_every=10)
    sr.run(
        sr.Job(faces, file, None, "compact", recipe, None),
        tmp_path / "run",
        plan,
        CPU,
        report=check_progress,
    )
    first, last = csv.DictReader((tmp_path / "run" / "log.csv").open())
    assert float(last["identity"]) < float(first["identity"])


def test_an_embedder_that_did_not_make_the_features_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    faces, _ = read_faces([folder])
    vectors = np.ones((len(faces), 512), np.float32)
    own: dict[str, Any] = {"embedder": np.array("builtin"), "embedder_sha256": np.array("f" * 64)}
    file = tmp_path / "features.npz"
    np.savez(
        file,
        path=np.array(faces.paths),
        identity=np.array(faces.identities),
        hr=vectors,
        lr=vectors,
        **own,
    )
    job = sr.Job(faces, file, None, "compact", sr.Recipe(identity=1.0), None)
    with pytest.raises(FasrError, match="it was made with the embedder ffffffffffff"):
        sr.run(job, tmp_path / "run", Plan(steps=1, lr=1e-4), CPU, report=check_progress)


@pytest.mark.slow
def test_the_papers_network_trains_with_the_papers_noise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCSN++ on a VE process, with surveillance pictures, small enough for a test."""
    small = sr.NCSNpp(width=16)
    monkeypatch.setitem(
        sr.NETWORKS, "ncsnpp", lambda n, dropout: sr.ScoreDenoiser(small, 0.001, 348.0)
    )
    faces, _ = read_faces([folder])
    vectors = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    file = tmp_path / "features.npz"
    np.savez(
        file,
        path=np.array(faces.paths),
        identity=np.array(faces.identities),
        hr=vectors,
        lr=vectors,
    )
    before = small.state_dict()["all_modules.3.weight"].clone()
    job = sr.Job(
        faces, file, None, "ncsnpp", sr.Recipe(batch=4, noise="ve", surveillance=0.5), None
    )
    plan = Plan(steps=3, lr=1e-4, warmup=1, log_every=1)
    assert sr.run(job, tmp_path / "run", plan, CPU, report=check_progress) == 3
    assert not torch.equal(small.state_dict()["all_modules.3.weight"], before)
    denoiser = checkpoints.load(tmp_path / "run" / "sr.safetensors")
    assert denoiser.feature_length == 64 and denoiser.band == (12, 40)


def test_features_and_combiner_of_two_embedders_are_refused(
    folder: Path, features: Path, tmp_path: Path
) -> None:
    combiner = FeatureCombiner(source=Source("another", "f" * 64))
    save_combiner(combiner, tmp_path / "combiner.safetensors")
    job = sr.Job(
        read_faces([folder])[0],
        features,
        tmp_path / "combiner.safetensors",
        "compact",
        sr.Recipe(),
        None,
    )
    with pytest.raises(FasrError, match="it was made with the embedder ffffffffffff"):
        sr.run(job, tmp_path / "run", Plan(steps=1, lr=1e-4), CPU, report=check_progress)


@pytest.mark.parametrize("noise", ["edm", "ve", "vp", "subvp"])
def test_noise_levels_follow_the_process(noise: str) -> None:
    denoiser = sr.ScoreDenoiser(sr.NCSNpp(16, 16, (1, 1), 8), 0.001, 348.0)
    known = torch.ones(20_000, dtype=torch.bool)
    sigma = sr.levels(sr.Recipe(noise=noise), denoiser, known, torch.Generator().manual_seed(0))
    t = torch.tensor(0.5)
    expected = {
        "edm": float(np.exp(-2.2)),
        "ve": float(sde.VE(0.001, 348.0).std(t)),
        "vp": float(sde.VP().std(t) / sde.VP().alpha(t)) / 2,
        "subvp": float(sde.SubVP().std(t) / sde.SubVP().alpha(t)) / 2,
    }[noise]
    assert float(sigma.median()) == pytest.approx(expected, rel=0.1)


def test_faces_without_an_lr_picture_get_higher_noise_levels() -> None:
    denoiser = sr.ResidualDenoiser(sr.CompactNet())
    known = torch.arange(20_000) % 2 == 0
    sigma = sr.levels(sr.Recipe(), denoiser, known, torch.Generator().manual_seed(0))
    ratio = float(sigma[~known].median() / sigma[known].median())
    assert ratio == pytest.approx(denoiser.WITHOUT_LR / denoiser.WITH_LR, rel=0.1)


def test_sr_training_starts_from_given_weights(
    folder: Path, features: Path, tmp_path: Path
) -> None:
    faces = read_faces([folder])[0]
    job = sr.Job(faces, features, None, "compact", sr.Recipe(batch=2), None)
    sr.run(job, tmp_path / "first", Plan(steps=1, lr=1e-4), CPU, report=check_progress)
    weights = tmp_path / "first" / "sr.safetensors"
    # At a rate of nothing the second run ends where it began.
    sr.run(
        replace(job, begin=weights),
        tmp_path / "second",
        Plan(steps=1, lr=0.0),
        CPU,
        report=check_progress,
    )
    first, second = load_file(weights), load_file(tmp_path / "second" / "sr.safetensors")
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("noise", ["ve", "vp", "subvp"])
def test_with_an_sde_the_loss_is_the_papers_score_matching(noise: str) -> None:
    """std² |s − target|² at a time t (SDE eq. 7) is |D − clean|² / sigma² for the picture that the
    process sees.
    """
    processes: dict[str, sde.SDE] = {"ve": sde.VE(), "vp": sde.VP(), "subvp": sde.SubVP()}
    process = processes[noise]
    t = torch.tensor([0.2, 0.6])
    g = torch.Generator().manual_seed(0)
    clean, noisy = torch.rand(2, 3, 8, 8, generator=g), torch.randn(2, 3, 8, 8, generator=g)
    guess = torch.rand(2, 3, 8, 8, generator=g)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return guess

    scale, shift = (1, 0) if noise == "ve" else (2, -1)  # VP and subVP see pictures in [−1, 1]
    model = denoiser if noise == "ve" else centred(denoiser)
    papers = matching_loss(
        lambda x, t: score(model, process, x, t), process, scale * clean + shift, t, noise=noisy
    )
    sigma = process.std(t) / process.alpha(t) / scale
    ours = (guess - clean).square().flatten(1).mean(1) / sigma**2
    torch.testing.assert_close(papers, ours, rtol=1e-3, atol=1e-5)


def test_merged_features_leave_the_face_itself_out() -> None:
    features = torch.eye(4)
    merged = sr.merged_features(features, [[0, 1, 2], [3]], lambda f: f.mean(0))
    assert torch.equal(merged[0], torch.tensor([0, 0.5, 0.5, 0]))
    assert not merged[3].any()


class TestMuon:
    def test_orthogonal_keeps_the_directions_and_levels_their_strengths(self) -> None:
        g = torch.Generator().manual_seed(0)
        u, _ = torch.linalg.qr(torch.randn(6, 6, generator=g))
        v, _ = torch.linalg.qr(torch.randn(40, 6, generator=g))
        x = u @ torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0, 0.7, 0.5])) @ v.T
        for given, exact in ((x, u @ v.T), (x.T, v @ u.T)):
            found = orthogonal(given).float()
            assert (
                torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
                > 0.97
            )
            assert (
                torch.linalg.svdvals(found).max() < 1.3 and torch.linalg.svdvals(found).min() > 0.6
            )

    def test_a_step_of_a_convolution_has_adamws_length_whatever_the_gradient_is(self) -> None:
        for scale in (1e-4, 1.0, 1e4):
            weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
            groups = [{"params": [weight], "weight_decay": 0.0, "matrices": True}]
            optimizer = Muon(groups, lr=0.01, fused=True)
            weight.grad = scale * torch.randn(
                8, 4, 3, 3, generator=torch.Generator().manual_seed(0)
            )
            optimizer.step()
            assert 0.1 < float(weight.detach().square().mean().sqrt()) / 0.01 < 0.3

    def test_the_optimizer_resumes_from_its_saved_state(self) -> None:
        def move(optimizer: Muon, weight: Tensor) -> None:
            weight.grad = torch.arange(6.0).reshape(2, 3) - weight.detach()
            optimizer.step()

        def make() -> tuple[torch.nn.Parameter, Muon]:
            weight = torch.nn.Parameter(torch.eye(2, 3))
            return weight, Muon(
                [{"params": [weight], "weight_decay": 0.0, "matrices": True}], lr=0.1, fused=True
            )

        (unbroken, one), (stopped, two) = make(), make()
        move(one, unbroken)
        move(two, stopped)
        resumed, three = make()
        resumed.data.copy_(stopped.data)
        three.load_state_dict(two.state_dict())
        move(one, unbroken)
        move(three, resumed)
        assert torch.equal(unbroken, resumed)

    def test_parameters_that_are_no_matrix_are_updated_by_adamw(self) -> None:
        ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
        optimizers = (
            Muon([{"params": [ours], "weight_decay": 0.1, "matrices": False}], lr=0.01, fused=True),
            torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, fused=True),
        )
        for step in range(3):
            for p, optimizer in zip((ours, theirs), optimizers, strict=True):
                p.grad = torch.arange(5.0) - step
                optimizer.step()
        assert torch.equal(ours, theirs)


def test_training_needs_no_codec_no_index_and_no_opencv(tmp_path: Path) -> None:
    """A borrowed GPU machine has torch, numpy and Pillow, and perhaps nothing else."""
    blocked = (
        "import sys\n"
        "for name in ('av', 'cv2', 'faiss', 'decord', 'matplotlib'): sys.modules[name] = None\n"
    )
    modules = (
        "import fasr_video.training.sr, fasr_video.training.embedder, "
        "fasr_video.training.combiner\n"
    )
    code = blocked + modules + "import fasr_video.training.features, fasr_video.training.attributes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
