"""Detectors side by side: faces found, false alarms where there is no face, time.

python benchmarks/detection.py [--data ../shared/data] [--old FILE] [--sheet FILE.jpg] [--threads 2]

FILE has the weights of version 0.1: `git show 9990302:fasr_video/weights/detector.safetensors >
FILE`. --sheet also draws the largest faces that the builtin detector misses and its surest false
alarms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from contact_sheet import Part, refuse_path_in_project, write_sheet
from footage import DATA, find_data
from numpy.typing import NDArray
from results import Table

from fasr_video.configs import settings
from fasr_video.detection import Detector, open_detector
from fasr_video.evaluation.detection import (
    FALSE_ALARM,
    JudgedDetections,
    ScoredDetection,
    assign,
    average_precision,
    heights,
    match,
    rank_detections,
    recall,
    threshold,
    window_between,
)
from fasr_video.evaluation.open_set import Scores
from fasr_video.media import read_picture
from fasr_video.training.detector_data import read_scenes
from fasr_video.types import Boxes, Detections, Image

OURS, OLD = "builtin", "builtin, version 0.1"
STORED = 416  # px: the side of the stretched pictures
UNLABELLED_CROWD = "0_Parade_Parade_0_275.jpg"  # hundreds of people, one of them labelled
EDGES = (10, 16, 24, 32, 64)  # px, heights at which the buckets begin
SCENE_EDGES = (8, 16, 24, 32, 64)
MATCH = 0.4  # intersection over union
PRECISION = 0.9
MIN_SCORE = 0.01  # low, for the whole curve
DEFAULTS = settings.load("cpu").detect
ALARM_SCORES = (DEFAULTS.min_score, 0.5)  # fasr-video's default, InsightFace's
WINDOW = 96  # px: the least side of a part without a face
FRAME_SIZE = (1280, 720)
FRAME_NUMBER = 50
ROUNDS = 9
ON_SHEET, OF_ONE_PICTURE = 30, 3


@dataclass(frozen=True)
class Labelled:
    """A picture and its faces."""

    image: Image
    faces: Boxes
    unsure: NDArray[np.bool_]
    complete: bool = True
    """Whether what has no label shows no face."""


@dataclass(frozen=True)
class Pictures:
    """A set of labelled pictures, and the least height of a face that counts in it."""

    name: str
    smallest: float
    all: list[Labelled]

    @cached_property
    def megapixels(self) -> float:
        return sum(p.image.shape[0] * p.image.shape[1] for p in self.all) / 1e6


@dataclass(frozen=True)
class Sets:
    """All pictures that detectors are measured on."""

    wider: Pictures
    scenes: Pictures
    negatives: Pictures
    between_scenes: Pictures
    between_wider: Pictures


@dataclass(frozen=True)
class DetectorResults:
    """What one detector found: Detections of each picture, and milliseconds a WIDER picture."""

    wider: list[Detections]
    scenes: list[Detections]
    empty: tuple[list[Detections], ...]
    milliseconds: float


def load_wider(folder: Path, long_side: int, limit: int | None) -> Pictures:
    """Return the WIDER pictures in their original proportions."""
    labels = json.loads((folder / "wider_dev.json").read_text())
    pictures = []
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
        boxes *= np.tile(size / STORED, 2).astype(np.float32)
        pictures.append(
            Labelled(image, boxes, np.zeros(len(boxes), np.bool_), name != UNLABELLED_CROWD)
        )
    return Pictures("WIDER", EDGES[0], pictures)


def load_scenes(folder: Path, limit: int | None) -> Pictures:
    """Return the scenes that no detector was trained on, with SCRFD's labels."""
    scenes = itertools.islice(read_scenes(folder, "check"), limit)
    found = [Labelled(s.picture, s.faces.boxes.astype(np.float32), ~s.faces.sure) for s in scenes]
    return Pictures("scenes", SCENE_EDGES[0], found)


def load_negatives(folder: Path, limit: int | None) -> Pictures:
    """Return the pictures without a face, which the builtin detector was trained on."""
    empty = (s.picture for s in read_scenes(folder, "train") if not len(s.faces))
    return Pictures(
        "negatives", 0, [_without_faces(image) for image in itertools.islice(empty, limit)]
    )


