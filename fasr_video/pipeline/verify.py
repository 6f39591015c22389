"""Is a case still what the run left? Every stored hash is computed again."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasr_video.errors import IntegrityError
from fasr_video.files import sha256_file
from fasr_video.gallery.inspect import check as check_gallery
from fasr_video.gallery.store import DATABASE, Gallery
from fasr_video.pipeline import decisions
from fasr_video.pipeline.case import Case, chain_hash
from fasr_video.pipeline.media import hash_folder
from fasr_video.pipeline.probes import digest as probes_digest
from fasr_video.pipeline.records import digest, looked
from fasr_video.pipeline.search import GALLERY
from fasr_video.pipeline.search import digest as answers_digest
from fasr_video.storage import MISREAD
from fasr_video.vault import given_key

SIGNED_OFF = "signed-off"
"""In the case: the reports that reviewers signed off."""


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    checked: int
    problems: list[str]
    unchecked: list[str]
    """What could not be looked at: a source that is not where it was."""
    notes: tuple[str, ...] = ()
    """What is to be said of what was found in order."""


def verify(case: Case) -> list[Check]:
    checks = []
    for check in (_database, _log, _found, _probes, _answers, _decided, _signed_off, _pictures, _sources):
        try:
            checks.append(check(case))
        except MISREAD as error:
            checks.append(Check(check.__name__.strip("_"), 0, [f"the database is damaged ({_said(error)})"], []))
    return checks


def damage(case: Case) -> str | None:
    """The first thing in its database that is not what the run left; None when nothing speaks against it."""
    for check in (_database, _log, _found, _probes, _answers, _decided):
        try:
            problems = check(case).problems
        except MISREAD as error:
            problems = [_said(error)]
        if problems:
            return problems[0]
    return None


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


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
    said = [json.loads(r["details"]).get("settings") for r in rows if r["event"] in {"created", "stage redone"}]
    if not said or said[-1] != json.loads(case.meta("settings")):
        problems.append("the settings are not those that the case was created with, or a stage redone with")
    created = [json.loads(r["details"]).get("encryption") for r in rows if r["event"] == "created"]
    if created != [case.encryption]:
        problems.append("what is said of its encryption is not what the case was created with")
    if previous != case.meta("log_head"):
        problems.append("the end of the log is missing")
    problems += _against_log(case, rows)
    return Check("log chain", len(rows), problems, [])


def _against_log(case: Case, log: list[sqlite3.Row]) -> list[str]:
    """What the log says of sources and of decisions on links, against the tables."""
    problems = []
    events = [(row["event"], json.loads(row["details"])) for row in log]
    added = {d.get("source"): d for event, d in events if event == "source added"}
    placed = {d.get("source"): (d.get("camera"), d.get("clock")) for event, d in events if event == "camera and clock"}
    for row in case.db.execute("SELECT * FROM source").fetchall():
        clock = None if row["clock"] is None else json.loads(row["clock"])
        if placed.get(row["id"], (None, None)) != (row["camera"], clock):
            problems.append(f"camera or clock of {row['path']} is not what the log says")
        said = added.get(row["id"], {})
        if any(said.get(k) != v for k, v in (("sha256", row["sha256"]), ("info", json.loads(row["info"])))):
            problems.append(f"what is known of {row['path']} was changed")
        if said.get("detector") != json.loads(row["detector"]):
            problems.append(f"the detector of {row['path']} is not the one that was used")
    decided = {d.get("link"): d for event, d in events if event == "link decided"}
    links = {row["id"]: row for row in case.db.execute("SELECT * FROM link").fetchall()}
    for number in sorted(links.keys() | {n for n, said in decided.items() if said["to"] != "proposed"}):
        if not _link_stands(links.get(number), decided.get(number)):
            problems.append(f"link {number} is not as it was decided")
    return problems


def _link_stands(row: sqlite3.Row | None, said: dict[str, Any] | None) -> bool:
    """Whether a link is as the last decision on it left it."""
    if row is None:
        return False
    if said is None:
        return bool(row["state"] == "proposed")
    decided_by = None if said["to"] == "proposed" else said["by"]
    known = (row["state"], row["decided_by"], [row["a"], row["b"]])
    return known == (said["to"], decided_by, said["tracks"])


def _found(case: Case) -> Check:
    """Faces and tracks against the hash that the log holds."""
    problems = []
    said, counted = {}, {}
    for row in case.db.execute("SELECT details FROM log WHERE event = 'source done' ORDER BY id"):
        details = json.loads(row["details"])
        said[details.get("source")] = details.get("digest")
        counted[details.get("source")] = details.get("looked")
    for source in case.db.execute("SELECT id, path FROM source WHERE state = 'done'").fetchall():
        if digest(case, source["id"]) != said.get(source["id"]):
            problems.append(f"faces or tracks of {source['path']} were changed after the run")
        if (counts := counted.get(source["id"])) is not None and counts != looked(case, source["id"]):
            problems.append(f"how much of {source['path']} was looked at was changed after the run")
    return Check("faces and tracks", len(said), problems, [])


def _probes(case: Case) -> Check:
    """Probes and reconstructions against the hashes that the log holds."""
    said: dict[int, str] = {}
    for row in case.db.execute("SELECT details FROM log WHERE event = 'probed' ORDER BY id"):
        said |= {int(track): digest for track, digest in json.loads(row["details"])["digests"].items()}
    made = "SELECT track FROM probed UNION SELECT track FROM probe UNION SELECT track FROM restoration"
    there = {int(row["track"]) for row in case.db.execute(made)}
    bad = sorted(track for track in said.keys() | there if said.get(track) != probes_digest(case, track))
    problems = [f"probes or reconstruction of track {track} were changed after the run" for track in bad]
    return Check("probes and reconstructions", len(said), problems, [])


def _answers(case: Case) -> Check:
    """Candidates against the hash that the log holds, and the case's own gallery against its own."""
    row = case.db.execute("SELECT details FROM log WHERE event = 'searched' ORDER BY id DESC LIMIT 1").fetchone()
    said = None if row is None else json.loads(row["details"])
    digest = None
    if said is not None:
        digest = said.pop("digest")
        del said["index_made_anew"]
        said.pop("leads", None)  # cases of before have none
    problems = []
    if case.searched() != said:
        problems.append("what was searched for is not what the log says")
    if digest is not None and digest != answers_digest(case):
        problems.append("candidates, or the list of photographs, were changed after the run")
    if (case.folder / GALLERY / DATABASE).is_file():
        with Gallery.open(case.folder / GALLERY, read_only=True) as gallery:
            problems += [f"gallery: {p}" for c in check_gallery(gallery) for p in c.problems]
    return Check("candidates", int(said is not None), problems, [])


