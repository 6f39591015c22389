"""What is lost when only every Nth frame is looked at as a whole (`detect.every`), and what it saves.

python benchmarks/gating.py [--every 1 2 3 5 10] [--seconds 10]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from fractions import Fraction

import numpy as np
import torch
from footage import REPO
from results import Table

from fasr_video.boxes import iou_matrix
from fasr_video.configs import settings
from fasr_video.pipeline.detect import open_detector
from fasr_video.pipeline.detect.gate import Gate
from fasr_video.pipeline.media import Frame, Sampling, open_video
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.types import Boxes

CLIPS = {
    "sample clips": REPO / "sample_videos",
    "portraits": REPO / "tests" / "fixtures" / "portraits",
}
OVERLAP = 0.4  # intersection over union of a found face with a true one
HIDDEN = 0.5  # share of a face that is covered from which on nobody has to find it


class Counts:
    """Over clips."""

    def __init__(self) -> None:
        self.faces = self.found = self.false = self.people = self.tracked = self.tracks = 0
        self.late: list[int] = []
        """Frames from a person's first findable face to the first that is found."""
        self.spent: list[float] = []
        """Seconds of each frame."""


def look(frames: list[Frame], truth: dict[str, dict[str, dict[str, object]]], every: int, counts: Counts) -> None:
    chosen = settings.load("cpu")
    detector = open_detector(**chosen.detect.model_dump(exclude={"batch", "every"}))
    detector.detect([frames[0].image])  # warm up
    gate = Gate(detector, every, 0, np.zeros((0, 4), np.float32))
    tracker = TRACKERS[chosen.track.method](TrackerSettings(**chosen.track.model_dump(exclude={"method"})))
    first: dict[str, int] = {}
    seen: dict[str, int] = {}
    confirmed: set[str] = set()
    owners: dict[int, list[str]] = {}
    for frame in frames:
        began = time.perf_counter()
        found = gate.detect([frame.image])[0]
        counts.spent.append(time.perf_counter() - began)
        step = tracker.update(float(frame.ref.seconds), found)
        counts.tracks += sum(ended.confirmed for ended in step.ended)
        confirmed |= {who for ended in step.ended if ended.confirmed for who in owners.get(ended.id, [])}
        there = truth.get(str(frame.ref.index), {})
        boxes: Boxes = np.array([face["box"] for face in there.values()], np.float32).reshape(-1, 4)
        overlaps = iou_matrix(boxes, found.boxes)
        counts.false += int((~(overlaps >= OVERLAP).any(axis=0)).sum())
        for row, (person, face) in enumerate(there.items()):
            if float(str(face.get("occluded", 0))) >= HIDDEN:
                continue
            first.setdefault(person, frame.ref.index)
            counts.faces += 1
            if (overlaps[row] >= OVERLAP).any():
                counts.found += 1
                seen.setdefault(person, frame.ref.index)
                owners.setdefault(int(step.ids[overlaps[row].argmax()]), []).append(person)
    last = tracker.finish()
    counts.tracks += sum(ended.confirmed for ended in last)
    confirmed |= {who for ended in last if ended.confirmed for who in owners.get(ended.id, [])}
    counts.people += len(first)
    counts.tracked += len(first.keys() & confirmed)
    counts.late += [seen[person] - first[person] for person in seen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, nargs="+", default=[1, 2, 3, 5, 10])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    columns = ["clips", "every", "recall", "false a frame", "people tracked", "tracks", "frames late, median and most"]
    command = f"`python benchmarks/gating.py {' '.join(sys.argv[1:])}`"
    table = Table("gating", "Looking at the whole of every Nth frame", command, [*columns, "ms a frame", "of every 1"])
    for name, folder in CLIPS.items():
        truth = json.loads((folder / "ground_truth.json").read_text())
        counts = {every: Counts() for every in sorted(args.every)}
        for clip in sorted(truth):
            frames = list(open_video(folder / clip).frames(Sampling(end=Fraction(args.seconds))))
            for every, of_it in counts.items():
                look(frames, truth[clip]["frames"], every, of_it)
        whole = statistics.mean(counts[min(counts)].spent)
        for every, c in counts.items():
            spent = statistics.mean(c.spent)
            late = f"{statistics.median(c.late):g}, {max(c.late)}" if c.late else "–"
            row = [name, every, f"{c.found / max(c.faces, 1):.4f}", f"{c.false / len(c.spent):.3f}"]
            row += [f"{c.tracked} of {c.people}", c.tracks, late, f"{1000 * spent:.1f}", f"{spent / whole:.2f}"]
            table.row(row)
    table.note(
        f"Clips with ground truth, their first {args.seconds:g} s, every frame looked at, `min_score` and tracker of "
        f"the preset. *Recall*: of all faces of which less than half is covered, in all frames, those found with an "
        f"IoU of {OVERLAP} or more. *People tracked*: who is in a track of at least three sightings. *Late*: frames "
        "from a person's first such face until one is found. The clips come one after the other in one process, the "
        "settings in turns for each."
    )
    table.write()


if __name__ == "__main__":
    main()
