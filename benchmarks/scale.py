"""How the cost of a run grows: with the length of the footage, the faces a frame, the tracks, and
the gallery.

python benchmarks/scale.py [--minutes 0.5 1 2 4] [--faces 1 5 10 20 40] [--tracks 100 …] [--gallery
1000 …]

The whole takes some seven minutes on two quiet cores, half of it footage; then `scale_plan.py`
fills docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from footage import SAMPLE, repeat, seconds_of, write_crowd
from results import Table, command_line

from fasr_video.configs import settings
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.gallery.search import Mode, Searcher, SearchOptions, TrackQuery
from fasr_video.pipeline.run import Progress, Stage, run
from fasr_video.trackers.linking import Tracklet, propose_by_face

LENGTH = 512
SIDE = 16
MIN_SIMILARITY = settings.load("cpu").link.min_similarity


def unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, LENGTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- what is measured, each in a process of its own -----------------------------------------------


def measure_footage(path: str, fps: str) -> dict[str, float]:
    """Run without super-resolution; return seconds, frames, faces, tracks and MiB."""
    measured: list[Progress] = []
    with tempfile.TemporaryDirectory() as name:
        overrides = ["restore.method=none", *([f"sampling.fps={fps}"] if float(fps) else [])]
        start = time.perf_counter()

        def listen(event: Progress | Stage) -> None:
            if isinstance(event, Progress):
                measured.append(event)

        run([Path(path)], Path(name) / "case", settings.load("cpu", overrides), listen=listen)
        spent = time.perf_counter() - start
        mib = sum(f.stat().st_size for f in (Path(name) / "case").rglob("*") if f.is_file()) / 2**20
    last = measured[-1]
    return {
        "seconds": spent,
        "frames": last.frames,
        "faces": last.faces,
        "tracks": last.tracks,
        "disk": mib,
    }


def measure_tracks(count: str, people: str) -> dict[str, float]:
    """Return the seconds to search for tracks in a gallery, and to link them."""
    rng = np.random.default_rng(0)
    features = unit_vectors(rng, int(count))
    with (
        tempfile.TemporaryDirectory() as name,
        make_gallery(Path(name) / "g", int(people)) as measure_gallery,
    ):
        searcher = Searcher(
            measure_gallery,
            Index.open(measure_gallery),
            SearchOptions(Mode.INVESTIGATION, 20, 0.01),
            None,
        )
        start = time.perf_counter()
        searcher.answers(
            [TrackQuery({Kind.BEST: feature, Kind.POOLED: feature}, SIDE) for feature in features]
        )
        searching = time.perf_counter() - start
    tracklets = [Tracklet(i, 1, float(i), i + 0.5, feature) for i, feature in enumerate(features)]
    start = time.perf_counter()
    propose_by_face(tracklets, MIN_SIMILARITY, lambda a, b: False)
    return {"searching": searching, "linking": time.perf_counter() - start}


def measure_gallery(people: str, track_count: str) -> dict[str, float]:
    """Return the seconds to enrol, to index and to search, and MiB on the disk."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        with make_gallery(Path(name) / "g", int(people)) as opened:
            enrolling = time.perf_counter() - start
            start = time.perf_counter()
            index = Index.open(opened)
            indexing = time.perf_counter() - start
            searcher = Searcher(opened, index, SearchOptions(Mode.INVESTIGATION, 20, 0.01), None)
            probes = [
                TrackQuery({Kind.POOLED: feature}, SIDE)
                for feature in unit_vectors(rng, int(track_count))
            ]
            start = time.perf_counter()
            searcher.answers(probes)
            searching = time.perf_counter() - start
        mib = sum(f.stat().st_size for f in (Path(name) / "g").iterdir()) / 2**20
    return {"enrolling": enrolling, "indexing": indexing, "searching": searching, "disk": mib}


def make_gallery(folder: Path, people: int) -> Gallery:
    """Make a gallery of random features."""
    rng = np.random.default_rng(2)
    measure_gallery = Gallery.create(folder, "random", "0" * 64, LENGTH)
    for start in range(0, people, 10_000):
        rows = range(start, min(start + 10_000, people))
        with measure_gallery.transaction():
            for i, vector in zip(rows, unit_vectors(rng, len(rows)), strict=True):
                measure_gallery.add(
                    f"p{i}", EnrolledPhoto(f"{i:064x}", f"{i}.png", vector, 1.0, 40.0, 0.9, None)
                )
    return measure_gallery


MEASUREMENTS = {"footage": measure_footage, "tracks": measure_tracks, "gallery": measure_gallery}