def cut_parts_without_faces(pictures: Pictures) -> Pictures:
    """Return each picture's largest part that touches no labelled face, sure or not."""
    parts = []
    for picture in pictures.all:
        height, width = picture.image.shape[:2]
        window = window_between((height, width), picture.faces, WINDOW)
        if window is not None and picture.complete:
            parts.append(_without_faces(np.ascontiguousarray(picture.image[window])))
    return Pictures(f"parts of {pictures.name}", 0, parts)


def _without_faces(image: Image) -> Labelled:
    return Labelled(image, np.zeros((0, 4), np.float32), np.zeros(0, np.bool_))


def load_frames(folder: Path) -> list[Image]:
    """Return one frame of each film at 720p."""
    return [_read_frame(path) for path in sorted(folder.glob("*.mp4"))]


def _read_frame(path: Path) -> Image:
    with av.open(str(path)) as container:
        frame = next(itertools.islice(container.decode(video=0), FRAME_NUMBER, None))
        rgb = frame.to_ndarray(format="rgb24")
    return np.asarray(cv2.resize(rgb, FRAME_SIZE, interpolation=cv2.INTER_AREA), np.uint8)


def open_detectors(scrfd: Path, old: Path | None, min_score: float) -> dict[str, Detector]:
    """Return the detectors to compare, by their names in the tables."""
    common: dict[str, Any] = {
        "device": "cpu",
        "min_score": min_score,
        "max_side": DEFAULTS.max_side,
    }
    found = {
        OURS: open_detector("builtin", weights=None, **common),
        "builtin, OpenVINO": open_detector("builtin", weights=None, engine="openvino", **common),
    }
    if old is not None:
        found[OLD] = open_detector("builtin", weights=old, **common)
    found["SCRFD-2.5G"] = open_detector("insightface", weights=scrfd, **common)
    found["haar"] = open_detector("haar", weights=None, **common)
    return found


def run_detector(detector: Detector, sets: Sets) -> DetectorResults:
    """Return what the detector finds in all sets."""
    detector.detect([sets.wider.all[0].image])  # warm up
    start = time.perf_counter()
    wider = _detect_all(detector, sets.wider)
    seconds = time.perf_counter() - start
    empty = (sets.negatives, sets.between_scenes, sets.between_wider)
    return DetectorResults(
        wider,
        _detect_all(detector, sets.scenes),
        tuple(_detect_all(detector, pictures) for pictures in empty),
        1000 * seconds / len(sets.wider.all),
    )


def _detect_all(detector: Detector, pictures: Pictures) -> list[Detections]:
    return [detector.detect([p.image])[0] for p in pictures.all]


def judge(pictures: Pictures, found: Sequence[Detections]) -> JudgedDetections:
    """Return all detections that count in a set, and all its faces."""
    rows: list[ScoredDetection] = []
    face_heights: list[Scores] = []
    for picture, detections in zip(pictures.all, found, strict=True):
        smallest, unsure = pictures.smallest, picture.unsure
        rows += assign(
            detections.boxes,
            detections.scores,
            picture.faces,
            MATCH,
            smallest=smallest,
            unsure=unsure,
        )
        face_heights.append(heights(picture.faces[~unsure]))
    faces = np.concatenate(face_heights)
    return rank_detections(rows, faces[faces >= pictures.smallest])


def add_rows(
    table: Table,
    name: str,
    found: JudgedDetections,
    edges: Sequence[int],
    *,
    last: Sequence[str] = (),
) -> None:
    """Add a detector's rows; `last` are further values of its first one."""
    limit = threshold(found, PRECISION)
    for low, high, text in [(float(edges[0]), np.inf, "all"), *_buckets(edges)]:
        in_range = found.within(low, high)
        reached = "–" if limit is None else f"{recall(in_range, limit):.3f}"
        common = ["–" if limit is None else f"{limit:.2f}", *last]
        common = common if text == "all" else [""] * len(common)
        table.add_row(
            [
                name,
                text,
                len(in_range.faces),
                f"{average_precision(in_range):.3f}",
                reached,
                *common,
            ]
        )


