"""Fill the tables of docs/scale.md from those of docs/results: the machines that cameras need.

    python benchmarks/scale_plan.py [--cameras 1 100 1000 10000] [--cores 64] [--days 30]
                                    [--people 100000]

Takes a second, because it measures nothing: archive.py, performance.py and scale.py write the pages
that it reads.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from results import RESULTS, format_markdown

PLAN = RESULTS.parent / "scale.md"
BEGIN = "<!-- {}: filled by benchmarks/scale_plan.py from docs/results -->"
END = "<!-- end of {} -->"
RATES = (25.0, 5.0, 1.0)  # frames a second that are analysed
# Share of a machine for restarts and days with crowds.
FREE = 0.2
VECTOR = 512 * 4 / 2**20  # MiB
Row = dict[str, str]


class NotMeasured(Exception):
    """A page, or a row of it, does not exist."""


def read_rows(page: str, column: str) -> list[Row]:
    """Return the rows of that page's first table that has the column."""
    path = RESULTS / f"{page}.md"
    if not path.is_file():
        raise NotMeasured(f"`results/{page}.md` (`python benchmarks/{page}.py`)")
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in path.read_text().splitlines()
    ]
    header = next((k for k, cells in enumerate(lines) if column in cells), None)
    if header is None:
        raise NotMeasured(f"*{column}* in `results/{page}.md` (`python benchmarks/{page}.py`)")
    found = []
    for cells in lines[header + 2 :]:
        if len(cells) != len(lines[header]):
            break
        found.append(dict(zip(lines[header], cells, strict=True)))
    return found


def parse_number(text: str) -> float:
    return float(text.replace(",", ""))


def growth_per_unit(page: str, column: str, by: str) -> float:
    """Return what one more of `by` adds, between the last two measured points."""
    points = [
        (parse_number(row[by]), parse_number(row[column]))
        for row in read_rows(page, by)
        if row[by] != "power"
    ]
    if len(points) < 2:
        raise NotMeasured(f"two points of *{column}* in `results/{page}.md`")
    (x1, y1), (x2, y2) = points[-2:]
    return (y2 - y1) / (x2 - x1)


def frame_rate(page: str) -> str:
    """Return the frames a second that the page's notes name."""
    text = (RESULTS / f"{page}.md").read_text()
    match = re.search(r"([\d.]+) frames a second (?:are )?(?:looked at|analysed)", text)
    if match is None:
        raise NotMeasured(f"the frames a second in `results/{page}.md`")
    return match[1]


def search_time(people: int) -> tuple[float, str]:
    """Return the seconds a track, and the measured number of people that is nearest to this one."""
    column = "64 tracks searched, s"
    measured = [row for row in read_rows("scale", column) if row["people"] != "power"]
    nearest = min(measured, key=lambda row: abs(parse_number(row["people"]) - people))
    return parse_number(nearest[column]) / 64, nearest["people"]


def archive_row() -> Row:
    """Return the archive's row of short files with one process, which has one thread."""
    for row in read_rows("archive", "footage s/s"):
        if (row["scheduler"], row["workers"]) == ("local", "1") and row["footage"].endswith(
            "files"
        ):
            return row
    raise NotMeasured("one local process in `results/archive.md`")


def plan_table(cameras: list[int], cores: int, days: float, people: int) -> str:
    """Return the table of machines and storage, for footage as in archive.md, all day long."""
    worker = archive_row()
    rate, mib = parse_number(worker["footage s/s"]), parse_number(worker["memory, MiB"])
    per_hour = {
        what: 60 * growth_per_unit("scale", what, "minutes of 720p")
        for what in ("case, MiB", "tracks")
    }
    seconds_per_track, gallery_size = search_time(people)
    gallery_mib = growth_per_unit("scale", "disk, MiB", "people") * people
    columns = ["cameras", "cores, always busy", f"machines of {cores} cores, a fifth free"]
    columns += ["workers a machine, at most", "their memory, GiB"]
    columns += [
        "cases a day, GiB",
        f"cases of {days:g} days, TiB",
        "tracks a day",
        "searching them, core hours a day",
    ]
    lines = []
    for count in cameras:
        busy = count / rate
        tracks, disk = 24 * count * per_hour["tracks"], 24 * count * per_hour["case, MiB"] / 1024
        workers = min(math.ceil(busy), int(cores * (1 - FREE)))
        memory = workers * (mib + people * VECTOR) / 1024
        cells = [busy, math.ceil(busy / workers), workers, memory, disk, disk * days / 1024, tracks]
        lines.append(
            [
                f"{count:,}",
                *map(format_number, cells),
                format_number(tracks * seconds_per_track / 3600),
            ]
        )
    return format_markdown(columns, lines) + (
        "\n"
        "\n"
        f"From {rate:g} s of footage a second and core and {mib:g} MiB a worker, "
        f"{frame_rate('archive')} frames a second analysed, two people always in view, "
        "reconstructions and the search of a small gallery included "
        f"([archive](results/archive.md)); {per_hour['case, MiB']:.3g} MiB and "
        f"{per_hour['tracks']:.3g} tracks an hour of footage at {frame_rate('scale')} frames a "
        "second (without reconstructions, which add some pictures of 128 px a track), and "
        f"{1000 * seconds_per_track:.3g} ms to search for a track among {gallery_size} people "
        f"([scale](results/scale.md)). A gallery of {people:,} people with one photograph each "
        f"takes {format_number(gallery_mib / 1024)} GiB on the disk, store and index, and "
        f"{format_number(people * VECTOR / 1024)} GiB of a worker's memory for its vectors, "
        "exactly compared (an approximate index is mapped, and shared); searching grows with it."
    )


def core_table() -> str:
    page = (
        (RESULTS / "performance.md").read_text() if (RESULTS / "performance.md").is_file() else ""
    )
    measured = read_rows("performance", "whole, ms a frame")
    cores = re.search(r"(\d+) cores", page)
    if cores is None:
        raise NotMeasured("the cores in `results/performance.md`")
    lines = []
    for row in measured:
        seconds = int(cores[1]) * parse_number(row["whole, ms a frame"]) / 1000
        lines.append(
            [row["size"], row["faces"], row["engine"], *(f"{rate * seconds:.2f}" for rate in RATES)]
        )
    columns = [
        "size",
        "faces a frame",
        "engine",
        *(f"cores at {rate:g} frames/s" for rate in RATES),
    ]
    return format_markdown(columns, lines) + (
        "\n"
        "\n"
        "From [performance](results/performance.md): milliseconds a frame on all of its "
        f"{cores[1]} cores, times these, times frames a second. Not in it: decoding frames that "
        "are not analysed, which sets the floor at few frames a second, super-resolution (a "
        "track, not a frame: column *after* there) and searching."
    )


def format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def fill_section(name: str, text: str) -> None:
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = PLAN.read_text().split(begin)
    PLAN.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 100, 1_000, 10_000])
    parser.add_argument("--cores", type=int, default=64, help="of one machine")
    parser.add_argument("--days", type=float, default=30.0, help="that cases are kept")
    parser.add_argument("--people", type=int, default=100_000, help="in the gallery")
    args = parser.parse_args()
    tables = {
        "plan": lambda: plan_table(args.cameras, args.cores, args.days, args.people),
        "cores": core_table,
    }
    for name, make in tables.items():
        try:
            text = make()
        except NotMeasured as missing:
            text = f"Not measured yet: {missing} is missing."
        fill_section(name, text)
        print(text)
    print(f"written: {Path(PLAN)}")


if __name__ == "__main__":
    main()
