"""Find where a case names gallery subjects, by their ids."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from fasr_video.case.store import CaseStore

_QUERIES = {
    "candidates": "SELECT 1 FROM candidate WHERE subject = :name",
    "decisions": "SELECT 1 FROM decision WHERE subject = :name",
    "the list of photographs": "SELECT 1 FROM gallery_photo WHERE subject = :name",
    "a reconstruction drawn from their photographs": (
        "SELECT 1 FROM restoration WHERE json_extract(provenance, '$.conditioned_on') = :name"
    ),
    "earlier searches or decisions (log)": "SELECT 1 FROM log WHERE instr(details, :quoted)",
}


def places_with_name(case: CaseStore, subjects: Collection[str]) -> Iterator[str]:
    """Yield a description of each part of the case that names any of these subjects."""
    parameters = [{"name": subject, "quoted": json.dumps(subject)} for subject in subjects]
    for description, query in _QUERIES.items():
        first = f"{query} LIMIT 1"
        if any(case.db.execute(first, values).fetchone() for values in parameters):
            yield description
