"""Detectors on 100 labelled WIDER FACE pictures: average precision and recall by the height of the face.

python benchmarks/detection.py [--data ../shared/data/detect] [--long-side 1024] [--limit 100]

The whole takes some two minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from footage import DATA, find_data
from results import Table

from fasr_video.configs import settings
from fasr_video.evaluation.detection import Found, Judged, assign, average_precision, heights, judged, recall, threshold
from fasr_video.evaluation.open_set import Scores
from fasr_video.pipeline.detect import Detector, open_detector
from fasr_video.pipeline.media import read_picture
from fasr_video.types import Boxes, Image

DETECTORS = {"builtin": ("builtin", "torch"), "builtin, OpenVINO": ("builtin", "openvino"), "haar": ("haar", "torch")}
STORED = 416  # px: the side of the stretched pictures
EDGES = (10, 16, 24, 32, 64)  # px, heights at which the buckets begin
MATCH = 0.4  # intersection over union
PRECISION = 0.9
MIN_SCORE = 0.01  # low, for the whole curve


@dataclass(frozen=True)
class Labelled:
    image: Image
    faces: Boxes


def load(folder: Path, long_side: int, limit: int | None) -> list[Labelled]:
    labels = json.loads((folder / "wider_dev.json").read_text())
    found = []
    for name, label in list(labels.items())[:limit]:
        size = np.array(label["orig_size"], np.float64)
        size = np.round(size * min(1.0, long_side / size.max())).astype(int)
        stored = read_picture(folder / "wider_dev" / name)
        assert stored.shape[:2] == (STORED, STORED)
        larger = (size > STORED).any()
        method = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
        image = np.asarray(cv2.resize(stored, size.tolist(), interpolation=method), np.uint8)
        boxes = np.array(label["boxes416"], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found.append(Labelled(image, boxes * np.tile(size / STORED, 2).astype(np.float32)))
    return found


def judge(detector: Detector, pictures: list[Labelled]) -> tuple[Judged, float]:
    """Also: milliseconds a picture."""
    detector.detect([pictures[0].image])  # warm up
    seconds = 0.0
    rows: list[Found] = []
    tall: list[Scores] = []
    for picture in pictures:
        began = time.perf_counter()
        found = detector.detect([picture.image])[0]
        seconds += time.perf_counter() - began
        rows += assign(found.boxes, found.scores, picture.faces, MATCH, EDGES[0])
        tall.append(heights(picture.faces))
    faces = np.concatenate(tall)
    return judged(rows, faces[faces >= EDGES[0]]), 1000 * seconds / len(pictures)


def fill(table: Table, name: str, found: Judged, milliseconds: float) -> None:
    limit = threshold(found, PRECISION)
    buckets = [(float(EDGES[0]), np.inf, "all"), *_buckets()]
    for low, high, text in buckets:
        some = found.within(low, high)
        reached = "–" if limit is None else f"{recall(some, limit):.3f}"
        common = ["–" if limit is None else f"{limit:.2f}", f"{milliseconds:.0f}"] if text == "all" else ["", ""]
        table.row([name, text, len(some.faces), f"{average_precision(some):.3f}", reached, *common])


def _buckets() -> list[tuple[float, float, str]]:
    ends = [*EDGES[1:], np.inf]
    return [(a, b, f"{a}–{b:.0f}" if b < np.inf else f"{a}+") for a, b in zip(EDGES, ends, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "detect")
    parser.add_argument("--long-side", type=int, default=1024, help="pixels; longer pictures are made smaller")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    args = parser.parse_args()
    find_data(args.data / "wider_dev.json")
    pictures = load(args.data, args.long_side, args.limit)
    torch.set_num_threads(os.cpu_count() or 1)
    columns = ["detector", "face height, px", "faces", "AP", f"recall at precision {PRECISION}", "score there"]
    table = Table(
        "detection",
        f"Detectors on {len(pictures)} WIDER FACE pictures",
        "`python benchmarks/detection.py`",
        [*columns, "ms a picture"],
    )
    chosen = settings.load("cpu").detect
    for name, (backend, engine) in DETECTORS.items():
        common = {"weights": None, "device": "cpu", "min_score": MIN_SCORE, "max_side": chosen.max_side}
        detector = open_detector(backend, engine=engine, **common)
        fill(table, name, *judge(detector, pictures))
    table.note(
        f"Pictures of the validation set, stored stretched to {STORED}×{STORED} and brought back to their proportions "
        f"with the long side at most {args.long_side} px, so they are softer than the originals: figures compare "
        "detectors here, not with published ones. Heights are those that the detector sees."
    )
    table.note(
        f"The same rule for all: detections are taken best score first, each to the free face that it overlaps most, "
        f"from IoU {MATCH} on; faces and false alarms under {EDGES[0]} px are ignored. A false alarm counts in the "
        "bucket of its own height. AP is the area under the curve of precision over recall, over all detections with "
        f"a score of {MIN_SCORE} or more. The recall is that at the lowest score from which on {PRECISION:.0%} of all "
        "detections (of every height) are faces; – where no score reaches it. haar (OpenCV's cascade) is the peer."
    )
    table.write()


if __name__ == "__main__":
    main()
