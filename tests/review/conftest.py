"""A case to review, its pages, and a visitor of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from flask import Flask

from fasr_video.review.app import make_app
from fasr_video.review.server import by_id
from tests.support.browser import PORT, TOKEN, Browser


@pytest.fixture
def folder(reviewed_case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reviewed_case, tmp_path / "case"))


@pytest.fixture
def app(folder: Path) -> Flask:
    return make_app(by_id([folder]), TOKEN, PORT)


@pytest.fixture
def browser(app: Flask) -> Browser:
    return Browser(app)
