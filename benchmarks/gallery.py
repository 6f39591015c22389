"""The gallery: enrolment, search against bare FAISS, approximate indexes, and random changes with
kills.

python benchmarks/gallery.py [--sizes 10000 100000 1000000] [--queries 100] [--photos 300] [--faces
FOLDER|TAR]
                             [--approximate 20000] [--operations 10000] [--kills 10]
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from PIL import Image
from results import Table, command_line

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fasr_video.detection import open_for_photographs  # noqa: E402
from fasr_video.gallery.enrol import sync  # noqa: E402
from fasr_video.gallery.gallery import Gallery  # noqa: E402
from fasr_video.gallery.index import NOISE_LENGTH, RECALL_AT, Index  # noqa: E402
from fasr_video.gallery.records import EnrolledPhoto  # noqa: E402
from fasr_video.recognition.embedders import open_embedder  # noqa: E402
from tests.support import gallery_ops as ops  # noqa: E402

LENGTH = 512
FACES = ROOT.parent / "shared" / "data" / "celeba" / "val-00.tar"
MUGSHOTS = ROOT / "sample_videos" / "mugshots"
TARGET = 1.1  # times bare FAISS


def write_photographs(faces: Path, count: int, folder: Path) -> str:
    """Write photographs of 480×600 px, a folder a person; return what they are made from."""
    for name, picture in itertools.islice(_read_faces(faces), count):
        person = folder / name.split("/")[-2]
        person.mkdir(parents=True, exist_ok=True)
        photo = picture.resize((12, 15)).resize(
            (480, 600), Image.Resampling.BICUBIC
        )  # something around the face
        photo.paste(picture.resize((300, 300), Image.Resampling.BICUBIC), (90, 120))
        photo.save(person / f"{Path(name).stem}.jpg", quality=92)
    return (
        "CelebA validation faces" if faces.exists() else "the sample mugshots, varied in brightness"
    )


def _read_faces(faces: Path) -> Iterator[tuple[str, Image.Image]]:
    if faces.exists():
        with tarfile.open(faces) as tar:
            for member in tar:
                if member.isfile() and (data := tar.extractfile(member)) is not None:
                    yield member.name, Image.open(io.BytesIO(data.read())).convert("RGB")
        return
    pictures = {p.stem: Image.open(p).convert("RGB") for p in sorted(MUGSHOTS.glob("*.jpg"))}
    for i in itertools.count():
        for name, picture in pictures.items():
            yield f"{name}/{i}.jpg", picture.point(lambda v, i=i: v * (1 - i % 200 / 400))


def enrolment_table(args: argparse.Namespace, folder: Path) -> Table:
    table = Table(
        "", "Enrolment", "", ("what", "photographs", "seconds", "photographs/s", "not enrolled")
    )
    material = write_photographs(args.faces, args.photos, folder / "photos")
    detector, embedder = open_for_photographs("cpu"), open_embedder("builtin", None, "cpu")
    with Gallery.create(folder / "g", embedder.name, embedder.sha256, embedder.length) as gallery:
        for label in ("new", "again, nothing changed"):
            start = time.perf_counter()
            report = sync(gallery, folder / "photos", detector, embedder)
            spent = time.perf_counter() - start
            count = report.added + report.unchanged + len(report.problems)
            table.add_row(
                [label, count, f"{spent:.2f}", f"{count / spent:.1f}", len(report.problems)]
            )
    table.add_note(
        f"480×600 px photographs made from {material}; {detector.name}, embedder {embedder.name}."
    )
    return table


def add_subjects(gallery: Gallery, size: int, rng: np.random.Generator) -> float:
    """Add subjects of one photograph each until there are `size` templates; return the seconds."""
    spent = 0.0
    for first in range(gallery.count(), size, 10_000):
        photos = [
            ops.random_photo(str(i), rng, LENGTH) for i in range(first, min(first + 10_000, size))
        ]
        start = time.perf_counter()
        with gallery.transaction():
            for photo in photos:
                gallery.add(photo.sha256[:16], photo)
        spent += time.perf_counter() - start
    return spent


def measure_search(folder: Path, count: int) -> None:
    """Print times and memory of the index: one query at a time, ours and bare FAISS in turn.

    Runs in a process of its own.
    """
    with Gallery.open(folder) as gallery:
        before, start = _resident_mib(), time.perf_counter()
        index = Index.open(gallery)
        built = time.perf_counter() - start
        del index
        start = time.perf_counter()
        index = Index.open(gallery)
        loaded, memory = time.perf_counter() - start, _resident_mib() - before
        bare_index = faiss.IndexFlatIP(LENGTH)
        for chunk in gallery.vector_chunks():
            bare_index.add(np.ascontiguousarray(chunk.features))
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((count + 3, 1, LENGTH)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=2, keepdims=True)
    spent: dict[str, list[float]] = {"ours": [], "bare": []}
    for i, query in enumerate(queries):
        turns: list[tuple[str, Any]] = [("ours", index), ("bare", bare_index)][
            :: 1 if i % 2 else -1
        ]
        for name, engine in turns:
            start = time.perf_counter()
            engine.search(query, RECALL_AT)
            spent[name].append(1e3 * (time.perf_counter() - start))
    percentiles = {
        f"{name}_{p}": float(np.percentile(ms[3:], p))
        for name, ms in spent.items()
        for p in (50, 99)
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(percentiles | {"built": built, "loaded": loaded, "memory": memory, "peak": peak})
    )


def _resident_mib() -> float:
    """Return the resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def search_table(args: argparse.Namespace, folder: Path) -> Table:
    columns: tuple[str, ...] = (
        "vectors",
        "p50, ms",
        "p99, ms",
        "bare p50, ms",
        "bare p99, ms",
        "p50 times bare",
        "p99 times bare",
    )
    columns += (
        "index from store, s",
        "index from disk, s",
        "index in memory, MiB",
        "disk, MiB",
        "added to the store, 1/s",
    )
    title = "Search: one query at a time, 50 candidates, exact"
    table = Table("gallery", title, command_line(), columns)
    rng, previous_size = np.random.default_rng(0), 0
    Gallery.create(folder / "g", "random", "0" * 64, LENGTH).close()
    for size in sorted(args.sizes):
        with Gallery.open(folder / "g") as gallery:
            spent = add_subjects(gallery, size, rng)
        command = [
            sys.executable,
            __file__,
            "--search",
            str(folder / "g"),
            "--queries",
            str(args.queries),
        ]
        result = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        )
        numbers = [result[k] for k in ("ours_50", "ours_99", "bare_50", "bare_99")]
        ratios = [result["ours_50"] / result["bare_50"], result["ours_99"] / result["bare_99"]]
        disk = sum(f.stat().st_size for f in (folder / "g").iterdir()) / 2**20
        row = [f"{size:,}", *(f"{n:.3g}" for n in numbers), *(f"{r:.2f}" for r in ratios)]
        row += [
            f"{result['built']:.2f}",
            f"{result['loaded']:.2f}",
            f"{result['memory']:.0f}",
            f"{disk:.0f}",
        ]
        table.add_row([*row, f"{(size - previous_size) / spent:.0f}"])
        previous_size = size
    table.add_note(
        f"Random unit vectors of {LENGTH} numbers, one a subject. Bare is `faiss.IndexFlatIP` on "
        f"the same vectors in the same process; the two take turns, {args.queries} queries each; "
        f"the target is at most {TARGET} times bare. The process sets no number of threads "
        f"(OMP_NUM_THREADS is {os.environ.get('OMP_NUM_THREADS', 'not set')}). The machine's load "
        f"average at the end was {os.getloadavg()[1]:.1f}: other work shows in the 99th "
        "percentiles."
    )
    return table


