"""Check the database of a case against the hashes in its log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from fasr_video.case import log, replay, results
from fasr_video.case.sources import digest, frame_counts, rows_digest, sources
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
    """What could not be checked, such as a source that is no longer at its path."""
    notes: tuple[str, ...] = ()
    """Remarks that are not problems."""


CheckFunction = Callable[[CaseStore], Check]


def first_problem(case: CaseStore) -> str | None:
    """Return the first problem of the database, or None where all checks pass."""
    with case.snapshot():
        for check in IN_DATABASE:
            try:
                problems = check(case).problems
            except READ_ERRORS as error:
                problems = [error_text(error)]
            if problems:
                return problems[0]
    return None


def error_text(error: Exception) -> str:
    """Return the class and message of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _database(case: CaseStore) -> Check:
    return Check("database", 1, case.database_problems(), [])


def _log(case: CaseStore) -> Check:
    lines = log.entries(case)
    problems = replay.chain_problems(case)
    problems += _settings_problems(case, lines)
    problems += _source_problems(case, lines)
    return Check("log chain", len(lines), problems, [], tuple(_time_notes(lines)))


def _time_notes(lines: Sequence[log.LogEntry]) -> list[str]:
    """Return a note for each log line that is dated before the line above it."""
    notes = []
    for before, line in pairwise(lines):
        if line.at < before.at:
            notes.append(
                f"log line {line.id} ({line.event}) is dated {line.at}, the line before it"
                f" {before.at}: the clock was set back, or a date is wrong"
            )
    return notes


def _settings_problems(case: CaseStore, lines: Sequence[log.LogEntry]) -> list[str]:
    """Return how settings, encryption and origin of the case differ from the log."""
    problems = []
    logged = [
        line.details.get("settings") for line in lines if line.event in {"created", "stage redone"}
    ]
    if not logged or logged[-1] != case.settings:
        problems.append("the settings differ from those in the log")
    encryptions = [line.details.get("encryption") for line in lines if line.event == "created"]
    if encryptions != [case.encryption]:
        problems.append("the entry about encryption differs from the one in the log")
    facts = {
        "case_id": case.meta("case_id"),
        "version": case.meta("version"),
        "versions": json.loads(case.meta("versions")),
    }
    first = lines[0].details if lines else {}
    for name, value in facts.items():
        # Earlier versions did not log these facts; then there is nothing to compare.
        if first.get(name, value) != value:
            problems.append(f"{name} differs from the one in the log")
    return problems


def _source_problems(case: CaseStore, lines: Sequence[log.LogEntry]) -> list[str]:
    """Return how the table of sources differs from the log."""
    problems = []
    events = [(line.event, line.details) for line in lines]
    added = {d["source"]: d for event, d in events if event == "source added"}
    recordings = {
        d.get("source"): (d.get("camera"), d.get("clock"))
        for event, d in events
        if event == "camera and clock"
    }
    done = {d.get("source") for event, d in events if event == "source done"}
    sources_by_id = {source.id: source for source in sources(case)}
    problems += [
        f"source {number} is gone from the case"
        for number in sorted(added.keys() - sources_by_id.keys())
    ]
    for source in sources_by_id.values():
        if source.done != (source.id in done):
            problems.append(f"whether {source.path} is done differs from the log")
        if recordings.get(source.id, (None, None)) != (source.camera, source.clock):
            problems.append(f"camera or clock of {source.path} differs from the log")
        logged = added.get(source.id, {})
        facts = {"path": source.path, "sha256": source.sha256, "info": source.info}
        if any(logged.get(name) != value for name, value in facts.items()):
            problems.append(f"the facts about {source.path} were changed")
        if logged.get("detector") != asdict(source.detector):
            problems.append(f"the detector of {source.path} is not the one that was used")
    return problems


def _faces_and_tracks(case: CaseStore) -> Check:
    """Check faces, tracks, segments and counts of each source against the hashes in the log."""
    problems: list[str] = []
    logged = {line.details["source"]: line.details for line in log.entries(case, "source done")}
    sources_by_id = {source.id: source for source in sources(case)}
    for number, details in logged.items():
        source = sources_by_id.get(number)
        name = f"source {number}" if source is None else source.path
        if digest(case, number) != details.get("digest"):
            problems.append(f"faces or tracks of {name} were changed after the run")
        if source is None:
            continue  # the check of the log reports it
        if details.get("detection") not in (None, frame_counts(case, number)):
            problems.append(f"the counts of processed frames of {name} were changed after the run")
        same_losses = details.get("losses", source.losses) == source.losses
        if not same_losses or details.get("rows") not in (None, rows_digest(case, number)):
            problems.append(f"segments, tracks or counts of {name} were changed after the run")
    notes: tuple[str, ...] = ()
    if any("rows" not in details for details in logged.values()):
        notes = (
            "segments and counts: an earlier version made this case and logged no hash of them",
        )
    return Check("faces and tracks", len(logged), problems, [], notes)


def _links(case: CaseStore) -> Check:
    """Check each link, decided or not, against the log."""
    problems = replay.link_problems(case)
    proposed = log.entries(case, "links proposed")
    if proposed and proposed[-1].details["state"] != case.meta("linked_tracks"):
        problems.append("the tracks that links were proposed from differ from the log")
    return Check("links", len(case.table("link")), problems, [])


def _probes(case: CaseStore) -> Check:
    """Check probes and reconstructions against the hashes in the log."""
    logged: dict[int, str] = {}
    for line in log.entries(case, "encoded"):
        logged |= {int(track): digest for track, digest in line.details["digests"].items()}
    problems = [
        f"probes or reconstruction of track {track} were changed after the run"
        for track in sorted(logged.keys() | results.tracks_with_results(case))
        if logged.get(track) != results.digest(case, track)
    ]
    return Check("probes and reconstructions", len(logged), problems, [])


def _answers(case: CaseStore) -> Check:
    """Check the candidates of each track against the log, and the case's own gallery."""
    logged = None
    for line in log.entries(case, "searched", "answers taken out")[-1:]:
        details = line.details["searched"] if line.event == "answers taken out" else line.details
        not_stored = {"index_rebuilt", "answers", "leads"}
        logged = {name: value for name, value in details.items() if name not in not_stored}
    problems = replay.answer_problems(case)
    if json.loads(case.meta("searched")) != logged:
        problems.append("the description of the last search differs from the log")
    if (case.folder / GALLERY / DATABASE).is_file():
        with Gallery.open(case.folder / GALLERY, read_only=True) as gallery:
            problems += [f"gallery: {p}" for c in check_gallery(gallery) for p in c.problems]
    return Check("candidates", int(logged is not None), problems, [])


def _decisions(case: CaseStore) -> Check:
    """Check each decision against the log."""
    return Check("decisions", len(case.table("decision")), replay.decision_problems(case), [])


IN_DATABASE: tuple[CheckFunction, ...] = (
    _database,
    _log,
    _faces_and_tracks,
    _links,
    _probes,
    _answers,
    _decisions,
)
