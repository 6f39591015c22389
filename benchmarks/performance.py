"""Where the time of `fasr-video run` goes: each stage alone, then the whole, by size of picture and
number of faces.

python benchmarks/performance.py [--seconds 4] [--faces 1 5 20] [--engines torch openvino]

The whole takes some seven minutes on two quiet cores; it grows with the seconds, the faces and the
engines.
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
from footage import write_crowd
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
class RunCost:
    """Milliseconds a frame, unless stated otherwise."""

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


def run_timed(call: Callable[[], T]) -> tuple[T, float]:
    """Call a function; return its result and the seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def measure_stages(
    path: Path, run_settings: Settings, folder: Path
) -> tuple[dict[str, float], float]:
    """Run the stages one after the other; return milliseconds a frame, and faces a frame."""
    reader = open_video(path)
    detector = open_detector(**run_settings.detect.model_dump(exclude=GATE_SETTINGS))
    frames, decoding = run_timed(lambda: list(reader.frames(Sampling())))
    detector.detect([frames[0].image])  # warm up
    found, detecting = run_timed(lambda: [detector.detect([frame.image])[0] for frame in frames])

    def make_tracker() -> Tracker:
        return TRACKERS[run_settings.track.method](
            TrackerSettings(**run_settings.track.model_dump(exclude={"method"}))
        )

    tracker = make_tracker()
    _, tracking = run_timed(
        lambda: [
            tracker.update(float(f.ref.seconds), d) for f, d in zip(frames, found, strict=True)
        ]
    )
    tracklets = Tracklets(make_tracker(), run_settings.select, 1)

    def add_all() -> None:
        for frame, faces in zip(frames, found, strict=True):
            tracklets.add_frame(frame, faces)

    _, adding = run_timed(add_all)
    tracklets.finish()
    described = SourceModels(detector.name, detector.fingerprint, "", True, None)
    with open_case(folder, run_settings) as case:
        source = register_source(case, reader.info, described)
        segment = tracklets.take_segment()
        summary = segments.SegmentSummary(
            span=(frames[0].ref, frames[-1].ref),
            tracker=tracker,
            gate=START,
            losses=reader.losses,
            damaged=0,
            seconds=0.0,
            is_last=True,
        )
        _, storing = run_timed(lambda: segments.save_segment(case, source, segment, summary))
    spent = zip(STAGES, (decoding, detecting, tracking, adding - tracking, storing), strict=True)
    faces = sum(len(d) for d in found) / len(frames)
    return {stage: 1000 * seconds / len(frames) for stage, seconds in spent}, faces


def measure_run(
    path: Path, run_settings: Settings, folder: Path
) -> tuple[float, float, int, float]:
    """Return milliseconds a frame, busy cores meanwhile, tracks, and seconds afterwards."""
    events: list[tuple[float, float, Progress]] = []
    stage_times: list[float] = []

    def listen(event: Progress | Stage) -> None:
        if isinstance(event, Progress):
            events.append((time.perf_counter(), time.process_time(), event))
        else:
            stage_times.append(time.perf_counter())

    run([path], folder, run_settings, listen=listen)
    end = time.perf_counter()
    (start, cpu_start, first), (last_time, cpu_end, last) = events[0], events[-1]
    footage_done, busy = (
        stage_times[0] if stage_times else end,
        (cpu_end - cpu_start) / (last_time - start),
    )
    return (
        1000 * (footage_done - start) / (last.frames - first.frames),
        busy,
        last.tracks,
        end - footage_done,
    )


def measure_cost(path: Path, engine: str) -> RunCost:
    run_settings = settings.load("cpu", [f"detect.engine={engine}"])
    with tempfile.TemporaryDirectory() as name:
        stages, found = measure_stages(path, run_settings, Path(name) / "alone")
        footage, busy, tracks, after = measure_run(path, run_settings, Path(name) / "whole")
    return RunCost(stages, footage, busy, found, tracks, after)


def measure_in_process(path: Path, engine: str) -> RunCost:
    command = [sys.executable, __file__, "--one", engine, "--file", str(path)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return RunCost(**json.loads(finished.stdout.splitlines()[-1]))


def table_row(name: list[str], spent: RunCost) -> list[str]:
    slowest, rate = spent.stages[spent.slowest], 1000 / spent.footage
    cells = [f"{spent.stages[stage]:.1f}" for stage in STAGES]
    run_cells = [
        f"{spent.footage:.1f}",
        f"{spent.busy:.2f}",
        f"{rate:.1f}",
        f"{rate / REAL_TIME:.2f}",
        f"{slowest / spent.footage:.2f}",
    ]
    return [
        *name,
        f"{spent.found:.1f}",
        *cells,
        spent.slowest,
        *run_cells,
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
        print(json.dumps(asdict(measure_cost(args.file, args.one))))
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
                path = write_crowd(
                    Path(name) / f"{size}-{faces}.mp4", width, height, faces, seconds=args.seconds
                )
                for engine in args.engines:
                    table.add_row(
                        table_row([size, str(faces), engine], measure_in_process(path, engine))
                    )
    table.add_note(
        f"{args.seconds:g} s of 25 frames/s: sample people's heads, each swaying in front of a "
        "wall (`footage.write_crowd`). Each line is a process of its own. The stages are timed "
        "alone, one after the other over all frames; *cut and measure* is `Tracklets.add_frame` "
        "without the tracker; *store* is the writing of pictures and rows. *Whole* is `run` from "
        "its first progress line until the footage is done, decoding, detecting and the rest in "
        "threads of their own. *Of what the slowest allows* is the slowest stage's time over the "
        "whole's. *Cores busy*: processor time over time while it lasts (a thread that waits a "
        "moment for others of its network counts): restoring at the same time could use at most "
        f"the rest. Real time is {REAL_TIME:g} frames/s. *After* is super-resolution of all "
        "tracks, which does not grow with the frames; no gallery was searched."
    )
    table.write()


if __name__ == "__main__":
    main()
