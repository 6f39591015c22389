"""The pages of a report: static HTML without scripts, each one file with pictures and style."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from fasr_video.case.case import Case
from fasr_video.case.entries import (
    SourceEntry,
    TrackEntry,
    certainty_note,
    decided_subject,
    picture_name,
)
from fasr_video.case.recording import clock_correction
from fasr_video.console import clock, count
from fasr_video.report import pictures, words
from fasr_video.report.document import Report, ReportFace, ReportTrack
from fasr_video.report.photographs import Photographs
from fasr_video.report.pictures import Picture, TrackPictures
from fasr_video.types import REASON_TEXT, faces_of_reason

MEASURES = {
    "total": "Quality, all measures together",
    "sharpness": "Sharpness, 0 to 1",
    "turn": "Turn, 0 frontal to 1 profile",
    "exposure": "Brightness, 0 to 1",
    "contrast": "Contrast, 0 to 1",
    "inside": "Inside the picture, 0 to 1",
    "clear": "Not covered, 0 to 1",
    "score": "Detector's score",
}

# Browsers let a page show its own pictures and nothing else. Its style is allowed by its hash.
POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"


def track_page(
    report: Report,
    index: int,
    track_pictures: TrackPictures,
    photographs: Photographs,
) -> str:
    """Return the page of the track at this index of the report's tracks."""
    tracks = report.tracks
    before = tracks[index - 1] if index else None
    after = tracks[index + 1] if index + 1 < len(tracks) else None
    values = _track_values(report, tracks[index], track_pictures, photographs)
    return _TEMPLATES.get_template("track.html").render(values, before=before, after=after)


def case_page(report: Report, thumbnails: Mapping[str, Picture | None]) -> str:
    """Return the page of the case."""
    return _TEMPLATES.get_template("case.html").render(
        _case_values(report, thumbnails), href=lambda t: t.page
    )


def print_document(
    report: Report,
    case: Case,
    thumbnails: Mapping[str, Picture | None],
    photographs: Photographs,
    *,
    redact: bool = False,
) -> str:
    """Return case and tracks in one document, for print."""
    part = _TEMPLATES.get_template("track_parts.html")
    parts = []
    for track in report.tracks:
        track_pictures = pictures.of_track(case, track, redact)
        html = part.render(_track_values(report, track, track_pictures, photographs))
        parts.append({"name": track.name, "html": Markup(html)})
    values = _case_values(report, thumbnails)
    return _TEMPLATES.get_template("pdf.html").render(
        values, parts=parts, href=lambda t: f"#{t.name}"
    )


def thumbnail_of(track: TrackEntry, track_pictures: TrackPictures) -> Picture | None:
    """Return the track's picture for the page of the case: LR0 as the camera recorded it."""
    return None if track.shown is None else track_pictures.thumbnails.get(track.shown.face)


def _case_values(report: Report, thumbnails: Mapping[str, Picture | None]) -> dict[str, object]:
    tracks = report.tracks
    states = [t.state for t in tracks]
    tiles = [
        ("sources", len(report.sources)),
        ("frames processed", sum(s.frames_looked_at for s in report.sources)),
        ("faces found", sum(report.faces_by_reason.values())),
        ("tracks", len(tracks)),
        ("with candidates", states.count("candidates")),
        ("unknown", states.count("unknown")),
        ("insufficient quality", states.count("insufficient")),
        ("not a face", states.count("not a face")),
        ("not searched", states.count("not searched")),
        ("undecided", sum(not t.standing for t in tracks)),
    ]
    lost = {}
    for kind in words.LOSSES:
        lost[kind] = sum(source.losses.get(kind, 0) for source in report.sources)
    return {
        "report": report,
        "tiles": tiles,
        "lost": _losses(lost),
        "thumbnails": thumbnails,
        "by_name": {t.name: t for t in tracks},
        "by_id": {t.id: t.name for t in tracks},
    }


