"""Read the log of a case, which `CaseStore.log` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fasr_video.case.store import CaseStore, read_json


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A line of the log: a row of `log`."""

    id: int
    at: str
    event: str
    text: str
    """The details as JSON, exactly as they were hashed."""
    previous: str
    hash: str

    @property
    def details(self) -> dict[str, Any]:
        return read_json(self.text)


def entries(case: CaseStore, *events: str) -> list[LogEntry]:
    """Return all lines, or those of the given events, from the oldest to the newest."""
    chosen = f"WHERE event IN ({', '.join('?' * len(events))})" if events else ""
    return [
        LogEntry(*row) for row in case.db.execute(f"SELECT * FROM log {chosen} ORDER BY id", events)
    ]


def newest_entries(case: CaseStore, count: int, skip: int = 0) -> list[LogEntry]:
    """Return `count` lines, newest first, leaving out the newest `skip`."""
    query = "SELECT * FROM log ORDER BY id DESC LIMIT ? OFFSET ?"
    return [LogEntry(*row) for row in case.db.execute(query, (count, skip))]


def entry_count(case: CaseStore) -> int:
    """Return the number of lines."""
    return int(case.db.execute("SELECT count(*) FROM log").fetchone()[0])
