"""Damage real files, and check that each reader returns a result or reports one clear line.

    python -m tests.support.fuzz all --tries 100 [--first 0] [--keep FOLDER]

Try n mutates with seed n, so the damage is the same each time. Each file is read in a process of
its own, forked from one that has everything imported, with limits of memory and time. Prints a line
of JSON for each reader; `--keep` stores the files that went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PilImage

from fasr_video import cli
from fasr_video.archive.cameras import read_cameras
from fasr_video.archive.ledger import DATABASE as LEDGER
from fasr_video.archive.ledger import Ledger
from fasr_video.calibration.labelled import read_labels
from fasr_video.case.store import DATABASE as CASE
from fasr_video.checkpoint import contract_of, read_state, save_own
from fasr_video.configs import settings as configs
from fasr_video.errors import FasrError
from fasr_video.evaluation.photos import read_labels as read_photo_labels
from fasr_video.evaluation.photos import read_photos
from fasr_video.evaluation.video import read_truth
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.photos import read_listing
from fasr_video.gallery.store import DATABASE as GALLERY
from fasr_video.media import UNREADABLE, Sampling, open_video, read_picture
from fasr_video.recognition.combiner import load_combiner
from fasr_video.sr.checkpoints import load as load_denoiser
from fasr_video.sr.checkpoints import load_attribute_classifier
from fasr_video.weights import manifest
from tests.support import cases, fault_jobs, faults, videos
from tests.support.archives import run_batch, write_files
from tests.support.paths import FIXTURES

FRAMES = 30  # to decode of a video
MEMORY = 2 << 30  # bytes that a try may request, in addition to those at its start
PATIENCE = 60.0  # seconds for one try
MAX_BLOCK = 200_000  # bytes of a block that is doubled or removed

ABSURD = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
NUMBERS = (
    b"-1",
    b"0",
    b"99999999999999999999999",
    b"1e999",
    b"NaN",
    b"",
    b"4294967296",
    b"0x10",
    b"1.5",
    b"'",
)


# Mutations change bytes in place, at random.


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_head(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 4))):
        data[chance.randrange(min(len(data), 512))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def double(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    data[end:end] = data[start:end]


def remove_block(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    del data[start:end]


def absurd_length(data: bytearray, chance: random.Random) -> None:
    size, order = chance.choice((1, 2, 4, 8)), chance.choice(("big", "little"))
    value = chance.choice(ABSURD) & ((1 << 8 * size) - 1)
    at = chance.randrange(min(len(data), chance.choice((64, 1024, 1 << 30))))
    data[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def splice_number(data: bytearray, chance: random.Random) -> None:
    spans = [m.span() for m in re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:MAX_BLOCK]))]
    if spans:
        start, end = chance.choice(spans)
        data[start:end] = chance.choice(NUMBERS)


def wipe(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    data[start:end] = chance.choice((b"\0", b"\xff", b"a", b"\n")) * (end - start)


def swap(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    to = chance.randrange(len(data))
    data[start:end], data[to : to + end - start] = data[to : to + end - start], data[start:end]


def _block(data: bytearray, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data))
    length = chance.randrange(1, 1 + chance.choice((4, 64, 4096, MAX_BLOCK)))
    return start, min(len(data), start + length)


MUTATIONS = (
    flip,
    flip,
    flip_head,
    flip_head,
    cut,
    double,
    remove_block,
    absurd_length,
    absurd_length,
    splice_number,
    splice_number,
    wipe,
    swap,
)


def mutate(data: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if changed:
            chance.choice(MUTATIONS)(changed, chance)
    return bytes(changed)


def mutate_file(path: Path, seed: int) -> None:
    path.write_bytes(mutate(path.read_bytes(), seed))


JUNK: tuple[object, ...] = (
    None,
    "",
    "null",
    "[]",
    "{}",
    '{"a": ',
    "NaN",
    "../../../../etc/passwd",
    "a\nb",
    "<script>alert(1)</script>",
    "'; DROP TABLE face; --",
    -1,
    0,
    2**63 - 1,
    1e308,
    b"",
    b"\0" * 7,
    "\ud7ff",
    "9" * 5000,
    "[" * 5000,
)


def mutate_cell(path: Path, seed: int) -> None:
    """Put a wrong value into one cell of a database, past the checks of its table."""
    chance = random.Random(seed)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        tables = [
            r[0]
            for r in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            )
        ]
        full = [t for t in tables if database.execute(f"SELECT count(*) FROM {t}").fetchone()[0]]
        for _ in range(20):
            table = chance.choice(full)
            columns = [r[1] for r in database.execute(f"PRAGMA table_info({table})")]
            column = chance.choice(columns)
            row = chance.randrange(10)
            row %= database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            cell = f"SELECT {column} FROM {table} LIMIT 1 OFFSET {row}"
            value = _other(database.execute(cell).fetchone()[0], chance)
            # Where the table cannot hold the value, another one is tried.
            with contextlib.suppress(sqlite3.Error):
                _set_cell(database, table, column, row, value=value)
                return


def _set_cell(
    database: sqlite3.Connection, table: str, column: str, row: int, *, value: object
) -> None:
    keys = ", ".join(r[1] for r in database.execute(f"PRAGMA table_info({table})") if r[5])
    where = f" WHERE ({keys}) = (SELECT {keys} FROM {table} LIMIT 1 OFFSET {row})" if keys else ""
    database.execute(f"UPDATE {table} SET {column} = ?{where}", (value,))


def _other(old: object, chance: random.Random) -> object:
    """Return a value to put in place of another: itself damaged, or junk."""
    if isinstance(old, str) and old[:1] in "{[" and chance.random() < 0.6:
        return mutate(old.encode(), chance.randrange(1 << 30)).decode("utf-8", "replace")
    if isinstance(old, bytes) and chance.random() < 0.5:
        return mutate(old, chance.randrange(1 << 30)) if old else old
    return chance.choice(JUNK)


# Readers: functions that make a folder with good files, and that read them.


@dataclass(frozen=True)
class Reader:
    make: Callable[[Path], list[str]]
    """Fill an empty folder; returns the names of the files to mutate, one at a time."""
    read: Callable[[Path, str], object]
    """Read a file; raise FasrError where it cannot be used."""
    damage: Callable[[Path, int], None] = mutate_file


def _video(*names: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        for name in names:
            if (FIXTURES / name).is_file():
                shutil.copy(FIXTURES / name, folder)
            else:
                videos.encode(folder / name, videos.GOOD[name], 30)
        return list(names)

    return make


def _frames(backend: str) -> Callable[[Path, str], object]:
    def read(folder: Path, name: str) -> int:
        reader = open_video(folder / name, backend)
        return sum(1 for _ in islice(reader.frames(Sampling()), FRAMES))

    return read


def _pictures(folder: Path) -> list[str]:
    chance = np.random.default_rng(0)
    image = PilImage.fromarray(cases.face_like(chance, 120, 90))
    deep = PilImage.fromarray(chance.integers(0, 65536, (60, 50), np.uint16))
    exif = PilImage.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "b.bmp", "c.tif", "d.webp", "e.gif"):
        image.save(folder / name)
    image.save(folder / "f.jpg", exif=exif)
    image.save(folder / "g.jpg", progressive=True)
    deep.save(folder / "h.png")
    image.save(folder / "i.tif", compression="tiff_lzw")
    return sorted(p.name for p in folder.iterdir())


def _picture(folder: Path, name: str) -> object:
    try:
        return read_picture(folder / name)
    except UNREADABLE as error:  # as its callers have to expect
        raise Refused(str(error)) from error


class Refused(Exception):
    pass


def _own_weights(folder: Path) -> list[str]:
    for name in ("combiner.safetensors", "attributes.safetensors"):
        shutil.copy(manifest.BUNDLED / name, folder)
    save_own(
        {"a": torch.zeros(3, 4), "b": torch.ones(2)},
        folder / "small.safetensors",
        "fasr-video/sr/1",
        "{}",
    )
    return ["combiner.safetensors", "small.safetensors", "attributes.safetensors"]


def _read_own(folder: Path, name: str) -> object:
    readers: dict[str, Callable[[Path], object]] = {
        "combiner.safetensors": load_combiner,
        "attributes.safetensors": load_attribute_classifier,
        "small.safetensors": lambda path: (contract_of(path), read_state(path)),
    }
    return readers[name](folder / name)


def _published(folder: Path) -> list[str]:
    """Write files like those of the releases: new and old PyTorch files, Flax's msgpack."""
    from tests.support.checkpoint_files import fasr_file, flax_file

    new = fasr_file(folder)
    old = new.with_name("old.pth")
    torch.save(torch.load(new, weights_only=False), old, _use_new_zipfile_serialization=False)
    return [new.name, old.name, flax_file(folder).name]


