"""Decisions, links and answers as the log has them: rebuilt from its lines, and compared with the tables row by row.

Nothing is added on top of a table that is not as the log has it: the next line would make the change look decided.
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

# What the log holds of each link that nobody decided on, in this order.
PROPOSED = ("id", "a", "b", "score", "evidence")
_Rows = dict[int, dict[str, Any]]


def require_unchanged(case: CaseStore) -> None:
    """Raise unless the log is a chain, and decisions, links and answers are as it has them."""
    found = [
        *chain_problems(case),
        *decision_problems(case),
        *link_problems(case),
        *answer_problems(case),
    ]
    if found:
        raise IntegrityError(case.folder, found[0], "see `fasr-video verify`; nothing was written")


def chain_problems(case: CaseStore) -> list[str]:
    """Return the lines of the log that do not follow from the one before, and whether its end is missing."""
    found, previous = list[str](), ""
    for line in log.entries(case):
        expected = chain_hash(previous, line.at, line.event, line.text)
        if line.previous != previous or line.hash != expected:
            found.append(
                f"log line {line.id} ({line.event}) was changed, or a line before it is missing"
            )
        previous = line.hash
    if previous != case.meta("log_head"):
        found.append("the end of the log is missing")
    return found


def decision_problems(case: CaseStore) -> list[str]:
    """Return what the table of decisions says otherwise than the log."""
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
    """Return what the table of links says otherwise than the log."""
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
        made = {"id": line["link"], "a": line["tracks"][0], "b": line["tracks"][1]}
        known = logged.setdefault(line["link"], made | {k: line[k] for k in ("score", "evidence")})
        decided = {"state": line["to"], "decided_by": line["by"], "decided_at": line["at"]}
        logged[line["link"]] = known | (open_link if line["to"] == "proposed" else decided)
    return _differences("link", logged, _rows_by_id(case, "link"))


def answer_problems(case: CaseStore) -> list[str]:
    """Return what the answers of the search, or the photographs behind them, are otherwise than in the log."""
    logged, known = dict[str, str](), None
    for entry in log.entries(case, "searched", "answers taken out"):
        line = entry.details
        if entry.event == "searched":
            logged, known = line["answers"], line["photographs"]
        else:
            logged = {
                track: hashed
                for track, hashed in logged.items()
                if int(track) not in line["tracks"]
            }
    there = answer_digests(case)
    bad = sorted(
        (t for t in logged.keys() | there.keys() if logged.get(t) != there.get(t)), key=int
    )
    found = [f"the candidates of track {track} are not as the log has them" for track in bad]
    if photographs_digest(photographs(case)) != (
        photographs_digest([]) if known is None else known
    ):
        found.append("the list of photographs is not as the log has it")
    return found


def answer_digests(case: CaseStore) -> dict[str, str]:
    """Return one hash for each track that was answered, over the answer and its candidates."""
    rows: dict[str, list[list[Any]]] = {}
    for row in case.table("answer") + case.table("candidate"):
        rows.setdefault(str(row["track"]), []).append([*row.values()])
    return {
        track: hashlib.sha256(json.dumps(held).encode()).hexdigest() for track, held in rows.items()
    }


def proposed_links(case: CaseStore) -> list[list[Any]]:
    """Return the links that nobody decided on, for the log."""
    return [
        [row[name] for name in PROPOSED] for row in case.table("link") if row["state"] == "proposed"
    ]


def photographs_digest(known: Sequence[Photograph]) -> str:
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _rows_by_id(case: CaseStore, table: str) -> _Rows:
    return {row["id"]: row for row in case.table(table)}


def _differences(what: str, logged: _Rows, there: _Rows) -> list[str]:
    found = []
    for number in sorted(logged.keys() | there.keys()):
        if number not in there:
            found.append(f"{what} {number} is in the log and not in the case")
        elif number not in logged:
            found.append(f"{what} {number} is not in the log")
        elif other := [k for k, value in there[number].items() if logged[number][k] != value]:
            found.append(f"{what} {number} is not as the log has it ({', '.join(other)})")
    return found
