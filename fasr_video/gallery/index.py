"""The FAISS index over a gallery's vectors; it is rebuilt from the database when it does not match.

The index is exact. Above APPROXIMATE_ABOVE templates, IVF-PQ and HNSW indexes are built as well and
compared with the exact one on noisy copies of stored vectors. The fastest with a recall of
MIN_RECALL is used, and its recall is stored. Approximate indexes rerank their candidates by the
exact vectors, which are in the same file.

The file is used only if it was written for the current state of the database. The database has the
hash of the stamp file, the stamp has the hash of the index file, and ids, vector length and metric
are compared with the database.
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
from fasr_video.gallery.store import INDEX_FILE, INDEX_STAMP, GalleryStore

APPROXIMATE_ABOVE = 1_000_000
MIN_RECALL = 0.99
RECALL_AT = 50  # candidates that recall is measured on, as many as an investigation lists
QUERIES = 200  # noisy vectors to measure recall and time with
NOISE_LENGTH = 0.75  # length of the noise on a unit vector; the cosine to it is then 0.8
RERANK_FACTOR = 4.0  # candidates that are reranked for each result
FLAT = "flat"
DAMAGED = "its file is damaged"
OTHER_TEMPLATES = "it holds other templates than the store"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Recall and speed of one kind of index."""

    kind: str
    recall: float
    """Share of the RECALL_AT nearest vectors that it finds."""
    ms: float
    """Milliseconds per query."""


