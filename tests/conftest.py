"""Footage that several tests share, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "sample_videos"


@pytest.fixture(scope="session")
def corridor() -> Path:
    """Two people crossing, 8 s at 1280×720."""
    return SAMPLES / "corridor.mp4"


@pytest.fixture(scope="session")
def entrance() -> Path:
    """One person coming nearer, 6 s at 640×480."""
    return SAMPLES / "entrance.mp4"
