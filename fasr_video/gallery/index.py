"""Search among a gallery's vectors with FAISS: exact, and made anew from the store whenever it does not fit.

Beyond APPROXIMATE_ABOVE templates IVF-PQ and HNSW are built, too, and held against the exact answer on stored vectors
with noise; the fastest that finds ENOUGH of it is used, its measured recall kept beside it. Each puts what it found in
order by the exact vectors, which lie in the same file.

The file is used only while it is the one that was written for the store as it is: the store holds the hash of its
stamp, the stamp that of the file, and its ids, length and measure are compared with the store's.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasr_video.errors import EnvironmentFailure, MissingExtra, UsageError
from fasr_video.files import atomic_write, atomic_write_text, read_file, sha256_file, sync_folder
from fasr_video.gallery.store import FILE, STAMP, GalleryStore

APPROXIMATE_ABOVE = 1_000_000
ENOUGH = 0.99
RECALL_AT = 50  # candidates: the length of an investigation's list
SAMPLE = 200  # stored vectors to measure with
NOISE = 0.75  # length of the noise on each, a unit vector: cosine 0.8 to what is stored
RERANKED = 4.0  # candidates that are put in order for each that is asked for
FLAT = "flat"
DAMAGED = "its file is damaged"
OTHERS = "it holds other templates than the store"


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of index against the exact answer."""

    kind: str
    recall: float
    """Share of the exact RECALL_AT that it finds."""
    ms: float
    """A query."""


