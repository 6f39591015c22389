"""What was found for each track: its probes, its reconstruction, and what the gallery answered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any, NamedTuple

import numpy as np

from fasr_video.case.store import CaseStore, read_json
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.gallery.search import Answer, Candidate, Hit, Verdict


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the probes of a track were made with: a row of `encoding`."""

    track: int
    models: str
    """JSON: all that they depend on but the track's own faces."""
    side: int
    """Pixels of LR0 in the canonical frame at its own resolution."""

    @property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.models)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The super-resolved face of a track: a row of `restoration`."""

    track: int
    picture: str
    samples: list[str]
    spread: str | None
    """Names of pictures: the mean, what it is the mean of, and where these disagree."""
    provenance: dict[str, Any]

    @property
    def conditioned_on(self) -> str:
        """The gallery subject from whose photographs it was drawn; empty where it was from none."""
        return str(self.provenance.get("conditioned_on", ""))


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What the gallery answered about a track: rows of `answer` and `candidate`."""

    answer: Answer
    remark: str | None


class Photograph(NamedTuple):
    """One that stood behind the answers, or that could not be used: a row of `gallery_photo`."""

    path: str
    subject: str
    sha256: str | None
    problem: str | None


def features(case: CaseStore, track: int) -> dict[Kind, Feature]:
    """Return the probes of a track; none where it has none."""
    return all_features(case, track).get(track, {})


def all_features(case: CaseStore, only: int | None = None) -> dict[int, dict[Kind, Feature]]:
    """Return the probes of each track, or of `only` one."""
    found: dict[int, dict[Kind, Feature]] = {}
    for track, kind, stored in _rows(case, "SELECT track, kind, feature FROM probe", only):
        data = case.decrypt(stored, _probe_place(track, kind))
        found.setdefault(track, {})[Kind(kind)] = np.frombuffer(data, np.float32)
    return {
        track: {kind: own[kind] for kind in Kind if kind in own} for track, own in found.items()
    }


def probe_kinds(case: CaseStore) -> dict[int, list[Kind]]:
    """Return of which kinds each track's probes are."""
    found: dict[int, list[Kind]] = {}
    for track, kind in case.db.execute("SELECT track, kind FROM probe ORDER BY track, kind"):
        found.setdefault(track, []).append(Kind(kind))
    return found


def stored_features(case: CaseStore) -> list[bytes]:
    """Return all probes as they lie on the disk."""
    return [feature for (feature,) in case.db.execute("SELECT feature FROM probe")]


def encodings(case: CaseStore, only: int | None = None) -> dict[int, Encoding]:
    """Return, by track, what the probes of each track, or of `only` one, were made with."""
    return {
        row["track"]: Encoding(*row)
        for row in _rows(case, "SELECT * FROM encoding", only, "ORDER BY track")
    }


def save_features(
    case: CaseStore, made: Encoding, found: Mapping[Kind, Feature], drawn: Reconstruction | None
) -> None:
    """Put these in the place of a track's former ones, within a transaction."""
    track = made.track
    for table in ("probe", "encoding", "restoration"):
        case.db.execute(f"DELETE FROM {table} WHERE track = ?", (track,))
    case.db.execute("INSERT INTO encoding VALUES (?, ?, ?)", (track, made.models, made.side))
    for kind, feature in found.items():
        data = case.encrypt(feature.astype(np.float32).tobytes(), _probe_place(track, kind))
        case.db.execute("INSERT INTO probe VALUES (?, ?, ?)", (track, kind, data))
    if drawn is not None:
        row = (
            track,
            drawn.picture,
            json.dumps(drawn.samples),
            drawn.spread,
            json.dumps(drawn.provenance),
        )
        case.db.execute("INSERT INTO restoration VALUES (?, ?, ?, ?, ?)", row)


def reconstructions(case: CaseStore, only: int | None = None) -> dict[int, Reconstruction]:
    """Return the reconstruction of each track that has one, or of `only` one track."""
    found = {}
    for row in _rows(case, "SELECT * FROM restoration", only, "ORDER BY track"):
        read = dict(row) | {
            "samples": json.loads(row["samples"]),
            "provenance": json.loads(row["provenance"]),
        }
        found[row["track"]] = Reconstruction(**read)
    return found


def conditioned_subjects(case: CaseStore) -> dict[int, str]:
    """The tracks whose reconstruction was drawn from a gallery subject's photographs, and whose."""
    subjects = {track: made.conditioned_on for track, made in reconstructions(case).items()}
    return {track: subject for track, subject in subjects.items() if subject}


def tracks_with_results(case: CaseStore) -> set[int]:
    """Return the tracks that have probes, a reconstruction, or a row that says what made them."""
    made = "SELECT track FROM encoding UNION SELECT track FROM probe UNION SELECT track FROM restoration"
    return {int(track) for (track,) in case.db.execute(made)}


def digest(case: CaseStore, track: int) -> str:
    """One hash over the probes and the restoration of a track, so that the log's chain covers them."""
    return case.hash_rows(
        "SELECT track, kind, hex(feature) FROM probe WHERE track = ? ORDER BY kind",
        "SELECT * FROM encoding WHERE track = ?",
        "SELECT * FROM restoration WHERE track = ?",
        of=track,
    )


