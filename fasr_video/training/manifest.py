"""The manifest of trained weights: what they were made from, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fasr_video import __version__
from fasr_video.files import atomic_write_text, sha256_file
from fasr_video.training.loop import Plan

LICENCE = (
    "follows the faces and labels it was trained on: "
    "name them, and their terms, beside these weights"
)
Provenance = Mapping[str, object]


def describe(
    faces: int, people: int, files: Mapping[str, Path | None], recipe: Any, *, plan: Plan
) -> dict[str, object]:
    """Return what a run depends on; `files` are replaced by their SHA-256."""
    hashes = {name: "" if file is None else sha256_file(file) for name, file in files.items()}
    return {
        "version": __version__,
        "licence": LICENCE,
        "faces": faces,
        "people": people,
        **hashes,
        "recipe": asdict(recipe),
        "plan": asdict(plan),
    }


def write_manifest(weights: Path, step: int, provenance: Provenance) -> None:
    """Write manifest.json into the folder of the weights."""
    content = {"file": weights.name, "sha256": sha256_file(weights), "step": step, **provenance}
    text = json.dumps(content, indent=2)
    atomic_write_text(weights.with_name("manifest.json"), text)
