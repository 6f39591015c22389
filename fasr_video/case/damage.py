"""Is the database of a case what the run left? Its rows against the hashes that the log holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from fasr_video.case import replay
from fasr_video.case.results import digest as probes_digest
from fasr_video.case.sources import digest, looked, rows_digest
from fasr_video.case.store import GALLERY, SHAPE, CaseStore
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.inspect import check as check_gallery
from fasr_video.gallery.store import DATABASE
from fasr_video.schema import misfit
from fasr_video.sqlite import MISREAD


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    checked: int
    problems: list[str]
    unchecked: list[str]
    """What could not be looked at: a source that is not where it was."""
    notes: tuple[str, ...] = ()
    """What is to be said of what was found in order."""


Checking = Callable[[CaseStore], Check]


def damage(case: CaseStore) -> str | None:
    """The first thing in its database that is not what the run left; None when nothing speaks against it."""
    with case.one_moment():
        for check in IN_DATABASE:
            try:
                problems = check(case).problems
            except MISREAD as error:
                problems = [message_of(error)]
            if problems:
                return problems[0]
    return None


def message_of(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _database(case: CaseStore) -> Check:
    try:
        rows = [str(r[0]) for r in case.db.execute("PRAGMA integrity_check").fetchall()]
    except sqlite3.DatabaseError as error:
        return Check("database", 1, [str(error)], [])
    problems = [r for r in rows if r != "ok"]
    strays = case.db.execute("PRAGMA foreign_key_check").fetchall()
    problems += sorted({f"a row of {row[0]} points at a row of {row[2]} that is gone" for row in strays})
    problems += [found] if (found := misfit(case.db, SHAPE)) is not None else []
    return Check("database", 1, problems, [])


def _log(case: CaseStore) -> Check:
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


def _against_log(case: CaseStore, log: list[sqlite3.Row]) -> list[str]:
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


def _found(case: CaseStore) -> Check:
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


def _links(case: CaseStore) -> Check:
    """Links, also those that nobody decided on, row by row against what the log has of them."""
    count = case.db.execute("SELECT count(*) FROM link").fetchone()[0]
    problems = replay.link_problems(case)
    asked = "SELECT details FROM log WHERE event = 'links proposed' ORDER BY id DESC LIMIT 1"
    last = case.db.execute(asked).fetchone()
    if last is not None and json.loads(last["details"])["of"] != case.meta("linked_tracks"):
        problems.append("what the links were proposed from is not what the log says")
    return Check("links", count, problems, [])


def _probes(case: CaseStore) -> Check:
    """Probes and reconstructions against the hashes that the log holds."""
    said: dict[int, str] = {}
    for row in case.db.execute("SELECT details FROM log WHERE event = 'probed' ORDER BY id"):
        said |= {int(track): digest for track, digest in json.loads(row["details"])["digests"].items()}
    made = "SELECT track FROM probed UNION SELECT track FROM probe UNION SELECT track FROM restoration"
    there = {int(row["track"]) for row in case.db.execute(made)}
    bad = sorted(track for track in said.keys() | there if said.get(track) != probes_digest(case, track))
    problems = [f"probes or reconstruction of track {track} were changed after the run" for track in bad]
    return Check("probes and reconstructions", len(said), problems, [])


def _answers(case: CaseStore) -> Check:
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


def _decided(case: CaseStore) -> Check:
    """What reviewers decided, row by row against what the log has of it."""
    count = case.db.execute("SELECT count(*) FROM decision").fetchone()[0]
    return Check("decisions", count, replay.decision_problems(case), [])


IN_DATABASE: tuple[Checking, ...] = (_database, _log, _found, _links, _probes, _answers, _decided)
