"""Where the repository and the files of the tests are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_videos"
FIXTURES = ROOT / "tests" / "fixtures"
# Two people of public-domain photographs: mugshots, and clips made of the same photographs (see its
# README).
PORTRAITS = FIXTURES / "portraits"
MUGSHOTS = PORTRAITS / "mugshots"
