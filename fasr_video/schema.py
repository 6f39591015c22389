"""Check that this program made a database: first its schema, then each value.

A database may come from anybody. A view may never end, a trigger may change what is written, and a
value that no version of this program writes may be misread. So the schema, before anything in it
runs, and all rows are checked when a database is opened; the code that reads the rows can then rely
on them.
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
from fasr_video.sqlite import READ_ERRORS, size_of

# Size in bytes above which large tables are checked only after a read in them failed.
LARGE_DATABASE = 64 * 2**20
HASH = re.compile(r"[0-9a-f]{64}")
_TYPES = {"INTEGER": "integer", "REAL": "real", "TEXT": "text", "BLOB": "blob"}
_MASTER = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"

# A row, or a JSON object in one, whose values nobody has checked yet.
Row = Mapping[str, Any]
# Returns False for a row that this program does not write, or raises one of READ_ERRORS.
Test = Callable[[Row], object]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a database of this program consists of."""

    schema: str
    """The statements that create it."""
    tests: Mapping[str, Test]
    """The tests of rows, by table."""
    queries: Mapping[str, str]
    """Queries that must find nothing, by the problem that a row means."""
    large: frozenset[str]
    """Tables that may hold millions of rows."""


def has_known_meta(database: sqlite3.Connection, shape: Shape) -> bool:
    """Return whether the table `meta`, which holds the version, is as this program creates it.

    Reading from anything else, such as a view, could run any code.
    """
    expected = next(row for row in _objects(shape.schema) if row[1] == "meta")
    rows = database.execute(f"{_MASTER.partition(' ORDER')[0]} WHERE name = 'meta'").fetchall()
    return [tuple(row) for row in rows] == [expected]


def check_schema(database: sqlite3.Connection, shape: Shape, path: Path) -> None:
    """Raise unless the database has exactly the tables, indexes and so on of its shape."""
    actual = {tuple(row) for row in database.execute(_MASTER).fetchall()}
    expected = set(_objects(shape.schema))
    _raise_for(actual - expected, "was added to or changed in", path)
    _raise_for(expected - actual, "is missing from", path)


def _raise_for(rows: set[tuple[Any, ...]], problem: str, path: Path) -> None:
    for kind, name, *_ in sorted(rows, key=str):
        reason = f"not a database that fasr-video made: {kind} {name} {problem} it"
        raise IntegrityError(path, reason, "restore it from a copy; nothing was written")


def check_values(database: sqlite3.Connection, shape: Shape, path: Path) -> None:
    """Raise where a value is not one that this program writes. Large tables may be left out."""
    state = tuple(_state(path.with_name(path.name + end)) for end in ("", "-wal"))
    if _checked.get(path) == state:
        return
    problem = find_problem(database, shape, with_large=size_of(path) <= LARGE_DATABASE)
    if problem is not None:
        reason = f"its database is damaged ({problem})"
        raise IntegrityError(path, reason, "restore it from a copy")
    _checked[path] = state


# Databases whose values were checked, and the state of their files at that time.
_checked: dict[Path, object] = {}


def find_problem(database: sqlite3.Connection, shape: Shape, with_large: bool = True) -> str | None:
    """Return what the first value is that this program does not write; None where there is none."""
    try:
        return _find_problem(database, shape, with_large)
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):  # locked, disk full, too slow: not damaged
            raise
        return " ".join(str(error).split())[:200]
    except READ_ERRORS as error:
        return " ".join(str(error).split())[:200]


def _find_problem(database: sqlite3.Connection, shape: Shape, with_large: bool) -> str | None:
    if with_large:
        result = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
        if result != "ok":
            return result
    tables = [name for kind, name, *_ in _objects(shape.schema) if kind == "table"]
    tables = [table for table in tables if with_large or table not in shape.large]
    for table in tables:
        problem = _find_wrong_type(database, shape.schema, table)
        if problem is not None:
            return problem
    for table in tables:
        if table in shape.tests:
            problem = _find_wrong_row(database, table, shape.tests[table])
            if problem is not None:
                return problem
    if with_large:
        for problem, query in shape.queries.items():
            if database.execute(f"{query} LIMIT 1").fetchone() is not None:
                return problem
    return None


def is_hash(value: object) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _find_wrong_type(database: sqlite3.Connection, schema: str, table: str) -> str | None:
    """Return the first column with a value of another type, an infinite number, or no value."""
    for name, declared, required in _columns(schema, table):
        wrong = f"typeof({name}) <> '{_TYPES[declared]}'"
        if declared == "REAL":
            wrong += f" OR abs({name}) > 1.7976931348623157e308"
        allowed = "" if required else f"{name} IS NOT NULL AND "
        query = f"SELECT 1 FROM {table} WHERE {allowed}({wrong}) LIMIT 1"
        if database.execute(query).fetchone() is not None:
            return f"{name} of a row of {table} is no {declared}"
    return None


def _find_wrong_row(database: sqlite3.Connection, table: str, test: Test) -> str | None:
    """Return the first row that does not pass a test, and why."""
    cursor = database.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    for row in cursor:
        try:
            if test(dict(zip(names, row, strict=True))) is not False:
                continue
            problem = "is not one that fasr-video writes"
        except READ_ERRORS as error:
            problem = f"cannot be read: {' '.join(str(error).split())[:80]}"
        key = " ".join(str(row[0]).split())[:40]
        return f"row {key} of {table} {problem}"
    return None


@lru_cache(maxsize=8)
def _objects(schema: str) -> tuple[tuple[Any, ...], ...]:
    """Return the rows of SQLite's own table for a database with this schema."""
    database = sqlite3.connect(":memory:")
    database.executescript(schema)
    rows = database.execute(_MASTER).fetchall()
    database.close()
    return tuple(rows)


@lru_cache(maxsize=64)
def _columns(schema: str, table: str) -> tuple[tuple[str, str, bool], ...]:
    """Return the name and type of each column, and whether it always has a value."""
    if table == "sqlite_sequence":
        return ()
    database = sqlite3.connect(":memory:")
    database.executescript(schema)
    rows = database.execute(f"PRAGMA table_info({table})").fetchall()
    database.close()
    return tuple((row[1], row[2], bool(row[3] or row[5])) for row in rows)


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
