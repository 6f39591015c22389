"""Checks of each value in the database of a gallery; a gallery that fails one is not opened."""

from __future__ import annotations

import json

from fasr_video.schema import Row, are_texts, is_number

NUMBERS = {"generation", "purge", "length"}
# Most elements of a vector.
LONGEST = 65_536
QUERIES = {
    "a vector has another length than the gallery's": (
        "SELECT 1 FROM template"
        " WHERE length(vector) <> 4 * (SELECT value FROM meta WHERE key = 'length')"
        " OR length(sha256) <> 32 OR (kind = 'pooled') <> (image IS NULL)"
        " OR kind NOT IN ('single', 'pooled')"
    ),
    "a row of image has values that fasr-video does not write": (
        "SELECT 1 FROM image"
        " WHERE subject = '' OR (picture IS NULL) <> (picture_sha256 IS NULL) OR norm < 0"
    ),
}


def _meta(row: Row) -> bool:
    if row["key"] not in NUMBERS:
        return True
    return 0 <= int(row["value"]) <= (LONGEST if row["key"] == "length" else 2**63)


def _image(row: Row) -> bool:
    if row["landmarks"] is None:
        return True
    landmarks = json.loads(row["landmarks"])
    return len(landmarks) == 5 and all(
        len(point) == 2 and all(map(is_number, point)) for point in landmarks
    )


def _removal(row: Row) -> bool:
    return are_texts(json.loads(row["subjects"])) and are_texts(json.loads(row["images"]))


def _log(row: Row) -> bool:
    return isinstance(json.loads(row["details"]), dict)


TESTS = {"meta": _meta, "image": _image, "removal": _removal, "log": _log}
LARGE = frozenset({"image", "template"})