def _read_published(folder: Path, name: str) -> object:
    return load_denoiser(folder / name)


def _onnx(folder: Path) -> list[str]:
    from tests.support.embedder_files import arcface_graph

    arcface_graph(folder / "w600k_r50.onnx")
    return ["w600k_r50.onnx"]


def _read_onnx(folder: Path, name: str) -> object:
    from fasr_video.recognition.embedders import open_embedder

    return open_embedder("insightface", folder / name, "cpu")


def _manifests(folder: Path) -> list[str]:
    (folder / "people").mkdir()
    for name in ("a.png", "b.png"):
        PilImage.fromarray(np.full((140, 140, 3), 90, np.uint8)).save(folder / "people" / name)
    tables = {
        "gallery.csv": "path,subject,note,source,authority\n"
        "people/a.png,Ann,12,desk,order 7\npeople/b.png,Bo,,,\n",
        "eval.csv": "path,identity,role,size\npeople/a.png,1,\npeople/b.png,2,\n",
        "labels.csv": "case,track,person\n/cases/a,T1,Ann\n/cases/a,T2,\n",
        "cameras.csv": "glob,camera,start,offset,uncertainty,priority\n"
        "a*.mp4,Gate,2026-03-01T14:03:00,3,2.5,1\n",
    }
    for name, text in tables.items():
        (folder / name).write_text(text)
    shutil.copy(FIXTURES / "portraits" / "ground_truth.json", folder / "truth.json")
    shutil.copy(Path(configs.__file__).parents[1] / "weights" / "calibration.json", folder)
    return [*tables, "truth.json", "calibration.json"]


