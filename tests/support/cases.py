"""Make cases with every kind of track through the real store, without footage or models."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from fasr_video.case import replay, results
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording, StatedClock
from fasr_video.case.sources import SourceModels, register_source, set_recording
from fasr_video.case.store import chain_hash
from fasr_video.clock import now
from fasr_video.configs.settings import as_yaml, load
from fasr_video.detection.frame_skipping import START
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.gallery.search import Answer, Candidate, Hit, Verdict
from fasr_video.media import Losses, MediaInfo
from fasr_video.pipeline.links import propose_all
from fasr_video.pipeline.restore import write_restoration
from fasr_video.pipeline.search import photographs_of
from fasr_video.pipeline.segments import SegmentSummary, save_segment
from fasr_video.pipeline.tracklets import EndedTrack, Face, Segment
from fasr_video.sr.restoration import Restoration
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.types import AlignedFace, FaceCrop, FrameRef, Image, Quality, Reason

HOSTILE = "<script>alert(1)</script>"
LEAD, LOOKED_THROUGH = f"{HOSTILE} & son", "below & <b>threshold</b>"
# Of the tracks, in turn.
KINDS = ("lead", "unknown", "insufficient", "only sr", "conditioned", "not searched")
BASE = Fraction(1, 25)
MODELS = {
    "embedder": "e" * 64,
    "pooled_by": "c" * 64,
    "restorer": {
        "method": "fasr++",
        "sampler": "dpmpp-10",
        "network": "9" * 64,
        "combiner": "a" * 64,
        "samples": 2,
    },
}


def make_synthetic_case(folder: Path, tracks: int = len(KINDS), auxiliaries: int = 3) -> Path:
    """Make a case with this many tracks in two sources, and its gallery.

    The first source has a camera and a clock.
    """
    random = np.random.default_rng(0)
    settings = load("cpu")
    with Case.create(folder, json.loads(settings.model_dump_json()), as_yaml(settings)) as case:
        first = (tracks + 1) // 2
        _source(case, "/footage/<script>alert(1).mp4", range(first), auxiliaries, random=random)
        _source(case, "/footage/yard.mp4", range(first, tracks), auxiliaries, random=random)
        clock: StatedClock = {
            "start": "2026-03-01T14:03:00+01:00",
            "uncertainty_seconds": 2.5,
            "from": "path",
        }
        set_recording(case, 1, Recording("Gate <1>", clock))
        people = make_gallery(folder / "gallery", random)
        _answers(case, people, random)
        propose_all(case, settings.link)
    return folder


def decide(
    folder: Path,
    track: int,
    verdict: str,
    subject: str | None,
    *,
    by: str,
    undone_by: str | None = None,
) -> None:
    """Store and log a decision, as the program does."""
    with Case.open(folder) as case, case.transaction():
        at = now()
        row = {
            "track": track,
            "subject": subject,
            "verdict": verdict,
            "reason": "ears & chin",
            "by": by,
            "at": at,
        }
        row |= {"undone_by": undone_by, "undone_at": at if undone_by else None}
        columns, placeholders = ", ".join(row), ", ".join(f":{name}" for name in row)
        number = case.db.execute(
            f"INSERT INTO decision ({columns}) VALUES ({placeholders})", row
        ).lastrowid
        case.log("decided", {"id": number, **row, "role": "", "replaces": []})


def propose_link(case: Case, a: int, b: int) -> int:
    """Propose and log a link between these tracks; return its id."""
    with case.transaction():
        link = (
            "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, 0.9, 'face', 'proposed')"
        )
        number = case.db.execute(link, (a, b)).lastrowid
        proposed = replay.proposed_links(case)
        case.log(
            "links proposed",
            {"links": 1, "state": case.meta("linked_tracks"), "proposed": proposed},
        )
    return int(number or 0)


def face_like(random: np.random.Generator, height: int, width: int) -> Image:
    """Return a picture that compresses like a small face."""
    coarse = random.integers(60, 200, (9, 7, 3), np.uint8)
    large = PilImage.fromarray(coarse).resize((width, height), PilImage.Resampling.BICUBIC)
    noise = random.integers(-6, 7, (height, width, 3))
    return np.clip(np.asarray(large).astype(int) + noise, 0, 255).astype(np.uint8)


def unit_vector(random: np.random.Generator) -> Feature:
    """Return a random unit vector."""
    vector = random.normal(size=512).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def _source(
    case: Case, path: str, numbers: range, auxiliaries: int, *, random: np.random.Generator
) -> None:
    """Add a source with these tracks, one after the other, half a second each."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    info = MediaInfo(
        path=Path(path),
        sha256=digest,
        backend="pyav",
        container="mp4",
        codec="h264",
        width=640,
        height=480,
        time_base=BASE,
        time_source="pts",
        first_pts=0,
        rate=1 / BASE,
        declared_frames=12 * len(numbers),
        duration=12 * len(numbers) * BASE,
        orientation="none",
        pixel_format="yuv420p",
        colour="bt709",
        interlaced=False,
        pixel_aspect=Fraction(1),
    )
    detector = SourceModels("builtin (cpu)", "d" * 64, "research use", True, "e" * 64)
    source = register_source(case, info, detector)
    segment = Segment(frames=12 * len(numbers))
    number = 1 + (case.db.execute("SELECT max(id) FROM face").fetchone()[0] or 0)
    for index, track in enumerate(numbers):
        usable = KINDS[track % len(KINDS)] != "insufficient"
        shown = number
        for k in range(1 + auxiliaries):
            reason = (Reason.LR0 if k == 0 else Reason.AUX) if usable else Reason.TOO_SMALL
            quality = Quality(12.5 - k if usable else 4.0, 0.2, 0.05, 0.4, 0.1, 1.0, 1.0, 0.9, 0.8)
            ref = FrameRef(digest, 12 * index + 2 * k, 12 * index + 2 * k, BASE)
            box = (100.0, 80.0, 130.0, 118.0)
            landmarks = [
                [108.0, 95.0],
                [121.0, 95.0],
                [114.5, 102.0],
                [109.0, 109.0],
                [120.0, 109.0],
            ]
            segment.faces.append(Face(number, track, ref, box, landmarks, quality, reason))
            if usable or k == 0:
                crop = FaceCrop(face_like(random, 128, 128), face_like(random, 60, 48), (91, 70))
                segment.crops[number] = crop
            number += 1
        segment.ended.append(EndedTrack(track, True, shown, usable))
    last = FrameRef(digest, 12 * len(numbers), 12 * len(numbers), BASE)
    tracker = TRACKERS["sort"](TrackerSettings())
    summary = SegmentSummary(
        span=(last, last),
        tracker=tracker,
        gate=replace(START, frames=segment.frames, whole=segment.frames),
        losses=Losses(),
        damaged=0,
        seconds=1.0,
        is_last=True,
    )
    save_segment(case, source, segment, summary)


