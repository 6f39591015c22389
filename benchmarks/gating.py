"""What is lost when not every frame is looked at as a whole (`detect.every`, `detect.gate`), and
what it saves.

python benchmarks/gating.py [--every 2 5 10] [--motion 25 100] [--seconds 4] [--quiet 20]
[--clip-seconds 2] [--asl 4]

The whole takes some four minutes on two quiet cores; it grows with the seconds, the clips and the
variants.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from footage import DATA, REPO, write_quiet_room
from numpy.typing import NDArray
from results import Table, command_line

from fasr_video.boxes import iou_matrix
from fasr_video.configs import settings
from fasr_video.detection import Detector, open_detector
from fasr_video.detection.frame_skipping import Gate
from fasr_video.media import Frame, Sampling, open_video
from fasr_video.pipeline.run import GATE_SETTINGS
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.types import Boxes, Detections

CLIPS = {
    "sample clips": REPO / "sample_videos",
    "portraits": REPO / "tests" / "fixtures" / "portraits",
}
QUIET = "a quiet room"
REAL = (
    "street_opera_house_1080p.mp4",
    "four_friends_848x480.mp4",
    "shinzo_abe.mp4",
    "hamilton_short_640x360.mp4",
)
OVERLAP = 0.4  # intersection over union of a found face with a true one
HIDDEN = 0.5  # share of a face that is covered from which on nobody has to find it
SETTINGS = settings.load("cpu")
Truth = dict[str, dict[str, dict[str, object]]]
# Place of its frame in the clip, and box.
Face = tuple[int, NDArray[np.float32]]


@dataclass(frozen=True)
class Variant:
    every: int
    motion: bool = False

    def __str__(self) -> str:
        if self.every == 1:
            return "every frame"
        return (
            f"motion, whole of every {self.every}"
            if self.motion
            else f"whole of every {self.every}"
        )


@dataclass
class GateResult:
    """What one variant found in one clip."""

    found: list[Detections]
    spent: list[float]
    """Seconds of each frame."""
    whole: int
    skipped: int
    tracks: list[list[Face]]
    """The faces of each confirmed track."""


def detect_with_gate(detector: Detector, frames: list[Frame], variant: Variant) -> GateResult:
    """Detect and track faces in the frames with this variant of the gate."""
    gate = Gate(detector, variant.every, variant.motion)
    found, spent = [], []
    for frame in frames:
        start = time.perf_counter()
        found += gate.detect([frame.image])
        spent.append(time.perf_counter() - start)
    return GateResult(
        found, spent, gate.state.whole, gate.state.skipped, track_faces(frames, found)
    )


def track_faces(frames: list[Frame], found: list[Detections]) -> list[list[Face]]:
    """Return the faces of each confirmed track."""
    tracker = TRACKERS[SETTINGS.track.method](
        TrackerSettings(**SETTINGS.track.model_dump(exclude={"method"}))
    )
    faces: dict[int, list[Face]] = defaultdict(list)
    ended = []
    for index, (frame, detections) in enumerate(zip(frames, found, strict=True)):
        step = tracker.update(float(frame.ref.seconds), detections)
        ended += step.ended
        for track, box in zip(step.ids, detections.boxes, strict=True):
            faces[int(track)].append((index, box))
    ended += tracker.finish()
    return [faces[track.id] for track in ended if track.confirmed]


# --- against what is true -------------------------------------------------------------------------


@dataclass
class Counts:
    """Counts over several clips."""

    faces: int = 0
    found: int = 0
    false: int = 0
    people: int = 0
    tracked: int = 0
    tracks: int = 0
    whole: int = 0
    skipped: int = 0
    late: list[int] = field(default_factory=list)
    """Frames from a person's first findable face to the first that is found."""
    spent: list[float] = field(default_factory=list)

    def add(self, frames: list[Frame], result: GateResult, truth: Truth) -> None:
        first_visible: dict[str, int] = {}
        first_found: dict[str, int] = {}
        tracked_people: set[str] = set()
        in_tracks = boxes_by_frame([face for track in result.tracks for face in track])
        for index, (frame, found) in enumerate(zip(frames, result.found, strict=True)):
            present = truth.get(str(frame.ref.index), {})
            boxes: Boxes = np.array([face["box"] for face in present.values()], np.float32).reshape(
                -1, 4
            )
            overlaps = iou_matrix(boxes, found.boxes) >= OVERLAP
            self.false += int((~overlaps.any(axis=0)).sum())
            is_in_track = np.any(iou_matrix(boxes, in_tracks[index]) >= OVERLAP, axis=1)
            for row, (person, face) in enumerate(present.items()):
                if float(str(face.get("occluded", 0))) >= HIDDEN:
                    continue
                first_visible.setdefault(person, frame.ref.index)
                self.faces += 1
                if overlaps[row].any():
                    self.found += 1
                    first_found.setdefault(person, frame.ref.index)
                if is_in_track[row]:
                    tracked_people.add(person)
        self.people += len(first_visible)
        self.tracked += len(first_visible.keys() & tracked_people)
        self.tracks += len(result.tracks)
        self.whole, self.skipped = self.whole + result.whole, self.skipped + result.skipped
        self.late += [first_found[person] - first_visible[person] for person in first_found]
        self.spent += result.spent


