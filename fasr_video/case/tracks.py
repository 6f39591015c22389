"""The tracks of a case and their faces: what is read of them, and what a run stores of a segment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

from fasr_video.case.store import DATABASE, CaseStore
from fasr_video.errors import CaseError, IntegrityError
from fasr_video.types import FaceCrop, Image, Quality, Reason


@dataclass(frozen=True, slots=True)
class Track:
    """A row of `track`."""

    id: int
    source: int
    tracker_id: int
    number: int | None
    """Within its source; None while it runs."""
    state: str
    """`live`, or `done`."""
    verdict: str | None
    verdict_reason: str | None
    mean_score: float | None
    norm: float | None
    shown_face: int | None

    @property
    def name(self) -> str:
        """What a finished track is called wherever people see it: T2, or S3-T2 of the third source."""
        number = None if self.number is None else require_integer(self.number)
        source = require_integer(self.source)
        return f"T{number}" if source == 1 else f"S{source}-T{number}"


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame: a row of `face`."""

    id: int
    source: int
    track: int | None
    frame_index: int
    pts: int
    x1: float
    y1: float
    x2: float
    y2: float
    landmarks: str | None
    """JSON: five points in the frame."""
    score: float
    eye_px: float
    sharpness: float
    turn: float | None
    exposure: float
    contrast: float
    inside: float
    clear: float
    total: float
    reason: str | None
    """None while its track runs and it may still be chosen."""
    aligned: str | None = None
    native: str | None = None
    """Names of its pictures, where they are kept."""
    native_x: int | None = None
    native_y: int | None = None
    """Where in the frame the native picture begins."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2

    @property
    def points(self) -> list[list[float]] | None:
        """Its landmarks; None where the detector gave none."""
        found: list[list[float]] | None = (
            None if self.landmarks is None else json.loads(self.landmarks)
        )
        return found

    @property
    def corner(self) -> tuple[int, int]:
        """Where in the frame the native picture of a kept face begins."""
        return require_integer(self.native_x), require_integer(self.native_y)

    @property
    def quality(self) -> Quality:
        turn = math.nan if self.turn is None else self.turn
        return Quality(
            **{name: getattr(self, name) for name in Quality.__slots__ if name != "turn"}, turn=turn
        )


@dataclass(frozen=True, slots=True)
class Sightings:
    """All faces of a track in numbers."""

    first_frame: int
    last_frame: int
    first_pts: int
    last_pts: int
    count: int
    most_eye_px: float


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where a track goes."""

    first_pts: int
    last_pts: int
    count: int
    """Of its faces."""


def require_integer(value: object) -> int:
    """Return a number of a case's database. SQLite holds a text where a number belongs, if somebody puts one there."""
    if not isinstance(value, int):
        reason = f"it holds {value!r} where a whole number belongs"
        raise IntegrityError(
            DATABASE, reason, "restore it from a copy; `fasr-video verify` tells the rest"
        )
    return value


def finished_tracks(case: CaseStore, only: int | None = None) -> list[Track]:
    """Return the finished tracks by their ids, or `only` one."""
    chosen, values = _of("id", only)
    query = f"SELECT * FROM track WHERE state = 'done'{chosen} ORDER BY id"
    return [Track(*row) for row in case.db.execute(query, values)]


def finished_track(case: CaseStore, number: int) -> Track:
    """Return one that is finished, or raise."""
    found = finished_tracks(case, number)
    if not found:
        raise CaseError(
            f"track {number}",
            "no such finished track in this case",
            "`fasr-video show CASE` lists them",
        )
    return found[0]


def track_names(case: CaseStore) -> dict[str, int]:
    """Return the finished tracks by the names that they are shown under."""
    return {track.name: track.id for track in finished_tracks(case)}


def track_number(case: CaseStore, name: str) -> int:
    """Return the number of a finished track by the name that it is shown under."""
    known = track_names(case)
    if name not in known:
        raise CaseError(
            f"track {name}",
            "no such finished track in this case",
            "`fasr-video show CASE` lists them",
        )
    return known[name]


def usable_tracks(case: CaseStore) -> list[Track]:
    """Return the finished tracks that have a usable face."""
    return [track for track in finished_tracks(case) if track.verdict == "usable"]


