"""Whole runs on real clips: how long they take and what they find, with the builtin detector and
with Haar.

python benchmarks/clips.py [--data ../shared/data/clips] [--seconds 1] [--only asl_]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from footage import DATA, find_data, seconds_of
from results import Table

from fasr_video.case.case import Case
from fasr_video.case.document import as_document
from fasr_video.configs import settings
from fasr_video.pipeline.run import run

DETECTORS = ("builtin", "haar")
COVERED = 0.8  # share of the frames that the signer's track is to cover


@dataclass(frozen=True)
class ClipResult:
    """What a run, or the sum of several runs, found."""

    wall: float = 0.0
    seconds: float = 0.0
    """Of video."""
    frames: int = 0
    faces: int = 0
    tracks: int = 0
    usable: int = 0
    auxiliaries: int = 0
    losses: int = 0
    clips: int = 0
    signer: int = 0
    """Clips with a usable track in the middle that covers most frames."""
    middle: int = 0
    """Clips with any usable track in the middle."""

    def __add__(self, other: ClipResult) -> ClipResult:
        return ClipResult(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def run_clip(clip: Path, detector: str, limit: float | None) -> ClipResult:
    """Run a clip into a new case and return what was found."""
    overrides = [f"detect.backend={detector}", *([f"sampling.end={limit}"] if limit else [])]
    length = min(limit or float("inf"), seconds_of(clip))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        out, _ = run([clip], Path(folder) / "case", settings.load("cpu", overrides))
        wall = time.perf_counter() - start
        with Case.open(out) as case:
            document = as_document(case)
            middle = middle_tracks(case, document.sources[0].info["width"])
    source = document.sources[0]
    frames, reasons = source.frames_looked_at, source.faces_by_reason
    return ClipResult(
        wall=wall,
        seconds=length,
        frames=frames,
        faces=sum(reasons.values()),
        tracks=len(document.tracks),
        usable=sum(t.verdict == "usable" for t in document.tracks),
        auxiliaries=reasons.get("aux", 0),
        losses=sum(source.losses.values()) + source.frames_skipped_as_damaged,
        clips=1,
        signer=int(any(count >= COVERED * frames for count in middle)),
        middle=int(bool(middle)),
    )


def middle_tracks(case: Case, width: int) -> list[int]:
    """Return the number of faces of each usable track in the middle third of the picture."""
    query = """
        SELECT avg((x1 + x2) / 2) AS centre, count(DISTINCT frame_index) AS seen
        FROM face JOIN track ON track.id = face.track
        WHERE track.verdict = 'usable' GROUP BY track.id"""
    return [
        row["seen"] for row in case.db.execute(query) if width / 3 <= row["centre"] <= 2 * width / 3
    ]


def table_row(name: str, detector: str, found: ClipResult) -> list[str]:
    counts = [
        found.frames,
        found.faces,
        found.tracks,
        found.usable,
        found.auxiliaries,
        found.losses,
    ]
    speed = [f"{found.wall:.1f}", f"{found.seconds / found.wall:.2f}"]
    return [name, detector, f"{found.seconds:.1f}", *speed, *map(str, counts)]


def find_clips(folder: Path, only: str) -> list[Path]:
    clips = sorted(
        p for p in folder.iterdir() if p.suffix in {".mkv", ".mp4"} and p.name.startswith(only)
    )
    if not clips:
        raise SystemExit(f"{folder}: no clip in it begins with {only!r}")
    return clips


def add_rows(table: Table, clips: Sequence[Path], limit: float | None) -> dict[str, ClipResult]:
    """Add a row for each clip and detector; return the sums of the asl clips by detector."""
    run_clip(clips[0], DETECTORS[0], 0.2)  # the first run of a process pays for imports
    signers = {detector: ClipResult() for detector in DETECTORS}
    for clip in clips:
        for detector in DETECTORS:
            result = run_clip(clip, detector, limit)
            if clip.name.startswith("asl_"):
                signers[detector] += result
            else:
                table.add_row(table_row(clip.stem, detector, result))
    for detector, result in signers.items():
        if result.clips:
            table.add_row(table_row(f"asl, {result.clips} clips", detector, result))
    return signers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA / "clips")
    parser.add_argument("--seconds", type=float, help="only the first ones of each clip")
    parser.add_argument("--only", default="", help="clips whose name begins so")
    args = parser.parse_args()
    clips = find_clips(find_data(args.data), args.only)
    torch.set_num_threads(os.cpu_count() or 1)
    columns = [
        "clip",
        "detector",
        "video s",
        "wall s",
        "× real time",
        "frames",
        "faces seen",
        "tracks",
        "usable",
    ]
    table = Table(
        "clips",
        "Whole runs on real clips",
        "`python benchmarks/clips.py`",
        [*columns, "auxiliaries", "lost"],
    )
    signers = add_rows(table, clips, args.seconds)
    if args.seconds:
        table.add_note(f"Only the first {args.seconds:g} s of each clip.")
    for detector, result in signers.items():
        if result.clips:
            table.add_note(
                f"{detector}: clips in which the signer has a usable track covering at least "
                f"{COVERED:.0%} of the frames: **{result.signer} of {result.clips}**; with any "
                f"usable track in the middle: {result.middle}."
            )
    table.add_note(
        "Each line is `run` into a new case with the `cpu` preset, every frame analysed; haar "
        "(OpenCV's cascade) is the peer, with the same settings. Wall time includes loading the "
        "detector, hashing, decoding, tracking, choosing and writing; × real time is seconds of "
        "video a second of work. *Faces seen* counts every detection, also those that became no "
        "track, and false ones: these clips have no ground truth. *Lost* sums all counted losses. "
        "The asl clips each hold one signing person in the middle, the face about 40 px high, and "
        "perhaps others at the edge; the signer's track is one whose mean box centre lies in the "
        "middle third of the width."
    )
    table.write()


if __name__ == "__main__":
    main()
