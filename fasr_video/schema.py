"""Is a database the one that we made? First what it consists of, before anything in it runs; then each value in it.

It may come from anybody. A view may never end, a trigger may change what is written, and a value that no version of
ours writes may be read as anything. So whoever opens one compares its schema with ours, and looks at all rows at once;
what reads them then can rely on it.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fasr_video.errors import IntegrityError
from fasr_video.sqlite import MISREAD, size_of

# Bytes of a database whose large tables are looked at when something in them cannot be read, and
# not before.
LARGE = 64 * 2**20
HASH = re.compile(r"[0-9a-f]{64}")
_KINDS = {"INTEGER": "integer", "REAL": "real", "TEXT": "text", "BLOB": "blob"}
_MASTER = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"

# Of a row: False, or any of MISREAD, where it is none that we write.
Test = Callable[[Mapping[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a database of ours is made of."""

    schema: str
    """The statements that make it."""
    tests: Mapping[str, Test]
    """For rows of these tables."""
    queries: Mapping[str, str]
    """Each finds what must not be, said by its key."""
    large: frozenset[str]
    """Tables that may hold millions of rows."""


def has_our_meta(database: sqlite3.Connection, shape: Shape) -> bool:
    """Whether its table `meta`, which says what version made it, is one: asking anything else could run anything."""
    ours = next(row for row in _parts(shape.schema) if row[1] == "meta")
    found = database.execute(f"{_MASTER.partition(' ORDER')[0]} WHERE name = 'meta'").fetchall()
    return [tuple(row) for row in found] == [ours]


def refuse_others(database: sqlite3.Connection, shape: Shape, place: Path) -> None:
    """Raise unless it consists of what we make, of nothing more and nothing less."""
    found, ours = (
        {tuple(row) for row in database.execute(_MASTER).fetchall()},
        set(_parts(shape.schema)),
    )
    for what, rows in (
        ("was added to or changed in", found - ours),
        ("is missing from", ours - found),
    ):
        for kind, name, *_ in sorted(rows, key=str):
            reason = f"not a database that fasr-video made: {kind} {name} {what} it"
            raise IntegrityError(place, reason, "restore it from a copy; nothing was written")


def refuse_values(database: sqlite3.Connection, shape: Shape, place: Path) -> None:
    """Raise where a value is none that we write; of a large database, in its small tables."""
    state = tuple(_state(place.with_name(place.name + end)) for end in ("", "-wal"))
    if _seen.get(place) == state:
        return
    problem = misfit(database, shape, with_large=size_of(place) <= LARGE)
    if problem is not None:
        raise IntegrityError(
            place, f"its database is damaged ({problem})", "restore it from a copy"
        )
    _seen[place] = state


# Databases whose values were looked at, as they were then.
_seen: dict[Path, object] = {}


def misfit(database: sqlite3.Connection, shape: Shape, with_large: bool = True) -> str | None:
    """Say what the first value is that no version of ours writes; None where all are."""
    tables = [name for kind, name, *_ in _parts(shape.schema) if kind == "table"]
    small = [table for table in tables if with_large or table not in shape.large]
    try:
        if (
            with_large
            and (said := str(database.execute("PRAGMA quick_check(1)").fetchone()[0])) != "ok"
        ):
            return said
        for table in small:
            if (bad := _of_wrong_type(database, shape.schema, table)) is not None:
                return bad
        for table in (t for t in small if t in shape.tests):
            if (bad := _first_misfit(database, table, shape.tests[table])) is not None:
                return bad
        for what, query in shape.queries.items():
            if with_large and database.execute(f"{query} LIMIT 1").fetchone() is not None:
                return what
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):  # locked, no space, no end: not what is in it
            raise
        return " ".join(str(error).split())[:200]
    except MISREAD as error:
        return " ".join(str(error).split())[:200]
    return None


def is_hash(value: object) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _of_wrong_type(database: sqlite3.Connection, schema: str, table: str) -> str | None:
    """The first column that holds what does not belong there: text for a number, no number, nothing."""
    for name, kind, required in _columns(schema, table):
        wrong = f"typeof({name}) <> '{_KINDS[kind]}'"
        wrong += f" OR abs({name}) > 1.7976931348623157e308" if kind == "REAL" else ""
        allowed = "" if required else f"{name} IS NOT NULL AND "
        if (
            database.execute(f"SELECT 1 FROM {table} WHERE {allowed}({wrong}) LIMIT 1").fetchone()
            is not None
        ):
            return f"{name} of a row of {table} is no {kind}"
    return None


def _first_misfit(database: sqlite3.Connection, table: str, test: Test) -> str | None:
    cursor = database.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    for row in cursor:
        known = dict(zip(names, row, strict=True))
        try:
            fits, why = test(known), "is not one that fasr-video writes"
        except MISREAD as error:
            fits, why = False, f"cannot be read: {' '.join(str(error).split())[:80]}"
        if fits is False:
            key = " ".join(str(row[0]).split())[:40]
            return f"row {key} of {table} {why}"
    return None


@lru_cache(maxsize=8)
def _parts(schema: str) -> tuple[tuple[Any, ...], ...]:
    made = sqlite3.connect(":memory:")
    made.executescript(schema)
    found = made.execute(_MASTER).fetchall()
    made.close()
    return tuple(found)


@lru_cache(maxsize=64)
def _columns(schema: str, table: str) -> tuple[tuple[str, str, bool], ...]:
    """Name, type, and whether there is always a value."""
    if table == "sqlite_sequence":
        return ()
    made = sqlite3.connect(":memory:")
    made.executescript(schema)
    found = made.execute(f"PRAGMA table_info({table})").fetchall()
    made.close()
    return tuple((row[1], row[2], bool(row[3] or row[5])) for row in found)


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
