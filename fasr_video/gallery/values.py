"""What each value of a gallery may be: all that its readers rely on. A gallery with any other is not opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fasr_video.schema import are_texts, is_number

NUMBERS = {"generation", "purge", "length"}
# Numbers of a vector.
LONGEST = 65_536
QUERIES = {
    "a vector has another length than the gallery's": (
        "SELECT 1 FROM template WHERE length(vector) <> 4 * (SELECT value FROM meta WHERE key = 'length')"
        " OR length(sha256) <> 32 OR (kind = 'pooled') <> (image IS NULL) OR kind NOT IN ('single', 'pooled')"
    ),
    "a photograph is none that fasr-video writes": (
        "SELECT 1 FROM image WHERE subject = '' OR (picture IS NULL) <> (picture_sha256 IS NULL) OR norm < 0"
    ),
}


def _meta(row: Mapping[str, Any]) -> bool:
    if row["key"] not in NUMBERS:
        return True
    return 0 <= int(row["value"]) <= (LONGEST if row["key"] == "length" else 2**63)


def _image(row: Mapping[str, Any]) -> bool:
    landmarks = [] if row["landmarks"] is None else json.loads(row["landmarks"])
    return row["landmarks"] is None or (
        len(landmarks) == 5 and all(len(p) == 2 and all(map(is_number, p)) for p in landmarks)
    )


def _removal(row: Mapping[str, Any]) -> bool:
    return are_texts(json.loads(row["subjects"])) and are_texts(json.loads(row["images"]))


def _log(row: Mapping[str, Any]) -> bool:
    return isinstance(json.loads(row["details"]), dict)


TESTS = {"meta": _meta, "image": _image, "removal": _removal, "log": _log}
LARGE = frozenset({"image", "template"})
