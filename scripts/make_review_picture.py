"""Draw the picture of a review: `python scripts/make_review_picture.py [CASE]`.

Make the case with `make demo` first.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from fasr_video.case.case import Case

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"


@contextmanager
def running_server(case: Path) -> Iterator[str]:
    """Yield the address that `fasr-video serve` prints."""
    command = [sys.executable, "-m", "fasr_video", "serve", str(case)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("open ").strip()
        finally:
            process.send_signal(signal.SIGINT)


def main() -> None:
    case_folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "cases" / "demo"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        case = Path(shutil.copytree(case_folder, Path(folder) / "demo"))
        with Case.open(case, read_only=True) as opened:
            name = opened.meta("case_id")
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        with running_server(case) as address:
            page = browser.new_page(viewport={"width": 1180, "height": 900})
            page.goto(address)
            page.goto(f"{address.split('/?')[0]}/case/{name}/track/T1")
            shot = page.screenshot(full_page=True)
        browser.close()
    # Few colours are enough for a picture of a page, and a third of the bytes.
    quantised = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    quantised.save(ROOT / "docs" / "images" / "review.png", optimize=True)


if __name__ == "__main__":
    main()
