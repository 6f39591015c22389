"""Draw the picture of a case's first clip: `python scripts/make_picture.py [CASE] [OUT]`.

Make the case with `make demo` first.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from fasr_video.case.case import Case
from fasr_video.case.document import tracks

ROOT = Path(__file__).parents[1]
COLUMNS = 8


def draw(folder: Path, out: Path) -> None:
    with Case.open(folder) as case:
        tracks_shown = [asdict(track) for track in tracks(case)]
    tracks_shown = [t for t in tracks_shown if t["source"] == tracks_shown[0]["source"]]
    end = max(t["end_seconds"] for t in tracks_shown)
    figure = plt.figure(figsize=(13, 0.5 + 2.2 * len(tracks_shown)), facecolor="white")
    grid = figure.add_gridspec(
        2 * len(tracks_shown),
        COLUMNS,
        height_ratios=[0.3, 2] * len(tracks_shown),
        hspace=0.35,
        wspace=0.08,
    )
    for i, track in enumerate(tracks_shown):
        _timeline(figure.add_subplot(grid[2 * i, :]), track, end)
        shown = track["shown"]
        pictures = [(shown["native"], "LR0, own pixels")]
        pictures.append((shown["aligned"], "LR0, canonical"))
        pictures += [
            (a["aligned"], f"LR{n}") for n, a in enumerate(track["auxiliaries"][: COLUMNS - 3], 1)
        ]
        if track["restoration"] is not None:
            pictures.append((track["restoration"]["picture"], "reconstruction, synthetic"))
        for column, (picture, label) in enumerate(pictures):
            axis = figure.add_subplot(grid[2 * i + 1, column])
            axis.imshow(Image.open(folder / picture), interpolation="nearest")
            axis.set_title(label, fontsize=8)
            axis.axis("off")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80, bbox_inches="tight")


def _timeline(axis: plt.Axes, track: dict[str, Any], end: float) -> None:
    start, stop = track["start_seconds"], track["end_seconds"]
    axis.barh(0, stop - start, left=start, color="#3b6ea5", height=0.6)
    for face in (track["shown"], *track["auxiliaries"]):
        axis.axvline(start + (stop - start) * _share(face, track), color="#f0a830", lw=2)
    axis.set_xlim(0, end)
    axis.set_ylim(-0.5, 0.5)
    axis.set_yticks([])
    axis.set_xticks([])
    text = (
        f"{track['name']} · {start:.2f}-{stop:.2f} s · {track['sightings']} detections · "
        f"{track['verdict']} · "
    )
    text += f"LR0: {track['shown']['quality']['eye_px']:.0f} px between the eyes"
    axis.set_title(f"{text} · {_answer(track)}", loc="left", fontsize=10)


def _answer(track: dict[str, Any]) -> str:
    answer = track["answer"]
    if answer is None or answer["verdict"] == "unknown":
        return "unknown"
    first = answer["joined"][0]
    return f"candidate {first['subject']} (a lead, log10 LR {first['log10_likelihood_ratio']:+.1f})"


def _share(face: dict[str, Any], track: dict[str, Any]) -> float:
    length = max(track["last_pts"] - track["first_pts"], 1)
    return float((face["pts"] - track["first_pts"]) / length)


if __name__ == "__main__":
    given = [Path(a) for a in sys.argv[1:]]
    draw(*(given + [ROOT / "cases" / "demo", ROOT / "docs" / "images" / "case.png"][len(given) :]))
