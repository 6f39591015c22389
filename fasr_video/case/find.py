"""Where in a case somebody is named, by the id that a gallery has them under."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from fasr_video.case.store import CaseStore

_PLACES = {
    "candidates": "SELECT 1 FROM candidate WHERE subject = :name",
    "decisions": "SELECT 1 FROM decision WHERE subject = :name",
    "the list of photographs": "SELECT 1 FROM gallery_photo WHERE subject = :name",
    "a reconstruction drawn from their photographs": (
        "SELECT 1 FROM restoration WHERE json_extract(provenance, '$.conditioned_on') = :name"
    ),
    "earlier searches or decisions (log)": "SELECT 1 FROM log WHERE instr(details, :quoted)",
}


def places_with_name(case: CaseStore, subjects: Collection[str]) -> Iterator[str]:
    """Say, place by place, where the case names any of these subjects."""
    asked = [{"name": subject, "quoted": json.dumps(subject)} for subject in subjects]
    for place, query in _PLACES.items():
        if any(case.db.execute(f"{query} LIMIT 1", values).fetchone() for values in asked):
            yield place