def _read_manifest(folder: Path, name: str) -> object:
    readers: dict[str, Callable[[Path], object]] = {
        "gallery.csv": read_listing,
        "eval.csv": lambda path: (read_photo_labels(path), list(read_photos([path], None))),
        "labels.csv": read_labels,
        "cameras.csv": lambda path: read_cameras(None, path, "UTC").info_of("a1.mp4").span,
        "truth.json": read_truth,
        "calibration.json": Calibration.load,
    }
    return readers[name](folder / name)


def _settings(folder: Path) -> list[str]:
    shutil.copy(Path(configs.__file__).parent / "cpu.yaml", folder / "own.yaml")
    return ["own.yaml"]


def _case(folder: Path) -> list[str]:
    bench = faults.open_bench(folder / "made", ["run"])
    fault_jobs.run_job(folder / "made" / "run", bench.models)
    for path in (folder / "made" / "run" / "case").iterdir():
        shutil.move(path, folder / path.name)
    return [CASE]


def _commands(*commands: Sequence[str]) -> Callable[[Path, str], object]:
    """Return a reader that runs commands, as people do."""

    def read(folder: Path, name: str) -> None:
        is_refused = False
        for command in commands:
            try:
                code = _run([word.replace("HERE", str(folder)) for word in command])
            except FasrError:
                is_refused = True
            else:
                is_refused |= code not in (0, None)
        if is_refused:
            raise Refused

    return read


