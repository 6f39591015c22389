"""A case as a report tells it: what `export` gives out, with times of day, verdicts in words, weights and licences.

The same values stand in report.json and on the pages; docs/report.md names each field.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
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
    document = as_document(case)
    sources = {s["sha256"]: s for s in document["sources"]}
    made, features = encodings(case), all_features(case)
    models = {track: probes.provenance for track, probes in made.items()}
    faces: Counter[str] = Counter()
    for source in document["sources"]:
        faces.update(source["faces_by_reason"])
    for track in document["tracks"]:
        source, probes = sources[track["source_sha256"]], made.get(track["id"])
        track |= _times(track, source)
        headline, why = verdict(track, document["searched"])
        track |= {
            "state": track_state(track),
            "headline": headline,
            "why": why,
            "page": f"{track['name']}.html",
        }
        track["lr_px"] = None if probes is None else probes.side
        track["models"] = models.get(track["id"])
        track["cosines_between_probes"] = _cosines(features.get(track["id"], {}))
        _weigh(track)
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
    """What reviewers decided and nobody took back."""
    return [d for d in track["decisions"] if d["undone_by"] is None]


def _times(track: dict[str, Any], source: dict[str, Any]) -> dict[str, object]:
    """Seconds of each kept face, and the time of day where the source's clock is known."""
    info, clock = source["info"], source["clock"]
    for face in filter(None, (track["shown"], *track["auxiliaries"])):
        face["seconds"] = float((face["pts"] - info["first_pts"]) * Fraction(info["time_base"]))
        face["wall"] = None if clock is None else _wall(clock, face["seconds"])
    wall = None
    if clock is not None:
        wall = {k: _wall(clock, track[f"{k}_seconds"]) for k in ("start", "end")}
        wall |= {"uncertainty_seconds": clock["uncertainty_seconds"], "from": clock["from"]}
    return {"camera": source["camera"], "wall": wall}


def _wall(clock: dict[str, Any], seconds: float) -> str:
    at = datetime.fromisoformat(clock["start"]) + timedelta(seconds=seconds)
    return at.isoformat(sep=" ", timespec="milliseconds")


def _cosines(found: Mapping[Kind, Feature]) -> dict[str, float]:
    """How near a track's probes are to each other: how far the reconstruction drifted from the camera's own faces."""
    return {f"{a}_{b}": float(found[a] @ found[b]) for a, b in PAIRS if a in found and b in found}


def _weigh(track: dict[str, Any]) -> None:
    """What each face weighs in the pooled probe; None where nothing was pooled."""
    kept = [f for f in (track["shown"], *track["auxiliaries"]) if f is not None]
    models = track["models"]
    weights = (
        [None] * len(kept)
        if models is None
        else shares(len(kept), paired=models["pooled_by"] != "mean")
    )
    for face, weight in zip(kept, weights, strict=True):
        face["weight"] = weight


def _models(
    sources: list[dict[str, Any]], of_tracks: list[dict[str, Any]]
) -> list[dict[str, object]]:
    """Each model at work with its hash, and what the box's manifest says of it: data, licence, conditions of use."""
    bundled = {entry.sha256: entry for entry in read_manifest().values()}
    found: dict[tuple[str, str], dict[str, object]] = {}

    def add(role: str, sha256: str | None, licence: str | None = None) -> None:
        if sha256:
            found.setdefault(
                (role, sha256),
                {"role": role, "sha256": sha256, **_described(bundled.get(sha256), licence)},
            )

    for source in sources:
        add("finds faces", source["detector"]["model_sha256"], source["detector"]["licence"])
        add("tells what is no face", source["detector"]["embedder"])
    for models in of_tracks:
        restorer = models["restorer"] or {}
        add("compares faces", models["embedder"])
        add("pools faces", restorer.get("combiner"))
        add("draws reconstructions", restorer.get("network"))
        add("finds landmarks", restorer.get("landmarks"))
        for name, sha256 in restorer.get("classifier", {}).items():
            add(f"reads {name}", sha256)
    return list(found.values())


def _described(entry: Entry | None, licence: str | None) -> dict[str, object]:
    if entry is None:
        return {
            "what": "not from the box",
            "data": None,
            "licence": licence or "unknown here: ask who gave the file",
        }
    return {"what": f"{entry.what} ({entry.file})", "data": entry.data, "licence": entry.licence}
