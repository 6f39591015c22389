"""Is a case still what the run left? Every stored hash is computed again."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from fasr_video.case import replay
from fasr_video.case.results import digest as probes_digest
from fasr_video.case.sources import digest, looked, rows_digest
from fasr_video.case.store import GALLERY, SETTINGS, SHAPE, Case
from fasr_video.encryption import given_key
from fasr_video.errors import IntegrityError, MediaError
from fasr_video.files import read_file, sha256_file
from fasr_video.gallery.inspect import check as check_gallery
from fasr_video.gallery.store import DATABASE, Gallery
from fasr_video.media import hash_folder
from fasr_video.schema import misfit
from fasr_video.sqlite import MISREAD

SIGNED_OFF = "signed-off"
"""In the case: the reports that reviewers signed off."""
REPORT, SUMS, UNFINISHED = "report", "SHA256SUMS", ".unfinished"
"""In the case: the report; in that the list of its files' hashes, and a mark while it is being written."""
NEW = ".new"
"""Ends the name of a signed-off report until the log holds its hash."""


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    checked: int
    problems: list[str]
    unchecked: list[str]
    """What could not be looked at: a source that is not where it was."""
    notes: tuple[str, ...] = ()
    """What is to be said of what was found in order."""


_Checking = Callable[[Case], Check]


def verify(case: Case, head: str | None = None) -> list[Check]:
    """With the hash of a line that the log ended with once, noted elsewhere: does the log still hold that line?

    Somebody may write the case meanwhile. What is in its database is one moment of it; files beside it may be newer
    than that, so each check of them asks the database after it has looked at them.
    """
    with case.one_moment():
        checks = [_checked(case, check) for check in _IN_DATABASE]
    beside: tuple[_Checking, ...] = (_settings, _signed_off, _report, partial(_heads, given=head), _pictures, _sources)
    return checks + [_checked(case, check) for check in beside]


def damage(case: Case) -> str | None:
    """The first thing in its database that is not what the run left; None when nothing speaks against it."""
    with case.one_moment():
        for check in _IN_DATABASE:
            try:
                problems = check(case).problems
            except MISREAD as error:
                problems = [_said(error)]
            if problems:
                return problems[0]
    return None


def _checked(case: Case, check: _Checking) -> Check:
    name = getattr(check, "__name__", "_heads").strip("_")
    try:
        return check(case)
    except MISREAD as error:
        return Check(name, 0, [f"the database is damaged ({_said(error)})"], [])
    except OSError as error:
        return Check(name, 0, [f"{error.filename or case.folder} cannot be read ({error.strerror or error})"], [])


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _database(case: Case) -> Check:
    try:
        rows = [str(r[0]) for r in case.db.execute("PRAGMA integrity_check").fetchall()]
    except sqlite3.DatabaseError as error:
        return Check("database", 1, [str(error)], [])
    problems = [r for r in rows if r != "ok"]
    strays = case.db.execute("PRAGMA foreign_key_check").fetchall()
    problems += sorted({f"a row of {row[0]} points at a row of {row[2]} that is gone" for row in strays})
    problems += [found] if (found := misfit(case.db, SHAPE)) is not None else []
    return Check("database", 1, problems, [])


def _log(case: Case) -> Check:
    problems, notes, last = replay.chain_problems(case), [], ""
    rows = case.db.execute("SELECT * FROM log ORDER BY id").fetchall()
    for row in rows:
        if row["at"] < last:
            told = f"log line {row['id']} ({row['event']}) says {row['at']}, and the line before it {last}"
            notes.append(f"{told}: the clock was set back, or one of them was written at another time than it says")
        last = row["at"]
    said = [json.loads(r["details"]).get("settings") for r in rows if r["event"] in {"created", "stage redone"}]
    if not said or said[-1] != json.loads(case.meta("settings")):
        problems.append("the settings are not those that the case was created with, or a stage redone with")
    created = [json.loads(r["details"]).get("encryption") for r in rows if r["event"] == "created"]
    if created != [case.encryption]:
        problems.append("what is said of its encryption is not what the case was created with")
    facts = {name: case.meta(name) for name in ("case_id", "version")} | {"versions": json.loads(case.meta("versions"))}
    first = json.loads(rows[0]["details"]) if rows else {}
    # Before this was logged the case's id was not: there is nothing to compare it with.
    problems += [f"{k} is not what the case was created with" for k, v in facts.items() if first.get(k, v) != v]
    problems += _against_log(case, rows)
    return Check("log chain", len(rows), problems, [], tuple(notes))


