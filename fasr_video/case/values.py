"""Checks of each value in the database of a case; a case that fails one is not opened."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction

from fasr_video.schema import Row, are_texts, is_count, is_hash, is_number
from fasr_video.types import Reason

# Facts about footage that readers rely on.
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
# Facts about a reconstruction that readers rely on.
FACTS = {
    **dict.fromkeys(("method", "sampler", "model", "feature", "what", "conditioned_on"), str),
    **dict.fromkeys(("seed", "calls"), int),
    **dict.fromkeys(("warnings", "attributes"), list),
    "disagreement": object,
}
ATTRIBUTE = {"name": str, "value": object, "confidence": object, "source": str}
# The models that a source was begun with.
DETECTOR = {
    **dict.fromkeys(("name", "licence"), str),
    **dict.fromkeys(("model_sha256", "embedder"), object),
    "landmarks": bool,
}
# What the last search was made with.
SEARCH = {
    **dict.fromkeys(("gallery", "models", "settings", "conditioned_on"), dict),
    **dict.fromkeys(("calibration", "photographs"), object),
    **dict.fromkeys(("remarks", "tracks"), list),
}
GALLERY = dict.fromkeys(("id", "generation", "state", "people", "templates", "folder"), object)
# Details of log lines that readers rely on, by event.
LINES: Mapping[str, Mapping[str, type]] = {
    "created": {"settings": dict},
    "run begun": {"by": str, "role": str, "what": str},
    "stage redone": {"settings": dict},
    "source added": {"source": int, "path": str},
    "camera and clock": {"source": int},
    "source done": {"source": int, "digest": str},
    "encoded": {"digests": dict},
    "links proposed": {"proposed": list, "state": str},
    "link decided": {
        "link": int,
        "tracks": list,
        "evidence": str,
        "score": object,
        "to": str,
        "by": str,
        "at": str,
    },
    "searched": {"answers": dict, "photographs": str, "gallery": dict, "settings": dict},
    "answers taken out": {"tracks": list, "searched": dict},
    "decided": {"id": int, "replaces": list, "by": str, "at": str},
    "decision undone": {"id": int, "by": str, "at": str},
    "signed off": {"files": dict, "by": str, "undecided": list},
}
KINDS = {"best", "pooled", "sr"}
# The longest footage in seconds, three centuries.
LONGEST = 1e10
FACE = f"""SELECT 1 FROM face WHERE max(abs(x1), abs(y1), abs(x2), abs(y2)) > 1e6
    OR (aligned IS NULL) <> (native IS NULL)
    OR (native IS NOT NULL AND (native_x IS NULL OR native_y IS NULL))
    OR length(aligned) <> 64 OR aligned GLOB '*[^0-9a-f]*'
    OR length(native) <> 64 OR native GLOB '*[^0-9a-f]*'
    OR reason NOT IN ({", ".join(f"'{reason}'" for reason in Reason)})"""
QUERIES = {
    "a row of face has values that fasr-video does not write": FACE,
    "a finished track has no number or no verdict": (
        "SELECT 1 FROM track WHERE state = 'done'"
        " AND (number IS NULL OR number < 1 OR verdict IS NULL)"
    ),
    "two tracks have the same number": (
        "SELECT 1 FROM track WHERE number IS NOT NULL GROUP BY source, number HAVING count(*) > 1"
    ),
    "a finished track has no faces": (
        "SELECT 1 FROM track WHERE state = 'done'"
        " AND NOT EXISTS (SELECT 1 FROM face WHERE face.track = track.id)"
    ),
    "a track refers to a missing face": (
        "SELECT 1 FROM track"
        " WHERE shown_face NOT IN (SELECT id FROM face WHERE face.track = track.id)"
    ),
    "the features of a track differ in length": (
        "SELECT 1 FROM probe GROUP BY track HAVING min(length(feature)) % 4 <> 0"
        " OR min(length(feature)) <> max(length(feature))"
    ),
    "the time of a face is outside its footage": f"""SELECT 1 FROM
        (SELECT json_extract(info, '$.time_base') AS base,
            instr(json_extract(info, '$.time_base'), '/') AS slash,
            (SELECT max(max(pts), -min(pts)) FROM face WHERE face.source = source.id) AS last
            FROM source)
        WHERE last * CAST(base AS REAL) > {LONGEST}
            * CASE slash WHEN 0 THEN 1 ELSE CAST(substr(base, slash + 1) AS REAL) END
    """,
}
_CASE_ID = re.compile(r"[\w-]{1,64}")
_NUMBER = r"-?\d{1,7}(\.\d{1,20})?(e-\d{1,3})?"
_POINT = rf"\[{_NUMBER}, {_NUMBER}\]"
_LANDMARKS = re.compile(rf"\[{_POINT}(, {_POINT}){{4}}\]")


def _meta(row: Row) -> bool:
    key, value = row["key"], row["value"]
    if key == "case_id":
        return _CASE_ID.fullmatch(value) is not None
    if key == "settings":
        groups = json.loads(value)
        days = groups["case"].get("retention_days")
        limits = [groups["select"][name] for name in ("sure_score", "min_norm", "min_norm_large")]
        return (
            all(isinstance(group, dict) for group in groups.values())
            and (days is None or is_count(days))
            and all(is_number(limit) for limit in limits)
        )
    if key == "versions":
        return isinstance(json.loads(value), dict)
    if key == "encryption":
        encryption = json.loads(value)
        return isinstance(encryption["cipher"], str) and isinstance(encryption["key"], str)
    if key == "searched":
        searched = json.loads(value)
        return searched is None or _is_search(searched)
    if key.startswith("detection "):
        counts = json.loads(value)
        return is_count(counts["whole"]) and is_count(counts["skipped"])
    return True


def _is_search(searched: Row) -> bool:
    gallery = searched["gallery"]
    options = searched["settings"]
    texts = [gallery["id"], gallery["state"], gallery["folder"], options["mode"]]
    texts += searched["conditioned_on"].values()
    counts = [gallery["templates"], gallery["people"], options["candidates"], *searched["tracks"]]
    return (
        _is(searched, SEARCH)
        and _is(gallery, GALLERY)
        and all(is_count(count) for count in counts)
        and is_number(options["fpir"])
        and (searched["calibration"] is None or is_hash(searched["calibration"]))
        and are_texts(texts)
        and are_texts(searched["remarks"])
    )


def _source(row: Row) -> bool:
    info = json.loads(row["info"])
    losses = json.loads(row["losses"])
    detector = json.loads(row["detector"])
    base = Fraction(info["time_base"])
    return (
        0 < base.numerator < 2**31
        and base.denominator < 2**31
        and abs(info["first_pts"] * base) < LONGEST
        and _has(info, INFO)
        and all(is_count(count) for count in losses.values())
        and _is(detector, DETECTOR)
        and (row["tracker"] is None or isinstance(json.loads(row["tracker"]), dict))
        and (row["clock"] is None or is_clock(json.loads(row["clock"])))
    )


def is_clock(clock: Row) -> bool:
    """Return whether this is the clock of a `Recording`; it may raise where it is not."""
    times = [datetime.fromisoformat(clock[name]) for name in ("start", "shown") if name in clock]
    return (
        all(time.tzinfo is not None and 1000 < time.year < 9000 for time in times)
        and "start" in clock
        and is_number(clock["uncertainty_seconds"])
        and isinstance(clock["from"], str)
    )


def _track(row: Row) -> bool:
    is_reason = row["verdict_reason"] is None or row["verdict_reason"] in set(Reason)
    return is_reason and (row["mean_score"] is None) == (row["norm"] is None)


def _face(row: Row) -> bool:
    return row["landmarks"] is None or _LANDMARKS.fullmatch(row["landmarks"]) is not None


def _encoding(row: Row) -> bool:
    models = json.loads(row["models"])
    restorer = models["restorer"] or {}
    classifiers = restorer.get("classifier", {})
    texts = [models["embedder"], models["pooled_by"], *classifiers, *classifiers.values()]
    return row["side"] > 0 and are_texts(texts)


def _restoration(row: Row) -> bool:
    samples = json.loads(row["samples"])
    provenance = json.loads(row["provenance"])
    pictures = [row["picture"], *samples]
    if row["spread"] is not None:
        pictures.append(row["spread"])
    return (
        isinstance(samples, list)
        and bool(samples)
        and all(is_hash(picture) for picture in pictures)
        and all(_is(a, ATTRIBUTE) for a in provenance["attributes"])
        and _is(provenance, FACTS)
        and are_texts(provenance["warnings"])
        and is_number(provenance["disagreement"])
    )


def _candidate(row: Row) -> bool:
    if row["list"] != "joined":
        return row["cosine"] is not None
    cosines = json.loads(row["cosines"])
    support = json.loads(row["support"])
    is_complete = None not in (row["score"], row["passes"], row["at_bound"])
    return (
        is_complete
        and {*cosines, *support} <= KINDS
        and all(is_number(cosine) for cosine in cosines.values())
    )


def _decision(row: Row) -> bool:
    return _is_time(row["at"]) and (row["undone_by"] is None) == (row["undone_at"] is None)


def _link(row: Row) -> bool:
    undecided = bool(row["state"] == "proposed")
    return undecided == (row["decided_by"] is None) == (row["decided_at"] is None)


def _log(row: Row) -> bool:
    details = json.loads(row["details"])
    return _is_time(row["at"]) and _has(details, LINES.get(row["event"], {}))


def _is_time(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None


def _has(values: Row, types: Mapping[str, type]) -> bool:
    """Return whether `values` has all these keys, each with a value of its type."""
    return isinstance(values, dict) and all(
        isinstance(values[name], kind) for name, kind in types.items()
    )


def _is(values: Row, types: Mapping[str, type]) -> bool:
    """Return whether `values` has exactly these keys, each with a value of its type."""
    return _has(values, types) and values.keys() == types.keys()


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
