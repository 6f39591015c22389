"""How fast footage goes through: bare decoding, our reader, detectors, trackers, a whole run.

    python benchmarks/throughput.py [--repeats 10] [--run-seconds 8] [--rounds 3]

The whole takes some seven minutes on two quiet cores, most of it the whole runs.

Each measurement of a chain is a process of its own, one after the other, in turns; the median of
the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from footage import SAMPLE, enlarge, repeat
from numpy.typing import NDArray
from results import Table, command_line

from fasr_video.configs import settings
from fasr_video.detection import Detector, open_detector
from fasr_video.media import Sampling, open_video
from fasr_video.pipeline.prefetch import prefetch
from fasr_video.pipeline.run import FRAMES_AHEAD, GATE_SETTINGS, Progress, Stage, run
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.types import Detections

SIZES = ((640, 480), (1280, 720), (1920, 1080))
FACES = (5, 20, 100)
DETECTORS = {
    "builtin": ["detect.backend=builtin"],
    "builtin, OpenVINO": ["detect.backend=builtin", "detect.engine=openvino"],
    "haar": ["detect.backend=haar"],
}
# Frames, seconds.
FramesAndSeconds = tuple[int, float]


def count_decoded(path: Path, rgb: bool) -> FramesAndSeconds:
    start, frames = time.perf_counter(), 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if rgb:
                frame.to_ndarray(format="rgb24")
            frames += 1
    return frames, time.perf_counter() - start


def read_with_opencv(path: Path) -> FramesAndSeconds:
    start, frames = time.perf_counter(), 0
    capture = cv2.VideoCapture(str(path))
    while capture.read()[0]:
        frames += 1
    return frames, time.perf_counter() - start


def read_with_ours(path: Path) -> FramesAndSeconds:
    opened = open_video(path)  # hashes the file
    start = time.perf_counter()
    frames = sum(1 for _ in opened.frames(Sampling()))
    return frames, time.perf_counter() - start


def detect_frames(path: Path, end: float) -> FramesAndSeconds:
    detector = make_detector("builtin")
    opened = open_video(path)
    start, frames = time.perf_counter(), 0
    for frame in prefetch(opened.frames(Sampling(end=Fraction(end))), FRAMES_AHEAD):
        detector.detect([frame.image])
        frames += 1
    return frames, time.perf_counter() - start


def run_whole(path: Path, end: float, detector: str) -> FramesAndSeconds:
    with tempfile.TemporaryDirectory() as folder:
        frames: list[int] = []

        def listen(event: Progress | Stage) -> None:
            if isinstance(event, Progress):
                frames.append(event.frames)

        run_settings = settings.load("cpu", [*DETECTORS[detector], f"sampling.end={end}"])
        start = time.perf_counter()
        run([path], Path(folder) / "case", run_settings, listen=listen)
        return frames[-1], time.perf_counter() - start


SHORT: dict[str, Callable[[Path], FramesAndSeconds]] = {
    "(a) bare PyAV, decoding only": lambda path: count_decoded(path, rgb=False),
    "(b) bare PyAV, to rgb24": lambda path: count_decoded(path, rgb=True),
    "(c) our reader, hashing excluded": read_with_ours,
    "peer: cv2.VideoCapture": read_with_opencv,
}
LONG: dict[str, Callable[[Path, float], FramesAndSeconds]] = {
    "(d) our reader and builtin detector": detect_frames,
    "(e) whole run into a case, builtin": lambda path, end: run_whole(path, end, "builtin"),
    "(e) whole run into a case, builtin, OpenVINO": lambda path, end: run_whole(
        path, end, "builtin, OpenVINO"
    ),
    "(e) whole run into a case, haar": lambda path, end: run_whole(path, end, "haar"),
}


def make_detector(name: str) -> Detector:
    return open_detector(
        **settings.load("cpu", DETECTORS[name]).detect.model_dump(exclude=GATE_SETTINGS)
    )


def rate_in_process(what: str, path: Path, end: float) -> float:
    """Return the frames a second of one chain, measured in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--one",
        what,
        "--file",
        str(path),
        "--run-seconds",
        str(end),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} on {path.name} failed:\n{done.stderr}")
    frames, seconds = done.stdout.split()[-2:]
    return int(frames) / float(seconds)


def measure_rates(path: Path, end: float, rounds: int) -> dict[str, float]:
    """Return the median frames a second of each chain."""
    rates: dict[str, list[float]] = {what: [] for what in (*SHORT, *LONG)}
    for turn in range(rounds):
        for what in (*SHORT, *LONG) if turn == 0 else SHORT:
            rates[what].append(rate_in_process(what, path, end))
    return {what: statistics.median(values) for what, values in rates.items()}


