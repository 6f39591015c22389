"""Hooks of mkdocs, for a site whose pages open from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_post_build(config: Any) -> None:
    """Remove 404.html. Its links begin at the root of a server, and a folder has none."""
    Path(config["site_dir"], "404.html").unlink(missing_ok=True)