def _track_values(
    report: Report,
    track: ReportTrack,
    track_pictures: TrackPictures,
    photographs: Photographs,
) -> dict[str, object]:
    source = next(s for s in report.sources if s.sha256 == track.source_sha256)
    faces = sorted(track.kept_faces, key=lambda face: face.frame)
    candidates = track.answer.joined if track.answer else []
    supported = {}
    for kind in words.PROBES:
        supported[kind] = {c.subject for c in candidates if kind in c.support}
    return {
        "report": report,
        "t": track,
        "p": track_pictures,
        "photographs": photographs,
        "faces": faces,
        "timeline": _timeline(track, source, faces),
        "supported": supported,
    }


def _timeline(
    track: ReportTrack, source: SourceEntry, faces: list[ReportFace]
) -> dict[str, object]:
    """Return where track and faces lie in the footage, in thousandths of its length."""
    length = max(_duration(source), track.end_seconds, 1e-9)

    def position(seconds: float) -> float:
        return round(1000 * seconds / length, 1)

    left, right = position(track.start_seconds), position(track.end_seconds)
    ticks = []
    for face in faces:
        ticks.append({"x": min(997.0, position(face.seconds)), "lr0": face.reason == "lr0"})
    return {"length": length, "left": left, "width": max(2.0, right - left), "ticks": ticks}


def _duration(source: SourceEntry) -> float:
    declared = source.info["duration"]
    if declared is None:
        return 0.0
    numerator, _, denominator = str(declared).partition("/")
    return float(numerator) / float(denominator or 1)


def _ratio(value: float | None, at_bound: bool = False) -> str:
    if value is None:
        return "–"
    bound = ("≥ " if value > 0 else "≤ ") if at_bound else ""
    return f"{bound}{round(value, 1) + 0.0:+.1f}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _losses(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {words.LOSSES[kind]}" for kind, count in counts.items() if count)


def _hashes(models: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each model of the track's encoding: what it does, and its hash."""
    restorer = models["restorer"] or {}
    yield "embedder", models["embedder"]
    yield "pooled by", models["pooled_by"]
    for name in ("network", "combiner", "landmarks", "identity"):
        if restorer.get(name):
            yield name, restorer[name]
    for name, value in restorer.get("classifier", {}).items():
        yield f"classifier of {name}", value


class _AbsentValue(UndefinedError, LookupError):
    """A template needs a value that the case does not hold: the case is damaged."""


class _Absent(StrictUndefined):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._undefined_exception = _AbsentValue


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fasr_video.report"),
        autoescape=True,
        undefined=_Absent,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment.globals |= {
        "style": Markup(style),
        "policy": f"{POLICY}; style-src 'sha256-{digest}'",
        "banner": words.BANNER,
        "banner_why": words.BANNER_WHY,
        "probes": words.PROBES,
        "clocks": words.CLOCKS,
        "times": words.TIMES,
        "components": words.COMPONENTS,
        "limits": words.LIMITS,
        "measures": MEASURES,
        "reasons": REASON_TEXT,
        "large": pictures.LARGE,
        "small": pictures.SMALL,
    }
    environment.filters |= {
        "clock": clock,
        "count": count,
        "faces_of_reason": faces_of_reason,
        "feature_source": lambda source: words.FEATURES.get(source, source),
        "correction": clock_correction,
        "picture_name": picture_name,
        "certainty": certainty_note,
        "ratio": _ratio,
        "number": _number,
        "losses": _losses,
        "hashes": _hashes,
        "decided_subject": decided_subject,
        "cosine": "{:.3f}".format,
        "percent": lambda share: f"{share:.0%}".replace("%", " %"),
        "slug": lambda text: text.replace(" ", "-"),
        "name": lambda path: PurePosixPath(path).name,
        "stem": lambda path: PurePosixPath(path).stem,
    }
    return environment


_TEMPLATES = _templates()