class Index:
    """A gallery's vectors as they were at one generation."""

    def __init__(
        self, engine: Any, kind: str, measured: tuple[Measured, ...], rebuilt: str | None
    ) -> None:
        self._engine, self.kind, self.measured = engine, kind, measured
        self.rebuilt = rebuilt
        """Why it was made anew from the store; None when the file on disk fits."""

    @classmethod
    def open(cls, gallery: GalleryStore, approximate_above: int = APPROXIMATE_ABOVE) -> Index:
        """From the file when it fits, otherwise from the store; then the file is written, where that is possible."""
        faiss = _faiss()
        with gallery.snapshot():
            facts = provenance_of(gallery)
            reason = unfit(gallery, facts, approximate_above)
            if reason is None:
                try:
                    return cls._read(faiss, gallery)
                except _OfOthers:
                    reason = OTHERS
                except (
                    RuntimeError
                ):  # FAISS: a process that removes somebody took the file away just now
                    reason = "its file went away"
            built = _build(faiss, gallery, approximate_above)
        _save(faiss, gallery, built, facts)
        engine = _on_gpu(faiss, built.engine, built.kind)
        return cls(engine, built.kind, built.measured, reason)

    @classmethod
    def _read(cls, faiss: Any, gallery: GalleryStore) -> Index:
        stamp = read_stamp(gallery)
        if stamp is None:
            raise RuntimeError("no stamp")
        # An approximate index stays on disk, mapped; the exact one is read at each search, so it lies in memory.
        how = 0 if stamp["kind"] == FLAT else faiss.IO_FLAG_MMAP_IFC
        with _in_utf8(gallery.folder / FILE, os.O_RDONLY) as name:
            stored = faiss.read_index(name, how)
        if not _is_of(faiss, stored, gallery):
            raise _OfOthers
        engine = _on_gpu(faiss, stored, stamp["kind"])
        return cls(engine, stamp["kind"], tuple(Measured(**m) for m in stamp["measured"]), None)

    def __len__(self) -> int:
        return int(self._engine.ntotal)

    def search(
        self, features: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """M×L unit vectors → cosines (M×k, the highest first) and ids of the templates; fewer columns when there are
        fewer than k templates."""
        features = np.ascontiguousarray(features, np.float32)
        if features.ndim != 2 or features.shape[1] != self._engine.d:
            reason = f"M×{self._engine.d} wanted, not {'×'.join(map(str, features.shape))}"
            raise UsageError("features", reason, "give one row a face, from the gallery's embedder")
        k = min(k, len(self))
        if k == 0 or len(features) == 0:
            return np.empty((len(features), k), np.float32), np.empty((len(features), k), np.int64)
        return self._engine.search(features, k)  # type: ignore[no-any-return]


class _OfOthers(Exception):
    """An index on disk that does not hold what the store does."""


def _is_of(faiss: Any, stored: Any, gallery: GalleryStore) -> bool:
    """Whether an index compares as ours do, and holds vectors of the store's length under the store's ids."""
    if (stored.d, stored.metric_type) != (gallery.length, faiss.METRIC_INNER_PRODUCT):
        return False
    return bool(np.array_equal(faiss.vector_to_array(stored.id_map), gallery.ids()))


@dataclass(frozen=True, slots=True)
class _Built:
    engine: Any
    kind: str
    measured: tuple[Measured, ...]


def unfit(
    gallery: GalleryStore, facts: dict[str, Any], approximate_above: int = APPROXIMATE_ABOVE
) -> str | None:
    """Why the index on disk cannot be used for a gallery with these facts; None when it can."""
    folder = gallery.folder
    if not (folder / FILE).is_file():
        return "there was none"
    stamp = read_stamp(gallery)
    if stamp is None:
        return "its stamp is missing or damaged"
    if any(stamp.get(key) != value for key, value in facts.items()):
        return "the gallery has changed since it was made"
    if bool(stamp["measured"]) != (facts["count"] > approximate_above):
        return "it was made for another number of templates"
    try:
        return None if sha256_file(folder / FILE) == stamp["sha256"] else DAMAGED
    except FileNotFoundError:
        return "there was none"


def provenance_of(gallery: GalleryStore) -> dict[str, Any]:
    """What an index has to have been made from, to fit this gallery now."""
    state = {"gallery": gallery.id, "generation": gallery.generation, "state": gallery.state}
    return state | {"count": gallery.count(), "length": gallery.length}


def read_stamp(gallery: GalleryStore) -> Any:
    """What the index on disk was made from; None when that is not to be found, or not what the store knows of."""
    try:
        text = read_file(gallery.folder / STAMP)
        if hashlib.sha256(text).hexdigest() != gallery.index_stamp:
            return None
        stamp = json.loads(text)
        return stamp if {"kind", "measured", "sha256"} <= stamp.keys() else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def contents(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ids and exact vectors that the file holds."""
    faiss = _faiss()
    with _in_utf8(folder / FILE, os.O_RDONLY) as name:
        mapped = faiss.read_index(name)
    return faiss.vector_to_array(mapped.id_map), _stored(faiss, mapped).copy()


def write(gallery: GalleryStore) -> None:
    """Make the file anew. A large gallery's index takes minutes to measure: it is left to the next search."""
    if gallery.count() <= APPROXIMATE_ABOVE:
        with suppress(MissingExtra):  # without FAISS there is nothing to write, and nothing old
            Index.open(gallery)


def _save(faiss: Any, gallery: GalleryStore, built: _Built, facts: dict[str, Any]) -> None:
    """A folder that cannot be written gets no file, and neither does one that is being changed: what was removed from
    the store meanwhile must not come back to the disk."""
    stamp = facts | {"kind": built.kind, "measured": [asdict(m) for m in built.measured]}
    with gallery.sole_writer() as allowed:
        if not allowed or provenance_of(gallery) != facts:
            return
        # FAISS tells of a full disk by a RuntimeError.
        with suppress(OSError, RuntimeError, sqlite3.Error, EnvironmentFailure):
            (gallery.folder / STAMP).unlink(
                missing_ok=True
            )  # a kill leaves no stamp rather than one of another file
            sync_folder(gallery.folder)
            atomic_write(
                gallery.folder / FILE, lambda part: _write_index(faiss, built.engine, part)
            )
            stamp["sha256"] = sha256_file(gallery.folder / FILE)
            text = json.dumps(stamp, indent=2)
            atomic_write_text(gallery.folder / STAMP, text)
            gallery.note_index_stamp(hashlib.sha256(text.encode()).hexdigest())


def _write_index(faiss: Any, engine: Any, file: Path) -> None:
    with _in_utf8(file, os.O_WRONLY | os.O_CREAT) as name:
        faiss.write_index(engine, name)


@contextmanager
def _in_utf8(file: Path, flags: int) -> Iterator[str]:
    """Yield a path of the file for FAISS, which takes UTF-8 alone: any other is reached through a descriptor."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        descriptor = os.open(file, flags, 0o600)
        try:
            yield f"/dev/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        yield str(file)


def _build(faiss: Any, gallery: GalleryStore, approximate_above: int) -> _Built:
    flat = faiss.IndexIDMap2(faiss.IndexFlatIP(gallery.length))
    for chunk in gallery.vector_chunks():
        flat.add_with_ids(np.ascontiguousarray(chunk.features), chunk.ids)
    return _Built(flat, FLAT, ()) if flat.ntotal <= approximate_above else _choose(faiss, flat)


def _choose(faiss: Any, flat: Any) -> _Built:
    """The fastest index that finds ENOUGH of what `flat` finds, or `flat`; and what each was measured at."""
    vectors = _stored(faiss, flat)
    queries = _noisy(vectors)
    truth, ms = _answers(flat, queries)
    best, fastest, measured = (flat, FLAT), ms, [Measured(FLAT, 1.0, ms)]
    for name, (make, efforts) in _KINDS.items():
        base = make(faiss, vectors)
        base.add(vectors)
        engine = _reranked(faiss, flat, base)
        for effort in efforts:
            told = _set_effort(base, effort)
            found, ms = _answers(engine, queries)
            measured.append(Measured(f"{name}, {told}", _recall(truth, found), ms))
            if measured[-1].recall >= ENOUGH:
                if ms < fastest:
                    best, fastest = (engine, measured[-1].kind), ms
                break  # more effort would only be slower
    return _Built(*best, tuple(measured))


def _ivf_pq(faiss: Any, vectors: NDArray[np.float32]) -> Any:
    count, length = vectors.shape
    lists = max(
        1, min(round(4 * count**0.5), count // 39)
    )  # fewer vectors a list would train it badly
    parts = next(m for m in (64, 32, 16, 8, 4, 2, 1) if length % m == 0)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(length), length, lists, parts, 8, faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors)  # FAISS takes a sample as large as it needs
    return index


def _hnsw(faiss: Any, vectors: NDArray[np.float32]) -> Any:
    index = faiss.IndexHNSWSQ(
        vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, 32, faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors[:: max(1, len(vectors) // 100_000)])
    return index


_KINDS: dict[str, tuple[Callable[[Any, NDArray[np.float32]], Any], tuple[int, ...]]] = {
    "IVF-PQ": (_ivf_pq, (16, 64, 256)),
    "HNSW": (_hnsw, (64, 256, 1024)),
}


def _set_effort(base: Any, effort: int) -> str:
    if hasattr(base, "hnsw"):
        base.hnsw.efSearch = effort
        return f"efSearch {effort}"
    base.nprobe = min(effort, base.nlist)
    return f"nprobe {base.nprobe} of {base.nlist}"


def _reranked(faiss: Any, flat: Any, base: Any) -> Any:
    """`base`, whose answers the vectors of `flat` put in order. They are shared, not copied."""
    refined = faiss.IndexRefine(base, faiss.downcast_index(flat.index))
    refined.k_factor = RERANKED
    count, refined.ntotal = refined.ntotal, 0  # FAISS gives ids to an empty index only
    mapped = faiss.IndexIDMap2(refined)
    refined.ntotal = mapped.ntotal = count
    faiss.copy_array_to_vector(faiss.vector_to_array(flat.id_map), mapped.id_map)
    mapped.construct_rev_map()
    mapped.referenced_objects.append(flat)  # alive as long as it is
    return mapped


def _stored(faiss: Any, mapped: Any) -> NDArray[np.float32]:
    """The exact vectors of any of our indexes, not copied."""
    inner = faiss.downcast_index(mapped.index)
    exact = faiss.downcast_index(inner.refine_index) if hasattr(inner, "refine_index") else inner
    return faiss.rev_swig_ptr(exact.get_xb(), exact.ntotal * exact.d).reshape(-1, exact.d)  # type: ignore[no-any-return]


def _noisy(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    chosen = vectors[rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False)]
    noise = rng.standard_normal(chosen.shape, np.float32)
    noisy = chosen + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.ascontiguousarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), np.float32)


def _answers(engine: Any, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
    """Ids, and milliseconds for a query alone."""
    began = time.perf_counter()
    ids = [engine.search(q[None], min(RECALL_AT, engine.ntotal))[1] for q in queries]
    return np.concatenate(ids), 1e3 * (time.perf_counter() - began) / len(queries)


def _recall(truth: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))


def _on_gpu(faiss: Any, engine: Any, kind: str) -> Any:
    """The exact index on the first GPU, where FAISS was built for one."""
    if kind != FLAT or not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return engine
    resources = faiss.StandardGpuResources()
    moved = faiss.index_cpu_to_gpu(resources, 0, engine)
    moved.referenced_objects = [resources]  # alive as long as it is
    return moved


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss-cpu", "cpu", "searching a gallery") from error
    return faiss
