"""Read and write the results of each track: probes, reconstruction and search answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from sqlite3 import Row
from typing import Any, NamedTuple

import numpy as np

from fasr_video.case.store import CaseStore, read_json
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.gallery.search import Answer, Candidate, Hit, Verdict
from fasr_video.sr.attributes import Attribute


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the probes of a track were made: a row of `encoding`."""

    track: int
    models: str
    """JSON: everything that the probes depend on except the track's own faces."""
    side: int
    """Side in pixels of LR0 in the canonical frame at its native resolution."""

    @property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.models)


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a reconstruction was drawn: `Restoration` without its pictures."""

    method: str
    sampler: str
    calls: int
    seed: int
    model: str
    feature: str
    warnings: Sequence[str]
    attributes: Sequence[Attribute]
    conditioned_on: str
    """The gallery subject whose photographs it is based on, or an empty text."""
    what: str
    """The sentence that says that it is synthetic."""
    disagreement: float
    """Mean difference of its samples, as a share of the brightness range."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The super-resolved face of a track: a row of `restoration`."""

    track: int
    picture: str
    samples: list[str]
    spread: str | None
    """Names of pictures: `picture` is the mean of `samples`, `spread` shows where these differ."""
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The search answer for a track: rows of `answer` and `candidate`."""

    answer: Answer
    remark: str | None


class Photograph(NamedTuple):
    """A gallery photograph, used in the last search or unusable: a row of `gallery_photo`."""

    path: str
    subject: str
    sha256: str | None
    problem: str | None


def features(case: CaseStore, track: int) -> dict[Kind, Feature]:
    """Return the probes of a track by kind."""
    return all_features(case, track).get(track, {})


def all_features(case: CaseStore, only: int | None = None) -> dict[int, dict[Kind, Feature]]:
    """Return the probes by track and kind, for all tracks or only one."""
    tracks: dict[int, dict[Kind, Feature]] = {}
    for track, kind, stored in _rows(case, "SELECT track, kind, feature FROM probe", only):
        data = case.decrypt(stored, _probe_name(track, kind))
        tracks.setdefault(track, {})[Kind(kind)] = np.frombuffer(data, np.float32)
    return {
        track: {kind: probes[kind] for kind in Kind if kind in probes}
        for track, probes in tracks.items()
    }


def probe_kinds(case: CaseStore) -> dict[int, list[Kind]]:
    """Return by track the kinds of its probes."""
    tracks: dict[int, list[Kind]] = {}
    for track, kind in case.db.execute("SELECT track, kind FROM probe ORDER BY track, kind"):
        tracks.setdefault(track, []).append(Kind(kind))
    return tracks


def stored_features(case: CaseStore) -> list[bytes]:
    """Return the stored bytes of all probes, encrypted in an encrypted case."""
    return [feature for (feature,) in case.db.execute("SELECT feature FROM probe")]


def encodings(case: CaseStore, only: int | None = None) -> dict[int, Encoding]:
    """Return by track how its probes were made, for all tracks or only one."""
    return {
        row["track"]: Encoding(*row)
        for row in _rows(case, "SELECT * FROM encoding", only, "ORDER BY track")
    }


def save_features(
    case: CaseStore,
    encoding: Encoding,
    probes: Mapping[Kind, Feature],
    reconstruction: Reconstruction | None,
) -> None:
    """Replace the probes and the reconstruction of a track, within a transaction."""
    track = encoding.track
    for table in ("probe", "encoding", "restoration"):
        case.db.execute(f"DELETE FROM {table} WHERE track = ?", (track,))
    case.db.execute(
        "INSERT INTO encoding VALUES (?, ?, ?)", (track, encoding.models, encoding.side)
    )
    for kind, feature in probes.items():
        data = case.encrypt(feature.astype(np.float32).tobytes(), _probe_name(track, kind))
        case.db.execute("INSERT INTO probe VALUES (?, ?, ?)", (track, kind, data))
    if reconstruction is not None:
        row = (
            track,
            reconstruction.picture,
            json.dumps(reconstruction.samples),
            reconstruction.spread,
            json.dumps(asdict(reconstruction.drawing)),
        )
        case.db.execute("INSERT INTO restoration VALUES (?, ?, ?, ?, ?)", row)


def reconstructions(case: CaseStore, only: int | None = None) -> dict[int, Reconstruction]:
    """Return the reconstructions by track, for all tracks or only one."""
    tracks = {}
    for row in _rows(case, "SELECT * FROM restoration", only, "ORDER BY track"):
        drawing = json.loads(row["provenance"])
        drawing["attributes"] = [Attribute(**attribute) for attribute in drawing["attributes"]]
        tracks[row["track"]] = Reconstruction(
            track=row["track"],
            picture=row["picture"],
            samples=json.loads(row["samples"]),
            spread=row["spread"],
            drawing=Drawing(**drawing),
        )
    return tracks


def conditioned_subjects(case: CaseStore) -> dict[int, str]:
    """Return by track the gallery subject whose photographs its reconstruction is based on."""
    return {
        track: reconstruction.drawing.conditioned_on
        for track, reconstruction in reconstructions(case).items()
        if reconstruction.drawing.conditioned_on
    }


def tracks_with_results(case: CaseStore) -> set[int]:
    """Return the tracks that have an encoding, probes or a reconstruction."""
    query = (
        "SELECT track FROM encoding UNION SELECT track FROM probe"
        " UNION SELECT track FROM restoration"
    )
    return {int(track) for (track,) in case.db.execute(query)}


def digest(case: CaseStore, track: int) -> str:
    """Return one hash over the probes and the reconstruction of a track, for the log."""
    return case.hash_rows(
        "SELECT track, kind, hex(feature) FROM probe WHERE track = ? ORDER BY kind",
        "SELECT * FROM encoding WHERE track = ?",
        "SELECT * FROM restoration WHERE track = ?",
        of=track,
    )


def answers(case: CaseStore, only: int | None = None) -> dict[int, StoredAnswer]:
    """Return the search answers by track, for all tracks or only one."""
    lists: dict[int, dict[Kind, list[Hit]]] = {}
    joined: dict[int, list[Candidate]] = {}
    for row in _rows(case, "SELECT * FROM candidate", only, "ORDER BY track, list, rank"):
        if row["list"] == "joined":
            joined.setdefault(row["track"], []).append(_candidate(row))
        else:
            hit = Hit(row["subject"], row["cosine"], row["ratio"])
            track_lists = lists.setdefault(row["track"], {})
            track_lists.setdefault(Kind(row["list"]), []).append(hit)
    tracks = {}
    for track, verdict, threshold, extrapolated, remark in _rows(
        case, "SELECT * FROM answer", only, "ORDER BY track"
    ):
        answer = Answer(
            Verdict(verdict),
            lists.get(track, {}),
            joined.get(track, []),
            threshold,
            bool(extrapolated),
        )
        tracks[track] = StoredAnswer(answer, remark)
    return tracks


def verdicts(case: CaseStore) -> dict[int, str]:
    """Return by track the verdict of its search."""
    return dict(case.db.execute("SELECT track, verdict FROM answer ORDER BY track").fetchall())


def first_leads(case: CaseStore) -> dict[int, Candidate]:
    """Return by track its first candidate over the threshold; tracks without one are left out."""
    query = """
        SELECT lead.* FROM answer
        JOIN candidate lead ON lead.track = answer.track AND lead.list = 'joined'
        AND lead.rank = (SELECT min(rank) FROM candidate
            WHERE track = answer.track AND list = 'joined' AND passes)"""
    return {row["track"]: _candidate(row) for row in case.db.execute(query)}


def listed_subjects(case: CaseStore, track: int) -> list[str]:
    """Return the subjects in any candidate list of a track."""
    query = "SELECT DISTINCT subject FROM candidate WHERE track = ? ORDER BY subject"
    return [subject for (subject,) in case.db.execute(query, (track,))]


def clear_answers(case: CaseStore, tracks: Iterable[int] | None = None) -> None:
    """Delete the answers for all tracks, or for these, within a transaction."""
    for table in ("candidate", "answer"):
        if tracks is None:
            case.db.execute(f"DELETE FROM {table}")
        else:
            case.db.executemany(
                f"DELETE FROM {table} WHERE track = ?", [(track,) for track in tracks]
            )


def add_answer(case: CaseStore, track: int, answer: Answer, remark: str | None) -> None:
    """Store the answer for a track that has none, within a transaction."""
    row = (track, answer.verdict, answer.threshold, answer.extrapolated, remark)
    case.db.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row)
    columns = "(track, list, rank, subject, cosine, ratio)"
    hit = f"INSERT INTO candidate {columns} VALUES (?, ?, ?, ?, ?, ?)"
    for kind, hits in answer.lists.items():
        rows = [(track, kind, rank, h.subject, h.cosine, h.ratio) for rank, h in enumerate(hits, 1)]
        case.db.executemany(hit, rows)
    joined = (
        "INSERT INTO candidate"
        " (track, list, rank, subject, ratio, score, cosines, support, passes, at_bound)"
        " VALUES (?, 'joined', ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    for rank, c in enumerate(answer.joined, 1):
        cosines, support = json.dumps(c.cosines), json.dumps(c.support)
        values = (track, rank, c.subject, c.ratio, c.score, cosines, support, c.passes, c.at_bound)
        case.db.execute(joined, values)


def photographs(case: CaseStore) -> list[Photograph]:
    """Return the photographs of the gallery as of the last search, the unusable ones included."""
    query = "SELECT path, subject, sha256, problem FROM gallery_photo ORDER BY id"
    return [Photograph(*row) for row in case.db.execute(query)]


def save_photographs(case: CaseStore, rows: Sequence[Photograph]) -> None:
    """Replace the photographs of the last search by these, within a transaction."""
    case.db.execute("DELETE FROM gallery_photo")
    insert = "INSERT INTO gallery_photo (path, subject, sha256, problem) VALUES (?, ?, ?, ?)"
    case.db.executemany(insert, rows)


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
    """Return the rows of all tracks, or of only one."""
    chosen, values = ("", ()) if only is None else ("WHERE track = ?", (only,))
    return case.db.execute(f"{query} {chosen} {order}", values)


def _probe_name(track: int, kind: str) -> str:
    """Return the name that a probe is encrypted under; changing it makes stored probes
    unreadable."""
    return f"probe {kind} of track {track}"