def _against_log(case: Case, log: list[sqlite3.Row]) -> list[str]:
    """What the log says of sources, against the tables."""
    problems = []
    events = [(row["event"], json.loads(row["details"])) for row in log]
    added = {d.get("source"): d for event, d in events if event == "source added"}
    placed = {d.get("source"): (d.get("camera"), d.get("clock")) for event, d in events if event == "camera and clock"}
    done = {d.get("source") for event, d in events if event == "source done"}
    rows = {row["id"]: row for row in case.db.execute("SELECT * FROM source").fetchall()}
    problems += [f"source {number} is gone from the case" for number in sorted(added.keys() - rows.keys())]
    for row in rows.values():
        if (row["state"] == "done") != (row["id"] in done):
            problems.append(f"whether {row['path']} was done is not what the log says")
        clock = None if row["clock"] is None else json.loads(row["clock"])
        if placed.get(row["id"], (None, None)) != (row["camera"], clock):
            problems.append(f"camera or clock of {row['path']} is not what the log says")
        said = added.get(row["id"], {})
        facts = {"path": row["path"], "sha256": row["sha256"], "info": json.loads(row["info"])}
        if any(said.get(k) != v for k, v in facts.items()):
            problems.append(f"what is known of {row['path']} was changed")
        if said.get("detector") != json.loads(row["detector"]):
            problems.append(f"the detector of {row['path']} is not the one that was used")
    return problems


def _found(case: Case) -> Check:
    """Faces, tracks, segments and what is said of each source against the hashes that the log holds."""
    problems, said = [], {}
    for row in case.db.execute("SELECT details FROM log WHERE event = 'source done' ORDER BY id"):
        details = json.loads(row["details"])
        said[details.get("source")] = details
    paths = dict(case.db.execute("SELECT id, path FROM source").fetchall())
    for source, told in said.items():
        name = paths.get(source, f"source {source}")
        if digest(case, source) != told.get("digest"):
            problems.append(f"faces or tracks of {name} were changed after the run")
        if source not in paths:
            continue  # which the log's check tells
        if told.get("looked") not in (None, looked(case, source)):
            problems.append(f"how much of {name} was looked at was changed after the run")
        losses = json.loads(case.db.execute("SELECT losses FROM source WHERE id = ?", (source,)).fetchone()["losses"])
        if told.get("losses", losses) != losses or told.get("rows") not in (None, rows_digest(case, source)):
            problems.append(f"segments, tracks or counts of {name} were changed after the run")
    unlogged = any("rows" not in told for told in said.values())
    notes = ("segments and counts: no hash of them was logged by the version that made this case",) if unlogged else ()
    return Check("faces and tracks", len(said), problems, [], notes)


def _links(case: Case) -> Check:
    """Links, also those that nobody decided on, row by row against what the log has of them."""
    count = case.db.execute("SELECT count(*) FROM link").fetchone()[0]
    problems = replay.link_problems(case)
    asked = "SELECT details FROM log WHERE event = 'links proposed' ORDER BY id DESC LIMIT 1"
    last = case.db.execute(asked).fetchone()
    if last is not None and json.loads(last["details"])["of"] != case.meta("linked_tracks"):
        problems.append("what the links were proposed from is not what the log says")
    return Check("links", count, problems, [])


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
    """Candidates, track by track, against what the log has of them, and the case's own gallery against its hashes."""
    last = "SELECT event, details FROM log WHERE event IN ('searched', 'answers taken out') ORDER BY id DESC LIMIT 1"
    row = case.db.execute(last).fetchone()
    said = None if row is None else json.loads(row["details"])
    if said is not None and row["event"] == "answers taken out":
        said = said["searched"]
    elif said is not None:
        said = {k: v for k, v in said.items() if k not in {"index_made_anew", "answers", "leads"}}
    problems = replay.answer_problems(case)
    if case.searched() != said:
        problems.append("what was searched for is not what the log says")
    if (case.folder / GALLERY / DATABASE).is_file():
        with Gallery.open(case.folder / GALLERY, read_only=True) as gallery:
            problems += [f"gallery: {p}" for c in check_gallery(gallery) for p in c.problems]
    return Check("candidates", int(said is not None), problems, [])


def _decided(case: Case) -> Check:
    """What reviewers decided, row by row against what the log has of it."""
    count = case.db.execute("SELECT count(*) FROM decision").fetchone()[0]
    return Check("decisions", count, replay.decision_problems(case), [])


