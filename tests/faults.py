"""Small real jobs that are cut, or refused by the machine, at each single step that writes.

    python -m tests.faults run,enrol,removal,review,batch [--faults kill,full] [--every 7] [--first 0]

A step is a statement that writes to a database, a file that is opened for writing, synced, renamed or removed, or a
folder that is made, in the job's own folder. Each try is a process of its own, forked from one that holds the models;
the fault comes just before step n, so that "after step n" is the try before step n + 1. Prints a line of JSON a try.

A power cut is simulated at its worst: `power, data` takes the content of each file that was not synced and leaves its
name; `power, names` takes each new, renamed or removed name whose folder was not synced; both take what a database said
was committed without syncing it.
"""

from __future__ import annotations

import argparse
import copy
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image as Pictures

from fasr_video.archive.batch import Batch, Job
from fasr_video.archive.canonical import dump
from fasr_video.archive.ledger import DATABASE as LEDGER
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.scan import scan
from fasr_video.archive.schedulers import Local
from fasr_video.archive.unit import work
from fasr_video.configs import settings as configs
from fasr_video.custody import purge as purging
from fasr_video.custody.pictures import export_pictures
from fasr_video.errors import FasrError
from fasr_video.gallery import traces
from fasr_video.gallery.enrol import enrol, migrate
from fasr_video.gallery.index import Index
from fasr_video.gallery.inspect import check
from fasr_video.gallery.store import DATABASE as GALLERY
from fasr_video.gallery.store import Gallery
from fasr_video.pipeline.case import DATABASE as CASE
from fasr_video.pipeline.case import Case
from fasr_video.pipeline.decisions import decide, undo
from fasr_video.pipeline.links import join, split
from fasr_video.pipeline.run import Models, open_models, redo, run
from fasr_video.pipeline.verify import verify
from fasr_video.report import pages
from fasr_video.report.write import refresh
from fasr_video.review.signoff import name_signed_off, sign_off, signed_off
from fasr_video.vault import VARIABLE, new_key

FIXTURES = Path(__file__).parent / "fixtures" / "portraits"
QUICK = configs.load(
    "cpu",
    (
        *("detect.backend=haar", "restore.method=bicubic", "sampling.fps=3"),
        *("case.segment_frames=3", "track.min_sightings=2", "track.max_gap=2", "select.auxiliaries=1"),
    ),
)
FAULTS = ("kill", "power, data", "power, names", "full", "memory", "locked", "clock")
FIRST_TRACK = "SELECT id FROM track WHERE source = ? AND state = 'done' ORDER BY id"
GONE = "left"
"""Of the gallery in `removal`: the subject that is removed."""
PATIENCE = 120.0  # seconds for one try


# The jobs: each may be given again at any time, and goes on.


def run_job(folder: Path, models: Models) -> None:
    run([folder / "in" / "clip.mp4"], folder / "case", QUICK, folder / "in" / "people", models=models)
    refresh(folder / "case")


def enrol_job(folder: Path, models: Models) -> None:
    with _gallery(folder / "gallery", models) as gallery:
        enrol(gallery, folder / "in" / "people", models.detector, models.prober.embedder)
        Index.open(gallery)


def removal_job(folder: Path, models: Models) -> None:
    with _gallery(folder / "gallery", models) as gallery:
        found = [i.sha256 for i in gallery.images() if i.subject == GONE]
        if found:
            gallery.remove(found, "asked for")
        Index.open(gallery)


def batch_job(folder: Path, models: Models) -> None:
    with Ledger.open(folder / "cases") as ledger:
        batch = Batch(ledger, Local(work, lambda order, share: None), Job(folder / "cases", QUICK), lambda event: None)
        batch.feed(scan(folder / "in" / "archive", None, folder / "cases").files)
        while batch.open:
            batch.step(0.1)


def review_job(folder: Path, models: Models) -> None:
    with Case.open(folder / "case") as case:
        made = case.db.execute("SELECT count(*) FROM decision").fetchone()[0]
        if made == 0:
            decide(case, 1, "rejected", "ears", "A", None)
        if made < 2:
            decide(case, 1, "insufficient", "too dark", "B", None)
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
    """Two tracks are made one person, then parted again."""
    with Case.open(folder / "case") as case:
        (one,), (other,) = (case.db.execute(FIRST_TRACK, (source,)).fetchone() for source in (1, 2))
        if not case.db.execute("SELECT 1 FROM link WHERE state != 'proposed'").fetchone():
            join(case, (one, other), "A")
        if case.db.execute("SELECT 1 FROM link WHERE state = 'accepted'").fetchone():
            split(case, (other,), "A")
    refresh(folder / "case")


