"""Is a case still what the run left? Every stored hash is computed again."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fasr_video.pipeline.case import Case, chain_hash
from fasr_video.pipeline.media import hash_folder, sha256_file
from fasr_video.pipeline.records import digest


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    checked: int
    problems: list[str]
    unchecked: list[str]
    """What could not be looked at: a source that is not where it was."""


def verify(case: Case) -> list[Check]:
    return [_database(case), _log(case), _found(case), _pictures(case), _sources(case)]


def _database(case: Case) -> Check:
    try:
        rows = [str(r[0]) for r in case.db.execute("PRAGMA integrity_check").fetchall()]
    except sqlite3.DatabaseError as error:
        rows = [str(error)]
    return Check("database", 1, [r for r in rows if r != "ok"], [])


def _log(case: Case) -> Check:
    problems = []
    previous = ""
    rows = case.db.execute("SELECT * FROM log ORDER BY id").fetchall()
    for row in rows:
        expected = chain_hash(previous, row["at"], row["event"], row["details"])
        if row["previous"] != previous or row["hash"] != expected:
            problems.append(f"log line {row['id']} ({row['event']}) was changed, or a line before it is missing")
        previous = row["hash"]
    created = next((json.loads(r["details"]) for r in rows if r["event"] == "created"), None)
    if created is None or created.get("settings") != json.loads(case.meta("settings")):
        problems.append("the settings are not those that the case was created with")
    return Check("log chain", len(rows), problems, [])


def _found(case: Case) -> Check:
    """Faces and tracks against the hash that the log holds."""
    problems = []
    said = {}
    for row in case.db.execute("SELECT details FROM log WHERE event = 'source done' ORDER BY id"):
        details = json.loads(row["details"])
        said[details.get("source")] = details.get("digest")
    for source in case.db.execute("SELECT id, path FROM source WHERE state = 'done'").fetchall():
        if digest(case, source["id"]) != said.get(source["id"]):
            problems.append(f"faces or tracks of {source['path']} were changed after the run")
    return Check("faces and tracks", len(said), problems, [])


def _pictures(case: Case) -> Check:
    problems = []
    query = "SELECT aligned FROM face WHERE aligned IS NOT NULL UNION SELECT native FROM face WHERE native IS NOT NULL"
    names = [str(r[0]) for r in case.db.execute(query).fetchall()]
    for name in names:
        path = case.picture_path(name)
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif sha256_file(path) != name:
            problems.append(f"{path} was changed")
    return Check("pictures", len(names), problems, [])


def _sources(case: Case) -> Check:
    problems, unchecked = [], []
    rows = case.db.execute("SELECT path, sha256, info FROM source").fetchall()
    for row in rows:
        path = Path(row["path"])
        if not path.exists():
            unchecked.append(f"{path} is not there")
        elif _hash_of(path) != row["sha256"]:
            problems.append(f"{path} is not the footage that was processed")
    return Check("sources", len(rows) - len(unchecked), problems, unchecked)


def _hash_of(path: Path) -> str:
    return hash_folder(path) if path.is_dir() else sha256_file(path)
