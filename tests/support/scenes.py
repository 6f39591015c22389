"""The layout of the detector's training data, made from one public-domain photograph and noise."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut

from fasr_video.training.detector_data import face_box

# Her landmarks in the photograph.
ASTRONAUT = np.array([[208.0, 110.0], [250, 108], [230, 130], [212, 150], [250, 148]])


def write_scenes(folder: Path) -> Path:
    """Write scenes/ and celeba/ into the folder and return it."""
    scenes, crops = folder / "scenes", folder / "celeba"
    scenes.mkdir()
    crops.mkdir()
    photo = Image.fromarray(astronaut())
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    )
    label = [*face_box(ASTRONAUT), 0.9, *ASTRONAUT.ravel()]
    unsure = [*(np.array(face_box(ASTRONAUT)) + 200), 0.4, *(ASTRONAUT + 200).ravel()]
    pictures = {"face.webp": photo, "check.webp": photo, "noise.webp": noise}
    boxes = {"face.webp": [label, unsure], "check.webp": [label], "noise.webp": []}
    with tarfile.open(scenes / "scenes-00.tar", "w") as tar:
        for name, picture in pictures.items():
            _add(tar, name, picture)
    split = {"face.webp": "train", "check.webp": "check", "noise.webp": "train"}
    entries = [
        {"tar": "scenes-00.tar", "name": n, "split": split[n], "boxes": boxes[n]} for n in pictures
    ]
    with gzip.open(scenes / "scenes.json.gz", "wt") as stream:
        json.dump(entries, stream)
    corner, scale = np.array([156, 56]), 144 / 128
    with tarfile.open(crops / "train-00.tar", "w") as tar:
        _add(tar, "1/1.webp", photo.crop((156, 56, 284, 184)).resize((144, 144)))
    row: dict[str, object] = {"path": "1/1.webp", "found": 1}
    keys = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    for key, (x, y) in zip(keys, (ASTRONAUT - corner) * scale, strict=True):
        row |= {f"{key}_x": x, f"{key}_y": y}
    with (crops / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(row))
        writer.writeheader()
        writer.writerow(row)
    return folder


def _add(tar: tarfile.TarFile, name: str, picture: Image.Image) -> None:
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP")
    info = tarfile.TarInfo(name)
    info.size = len(encoded.getvalue())
    tar.addfile(info, io.BytesIO(encoded.getvalue()))