def measure_in_process(what: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", what, *map(str, arguments)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return measured


# --- curves ---------------------------------------------------------------------------------------


class Curve(Table):
    """A table whose last row says with which power of the first column the others grow."""

    def __init__(self, title: str, columns: Sequence[str], command: str = "") -> None:
        super().__init__("scale", title, command, columns)
        self._points: list[list[float]] = []

    def add_point(self, values: Sequence[float]) -> None:
        self._points.append(list(values))
        self.add_row([f"{v:,.3g}" if v < 1000 else f"{v:,.0f}" for v in values])

    def add_powers(self) -> None:
        """Add the powers between the last two points: 1 is linear."""
        for before, last in list(pairwise(self._points))[-1:]:
            step = math.log(last[0] / before[0])
            grown = [
                math.log(b / a) / step if a > 0 and b > 0 else math.nan
                for a, b in zip(before, last, strict=True)
            ]
            self.add_row(["power", *(f"{g:.2f}" for g in grown[1:])])


def length_curve(minutes: Sequence[float], fps: float, folder: Path) -> Curve:
    columns = ["minutes of 720p", "seconds", "peak memory, MiB", "case, MiB", "faces", "tracks"]
    curve = Curve("How the cost of a run grows", columns, command_line())
    for length in minutes:
        times = max(1, round(60 * length / seconds_of(SAMPLE)))
        film = repeat(SAMPLE, folder / f"{times}.mp4", times)
        measured = measure_in_process("footage", film, fps)
        values = [measured[k] for k in ("seconds", "peak", "disk", "faces", "tracks")]
        curve.add_point([seconds_of(film) / 60, *values])
    curve.add_powers()
    curve.add_note(
        f"The 8 s sample repeated, {fps:g} frames a second analysed, no super-resolution. The "
        "last row is the power of the first column that each grows with between the last two "
        "lines: 1 is linear, 0 not at all."
    )
    return curve


def crowd_curve(counts: Sequence[int], seconds: float, folder: Path) -> Curve:
    curve = Curve(
        "Faces a frame", ["faces", "found a frame", "ms a frame", "peak memory, MiB", "case, MiB"]
    )
    for count in counts:
        film = write_crowd(folder / f"crowd-{count}.mp4", 1280, 720, count, seconds=seconds)
        measured = measure_in_process("footage", film, 0)
        each = measured["frames"]
        values = [
            measured["faces"] / each,
            1000 * measured["seconds"] / each,
            measured["peak"],
            measured["disk"],
        ]
        curve.add_point([count, *values])
    curve.add_powers()
    curve.add_note(
        f"{seconds:g} s of 720p, every frame (`footage.write_crowd`); loading and embedding are "
        "in the time."
    )
    return curve


def track_curve(counts: Sequence[int], people: int) -> Curve:
    curve = Curve(
        "Tracks", ["tracks", "search, s", "search, ms a track", "links, s", "peak memory, MiB"]
    )
    for count in counts:
        measured = measure_in_process("tracks", count, people)
        each = 1000 * measured["searching"] / count
        curve.add_point([count, measured["searching"], each, measured["linking"], measured["peak"]])
    curve.add_powers()
    curve.add_note(
        f"Made-up tracks with two probes each, {people:,} people in the gallery; links compare all "
        "pairs."
    )
    return curve


def gallery_curve(sizes: Sequence[int], track_count: int) -> Curve:
    columns = [
        "people",
        "enrolled, s",
        "index made, s",
        f"{track_count} tracks searched, s",
        "disk, MiB",
        "peak memory, MiB",
    ]
    curve = Curve("People in the gallery", columns)
    for size in sizes:
        measured = measure_in_process("gallery", size, track_count)
        curve.add_point(
            [size, *(measured[k] for k in ("enrolling", "indexing", "searching", "disk", "peak"))]
        )
    curve.add_powers()
    curve.add_note(
        f"Random vectors of {LENGTH} numbers, one a person, put in without photographs; the exact "
        "index."
    )
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[0.5, 1, 2, 4], help="of footage"
    )
    parser.add_argument(
        "--fps", type=float, default=5.0, help=("frames a second that are analysed in them")
    )
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 5, 10, 20, 40], help="a frame")
    parser.add_argument("--seconds", type=float, default=3.0, help="of crowds")
    parser.add_argument("--tracks", type=int, nargs="+", default=[100, 1_000, 4_000])
    parser.add_argument(
        "--gallery", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="people"
    )
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.one:
        what, *arguments = args.one
        measured = MEASUREMENTS[what](*arguments)
        print(
            json.dumps(
                measured | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
            )
        )
        return
    with tempfile.TemporaryDirectory() as name:
        first = length_curve(sorted(args.minutes), args.fps, Path(name))
        crowds = crowd_curve(sorted(args.faces), args.seconds, Path(name))
    people = min(10_000, max(args.gallery))
    first.write(
        crowds, track_curve(sorted(args.tracks), people), gallery_curve(sorted(args.gallery), 64)
    )


if __name__ == "__main__":
    main()