def _decided(case: Case) -> Check:
    """What reviewers decided against the hash that the log holds."""
    count = case.db.execute("SELECT count(*) FROM decision").fetchone()[0]
    return Check("decisions", count, decisions.problems(case), [])


def _signed_off(case: Case) -> Check:
    """Signed-off reports that are still in the case against the hashes that the log holds."""
    problems, unchecked, checked = [], [], 0
    for row in case.db.execute("SELECT details FROM log WHERE event = 'signed off' ORDER BY id").fetchall():
        for name, sha256 in json.loads(row["details"])["files"].items():
            path = case.folder / SIGNED_OFF / name
            if not path.is_file():
                unchecked.append(f"{path} is not there")
                continue
            checked += 1
            if sha256_file(path) != sha256:
                problems.append(f"{path} was changed")
    return Check("signed-off reports", checked, problems, unchecked)


def _pictures(case: Case) -> Check:
    problems = []
    names = sorted(set(case.picture_names()))
    readable = case.encryption is None or given_key() is not None
    for name in names:
        path = case.picture_path(name)
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif readable and _was_changed(case, name):
            problems.append(f"{path} was changed")
    unchecked = [] if readable else [f"{len(names)} pictures are encrypted, and no key was given"]
    return Check("pictures", len(names) if readable else 0, problems, unchecked)


def _was_changed(case: Case, name: str) -> bool:
    try:
        case.picture_bytes(name)
    except IntegrityError:
        return True
    return False


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
