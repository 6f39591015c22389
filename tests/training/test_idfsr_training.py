"""IDFSR learns: references of the same person, landmarks that move with faces, weights that
load.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fasr_video.datasets.faces import draw_moves, read_faces, rows_of
from fasr_video.errors import FasrError
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.networks.idfsr import SIZES
from fasr_video.sr.restoration import as_image
from fasr_video.sr.weights import load_idfsr
from fasr_video.training import idfsr as training
from fasr_video.training.loop import Plan
from tests.support.idfsr_faces import RESIDUAL, SIDE, TINY, make_landmarks, make_pictures

# ----------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people with three photos each, a fifth with one; features and landmarks beside the
    folder.
    """
    root = tmp_path_factory.mktemp("idfsr")
    lines = [["path", *training.COLUMNS, "found"]]
    paths = [f"p{person}/{photo}.png" for person in range(4) for photo in range(3)] + [
        "single/0.png"
    ]
    for i, path in enumerate(paths):
        picture = as_image(make_pictures(1, seed=i, side=144)[0])
        (root / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "faces" / path)
        lines.append([path, *map(str, (make_landmarks(1, seed=i)[0] + 8).flatten().tolist()), "1"])
    (root / "labels.csv").write_text("\n".join(map(",".join, lines)))
    vectors = np.random.default_rng(0).standard_normal((len(paths), 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    who = [path.partition("/")[0] for path in paths]
    np.savez(
        root / "features.npz", path=np.array(paths), identity=np.array(who), hr=vectors, lr=vectors
    )
    return root


@pytest.fixture
def tiny_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "compact", RESIDUAL)
    monkeypatch.setitem(SIZES, "published", TINY)


def data_of(people: Path) -> training.Material:
    opened, _ = read_faces([people / "faces"])
    features = rows_of(people / "features.npz", opened, ("hr",))["hr"]
    return training.material(
        opened, training.read_landmarks(people / "labels.csv", opened), features
    )


def no_features(lr: Tensor) -> Tensor:
    return torch.zeros(len(lr), 512)


def test_a_reference_is_another_photo_of_the_same_person(people: Path) -> None:
    data = data_of(people)
    assert len(data.pictures) == 12  # the person with one photo is left out
    rows = torch.arange(12).repeat(50)
    partners = data.partners(rows, torch.Generator().manual_seed(0))
    assert bool((partners != rows).all()) and bool((partners // 3 == rows // 3).all())
    pairs = set(zip(rows.tolist(), partners.tolist(), strict=True))
    assert len(pairs) == 24  # each of the two others, now and then


def test_landmarks_move_and_mirror_with_their_face(people: Path) -> None:
    """A picture whose dots are its landmarks: after cut and mirror the dots lie where the landmarks
    are said to be.
    """
    data = data_of(people)
    dotted = torch.zeros_like(data.pictures)
    x, y = data.landmarks.round().long().unbind(2)
    for point in range(5):
        dotted[torch.arange(12), 0, y[:, point], x[:, point]] = 40 * (point + 1)
    data = replace(data, pictures=dotted, landmarks=data.landmarks.round())
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        moves, mirrored = draw_moves(12, 16, g)
        moved, landmarks = training._view(data, torch.arange(12), SIDE, moves, mirrored=mirrored)
        x, y = landmarks.long().unbind(2)
        there = (moved[torch.arange(12)[:, None], 0, y, x] * 255).round()
        straight, turned = (
            torch.tensor([40.0, 80, 120, 160, 200]),
            torch.tensor([80.0, 40, 120, 200, 160]),
        )
        assert torch.equal(there, torch.where(mirrored, turned, straight))


def test_without_references_the_lr_face_is_its_own_reference(people: Path) -> None:
    data, g = data_of(people), torch.Generator().manual_seed(0)

    def brightness(lr: Tensor) -> Tensor:
        return lr.mean((1, 2, 3))[:, None].expand(-1, 512)

    _, condition = training.make_batch(
        data, torch.arange(12), training.Recipe(alone=1.0), SIDE, embed=brightness, generator=g
    )
    torch.testing.assert_close(condition.reference, condition.lr, rtol=0, atol=1e-4)
    torch.testing.assert_close(condition.feature[:, 0], condition.lr.mean((1, 2, 3)))
    _, condition = training.make_batch(
        data, torch.arange(12), training.Recipe(alone=0.0), SIDE, embed=no_features, generator=g
    )
    assert (
        float((condition.reference - condition.lr).abs().mean()) > 0.05
        and condition.feature.any(1).all()
    )


def test_lr_faces_have_the_detail_of_the_given_sizes(people: Path) -> None:
    data, g = data_of(people), torch.Generator().manual_seed(0)
    recipe = training.Recipe(sides=(4,), alone=0.0)
    clean, condition = training.make_batch(
        data, torch.arange(12), recipe, SIDE, embed=no_features, generator=g
    )
    torch.testing.assert_close(condition.lr, enlarge(shrink(clean, 4), SIDE))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_trainer_learns_and_writes_weights_that_load(
    people: Path, tmp_path: Path, tiny_net: None, name: str
) -> None:
    # What the larger network shows at first is no face: through the embedder it would learn of
    # nothing else.
    identity = 0.1 if name == "compact" else 0.0
    job = training.Job(
        read_faces([people / "faces"])[0],
        people / "features.npz",
        people / "labels.csv",
        None,
        name,
        training.Recipe(batch=8, surveillance=0.3, identity=identity),
        people / "faces",
    )
    plan = Plan(steps=16, lr=1e-2, warmup=3, ema=0.9, log_every=16, muon=True)
    assert (
        training.run(job, tmp_path, plan, torch.device("cpu"), report=lambda progress: None) == 16
    )
    # The same faces and noise at each step, seen by a network that stays as it began.
    training.run(
        job,
        tmp_path / "still",
        replace(plan, lr=1e-9),
        torch.device("cpu"),
        report=lambda progress: None,
    )
    learnt, still = (
        next(csv.DictReader((f / "log.csv").open())) for f in (tmp_path, tmp_path / "still")
    )
    assert float(learnt["loss"]) < float(still["loss"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["people"] == 4 and manifest["faces"] == 12 and manifest["step"] == 16
    back = load_idfsr(tmp_path / "idfsr.safetensors")
    assert back.band == (4, 16) and back.network.size == SIZES[name]
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.size == (4 * SIDE, 5 * SIDE)  # LR, masked, reference, drawn, truth
    # The same command goes on where it was: here, at the end.
    assert (
        training.run(job, tmp_path, plan, torch.device("cpu"), report=lambda progress: None) == 16
    )


def test_missing_landmarks_are_named(people: Path, tmp_path: Path) -> None:
    opened, _ = read_faces([people / "faces"])
    file, text = tmp_path / "labels.csv", (people / "labels.csv").read_text()
    for bad, message in (
        (text.replace("nose_x", "snout_x"), "no column nose_x"),
        (text.replace("p1/2.png", "p9/2.png"), r"no row for 1 of 13 faces \(p1/2\.png"),
        (text.replace("\np0/0.png,", "\np0/0.png,left"), "no number"),
    ):
        file.write_text(bad)
        with pytest.raises(FasrError, match=message):
            training.read_landmarks(file, opened)
    file.write_text(text.replace(",1\n", ",0\n"))  # found nowhere
    with pytest.raises(FasrError, match="nobody has two photos"):
        training.material(opened, training.read_landmarks(file, opened), torch.zeros(13, 512))


def test_features_of_another_embedder_are_refused(
    people: Path, tmp_path: Path, tiny_net: None
) -> None:
    with np.load(people / "features.npz") as content:
        np.savez(
            tmp_path / "f.npz",
            **content,
            embedder=np.array("other"),
            embedder_sha256=np.array("f" * 64),
        )
    opened, _ = read_faces([people / "faces"])
    job = training.Job(
        opened, tmp_path / "f.npz", people / "labels.csv", None, "compact", training.Recipe()
    )
    with pytest.raises(FasrError, match="embedder ffffffffffff"):
        training.run(
            job,
            tmp_path / "run",
            Plan(steps=1, lr=1e-4),
            torch.device("cpu"),
            report=lambda progress: None,
        )


def test_training_needs_no_codec_no_index_and_no_opencv() -> None:
    names = ("av", "cv2", "faiss", "decord", "matplotlib", "scipy")
    code = (
        "import sys\n"
        f"for name in {names}: sys.modules[name] = None\n"
        "import fasr_video.training.idfsr"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