class Index:
    """The index over a gallery's vectors at one generation."""

    def __init__(
        self, engine: Any, kind: str, measured: tuple[Measurement, ...], rebuilt: str | None
    ) -> None:
        self._engine = engine
        self.kind = kind
        self.measured = measured
        self.rebuilt = rebuilt
        """Why it was rebuilt from the database; None where the file on disk was used."""

    @classmethod
    def open(cls, gallery: GalleryStore, approximate_above: int = APPROXIMATE_ABOVE) -> Index:
        """Return the index from its file where that matches, else rebuild it and write the file if
        possible."""
        faiss = import_faiss()
        with gallery.snapshot():
            facts = index_facts(gallery)
            reason = reason_to_rebuild(gallery, facts, approximate_above)
            if reason is None:
                try:
                    return cls._read(faiss, gallery)
                except _OtherTemplatesError:
                    reason = OTHER_TEMPLATES
                except RuntimeError:
                    # FAISS found no file: a process that removes somebody has just deleted it.
                    reason = "its file disappeared"
            built = _build(faiss, gallery, approximate_above)
        _save(faiss, gallery, built, facts)
        engine = _on_gpu(faiss, built.engine, built.kind)
        return cls(engine, built.kind, built.measured, reason)

    @classmethod
    def _read(cls, faiss: Any, gallery: GalleryStore) -> Index:
        stamp = read_stamp(gallery)
        if stamp is None:
            raise RuntimeError("no stamp")
        # An approximate index is mapped from disk; the exact one is read as a whole in each search.
        flags = 0 if stamp["kind"] == FLAT else faiss.IO_FLAG_MMAP_IFC
        with _in_utf8(gallery.folder / INDEX_FILE, os.O_RDONLY) as name:
            stored = faiss.read_index(name, flags)
        if not _holds_templates_of(faiss, stored, gallery):
            raise _OtherTemplatesError
        engine = _on_gpu(faiss, stored, stamp["kind"])
        return cls(engine, stamp["kind"], tuple(Measurement(**m) for m in stamp["measured"]), None)

    def __len__(self) -> int:
        return int(self._engine.ntotal)

    def search(
        self, features: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return cosines (M×k, highest first) and template ids for M×L unit vectors.

        There are fewer columns where the gallery has fewer than k templates.
        """
        features = np.ascontiguousarray(features, np.float32)
        if features.ndim != 2 or features.shape[1] != self._engine.d:
            shape = "×".join(map(str, features.shape))
            reason = f"their shape is {shape}, not M×{self._engine.d}"
            remedy = "give one row per face, from the gallery's embedder"
            raise UsageError("features", reason, remedy)
        k = min(k, len(self))
        if k == 0 or len(features) == 0:
            return np.empty((len(features), k), np.float32), np.empty((len(features), k), np.int64)
        return self._engine.search(features, k)  # type: ignore[no-any-return]


class _OtherTemplatesError(Exception):
    """The index on disk has other templates than the database."""


def _holds_templates_of(faiss: Any, stored: Any, gallery: GalleryStore) -> bool:
    """Return whether an index has our metric, and the vector length and ids of the database."""
    if (stored.d, stored.metric_type) != (gallery.length, faiss.METRIC_INNER_PRODUCT):
        return False
    return bool(np.array_equal(faiss.vector_to_array(stored.id_map), gallery.ids()))


@dataclass(frozen=True, slots=True)
class _Built:
    engine: Any
    kind: str
    measured: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """The facts about a gallery that its index has to match."""

    gallery: str
    generation: int
    state: str
    count: int
    """Of templates."""
    length: int
    """Of a vector."""


def reason_to_rebuild(
    gallery: GalleryStore, facts: IndexFacts, approximate_above: int = APPROXIMATE_ABOVE
) -> str | None:
    """Return why the index on disk cannot be used for a gallery with these facts, or None."""
    folder = gallery.folder
    if not (folder / INDEX_FILE).is_file():
        return "there was none"
    stamp = read_stamp(gallery)
    if stamp is None:
        return "its stamp is missing or damaged"
    if any(stamp.get(key) != value for key, value in asdict(facts).items()):
        return "the gallery has changed since it was made"
    if bool(stamp["measured"]) != (facts.count > approximate_above):
        return "it was made for another number of templates"
    try:
        return None if sha256_file(folder / INDEX_FILE) == stamp["sha256"] else DAMAGED
    except FileNotFoundError:
        return "there was none"


def index_facts(gallery: GalleryStore) -> IndexFacts:
    return IndexFacts(
        gallery.id, gallery.generation, gallery.state, gallery.count(), gallery.length
    )


def read_stamp(gallery: GalleryStore) -> Any:
    """Return the stamp of the index on disk, or None where it is missing or not the one we
    wrote."""
    try:
        text = read_file(gallery.folder / INDEX_STAMP)
        if hashlib.sha256(text).hexdigest() != gallery.index_stamp:
            return None
        stamp = json.loads(text)
        return stamp if {"kind", "measured", "sha256"} <= stamp.keys() else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def read_vectors(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ids and exact vectors in the index file."""
    faiss = import_faiss()
    with _in_utf8(folder / INDEX_FILE, os.O_RDONLY) as name:
        mapped = faiss.read_index(name)
    return faiss.vector_to_array(mapped.id_map), _exact_vectors(faiss, mapped).copy()


def rebuild(gallery: GalleryStore) -> None:
    """Rebuild the file, except for large galleries: that takes minutes and is left to the next
    search."""
    if gallery.count() <= APPROXIMATE_ABOVE:
        with suppress(MissingExtra):  # without FAISS there is no index
            Index.open(gallery)


def _save(faiss: Any, gallery: GalleryStore, built: _Built, facts: IndexFacts) -> None:
    """Write the index and its stamp, where the folder is writable and nobody else changes the
    gallery.

    Otherwise data that another process removes meanwhile could come back to the disk.
    """
    stamp = asdict(facts) | {"kind": built.kind, "measured": [asdict(m) for m in built.measured]}
    with gallery.sole_writer() as allowed:
        if not allowed or index_facts(gallery) != facts:
            return
        # FAISS raises a RuntimeError on a full disk.
        with suppress(OSError, RuntimeError, sqlite3.Error, EnvironmentFailure):
            # Deleting the stamp first means that a kill cannot leave the stamp of another file.
            (gallery.folder / INDEX_STAMP).unlink(missing_ok=True)
            sync_folder(gallery.folder)
            atomic_write(
                gallery.folder / INDEX_FILE, lambda part: _write_index(faiss, built.engine, part)
            )
            stamp["sha256"] = sha256_file(gallery.folder / INDEX_FILE)
            text = json.dumps(stamp, indent=2)
            atomic_write_text(gallery.folder / INDEX_STAMP, text)
            gallery.note_index_stamp(hashlib.sha256(text.encode()).hexdigest())


def _write_index(faiss: Any, engine: Any, file: Path) -> None:
    with _in_utf8(file, os.O_WRONLY | os.O_CREAT) as name:
        faiss.write_index(engine, name)


@contextmanager
def _in_utf8(file: Path, flags: int) -> Iterator[str]:
    """Yield a path that FAISS can open; for a path that is not UTF-8, one of a file descriptor."""
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
    if flat.ntotal <= approximate_above:
        return _Built(flat, FLAT, ())
    return _choose(faiss, flat)


def _choose(faiss: Any, flat: Any) -> _Built:
    """Return the fastest index with a recall of MIN_RECALL, which may be `flat`, and all
    measurements."""
    vectors = _exact_vectors(faiss, flat)
    queries = _noisy_queries(vectors)
    truth, ms = _time_search(flat, queries)
    best = (flat, FLAT)
    fastest = ms
    measured = [Measurement(FLAT, 1.0, ms)]
    for name, (make, efforts) in _KINDS.items():
        base = make(faiss, vectors)
        base.add(vectors)
        engine = _reranked(faiss, flat, base)
        for effort in efforts:
            setting = _set_effort(base, effort)
            found, ms = _time_search(engine, queries)
            measurement = Measurement(f"{name}, {setting}", _recall(truth, found), ms)
            measured.append(measurement)
            if measurement.recall >= MIN_RECALL:
                if ms < fastest:
                    best = (engine, measurement.kind)
                    fastest = ms
                break  # more effort would only be slower
    return _Built(*best, tuple(measured))


def _ivf_pq(faiss: Any, vectors: NDArray[np.float32]) -> Any:
    count, length = vectors.shape
    # FAISS needs at least 39 vectors per list for training.
    lists = max(1, min(round(4 * count**0.5), count // 39))
    parts = next(m for m in (64, 32, 16, 8, 4, 2, 1) if length % m == 0)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(length), length, lists, parts, 8, faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors)  # FAISS draws a sample of the size it needs
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
    """Set how much an approximate index searches, and return the setting as text."""
    if hasattr(base, "hnsw"):
        base.hnsw.efSearch = effort
        return f"efSearch {effort}"
    base.nprobe = min(effort, base.nlist)
    return f"nprobe {base.nprobe} of {base.nlist}"


def _reranked(faiss: Any, flat: Any, base: Any) -> Any:
    """Return `base` with its results reranked by the vectors of `flat`, which are shared, not
    copied."""
    refined = faiss.IndexRefine(base, faiss.downcast_index(flat.index))
    refined.k_factor = RERANK_FACTOR
    count = refined.ntotal
    refined.ntotal = 0  # FAISS gives ids to an empty index only
    mapped = faiss.IndexIDMap2(refined)
    refined.ntotal = mapped.ntotal = count
    faiss.copy_array_to_vector(faiss.vector_to_array(flat.id_map), mapped.id_map)
    mapped.construct_rev_map()
    mapped.referenced_objects.append(flat)  # keeps it alive
    return mapped


def _exact_vectors(faiss: Any, mapped: Any) -> NDArray[np.float32]:
    """Return the exact vectors of any of our indexes, without copying."""
    inner = faiss.downcast_index(mapped.index)
    exact = faiss.downcast_index(inner.refine_index) if hasattr(inner, "refine_index") else inner
    return faiss.rev_swig_ptr(exact.get_xb(), exact.ntotal * exact.d).reshape(-1, exact.d)  # type: ignore[no-any-return]


def _noisy_queries(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return noisy copies of some stored vectors."""
    rng = np.random.default_rng(0)
    chosen = vectors[rng.choice(len(vectors), min(QUERIES, len(vectors)), replace=False)]
    noise = rng.standard_normal(chosen.shape, np.float32)
    noisy = chosen + NOISE_LENGTH * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.ascontiguousarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), np.float32)


def _time_search(engine: Any, queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
    """Return the ids found, and the milliseconds per single query."""
    began = time.perf_counter()
    ids = [engine.search(q[None], min(RECALL_AT, engine.ntotal))[1] for q in queries]
    return np.concatenate(ids), 1e3 * (time.perf_counter() - began) / len(queries)


def _recall(truth: NDArray[np.int64], results: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, results, strict=True)]))


def _on_gpu(faiss: Any, engine: Any, kind: str) -> Any:
    """Return the exact index on the first GPU, where FAISS supports one; else the index itself."""
    if kind != FLAT or not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return engine
    resources = faiss.StandardGpuResources()
    moved = faiss.index_cpu_to_gpu(resources, 0, engine)
    moved.referenced_objects = [resources]  # keeps them alive
    return moved


def import_faiss() -> Any:
    """Return the module of FAISS; raise where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss-cpu", "cpu", "searching a gallery") from error
    return faiss
