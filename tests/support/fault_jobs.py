"""The jobs that `faults` interrupts: how they are prepared, done and checked."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from fasr_video.archive.batch import Batch, BatchPlan
from fasr_video.archive.canonical import dump
from fasr_video.archive.ledger import DATABASE as LEDGER
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.scan import scan
from fasr_video.archive.schedulers import Local
from fasr_video.archive.worker import run_task
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide, undo
from fasr_video.case.last_search import last_search
from fasr_video.case.links import join, split
from fasr_video.case.store import DATABASE as CASE
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.custody import purge as purging
from fasr_video.custody.pictures import export_pictures
from fasr_video.encryption import VARIABLE, new_key
from fasr_video.gallery.enrol import enrol, migrate
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.inspect import check
from fasr_video.gallery.store import DATABASE as GALLERY
from fasr_video.gallery.store import FINISH_COMMAND
from fasr_video.pipeline.run import Models, redo, run
from fasr_video.report.write import refresh
from fasr_video.review.signoff import name_signed_off, sign_off, signed_off
from tests.support.paths import PORTRAITS

QUICK = configs.load(
    "cpu",
    (
        "detect.backend=haar",
        "restore.method=bicubic",
        "sampling.fps=3",
        "case.segment_frames=3",
        "track.min_sightings=2",
        "track.max_gap=2",
        "select.auxiliaries=1",
    ),
)
FIRST_TRACK = "SELECT id FROM track WHERE source = ? AND state = 'done' ORDER BY id"
# The subject that the job `removal` removes from its gallery.
REMOVED = "left"


# The jobs: each can be started again at any time, and goes on where it was.


def run_job(folder: Path, models: Models) -> None:
    run(
        [folder / "in" / "clip.mp4"],
        folder / "case",
        QUICK,
        folder / "in" / "people",
        models=models,
    )
    refresh(folder / "case")


def enrol_job(folder: Path, models: Models) -> None:
    with _gallery(folder / "gallery", models) as gallery:
        enrol(gallery, folder / "in" / "people", models.detector, models.encoder.embedder)
        Index.open(gallery)


def removal_job(folder: Path, models: Models) -> None:
    with _gallery(folder / "gallery", models) as gallery:
        hashes = [image.sha256 for image in gallery.images() if image.subject == REMOVED]
        if hashes:
            gallery.remove(hashes, "asked for")
        Index.open(gallery)


def batch_job(folder: Path, models: Models) -> None:
    with Ledger.open(folder / "cases") as ledger:
        batch = Batch(
            ledger,
            Local(run_task, lambda task, share: None),
            BatchPlan(folder / "cases", QUICK),
            lambda event: None,
        )
        batch.add_files(scan(folder / "in" / "archive", None, folder / "cases").files)
        while not batch.is_finished:
            batch.step(0.1)


def review_job(folder: Path, models: Models) -> None:
    with Case.open(folder / "case") as case:
        decisions = case.db.execute("SELECT count(*) FROM decision").fetchone()[0]
        if decisions == 0:
            decide(case, 1, "rejected", "ears", by="A", subject=None)
        if decisions < 2:
            decide(case, 1, "insufficient", "too dark", by="B", subject=None)
        first = case.db.execute("SELECT id, undone_by FROM decision ORDER BY id").fetchone()
        if first["undone_by"] is None:
            undo(case, first["id"], "A")
    refresh(folder / "case")


def signoff_job(folder: Path, models: Models) -> None:
    with Case.open(folder / "case") as case:
        if signed_off(case):
            name_signed_off(case)
        else:
            sign_off(case, "A", although_undecided=True)


def links_job(folder: Path, models: Models) -> None:
    """Join two tracks as one person, then split them again."""
    with Case.open(folder / "case") as case:
        (one,), (other,) = (case.db.execute(FIRST_TRACK, (source,)).fetchone() for source in (1, 2))
        if not case.db.execute("SELECT 1 FROM link WHERE state != 'proposed'").fetchone():
            join(case, (one, other), "A")
        if case.db.execute("SELECT 1 FROM link WHERE state = 'accepted'").fetchone():
            split(case, (other,), "A")
    refresh(folder / "case")


def stage_job(folder: Path, models: Models) -> None:
    settings = configs.load(
        str(folder / "case" / "settings.yaml"), ("restore.seed=5", "search.candidates=1")
    )
    redo(folder / "case", "restore", settings)
    refresh(folder / "case")


def pictures_job(folder: Path, models: Models) -> None:
    with Case.open(folder / "case", read_only=True) as case:
        export_pictures(case, (), folder / "pictures", redact=True)


def purge_job(folder: Path, models: Models) -> None:
    for due in purging.retained_cases([folder / "case"]):
        purging.purge(due, purging.search_copies([due], []), "A", "by order")


def migration_job(folder: Path, models: Models) -> None:
    other = copy.copy(models.encoder.embedder)
    other.sha256 = "ab" * 32
    with Gallery.open(folder / "gallery") as gallery:
        if gallery.embedder.sha256 != other.sha256:
            migrate(gallery, other)
        Index.open(gallery)


def sealed_job(folder: Path, models: Models) -> None:
    os.environ[VARIABLE] = str(folder / "in" / "cases.key")
    run([folder / "in" / "clip.mp4"], folder / "case", QUICK, models=models)


JOBS: dict[str, Callable[[Path, Models], None]] = {
    "run": run_job,
    "enrol": enrol_job,
    "removal": removal_job,
    "batch": batch_job,
    "review": review_job,
    "signoff": signoff_job,
    "links": links_job,
    "stage": stage_job,
    "pictures": pictures_job,
    "purge": purge_job,
    "migration": migration_job,
    "sealed": sealed_job,
}


def _gallery(folder: Path, models: Models) -> Gallery:
    if (folder / GALLERY).exists():
        return Gallery.open(folder)
    embedder = models.encoder.embedder
    return Gallery.create(folder, embedder.name, embedder.sha256, embedder.length)


def prepare(job: str, folder: Path, models: Models) -> None:
    """Make the files that a job works on."""
    people = folder / "in" / "people"
    people.mkdir(parents=True)
    mugshots = sorted(p for p in (PORTRAITS / "mugshots").rglob("*") if p.is_file())
    shutil.copy(mugshots[0], people / f"kept{mugshots[0].suffix}")
    shutil.copy(mugshots[-1], people / f"{REMOVED}{mugshots[-1].suffix}")
    write_short_clip(PORTRAITS / "entrance.mp4", folder / "in" / "clip.mp4")
    if job == "batch":
        archive = folder / "in" / "archive"
        archive.mkdir()
        shutil.copy(folder / "in" / "clip.mp4", archive / "a.mp4")
        (archive / "b.mp4").write_text("no film")
    if job in {"removal", "migration"}:
        enrol_job(folder, models)
    if job in {"review", "signoff", "stage", "pictures", "purge"}:
        run_job(folder, models)
    if job == "links":  # the same people, in a file of other bytes
        second = folder / "in" / "again.mp4"
        second.write_bytes((folder / "in" / "clip.mp4").read_bytes() + b"\0\0\0\x08free")
        run([folder / "in" / "clip.mp4", second], folder / "case", QUICK, models=models)
    if job == "sealed":
        (folder / "in" / "cases.key").write_bytes(new_key())
        (folder / "in" / "cases.key").chmod(0o600)


def write_short_clip(source: Path, to: Path, start: float = 3.0, end: float = 5.0) -> None:
    """Write two seconds of a video around the face, because detection takes longest."""
    with av.open(str(source)) as footage, av.open(str(to), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            256,
            352,
            "yuv420p",
            4_000_000,
        )
        for frame in footage.decode(video=0):
            if start <= frame.time < end:
                picture = frame.to_ndarray(format="rgb24")[120:472, 192:448]
                cropped = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(picture, np.uint8), "rgb24"
                )
                output.mux(stream.encode(cropped))
        output.mux(stream.encode())


# Checks.


def contents(folder: Path) -> dict[str, Any]:
    """Return what the stores below a folder hold, without times of day and random ids."""
    result: dict[str, Any] = {}
    for path in _folders_with(folder, CASE):
        with Case.open(path, read_only=True) as case:
            text = dump(case)
            searched = last_search(case)
            if searched is not None:
                text = text.replace(searched.gallery.id, "random")
                text = text.replace(searched.gallery.state, "random")
            if case.encryption is not None:  # encrypting a second time gives other bytes
                text = "".join(
                    line for line in text.splitlines(True) if not line.startswith('["probe"')
                )
            result[str(path.relative_to(folder))] = text
    for path in _folders_with(folder, GALLERY):
        with Gallery.open(path, read_only=True) as gallery:
            rows = gallery.query("SELECT subject, sha256, path FROM image ORDER BY sha256")
            rows += gallery.query(
                "SELECT subject, kind, hex(sha256) FROM template ORDER BY 1, 2, 3"
            )
            rows += gallery.query("SELECT path, reason FROM problem ORDER BY path")
            result[str(path.relative_to(folder))] = [[str(v) for v in row] for row in rows]
    for path in _folders_with(folder, LEDGER):
        with Ledger.read(path) as ledger:
            # Without the numbers of tries: after running out of memory a job is tried again.
            result["ledger"] = [
                [job.folder, job.state, job.error, job.summary] for job in ledger.jobs()
            ]
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm")))
    names = (str(p.relative_to(folder)) for p in files if p.name != ".lock")
    result["files"] = sorted(
        re.sub(r"signed-off/.+\.(json|html)", r"signed-off/WHEN.\1", name) for name in names
    )
    return result


def problems(folder: Path) -> list[str]:
    """Return the problems that `verify`, `gallery check` and SQLite find below a folder."""
    result = []
    for path in _folders_with(folder, CASE):
        with Case.open(path, read_only=True) as case:
            result += [f"{c.what}: {p}" for c in verify(case) for p in c.problems]
    for description in folder.glob("pictures/*.json"):
        digest = hashlib.sha256(description.with_suffix(".png").read_bytes()).hexdigest()
        if digest != json.loads(description.read_text())["sha256"]:
            result.append(f"{description.name} is of another picture")
    for path in _folders_with(folder, GALLERY):
        with Gallery.open(path, read_only=True) as gallery:
            # `check` reports a removal that was interrupted; the same command finishes it.
            result += [
                f"{c.what}: {p}"
                for c in check(gallery)
                if c.remedy != FINISH_COMMAND
                for p in c.problems
            ]
    for path in _folders_with(folder, LEDGER):
        with Ledger.read(path) as ledger:
            result += [
                str(r[0])
                for r in ledger.db.execute("PRAGMA integrity_check").fetchall()
                if r[0] != "ok"
            ]
            done = [job.folder for job in ledger.jobs() if job.state == "done"]
            for name in done:
                with Case.open(path / name, read_only=True) as case:
                    if case.db.execute("SELECT 1 FROM source WHERE state <> 'done'").fetchone():
                        result.append(f"ledger: {name} is marked as done, but its footage is not")
    return result


def _folders_with(folder: Path, database: str) -> list[Path]:
    return sorted(p.parent for p in folder.rglob(database))