def _buckets(edges: Sequence[int]) -> list[tuple[float, float, str]]:
    ends = [*edges[1:], np.inf]
    return [
        (a, b, f"{a}–{b:.0f}" if b < np.inf else f"{a}+") for a, b in zip(edges, ends, strict=True)
    ]


def measure_times(
    detectors: dict[str, Detector], frames: list[Image]
) -> dict[str, tuple[float, float]]:
    """Return milliseconds a frame, of wall and of processor time: medians of several rounds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in detectors}
    for _ in range(ROUNDS):
        for name, detector in detectors.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            for frame in frames:
                detector.detect([frame])
            spent = (time.perf_counter() - start, time.process_time() - cpu_start)
            times[name].append((1000 * spent[0] / len(frames), 1000 * spent[1] / len(frames)))
    return {name: _medians(rounds) for name, rounds in times.items()}


def _medians(rounds: list[tuple[float, float]]) -> tuple[float, float]:
    clock, processor = zip(*rounds, strict=True)
    return statistics.median(clock), statistics.median(processor)


# ------------------------------------------------------------------------------------------- tables


def wider_table(
    sets: Sets, results: dict[str, DetectorResults], long_side: int, command: str
) -> Table:
    columns = [
        "detector",
        "face height, px",
        "faces",
        "AP",
        f"recall at precision {PRECISION}",
        "score there",
    ]
    title = f"Detectors on {len(sets.wider.all)} WIDER FACE pictures"
    table = Table("detection", title, command, [*columns, "ms a picture"])
    for name, result in results.items():
        add_rows(
            table, name, judge(sets.wider, result.wider), EDGES, last=[f"{result.milliseconds:.0f}"]
        )
    table.add_note(
        f"Pictures of the validation set, stored stretched to {STORED}×{STORED} and resized to "
        f"their original proportions, with the long side at most {long_side} px, so they are "
        "softer than the originals: figures compare detectors here, not with published ones. "
        "Heights are those in the resized picture."
    )
    table.add_note(
        "The same rule for all: detections are matched in the order of their scores, each with "
        f"the unmatched face that it overlaps most, if the IoU is {MATCH} or more; faces and "
        f"false alarms under {EDGES[0]} px are ignored. A false alarm counts in the bucket of its "
        "own height. AP is the area under the curve of precision over recall, over all detections "
        f"with a score of {MIN_SCORE} or more. The recall is that at the lowest score from which "
        f"on {PRECISION:.0%} of all detections (of every height) are faces; – where no score "
        "reaches it. The milliseconds are those of so low a score, with many candidates to sort; "
        "the last table has the time of a frame in a run."
    )
    table.add_note(
        "builtin, version 0.1: the same network with the weights of that version. SCRFD-2.5G: the "
        "published network that labelled the scenes on which builtin was trained, by the backend "
        "`insightface`; its file has a fixed input of 640×640, to which larger pictures are "
        "shrunk. It was trained on WIDER's training part. haar: OpenCV's cascade."
    )
    return table


def scenes_table(sets: Sets, results: dict[str, DetectorResults]) -> Table:
    columns = [
        "detector",
        "face height, px",
        "faces",
        "AP",
        f"recall at precision {PRECISION}",
        "score there",
    ]
    table = Table(
        "detection",
        f"{len(sets.scenes.all)} scenes that no detector here was trained on",
        "",
        columns,
    )
    for name, result in results.items():
        add_rows(table, name, judge(sets.scenes, result.scenes), SCENE_EDGES)
    table.add_note(
        "Crowds, streets, press pictures with masks, offices, surveillance videos: the part "
        "`check` of the scenes. No human drew these boxes: they are SCRFD-2.5G's own, found at two "
        "larger scales and joined, so its rows show how well it agrees with itself, not how good "
        "it is. Faces that it scores 0.5 or more count; those of 0.3–0.5 and those under "
        f"{SCENE_EDGES[0]} px are ignored both ways."
    )
    return table


def alarms_table(sets: Sets, results: dict[str, DetectorResults]) -> Table:
    columns = ["detector", "score from", "recall, WIDER", "recall, scenes"]
    empty = (sets.negatives, sets.between_scenes, sets.between_wider)
    names = ("negatives", "parts of scenes", "parts of WIDER")
    columns.append(f"false alarms on the {len(sets.negatives.all)} negatives")
    columns += [f"a megapixel, {name}" for name in names]
    table = Table("detection", "False alarms where there is no face", "", columns)
    for name, result in results.items():
        wider, scenes = judge(sets.wider, result.wider), judge(sets.scenes, result.scenes)
        for score in ALARM_SCORES:
            counts = [
                sum(int((detections.scores >= score).sum()) for detections in set_detections)
                for set_detections in result.empty
            ]
            shares = [
                f"{count / pictures.megapixels:.2f}"
                for count, pictures in zip(counts, empty, strict=True)
            ]
            row = [name, score, f"{recall(wider, score):.3f}", f"{recall(scenes, score):.3f}"]
            table.add_row([*row, counts[0], *shares])
    sizes = [
        f"{len(pictures.all)} pictures, {pictures.megapixels:.1f} megapixels" for pictures in empty
    ]
    table.add_note(
        f"**builtin was trained on these negatives** ({sizes[0]}: animals, things, rooms, signs) "
        "as pictures without a face, version 0.1 was not; and all but 30 of them were chosen "
        "because SCRFD finds nothing surer than 0.45 in them. So this set favours both. No "
        "detector here was trained on the other two, which are parts of the pictures above: of "
        f"each the largest rectangle of {WINDOW} px or more that touches no labelled face, as a "
        f"picture of its own. Of the scenes ({sizes[1]}): the labels are SCRFD's own, which "
        "favours it, and faces that it misses count as false alarms of others. Of WIDER "
        f"({sizes[2]}): the labels are people's; `{UNLABELLED_CROWD}`, a crowd without labels, is "
        "left out here."
    )
    table.add_note(
        f"{ALARM_SCORES[0]} is the default of `detect.min_score`, for every backend; "
        f"{ALARM_SCORES[1]} that of InsightFace's own package. The score of one detector is not "
        "that of another: read false alarms beside the recall at the same score."
    )
    return table


def time_table(times: dict[str, tuple[float, float]], frames: int, threads: int) -> Table:
    columns = ["detector", "ms a 720p frame", "ms of the processor", "of version 0.1's"]
    table = Table("detection", "Time of a 720p frame", "", columns)
    old = times.get(OLD)
    for name, (clock, processor) in times.items():
        ratio = "–" if old is None else f"{processor / old[1]:.2f}"
        table.add_row([name, f"{clock:.0f}", f"{processor:.0f}", ratio])
    table.add_note(
        f"{frames} frames of real films, scaled to {FRAME_SIZE[0]}×{FRAME_SIZE[1]}, one at a "
        f"time; threads for torch, OpenVINO and OpenCV: {threads}; medians of {ROUNDS} rounds, "
        "each with every detector in turn. The ratio is of the processor's time, which other work "
        "on the machine changes less than the clock's. SCRFD sees the frame shrunk to 640×360. "
        f"Scores from {DEFAULTS.min_score} on, as in a run."
    )
    return table


# -------------------------------------------------------------------------------------------- sheet


# How bad it is, and what to show of it.
Ranked = tuple[float, Part]


def missed_faces(pictures: Pictures, found: Sequence[Detections]) -> Iterator[Ranked]:
    """Yield the faces that no detection of the default score matches, each with its height."""
    for picture, detections in zip(pictures.all, found, strict=True):
        sure = detections.take(detections.scores >= ALARM_SCORES[0])
        face_heights = heights(picture.faces)
        wanted = ~picture.unsure & (face_heights >= pictures.smallest)
        faces = match(sure.boxes, sure.scores, picture.faces, wanted, overlap=MATCH)
        for i in np.setdiff1d(np.flatnonzero(wanted), faces):
            caption = f"{pictures.name}: {face_heights[i]:.0f} px"
            yield (
                float(face_heights[i]),
                Part(picture.image, picture.faces[i], picture.faces, sure.boxes, caption),
            )


def false_alarms(pictures: Pictures, found: Sequence[Detections]) -> Iterator[Ranked]:
    """Yield the detections of the default score that match no labelled face, with their scores."""
    for picture, detections in zip(pictures.all, found, strict=True):
        sure = detections.take(detections.scores >= ALARM_SCORES[0])
        face_heights = heights(picture.faces)
        wanted = ~picture.unsure & (face_heights >= pictures.smallest)
        faces = match(sure.boxes, sure.scores, picture.faces, wanted, overlap=MATCH)
        for i in np.flatnonzero(
            (faces == FALSE_ALARM) & (heights(sure.boxes) >= pictures.smallest)
        ):
            caption = f"{pictures.name}: {sure.scores[i]:.2f}, {heights(sure.boxes)[i]:.0f} px"
            part = Part(picture.image, sure.boxes[i], picture.faces, sure.boxes[[i]], caption)
            yield float(sure.scores[i]), part


def write_worst_parts(path: Path, sets: Sets, results: DetectorResults) -> None:
    """Write the detector's worst results: the largest missed faces and the surest false alarms."""
    labelled = ((sets.wider, results.wider), (sets.scenes, results.scenes))
    most_missed = itertools.chain.from_iterable(missed_faces(*each) for each in labelled)
    most_wrong = itertools.chain.from_iterable(
        false_alarms(*each) for each in (*labelled, (sets.negatives, results.empty[0]))
    )
    write_sheet(
        path,
        {
            "largest missed faces": _worst_parts(most_missed),
            "surest false alarms": _worst_parts(most_wrong),
        },
    )