def stage_job(folder: Path, models: Models) -> None:
    settings = configs.load(str(folder / "case" / "settings.yaml"), ("restore.seed=5", "search.candidates=1"))
    redo(folder / "case", "restore", settings)
    refresh(folder / "case")


def pictures_job(folder: Path, models: Models) -> None:
    with Case.open(folder / "case", read_only=True) as case:
        export_pictures(case, (), folder / "pictures", redact=True)


def purge_job(folder: Path, models: Models) -> None:
    for due in purging.cases_in([folder / "case"]):
        purging.purge(due, purging.copies([due], []), "A", "told to")


def migration_job(folder: Path, models: Models) -> None:
    other = copy.copy(models.prober.embedder)
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
    embedder = models.prober.embedder
    return Gallery.create(folder, embedder.name, embedder.sha256, embedder.length)


def prepare(job: str, folder: Path, models: Models) -> None:
    """What the job finds when it begins."""
    people = folder / "in" / "people"
    people.mkdir(parents=True)
    mugshots = sorted(p for p in (FIXTURES / "mugshots").rglob("*") if p.is_file())
    shutil.copy(mugshots[0], people / f"kept{mugshots[0].suffix}")
    shutil.copy(mugshots[-1], people / f"{GONE}{mugshots[-1].suffix}")
    small(FIXTURES / "entrance.mp4", folder / "in" / "clip.mp4")
    if job == "batch":
        archive = folder / "in" / "archive"
        archive.mkdir()
        shutil.copy(folder / "in" / "clip.mp4", archive / "a.mp4")
        (archive / "b.mp4").write_text("no film")
    if job in {"removal", "migration"}:
        enrol_job(folder, models)
    if job in {"review", "signoff", "stage", "pictures", "purge"}:
        run_job(folder, models)
    if job == "links":  # the same people once more, in a file of other bytes
        again = folder / "in" / "again.mp4"
        again.write_bytes((folder / "in" / "clip.mp4").read_bytes() + b"\0\0\0\x08free")
        run([folder / "in" / "clip.mp4", again], folder / "case", QUICK, models=models)
    if job == "sealed":
        (folder / "in" / "cases.key").write_bytes(new_key())
        (folder / "in" / "cases.key").chmod(0o600)


def small(source: Path, to: Path, start: float = 3.0, end: float = 5.0) -> None:
    """Two seconds of it, around the face: most of a try is the looking for faces."""
    with av.open(str(source)) as given, av.open(str(to), "w") as made:
        stream = made.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 256, 352, "yuv420p", 4_000_000
        for frame in given.decode(video=0):
            if start <= frame.time < end:
                picture = frame.to_ndarray(format="rgb24")[120:472, 192:448]
                made.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        made.mux(stream.encode())


# What there is afterwards.


def found(folder: Path) -> dict[str, Any]:
    """All that the stores below a folder hold, without times of day and random words."""
    told: dict[str, Any] = {}
    for place in _places(folder, CASE):
        with Case.open(place, read_only=True) as case:
            text, searched = dump(case), case.searched()
            for random in () if searched is None else (searched["gallery"]["id"], searched["gallery"]["state"]):
                text = text.replace(random, "random")
            if case.encryption is not None:  # sealed twice, nothing has the same bytes
                text = "".join(line for line in text.splitlines(True) if not line.startswith('["probe"'))
            told[str(place.relative_to(folder))] = text
    for place in _places(folder, GALLERY):
        with Gallery.open(place, read_only=True) as gallery:
            rows = gallery.query("SELECT subject, sha256, path FROM image ORDER BY sha256")
            rows += gallery.query("SELECT subject, kind, hex(sha256) FROM template ORDER BY 1, 2, 3")
            rows += gallery.query("SELECT path, reason FROM problem ORDER BY path")
            told[str(place.relative_to(folder))] = [[str(v) for v in row] for row in rows]
    for place in _places(folder, LEDGER):
        with Ledger.read(place) as ledger:
            # Not how often each was tried: a worker that is out of memory is replaced, and its file tried again.
            told["ledger"] = [[u.folder, u.state, u.error, u.facts] for u in ledger.units()]
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm")))
    names = (str(p.relative_to(folder)) for p in files if p.name != ".lock")
    told["files"] = sorted(re.sub(r"signed-off/.+\.(json|html)", r"signed-off/WHEN.\1", name) for name in names)
    return told