def _run(argv: Sequence[str]) -> int | None:
    """Return the exit code of a command. Raise where its error is more than a line."""
    out = io.StringIO()
    errors = io.StringIO()
    sys.argv = ["fasr-video", *argv]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    error = errors.getvalue()
    if "out of memory" in error:
        raise MemoryError
    if error.count("\n") > 1 and not error.startswith("Usage"):
        raise AssertionError(f"{argv[0]}: more than a line: {error}")
    return code if isinstance(code, int) else 0


def _gallery(folder: Path) -> list[str]:
    chance = np.random.default_rng(0)
    with cases.make_gallery(folder / "g", chance) as gallery:
        Index.open(gallery)
    for path in (folder / "g").iterdir():
        shutil.move(path, folder / path.name)
    (folder / "g").rmdir()
    return [GALLERY, "vectors.json", "vectors.faiss"]


def _read_gallery(folder: Path, name: str) -> None:
    with Gallery.open(folder, read_only=True) as gallery:
        gallery.problems(), gallery.removals(), gallery.log_lines()
        for image in gallery.images():
            gallery.face(image)
        Index.open(gallery).search(np.eye(1, gallery.length, dtype=np.float32), 2)
    _commands(
        ("gallery", "check", "HERE"), ("gallery", "list", "HERE"), ("gallery", "stats", "HERE")
    )(folder, name)


def _ledger(folder: Path) -> list[str]:
    run_batch(write_files(folder / "in", a="1", b="bad"), folder / "cases")
    return [f"cases/{LEDGER}"]


def _read_ledger(folder: Path, name: str) -> None:
    from fasr_video.archive.summary import write_summary

    for opened in (Ledger.read, Ledger.open):
        with opened(folder / "cases") as ledger:
            ledger.problems(), [ledger.files(job) for job in ledger.jobs()]
    with Ledger.read(folder / "cases") as ledger:
        write_summary(ledger)


CASE_COMMANDS = (
    ("verify", "HERE"),
    ("show", "HERE"),
    ("show", "HERE", "--json"),
    ("export", "HERE", "--format", "csv"),
)
READERS: dict[str, Reader] = {
    "MP4 (pyav)": Reader(_video("h264.mp4", "hevc10.mp4"), _frames("pyav")),
    "Matroska (pyav)": Reader(_video("h264.mkv"), _frames("pyav")),
    "MPEG-TS (pyav)": Reader(_video("ts.ts"), _frames("pyav")),
    "AVI, raw H.264 (pyav)": Reader(
        _video("b_frames.avi", "mjpeg.avi", "nopts.h264"), _frames("pyav")
    ),
    "MP4, Matroska (decord)": Reader(_video("h264.mp4", "h264.mkv"), _frames("decord")),
    "pictures": Reader(_pictures, _picture),
    "weights of our own (safetensors)": Reader(_own_weights, _read_own),
    "checkpoints (PyTorch, msgpack)": Reader(_published, _read_published),
    "ONNX": Reader(_onnx, _read_onnx),
    "manifests, labels, cameras, truth, calibration": Reader(_manifests, _read_manifest),
    "settings": Reader(_settings, lambda folder, name: configs.load(str(folder / name))),
    "case, bytes": Reader(_case, _commands(*CASE_COMMANDS)),
    "case, cells": Reader(
        _case, _commands(*CASE_COMMANDS, ("report", "HERE", "--out", "HERE/../out")), mutate_cell
    ),
    "gallery, bytes": Reader(_gallery, _read_gallery),
    "gallery, cells": Reader(lambda folder: _gallery(folder)[:1], _read_gallery, mutate_cell),
    "ledger, bytes": Reader(_ledger, _read_ledger),
    "ledger, cells": Reader(_ledger, _read_ledger, mutate_cell),
}


# Trying.