def _worst_parts(parts: Iterator[Ranked]) -> list[Part]:
    """Return the worst parts, at most OF_ONE_PICTURE of one picture."""
    shown: list[Part] = []
    of_picture: Counter[int] = Counter()
    for _, part in sorted(parts, key=lambda ranked: -ranked[0]):
        of_picture[id(part.image)] += 1
        if of_picture[id(part.image)] <= OF_ONE_PICTURE:
            shown.append(part)
    return shown[:ON_SHEET]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="with detect, scenes, clips and teachers"
    )
    parser.add_argument("--old", type=Path, help="weights of version 0.1")
    parser.add_argument(
        "--sheet", type=Path, help="draw misses and false alarms; not within the project"
    )
    parser.add_argument(
        "--long-side", type=int, default=1024, help="pixels; longer WIDER pictures are shrunk"
    )
    parser.add_argument("--limit", type=int, help="only the first pictures of each set")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.sheet is not None:
        refuse_path_in_project(args.sheet)
    for name in ("detect/wider_dev.json", "scenes/scenes.json.gz", "teachers/scrfd_2.5g_kps.onnx"):
        find_data(args.data / name)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    wider = load_wider(args.data / "detect", args.long_side, args.limit)
    scenes = load_scenes(args.data / "scenes", args.limit)
    negatives = load_negatives(args.data / "scenes", args.limit)
    sets = Sets(
        wider, scenes, negatives, cut_parts_without_faces(scenes), cut_parts_without_faces(wider)
    )
    detectors = open_detectors(args.data / "teachers", args.old, MIN_SCORE)
    results: dict[str, DetectorResults] = {}
    for name, detector in detectors.items():
        start = time.perf_counter()
        results[name] = run_detector(detector, sets)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        if name == OURS and args.sheet is not None:
            write_worst_parts(args.sheet, sets, results[name])
    frames = load_frames(args.data / "clips")
    times = measure_times(
        open_detectors(args.data / "teachers", args.old, DEFAULTS.min_score), frames
    )
    command = "`python benchmarks/detection.py" + (" --old FILE`" if args.old else "`")
    wider_table(sets, results, args.long_side, command).write(
        scenes_table(sets, results),
        alarms_table(sets, results),
        time_table(times, len(frames), args.threads),
    )


if __name__ == "__main__":
    main()
