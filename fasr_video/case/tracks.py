"""Read and write the tracks of a case and their faces."""

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
    """Its number within its source; None while the track is live."""
    state: str
    """`live`, or `done`."""
    verdict: str | None
    verdict_reason: str | None
    mean_score: float | None
    norm: float | None
    shown_face: int | None

    @property
    def name(self) -> str:
        """Return the name that people see for a finished track: T2, or S3-T2 for the third
        source."""
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
    """None while its track is live and the face may still be selected."""
    aligned: str | None = None
    native: str | None = None
    """Names of its pictures; None where none are stored."""
    native_x: int | None = None
    native_y: int | None = None
    """Top left corner of the native picture in the frame."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2

    @property
    def points(self) -> list[list[float]] | None:
        """Return its landmarks, or None where the detector found none."""
        if self.landmarks is None:
            return None
        points: list[list[float]] = json.loads(self.landmarks)
        return points

    @property
    def corner(self) -> tuple[int, int]:
        """Return the top left corner of the stored native picture in the frame."""
        return require_integer(self.native_x), require_integer(self.native_y)

    @property
    def quality(self) -> Quality:
        turn = math.nan if self.turn is None else self.turn
        return Quality(
            **{name: getattr(self, name) for name in Quality.__slots__ if name != "turn"}, turn=turn
        )


@dataclass(frozen=True, slots=True)
class Sightings:
    """Counts and extremes over all faces of a track."""

    first_frame: int
    last_frame: int
    first_pts: int
    last_pts: int
    count: int
    most_eye_px: float


@dataclass(frozen=True, slots=True)
class Span:
    """The first and last time of a track."""

    first_pts: int
    last_pts: int
    count: int
    """Number of its faces."""


def require_integer(value: object) -> int:
    """Return `value`, or raise where the database holds something else in place of an integer."""
    if not isinstance(value, int):
        reason = f"it holds {value!r} where an integer belongs"
        raise IntegrityError(
            DATABASE, reason, "restore it from a copy; `fasr-video verify` lists all problems"
        )
    return value


def finished_tracks(case: CaseStore, only: int | None = None) -> list[Track]:
    """Return the finished tracks in the order of their ids, or only track `only`."""
    chosen, values = _of("id", only)
    query = f"SELECT * FROM track WHERE state = 'done'{chosen} ORDER BY id"
    return [Track(*row) for row in case.db.execute(query, values)]


def finished_track(case: CaseStore, number: int) -> Track:
    """Return the finished track with this id; raise where there is none."""
    tracks = finished_tracks(case, number)
    if not tracks:
        raise CaseError(
            f"track {number}",
            "the case has no finished track of this number",
            "`fasr-video show CASE` lists them",
        )
    return tracks[0]


def track_names(case: CaseStore) -> dict[str, int]:
    """Return the ids of the finished tracks by the names that people see."""
    return {track.name: track.id for track in finished_tracks(case)}


def track_number(case: CaseStore, name: str) -> int:
    """Return the id of a finished track by the name that people see; raise where there is none."""
    ids = track_names(case)
    if name not in ids:
        raise CaseError(
            f"track {name}",
            "the case has no finished track of this name",
            "`fasr-video show CASE` lists them",
        )
    return ids[name]


def usable_tracks(case: CaseStore) -> list[Track]:
    """Return the finished tracks that have a usable face."""
    return [track for track in finished_tracks(case) if track.verdict == "usable"]


def sightings(case: CaseStore, only: int | None = None) -> dict[int, Sightings]:
    """Return by track the counts and extremes over all its faces, for all tracks or only one."""
    chosen, values = _of("track", only)
    query = (
        "SELECT track, min(frame_index), max(frame_index), min(pts), max(pts), count(*),"
        f" max(eye_px) FROM face WHERE track IS NOT NULL{chosen} GROUP BY track"
    )
    return {track: Sightings(*numbers) for track, *numbers in case.db.execute(query, values)}


def spans(case: CaseStore) -> dict[int, Span]:
    """Return by finished track its first and last time.

    Look-ups in the index keep this fast where a case has millions of faces.
    """
    query = """
        SELECT id, (SELECT pts FROM face WHERE face.track = track.id ORDER BY frame_index LIMIT 1),
            (SELECT pts FROM face WHERE face.track = track.id ORDER BY frame_index DESC LIMIT 1),
            (SELECT count(*) FROM face WHERE face.track = track.id)
        FROM track WHERE state = 'done'"""
    return {track: Span(*numbers) for track, *numbers in case.db.execute(query)}


def reasons(case: CaseStore, only: int | None = None) -> dict[int, dict[str | None, int]]:
    """Return by track the number of faces with each reason, for all tracks or only one."""
    chosen, values = _of("track", only)
    query = (
        f"SELECT track, reason, count(*) FROM face WHERE track IS NOT NULL{chosen}"
        " GROUP BY track, reason ORDER BY track, reason"
    )
    counts: dict[int, dict[str | None, int]] = {}
    for track, reason, count in case.db.execute(query, values):
        counts.setdefault(track, {})[reason] = count
    return counts


def commonest_reason(case: CaseStore, track: int) -> str:
    """Return the reason that most faces of a track have; of equally common ones the first
    by name."""
    counts = reasons(case, track)[track]
    return min((str(reason) for reason in counts), key=lambda reason: (-counts[reason], reason))


def reasons_of_source(case: CaseStore, source: int) -> dict[str | None, int]:
    """Return the number of faces of a source with each reason; under None those without one yet."""
    query = "SELECT reason, count(*) FROM face WHERE source = ? GROUP BY reason ORDER BY reason"
    return dict(case.db.execute(query, (source,)).fetchall())


def all_faces(case: CaseStore, source: int | None = None) -> Iterator[Face]:
    """Yield all faces, or those of one source, with or without a track, in the order of the
    footage."""
    chosen, values = _of("source", source)
    for row in case.db.execute(
        f"SELECT * FROM face WHERE true{chosen} ORDER BY source, frame_index, id", values
    ):
        yield Face(*row)


def read_face(case: CaseStore, number: int) -> Face:
    """Return the face with this id."""
    return Face(*case.db.execute("SELECT * FROM face WHERE id = ?", (number,)).fetchone())


def shown_faces(case: CaseStore, only: int | None = None) -> dict[int, Face]:
    """Return by finished track the face that represents it: LR0, or the best unusable one."""
    chosen, values = _of("track.id", only)
    query = (
        "SELECT face.* FROM track JOIN face ON face.id = track.shown_face"
        f" WHERE track.state = 'done'{chosen}"
    )
    return {row["track"]: Face(*row) for row in case.db.execute(query, values)}


def auxiliaries(case: CaseStore, only: int | None = None) -> dict[int, list[Face]]:
    """Return by track its auxiliary faces in the order of time; tracks without any are left out."""
    chosen, values = _of("track", only)
    faces: dict[int, list[Face]] = {}
    query = f"SELECT * FROM face WHERE reason = 'aux'{chosen} ORDER BY track, frame_index, id"
    for row in case.db.execute(query, values):
        faces.setdefault(row["track"], []).append(Face(*row))
    return faces


def faces_with_pictures(case: CaseStore, track: int) -> list[Face]:
    """Return the faces of a live or finished track whose pictures are stored."""
    query = "SELECT * FROM face WHERE track = ? AND aligned IS NOT NULL ORDER BY id"
    return [Face(*row) for row in case.db.execute(query, (track,))]


def native_picture(case: CaseStore, face: Face) -> Image:
    """Return the original pixels of the recording around a face whose pictures are stored."""
    return case.read_picture(_picture(face.native))


def crop(case: CaseStore, face: Face) -> FaceCrop:
    """Return both pictures of a face."""
    return FaceCrop(
        case.read_picture(_picture(face.aligned)), native_picture(case, face), face.corner
    )


def _picture(name: str | None) -> str:
    """Return the name of a stored picture; raise where there is none."""
    if name is None:
        reason = "a selected face of a track has no picture"
        raise IntegrityError(
            DATABASE, reason, "restore it from a copy; `fasr-video verify` lists all problems"
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
    """Return whether some frame shows both tracks."""
    query = (
        "SELECT 1 FROM face one JOIN face other"
        " ON one.source = other.source AND one.frame_index = other.frame_index"
        " WHERE one.track = ? AND other.track = ? LIMIT 1"
    )
    return case.db.execute(query, (a, b)).fetchone() is not None


# What a run writes within a transaction, and what it reads to resume.


def running_tracks(case: CaseStore, source: int) -> list[Track]:
    """Return the live tracks of a source."""
    query = "SELECT * FROM track WHERE source = ? AND state = 'live' ORDER BY id"
    return [Track(*row) for row in case.db.execute(query, (source,))]


def detection_scores(case: CaseStore, track: int) -> list[float]:
    """Return the detector's scores of a track's faces in the order of time."""
    query = "SELECT score FROM face WHERE track = ? ORDER BY id"
    return [score for (score,) in case.db.execute(query, (track,))]


def next_face_id(case: CaseStore) -> int:
    """Return the first unused id of a face."""
    return 1 + (case.db.execute("SELECT max(id) FROM face").fetchone()[0] or 0)


def begin_track(case: CaseStore, source: int, tracker_id: int) -> int:
    """Add a live track and return its id."""
    insert = "INSERT INTO track (source, tracker_id, state) VALUES (?, ?, 'live')"
    return int(case.db.execute(insert, (source, tracker_id)).lastrowid or 0)


def add_faces(case: CaseStore, faces: Iterable[Face]) -> None:
    """Add faces; SQLite stores NaN as NULL."""
    columns = Face.__slots__
    insert = f"INSERT INTO face ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    case.db.executemany(insert, map(attrgetter(*columns), faces))


def set_reasons(case: CaseStore, reasons: Mapping[int, Reason]) -> None:
    """Store why faces were selected or not, by their ids."""
    case.db.executemany(
        "UPDATE face SET reason = ? WHERE id = ?",
        [(reason, face) for face, reason in reasons.items()],
    )


def release_pictures(case: CaseStore, faces: Iterable[int]) -> None:
    """Clear the picture names of these faces; the files are deleted by `sweep_pictures`."""
    case.db.executemany(
        "UPDATE face SET aligned = NULL, native = NULL WHERE id = ?", [(face,) for face in faces]
    )


def discard_track(case: CaseStore, track: int) -> None:
    """Delete a live track that the tracker did not confirm; its faces stay."""
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
    """End a live track and give it the next number of its source.

    It is usable unless `insufficient` says why not.
    """
    verdict = "usable" if insufficient is None else "insufficient"
    case.db.execute(
        "UPDATE track SET state = 'done', verdict = ?, verdict_reason = ?, mean_score = ?,"
        " norm = ?, shown_face = ?, number = 1 + (SELECT coalesce(max(number), 0) FROM track other"
        " WHERE other.source = track.source) WHERE id = ?",
        (verdict, insufficient, mean_score, norm, shown, track),
    )


def _of(column: str, only: int | None) -> tuple[str, tuple[int, ...]]:
    """Return an SQL condition and its value for one row id, or nothing for all rows."""
    return ("", ()) if only is None else (f" AND {column} = ?", (only,))
