"""Rebuild decisions, links and answers from the log, and compare them with the tables row by row.

A table that differs from the log is never added to: the next log line, with its hash over the
table, would make the change look like a decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from fasr_video.case import log
from fasr_video.case.results import Photograph, photographs
from fasr_video.case.store import CaseStore, chain_hash
from fasr_video.errors import IntegrityError

# The columns of an undecided link that the log holds, in this order.
PROPOSED = ("id", "a", "b", "score", "evidence")
_Rows = dict[int, dict[str, Any]]


def require_unchanged(case: CaseStore) -> None:
    """Raise unless the log is intact and decisions, links and answers agree with it."""
    problems = [
        *chain_problems(case),
        *decision_problems(case),
        *link_problems(case),
        *answer_problems(case),
    ]
    if problems:
        raise IntegrityError(
            case.folder, problems[0], "see `fasr-video verify`; nothing was written"
        )


def chain_problems(case: CaseStore) -> list[str]:
    """Return the log lines whose hash does not follow from the line before, and a missing end."""
    problems = list[str]()
    previous = ""
    for line in log.entries(case):
        expected = chain_hash(previous, line.at, line.event, line.text)
        if line.previous != previous or line.hash != expected:
            problems.append(
                f"log line {line.id} ({line.event}) was changed, or a line before it is missing"
            )
        previous = line.hash
    if previous != case.meta("log_head"):
        problems.append("the end of the log is missing")
    return problems


def decision_problems(case: CaseStore) -> list[str]:
    """Return how the table of decisions differs from the log."""
    logged: _Rows = {}
    for entry in log.entries(case, "decided", "decision undone"):
        line = entry.details
        if entry.event == "decision undone":
            logged[line["id"]] |= {"undone_by": line["by"], "undone_at": line["at"]}
            continue
        logged[line["id"]] = line
        for former in line["replaces"]:
            logged[former] |= {"undone_by": line["by"], "undone_at": line["at"]}
    return _differences("decision", logged, _rows_by_id(case, "decision"))


def link_problems(case: CaseStore) -> list[str]:
    """Return how the table of links differs from the log."""
    logged: _Rows = {}
    open_link = {"state": "proposed", "decided_by": None, "decided_at": None}
    for entry in log.entries(case, "links proposed", "link decided"):
        line = entry.details
        if entry.event == "links proposed":
            proposed = [dict(zip(PROPOSED, row, strict=True)) for row in line["proposed"]]
            logged = {
                number: link for number, link in logged.items() if link["state"] != "proposed"
            }
            logged |= {link["id"]: link | open_link for link in proposed}
            continue
        first, second = line["tracks"]
        link = {"id": line["link"], "a": first, "b": second}
        link |= {"score": line["score"], "evidence": line["evidence"]}
        link = logged.get(line["link"], link)
        decided = {"state": line["to"], "decided_by": line["by"], "decided_at": line["at"]}
        logged[line["link"]] = link | (open_link if line["to"] == "proposed" else decided)
    return _differences("link", logged, _rows_by_id(case, "link"))


def answer_problems(case: CaseStore) -> list[str]:
    """Return how the search answers, or the list of photographs behind them, differ from
    the log."""
    logged = dict[str, str]()
    logged_photographs = photographs_digest([])
    for entry in log.entries(case, "searched", "answers taken out"):
        line = entry.details
        if entry.event == "searched":
            logged = line["answers"]
            logged_photographs = line["photographs"]
        else:
            logged = {
                track: digest
                for track, digest in logged.items()
                if int(track) not in line["tracks"]
            }
    stored = answer_digests(case)
    tracks = sorted(logged.keys() | stored.keys(), key=int)
    changed = [track for track in tracks if logged.get(track) != stored.get(track)]
    problems = [f"the candidates of track {track} differ from the log" for track in changed]
    if photographs_digest(photographs(case)) != logged_photographs:
        problems.append("the list of photographs differs from the log")
    return problems


def answer_digests(case: CaseStore) -> dict[str, str]:
    """Return by track one hash over its answer and candidates."""
    rows: dict[str, list[list[Any]]] = {}
    for row in case.table("answer") + case.table("candidate"):
        rows.setdefault(str(row["track"]), []).append([*row.values()])
    return {
        track: hashlib.sha256(json.dumps(own).encode()).hexdigest() for track, own in rows.items()
    }


def proposed_links(case: CaseStore) -> list[list[Any]]:
    """Return the undecided links as rows for the log."""
    return [
        [row[name] for name in PROPOSED] for row in case.table("link") if row["state"] == "proposed"
    ]


def photographs_digest(rows: Sequence[Photograph]) -> str:
    """Return one hash over a list of photographs."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _rows_by_id(case: CaseStore, table: str) -> _Rows:
    return {row["id"]: row for row in case.table(table)}


def _differences(table: str, logged: _Rows, stored: _Rows) -> list[str]:
    problems = []
    for number in sorted(logged.keys() | stored.keys()):
        if number not in stored:
            problems.append(f"{table} {number} is in the log and not in the case")
            continue
        if number not in logged:
            problems.append(f"{table} {number} is not in the log")
            continue
        columns = [name for name, value in stored[number].items() if logged[number][name] != value]
        if columns:
            problems.append(f"{table} {number} differs from the log ({', '.join(columns)})")
    return problems