def answers(case: CaseStore, only: int | None = None) -> dict[int, StoredAnswer]:
    """Return what was answered about each track that was searched for, or about `only` one."""
    lists: dict[int, dict[Kind, list[Hit]]] = {}
    joined: dict[int, list[Candidate]] = {}
    for row in _rows(case, "SELECT * FROM candidate", only, "ORDER BY track, list, rank"):
        if row["list"] == "joined":
            joined.setdefault(row["track"], []).append(_candidate(row))
        else:
            own = lists.setdefault(row["track"], {})
            own.setdefault(Kind(row["list"]), []).append(
                Hit(row["subject"], row["cosine"], row["ratio"])
            )
    found = {}
    for track, verdict, threshold, extrapolated, remark in _rows(
        case, "SELECT * FROM answer", only, "ORDER BY track"
    ):
        told = (
            Verdict(verdict),
            lists.get(track, {}),
            joined.get(track, []),
            threshold,
            bool(extrapolated),
        )
        found[track] = StoredAnswer(Answer(*told), remark)
    return found


def verdicts(case: CaseStore) -> dict[int, str]:
    """Return the verdict on each track that was searched for."""
    return dict(case.db.execute("SELECT track, verdict FROM answer ORDER BY track").fetchall())


def first_leads(case: CaseStore) -> dict[int, Candidate]:
    """Return the first candidate that passes, of each track that has one."""
    query = """
        SELECT lead.* FROM answer JOIN candidate lead ON lead.track = answer.track AND lead.list = 'joined'
        AND lead.rank = (SELECT min(rank) FROM candidate WHERE track = answer.track AND list = 'joined' AND passes)"""
    return {row["track"]: _candidate(row) for row in case.db.execute(query)}


def listed_subjects(case: CaseStore, track: int) -> list[str]:
    """Return all who stand in any list of a track."""
    query = "SELECT DISTINCT subject FROM candidate WHERE track = ? ORDER BY subject"
    return [subject for (subject,) in case.db.execute(query, (track,))]


def clear_answers(case: CaseStore, tracks: Iterable[int] | None = None) -> None:
    """Take out what was answered about all tracks, or about these, within a transaction."""
    for table in ("candidate", "answer"):
        if tracks is None:
            case.db.execute(f"DELETE FROM {table}")
        else:
            case.db.executemany(
                f"DELETE FROM {table} WHERE track = ?", [(track,) for track in tracks]
            )


def add_answer(case: CaseStore, track: int, answer: Answer, remark: str | None) -> None:
    """Add what was answered about a track that has no answer, within a transaction."""
    row = (track, answer.verdict, answer.threshold, answer.extrapolated, remark)
    case.db.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row)
    hit = "INSERT INTO candidate (track, list, rank, subject, cosine, ratio) VALUES (?, ?, ?, ?, ?, ?)"
    for kind, hits in answer.lists.items():
        rows = [(track, kind, rank, h.subject, h.cosine, h.ratio) for rank, h in enumerate(hits, 1)]
        case.db.executemany(hit, rows)
    joined = (
        "INSERT INTO candidate (track, list, rank, subject, ratio, score, cosines, support, passes, at_bound)"
        " VALUES (?, 'joined', ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    for rank, c in enumerate(answer.joined, 1):
        cosines, support = json.dumps(c.cosines), json.dumps(c.support)
        values = (track, rank, c.subject, c.ratio, c.score, cosines, support, c.passes, c.at_bound)
        case.db.execute(joined, values)


def photographs(case: CaseStore) -> list[Photograph]:
    """Return those of the gallery when it was searched, and those of it that could not be used."""
    query = "SELECT path, subject, sha256, problem FROM gallery_photo ORDER BY id"
    return [Photograph(*row) for row in case.db.execute(query)]


def save_photographs(case: CaseStore, known: Sequence[Photograph]) -> None:
    """Put these in the place of those of the former search, within a transaction."""
    case.db.execute("DELETE FROM gallery_photo")
    insert = "INSERT INTO gallery_photo (path, subject, sha256, problem) VALUES (?, ?, ?, ?)"
    case.db.executemany(insert, known)


def _candidate(row: Row) -> Candidate:
    return Candidate(
        subject=row["subject"],
        cosines={Kind(kind): cosine for kind, cosine in json.loads(row["cosines"]).items()},
        score=row["score"],
        ratio=row["ratio"],
        at_bound=bool(row["at_bound"]),
        support=tuple(Kind(kind) for kind in json.loads(row["support"])),
        passes=bool(row["passes"]),
    )


def _rows(case: CaseStore, query: str, only: int | None, order: str = "") -> Iterable[Row]:
    """Give the rows of all tracks, or of `only` one."""
    chosen, values = ("", ()) if only is None else ("WHERE track = ?", (only,))
    return case.db.execute(f"{query} {chosen} {order}", values)


def _probe_place(track: int, kind: str) -> str:
    return f"probe {kind} of track {track}"
