"""The index is exact, rebuilt when it does not match the database, and never used when changed."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasr_video.errors import MissingExtra, UsageError
from fasr_video.files import sha256_file
from fasr_video.gallery import index
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import FLAT, INDEX_FILE, INDEX_STAMP, MIN_RECALL, RECALL_AT, Index
from fasr_video.gallery.inspect import check, nearest_pair, statistics
from tests.support import gallery_ops as ops
from tests.support.gallery_ops import LENGTH


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    rng = np.random.default_rng(0)
    with Gallery.create(tmp_path / "gallery", "toy", "ab", LENGTH) as opened:
        with opened.transaction():
            for i in range(300):
                opened.add(f"p{i % 200}", ops.random_photo(str(i), rng))
        yield opened


def unit_vectors(rng: np.random.Generator, count: int, length: int = LENGTH) -> np.ndarray:
    x = rng.standard_normal((count, length)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 600), st.integers(0, 2**32))
def test_search_returns_the_nearest_vectors_by_cosine(count: int, k: int, seed: int) -> None:
    import tempfile

    rng = np.random.default_rng(seed)
    queries = unit_vectors(rng, count)
    with (
        tempfile.TemporaryDirectory() as name,
        Gallery.create(Path(name) / "g", "toy", "ab", LENGTH) as gallery,
    ):
        with gallery.transaction():
            for i in range(40):
                gallery.add(f"p{i // 2}", ops.random_photo(str(i), rng))
        stored = gallery.vectors()
        cosines, ids = Index.open(gallery).search(queries, k)
        exact = queries.astype(np.float64) @ stored.features.T.astype(np.float64)
        k = min(k, len(stored.ids))
        assert cosines.shape == ids.shape == (count, k)
        assert cosines.dtype == np.float32 and ids.dtype == np.int64
        np.testing.assert_allclose(cosines, -np.sort(-exact, axis=1)[:, :k], atol=1e-6)
        rows = np.searchsorted(stored.ids, ids)
        np.testing.assert_allclose(np.take_along_axis(exact, rows, 1), cosines, atol=1e-6)


def test_searching_an_empty_gallery_returns_no_columns(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", "toy", "ab", LENGTH) as gallery:
        cosines, ids = Index.open(gallery).search(np.eye(LENGTH, dtype=np.float32)[:3], 5)
        assert cosines.shape == ids.shape == (3, 0)


def test_features_of_another_length_are_refused(gallery: Gallery) -> None:
    with pytest.raises(UsageError, match="their shape is 3×33, not M×32"):
        Index.open(gallery).search(np.zeros((3, 33), np.float32), 5)


def test_the_index_is_built_a_single_time_and_then_read(gallery: Gallery) -> None:
    assert Index.open(gallery).rebuilt == "there was none"
    reopened = Index.open(gallery)
    assert reopened.rebuilt is None and reopened.kind == FLAT
    gallery.add("new", ops.random_photo("new", np.random.default_rng(9)))
    assert Index.open(gallery).rebuilt == "the gallery has changed since it was made"
    assert len(Index.open(gallery)) == gallery.count()


def test_diverged_copies_do_not_use_each_others_index(gallery: Gallery, tmp_path: Path) -> None:
    """The same gallery id, generation and number of templates; only what was added differs."""
    shutil.copytree(gallery.folder, tmp_path / "copy")
    with Gallery.open(tmp_path / "copy") as copy:
        for opened, name in ((gallery, "x"), (copy, "y")):
            opened.add(
                "new", ops.random_photo(name, np.random.default_rng(len(name + opened.folder.name)))
            )
            Index.open(opened)
        assert (copy.id, copy.generation, copy.count()) == (
            gallery.id,
            gallery.generation,
            gallery.count(),
        )
        for name in (INDEX_FILE, INDEX_STAMP):
            shutil.copy(gallery.folder / name, copy.folder / name)
        assert Index.open(copy).rebuilt is not None


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "empty", "no stamp", "bad stamp", "half a stamp"]
)
def test_a_damaged_index_is_rebuilt_and_reported(gallery: Gallery, damage: str) -> None:
    Index.open(gallery)
    file, stamp = gallery.folder / INDEX_FILE, gallery.folder / INDEX_STAMP
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "no stamp":
        stamp.unlink()
    elif damage == "bad stamp":
        stamp.write_text("[]")
    else:
        stamp.write_text(json.dumps({"kind": "flat"}))
    index_ = Index.open(gallery)
    assert index_.rebuilt is not None and "damaged" in index_.rebuilt
    np.testing.assert_array_equal(index.read_vectors(gallery.folder)[1], gallery.vectors().features)
    assert Index.open(gallery).rebuilt is None


def write_foreign_index(gallery: Gallery, forgery: str) -> None:
    """Lay an index of the kind beside the store, with a stamp that fits both."""
    import faiss

    stored = gallery.vectors()
    is_kept = np.ones(len(stored.ids), np.bool_)
    is_kept[0] = forgery not in {"a person is missing"}
    ids = stored.ids + 1000 * (forgery == "other ids")
    length = LENGTH // 2 if forgery == "shorter vectors" else LENGTH
    flat = faiss.IndexFlatL2(length) if forgery == "another measure" else faiss.IndexFlatIP(length)
    index_ = faiss.IndexIDMap2(flat)
    index_.add_with_ids(np.ascontiguousarray(stored.features[is_kept, :length]), ids[is_kept])
    faiss.write_index(index_, str(gallery.folder / INDEX_FILE))
    digest = sha256_file(gallery.folder / INDEX_FILE)
    stamp = asdict(index.index_facts(gallery))
    stamp |= {"kind": FLAT, "measured": [], "sha256": digest}
    (gallery.folder / INDEX_STAMP).write_text(json.dumps(stamp))


FORGERIES = ("a person is missing", "other ids", "shorter vectors", "another measure")


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_foreign_index_file_is_not_used(gallery: Gallery, forgery: str, known: bool) -> None:
    """Nor where they wrote it into the store, too, that it is ours."""
    Index.open(gallery)
    write_foreign_index(gallery, forgery)
    if known:
        gallery.note_index_stamp(sha256_file(gallery.folder / INDEX_STAMP))
    index_ = Index.open(gallery)
    expected = index.OTHER_TEMPLATES if known else "its stamp is missing or damaged"
    assert index_.rebuilt == expected and len(index_) == gallery.count()
    first = gallery.vectors()
    cosines, ids = index_.search(first.features[:1], 1)
    assert ids[0, 0] == first.ids[0] and cosines[0, 0] == pytest.approx(1, abs=1e-5)


def test_check_reports_an_index_that_differs_from_the_database(gallery: Gallery) -> None:
    Index.open(gallery)
    assert not any(c.problems for c in check(gallery))
    file = gallery.folder / INDEX_FILE
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    result = check(gallery)[-1]
    assert result.problems and "delete" in result.remedy
    file.unlink()
    result = check(gallery)[-1]
    assert not result.problems and result.notes


def test_the_index_stays_in_memory_where_the_folder_is_read_only(gallery: Gallery) -> None:
    """Root may write anywhere, so the folder's file is made one that cannot be replaced: a folder
    of that name.
    """
    gallery.close()
    (gallery.folder / f"{INDEX_FILE}.part").mkdir()
    gallery.folder.chmod(stat.S_IREAD | stat.S_IEXEC)
    try:
        with Gallery.open(gallery.folder, read_only=True) as opened:
            assert len(Index.open(opened)) == opened.count()
            assert not (gallery.folder / INDEX_FILE).exists()
    finally:
        gallery.folder.chmod(stat.S_IRWXU)


def test_a_reader_writes_no_file_while_another_process_changes_the_gallery(
    gallery: Gallery,
) -> None:
    """Else what was just removed could come back to the disk."""
    with Gallery.open(gallery.folder, read_only=True) as reader:
        assert len(Index.open(reader)) == gallery.count()
        assert not (gallery.folder / INDEX_FILE).exists()
        gallery.close()
        Index.open(reader)
        assert (gallery.folder / INDEX_FILE).exists()


def test_without_faiss_the_error_names_the_install_command(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fasr-video\[cpu\]'"):
        Index.open(gallery)
    assert ops.remove_subject(gallery, "p1").occurrences == 0


class TestApproximate:
    LENGTH = 16

    @pytest.fixture
    def large(self, tmp_path: Path) -> Iterator[Gallery]:
        """Few numbers a vector, so that an approximate index can find enough."""
        rng = np.random.default_rng(4)
        with (
            Gallery.create(tmp_path / "g", "toy", "ab", self.LENGTH) as gallery,
            gallery.transaction(),
        ):
            for i in range(6000):
                gallery.add(f"p{i}", ops.random_photo(str(i), rng, self.LENGTH))
        with Gallery.open(tmp_path / "g") as gallery:
            yield gallery

    @pytest.mark.slow
    def test_an_approximate_index_with_enough_recall_is_used(self, large: Gallery) -> None:
        index_ = Index.open(large, approximate_above=1000)
        assert {m.kind.split(",")[0] for m in index_.measured} == {FLAT, "IVF-PQ", "HNSW"}
        best = next(m for m in index_.measured if m.kind == index_.kind)
        assert best.recall >= MIN_RECALL and best.ms == min(
            m.ms for m in index_.measured if m.recall >= MIN_RECALL
        )
        reopened = Index.open(large, approximate_above=1000)
        assert (reopened.rebuilt, reopened.kind, reopened.measured) == (
            None,
            index_.kind,
            index_.measured,
        )
        assert not any(c.problems for c in check(large))
        assert statistics(large).index_state.startswith("rebuilt")

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["IVF-PQ", "HNSW"])
    def test_results_are_ordered_by_the_exact_vectors(
        self, large: Gallery, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also after it was written and read again. Its measured recall is what is measured here on
        other queries.
        """
        monkeypatch.setattr(index, "_KINDS", {kind: index._KINDS[kind]})
        monkeypatch.setattr(index, "_time_search", slow_when_flat(index._time_search))
        Index.open(large, approximate_above=1000)
        index_ = Index.open(large, approximate_above=1000)
        assert index_.rebuilt is None and index_.kind.startswith(kind)
        stored = large.vectors()
        queries = index._noisy_queries(stored.features[::3])
        cosines, ids = index_.search(queries, RECALL_AT)
        exact = queries @ stored.features.T
        rows = np.searchsorted(stored.ids, ids)
        np.testing.assert_allclose(cosines, np.take_along_axis(exact, rows, 1), atol=1e-5)
        assert (np.diff(cosines, axis=1) <= 0).all()
        truth = np.argsort(-exact, axis=1)[:, :RECALL_AT]
        recall = np.mean([np.isin(a, b).mean() for a, b in zip(truth, rows, strict=True)])
        assert recall == pytest.approx(
            next(m.recall for m in index_.measured if m.kind == index_.kind), abs=0.01
        )

    @pytest.mark.slow
    def test_the_exact_index_is_used_where_recall_is_too_low(
        self, large: Gallery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(index, "MIN_RECALL", 1.01)
        index_ = Index.open(large, approximate_above=1000)
        assert index_.kind == FLAT and len(index_.measured) > 3
        assert Index.open(large, approximate_above=1000).rebuilt is None


def slow_when_flat(answers: Any) -> Any:
    """Make the exact index seem slow, because at this size it is the fastest and would be
    chosen.
    """

    def timed_search(engine: Any, queries: np.ndarray) -> tuple[np.ndarray, float]:
        import faiss

        ids, ms = answers(engine, queries)
        flat = isinstance(faiss.downcast_index(engine.index), faiss.IndexFlat)
        return ids, ms + 1e6 * flat

    return timed_search


def test_statistics_name_the_two_most_similar_subjects(tmp_path: Path) -> None:
    x = np.eye(LENGTH, dtype=np.float32)
    near = 0.8 * x[0] + 0.6 * x[1]
    with Gallery.create(tmp_path / "g", "toy", "ab", LENGTH) as gallery:
        rng = np.random.default_rng(0)
        for i, (subject, vector) in enumerate(
            (("a", x[0]), ("a", x[0]), ("b", near), ("c", x[5]), ("a", x[9]))
        ):
            given = ops.random_photo(str(i), rng)
            gallery.add(subject, type(given)(given.sha256, given.path, vector, 1.0, 40, 0.9, None))
        result = statistics(gallery)
        assert result.nearest is not None and result.nearest.subjects == ("a", "b")
        assert result.nearest.cosine == pytest.approx(0.8, abs=1e-6)
        assert (result.subjects, result.images, result.templates, result.pooled) == (3, 5, 6, 1)
        assert (result.fewest_photos, result.most_photos) == (1, 3)
        ops.remove_subject(gallery, "b")
        ops.remove_subject(gallery, "c")
        assert nearest_pair(gallery, Index.open(gallery), 3) is None