@dataclass
class Tally:
    reader: str
    tries: int = 0
    read: int = 0
    refused: int = 0
    traceback: int = 0
    crashed: int = 0
    hung: int = 0
    memory: int = 0
    """How many tries requested more than MEMORY."""
    most_mib: float = 0.0
    """The most resident memory that a try took, in addition to that at its start."""
    slowest: float = 0.0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """What went wrong, with the file and the seed."""


def fuzz_reader(
    name: str, seeds: Sequence[int], keep: Path | None = None, patience: float = PATIENCE
) -> Tally:
    """Try a reader on its good files, damaged with each of these seeds."""
    reader = READERS[name]
    tally = Tally(name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        good_folder = Path(folder, "ground")
        work = Path(folder, "work")
        good_folder.mkdir()
        names = _make_in_process(reader, good_folder)
        for file in names:
            outcome, error, _ = _read_in_process(reader, good_folder, file, patience)
            assert outcome == "read", f"{name}: {file} undamaged is {outcome}: {error}"
        for seed in seeds:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(good_folder, work)
            file = names[seed % len(names)]
            reader.damage(work / file, seed)
            damaged = (work / file).read_bytes()
            started = time.monotonic()
            outcome, error, mib = _read_in_process(reader, work, file, patience)
            tally.tries += 1
            setattr(tally, outcome, getattr(tally, outcome) + 1)
            tally.slowest = max(tally.slowest, time.monotonic() - started)
            tally.most_mib = max(tally.most_mib, mib)
            if outcome not in {"read", "refused"}:
                tally.wrong.append(f"{file}, seed {seed}: {outcome}: {error}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{Path(file).name}").write_bytes(damaged)
    tally.seconds = time.monotonic() - began
    return tally


def _make_in_process(reader: Reader, folder: Path) -> list[str]:
    """Make the good files in a process of its own, and return their names.

    Encoders and FAISS leave threads behind, and a process with threads cannot be forked.
    """
    listed = folder.parent / "names"
    child = os.fork()
    if child == 0:
        try:
            listed.write_text(json.dumps(reader.make(folder)))
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(child, 0)
    names: list[str] = json.loads(listed.read_text())
    return names


def _read_in_process(
    reader: Reader, folder: Path, name: str, patience: float
) -> tuple[str, str, float]:
    """Read a file in a process; returns how that ended, its error, and its memory in MiB."""
    error_file = folder.parent / "error"
    error_file.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _read_and_exit(reader, folder, name, error_file)
    until = time.monotonic() + patience
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung", f"longer than {patience:g} s", 0.0
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    outcome = _ENDS.get(code, "crashed")
    text = error_file.read_text() if error_file.exists() else ""
    rss_before, _, error = text.partition("\n")
    if outcome == "crashed":
        error = f"exit {code} {error[-300:]}"
    mib = (used.ru_maxrss - int(rss_before or used.ru_maxrss)) / 1024
    return outcome, error, mib


_ENDS = {0: "read", 2: "refused", 3: "traceback", 4: "memory"}


def _read_and_exit(reader: Reader, folder: Path, name: str, error_file: Path) -> None:
    code = 0
    text = ""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    error_file.write_text(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # FFmpeg and ONNX write to it
    try:
        reader.read(folder, name)
    except Refused:
        code = 2
    except FasrError as error:
        code = 2
        if "\n" in str(error):
            code = 3
            text = f"more than one line: {error}"
    except MemoryError:
        code = 4
        text = traceback.format_exc()
    except BaseException:
        code = 3
        text = traceback.format_exc()
    with error_file.open("a") as handle:
        handle.write(text)
    os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "readers", help="all, or the beginnings of their names, separated by commas"
    )
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    beginnings = ("",) if args.readers == "all" else tuple(args.readers.lower().split(","))
    seeds = range(args.first, args.first + args.tries)
    for name in READERS:
        if name.lower().startswith(beginnings):
            keep = args.keep and args.keep / name.split(" ")[0]
            print(json.dumps(asdict(fuzz_reader(name, seeds, keep))), flush=True)


if __name__ == "__main__":
    main()