def problems(folder: Path) -> list[str]:
    """Whatever `verify`, `gallery check` and SQLite have to say against the stores below a folder."""
    said = []
    for place in _places(folder, CASE):
        with Case.open(place, read_only=True) as case:
            said += [f"{c.what}: {p}" for c in verify(case) for p in c.problems]
    for facts in folder.glob("pictures/*.json"):
        if (
            hashlib.sha256(facts.with_suffix(".png").read_bytes()).hexdigest()
            != json.loads(facts.read_text())["sha256"]
        ):
            said.append(f"{facts.name} is of another picture")
    for place in _places(folder, GALLERY):
        with Gallery.open(place, read_only=True) as gallery:
            said += [f"{c.what}: {p}" for c in check(gallery) for p in c.problems]
    for place in _places(folder, LEDGER):
        with Ledger.read(place) as ledger:
            said += [str(r[0]) for r in ledger.db.execute("PRAGMA integrity_check").fetchall() if r[0] != "ok"]
            done = [u.folder for u in ledger.units() if u.state == "done"]
            for unit in done:
                with Case.open(place / unit, read_only=True) as case:
                    if case.db.execute("SELECT 1 FROM source WHERE state <> 'done'").fetchone():
                        said.append(f"ledger: {unit} is said to be done, and its footage is not")
    return said


def _places(folder: Path, database: str) -> list[Path]:
    return sorted(p.parent for p in folder.rglob(database))


