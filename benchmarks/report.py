"""The report of a large case: how long it takes to write, how large it is, and how soon a browser
shows it.

python benchmarks/report.py [--tracks 500]

The case is made through the real store, with pictures that compress as faces do; there is no
footage behind it. Beside the report's pages stands the plain way, one page that holds all of it
(what the PDF is made of). Chromium opens each from the disk in a fresh context, five times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import sync_playwright
from results import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from fasr_video.case.case import Case
from fasr_video.report import pages, pictures
from fasr_video.report.document import as_report
from fasr_video.report.photographs import photographs
from fasr_video.report.write import write_report
from tests.support.cases import make_synthetic_case
from tests.support.chromium import ARGUMENTS, CHROMIUM, DESKTOP

TIMES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=500)
    args = parser.parse_args()
    columns = ("what is opened", "MB", "written in", "opens in Chromium", "slowest of 5")
    table = Table(
        "report", f"The report of {args.tracks} tracks", "`python benchmarks/report.py`", columns
    )
    with tempfile.TemporaryDirectory() as temporary:
        case = make_synthetic_case(Path(temporary) / "case", args.tracks, auxiliaries=8)
        start = time.monotonic()
        report = write_report(case)
        written = time.monotonic() - start
        start = time.monotonic()
        plain = _write_single_page(case)
        plain_written = time.monotonic() - start
        whole = sum(p.stat().st_size for p in report.iterdir())
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
            for name, path, seconds in (
                (
                    "index.html",
                    report / "index.html",
                    f"{written:.1f} s with all pages, JSON and CSV",
                ),
                ("a track's page", report / "T1.html", f"{written / args.tracks:.3f} s"),
                ("one page with everything", plain, f"{plain_written:.1f} s"),
            ):
                seconds_to_open = [_measure_opening(browser, path) for _ in range(TIMES)]
                cells = (
                    f"{path.stat().st_size / 1e6:.1f}",
                    seconds,
                    f"{median(seconds_to_open):.2f} s",
                    f"{max(seconds_to_open):.2f} s",
                )
                table.add_row([name, *cells])
            browser.close()
    table.add_note(
        f"The whole report: {whole / 1e6:.0f} MB in {args.tracks + 4} files. Opened: until the "
        "page's load event."
    )
    table.write()


def _write_single_page(folder: Path) -> Path:
    path = folder / "all.html"
    with Case.open(folder, read_only=True) as case:
        report = as_report(case)
        thumbnails = {
            t.name: pages.thumbnail_of(t, pictures.of_track(case, t)) for t in report.tracks
        }
        with photographs(case, report.searched, True) as people:
            path.write_text(
                pages.print_document(report, case, thumbnails, people), encoding="utf-8"
            )
    return path


def _measure_opening(browser: Any, path: Path) -> float:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    start = time.monotonic()
    page.goto(path.as_uri(), wait_until="load", timeout=120_000)
    seconds = time.monotonic() - start
    context.close()
    return seconds


if __name__ == "__main__":
    main()
