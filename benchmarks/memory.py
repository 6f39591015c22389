"""Memory of `fasr-video run` over a quarter of an hour of 720p footage, or more.

python benchmarks/memory.py [--minutes 15] [--fps 5]

The whole takes some eight minutes on two quiet cores, half as long as the footage.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from footage import SAMPLE, repeat, seconds_of
from processes import resident_mib
from results import RESULTS, Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MINUTES = (1, 5, 10, 15, 20, 25, 30)  # minutes of video
SAMPLE_EVERY = 2.0  # seconds between samples


@dataclass
class RunSamples:
    """The memory of one run at regular times, and its messages."""

    wall: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    """MiB of the process and its children at each sample."""
    progress: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    """The run's own progress lines, and when they came."""
    result: dict[str, object] = field(default_factory=dict)
    exit_code: int = 0


def sample_run(command: list[str]) -> RunSamples:
    """Run a command and sample its memory until it ends."""
    samples = RunSamples()
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        listener = threading.Thread(target=_read_events, args=(process, samples, start))
        listener.start()
        try:
            while process.poll() is None:
                mib = resident_mib(process.pid)
                if mib:
                    samples.wall.append(time.monotonic() - start)
                    samples.rss.append(mib)
                time.sleep(SAMPLE_EVERY)
        finally:
            process.terminate()  # does nothing when it is through
            listener.join()
        samples.exit_code = process.returncode
    return samples


def _read_events(process: subprocess.Popen[str], samples: RunSamples, start: float) -> None:
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and "frames" in event:
            samples.progress.append((time.monotonic() - start, event))
        else:
            samples.result = event


def folder_mib(folder: Path) -> float:
    """Return the size of the files below a folder in MiB."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20


def video_minutes(samples: RunSamples, minutes: float) -> np.ndarray:
    """Return the minutes of video done at each sample, interpolated from progress lines."""
    wall = [0.0, *(second for second, _ in samples.progress), samples.wall[-1]]
    done = [0.0, *(event["share"] * minutes for _, event in samples.progress), minutes]
    return np.interp(samples.wall, wall, done)


def plot_memory(
    at: np.ndarray, rss: np.ndarray, fit: np.ndarray, half: float, *, path: Path
) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), dpi=120)
    axes.plot(at, rss, lw=1, label="resident memory")
    ends = np.array([half, at[-1]])
    axes.plot(ends, np.polyval(fit, ends), "--", label=f"second half: {fit[0]:+.2f} MiB a minute")
    axes.set(xlabel="minutes of video", ylabel="MiB", ylim=(0, 1.15 * rss.max()), xlim=(0, at[-1]))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="of video")
    parser.add_argument("--fps", type=float, default=5.0, help="frames a second that are analysed")
    args = parser.parse_args()
    table = Table(
        "memory",
        f"Memory over {args.minutes:g} minutes of 720p footage",
        f"`python benchmarks/memory.py --minutes {args.minutes:g} --fps {args.fps:g}`",
        [
            "minute of video",
            "resident memory, MiB",
            "wall time, s",
            "frames looked at",
            "faces",
            "tracks",
        ],
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = repeat(SAMPLE, folder / "long.mp4", round(60 * args.minutes / seconds_of(SAMPLE)))
        minutes, mib = seconds_of(film) / 60, film.stat().st_size / 2**20
        command = [
            sys.executable,
            "-m",
            "fasr_video",
            "run",
            str(film),
            "--out",
            str(folder / "case"),
        ]
        samples = sample_run([*command, "--fps", f"{args.fps:g}", "--json"])
        if samples.exit_code or not samples.result:
            raise SystemExit(f"the run ended with {samples.exit_code}: {samples.result}")
        case_size = folder_mib(folder / "case")
        pictures = folder_mib(folder / "case" / "crops")
    at, rss = video_minutes(samples, minutes), np.array(samples.rss)
    for minute in (m for m in MINUTES if m < minutes - 0.01):
        when = float(np.interp(minute, at, samples.wall))
        event = min(
            (t for _, t in samples.progress), key=lambda t: abs(t["share"] * minutes - minute)
        )
        row = [
            f"{np.interp(minute, at, rss):.0f}",
            f"{when:.0f}",
            event["frames"],
            event["faces"],
            event["tracks"],
        ]
        table.add_row([minute, *row])
    end = samples.result
    table.add_row(
        [
            f"{minutes:.1f} (end)",
            f"{rss[-1]:.0f}",
            f"{samples.wall[-1]:.0f}",
            end["frames"],
            end["faces"],
            end["tracks"],
        ]
    )
    table.add_row(["highest", f"{rss.max():.0f}", "", "", "", ""])
    # Between the middle and the last progress line: what comes after is the run winding up.
    later = (at >= minutes / 2) & (
        np.array(samples.wall) <= max((when for when, _ in samples.progress), default=np.inf)
    )
    fit = np.polyfit(at[later], rss[later], 1)
    plot_memory(at, rss, fit, minutes / 2, path=RESULTS / "memory.png")
    table.add_note("![Resident memory over minutes of video](memory.png)")
    table.add_note(
        "Growth over the second half, by a straight line up to the last progress line: "
        f"**{fit[0]:+.3f} MiB a minute of video**. The case folder holds {case_size:.1f} MiB, "
        f"{pictures:.1f} of them pictures of faces."
    )
    table.add_note(
        f"The film ({mib:.0f} MiB) is `{SAMPLE.name}` repeated: its packets with shifted times, "
        "without encoding. `fasr-video run` is a process of its own; its resident memory, with "
        f"that of the processes it started, is read from /proc every {SAMPLE_EVERY:.0f} s, and "
        "the minute of video from its progress lines, which come every 5 s (frames, faces and "
        "tracks in the table are those of the nearest one; tracks that are running count, too, "
        "before the end)."
    )
    table.write()


if __name__ == "__main__":
    main()