def boxes_by_frame(faces: list[Face]) -> dict[int, Boxes]:
    """Return the boxes of each frame."""
    boxes: dict[int, Boxes] = defaultdict(lambda: np.zeros((0, 4), np.float32))
    for frame, box in faces:
        boxes[frame] = np.concatenate((boxes[frame], box[None]))
    return boxes


def truth_table(
    detector: Detector, variants: list[Variant], clips: dict[str, Path], seconds: float
) -> Table:
    columns = [
        "clips",
        "looked at",
        "recall",
        "false a frame",
        "people tracked",
        "tracks",
        "late, median and most",
    ]
    command = command_line()
    columns += ["frames whole", "frames skipped", "ms a frame", "of every frame"]
    table = Table("gating", "Not looking at the whole of every frame", command, columns)
    for name, folder in clips.items():
        truth = json.loads((folder / "ground_truth.json").read_text())
        counts = {variant: Counts() for variant in variants}
        for clip in sorted(truth):
            end = None if name == QUIET else Fraction(seconds)
            frames = list(open_video(folder / clip).frames(Sampling(end=end)))
            detector.detect([frames[0].image])  # warm up
            for variant, variant_counts in counts.items():
                variant_counts.add(
                    frames, detect_with_gate(detector, frames, variant), truth[clip]["frames"]
                )
        base = statistics.mean(counts[variants[0]].spent)
        for variant, variant_counts in counts.items():
            spent, frames_seen = statistics.mean(variant_counts.spent), len(variant_counts.spent)
            late = (
                f"{statistics.median(variant_counts.late):g}, {max(variant_counts.late)}"
                if variant_counts.late
                else "–"
            )
            row = [
                name,
                variant,
                f"{variant_counts.found / max(variant_counts.faces, 1):.4f}",
                f"{variant_counts.false / frames_seen:.3f}",
            ]
            row += [
                f"{variant_counts.tracked} of {variant_counts.people}",
                variant_counts.tracks,
                late,
            ]
            row += [
                f"{variant_counts.whole / frames_seen:.3f}",
                f"{variant_counts.skipped / frames_seen:.3f}",
            ]
            table.add_row([*row, f"{1000 * spent:.1f}", f"{spent / base:.2f}"])
    table.add_note(
        f"Clips with ground truth, their first {seconds:g} s (of *{QUIET}*, which "
        "`footage.write_quiet_room` draws, all: somebody comes in after three quarters), every "
        "frame passed to the gate, `min_score` and tracker of the preset. *Recall*: of all faces "
        f"of which less than half is covered, in all frames, those found with an IoU of {OVERLAP} "
        "or more. *People tracked*: who is in a track of at least three sightings. *Late*: frames "
        "from a person's first such face until one is found. *Whole* and *skipped*: shares of the "
        "frames that were searched as a whole, and not at all. One process, the variants in turns "
        "for each clip."
    )
    return table


