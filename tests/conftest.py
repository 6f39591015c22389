"""Footage that several tests share, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

PORTRAITS = Path(__file__).parent / "fixtures" / "portraits"
"""Two people of public-domain photographs: mugshots, and clips made of the same photographs (see its README)."""


@pytest.fixture(scope="session")
def corridor() -> Path:
    """Two people crossing, 8 s at 1280×720."""
    return PORTRAITS / "corridor.mp4"


@pytest.fixture(scope="session")
def entrance() -> Path:
    """One person coming nearer, 6 s at 640×480."""
    return PORTRAITS / "entrance.mp4"
