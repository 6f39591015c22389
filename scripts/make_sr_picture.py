"""Draw the picture of a super-resolved still: `python scripts/make_sr_picture.py`.

The photograph is in the public domain.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from fasr_video.detection import open_detector
from fasr_video.pipeline.stills import read_still
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import shrink
from fasr_video.sr.restoration import as_image

ROOT = Path(__file__).parents[1]


def main() -> None:
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.5)
    photo = ROOT / "tests" / "fixtures" / "portraits" / "mugshots" / "eileen_collins.jpg"
    face = as_tensor([read_still(photo, detector).face])
    with tempfile.TemporaryDirectory() as folder:
        still = Path(folder) / "still.png"
        Image.fromarray(as_image(shrink(face, 16)[0])).save(still)
        command = [
            sys.executable,
            "-m",
            "fasr_video",
            "sr",
            str(still),
            "--samples",
            "3",
            "--out",
            folder,
        ]
        subprocess.run(command, check=True)
        (ROOT / "docs" / "images" / "sr.png").write_bytes(
            next(Path(folder).glob("still-*.sheet.png")).read_bytes()
        )


if __name__ == "__main__":
    main()