def measure_detectors(
    frame: NDArray[np.uint8], calls: int
) -> dict[tuple[str, tuple[int, int]], float]:
    """Return (detector, size) → median milliseconds a frame, with the detectors in turn."""
    detectors = {name: make_detector(name) for name in DETECTORS}
    times: dict[tuple[str, tuple[int, int]], list[float]] = {}
    for size in SIZES:
        picture = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
        for turn in range(calls + 2):
            for name, detector in detectors.items():
                start = time.perf_counter()
                detector.detect([picture])
                if turn >= 2:  # the first calls warm up
                    times.setdefault((name, size), []).append(1000 * (time.perf_counter() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def sample_frame() -> NDArray[np.uint8]:
    """Return second 6 of the sample: both people are in view and near."""
    for index, frame in enumerate(open_video(SAMPLE).frames(Sampling())):
        if index == 150:
            return frame.image
    raise AssertionError("the sample is shorter than it was")


def measure_tracker(name: str, faces: int, frames: int) -> float:
    """Return the frames a second for faces that wander; one in ten detections is missing."""
    rng = np.random.default_rng(3)
    centres = rng.uniform((50, 50), (1870, 1030), (faces, 2))
    speeds = rng.normal(0, 3, (faces, 2))
    sides = rng.uniform(20, 90, (faces, 1))
    detections = []
    for _ in range(frames):
        speeds = 0.95 * speeds + rng.normal(0, 0.8, (faces, 2))
        centres = np.clip(centres + speeds, 30, (1890, 1050))
        boxes = np.concatenate((centres - sides / 2, centres + sides / 2), 1) + rng.normal(
            0, 1, (faces, 4)
        )
        is_seen = rng.random(faces) > 0.1
        detections.append(
            Detections(
                boxes[is_seen].astype(np.float32), np.full(is_seen.sum(), 0.9, np.float32), None
            )
        )
    tracker = TRACKERS[name](TrackerSettings())
    start = time.perf_counter()
    for index, in_frame in enumerate(detections):
        tracker.update(index / 25, in_frame)
    return frames / (time.perf_counter() - start)


def chain_table(repeats: int, end: float, rounds: int) -> Table:
    columns = ["chain", "720p frames/s", "of (a)", "1080p frames/s", "of (a)"]
    table = Table("throughput", "Throughput", command_line(), columns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {"720p": SAMPLE, "1080p": enlarge(SAMPLE, folder / "large.mp4", 1920, 1080)}
        rates = {}
        for size, source in sources.items():
            rates[size] = measure_rates(
                repeat(source, folder / f"{size}.mp4", repeats), end, rounds
            )
    limit = {size: next(iter(found.values())) for size, found in rates.items()}
    for what in rates["720p"]:
        cells = []
        for size, found in rates.items():
            cells += [f"{found[what]:.1f}", f"{found[what] / limit[size]:.3f}"]
        table.add_row([what, *cells])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=10, help="of the 8 s sample, for (a) to (c) and the peer"
    )
    parser.add_argument("--run-seconds", type=float, default=8.0, help="of video, for (d) and (e)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="for (a) to (c) and the peer; (d) and (e) run once"
    )
    parser.add_argument("--looks", type=int, default=30, help="of each detector at each size")
    parser.add_argument("--one", choices=[*SHORT, *LONG], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if args.one:
        print(
            *(
                SHORT[args.one](args.file)
                if args.one in SHORT
                else LONG[args.one](args.file, args.run_seconds)
            )
        )
        return
    table = chain_table(args.repeats, args.run_seconds, args.rounds)
    table.add_note(
        f"(a) to (c) and the peer: the 8 s sample `{SAMPLE.name}` {args.repeats} times over "
        f"(packets repeated, without encoding), median of {args.rounds}; (d) and (e): its first "
        f"{args.run_seconds:g} s, once. One process each, one after the other; the start of "
        "Python and the loading of the model are not counted in (d), the loading, hashing and "
        "writing are in (e). The 1080p version is the sample enlarged and encoded once, so it "
        "decodes more easily than sharp 1080p footage does. In (d) and (e) decoding runs in a "
        "thread beside the detector. (a), (b) and the peer decode with all cores, our reader with "
        "one: see docs/design.md."
    )
    detectors = Table(
        "throughput",
        "Detectors, milliseconds a frame",
        "",
        ["size", *DETECTORS, "haar/builtin", "builtin/OpenVINO"],
    )
    times = measure_detectors(sample_frame(), args.looks)
    for size in SIZES:
        ours, fast, peer = (times[name, size] for name in DETECTORS)
        cells = [f"{v:.1f}" for v in (ours, fast, peer)]
        detectors.add_row(
            ["{}×{}".format(*size), *cells, f"{peer / ours:.2f}", f"{ours / fast:.2f}"]
        )
    detectors.add_note(
        f"Median of {args.looks} detections in one frame of the sample with two faces, resized to "
        f"each size, in turn, `min_score` of the preset, {torch.get_num_threads()} threads each. "
        f"Builtin here: {make_detector('builtin').name}. Haar is the peer: OpenCV's cascade."
    )
    trackers = Table(
        "throughput", "Trackers, frames a second", "", ["tracker", *(f"{n} faces" for n in FACES)]
    )
    for name in TRACKERS:
        rates = [statistics.median(measure_tracker(name, n, 300) for _ in range(3)) for n in FACES]
        trackers.add_row([name, *(f"{r:.0f}" for r in rates)])
    trackers.add_note(
        "Simulated faces that wander in 1920×1080 at 25 frames a second; median of 3 times 300 "
        "frames."
    )
    table.write(detectors, trackers)


if __name__ == "__main__":
    main()