def sightings(case: CaseStore, only: int | None = None) -> dict[int, Sightings]:
    """Return what all faces of each track, or of `only` one, come to."""
    chosen, values = _of("track", only)
    query = (
        "SELECT track, min(frame_index), max(frame_index), min(pts), max(pts), count(*), max(eye_px) FROM face"
        f" WHERE track IS NOT NULL{chosen} GROUP BY track"
    )
    return {track: Sightings(*numbers) for track, *numbers in case.db.execute(query, values)}


def spans(case: CaseStore) -> dict[int, Span]:
    """Return where each finished track begins and ends, by look-ups in the index: a long case has millions of faces."""
    query = """
        SELECT id, (SELECT pts FROM face WHERE face.track = track.id ORDER BY frame_index LIMIT 1),
            (SELECT pts FROM face WHERE face.track = track.id ORDER BY frame_index DESC LIMIT 1),
            (SELECT count(*) FROM face WHERE face.track = track.id)
        FROM track WHERE state = 'done'"""
    return {track: Span(*numbers) for track, *numbers in case.db.execute(query)}


def reasons(case: CaseStore, only: int | None = None) -> dict[int, dict[str | None, int]]:
    """Return how many faces of each track, or of `only` one, have which reason."""
    chosen, values = _of("track", only)
    query = (
        f"SELECT track, reason, count(*) FROM face WHERE track IS NOT NULL{chosen} GROUP BY track, reason"
        " ORDER BY track, reason"
    )
    found: dict[int, dict[str | None, int]] = {}
    for track, reason, count in case.db.execute(query, values):
        found.setdefault(track, {})[reason] = count
    return found


def commonest_reason(case: CaseStore, track: int) -> str:
    """Return the reason that most faces of a track have."""
    counts = reasons(case, track)[track]
    return min((str(reason) for reason in counts), key=lambda reason: (-counts[reason], reason))


def reasons_of_source(case: CaseStore, source: int) -> dict[str | None, int]:
    """Return how many faces of a source have which reason; under None those that have none yet."""
    query = "SELECT reason, count(*) FROM face WHERE source = ? GROUP BY reason ORDER BY reason"
    return dict(case.db.execute(query, (source,)).fetchall())


def all_faces(case: CaseStore, source: int | None = None) -> Iterator[Face]:
    """Give all faces, or those of one source, also those of no track, in the order of the footage."""
    chosen, values = _of("source", source)
    for row in case.db.execute(
        f"SELECT * FROM face WHERE true{chosen} ORDER BY source, frame_index, id", values
    ):
        yield Face(*row)


def read_face(case: CaseStore, number: int) -> Face:
    return Face(*case.db.execute("SELECT * FROM face WHERE id = ?", (number,)).fetchone())


def shown_faces(case: CaseStore, only: int | None = None) -> dict[int, Face]:
    """Return by track the face that a finished track is shown by: LR0, or the best unusable one."""
    chosen, values = _of("track.id", only)
    query = f"SELECT face.* FROM track JOIN face ON face.id = track.shown_face WHERE track.state = 'done'{chosen}"
    return {row["track"]: Face(*row) for row in case.db.execute(query, values)}


def auxiliaries(case: CaseStore, only: int | None = None) -> dict[int, list[Face]]:
    """Return by track its auxiliary faces in the order of time; a track without any is not in it."""
    chosen, values = _of("track", only)
    found: dict[int, list[Face]] = {}
    query = f"SELECT * FROM face WHERE reason = 'aux'{chosen} ORDER BY track, frame_index, id"
    for row in case.db.execute(query, values):
        found.setdefault(row["track"], []).append(Face(*row))
    return found


def faces_with_pictures(case: CaseStore, track: int) -> list[Face]:
    """Return the faces of a track whose pictures are kept, whether it runs or is finished."""
    query = "SELECT * FROM face WHERE track = ? AND aligned IS NOT NULL ORDER BY id"
    return [Face(*row) for row in case.db.execute(query, (track,))]


def native_picture(case: CaseStore, face: Face) -> Image:
    """Read the recording's own pixels around a face whose pictures are kept."""
    return case.read_picture(_picture(face.native))


def crop(case: CaseStore, face: Face) -> FaceCrop:
    """Read both pictures of a face."""
    return FaceCrop(
        case.read_picture(_picture(face.aligned)), native_picture(case, face), face.corner
    )


