"""Where the time of `fasr-video run` goes: each stage alone, then the whole, by size of picture and number of faces.

python benchmarks/performance.py [--seconds 4] [--faces 1 5 20] [--engines torch openvino]

The whole takes some seven minutes on two quiet cores; it grows with the seconds, the faces and the engines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from footage import crowd
from results import Table, command_line

from fasr_video.case.sources import SourceModels, register_source
from fasr_video.configs import settings
from fasr_video.configs.settings import Settings
from fasr_video.detection import open_detector
from fasr_video.detection.frame_skipping import START
from fasr_video.media import Sampling, open_video
from fasr_video.pipeline import segments
from fasr_video.pipeline.run import GATE_SETTINGS, Progress, Stage, open_case, run
from fasr_video.pipeline.tracklets import Tracklets
from fasr_video.trackers import TRACKERS, Tracker, TrackerSettings

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
STAGES = ("decode", "detect", "track", "cut and measure", "store")
REAL_TIME = 25.0  # frames a second


@dataclass(frozen=True)
class Spent:
    """Milliseconds a frame, but for what says otherwise."""

    stages: dict[str, float]
    """Each alone, with all cores."""
    footage: float
    """In a whole run, from the first progress line until the footage is done."""
    busy: float
    """Cores that it kept busy in that time: not in milliseconds."""
    found: float
    """Faces a frame."""
    tracks: int
    after: float
    """Seconds that super-resolution and search of all tracks took."""

    @property
    def slowest(self) -> str:
        return max(self.stages, key=lambda stage: self.stages[stage])


T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def alone(path: Path, chosen: Settings, folder: Path) -> tuple[dict[str, float], float]:
    """Each stage over all frames before the next one begins; also faces a frame."""
    reader = open_video(path)
    detector = open_detector(**chosen.detect.model_dump(exclude=GATE_SETTINGS))
    frames, decoding = timed(lambda: list(reader.frames(Sampling())))
    detector.detect([frames[0].image])  # warm up
    found, detecting = timed(lambda: [detector.detect([frame.image])[0] for frame in frames])

    def make_tracker() -> Tracker:
        return TRACKERS[chosen.track.method](
            TrackerSettings(**chosen.track.model_dump(exclude={"method"}))
        )

    other = make_tracker()
    _, tracking = timed(
        lambda: [other.update(float(f.ref.seconds), d) for f, d in zip(frames, found, strict=True)]
    )
    tracklets = Tracklets(make_tracker(), chosen.select, 1)
    _, looking = timed(
        lambda: [tracklets.add_frame(f, d) for f, d in zip(frames, found, strict=True)]
    )
    tracklets.finish()
    described = SourceModels(detector.name, detector.fingerprint, "", True, None)
    with open_case(folder, chosen) as case:
        source = register_source(case, reader.info, described)
        segment = tracklets.take_segment()
        summary = segments.SegmentSummary(
            span=(frames[0].ref, frames[-1].ref),
            tracker=other,
            gate=START,
            losses=reader.losses,
            damaged=0,
            seconds=0.0,
            is_last=True,
        )
        _, storing = timed(lambda: segments.save_segment(case, source, segment, summary))
    spent = zip(STAGES, (decoding, detecting, tracking, looking - tracking, storing), strict=True)
    faces = sum(len(d) for d in found) / len(frames)
    return {stage: 1000 * seconds / len(frames) for stage, seconds in spent}, faces


def full_run(path: Path, chosen: Settings, folder: Path) -> tuple[float, float, int, float]:
    """Milliseconds a frame of the footage; cores busy in that time; tracks; seconds after it."""
    events: list[tuple[float, float, Progress]] = []
    later: list[float] = []

    def listen(event: Progress | Stage) -> None:
        if isinstance(event, Progress):
            events.append((time.perf_counter(), time.process_time(), event))
        else:
            later.append(time.perf_counter())

    run([path], folder, chosen, listen=listen)
    end = time.perf_counter()
    (began, used, first), (seen, used_then, last) = events[0], events[-1]
    done, busy = later[0] if later else end, (used_then - used) / (seen - began)
    return 1000 * (done - began) / (last.frames - first.frames), busy, last.tracks, end - done


def measure(path: Path, engine: str) -> Spent:
    chosen = settings.load("cpu", [f"detect.engine={engine}"])
    with tempfile.TemporaryDirectory() as name:
        stages, found = alone(path, chosen, Path(name) / "alone")
        footage, busy, tracks, after = full_run(path, chosen, Path(name) / "whole")
    return Spent(stages, footage, busy, found, tracks, after)


def in_own_process(path: Path, engine: str) -> Spent:
    command = [sys.executable, __file__, "--one", engine, "--file", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def line(name: list[str], spent: Spent) -> list[str]:
    bound, rate = spent.stages[spent.slowest], 1000 / spent.footage
    cells = [f"{spent.stages[stage]:.1f}" for stage in STAGES]
    reached = [
        f"{spent.footage:.1f}",
        f"{spent.busy:.2f}",
        f"{rate:.1f}",
        f"{rate / REAL_TIME:.2f}",
        f"{bound / spent.footage:.2f}",
    ]
    return [
        *name,
        f"{spent.found:.1f}",
        *cells,
        spent.slowest,
        *reached,
        str(spent.tracks),
        f"{spent.after:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of video")
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--engines", nargs="+", default=["torch", "openvino"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.one:
        print(json.dumps(asdict(measure(args.file, args.one))))
        return
    columns = [
        "size",
        "faces",
        "engine",
        "found a frame",
        *(f"{stage}, ms" for stage in STAGES),
        "slowest",
    ]
    columns += [
        "whole, ms a frame",
        "cores busy",
        "frames/s",
        "× real time",
        "of what the slowest allows",
        "tracks",
        "after, s",
    ]
    command = command_line()
    table = Table("performance", "Where the time of a run goes", command, columns)
    with tempfile.TemporaryDirectory() as name:
        for size, (width, height) in SIZES.items():
            for faces in args.faces:
                path = crowd(Path(name) / f"{size}-{faces}.mp4", width, height, faces, args.seconds)
                for engine in args.engines:
                    table.row(line([size, str(faces), engine], in_own_process(path, engine)))
    table.note(
        f"{args.seconds:g} s of 25 frames/s: sample people's heads, each swaying in its own place before a wall "
        "(`footage.crowd`). Each line is a process of its own. The stages are timed alone, one after the other over "
        "all frames; *cut and measure* is what `Tracklets.add_frame` takes beside the tracker; *store* is the writing "
        "of pictures and rows. *Whole* is `run` from its first progress line until the footage is done, decoding, "
        "detecting and the rest in threads of their own. *Of what the slowest allows* is the slowest stage's time "
        "over the whole's. *Cores busy*: processor time over time while it lasts (a thread that waits a moment for "
        "others of its network counts): what is idle then is the most that restoring at the same time could gain. "
        f"Real time is {REAL_TIME:g} frames/s. *After* is super-resolution of all tracks, which does "
        "not grow with the frames; no gallery was searched."
    )
    table.write()


if __name__ == "__main__":
    main()