# --- against looking at every frame ---------------------------------------------------------------


def every_frame_table(
    detector: Detector, variants: list[Variant], clips: list[Path], seconds: float
) -> Table:
    columns = [
        "clip",
        "looked at",
        "faces kept",
        "tracks kept",
        "frames whole",
        "frames skipped",
        "ms a frame",
    ]
    table = Table(
        "gating", "Real clips, against looking at every frame", "", [*columns, "of every frame"]
    )
    for clip in clips:
        frames = list(open_video(clip).frames(Sampling(end=Fraction(seconds))))
        detector.detect([frames[0].image])  # warm up
        full = detect_with_gate(detector, frames, variants[0])
        for variant in variants[1:]:
            result = detect_with_gate(detector, frames, variant)
            spent, base = statistics.mean(result.spent), statistics.mean(full.spent)
            usable = [
                (index, box)
                for index, detections in enumerate(full.found)
                for box in detections.boxes[detections.scores >= SETTINGS.select.min_score]
            ]
            faces = which_are_found(
                usable,
                [
                    (index, box)
                    for index, detections in enumerate(result.found)
                    for box in detections.boxes
                ],
            )
            in_tracks = [face for track in result.tracks for face in track]
            tracks = sum(
                sum(which_are_found(track, in_tracks)) >= len(track) / 2 for track in full.tracks
            )
            row = [
                clip.name,
                variant,
                f"{sum(faces)} of {len(faces)}",
                f"{tracks} of {len(full.tracks)}",
            ]
            row += [f"{count / len(frames):.3f}" for count in (result.whole, result.skipped)]
            table.add_row([*row, f"{1000 * spent:.1f}", f"{spent / base:.2f}"])
    table.add_note(
        f"Their first {seconds:g} s. *Faces kept*: of the faces that detection in every frame "
        f"finds with a score that makes them usable ({SETTINGS.select.min_score}), those found "
        f"with an IoU of {OVERLAP} or more in the same frame. *Tracks kept*: of its tracks, those "
        "with half of their faces or more in tracks here."
    )
    return table


def which_are_found(faces: list[Face], others: list[Face]) -> list[bool]:
    """Return whether each face overlaps one of the others in its frame."""
    boxes = boxes_by_frame(others)
    return [bool((iou_matrix(box[None], boxes[frame]) >= OVERLAP).any()) for frame, box in faces]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, nargs="*", default=[2, 5, 10], help="without motion")
    parser.add_argument(
        "--motion",
        type=int,
        nargs="*",
        default=[25, 100],
        help="values of detect.every with motion",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip with ground truth")
    parser.add_argument(
        "--quiet",
        type=float,
        default=20.0,
        help=("seconds of a room that is empty until near the end"),
    )
    parser.add_argument("--clip-seconds", type=float, default=2.0, help="of each real clip")
    parser.add_argument("--asl", type=int, default=4, help="number of office clips")
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA / "clips",
        help=("real clips; left out if the folder does not exist"),
    )
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    detector = open_detector(**SETTINGS.detect.model_dump(exclude=GATE_SETTINGS))
    variants = [
        Variant(1),
        *map(Variant, args.every),
        *(Variant(every, motion=True) for every in args.motion),
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_quiet_room(Path(folder), args.quiet)
        table = truth_table(detector, variants, CLIPS | {QUIET: Path(folder)}, args.seconds)
    clips = [clip for name in REAL if (clip := args.data / name).exists()]
    clips += sorted(args.data.glob("asl_*.mkv"))[: args.asl]
    if clips:
        table.write(every_frame_table(detector, variants, clips, args.clip_seconds))
    else:
        table.add_note("Real clips: not available.")
        table.write()


if __name__ == "__main__":
    main()
