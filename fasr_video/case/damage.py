"""Is the database of a case what the run left? Its rows against the hashes that the log holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fasr_video.case import log, replay, results
from fasr_video.case.sources import digest, looked, rows_digest, sources
from fasr_video.case.store import GALLERY, CaseStore
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.inspect import check as check_gallery
from fasr_video.gallery.store import DATABASE
from fasr_video.sqlite import READ_ERRORS


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
            except READ_ERRORS as error:
                problems = [message_of(error)]
            if problems:
                return problems[0]
    return None


def message_of(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _database(case: CaseStore) -> Check:
    return Check("database", 1, case.problems(), [])


def _log(case: CaseStore) -> Check:
    problems, notes, last = replay.chain_problems(case), [], ""
    lines = log.entries(case)
    for line in lines:
        if line.at < last:
            told = (
                f"log line {line.id} ({line.event}) says {line.at}, and the line before it {last}"
            )
            notes.append(
                f"{told}: the clock was set back, or one of them was written at another time than it says"
            )
        last = line.at
    said = [
        line.details.get("settings") for line in lines if line.event in {"created", "stage redone"}
    ]
    if not said or said[-1] != case.settings:
        problems.append(
            "the settings are not those that the case was created with, or a stage redone with"
        )
    created = [line.details.get("encryption") for line in lines if line.event == "created"]
    if created != [case.encryption]:
        problems.append("what is said of its encryption is not what the case was created with")
    facts = {name: case.meta(name) for name in ("case_id", "version")} | {
        "versions": json.loads(case.meta("versions"))
    }
    first = lines[0].details if lines else {}
    # Before this was logged the case's id was not: there is nothing to compare it with.
    problems += [
        f"{k} is not what the case was created with"
        for k, v in facts.items()
        if first.get(k, v) != v
    ]
    problems += _against_log(case, lines)
    return Check("log chain", len(lines), problems, [], tuple(notes))


def _against_log(case: CaseStore, lines: Sequence[log.LogEntry]) -> list[str]:
    """What the log says of sources, against the tables."""
    problems = []
    events = [(line.event, line.details) for line in lines]
    added = {d["source"]: d for event, d in events if event == "source added"}
    placed = {
        d.get("source"): (d.get("camera"), d.get("clock"))
        for event, d in events
        if event == "camera and clock"
    }
    done = {d.get("source") for event, d in events if event == "source done"}
    known = {source.id: source for source in sources(case)}
    problems += [
        f"source {number} is gone from the case" for number in sorted(added.keys() - known.keys())
    ]
    for source in known.values():
        if source.done != (source.id in done):
            problems.append(f"whether {source.path} was done is not what the log says")
        if placed.get(source.id, (None, None)) != (source.camera, source.clock):
            problems.append(f"camera or clock of {source.path} is not what the log says")
        said = added.get(source.id, {})
        facts = {"path": source.path, "sha256": source.sha256, "info": source.info}
        if any(said.get(k) != v for k, v in facts.items()):
            problems.append(f"what is known of {source.path} was changed")
        if said.get("detector") != source.detector:
            problems.append(f"the detector of {source.path} is not the one that was used")
    return problems


def _found(case: CaseStore) -> Check:
    """Faces, tracks, segments and what is said of each source against the hashes that the log holds."""
    problems: list[str] = []
    lines = [line.details for line in log.entries(case, "source done")]
    said = {told["source"]: told for told in lines}
    known = {source.id: source for source in sources(case)}
    for number, told in said.items():
        source = known.get(number)
        name = f"source {number}" if source is None else source.path
        if digest(case, number) != told.get("digest"):
            problems.append(f"faces or tracks of {name} were changed after the run")
        if source is None:
            continue  # which the log's check tells
        if told.get("looked") not in (None, looked(case, number)):
            problems.append(f"how much of {name} was looked at was changed after the run")
        same = told.get("losses", source.losses) == source.losses
        if not same or told.get("rows") not in (None, rows_digest(case, number)):
            problems.append(f"segments, tracks or counts of {name} were changed after the run")
    unlogged = any("rows" not in told for told in said.values())
    notes = (
        ("segments and counts: no hash of them was logged by the version that made this case",)
        if unlogged
        else ()
    )
    return Check("faces and tracks", len(said), problems, [], notes)


def _links(case: CaseStore) -> Check:
    """Links, also those that nobody decided on, row by row against what the log has of them."""
    problems = replay.link_problems(case)
    proposed = log.entries(case, "links proposed")
    if proposed and proposed[-1].details["of"] != case.meta("linked_tracks"):
        problems.append("what the links were proposed from is not what the log says")
    return Check("links", len(case.table("link")), problems, [])


def _probes(case: CaseStore) -> Check:
    """TrackFeatures and reconstructions against the hashes that the log holds."""
    said: dict[int, str] = {}
    for line in log.entries(case, "encoded"):
        said |= {int(track): digest for track, digest in line.details["digests"].items()}
    there = results.with_results(case)
    bad = sorted(
        track for track in said.keys() | there if said.get(track) != results.digest(case, track)
    )
    problems = [
        f"probes or reconstruction of track {track} were changed after the run" for track in bad
    ]
    return Check("probes and reconstructions", len(said), problems, [])


def _answers(case: CaseStore) -> Check:
    """Candidates, track by track, against what the log has of them, and the case's own gallery against its hashes."""
    said = None
    for line in log.entries(case, "searched", "answers taken out")[-1:]:
        said = line.details["searched"] if line.event == "answers taken out" else line.details
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
    return Check("decisions", len(case.table("decision")), replay.decision_problems(case), [])


IN_DATABASE: tuple[Checking, ...] = (_database, _log, _found, _links, _probes, _answers, _decided)
