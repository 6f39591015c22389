"""The case as a report shows it: the `export` document with more fields.

It adds times of day, verdicts in words, weights and licences. The pages and report.json show the
same values; docs/report.md names each field.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, TypedDict

from fasr_video import __version__
from fasr_video.case.case import Case
from fasr_video.case.document import as_document
from fasr_video.case.entries import (
    ClusterEntry,
    Document,
    FaceEntry,
    LinkEntry,
    LogLine,
    PhotographEntry,
    RunEntry,
    SourceEntry,
    TrackEntry,
    track_state,
)
from fasr_video.case.last_search import LastSearch
from fasr_video.case.recording import StatedClock
from fasr_video.case.results import Encoding, all_features, encodings
from fasr_video.clock import now
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.recognition.combiner import shares
from fasr_video.report.words import NOTICE, verdict
from fasr_video.types import shallow_dict
from fasr_video.weights.manifest import Entry, read_manifest

SCHEMA = "fasr-video/report/1"
PAIRS = ((Kind.SR, Kind.BEST), (Kind.SR, Kind.POOLED), (Kind.BEST, Kind.POOLED))

# The times of day of a track. A dictionary, because a field of a dataclass cannot be called `from`.
TimesOfDay = TypedDict(
    "TimesOfDay", {"start": str, "end": str, "uncertainty_seconds": float, "from": str}
)


@dataclass(frozen=True, slots=True)
class ReportFace(FaceEntry):
    seconds: float
    """Since the first frame of the footage."""
    wall: str | None
    """Time of day."""
    weight: float | None
    """Its share in the pooled probe; None where nothing was pooled."""


@dataclass(frozen=True, slots=True)
class ReportTrack(TrackEntry):
    shown: ReportFace | None
    auxiliaries: Sequence[ReportFace]
    camera: str | None
    wall: TimesOfDay | None
    state: str
    headline: str
    why: str
    page: str
    lr_px: int | None
    models: dict[str, Any] | None
    """`Encoding.provenance`."""
    cosines_between_probes: dict[str, float]

    @property
    def kept_faces(self) -> list[ReportFace]:
        """Return the face that stands for the track, and its auxiliary faces."""
        return [face for face in (self.shown, *self.auxiliaries) if face is not None]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    role: str
    sha256: str
    what: str
    data: str | None
    """What it was trained on."""
    licence: str


@dataclass(frozen=True, slots=True)
class Report:
    """The content of report.json."""

    schema: str
    case_schema: str
    made_at: str
    version: str
    log_head: str
    notice: str
    tools: dict[str, str]
    models: list[ModelEntry]
    faces_by_reason: dict[str, int]
    case: dict[str, str]
    settings: dict[str, dict[str, Any]]
    runs: list[RunEntry]
    sources: list[SourceEntry]
    tracks: list[ReportTrack]
    links: list[LinkEntry]
    clusters: dict[str, list[ClusterEntry]]
    searched: LastSearch | None
    gallery: list[PhotographEntry]
    log: list[LogLine]
    redacted: bool
    """Whether bystanders and the gallery's photographs are pixelated."""


def as_report(case: Case, redacted: bool = False) -> Report:
    """Return the content of report.json."""
    document = as_document(case)
    encoded = encodings(case)
    faces: Counter[str] = Counter()
    for source in document.sources:
        faces.update(source.faces_by_reason)
    values = shallow_dict(document) | {
        "schema": SCHEMA,
        "tracks": _tracks(case, document, encoded),
    }
    return Report(
        **values,
        case_schema=document.schema,
        made_at=now(),
        version=__version__,
        log_head=case.meta("log_head"),
        notice=NOTICE,
        tools=json.loads(case.meta("versions")),
        models=_models(document.sources, [encoding.provenance for encoding in encoded.values()]),
        faces_by_reason=dict(faces.most_common()),
        redacted=redacted,
    )