def approximate_table(args: argparse.Namespace, folder: Path) -> Table:
    columns = ("index", f"recall at {RECALL_AT}", "ms a query", "")
    table = Table("", f"Approximate indexes, {args.approximate:,} photographs", "", columns)
    rng = np.random.default_rng(2)
    with Gallery.create(folder / "g", "random", "0" * 64, LENGTH) as gallery:
        with gallery.transaction():
            for person in range(args.approximate // 10):
                centre = _normalise(rng.standard_normal(LENGTH))
                for i in range(10):
                    feature = _normalise(
                        centre + 0.8 * _normalise(rng.standard_normal(LENGTH))
                    ).astype(np.float32)
                    digest = ops.random_photo(f"{person}-{i}", rng, 1).sha256
                    gallery.add(
                        f"p{person}", EnrolledPhoto(digest, f"{i}.png", feature, 1.0, 40, 0.9, None)
                    )
        start = time.perf_counter()
        index = Index.open(gallery, approximate_above=1)
        spent = time.perf_counter() - start
    for measurement in index.measured:
        table.add_row(
            [
                measurement.kind,
                f"{measurement.recall:.4f}",
                f"{measurement.ms:.3g}",
                "chosen" if measurement.kind == index.kind else "",
            ]
        )
    table.add_note(
        "Ten photographs a person (cosine 0.78 to the person's centre) and their pooled ones; "
        f"queries are stored vectors with noise {NOISE_LENGTH} times their length. Building and "
        f"measuring all took {spent:.0f} s. A gallery of this size always uses the exact index; "
        "the table shows how the choice above 1,000,000 is made."
    )
    return table


def _normalise(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def kills_table(args: argparse.Namespace, folder: Path) -> Table:
    table = Table(
        "", "Random changes and kills", "", ("operations", "kills", "disagreements", "seconds")
    )
    rng, start = np.random.default_rng(7), time.perf_counter()
    operations = wrong = 0
    for seed in range(args.kills):
        gallery_folder, done_file = folder / str(seed), folder / f"{seed}.done"
        Gallery.create(gallery_folder, "random", "0" * 64, ops.LENGTH).close()
        done_file.touch()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, ops.__file__, gallery_folder, str(seed), done_file], env=environment
        ) as writer:
            wanted_changes = (
                args.operations / args.kills / 30
            )  # changes; each is of some 30 operations
            while (
                len(done_file.read_text().splitlines()) < wanted_changes and writer.poll() is None
            ):
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
        model, history = ops.Model(), ops.random_changes(seed)
        for change in itertools.islice(history, len(done_file.read_text().splitlines())):
            model.apply(change)
        with Gallery.open(gallery_folder) as gallery:
            if ops.disagreements(gallery, model):  # the kill came between a change and its line
                model.apply(next(history))
            wrong += ops.disagreements(gallery, model)
        operations += model.operations
    table.add_row([f"{operations:,}", args.kills, wrong, f"{time.perf_counter() - start:.0f}"])
    table.add_note(
        "Photographs added and removed in batches of random size by a process that is killed "
        "(SIGKILL) at a random moment; each removal is proven by a search of all files. "
        "Disagreements are templates for which the requested changes, the store and the index "
        "differ in id or in any byte of the vector."
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="vectors"
    )
    parser.add_argument("--queries", type=int, default=100, help="of each size")
    parser.add_argument("--photos", type=int, default=300, help="to enrol")
    parser.add_argument(
        "--faces",
        type=Path,
        default=FACES,
        help=("tar of IDENTITY/PHOTO; by default, if it is missing, the sample mugshots"),
    )
    parser.add_argument(
        "--approximate", type=int, default=20_000, help="vectors to measure approximate indexes on"
    )
    parser.add_argument(
        "--operations", type=int, default=10_000, help="random changes, over all kills"
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search:
        measure_search(args.search, args.queries)
        return
    with tempfile.TemporaryDirectory() as name:
        parts = [Path(name) / part for part in ("search", "enrol", "approximate", "kills")]
        for part in parts:
            part.mkdir()
        first, *further = (
            f(args, p)
            for f, p in zip(
                (search_table, enrolment_table, approximate_table, kills_table), parts, strict=True
            )
        )
    first.write(*further)


if __name__ == "__main__":
    main()
