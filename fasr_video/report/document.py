"""The case as a report shows it: the `export` document with more fields.

It adds times of day, verdicts in words, weights and licences. The pages and report.json show the
same values; docs/report.md names each field.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from fasr_video import __version__
from fasr_video.case.case import Case
from fasr_video.case.document import as_document, track_state
from fasr_video.case.results import all_features, encodings
from fasr_video.case.store import now
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.recognition.combiner import shares
from fasr_video.report.words import NOTICE, verdict
from fasr_video.weights.manifest import Entry, read_manifest

SCHEMA = "fasr-video/report/1"
PAIRS = ((Kind.SR, Kind.BEST), (Kind.SR, Kind.POOLED), (Kind.BEST, Kind.POOLED))


def as_report(case: Case) -> dict[str, Any]:
    """Return the content of report.json."""
    document = as_document(case)
    sources = {source["sha256"]: source for source in document["sources"]}
    encoded = encodings(case)
    features = all_features(case)
    models = {track: encoding.provenance for track, encoding in encoded.items()}
    faces: Counter[str] = Counter()
    for source in document["sources"]:
        faces.update(source["faces_by_reason"])
    for track in document["tracks"]:
        track |= _times(track, sources[track["source_sha256"]])
        track["state"] = track_state(track)
        track["headline"], track["why"] = verdict(track, document["searched"])
        track["page"] = f"{track['name']}.html"
        encoding = encoded.get(track["id"])
        track["lr_px"] = None if encoding is None else encoding.side
        track["models"] = models.get(track["id"])
        track["cosines_between_probes"] = _cosines(features.get(track["id"], {}))
        _add_weights(track)
    return {
        "schema": SCHEMA,
        "case_schema": document.pop("schema"),
        "made_at": now(),
        "version": __version__,
        "log_head": case.meta("log_head"),
        "notice": NOTICE,
        "tools": json.loads(case.meta("versions")),
        "models": _models(document["sources"], list(models.values())),
        "faces_by_reason": dict(faces.most_common()),
        **document,
    }


def standing(track: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the reviewers' decisions that nobody took back."""
    return [d for d in track["decisions"] if d["undone_by"] is None]


def _times(track: dict[str, Any], source: dict[str, Any]) -> dict[str, object]:
    """Add the times of each kept face, and return the track's camera and time of day."""
    info = source["info"]
    clock = source["clock"]
    for face in _faces_of(track):
        face["seconds"] = float((face["pts"] - info["first_pts"]) * Fraction(info["time_base"]))
        face["wall"] = None if clock is None else _time_of_day(clock, face["seconds"])
    wall = None
    if clock is not None:
        wall = {
            "start": _time_of_day(clock, track["start_seconds"]),
            "end": _time_of_day(clock, track["end_seconds"]),
            "uncertainty_seconds": clock["uncertainty_seconds"],
            "from": clock["from"],
        }
    return {"camera": source["camera"], "wall": wall}


def _faces_of(track: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the face that stands for the track and its auxiliary faces."""
    return [face for face in (track["shown"], *track["auxiliaries"]) if face is not None]


def _time_of_day(clock: dict[str, Any], seconds: float) -> str:
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


def _add_weights(track: dict[str, Any]) -> None:
    """Add each face's weight in the pooled probe; None where nothing was pooled."""
    faces = _faces_of(track)
    models = track["models"]
    weights: Sequence[float | None] = [None] * len(faces)
    if models is not None:
        weights = shares(len(faces), paired=models["pooled_by"] != "mean")
    for face, weight in zip(faces, weights, strict=True):
        face["weight"] = weight


def _models(
    sources: list[dict[str, Any]], of_tracks: list[dict[str, Any]]
) -> list[dict[str, object]]:
    """Return each model that was used, with its hash, licence and training data as far as known."""
    bundled = {entry.sha256: entry for entry in read_manifest().values()}
    rows: dict[tuple[str, str], dict[str, object]] = {}

    def add(role: str, sha256: str | None, licence: str | None = None) -> None:
        if sha256:
            row = {"role": role, "sha256": sha256, **_description(bundled.get(sha256), licence)}
            rows.setdefault((role, sha256), row)

    for source in sources:
        add("finds faces", source["detector"]["model_sha256"], source["detector"]["licence"])
        add("rejects what is not a face", source["detector"]["embedder"])
    for models in of_tracks:
        restorer = models["restorer"] or {}
        add("compares faces", models["embedder"])
        add("pools faces", restorer.get("combiner"))
        add("draws reconstructions", restorer.get("network"))
        add("finds landmarks", restorer.get("landmarks"))
        for name, sha256 in restorer.get("classifier", {}).items():
            add(f"reads {name}", sha256)
    return list(rows.values())


def _description(entry: Entry | None, licence: str | None) -> dict[str, object]:
    if entry is None:
        return {
            "what": "not bundled with fasr-video",
            "data": None,
            "licence": licence or "unknown here: ask whoever gave you the file",
        }
    return {"what": f"{entry.what} ({entry.file})", "data": entry.data, "licence": entry.licence}
