"""The detector's trainer: targets that decode to the faces they were made from, pictures whose
labels fit, resuming.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.data import astronaut

from fasr_video.detection.builtin import BuiltinDetector
from fasr_video.detection.network import STRIDES, DetectorNet, LevelOutput, decode_level
from fasr_video.training.detector import (
    LOWERED,
    Recipe,
    make_target,
    run,
    save_detector,
    shift_scores,
)
from fasr_video.training.detector_data import (
    Faces,
    Material,
    Points,
    Scene,
    cut,
    face_box,
    make_sample,
    mosaic,
    portraits,
    read_scenes,
    scene_part,
)
from fasr_video.training.loop import Plan, Progress, rate
from tests.support.scenes import ASTRONAUT, write_scenes

FRONTAL = np.array([[30.0, 40], [70, 40], [50, 62], [35, 80], [65, 80]])
SIDE = 256
EYE = ASTRONAUT[0]


def face_of(points: Points, sure: bool = True) -> Faces:
    return Faces(np.array([face_box(points)]), points[None], np.array([sure]))


def face(size: float, x: float, y: float, sure: bool = True) -> Faces:
    x1, y1, x2, y2 = face_box(FRONTAL)
    scaled = FRONTAL * (size / np.sqrt((x2 - x1) * (y2 - y1)))
    return face_of(scaled - scaled.mean(0) + (x, y), sure)


@pytest.mark.parametrize("size", [12, 20, 27, 30, 50, 70, 80, 150])
@pytest.mark.parametrize("where", [(128, 128), (97.3, 140.9)])
def test_training_targets_decode_to_the_face(size: float, where: tuple[float, float]) -> None:
    wanted = face(size, *where)
    answers = []
    for stride in STRIDES:
        target = make_target([wanted], stride, SIDE)
        taught = target.regress
        logit = torch.logit(target.heat.clamp(1e-4, 1 - 1e-4))[:, None]
        answers += decode_level(
            LevelOutput(logit, taught[:, :2], taught[:, 2:4], taught[:, 4:]), stride, 0.99
        )
    decoded = [
        (b, s, m)
        for boxes, scores, landmarks in answers
        for b, s, m in zip(boxes, scores, landmarks, strict=True)
    ]
    assert len(decoded) == 1, "exactly one level answers for a face"
    assert np.allclose(decoded[0][0].numpy(), wanted.boxes[0], atol=0.05)
    assert np.allclose(decoded[0][2].numpy(), wanted.landmarks[0], atol=0.05)


def test_a_face_near_a_level_limit_is_ignored_at_the_other_level() -> None:
    faces = face(29, 128, 128)
    assert make_target([faces], 4, SIDE).ignore.any()
    assert not make_target([faces], 16, SIDE).ignore.any()


@pytest.mark.parametrize(
    "faces", [face(20, 128, 128, sure=False), face(6, 128, 128)], ids=["unsure", "tiny"]
)
def test_an_unsure_or_tiny_face_is_neither_face_nor_background(faces: Faces) -> None:
    target = make_target([faces], 4, SIDE)
    assert target.ignore.any()
    assert not target.heat.any() and not target.near.any()


def test_mirrored_landmarks_stay_on_their_features() -> None:
    mirrored = face_of(ASTRONAUT).mirrored(512).landmarks[0]
    assert np.allclose(mirrored[1], [512 - EYE[0], EYE[1]])
    assert mirrored[0, 0] < mirrored[1, 0], "the left eye of the picture stays the left one"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_labels_follow_the_window(scale: float, seed: int) -> None:
    picture = astronaut().copy()
    picture[105:115, 203:213] = (255, 0, 255)
    scene = Scene(picture, face_of(ASTRONAUT))
    image, faces = cut(scene, 150.0, 40.0, scale, size=(200, 220), rng=np.random.default_rng(seed))
    pink = (np.asarray(image, int) - (255, 0, 255)).__abs__().sum(2) < 120
    rows, columns = np.nonzero(pink)
    eyes = faces.landmarks[0, :2]
    nearest = np.linalg.norm(eyes - (columns.mean() + 0.5, rows.mean() + 0.5), axis=1).min()
    assert nearest <= 1.0


def test_a_face_that_is_mostly_cut_off_is_ignored() -> None:
    faces = face(40, 4, 60)
    assert faces.inside(128, 128).sure.tolist() == [True]
    assert face(40, -3, 60).inside(128, 128).sure.tolist() == [False], "its centre lies outside"
    assert len(face(40, -60, 60).inside(128, 128)) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data"))


def test_scenes_of_another_split_are_not_read(data: Path) -> None:
    assert len(list(read_scenes(data / "scenes", "train"))) == 2
    assert len(list(read_scenes(data / "scenes", "check"))) == 1
    material = Material(data, shards=1)
    assert len(material.scenes) == 1 and len(material.empty) == 1 and len(material.portraits) == 1


@pytest.mark.parametrize("make", [mosaic, make_sample], ids=lambda f: f.__name__)
def test_every_sample_has_the_given_size_and_labels_inside(make: object, data: Path) -> None:
    material, rng = Material(data, shards=1), np.random.default_rng(0)
    sure_faces = 0
    for _ in range(20):
        image, faces = make(material, 128, rng)  # type: ignore[operator]
        assert image.size == (128, 128)
        sure_faces += int(faces.sure.sum())
        centres = (faces.boxes[faces.sure, :2] + faces.boxes[faces.sure, 2:]) / 2
        assert ((centres >= 0) & (centres <= 128)).all()
    assert sure_faces


def test_scenes_have_small_faces_and_portraits_large_ones(data: Path) -> None:
    material, rng = Material(data, shards=1), np.random.default_rng(0)

    def heights(make: object) -> np.ndarray:
        samples = [make(material, SIDE, SIDE, rng)[1] for _ in range(60)]  # type: ignore[operator]
        return np.concatenate([(f.boxes[f.sure, 3] - f.boxes[f.sure, 1]) for f in samples])

    assert np.quantile(heights(scene_part), 0.25) < 24
    assert heights(portraits).max() > 0.8 * SIDE


def test_the_learning_rate_stays_constant_and_falls_at_the_end() -> None:
    plan = Plan(steps=1000, lr=2e-3, constant=True, floor=0.01)
    assert rate(0, plan) < rate(199, plan) == rate(800, plan) == 1.0
    assert rate(900, plan) == pytest.approx(0.5)
    assert rate(999, plan) == pytest.approx(0.01)


def test_training_saves_resumes_and_writes_weights_that_load(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    reports: list[Progress] = []
    for steps in (2, 4):
        plan = Plan(steps=steps, lr=2e-3, constant=True, bf16=False)
        recipe = Recipe(batch=2, side=128, shards=1)
        assert (
            run(data, out, recipe, plan, device=torch.device("cpu"), report=reports.append) == steps
        )
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 4
    assert [progress.step for progress in reports] == [2, 4] and reports[0].terms["focal"] > 0
    detector = BuiltinDetector(out / "detector.safetensors", 0.3, "cpu")
    assert len(detector.detect([np.zeros((64, 64, 3), np.uint8)])) == 1


def test_saved_weights_score_lower_and_training_starts_from_their_original_scores(
    tmp_path: Path,
) -> None:
    state = DetectorNet().state_dict()
    file = tmp_path / "detector.safetensors"
    save_detector(state, file)
    saved = load_file(file)
    for name in ("head.0.bias", "head.1.bias", "head.2.bias"):
        assert saved[name][0] == pytest.approx(float(state[name][0]) - LOWERED, abs=1e-2)
        assert torch.allclose(saved[name][1:].float(), state[name][1:], atol=1e-2)
    back = shift_scores(saved, LOWERED)
    assert back["head.0.bias"][0] == pytest.approx(float(state["head.0.bias"][0]), abs=1e-2)
