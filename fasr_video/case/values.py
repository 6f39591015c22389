"""What each value of a case may be: all that its readers rely on. A case with any other is not opened."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

from fasr_video.schema import are_texts, is_count, is_hash, is_number
from fasr_video.types import Reason

# Of what is known of footage: what readers ask for.
INFO = {
    **dict.fromkeys(
        (
            "path",
            "backend",
            "time_base",
            "time_source",
            "container",
            "codec",
            "colour",
            "orientation",
        ),
        str,
    ),
    **dict.fromkeys(("width", "height", "first_pts"), int),
    **dict.fromkeys(("declared_frames", "duration"), object),
}
# Of a reconstruction.
FACTS = {
    **dict.fromkeys(("method", "sampler", "model", "feature", "what", "conditioned_on"), str),
    **dict.fromkeys(("seed", "calls"), int),
    **dict.fromkeys(("warnings", "attributes"), list),
}
# Of the lines of the log that are read again.
LINES: Mapping[str, Mapping[str, type]] = {
    "created": {"settings": dict},
    "run begun": {"by": str, "role": str, "what": str},
    "stage redone": {"settings": dict},
    "source added": {"source": int, "path": str},
    "camera and clock": {"source": int},
    "source done": {"source": int, "digest": str},
    "encoded": {"digests": dict},
    "links proposed": {"proposed": list, "of": str},
    "link decided": {
        "link": int,
        "tracks": list,
        "evidence": str,
        "score": object,
        "to": str,
        "by": str,
        "at": str,
    },
    "searched": {"answers": dict, "photographs": str, "gallery": dict, "question": dict},
    "answers taken out": {"tracks": list, "searched": dict},
    "decided": {"id": int, "replaces": list, "by": str, "at": str},
    "decision undone": {"id": int, "by": str, "at": str},
    "signed off": {"files": dict, "by": str, "undecided": list},
}
KINDS = {"best", "pooled", "sr"}
# Seconds of footage: three centuries.
LONGEST = 1e10
FACE = f"""SELECT 1 FROM face WHERE max(abs(x1), abs(y1), abs(x2), abs(y2)) > 1e6
    OR (aligned IS NULL) <> (native IS NULL) OR (native IS NOT NULL AND (native_x IS NULL OR native_y IS NULL))
    OR length(aligned) <> 64 OR aligned GLOB '*[^0-9a-f]*' OR length(native) <> 64 OR native GLOB '*[^0-9a-f]*'
    OR reason NOT IN ({", ".join(f"'{reason}'" for reason in Reason)})"""
QUERIES = {
    "a face is none that fasr-video writes": FACE,
    "a finished track has no name or no verdict": (
        "SELECT 1 FROM track WHERE state = 'done' AND (number IS NULL OR number < 1 OR verdict IS NULL)"
    ),
    "two tracks have one name": (
        "SELECT 1 FROM track WHERE number IS NOT NULL GROUP BY source, number HAVING count(*) > 1"
    ),
    "a finished track has no faces": (
        "SELECT 1 FROM track WHERE state = 'done' AND NOT EXISTS (SELECT 1 FROM face WHERE face.track = track.id)"
    ),
    "a track shows a face that is not there": (
        "SELECT 1 FROM track WHERE shown_face NOT IN (SELECT id FROM face WHERE face.track = track.id)"
    ),
    "the features of a track are not of one length": (
        "SELECT 1 FROM probe GROUP BY track HAVING min(length(feature)) % 4 <> 0"
        " OR min(length(feature)) <> max(length(feature))"
    ),
    "a face is of no time of its footage": f"""SELECT 1 FROM
        (SELECT json_extract(info, '$.time_base') AS base, instr(json_extract(info, '$.time_base'), '/') AS slash,
            (SELECT max(max(pts), -min(pts)) FROM face WHERE face.source = source.id) AS last FROM source)
        WHERE last * CAST(base AS REAL) > {LONGEST}
            * CASE slash WHEN 0 THEN 1 ELSE CAST(substr(base, slash + 1) AS REAL) END
    """,
}
_CASE_ID = re.compile(r"[\w-]{1,64}")
_NUMBER = r"-?\d{1,7}(\.\d{1,20})?(e-\d{1,3})?"
_POINT = rf"\[{_NUMBER}, {_NUMBER}\]"
_LANDMARKS = re.compile(rf"\[{_POINT}(, {_POINT}){{4}}\]")


def _meta(row: Mapping[str, Any]) -> bool:
    key, value = row["key"], row["value"]
    if key == "case_id":
        return _CASE_ID.fullmatch(value) is not None
    if key == "settings":
        groups = json.loads(value)
        days = groups["case"].get("retention_days")
        limits = [groups["select"][name] for name in ("sure_score", "min_norm", "min_norm_large")]
        timed = days is None or is_count(days)
        return (
            all(isinstance(g, dict) for g in groups.values())
            and timed
            and all(is_number(v) for v in limits)
        )
    if key == "versions":
        return isinstance(json.loads(value), dict)
    if key == "encryption":
        sealed = json.loads(value)
        return isinstance(sealed["cipher"], str) and isinstance(sealed["key"], str)
    if key == "searched":
        return (asked := json.loads(value)) is None or _asked(asked)
    if key.startswith("looked "):
        counts = json.loads(value)
        return is_count(counts["whole"]) and is_count(counts["skipped"])
    return True


def _asked(asked: Mapping[str, Any]) -> bool:
    gallery, question = asked["gallery"], asked["question"]
    texts = [gallery["id"], gallery["state"], gallery["folder"], question["mode"]]
    counts = [gallery["templates"], gallery["people"], question["candidates"], *asked["tracks"]]
    calibrated = asked["calibration"] is None or is_hash(asked["calibration"])
    drawn = isinstance(asked["models"], dict) and are_texts([*asked["conditioned_on"].values()])
    known = (
        all(is_count(count) for count in counts)
        and is_number(question["fpir"])
        and calibrated
        and drawn
    )
    return known and are_texts(texts) and are_texts(asked["remarks"])


def _source(row: Mapping[str, Any]) -> bool:
    info, losses, detector = (
        json.loads(row["info"]),
        json.loads(row["losses"]),
        json.loads(row["detector"]),
    )
    base = Fraction(info["time_base"])
    small = (
        0 < base.numerator < 2**31
        and base.denominator < 2**31
        and abs(info["first_pts"] * base) < LONGEST
    )
    known = _has(info, INFO) and all(is_count(n) for n in losses.values())
    of_detector = _has(
        detector, {"name": str, "licence": str, "model_sha256": object, "landmarks": bool}
    )
    tracker = row["tracker"] is None or isinstance(json.loads(row["tracker"]), dict)
    return (
        small
        and known
        and of_detector
        and tracker
        and (row["clock"] is None or is_clock(json.loads(row["clock"])))
    )


def is_clock(clock: Mapping[str, Any]) -> bool:
    times = [datetime.fromisoformat(clock[name]) for name in ("start", "shown") if name in clock]
    zoned = all(time.tzinfo is not None and 1000 < time.year < 9000 for time in times)
    return (
        zoned
        and "start" in clock
        and is_number(clock["uncertainty_seconds"])
        and isinstance(clock["from"], str)
    )


def _track(row: Mapping[str, Any]) -> bool:
    known = row["verdict_reason"] is None or row["verdict_reason"] in set(Reason)
    return known and (row["mean_score"] is None) == (row["norm"] is None)


def _face(row: Mapping[str, Any]) -> bool:
    return row["landmarks"] is None or _LANDMARKS.fullmatch(row["landmarks"]) is not None


def _encoding(row: Mapping[str, Any]) -> bool:
    models = json.loads(row["models"])
    restorer = models["restorer"] or {}
    classifiers = restorer.get("classifier", {})
    texts = [models["embedder"], models["pooled_by"], *classifiers, *classifiers.values()]
    return row["side"] > 0 and are_texts(texts)


def _restoration(row: Mapping[str, Any]) -> bool:
    samples, provenance = json.loads(row["samples"]), json.loads(row["provenance"])
    named = [row["picture"], *samples, *([] if row["spread"] is None else [row["spread"]])]
    drawn = all(
        _has(a, {"name": str, "value": object, "source": str}) for a in provenance["attributes"]
    )
    told = (
        _has(provenance, FACTS)
        and are_texts(provenance["warnings"])
        and drawn
        and is_number(provenance["disagreement"])
    )
    return (
        isinstance(samples, list)
        and bool(samples)
        and all(is_hash(name) for name in named)
        and told
    )


def _candidate(row: Mapping[str, Any]) -> bool:
    if row["list"] != "joined":
        return row["cosine"] is not None
    cosines, support = json.loads(row["cosines"]), json.loads(row["support"])
    told = None not in (row["score"], row["passes"], row["at_bound"])
    return told and {*cosines, *support} <= KINDS and all(is_number(c) for c in cosines.values())


def _decision(row: Mapping[str, Any]) -> bool:
    return _is_time(row["at"]) and (row["undone_by"] is None) == (row["undone_at"] is None)


def _link(row: Mapping[str, Any]) -> bool:
    undecided = bool(row["state"] == "proposed")
    return undecided == (row["decided_by"] is None) == (row["decided_at"] is None)


def _log(row: Mapping[str, Any]) -> bool:
    details = json.loads(row["details"])
    return _is_time(row["at"]) and _has(details, LINES.get(row["event"], {}))


def _is_time(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None


def _has(found: Mapping[str, Any], wanted: Mapping[str, type]) -> bool:
    """Whether these are among what was found, each of its type."""
    return isinstance(found, dict) and all(
        isinstance(found[name], kind) for name, kind in wanted.items()
    )


TESTS = {
    "meta": _meta,
    "source": _source,
    "track": _track,
    "face": _face,
    "encoding": _encoding,
    "restoration": _restoration,
    "candidate": _candidate,
    "decision": _decision,
    "link": _link,
    "log": _log,
}
LARGE = frozenset({"face"})
