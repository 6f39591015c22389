"""A small synthetic case that passes `verify`: five tracks, searched, without decisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from fasr_video.case import replay, results, sources
from fasr_video.case.case import Case
from fasr_video.configs import settings as configs
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.pipeline.links import BY_FACE
from fasr_video.pipeline.search import photographs_of
from fasr_video.provenance import BANNER
from fasr_video.types import AlignedFace, Image
from tests.support.paths import PORTRAITS

LENGTH = 64
MODELS = {"embedder": "e", "pooled_by": "mean", "restorer": None}
CLOCK = {"start": "2026-03-01T14:00:00+01:00", "uncertainty_seconds": 2.0, "from": "given"}

LOSSES = {
    "corrupt_packets": 0,
    "damaged_frames": 0,
    "missing_frames": 0,
    "time_jumps": 0,
    "other_files": 0,
}


@dataclass(frozen=True)
class Names:
    """Names and texts from outside that are displayed; tests choose them freely."""

    anna: str = "anna"
    bert: str = "bert"
    door: str = "/footage/door.mp4"
    yard: str = "/footage/yard.mp4"
    camera: str = "Yard"
    remark: str = "face of 40 px, larger than the 12-32 px that scores were calibrated on"
    warnings: tuple[str, ...] = (
        "LR face of 40 px, outside the 12-32 px that the network was trained on",
    )


@dataclass
class TrackPlan:
    """A track: the person, the time in seconds, and the result of the search."""

    source: int
    person: str
    start: int
    end: int
    usable: bool = True
    candidates: list[tuple[str, float, list[str]]] = field(
        default_factory=list
    )  # subject, score, support
    drawn_from: str = ""


def make_case(folder: Path, names: Names | None = None, overrides: Sequence[str] = ()) -> Path:
    """Write the case: T1 and T2 overlap in time, S2-T1 looks like T1, T2 and S2-T2 are linked.

    S2-T3 is insufficient.
    """
    names = names or Names()
    plans = [
        TrackPlan(
            1,
            "anna",
            0,
            4,
            candidates=[(names.anna, 3.2, ["best", "pooled", "sr"]), (names.bert, -1.1, [])],
        ),
        TrackPlan(1, "bert", 2, 6, candidates=[(names.bert, 0.4, []), (names.anna, -2.0, [])]),
        TrackPlan(
            2, "anna", 0, 3, candidates=[(names.anna, 2.6, ["pooled"]), (names.bert, -0.7, [])]
        ),
        TrackPlan(
            2,
            "bert",
            10,
            14,
            candidates=[(names.bert, 1.9, ["sr"]), (names.anna, -1.5, [])],
            drawn_from=names.anna,
        ),
        TrackPlan(2, "anna", 20, 21, usable=False),
    ]
    settings = configs.load("cpu", overrides)
    portraits = {"anna": _portrait("eileen_collins"), "bert": _portrait("grace_hopper")}
    with Case.create(
        folder, json.loads(settings.model_dump_json()), configs.as_yaml(settings)
    ) as case:
        with case.transaction():
            for number, (path, camera) in enumerate(
                ((names.door, None), (names.yard, names.camera)), 1
            ):
                _source(case, number, path, camera)
            for number, plan in enumerate(plans, 1):
                _track(case, number, plan, portraits[plan.person], names=names)
            for number in (1, 2):
                result = {"faces": {}, "losses": LOSSES, "digest": sources.digest(case, number)}
                case.log("source done", {"source": number, **result})
            digests = {
                t: results.digest(case, t) for t in range(1, len(plans) + 1) if plans[t - 1].usable
            }
            case.log("encoded", {"models": {}, "digests": digests})
            link = (
                "INSERT INTO link (a, b, score, evidence, state) VALUES (2, 4, 0.81, ?, 'proposed')"
            )
            case.db.execute(link, (BY_FACE,))
            proposed = {
                "links": 1,
                "state": case.meta("linked_tracks"),
                "proposed": replay.proposed_links(case),
            }
            case.log("links proposed", proposed)
        _gallery(case, {names.anna: portraits["anna"], names.bert: portraits["bert"]})
    return folder


def _portrait(name: str) -> Image:
    with PilImage.open(PORTRAITS / "mugshots" / f"{name}.jpg") as photo:
        side = min(photo.size)
        left = (photo.width - side) // 2
        return np.asarray(
            photo.convert("RGB").crop((left, 0, left + side, side)).resize((128, 128))
        )


def _person(name: str, turned: float) -> NDArray[np.float32]:
    """Return the person's own unit vector, turned a little."""
    rng = np.random.default_rng(sum(map(ord, name)))
    vector = rng.standard_normal(LENGTH) + turned * np.random.default_rng(1).standard_normal(LENGTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _source(case: Case, number: int, path: str, camera: str | None) -> None:
    info: dict[str, Any] = {
        "path": path,
        "backend": "pyav",
        "width": 640,
        "height": 480,
        "time_base": "1/1000",
        "first_pts": 0,
    }
    info |= {
        "time_source": "pts",
        "codec": "h264",
        "container": "mp4",
        "colour": "bt709",
        "orientation": "none",
    }
    info |= {"declared_frames": 300, "duration": None}
    detector = {
        "name": "made",
        "model_sha256": "0" * 64,
        "licence": "none",
        "landmarks": True,
        "embedder": None,
    }
    sha256 = f"{number:064x}"
    clock = None if camera is None else json.dumps(CLOCK)
    case.db.execute(
        "INSERT INTO source (id, path, sha256, info, detector, state, camera, clock, losses, "
        "frames) VALUES (?, ?, ?, ?, ?, 'done', ?, ?, ?, 300)",
        (
            number,
            path,
            sha256,
            json.dumps(info),
            json.dumps(detector),
            camera,
            clock,
            json.dumps(LOSSES),
        ),
    )
    case.log(
        "source added",
        {"source": number, "path": path, "sha256": sha256, "info": info, "detector": detector},
    )
    if camera is not None:
        case.log("camera and clock", {"source": number, "camera": camera, "clock": CLOCK})


def _track(case: Case, number: int, plan: TrackPlan, portrait: Image, *, names: Names) -> None:
    of_source = (
        1
        + case.db.execute("SELECT count(*) FROM track WHERE source = ?", (plan.source,)).fetchone()[
            0
        ]
    )
    state = ("usable", None) if plan.usable else ("insufficient", "too_small")
    case.db.execute(
        "INSERT INTO track (id, source, tracker_id, number, state, verdict, verdict_reason, "
        "shown_face) VALUES (?, ?, ?, ?, 'done', ?, ?, ?)",
        (number, plan.source, number, of_source, *state, 100 * number + plan.start),
    )
    for second in range(plan.start, plan.end + 1):
        reason = "too_small" if not plan.usable else "lr0" if second == plan.start else "aux"
        _face(case, number, plan.source, second, reason=reason, portrait=portrait)
    if not plan.usable:
        return
    case.db.execute("INSERT INTO encoding VALUES (?, ?, 40)", (number, json.dumps(MODELS)))
    for kind in ("best", "pooled", "sr"):
        feature = _person(plan.person, 0.15 * number).tobytes()
        case.db.execute("INSERT INTO probe VALUES (?, ?, ?)", (number, kind, feature))
    provenance = {
        "method": "fasr++",
        "sampler": "dpmpp-10",
        "seed": number,
        "model": "f" * 64,
        "calls": 20,
        "feature": "given",
    }
    provenance |= {
        "warnings": list(names.warnings),
        "disagreement": 0.02,
        "attributes": [],
        "what": BANNER,
    }
    provenance |= {"conditioned_on": plan.drawn_from}
    pictures = [
        case.write_picture(np.clip(portrait.astype(int) + d, 0, 255).astype(np.uint8))
        for d in (5, 9, 13)
    ]
    row = (number, pictures[0], json.dumps(pictures[1:]), pictures[2], json.dumps(provenance))
    case.db.execute("INSERT INTO restoration VALUES (?, ?, ?, ?, ?)", row)
    passing = [c for c in plan.candidates if c[1] > 1.5]
    answer = (number, "candidates" if passing else "unknown", 1.5, 0, names.remark)
    case.db.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", answer)
    insert = "INSERT INTO candidate VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    for rank, (subject, score, support) in enumerate(plan.candidates, 1):
        cosine = 0.1 + score / 6
        for kind in ("best", "pooled", "sr"):
            case.db.execute(
                insert, (number, kind, rank, subject, cosine, score, None, None, None, None, None)
            )
        cosines = json.dumps(dict.fromkeys(("best", "pooled", "sr"), cosine))
        passes = score > 1.5
        joined = (
            number,
            "joined",
            rank,
            subject,
            None,
            score,
            score,
            cosines,
            json.dumps(support),
            passes,
            False,
        )
        case.db.execute(insert, joined)


def _face(
    case: Case, track: int, source: int, second: int, *, reason: str, portrait: Image
) -> None:
    darker = np.clip(portrait.astype(int) - 3 * second, 0, 255).astype(np.uint8)
    small = np.asarray(PilImage.fromarray(darker).resize((48, 48)))
    values = (100 * track + second, source, track, second, 1000 * second, 100, 80, 130, 120)
    quality = (0.9, 14.0 + track, 0.2, 0.1, 0.4, 0.1, 1.0, 1.0, 0.5 + 0.08 * track)
    case.db.execute(
        "INSERT INTO face (id, source, track, frame_index, pts, x1, y1, x2, y2, score, eye_px, "
        "sharpness, turn, exposure, contrast, inside, clear, total, reason, aligned, native, "
        f"native_x, native_y) VALUES ({', '.join('?' * 23)})",
        (*values, *quality, reason, case.write_picture(darker), case.write_picture(small), 90, 70),
    )


def _gallery(case: Case, people: dict[str, Image]) -> None:
    with Gallery.create(case.folder / "gallery", "made", "e", LENGTH) as gallery:
        for number, (name, picture) in enumerate(people.items()):
            face = AlignedFace(picture, None)
            feature = _person(name, 0.0)
            gallery.add(
                name, EnrolledPhoto(f"{number:064x}", f"{name}.jpg", feature, 20.0, 60.0, 0.9, face)
            )
        Index.open(gallery)
        provenance = {
            "id": gallery.id,
            "state": gallery.state,
            "people": len(people),
            "folder": "gallery",
        }
        provenance |= {"templates": gallery.count(), "generation": gallery.generation}
        listed = photographs_of(gallery)
    search: dict[str, Any] = {
        "gallery": provenance,
        "settings": {"mode": "investigation", "fpir": 0.01, "candidates": 10},
    }
    search |= {
        "remarks": [],
        "models": {},
        "calibration": None,
        "conditioned_on": {},
        "tracks": [1, 2, 3, 4],
    }
    search |= {"photographs": replay.photographs_digest(listed)}
    with case.transaction():
        results.save_photographs(case, listed)
        case.set_meta("searched", json.dumps(search))
        case.log(
            "searched", {**search, "index_rebuilt": None, "answers": replay.answer_digests(case)}
        )
