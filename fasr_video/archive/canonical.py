"""What a case holds, without what differs between two runs of the same footage and settings.

Left out are: the case's random id; times of day (when segments were saved, links decided, a review
made); how long the run took; the folders of the source and the gallery; and the log, whose lines
and chain contain times of day. Every other row of every table is included, and pictures by their
SHA-256, which is their name. So two runs are equal when these texts are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from fasr_video.case.case import Case

TABLES = (
    "meta",
    "source",
    "segment",
    "track",
    "face",
    "link",
    "probe",
    "encoding",
    "restoration",
    "answer",
    "candidate",
    "decision",
    "gallery_photo",
)
# By table, the columns to leave out; of `meta`, the keys. The table `log` is left out altogether.
LEFT_OUT = {
    "meta": {"case_id", "log_head"},
    "source": {"path", "seconds"},
    "segment": {"at"},
    "link": {"decided_at"},
    "decision": {"at", "undone_at"},
}


def dump(case: Case) -> str:
    """Return a line of JSON for each row, in the order of the tables and of their keys."""
    return "".join(f"{line}\n" for table in TABLES for line in _rows(case, table))


def digest(case: Case) -> str:
    return hashlib.sha256(dump(case).encode()).hexdigest()


def _rows(case: Case, table: str) -> Iterator[str]:
    left_out = LEFT_OUT.get(table, set())
    for row in case.table(table):
        values = {column: _plain(value) for column, value in row.items() if column not in left_out}
        if table == "meta" and values["key"] in left_out:
            continue
        if table == "meta" and values["key"] == "searched":
            values["value"] = _without_folder(values["value"])
        if table == "source":
            values["info"] = json.dumps(json.loads(values["info"]) | {"path": None}, sort_keys=True)
        yield json.dumps([table, values], sort_keys=True)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _without_folder(text: str) -> str:
    searched = json.loads(text)
    if searched is not None:
        searched["gallery"]["folder"] = None
    return json.dumps(searched, sort_keys=True)