def content(database: sqlite3.Connection) -> str:
    """A hash of every row."""
    tables = [r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    digest = hashlib.sha256()
    for table in tables:
        for row in database.execute(
            f"SELECT * FROM {table} ORDER BY rowid" if table.startswith("sqlite_") else f"SELECT * FROM {table}"
        ):
            digest.update(repr((table, tuple(row))).encode())
    return digest.hexdigest()


# Making it go wrong.


class Disk:
    """Sees each step of this process below a folder, and lets the fault come before step `at`."""

    def __init__(self, folder: Path, fault: str | None, at: int, tell: Callable[[dict[str, Any]], None]) -> None:
        self.folder, self.fault, self.at, self.tell = str(folder), fault, at, tell
        self.steps, self.asleep = 0, False
        self.databases: list[_Connection] = []
        self._unsynced: set[str] = set()
        self._undo: list[tuple[str, str, bytes | None, str | None]] = []
        """Folder, name in it, what it held before the change that is not synced (None: nothing), and the name that a
        renamed file had."""
        self._fsync = os.fsync
        self._synced_files: set[str] = set()

    def watch(self) -> None:
        connect = sqlite3.connect

        def connected(database: Any, *args: Any, **more: Any) -> sqlite3.Connection:
            made: sqlite3.Connection = connect(database, *args, **more, factory=_Connection)
            path = str(database).removeprefix("file:").partition("?")[0]
            if isinstance(made, _Connection) and path.startswith(self.folder):
                made.disk, made.path = self, path
                self.databases.append(made)
            return made

        sqlite3.connect = connected  # type: ignore[assignment]
        os.fsync = self._synced
        sys.addaudithook(self._seen)

    def step(self, what: str) -> None:
        """One is about to be taken."""
        if self.asleep:
            return
        self.steps += 1
        if self.fault is None:
            self.tell({"step": what})
        elif self.steps == self.at:
            self._strike(what)
        elif self.fault == "full" and self.steps > self.at:
            self._refuse(what)

    def _strike(self, what: str) -> None:
        self.tell({"cut": what})
        if self.fault == "full":
            self._refuse(what)
            return
        if self.fault == "memory":
            if not what.startswith("close"):
                raise MemoryError
            return
        if self.fault == "locked":
            if what.startswith("BEGIN"):
                raise sqlite3.OperationalError("database is locked")
            return
        self.asleep = True
        if self.fault != "kill":
            self._lose_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def _refuse(self, what: str) -> None:
        """A full disk: what takes no space goes on."""
        if what.startswith(("remove", "rmdir", "rename", "ROLLBACK", "close")):
            return
        if what.startswith(("BEGIN", "sql")):
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lose_power(self) -> None:
        for database in self.databases:
            database.lose_what_is_not_synced()
        if self.fault == "power, data":
            for path in self._unsynced:
                if os.path.exists(path):
                    os.truncate(path, 0)
            return
        for _, path, before, source in reversed(self._undo):
            if source is not None and os.path.exists(path):
                os.replace(path, source)
            if before is not None:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Path(path).write_bytes(before)
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                Path(path).unlink(missing_ok=True)

    # Files.

    def _seen(self, event: str, given: tuple[Any, ...]) -> None:
        if self.asleep or event not in _EVENTS or not isinstance(given[0], str | os.PathLike):
            return
        path = os.path.abspath(os.fspath(given[0]))
        if not path.startswith(self.folder):
            return
        if event == "open":
            mode, flags = given[1], given[2]
            if mode is not None and not set(mode) & set("wax+"):
                return
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
            self.step(f"open {_short(path)}")
            self._opened(path)
        elif event == "os.rename":
            to = os.path.abspath(os.fspath(given[1]))
            self.step(f"rename {_short(to)}")
            self._renamed(path, to)
        elif event == "os.remove":
            self.step(f"remove {_short(path)}")
            self._removed(path)
        elif event == "os.rmdir":
            self.step(f"rmdir {_short(path)}")
        else:
            self.step(f"mkdir {_short(path)}")
            if not os.path.exists(path):
                self._undo.append((os.path.dirname(path), path, None, None))

    def _opened(self, path: str) -> None:
        if not os.path.exists(path):
            self._undo.append((os.path.dirname(path), path, None, None))
        self._unsynced.add(path)

    def _renamed(self, path: str, to: str) -> None:
        before = self._bytes(to)
        self._undo = [u for u in self._undo if u[1] != path]
        self._undo.append((os.path.dirname(to), to, before, path))
        # A file that Python did not open was written by a library: FAISS syncs nothing, SQLite all.
        if path in self._unsynced or (path not in self._synced_files and "sqlite" not in path):
            self._unsynced.add(to)
        else:
            self._synced_files.add(to)
        self._unsynced.discard(path)

    def _removed(self, path: str) -> None:
        fresh = [u for u in self._undo if u[1] == path and u[2] is None]
        self._unsynced.discard(path)
        if fresh:
            self._undo = [u for u in self._undo if u[1] != path]
        elif (before := self._bytes(path)) is not None:
            self._undo.append((os.path.dirname(path), path, before, None))

    def _bytes(self, path: str) -> bytes | None:
        self.asleep = True
        try:
            return Path(path).read_bytes() if os.path.isfile(path) else None
        finally:
            self.asleep = False

    def _synced(self, handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if not path.startswith(self.folder):
            self._fsync(number)
            return
        self.step(f"fsync {_short(path)}")
        if os.path.isdir(path):
            self._undo = [u for u in self._undo if not _is_settled(u[0], path)]
        else:
            self._unsynced.discard(path)
            self._synced_files.add(path)


def _is_settled(folder: str, synced: str) -> bool:
    """Whether what happened in a folder is for good once this one is synced: it is the same, or below one that is
    gone from it."""
    below = os.path.relpath(folder, synced).split(os.sep)[0]
    return folder == synced or (below != ".." and not os.path.exists(os.path.join(synced, below)))


_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_READING = ("select", "pragma", "with", "explain")


class _Connection(sqlite3.Connection):
    """Tells of each statement that writes, and after each commit what the database then holds."""

    disk: Disk | None = None
    path = ""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._step(sql, lambda: super(_Connection, self).execute(sql, *values))

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._step(sql, lambda: super(_Connection, self).executemany(sql, *values))

    def executescript(self, sql: str) -> sqlite3.Cursor:
        return self._step(sql, lambda: super(_Connection, self).executescript(sql))

    def close(self) -> None:
        if self.disk is not None:
            self.disk.step(f"close {_short(self.path)}")
            self.disk.databases.remove(self)
            self.disk = None
        super().close()

    def _step(self, sql: str, do: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        word = sql.split(None, 1)[0].lower().rstrip(";")
        disk = self.disk
        if disk is None or disk.asleep or word in _READING or "temp table" in sql.lower():
            return do()
        disk.step(
            f"BEGIN {_short(self.path)}"
            if word == "begin"
            else f"sql {word} {_short(self.path)}"
            if word != "rollback"
            else "ROLLBACK"
        )
        result = do()
        if not self.in_transaction:
            disk.asleep = True
            disk.tell({"holds": self.path.removesuffix(".new"), "content": content(self)})
            disk.asleep = False
        return result

    def lose_what_is_not_synced(self) -> None:
        """Of a write-ahead log nothing is on the disk before it is synced: at each commit, or only now and then."""
        ask = super().execute
        if ask("PRAGMA journal_mode").fetchone()[0] == "wal" and ask("PRAGMA synchronous").fetchone()[0] < 2:
            with suppress(FileNotFoundError):
                os.truncate(f"{self.path}-wal", 0)


def _short(path: str) -> str:
    name = os.path.basename(path)
    return name if len(name) < 40 else f"…{name[-8:]}"


class Jumping(datetime):
    """A clock that goes forwards by a day, and backwards by two, from one look to the next."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Jumping:
        Jumping.looks += 1
        return super().now(tz) + timedelta(days=1 if Jumping.looks % 2 else -2)


def jump_clock() -> None:
    for name in ("pipeline.case", "gallery.store", "archive.ledger", "archive.summary"):
        module = sys.modules.get(f"fasr_video.{name}")
        if module is not None:
            module.datetime = Jumping  # type: ignore[attr-defined]


# One try.


@dataclass
class Try:
    job: str
    fault: str
    step: int
    what: str = ""
    ended: str = ""
    """How the job ended under the fault: killed, told (in one line), done, memory; crashed and hung are failures."""
    wrong: list[str] = field(default_factory=list)
    """What did not hold afterwards; empty when it survived."""


@dataclass
class Bench:
    """Holds the models, and forks a process for everything else."""

    models: Models
    ground: Path
    """A prepared folder for each job."""

    def undisturbed(self, job: str) -> tuple[list[str], dict[str, Any]]:
        """The steps of a job, and what there is after it."""
        with _copied(self.ground / job) as folder:
            code, told, said = self._in_child(lambda tell: self._work(job, folder, None, 0, tell))
            assert code == 0, said
            steps = [t["step"] for t in told if "step" in t]
            return steps, self._looked_at(folder)

    def attempt(self, job: str, fault: str, step: int, expected: Mapping[str, Any]) -> Try:
        made = Try(job, fault, step)
        with _copied(self.ground / job) as folder:
            code, told, said = self._in_child(lambda tell: self._work(job, folder, fault, step, tell))
            made.what = next((t["cut"] for t in told if "cut" in t), "")
            made.ended = _ENDS.get(code, "crashed")
            if made.ended in {"crashed", "hung"}:
                made.wrong.append(said.strip())
            if made.ended == "told" and "\n" in said:
                made.wrong.append(f"more than a line: {said}")
            held = {t["holds"]: t["content"] for t in told if "holds" in t}
            made.wrong += self._wrong(job, folder, held, expected)
        return made

    def _wrong(self, job: str, folder: Path, held: dict[str, str], expected: Mapping[str, Any]) -> list[str]:
        """What does not hold after the fault, and what does not after the same command was given again."""

        def look(tell: Callable[[dict[str, Any]], None]) -> None:
            for path, digest in held.items():
                if not os.path.exists(path):
                    if not os.path.exists(f"{path}.new"):
                        tell({"wrong": f"{path} is gone"})
                    continue
                with tempfile.TemporaryDirectory() as aside:  # opening it to read must not mend it
                    for end in ("", "-wal", "-journal"):
                        if os.path.exists(path + end):
                            shutil.copy(path + end, Path(aside, "db" + end))
                    if content(sqlite3.connect(Path(aside, "db"))) != digest:
                        tell({"wrong": f"{os.path.basename(path)} does not hold what was committed"})
            for said in problems(folder):
                tell({"wrong": f"after the fault: {said}"})

        def again(tell: Callable[[dict[str, Any]], None]) -> None:
            JOBS[job](folder, self.models)
            for said in problems(folder):
                tell({"wrong": f"when done again: {said}"})
            now = found(folder)
            for what in expected.keys() | now.keys():
                if expected.get(what) != now.get(what):
                    tell({"wrong": f"{what} is another: {_difference(expected.get(what), now.get(what))}"})
            if job == "removal":
                secret = (self.ground / "secret").read_bytes()
                left = traces.search([p for p in folder.rglob("*") if p.is_file() and "in" not in p.parts], [secret])
                if left.found:
                    tell({"wrong": f"{len(left.found)} pieces of what was removed are left"})

        wrong = []
        for act in (look, again):
            code, told, said = self._in_child(act)
            wrong += [t["wrong"] for t in told if "wrong" in t]
            if code:
                wrong.append(f"{act.__name__}: {said.strip() or _ENDS.get(code, code)}")
        return wrong

    def _looked_at(self, folder: Path) -> dict[str, Any]:
        code, told, said = self._in_child(lambda tell: tell({"found": found(folder), "problems": problems(folder)}))
        assert code == 0 and not told[-1]["problems"], said or told
        return dict(told[-1]["found"])

    def _work(
        self, job: str, folder: Path, fault: str | None, step: int, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        if fault == "clock":
            jump_clock()
        else:
            Disk(folder, fault, step, tell).watch()
        JOBS[job](folder, self.models)

    @staticmethod
    def _in_child(do: Callable[[Callable[[dict[str, Any]], None]], None]) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, what it told, and its last words."""
        with tempfile.TemporaryDirectory() as place:
            told, said = Path(place, "told"), Path(place, "said")
            child = os.fork()
            if child == 0:
                _end(do, told, said)
            until = time.monotonic() + PATIENCE
            while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
                if time.monotonic() > until:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return HUNG, [], "it hung"
                time.sleep(0.005)
            lines = told.read_text().splitlines() if told.exists() else []
            words = said.read_text() if said.exists() else ""
            return os.waitstatus_to_exitcode(ended[1]), [json.loads(line) for line in lines], words


HUNG, TOLD, CRASHED, MEMORY = 99, 3, 4, 5
_ENDS = {0: "done", -signal.SIGKILL: "killed", TOLD: "told", MEMORY: "memory", HUNG: "hung"}


def _end(do: Callable[[Callable[[dict[str, Any]], None]], None], told: Path, said: Path) -> None:
    """Act in a forked child, and leave without its parent's goodbyes."""
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    words = os.open(said, os.O_WRONLY | os.O_CREAT)
    code = 0
    try:
        do(lambda line: (os.write(out, json.dumps(line).encode() + b"\n"), None)[1])
    except FasrError as error:
        code = TOLD
        os.write(words, str(error).encode())
    except MemoryError:
        code = MEMORY
    except BaseException:
        code = CRASHED
        os.write(words, traceback.format_exc().encode())
    os._exit(code)


def _difference(a: Any, b: Any) -> str:
    if isinstance(a, str) and isinstance(b, str):
        a, b = a.splitlines(), b.splitlines()
    if isinstance(a, list) and isinstance(b, list):
        return f"missing {[x for x in a if x not in b][:2]}, new {[x for x in b if x not in a][:2]}"
    return f"{a!r:.100} and {b!r:.100}"


def warm_up() -> None:
    """What each forked process would otherwise load for itself, several times a try: a third of its time."""
    importlib.import_module("faiss")
    Pictures.init()
    for name in pages._TEMPLATES.list_templates():
        pages._TEMPLATES.get_template(name)


def open_bench(folder: Path, jobs: list[str]) -> Bench:
    warm_up()
    bench = Bench(open_models(QUICK), folder)
    for job in jobs:
        code, _, said = Bench._in_child(lambda tell, job=job: prepare(job, folder / job, bench.models))  # type: ignore[misc]
        assert code == 0, said
    if "removal" in jobs:
        with Gallery.open(folder / "removal" / "gallery", read_only=True) as gallery:
            (folder / "secret").write_bytes(gallery.features_of([GONE])[GONE].tobytes())
    return bench


class _copied:
    """A copy of a prepared folder, at the same place each time: what is stored names it."""

    def __init__(self, ground: Path) -> None:
        self._ground, self._folder = ground, ground.parent / "work" / ground.name

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._ground, self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def tries(bench: Bench, jobs: list[str], faults: list[str], every: int, first: int) -> Iterator[Try]:
    """Each fault before every so manieth step of each job. A jumping clock has no step: it is one try."""
    for job in jobs:
        steps, expected = bench.undisturbed(job)
        print(f"{job}: {len(steps)} steps", file=sys.stderr)
        for fault in faults:
            chosen = [0] if fault == "clock" else range(first + 1, len(steps) + 2, every)
            if fault == "locked":
                chosen = [n for n in chosen if n <= len(steps) and steps[n - 1].startswith("BEGIN")]
            for n in chosen:
                yield bench.attempt(job, fault, n, expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs")
    parser.add_argument("--faults", default="kill,power, data,power, names,full,memory,locked,clock")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process that was forked waits forever for threads that it does not have
    jobs = args.jobs.split(",")
    faults = [f for f in FAULTS if f in args.faults]
    with tempfile.TemporaryDirectory() as place:
        bench = open_bench(Path(place), jobs)
        for made in tries(bench, jobs, faults, args.every, args.first):
            print(json.dumps(asdict(made)), flush=True)


if __name__ == "__main__":
    main()