def make_gallery(folder: Path, random: np.random.Generator) -> Gallery:
    """Make a gallery of two subjects."""
    gallery = Gallery.create(folder, "builtin", "e" * 64, 512)
    for subject in (LEAD, LOOKED_THROUGH):
        face = AlignedFace(face_like(random, 128, 128), None)
        digest = hashlib.sha256(subject.encode()).hexdigest()
        gallery.add(
            subject,
            EnrolledPhoto(digest, f"{subject}.jpg", unit_vector(random), 20.0, 50.0, 0.9, face),
        )
    return gallery


def _answers(case: Case, gallery: Gallery, random: np.random.Generator) -> None:
    """Store probes, reconstructions and search answers for the usable tracks."""
    rows = case.db.execute("SELECT id, verdict FROM track ORDER BY id").fetchall()
    searched_tracks = []
    with case.transaction():
        for index, row in enumerate(rows):
            kind = KINDS[index % len(KINDS)]
            if row["verdict"] == "insufficient":
                continue
            restoration = _restoration(random, LEAD if kind == "conditioned" else "")
            probes = {Kind.BEST: unit_vector(random), Kind.POOLED: unit_vector(random)}
            if kind != "conditioned":
                probes[Kind.SR] = unit_vector(random)
            drawn = write_restoration(case, row["id"], restoration)
            results.save_features(
                case, results.Encoding(row["id"], json.dumps(MODELS), 36), probes, drawn
            )
            if kind != "not searched":
                remark = (
                    f"the reconstruction is conditioned on subject {LEAD}"
                    if kind == "conditioned"
                    else None
                )
                results.add_answer(case, row["id"], _answer(kind, probes), remark)
                searched_tracks.append(row["id"])
        case.log(
            "encoded",
            {"models": MODELS, "digests": {r["id"]: results.digest(case, r["id"]) for r in rows}},
        )
        photographs = photographs_of(gallery)
        results.save_photographs(case, photographs)
        facts = {
            "id": gallery.id,
            "generation": gallery.generation,
            "state": gallery.state,
            "people": 2,
        }
        settings = {"mode": "investigation", "candidates": 10, "fpir": 0.01, "calibration": None}
        searched = {
            "gallery": facts | {"templates": 2, "folder": "gallery"},
            "models": MODELS,
            "settings": settings,
        }
        searched |= {
            "calibration": "b" * 64,
            "remarks": [],
            "conditioned_on": {},
            "tracks": searched_tracks,
        }
        searched |= {"photographs": replay.photographs_digest(photographs)}
        case.set_meta("searched", json.dumps(searched))
        case.log(
            "searched",
            {**searched, "index_rebuilt": None, "answers": replay.answer_digests(case)},
        )


