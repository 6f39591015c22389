"""Draw the picture of a track's page: `python scripts/make_report_picture.py [CASE]`.

Make the case with `make demo` first.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, sync_playwright

from fasr_video.report.write import write_report

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    case = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "cases" / "demo"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        write_report(case, Path(folder), ("html",))
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto((Path(folder) / "T1.html").as_uri())
        end = page.locator("section.synthetic").bounding_box()
        assert end is not None
        clip: FloatRect = {"x": 0, "y": 0, "width": 1180, "height": end["y"] + end["height"] + 24}
        shot = page.screenshot(full_page=True, clip=clip)
        browser.close()
    # Few colours are enough for a picture of a page, and a third of the bytes.
    quantised = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    quantised.save(ROOT / "docs" / "images" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
