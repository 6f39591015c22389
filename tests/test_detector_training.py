"""The detector's trainer: targets that decode to the faces they were made from, and runs that go on."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from fasr_video.pipeline.detect.builtin import BuiltinDetector
from fasr_video.pipeline.detect.network import STRIDES, LevelOutput, decode_level
from fasr_video.training.detector import make_target, train
from fasr_video.training.detector_data import Points, face_box, face_size, flip, rotate

FRONTAL = np.array([[30.0, 40], [70, 40], [50, 62], [35, 80], [65, 80]])
SIDE = 256


def face(size: float, x: float, y: float) -> Points:
    scaled = FRONTAL * (size / face_size(FRONTAL))
    return scaled - scaled.mean(0) + (x, y)


@pytest.mark.parametrize("size", [12, 20, 27, 30, 50, 70, 80, 150])
@pytest.mark.parametrize("where", [(128, 128), (97.3, 140.9)])
def test_what_is_taught_decodes_to_the_face(size: float, where: tuple[float, float]) -> None:
    points = face(size, *where)
    answers = []
    for stride in STRIDES:
        target = make_target([[points]], stride, SIDE)
        taught = target.regress
        logit = torch.logit(target.heat.clamp(1e-4, 1 - 1e-4))[:, None]
        answers += decode_level(LevelOutput(logit, taught[:, :2], taught[:, 2:4], taught[:, 4:]), stride, 0.99)
    found = [(b, s, m) for boxes, scores, marks in answers for b, s, m in zip(boxes, scores, marks, strict=True)]
    assert len(found) == 1, "exactly one level answers for a face"
    assert np.allclose(found[0][0].numpy(), face_box(points), atol=0.05)
    assert np.allclose(found[0][2].numpy(), points, atol=0.05)


def test_face_near_a_level_limit_is_not_held_against_the_other_level() -> None:
    points = face(29, 128, 128)
    assert make_target([[points]], 4, SIDE).ignore.any()
    assert not make_target([[points]], 16, SIDE).ignore.any()


def test_mirrored_and_turned_points_stay_on_their_features() -> None:
    image = Image.fromarray(astronaut())
    eye = np.array([208.0, 110.0])
    points = np.array([eye, [250, 108], [230, 130], [212, 150], [250, 148]])
    _, (mirrored,) = flip(image, [points])
    assert np.allclose(mirrored[1], [image.width - eye[0], eye[1]])
    assert mirrored[0, 0] < mirrored[1, 0], "the left eye of the picture stays the left one"
    marked = image.copy()
    marked.paste((255, 0, 255), (205, 107, 212, 114))
    turned, (moved,) = rotate(marked, [points], 20)
    x, y = (int(v) for v in moved[0].round())
    assert turned.getpixel((x, y)) == (255, 0, 255)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The layout of the training data, made from one public-domain photograph and noise."""
    photo = Image.fromarray(astronaut()).resize((256, 256))
    landmarks = [[104, 55], [125, 54], [115, 65], [106, 75], [125, 74]]
    photos = tmp_path / "detect" / "photos"
    rooms = tmp_path / "detect" / "backgrounds"
    crops = tmp_path / "celeba"
    for folder in (photos, rooms, crops):
        folder.mkdir(parents=True)
    names = [f"{i:06d}.png" for i in range(42)]
    for name in names:
        photo.save(photos / name)
    labels = {name: [{"box": [90, 40, 140, 90], "score": 1.0, "landmarks": landmarks}] for name in names}
    (tmp_path / "detect" / "photos.json").write_text(json.dumps(labels))
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(rooms / "0.png")
    encoded = io.BytesIO()
    photo.crop((80, 20, 152, 92)).resize((144, 144)).save(encoded, "WEBP")
    with tarfile.open(crops / "train-00.tar", "w") as tar:
        info = tarfile.TarInfo("1/1.webp")
        info.size = len(encoded.getvalue())
        tar.addfile(info, io.BytesIO(encoded.getvalue()))
    keys = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    row: dict[str, object] = {"path": "1/1.webp", "found": 1}
    for key, (x, y) in zip(keys, landmarks, strict=True):
        row |= {f"{key}_x": 2 * (x - 80), f"{key}_y": 2 * (y - 20)}
    with (crops / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(row))
        writer.writeheader()
        writer.writerow(row)
    return tmp_path


def test_training_saves_goes_on_and_gives_weights_that_load(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, run, steps=2, batch=2, side=128, lr=1e-3, shards=1, device="cpu")
    train(data, run, steps=4, batch=2, side=128, lr=1e-3, shards=1, device="cpu")
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 4
    detector = BuiltinDetector(run / "detector.safetensors", 0.3, "cpu")
    assert len(detector.detect([np.zeros((64, 64, 3), np.uint8)])) == 1