def _restoration(random: np.random.Generator, conditioned_on: str) -> Restoration:
    samples = (face_like(random, 128, 128), face_like(random, 128, 128))
    spread = random.uniform(0, 0.1, (128, 128)).astype(np.float32)
    mean = np.mean(samples, axis=0).astype(np.uint8)
    return Restoration(
        mean,
        samples,
        spread,
        "fasr++",
        "dpmpp-10",
        20,
        7,
        "9" * 64,
        "given",
        (),
        conditioned_on=conditioned_on,
    )


def _answer(kind: str, probes: dict[Kind, Feature]) -> Answer:
    """Return an answer in which LEAD passes if the track has a lead; LOOKED_THROUGH never does."""
    passes = kind in {"lead", "only sr"}
    support = (Kind.SR,) if kind == "only sr" else tuple(probes) if passes else ()
    scores = {LEAD: 3.5 if passes else 0.2, LOOKED_THROUGH: -1.0}
    lists = {
        k: [Hit(s, 0.6 if s == LEAD else 0.1, score) for s, score in scores.items()] for k in probes
    }
    joined = [
        Candidate(
            s,
            dict.fromkeys(probes, 0.5),
            score,
            score,
            False,
            support if s == LEAD else (),
            passes and s == LEAD,
        )
        for s, score in scores.items()
    ]
    return Answer(Verdict.CANDIDATES if passes else Verdict.UNKNOWN, lists, joined, 1.7, False)


def recompute_log_chain(folder: Path, change: Callable[[Case], object]) -> None:
    """Make a change and recompute the whole log chain, which the case alone cannot reveal."""
    with Case.open(folder) as case, case.transaction():
        change(case)
        previous = ""
        for row in case.db.execute("SELECT * FROM log ORDER BY id").fetchall():
            hashed = chain_hash(previous, row["at"], row["event"], row["details"])
            case.db.execute(
                "UPDATE log SET previous = ?, hash = ? WHERE id = ?", (previous, hashed, row["id"])
            )
            previous = hashed
        case.set_meta("log_head", previous)


def write_hot_journal(file: Path, database: Path) -> None:
    """Lay a hot journal beside it; after rolling back, SQLite removes the file that it names."""
    name, magic = bytes(file), b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    with sqlite3.connect(database) as db:
        (page,), (pages,) = (
            db.execute("PRAGMA page_size").fetchone(),
            db.execute("PRAGMA page_count").fetchone(),
        )
    db.close()
    head = (magic + struct.pack(">IIIII", 0, 0, pages, 512, page)).ljust(512, b"\0")
    last = (
        struct.pack(">I", 2**30 // page + 1)
        + name
        + struct.pack(">II", len(name), sum(name))
        + magic
    )
    database.with_name(f"{database.name}-journal").write_bytes(head + last)