def _picture(name: str | None) -> str:
    if name is None:
        reason = "a face that speaks for a track has no picture"
        raise IntegrityError(
            DATABASE, reason, "restore it from a copy; `fasr-video verify` tells the rest"
        )
    return name


def other_boxes_in_frame(case: CaseStore, face: Face) -> list[tuple[float, float, float, float]]:
    """Return the boxes of all other faces of the same frame."""
    query = "SELECT x1, y1, x2, y2 FROM face WHERE source = ? AND frame_index = ? AND id != ?"
    return [
        (x1, y1, x2, y2)
        for x1, y1, x2, y2 in case.db.execute(query, (face.source, face.frame_index, face.id))
    ]


def are_in_one_frame(case: CaseStore, a: int, b: int) -> bool:
    """Say whether a picture shows both tracks."""
    query = (
        "SELECT 1 FROM face one JOIN face other ON one.source = other.source AND one.frame_index = other.frame_index"
        " WHERE one.track = ? AND other.track = ? LIMIT 1"
    )
    return case.db.execute(query, (a, b)).fetchone() is not None


# What a run stores, within a transaction, and what it reads to resume.


def running_tracks(case: CaseStore, source: int) -> list[Track]:
    """Return the tracks of a source that are not over."""
    query = "SELECT * FROM track WHERE source = ? AND state = 'live' ORDER BY id"
    return [Track(*row) for row in case.db.execute(query, (source,))]


def detection_scores(case: CaseStore, track: int) -> list[float]:
    """Return the detector's scores of a track's faces, in the order in which they were seen."""
    query = "SELECT score FROM face WHERE track = ? ORDER BY id"
    return [score for (score,) in case.db.execute(query, (track,))]


def next_face_id(case: CaseStore) -> int:
    """Return the first free number of a face."""
    return 1 + (case.db.execute("SELECT max(id) FROM face").fetchone()[0] or 0)


def begin_track(case: CaseStore, source: int, tracker_id: int) -> int:
    """Add a running track; returns its number."""
    insert = "INSERT INTO track (source, tracker_id, state) VALUES (?, ?, 'live')"
    return int(case.db.execute(insert, (source, tracker_id)).lastrowid or 0)


def add_faces(case: CaseStore, faces: Iterable[Face]) -> None:
    """Add faces; what is nan is kept as NULL."""
    columns = Face.__slots__
    insert = f"INSERT INTO face ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    case.db.executemany(insert, map(attrgetter(*columns), faces))


def set_reasons(case: CaseStore, known: Mapping[int, Reason]) -> None:
    """Say of faces, whose fate was open, what became of them."""
    case.db.executemany(
        "UPDATE face SET reason = ? WHERE id = ?",
        [(reason, face) for face, reason in known.items()],
    )


def release_pictures(case: CaseStore, faces: Iterable[int]) -> None:
    """Name the pictures of these faces no longer."""
    case.db.executemany(
        "UPDATE face SET aligned = NULL, native = NULL WHERE id = ?", [(face,) for face in faces]
    )


def discard_track(case: CaseStore, track: int) -> None:
    """Take out a running track that was none; its faces stay."""
    case.db.execute(
        "UPDATE face SET track = NULL, reason = ? WHERE track = ?", (Reason.UNCONFIRMED, track)
    )
    case.db.execute("DELETE FROM track WHERE id = ?", (track,))


def finish_track(
    case: CaseStore,
    track: int,
    *,
    insufficient: str | None,
    shown: int | None,
    mean_score: float | None,
    norm: float | None,
) -> None:
    """End a running track: it gets the next number of its source, and is usable unless told why not."""
    verdict = "usable" if insufficient is None else "insufficient"
    case.db.execute(
        "UPDATE track SET state = 'done', verdict = ?, verdict_reason = ?, mean_score = ?, norm = ?, shown_face = ?,"
        " number = 1 + (SELECT coalesce(max(number), 0) FROM track other WHERE other.source = track.source)"
        " WHERE id = ?",
        (verdict, insufficient, mean_score, norm, shown, track),
    )


def _of(column: str, only: int | None) -> tuple[str, tuple[int, ...]]:
    """Return a condition to add, and its value; nothing where all rows are meant."""
    return ("", ()) if only is None else (f" AND {column} = ?", (only,))
