"""What a case holds, without what differs by nature between two runs of the same footage with the same settings.

Left out are: the case's random id; times of day (when segments were made safe, links decided, a review made); seconds
of work; where the source and the gallery lay; and the log, whose lines carry times of day and whose chain follows from
them. All else, every row of every table, is here: two runs are equal when these texts are equal to the byte. Pictures
are in it by the SHA-256 of their bytes, which are their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from fasr_video.case.case import Case

TABLES = (
    *(
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
    ),
    *("decision", "gallery_photo"),
)
# Columns; of `meta`, keys. The table `log` is left out whole.
LEFT_OUT = {
    "meta": {"case_id", "log_head"},
    "source": {"path", "seconds"},
    "segment": {"at"},
    "link": {"decided_at"},
    "decision": {"at", "undone_at"},
}


def dump(case: Case) -> str:
    """A line of JSON a row, in the order of the tables and of their keys."""
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
    said = json.loads(text)
    if said is not None:
        said["gallery"]["folder"] = None
    return json.dumps(said, sort_keys=True)
