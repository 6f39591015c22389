"""Footage that several tests share, made once a session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fasr_video.configs import settings as configs
from fasr_video.pipeline.run import run
from tests.support.denoisers import TWO_SAMPLES
from tests.support.paths import PORTRAITS

# Settings of `corridor_case`.
CORRIDOR_QUICK = ("sampling.fps=3", "track.min_sightings=2", "select.auxiliaries=3", *TWO_SAMPLES)


@pytest.fixture(scope="session")
def corridor() -> Path:
    """Two people crossing, 8 s at 1280×720."""
    return PORTRAITS / "corridor.mp4"


@pytest.fixture(scope="session")
def entrance() -> Path:
    """One person coming nearer, 6 s at 640×480."""
    return PORTRAITS / "entrance.mp4"


@pytest.fixture(scope="session")
def corridor_case(corridor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corridor as a whole case of two usable tracks; to be copied before it is changed."""
    out = tmp_path_factory.mktemp("corridor") / "case"
    run([corridor], out, configs.load("cpu", CORRIDOR_QUICK))
    return out


@pytest.fixture
def copied_case(corridor_case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corridor_case, tmp_path / "case"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small pictures are slower on several threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reviewed_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case of `tests.support.reviewed`; to be copied before it is changed."""
    from tests.support.reviewed import make_case

    return make_case(tmp_path_factory.mktemp("reviewed") / "case")
