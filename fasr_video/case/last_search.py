"""What the last search of a case was made with, as the case stores it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fasr_video.case.store import CaseStore


@dataclass(frozen=True, slots=True)
class SearchedGallery:
    id: str
    generation: int
    state: str
    people: int
    templates: int
    folder: str
    """Absolute, or within the case's folder."""


@dataclass(frozen=True, slots=True)
class LastSearch:
    """All that the results of a search depend on."""

    gallery: SearchedGallery
    models: dict[str, object]
    settings: dict[str, Any]
    """The settings of the search as JSON."""
    calibration: str | None
    """SHA-256."""
    remarks: list[str]
    conditioned_on: dict[str, str]
    """By track the subject whose photographs its reconstruction is based on."""
    tracks: list[int]
    photographs: str
    """One hash over the gallery's photographs."""


def last_search(case: CaseStore) -> LastSearch | None:
    """Return what the last search was made with, or None before the first."""
    stored = json.loads(case.meta("searched"))
    if stored is None:
        return None
    return LastSearch(**{**stored, "gallery": SearchedGallery(**stored["gallery"])})


def save_last_search(case: CaseStore, search: LastSearch) -> None:
    """Store what a search was made with, within a transaction."""
    case.set_meta("searched", json.dumps(asdict(search)))