def _tracks(case: Case, document: Document, encoded: Mapping[int, Encoding]) -> list[ReportTrack]:
    sources = {source.sha256: source for source in document.sources}
    features = all_features(case)
    tracks = []
    for track in document.tracks:
        source = sources[track.source_sha256]
        encoding = encoded.get(track.id)
        models = None if encoding is None else encoding.provenance
        faces = _faces(track, source, models)
        headline, why = verdict(track, document.searched)
        values = shallow_dict(track) | {
            "shown": faces.pop(0) if track.shown is not None else None,
            "auxiliaries": faces,
        }
        tracks.append(
            ReportTrack(
                **values,
                camera=source.camera,
                wall=_times_of_day(track, source.clock),
                state=track_state(track),
                headline=headline,
                why=why,
                page=f"{track.name}.html",
                lr_px=None if encoding is None else encoding.side,
                models=models,
                cosines_between_probes=_cosines(features.get(track.id, {})),
            )
        )
    return tracks


def _faces(
    track: TrackEntry, source: SourceEntry, models: Mapping[str, object] | None
) -> list[ReportFace]:
    """Return the kept faces of a track with their times and their weights."""
    first_pts, time_base = source.info["first_pts"], Fraction(source.info["time_base"])
    weights: Sequence[float | None] = [None] * len(track.kept_faces)
    if models is not None:
        weights = shares(len(weights), paired=models["pooled_by"] != "mean")
    faces = []
    for face, weight in zip(track.kept_faces, weights, strict=True):
        seconds = float((face.pts - first_pts) * time_base)
        wall = None if source.clock is None else _time_of_day(source.clock, seconds)
        faces.append(ReportFace(**shallow_dict(face), seconds=seconds, wall=wall, weight=weight))
    return faces


def _times_of_day(track: TrackEntry, clock: StatedClock | None) -> TimesOfDay | None:
    if clock is None:
        return None
    return {
        "start": _time_of_day(clock, track.start_seconds),
        "end": _time_of_day(clock, track.end_seconds),
        "uncertainty_seconds": clock["uncertainty_seconds"],
        "from": clock["from"],
    }


def _time_of_day(clock: StatedClock, seconds: float) -> str:
    at = datetime.fromisoformat(clock["start"]) + timedelta(seconds=seconds)
    return at.isoformat(sep=" ", timespec="milliseconds")


def _cosines(features: Mapping[Kind, Feature]) -> dict[str, float]:
    """Return the cosines between a track's probes.

    They show how far the reconstruction drifted from the camera's own faces.
    """
    cosines = {}
    for first, second in PAIRS:
        if first in features and second in features:
            cosines[f"{first}_{second}"] = float(features[first] @ features[second])
    return cosines


def _models(sources: list[SourceEntry], of_tracks: list[dict[str, Any]]) -> list[ModelEntry]:
    """Return each model that was used, with its hash, licence and training data as far as known."""
    bundled = {entry.sha256: entry for entry in read_manifest().values()}
    models: dict[tuple[str, str], ModelEntry] = {}

    def add(role: str, sha256: str | None, licence: str | None = None) -> None:
        if sha256 and (role, sha256) not in models:
            models[role, sha256] = _model(role, sha256, bundled.get(sha256), licence)

    for source in sources:
        add("finds faces", source.detector.model_sha256, source.detector.licence)
        add("rejects what is not a face", source.detector.embedder)
    for made_with in of_tracks:
        restorer = made_with["restorer"] or {}
        add("compares faces", made_with["embedder"])
        add("pools faces", restorer.get("combiner"))
        add("draws reconstructions", restorer.get("network"))
        add("finds landmarks", restorer.get("landmarks"))
        for name, sha256 in restorer.get("classifier", {}).items():
            add(f"reads {name}", sha256)
    return list(models.values())


def _model(role: str, sha256: str, entry: Entry | None, licence: str | None) -> ModelEntry:
    if entry is None:
        licence = licence or "unknown here: ask whoever gave you the file"
        return ModelEntry(role, sha256, "not bundled with fasr-video", None, licence)
    return ModelEntry(role, sha256, f"{entry.what} ({entry.file})", entry.data, entry.licence)
