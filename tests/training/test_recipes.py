"""`train sr --recipe`: the papers' values are the defaults, any option changes them, data are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fasr_video.cli import cli
from fasr_video.commands import train as commands
from fasr_video.sr import checkpoints
from fasr_video.sr.networks.ncsnpp import NCSNpp
from fasr_video.training import sr
from fasr_video.training.loop import Plan, rate
from fasr_video.training.recipes import SUPER_RESOLUTION


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for person in range(2):
        (folder / f"p{person}").mkdir()
        for photo in range(2):
            pixels = np.random.default_rng(2 * person + photo).integers(0, 256, (128, 128, 3))
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.save(folder / f"p{person}" / f"{photo}.png")
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return where the job and the plan of the next command are noted, in place of training."""
    noted: dict[str, Any] = {}

    def note(job: sr.Job, out: Path, plan: Plan, device: torch.device, *, report: Any) -> int:
        noted.update(job=job, plan=plan)
        return plan.steps

    monkeypatch.setattr(commands.sr, "run", note)
    return noted


def train_sr(faces: Path, *options: object) -> Result:
    arguments = ["train", "sr", str(faces), "--out", str(faces.parent / "run")]
    return CliRunner().invoke(cli, [*arguments, *map(str, options)])


@pytest.mark.parametrize("name", list(SUPER_RESOLUTION))
def test_a_recipe_has_the_papers_optimiser_and_length(
    name: str, faces: Path, started: dict[str, Any], tmp_path: Path
) -> None:
    features = tmp_path / "features.npz"
    features.touch()
    more = ("--features", features) if SUPER_RESOLUTION[name].feature else ()
    result = train_sr(faces, "--recipe", name, *more)
    assert result.exit_code == 0, result.output
    plan, job = started["plan"], started["job"]
    assert (plan.lr, plan.warmup, plan.clip, plan.steps) == (2e-4, 5_000, 1.0, 1_000_000)
    assert (plan.weight_decay, plan.muon, plan.bf16) == (0.0, False, False)
    assert plan.constant and plan.fall == 0
    assert job.network == "ncsnpp"
    recipe = job.recipe
    assert (recipe.identity, recipe.no_lr, recipe.no_feature, recipe.others) == (0, 0, 0, 0)
    assert recipe.surveillance == 0


@pytest.mark.parametrize(
    ("name", "noise", "sides", "ema", "dropout", "batch"),
    [
        ("fasr", "ve", (16,), 0.999, 0.0, 4),
        ("fasr++", "ve", (16,), 0.999, 0.0, 4),
        ("sde-sr-ve", "ve", (16,), 0.999, 0.0, 2),
        ("sde-sr-vp", "vp", (16,), 0.9999, 0.1, 2),
        ("sde-sr-subvp", "subvp", (16,), 0.9999, 0.1, 2),
        ("srdg", "ve", (16,), 0.999, 0.0, 1),
        ("srdg-x16", "ve", (8,), 0.999, 0.0, 1),
    ],
)
def test_each_recipe_has_its_own_constants(
    name: str, noise: str, sides: tuple[int, ...], ema: float, dropout: float, batch: int
) -> None:
    options = SUPER_RESOLUTION[name].options
    assert options["noise"] == noise
    assert options["sides"] == ",".join(map(str, sides))
    assert (options["ema"], options["dropout"], options["batch"]) == (ema, dropout, batch)


def test_an_option_changes_a_recipe(faces: Path, started: dict[str, Any]) -> None:
    result = train_sr(faces, "--steps", 7, "--recipe", "sde-sr-ve", "--batch", 3, "--sides", "8,16")
    assert result.exit_code == 0, result.output
    assert started["plan"].steps == 7
    assert started["job"].recipe == sr.Recipe(
        batch=3, noise="ve", sides=(8, 16), no_lr=0, no_feature=0, others=0
    )


def test_a_recipe_without_the_features_it_needs_says_so(faces: Path) -> None:
    result = train_sr(faces, "--recipe", "fasr")
    assert "FASR conditions on a feature of each face" in str(result.exception)
    assert "train features" in str(result.exception)


def test_features_for_a_network_that_takes_none_are_refused(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "features.npz").touch()
    result = train_sr(faces, "--recipe", "srdg", "--features", tmp_path / "features.npz")
    assert "the network of SRDG takes no face feature" in str(result.exception)


@pytest.mark.parametrize("text", ["16,x", "3", "128"])
def test_lr_sizes_that_are_no_list_of_4_to_64_px_are_refused(text: str, faces: Path) -> None:
    result = train_sr(faces, "--sides", text)
    assert result.exit_code == 2 and "--sides" in result.output


def test_a_network_without_a_feature_starts_at_the_papers_noise() -> None:
    with torch.device("meta"):
        denoiser = sr.NETWORKS["ncsnpp"](0, 0.1)
    assert isinstance(denoiser.network, NCSNpp)
    assert (denoiser.feature_length, denoiser.sigma_min, denoiser.sigma_max) == (0, 0.01, 348.0)
    assert denoiser.network.width == 128


def test_a_constant_rate_without_a_fall_never_falls() -> None:
    plan = Plan(steps=100, lr=1.0, warmup=10, constant=True, fall=0.0)
    assert rate(0, plan) == pytest.approx(0.1)
    assert [rate(step, plan) for step in (9, 50, 99)] == [1.0, 1.0, 1.0]


def test_a_compact_network_without_a_feature_trains_and_loads(faces: Path, tmp_path: Path) -> None:
    arguments = ["train", "sr", str(faces), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, [*arguments, "--steps", "1", "--batch", "4"])
    assert result.exit_code == 0, result.output
    denoiser = checkpoints.load(tmp_path / "run" / "sr.safetensors")
    assert (denoiser.feature_length, denoiser.embedder) == (0, "")


def test_srdgs_classifiers_train_for_fifty_passes_in_small_batches(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: dict[str, Any] = {}

    def note(opened: Any, rows: Any, out: Path, plan: Plan, *, batch: int, **_: object) -> int:
        noted.update(plan=plan, batch=batch, faces=len(opened))
        return plan.steps

    monkeypatch.setattr(commands, "train_attributes", note)
    labels = tmp_path / "labels.csv"
    photos = [f"p{person}/{photo}.png" for person in range(2) for photo in range(2)]
    rows = "".join(f"{photo},0,1,0\n" for photo in photos)
    labels.write_text("path,male,glasses,no_beard\n" + rows)
    arguments = ["train", "attributes", str(faces), "--labels", str(labels)]
    result = CliRunner().invoke(cli, [*arguments, "--recipe", "srdg", "--out", str(tmp_path / "r")])
    assert result.exit_code == 0, result.output
    assert (noted["plan"].lr, noted["batch"], noted["faces"]) == (1e-3, 4, 4)
    assert noted["plan"].steps == 50
