"""The gallery database: photographs are stored and removed completely, and kills leave complete
batches.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasr_video.errors import EnvironmentFailure, IntegrityError, UsageError
from fasr_video.gallery import traces
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.inspect import check
from fasr_video.gallery.records import (
    EnrolledPhoto,
    GalleryError,
    PhotoOfAnother,
    Problem,
    WrongEmbedder,
)
from fasr_video.gallery.store import DATABASE
from fasr_video.recognition.combiner import Source
from fasr_video.recognition.embedder import BuiltinEmbedder
from tests.support import gallery_ops as ops
from tests.support.commands import run_command
from tests.support.gallery_ops import LENGTH
from tests.support.paths import ROOT


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.create(tmp_path / "gallery", "toy", "ab" * 32, LENGTH) as opened:
        yield opened


def test_an_added_photograph_is_read_back_unchanged(
    gallery: Gallery, rng: np.random.Generator
) -> None:
    given = ops.random_photo("one", rng, picture=True)
    assert gallery.add("Ada ✓", given, note="seen twice")
    (subject,) = gallery.subjects()
    assert (subject.id, subject.note, subject.images) == ("Ada ✓", "seen twice", 1)
    (image,) = gallery.images("Ada ✓")
    assert (image.sha256, image.path, image.norm, image.has_picture) == (
        given.sha256,
        "one.png",
        given.norm,
        True,
    )
    assert given.face is not None
    face = gallery.face(image)
    assert face is not None
    np.testing.assert_array_equal(face.picture, given.face.picture)
    vectors = gallery.vectors()
    np.testing.assert_array_equal(vectors.features, given.feature[None])
    (template,) = gallery.templates(vectors.ids).values()
    assert (template.subject, template.kind, template.image) == ("Ada ✓", "single", given.sha256)
    assert gallery.embedder == Source("toy", "ab" * 32) and gallery.length == LENGTH


def test_several_photographs_make_a_pooled_template_weighted_by_norms(
    gallery: Gallery,
) -> None:
    a, b = np.eye(LENGTH, dtype=np.float32)[:2]
    gallery.add("x", EnrolledPhoto("1" * 64, "a", a, 3.0, 40, 0.9, None))
    assert [t.kind for t in gallery.templates(gallery.vectors().ids).values()] == ["single"]
    gallery.add("x", EnrolledPhoto("2" * 64, "b", b, 4.0, 40, 0.9, None))
    vectors = gallery.vectors()
    kinds = [gallery.templates(vectors.ids)[i].kind for i in vectors.ids]
    assert kinds == ["single", "single", "pooled"]
    np.testing.assert_allclose(vectors.features[2], 0.6 * a + 0.8 * b, atol=1e-6)
    gallery.remove(["2" * 64], "test")
    np.testing.assert_array_equal(gallery.vectors().features, a[None])


def test_a_photograph_is_added_only_once_and_for_one_subject(
    gallery: Gallery, rng: np.random.Generator
) -> None:
    given = ops.random_photo("one", rng)
    assert gallery.add("a", given)
    generation = gallery.generation
    assert not gallery.add("a", given)
    assert gallery.generation == generation
    with pytest.raises(PhotoOfAnother, match="enrolled as a, not b"):
        gallery.add("b", given)
    assert [s.id for s in gallery.subjects()] == ["a"]


def test_generation_rises_with_each_change_of_templates_and_ids_are_never_used_again(
    gallery: Gallery, rng: np.random.Generator
) -> None:
    seen_ids: set[int] = set()
    for i in range(5):
        before, state = gallery.generation, gallery.state
        gallery.add("a", ops.random_photo(str(i), rng))
        assert gallery.generation == before + 1 and gallery.state != state
        new = set(gallery.vectors().ids.tolist()) - seen_ids
        assert not seen_ids or min(new) > max(seen_ids)
        seen_ids |= new
        ops.remove_subject(gallery, "a") if i == 2 else None
    gallery.log("nothing", {})
    assert gallery.generation == before + 1


def test_a_failed_batch_leaves_nothing(gallery: Gallery, rng: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="unit vector"), gallery.transaction():
        gallery.add("a", ops.random_photo("one", rng))
        gallery.add(
            "b", EnrolledPhoto("0" * 64, "b", np.full(LENGTH, 2, np.float32), 1, 40, 0.9, None)
        )
    assert gallery.subjects() == [] and gallery.count() == 0 and gallery.generation == 0


@pytest.mark.parametrize("bad", [np.zeros(LENGTH), np.full(LENGTH, np.nan), np.eye(LENGTH + 1)[0]])
def test_an_invalid_vector_is_refused(gallery: Gallery, bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="unit vector of 32"):
        gallery.add("a", EnrolledPhoto("0" * 64, "b", bad.astype(np.float32), 1, 40, 0.9, None))


def test_another_embedder_is_refused_with_its_name(gallery: Gallery) -> None:
    builtin = BuiltinEmbedder()
    with pytest.raises(WrongEmbedder) as error:
        gallery.require_embedder(builtin)
    assert (
        "ab" * 32 in str(error.value)
        and builtin.sha256 in str(error.value)
        and "gallery migrate" in str(error.value)
    )


class TestRemoval:
    def test_removed_data_is_gone_from_every_file(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        """Judged by reading the files here, apart from the gallery's own search."""
        photos = [ops.random_photo(str(i), rng, picture=True) for i in range(12)]
        for i, p in enumerate(photos):
            gallery.add(f"p{i // 3}", p)
        Index.open(gallery)
        pooled = [v for s, kind, v in ops.stored_vectors(gallery) if s == "p1" and kind == "pooled"]
        pictures = gallery.query("SELECT picture FROM image WHERE subject = 'p1'")
        gone = (
            [p.feature.tobytes() for p in photos[3:6]]
            + pooled
            + [r[0][1000:1100] for r in pictures]
        )
        assert len(gone) == 7 and all(self.places(gallery, g) for g in gone)
        removal = gallery.remove([p.sha256 for p in photos[3:6]], "order 12/34")
        assert (removal.subjects, len(removal.images), removal.templates) == (("p1",), 3, 4)
        assert (removal.occurrences, removal.shared) == (0, 0)
        assert removal.files_scanned == len(gallery.files())
        assert removal.bytes_scanned == sum(f.stat().st_size for f in gallery.files())
        assert not any(self.places(gallery, g) for g in gone)
        assert all(self.places(gallery, p.feature.tobytes()) for p in photos[:3])
        assert Index.open(gallery).rebuilt is None and len(Index.open(gallery)) == 12

    @staticmethod
    def places(gallery: Gallery, data: bytes) -> int:
        return sum(f.read_bytes().count(data) for f in gallery.files())

    def test_the_log_has_hashes_time_and_reason_but_no_names(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        given = ops.random_photo("somebody", rng)
        gallery.add("somebody", given)
        gallery.remove([given.sha256], "expunged")
        (line,) = gallery.removals()
        assert (
            line.why == "expunged" and line.images_sha256 == [given.sha256] and line.templates == 1
        )
        assert not self.places(gallery, b"somebody")
        assert gallery.subjects() == []

    def test_problems_of_removed_subjects_go_and_those_of_others_stay(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        given, other = ops.random_photo("alice", rng), ops.random_photo("ali", rng)
        gallery.add("alice_secret", given)
        gallery.add("ali", other)
        gone = [
            Problem("alice2.png", "alice_secret", "1" * 64, "no face found", "detector"),
            Problem("bob.jpg", "bob", given.sha256, "twice"),
            Problem(
                "carol.jpg",
                "carol",
                "2" * 64,
                "the same file as x.png, which is listed for alice_secret: remove one",
            ),
        ]
        stays = [
            Problem(
                "dave.jpg",
                "dave",
                "3" * 64,
                "the same file as y.png, which is listed for alice_secret2",
            ),
            Problem("erin.jpg", "erin", "4" * 64, "no face found", "detector"),
        ]
        gallery.set_problems([*gone, *stays])
        assert set(gallery.problems_about(["alice_secret"], [given.sha256])) == set(gone)
        removal = gallery.remove([given.sha256], "order")
        assert (removal.subjects, removal.problems, removal.occurrences) == (
            ("alice_secret",),
            3,
            0,
        )
        assert gallery.problems() == stays
        assert gallery.remove([other.sha256], "order").problems == 0
        assert self.places(gallery, b"alice_secret") == self.places(gallery, b"alice_secret2")

    def test_problems_without_a_subject_are_removed_alone(self, gallery: Gallery) -> None:
        stays = Problem("m.csv, line 3", "a", None, "x.jpg: no such file")
        gallery.set_problems(
            [Problem("m.csv, line 2", "", None, "path or subject is empty"), stays]
        )
        assert ops.remove_subject(gallery, "").problems == 1 and gallery.problems() == [stays]

    def test_removing_one_of_several_photographs_removes_only_its_problems(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        first, second = ops.random_photo("1", rng), ops.random_photo("2", rng)
        gallery.add("a", first)
        gallery.add("a", second)
        own = Problem("3.png", "a", "3" * 64, "no face found", "detector")
        gallery.set_problems(
            [
                own,
                Problem(
                    "b.png", "b", first.sha256, "the same file as 1.png, which is listed for a"
                ),
            ]
        )
        removal = gallery.remove([first.sha256], "order")
        assert (removal.subjects, removal.problems, gallery.problems()) == ((), 1, [own])

    def test_a_subject_without_any_enrolled_photograph_can_be_removed(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        gallery.add("a", ops.random_photo("one", rng))
        before = gallery.generation
        gallery.set_problems(
            [Problem("dave_noface.png", "dave_noface", "1" * 64, "no face found", "detector")]
        )
        removal = ops.remove_subject(gallery, "dave_noface")
        assert (removal.subjects, removal.images, removal.templates, removal.problems) == (
            ("dave_noface",),
            (),
            0,
            1,
        )
        assert removal.files_scanned == len(gallery.files()) and removal.occurrences == 0
        assert [line.templates for line in gallery.removals()] == [0]
        assert (
            gallery.problems() == []
            and not self.places(gallery, b"dave_noface")
            and not self.places(gallery, b"1" * 64)
        )
        assert gallery.generation == before and [s.id for s in gallery.subjects()] == ["a"]
        with pytest.raises(GalleryError, match="no subject 'dave_noface'"):
            ops.remove_subject(gallery, "dave_noface")

    def test_a_picture_shared_by_two_files_stays_with_the_other(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        given = ops.random_photo("one", rng, picture=True)
        resaved = EnrolledPhoto("9" * 64, "again.bmp", given.feature, 5.0, 40, 0.9, given.face)
        gallery.add("a", given)
        gallery.add("b", resaved)
        removal = ops.remove_subject(gallery, "a")
        assert removal.occurrences == 0 and removal.shared > 0
        assert [s.id for s in gallery.subjects()] == ["b"]

    def test_removed_bytes_left_in_any_file_are_found(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        given = ops.random_photo("one", rng)
        gallery.add("a", given)
        (gallery.folder / "notes.bin").write_bytes(b"xyz" + given.feature.tobytes())
        assert ops.remove_subject(gallery, "a").occurrences == 1

    def test_removing_an_unknown_subject_or_photograph_is_an_error(self, gallery: Gallery) -> None:
        with pytest.raises(GalleryError, match="no subject 'nobody'"):
            ops.remove_subject(gallery, "nobody")
        with pytest.raises(GalleryError, match="no photograph 00"):
            gallery.remove(["00"], "test")

    def test_a_photograph_is_found_by_the_beginning_of_its_hash(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> None:
        gallery.add("a", ops.random_photo("one", rng))
        (image,) = gallery.images()
        assert gallery.select_images((), [image.sha256[:8]]) == [image]
        with pytest.raises(GalleryError, match="no photograph"):
            gallery.select_images((), [image.sha256[:7]])

    def test_an_interrupted_removal_is_finished_by_the_next_opening(
        self, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        folder = tmp_path / "gallery"
        photos = [ops.random_photo(str(i), rng, picture=True) for i in range(4)]
        with Gallery.create(folder, "toy", "ab", LENGTH) as gallery:
            for i, p in enumerate(photos):
                gallery.add(f"p{i}", p)
        script = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from fasr_video.gallery.gallery import Gallery\n"
            "gallery = Gallery.open(Path(sys.argv[1]))\n"
            "gallery._purge = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
            "gallery.remove([i.sha256 for i in gallery.images('p1')], 'test')\n"
        )
        ended = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, timeout=60)
        assert ended.returncode == -signal.SIGKILL
        secret = photos[1].feature.tobytes()
        (folder / "vectors.faiss.part").write_bytes(
            secret
        )  # as a kill in the writing of an index leaves it
        with Gallery.open(folder) as gallery:
            assert [s.id for s in gallery.subjects()] == ["p0", "p2", "p3"]
            assert not self.places(gallery, secret)


@given(
    st.binary(min_size=64, max_size=3000),
    st.binary(max_size=100),
    st.integers(0, 40),
    st.integers(0, 2**32),
)
def test_a_secret_is_found_at_any_offset(
    secret: bytes, before: bytes, rest: int, seed: int
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "file"
        noise = np.random.default_rng(seed).bytes(5000 + rest)
        file.write_bytes(before + secret + noise)
        traces_found = traces.find_traces([file], [secret])
        assert traces_found.pieces and (traces_found.files, traces_found.size) == (
            1,
            file.stat().st_size,
        )
        assert all(p in secret for p in traces_found.pieces)
        file.write_bytes(noise)
        assert not traces.find_traces([file], [np.random.default_rng(seed + 1).bytes(2048)]).pieces


@pytest.mark.slow
def test_the_gallery_agrees_with_its_model_after_ten_thousand_random_changes(
    gallery: Gallery,
) -> None:
    model = ops.Model()
    for change in ops.random_changes(seed=1):
        change.apply(gallery)
        model.apply(change)
        assert gallery.count() == sum(len(p) + (len(p) > 1) for p in model.people.values())
        if model.operations > 10_000:
            break
    assert ops.disagreements(gallery, model) == 0
    assert not any(c.problems for c in check(gallery))


@pytest.mark.slow
def test_kills_leave_complete_batches_only(tmp_path: Path) -> None:
    """A writer is killed at random moments; the store is then what it was after its last change or
    one more.
    """
    folder, done = tmp_path / "gallery", tmp_path / "done"
    rng = np.random.default_rng(3)
    models = []
    for seed in range(3):
        Gallery.create(folder / str(seed), "toy", "ab", LENGTH).close()
        done.write_text("")
        command = [
            sys.executable,
            str(Path(ops.__file__)),
            str(folder / str(seed)),
            str(seed),
            str(done),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment) as writer:
            while not done.read_text():
                assert writer.poll() is None
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.6))
            writer.send_signal(signal.SIGKILL)
        count = len(done.read_text().splitlines())
        with Gallery.open(folder / str(seed)) as gallery:
            model = ops.Model()
            history = ops.random_changes(seed)
            for change in itertools.islice(history, count):
                model.apply(change)
            if ops.disagreements(gallery, model):
                model.apply(next(history))
            assert ops.disagreements(gallery, model) == 0
            assert not any(c.problems for c in check(gallery))
            models.append(model.operations)
    assert sum(models) > 100


class TestBadGalleries:
    @pytest.fixture
    def folder(self, tmp_path: Path, rng: np.random.Generator) -> Path:
        with Gallery.create(tmp_path / "gallery", "toy", "ab", LENGTH) as gallery:
            for i in range(50):
                gallery.add(f"p{i}", ops.random_photo(str(i), rng, picture=True))
        return tmp_path / "gallery"

    def test_a_damaged_database_is_reported_and_not_written(self, folder: Path) -> None:
        file = folder / DATABASE
        file.write_bytes(b"not a database at all" * 100)
        before = file.read_bytes()
        for read_only in (True, False):
            with pytest.raises(IntegrityError, match="nothing was written"):
                Gallery.open(folder, read_only)
        assert file.read_bytes() == before

    def test_damage_inside_a_database_is_reported_and_not_written(self, folder: Path) -> None:
        file = folder / DATABASE
        data = bytearray(file.read_bytes())
        data[16384:] = bytes(len(data) - 16384)
        file.write_bytes(data)
        with pytest.raises(IntegrityError, match="damaged"), Gallery.open(folder) as gallery:
            gallery.add("new", ops.random_photo("new", np.random.default_rng(0)))
        assert file.read_bytes() == data

    def test_a_changed_vector_and_picture_are_reported(self, folder: Path) -> None:
        database = sqlite3.connect(folder / DATABASE)
        with database:
            database.execute("UPDATE template SET vector = zeroblob(128) WHERE id = 7")
            database.execute("UPDATE image SET picture = zeroblob(900) WHERE id = 9")
            database.execute("DELETE FROM template WHERE id = 11")
            database.execute("DELETE FROM subject WHERE id = 'p20'")
        database.close()
        with Gallery.open(folder, read_only=True) as gallery:
            error = " ".join(p for c in check(gallery) for p in c.problems)
            assert (
                "template 7 was changed" in error
                and "the stored picture of 8.png was changed" in error
            )
            assert (
                "photographs without a template" in error
                and "a row of image refers to a missing row of subject" in error
            )
            with pytest.raises(IntegrityError, match=r"8\.png was changed"):
                gallery.face(gallery.images("p8")[0])

    def test_a_second_writer_is_refused(self, folder: Path) -> None:
        with Gallery.open(folder), pytest.raises(GalleryError, match="another process is writing"):
            Gallery.open(folder)
        with Gallery.open(folder), Gallery.open(folder, read_only=True) as reader:
            assert len(reader.subjects()) == 50

    def test_a_removal_reports_a_reader_that_holds_old_pages(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fasr_video.sqlite.BUSY_SECONDS", 0.2)
        with Gallery.open(folder, read_only=True) as reader, reader.snapshot():
            reader.subjects()
            with (
                pytest.raises(EnvironmentFailure, match="still reading"),
                Gallery.open(folder) as gallery,
            ):
                ops.remove_subject(gallery, "p1")
        with Gallery.open(folder) as gallery:
            assert gallery.query("SELECT value FROM meta WHERE key = 'purge'") == [("0",)]

    def test_a_removal_blocked_by_a_reader_can_be_finished_later(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("fasr_video.sqlite.BUSY_SECONDS", 0.2)
        hold = (
            "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None); "
            "db.execute('BEGIN');db.execute('SELECT * FROM template').fetchone(); print('held', "
            "flush=True); time.sleep(600)"
        )
        with Gallery.open(folder, read_only=True) as gallery:
            (secret,) = (v.tobytes() for v in gallery.features_of(["p1"])["p1"][:1])
        command = [sys.executable, "-c", hold, str(folder / DATABASE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None and reader.stdout.readline() == "held\n"
            with (
                pytest.raises(EnvironmentFailure, match="check --finish"),
                Gallery.open(folder) as gallery,
            ):
                ops.remove_subject(gallery, "p1")
            reader.kill()
        assert any(secret in path.read_bytes() for path in folder.iterdir()), (
            "that is what is to be told"
        )
        code, out, _ = run_command(capsys, "gallery", "check", folder)
        assert code == 4 and "a removal was interrupted" in out and "gallery check --finish" in out
        code, out, _ = run_command(capsys, "gallery", "check", folder, "--finish")
        assert code == 0 and "FAILED" not in out
        assert not any(secret in path.read_bytes() for path in folder.iterdir())
        assert run_command(capsys, "gallery", "check", folder)[0] == 0

    def test_a_folder_without_a_gallery_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(GalleryError, match="no gallery here"):
            Gallery.open(tmp_path)
        (tmp_path / "people" / "ada").mkdir(parents=True)
        (tmp_path / "people" / "ada" / "1.JPG").touch()
        says = "a folder of photographs.* gallery add .*people.gallery .*people"
        with pytest.raises(GalleryError, match=says):
            Gallery.open(tmp_path / "people")
        with pytest.raises(GalleryError, match="not empty"):
            Gallery.create(tmp_path, "toy", "ab", LENGTH)
        with pytest.raises(GalleryError, match="already a gallery"):
            Gallery.create(folder, "toy", "ab", LENGTH)

    def test_another_version_is_refused(self, folder: Path) -> None:
        database = sqlite3.connect(folder / DATABASE)
        with database:
            database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        database.close()
        with pytest.raises(GalleryError, match="another version"):
            Gallery.open(folder)

    def test_reading_changes_nothing(self, folder: Path) -> None:
        before = (folder / DATABASE).read_bytes()
        folder.chmod(stat.S_IREAD | stat.S_IEXEC)
        try:
            with Gallery.open(folder, read_only=True) as gallery:
                assert len(gallery.vectors().ids) == 50
                with pytest.raises(GalleryError, match="reading only"):
                    ops.remove_subject(gallery, "p1")
        finally:
            folder.chmod(stat.S_IRWXU)
        assert (folder / DATABASE).read_bytes() == before