def _settings(case: Case) -> Check:
    """The settings that people read, and `run --stage` goes on with, against those in the database."""
    path = case.folder / SETTINGS
    try:
        same = yaml.safe_load(read_file(path)) == json.loads(case.meta("settings"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        same = False
    if same:
        return Check("settings", 1, [], [])
    last = dict(case.db.execute("SELECT event, max(id) FROM log GROUP BY event").fetchall())
    told = f"{path} does not say what the database does"
    if last.get("stage redone", 0) > last.get("run ended", 0):
        notes = (f"{told}: a run was cut short; the same command goes on",)
        return Check("settings", 1, [], [], notes)
    return Check("settings", 1, [told], [])


def _signed_off(case: Case) -> Check:
    """Signed-off reports against the hashes that the log holds."""
    folder = case.folder / SIGNED_OFF
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    problems, said = list[str](), dict[str, str]()
    for row in case.db.execute("SELECT details FROM log WHERE event = 'signed off' ORDER BY id").fetchall():
        said |= json.loads(row["details"])["files"]
    for name, sha256 in said.items():
        path, new = folder / name, folder / (name + NEW)
        if not os.path.lexists(path) and _sha256(new) == sha256:
            continue  # it has no name yet; one that it gets in this very moment is looked at
        path = path if os.path.lexists(path) or not os.path.lexists(new) else new
        if not os.path.lexists(path):
            problems.append(f"{path} is not there any more")
        elif _sha256(path) != sha256:
            problems.append(f"{path} was changed")
    strange = sorted(there - said.keys() - {name + NEW for name in said})
    cut = [name for name in strange if name.endswith((NEW, f"{NEW}.part"))]
    problems += [f"{folder / name} is unknown to the log" for name in strange if name not in cut]
    notes = tuple(f"{folder / name}: a signing off that was cut short; no report" for name in cut)
    return Check("signed-off reports", len(said), problems, [], notes)


def _report(case: Case) -> Check:
    """The report in the case against its own list of hashes. Whoever changes both is found by a signature alone."""
    folder = case.folder / REPORT
    if not (folder / SUMS).is_file():
        return Check("report", 0, [], [])
    lines = (line.partition("  ") for line in read_file(folder / SUMS).decode().splitlines())
    said = {name: sha256 for sha256, _, name in lines}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()} - {SUMS}
    if UNFINISHED in there:
        return Check("report", 0, [], [], ("its writing was cut short: `fasr-video report` writes it anew",))
    bad = {name for name in said if name not in there or _sha256(folder / name) != said[name]}
    why = "is not as the report was written; `fasr-video report` writes it anew"
    notes = tuple(f"{folder / name}: no report wrote it" for name in sorted(there - said.keys()))
    return Check("report", len(said), [f"{folder / name} {why}" for name in sorted(bad)], [], notes)


def _heads(case: Case, given: str | None) -> Check:
    """Ends that the log once had, as files of the case and a person say: the log has to hold them still."""
    problems, noted = [], {} if given is None else {"the head that was given": given.strip().lower()}
    for path in (case.folder / REPORT / "report.json", *sorted((case.folder / SIGNED_OFF).glob("*.json"))):
        try:
            noted[str(path)] = str(json.loads(read_file(path))["log_head"])
        except FileNotFoundError:
            continue
        except (OSError, *MISREAD):
            problems.append(f"{path} names no end of the log")
    lines = {row["hash"] for row in case.db.execute("SELECT hash FROM log").fetchall()}
    problems += [f"{who}: the log holds no line {h[:16]}… (cut off?)" for who, h in noted.items() if h not in lines]
    return Check("ends of the log that were noted", len(noted), problems, [])


def _pictures(case: Case) -> Check:
    problems = dict[str, str]()
    names = sorted(set(case.picture_names()))
    readable = case.encryption is None or given_key() is not None
    for name in names:
        path = case.picture_path(name)
        if not os.path.isfile(path):  # Path.is_file raises where a forged name is too long
            problems[name] = f"{path} is missing"
        elif readable and _was_changed(case, name):
            problems[name] = f"{path} was changed"
    named = set(case.picture_names()) if problems else set[str]()  # a run may have put others in their place
    unchecked = [] if readable else [f"{len(names)} pictures are encrypted, and no key was given"]
    strays = set(case.pictures_there()) - {case.picture_path(name) for name in names}
    notes = tuple(f"{path} is no picture of the case (left by a kill, or put there)" for path in sorted(strays)[:20])
    still = [problem for name, problem in problems.items() if name in named]
    return Check("pictures", len(names) if readable else 0, still, unchecked, notes)


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
        try:
            if not path.exists():
                unchecked.append(f"{path} is not there")
            elif _hash_of(path) != row["sha256"]:
                problems.append(f"{path} is not the footage that was processed")
        except MediaError as error:
            unchecked.append(str(error))
        except OSError as error:
            unchecked.append(f"{path} cannot be read ({error.strerror or error})")
    return Check("sources", len(rows) - len(unchecked), problems, unchecked)


def _sha256(path: Path) -> str:
    """Of a file; of what is none, such as a link in its place, nothing that anything else has."""
    return sha256_file(path) if path.is_file() and not path.is_symlink() else ""


def _hash_of(path: Path) -> str:
    return hash_folder(path) if path.is_dir() else sha256_file(path)


_IN_DATABASE: tuple[_Checking, ...] = (_database, _log, _found, _links, _probes, _answers, _decided)
