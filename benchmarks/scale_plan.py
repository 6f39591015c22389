"""Fills the tables of docs/scale.md from those of docs/results: how many machines so many cameras need.

python benchmarks/scale_plan.py [--cameras 1 100 1000 10000] [--cores 64] [--days 30] [--people 100000]

Takes a second: it measures nothing. archive.py, performance.py and scale.py write what it reads.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from results import RESULTS, markdown

PLAN = RESULTS.parent / "scale.md"
BEGIN = "<!-- {}: filled by benchmarks/scale_plan.py from docs/results -->"
END = "<!-- end of {} -->"
SECONDS_A_DAY = 86_400
RATES = (25.0, 5.0, 1.0)  # frames a second that are looked at
Row = dict[str, str]


class NotMeasured(Exception):
    """A page, or a row of it, is not there."""


def rows(page: str, column: str) -> list[Row]:
    """The rows of that page's first table that has the column."""
    path = RESULTS / f"{page}.md"
    if not path.is_file():
        raise NotMeasured(f"`results/{page}.md` (`python benchmarks/{page}.py`)")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in path.read_text().splitlines()]
    header = next((k for k, cells in enumerate(lines) if column in cells), None)
    if header is None:
        raise NotMeasured(f"*{column}* in `results/{page}.md` (`python benchmarks/{page}.py`)")
    found = []
    for cells in lines[header + 2 :]:
        if len(cells) != len(lines[header]):
            break
        found.append(dict(zip(lines[header], cells, strict=True)))
    return found


def number(text: str) -> float:
    return float(text.replace(",", ""))


def growth(page: str, column: str, by: str) -> float:
    """What one more of `by` adds, between the last two measured points."""
    points = [(number(row[by]), number(row[column])) for row in rows(page, by) if row[by] != "power"]
    if len(points) < 2:
        raise NotMeasured(f"two points of *{column}* in `results/{page}.md`")
    (x1, y1), (x2, y2) = points[-2:]
    return (y2 - y1) / (x2 - x1)


def one_worker() -> Row:
    """The line of the archive in short files with one process, which has one thread for it."""
    for row in rows("archive", "footage s/s"):
        if (row["scheduler"], row["workers"]) == ("local", "1") and row["footage"].endswith("files"):
            return row
    raise NotMeasured("one local process in `results/archive.md`")


def plan(cameras: list[int], cores: int, days: float, people: int) -> str:
    """Footage as in archive.md, all day long."""
    worker = one_worker()
    rate, mib = number(worker["footage s/s"]), number(worker["memory, MiB"])
    an_hour = {what: 60 * growth("scale", what, "minutes of 720p") for what in ("case, MiB", "tracks")}
    searched = rows("scale", "search, ms a track")
    a_track = number([row for row in searched if row["tracks"] != "power"][-1]["search, ms a track"]) / 1000
    held = growth("scale", "disk, MiB", "people") * people
    columns = ["cameras", "cores, always busy", f"machines of {cores} cores", "memory a machine, GiB"]
    columns += ["cases a day, GiB", f"cases of {days:g} days, TiB", "tracks a day", "searching them, core hours a day"]
    lines = []
    for count in cameras:
        busy = count / rate
        tracks, disk = 24 * count * an_hour["tracks"], 24 * count * an_hour["case, MiB"] / 1024
        cells = [busy, math.ceil(busy / cores), min(busy, cores) * mib / 1024, disk, disk * days / 1024, tracks]
        lines.append([f"{count:,}", *map(short, cells), short(tracks * a_track / 3600)])
    return markdown(columns, lines) + (
        f"\n\nFrom {rate:g} s of footage a second and core and {mib:g} MiB a worker "
        f"([archive](results/archive.md)); {an_hour['case, MiB']:.3g} MiB and {an_hour['tracks']:.3g} tracks an hour "
        "of footage (without reconstructions, which add some pictures of 128 px a track) and "
        f"{1000 * a_track:.3g} ms to search for a track ([scale](results/scale.md)). A gallery of {people:,} people "
        f"with one photograph each takes {short(held / 1024)} GiB, store and index; searching grows "
        "with it."
    )


def cores_a_camera() -> str:
    page = (RESULTS / "performance.md").read_text() if (RESULTS / "performance.md").is_file() else ""
    measured = rows("performance", "whole, ms a frame")
    cores = re.search(r"(\d+) cores", page)
    if cores is None:
        raise NotMeasured("the cores in `results/performance.md`")
    lines = []
    for row in measured:
        seconds = int(cores[1]) * number(row["whole, ms a frame"]) / 1000
        lines.append([row["size"], row["faces"], row["engine"], *(f"{rate * seconds:.2f}" for rate in RATES)])
    columns = ["size", "faces a frame", "engine", *(f"cores at {rate:g} frames/s" for rate in RATES)]
    return markdown(columns, lines) + (
        f"\n\nFrom [performance](results/performance.md): milliseconds a frame on all of its {cores[1]} cores, times "
        "these, times frames a second. Decoding what is not looked at is not in it: it sets the floor at few frames a "
        "second."
    )


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def fill(name: str, text: str) -> None:
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = PLAN.read_text().split(begin)
    PLAN.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 100, 1_000, 10_000])
    parser.add_argument("--cores", type=int, default=64, help="of one machine")
    parser.add_argument("--days", type=float, default=30.0, help="that cases are kept")
    parser.add_argument("--people", type=int, default=100_000, help="in the gallery")
    args = parser.parse_args()
    tables = {
        "plan": lambda: plan(args.cameras, args.cores, args.days, args.people),
        "cores": cores_a_camera,
    }
    for name, make in tables.items():
        try:
            text = make()
        except NotMeasured as missing:
            text = f"Not measured yet: {missing} is missing."
        fill(name, text)
        print(text)
    print(f"written: {Path(PLAN)}")


if __name__ == "__main__":
    main()
