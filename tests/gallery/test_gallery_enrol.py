"""Enrolment with the real detector and embedder; unusable photographs are reported with a
reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from PIL import ImageOps
from torch import Tensor

from fasr_video.detection import Detector, open_detector
from fasr_video.detection.photograph import ALONE, Choice, Which
from fasr_video.errors import InputError, UsageError
from fasr_video.files import sha256_file
from fasr_video.gallery import enrol as module
from fasr_video.gallery.encoder import as_tensors
from fasr_video.gallery.enrol import EnrolDefaults, enrol, migrate, sync
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.inspect import check
from fasr_video.gallery.photos import NOT_READABLE, OTHER_FILE, Face, read_face, read_listing
from fasr_video.gallery.records import Problem, WrongEmbedder
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.types import Detections, Image
from fasr_video.weights.manifest import bundled
from tests.support import gallery_ops as ops
from tests.support.paths import PORTRAITS, ROOT

GRACE, EILEEN = (PORTRAITS / "mugshots" / f"{n}.jpg" for n in ("grace_hopper", "eileen_collins"))
NO_FACE = (
    "no face found, not even with a margin around the picture: "
    "give a photograph with a larger, sharper face, upright and seen from the front"
)


class CountingEmbedder(BuiltinEmbedder):
    """The real one, that counts the faces it is shown."""

    faces = 0

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.faces += len(faces)
        return super().embed(faces, landmarks)


class CountingDetector:
    """The real detector, that counts the pictures it is shown."""

    def __init__(self, inner: Detector) -> None:
        self.inner, self.pictures = inner, 0
        self.name, self.fingerprint = inner.name, inner.fingerprint
        self.has_landmarks, self.licence = inner.has_landmarks, inner.licence

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        self.pictures += len(frames)
        return self.inner.detect(frames)


@pytest.fixture(scope="module")
def builtin() -> Detector:
    return open_detector("builtin", weights=None, device="cpu", min_score=0.5)


@pytest.fixture
def detector(builtin: Detector) -> CountingDetector:
    return CountingDetector(builtin)


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
def gallery(tmp_path: Path, embedder: CountingEmbedder) -> Iterator[Gallery]:
    with Gallery.create(
        tmp_path / "gallery", embedder.name, embedder.sha256, embedder.length
    ) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file for one subject, a folder with two photographs for another."""
    folder = tmp_path / "photos"
    (folder / "eileen").mkdir(parents=True)
    shutil.copy(GRACE, folder / "grace.jpg")
    shutil.copy(EILEEN, folder / "eileen" / "1.jpg")
    ImageOps.mirror(PilImage.open(EILEEN)).save(folder / "eileen" / "2.png")
    return folder


def subjects(gallery: Gallery) -> dict[str, int]:
    return {s.id: s.images for s in gallery.subjects()}


def test_too_long_subject_ids_are_refused(
    gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
) -> None:
    (folder / ("g" * 200)).mkdir()
    shutil.move(folder / "grace.jpg", folder / ("g" * 200) / "1.jpg")
    shutil.copy(GRACE, folder / f"{'l' * 201}.jpg")
    report = enrol(gallery, folder, detector, embedder)
    assert report.added == 3
    (problem,) = report.problems
    assert problem.reason == "a subject id of 201 characters: at most 200 are allowed"
    (image, *_) = gallery.images()
    with pytest.raises(UsageError, match="give each subject an id of 1 to 200 characters"):
        gallery.move(image.sha256, "x" * 201)


def test_a_non_utf8_name_is_a_problem_and_the_others_are_enrolled(
    gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
) -> None:
    shutil.copy(os.fsencode(GRACE), os.fsencode(folder) + b"/h\xf6lder.jpg")
    os.mkdir(os.fsencode(folder) + b"/\xe9ric")
    shutil.copy(os.fsencode(EILEEN), os.fsencode(folder) + b"/\xe9ric/1.jpg")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "linked").symlink_to(folder.parent)
    report = enrol(gallery, folder, detector, embedder)
    assert report.added == 3
    reported = {p.path: (p.subject, p.reason) for p in gallery.problems()}
    renamed = "its name, or that of its folder, is not UTF-8: rename it"
    assert reported == {
        "h\\udcf6lder.jpg": ("h\\udcf6lder", renamed),
        "\\udce9ric/1.jpg": ("\\udce9ric", renamed),
        "phone.heic": ("phone", NOT_READABLE),
        "linked": ("linked", "a folder that cannot be read (a link, which is not followed)"),
    }


def test_a_folder_becomes_subjects(
    gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
) -> None:
    reported: list[tuple[int, int]] = []
    report = enrol(
        gallery,
        folder,
        detector,
        embedder,
        listen=lambda *p: reported.append(p),
        defaults=EnrolDefaults("web", "order 5"),
    )
    assert (report.added, report.problems, report.warnings) == (3, (), ())
    assert reported == [(3, 3)]
    assert subjects(gallery) == {"grace": 1, "eileen": 2}
    (image,) = gallery.images("grace")
    assert (image.path, image.sha256) == ("grace.jpg", sha256_file(GRACE))
    assert (image.source, image.authority) == ("web", "order 5")
    assert image.eye_px > 20 and image.norm > 0 and image.score > 0.5
    face = gallery.face(image)
    assert face is not None and face.landmarks is not None and face.landmarks.shape == (5, 2)
    feature, norm = embedder.embed(*as_tensors([face]))
    (template,) = (
        t for t in gallery.templates(gallery.vectors().ids).values() if t.image == image.sha256
    )
    vectors = gallery.vectors()
    np.testing.assert_allclose(vectors.features[vectors.ids == template.id], feature, atol=1e-4)
    assert float(norm) == pytest.approx(image.norm, rel=1e-4)


class TestSync:
    @pytest.fixture(autouse=True)
    def enrolled(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        report = sync(gallery, folder, detector, embedder)
        assert (report.added, embedder.faces, detector.pictures) == (3, 3, 3)
        embedder.faces = detector.pictures = 0

    def test_syncing_unchanged_photographs_computes_and_changes_nothing(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        before = gallery.state
        report = sync(gallery, folder, detector, embedder)
        assert (report.added, report.removed, report.renamed, report.unchanged) == (0, 0, 0, 3)
        assert (embedder.faces, detector.pictures) == (0, 0) and gallery.state == before

    def test_added_changed_and_deleted_photographs_are_synced(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        ImageOps.mirror(PilImage.open(GRACE)).save(folder / "new.png")
        ImageOps.mirror(PilImage.open(GRACE)).save(folder / "grace.jpg", quality=90)
        (folder / "eileen" / "1.jpg").unlink()
        gone = {sha256_file(EILEEN), sha256_file(GRACE)}
        report = sync(gallery, folder, detector, embedder)
        assert (report.added, report.removed, report.unchanged, report.renamed) == (2, 2, 1, 0)
        assert (embedder.faces, detector.pictures) == (2, 2)
        assert report.removal is not None and report.removal.occurrences == 0
        assert set(report.removal.images) == gone
        assert subjects(gallery) == {"eileen": 1, "grace": 1, "new": 1}
        assert {i.sha256 for i in gallery.images()} == {sha256_file(f) for f in folder.rglob("*.*")}

    def test_renamed_and_moved_photographs_are_not_embedded_again(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        before = {t for t in ops.stored_vectors(gallery) if t[1] != "pooled"}
        (folder / "grace.jpg").rename(folder / "hopper.jpg")
        (folder / "eileen" / "2.png").rename(folder / "eileen" / "3.png")
        report = sync(gallery, folder, detector, embedder)
        assert (report.renamed, report.unchanged, report.added, report.removed) == (2, 1, 0, 0)
        assert embedder.faces == detector.pictures == 0
        assert subjects(gallery) == {"eileen": 2, "hopper": 1}
        assert {v for _, _, v in before} == {
            v for _, k, v in ops.stored_vectors(gallery) if k != "pooled"
        }
        (folder / "hopper.jpg").rename(folder / "eileen" / "4.jpg")
        sync(gallery, folder, detector, embedder)
        assert subjects(gallery) == {"eileen": 3} and gallery.count() == 4
        assert not any(c.problems for c in check(gallery))

    def test_adding_never_removes_photographs_or_changes_subjects(
        self,
        gallery: Gallery,
        folder: Path,
        tmp_path: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(GRACE, other / "somebody.jpg")
        report = enrol(gallery, other, detector, embedder)
        assert (report.added, report.removed) == (0, 0)
        assert "enrolled as grace" in report.problems[0].reason
        assert subjects(gallery) == {"grace": 1, "eileen": 2}

    def test_an_unusable_photograph_is_not_opened_again_until_it_changes(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        PilImage.new("RGB", (300, 300), "grey").save(folder / "wall.png")
        first = sync(gallery, folder, detector, embedder)
        assert [p.reason for p in first.problems] == [NO_FACE] and detector.pictures == 2
        repeated = sync(gallery, folder, detector, embedder)
        assert repeated.problems == first.problems and detector.pictures == 2
        assert gallery.problems() == list(first.problems)
        ImageOps.mirror(PilImage.open(GRACE)).save(folder / "wall.png")
        assert sync(gallery, folder, detector, embedder).problems == ()
        assert gallery.problems() == []

    def test_an_unreadable_file_removes_nobody(
        self,
        gallery: Gallery,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Root reads everything, so the refusal is made at the one call that reads."""

        def refusing(path: Path) -> str:
            if path.name == "grace.jpg":
                raise PermissionError(13, "Permission denied")
            return sha256_file(path)

        monkeypatch.setattr(module, "sha256_file", refusing)
        report = sync(gallery, folder, detector, embedder)
        assert report.removed == 0 and "Permission denied" in report.problems[0].reason
        assert subjects(gallery) == {"grace": 1, "eileen": 2}

    def test_an_unreadable_folder_is_reported_and_its_people_stay(
        self,
        gallery: Gallery,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Root reads everything, so the refusal is made at the one call that reads folders."""
        PilImage.new("RGB", (300, 300), "grey").save(folder / "eileen" / "wall.png")
        (wall,) = sync(gallery, folder, detector, embedder).problems
        (folder / "grace.jpg").unlink()
        ImageOps.mirror(PilImage.open(GRACE)).save(folder / "new.png")
        before = gallery.images("eileen")
        with monkeypatch.context() as patch:
            _refuse(patch, folder / "eileen")
            report = sync(gallery, folder, detector, embedder)
            (problem,) = report.problems
            assert (problem.path, problem.subject) == ("eileen", "eileen")
            assert problem.reason == "a folder that cannot be read (Permission denied)"
            assert (report.added, report.removed) == (1, 1)
            assert (
                subjects(gallery) == {"eileen": 2, "new": 1} and gallery.images("eileen") == before
            )
            assert gallery.problems() == [problem, wall]
        report = sync(gallery, folder, detector, embedder)
        assert report.problems == (wall,) and (report.unchanged, report.removed) == (3, 0)
        assert gallery.problems() == [wall]

    def test_a_photograph_of_an_unreachable_folder_keeps_its_subject(
        self,
        gallery: Gallery,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.copy(EILEEN, folder / "other.jpg")
        _refuse(monkeypatch, folder / "eileen")
        report = sync(gallery, folder, detector, embedder)
        assert report.problems[1].reason.startswith(
            "the same photograph as eileen/1.jpg, which is enrolled as eileen"
        )
        assert subjects(gallery) == {"grace": 1, "eileen": 2}

    def test_a_folder_without_readable_photographs_removes_nobody(
        self,
        gallery: Gallery,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (folder / "grace.jpg").unlink()
        with monkeypatch.context() as patch:
            _refuse(patch, folder / "eileen")
            with pytest.raises(
                InputError,
                match=r"none of its photographs can be read \(eileen: a folder that cannot",
            ):
                sync(gallery, folder, detector, embedder)
        with monkeypatch.context() as patch:
            _refuse(patch, folder)
            with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
                sync(gallery, folder, detector, embedder)
        assert subjects(gallery) == {"grace": 1, "eileen": 2}

    def test_a_manifest_whose_pictures_are_not_mounted_removes_nobody(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        manifest = folder.parent / "m.csv"
        manifest.write_text(
            "path,subject\nphotos/grace.jpg,g\nphotos/eileen/1.jpg,e\nmore/2.png,m\n"
        )
        (folder.parent / "more").mkdir()
        ImageOps.mirror(PilImage.open(GRACE)).save(folder.parent / "more" / "2.png")
        report = sync(gallery, manifest, detector, embedder)
        assert subjects(gallery) == {"g": 1, "e": 1, "m": 1} and report.removed == 1
        folder.rename(folder.parent / "away")
        manifest.write_text(
            "path,subject\nphotos/grace.jpg,g\n./photos/eileen/1.jpg,e\nmore/2.png,m\n"
        )
        report = sync(gallery, manifest, detector, embedder)
        assert [p.reason for p in report.problems] == [
            "photos/grace.jpg: no such file",
            "./photos/eileen/1.jpg: no such file",
        ]
        assert report.removed == 0 and subjects(gallery) == {"g": 1, "e": 1, "m": 1}
        manifest.write_text("path,subject\nphotos/grace.jpg,g\nmore/2.png,m\n")  # e is struck off
        assert sync(gallery, manifest, detector, embedder).removed == 1
        assert subjects(gallery) == {"g": 1, "m": 1}
        (folder.parent / "more").rename(folder.parent / "away2")
        with pytest.raises(
            InputError,
            match=r"m\.csv: none of .* \(m\.csv, line 2: photos/grace\.jpg: no such file\)",
        ):
            sync(gallery, manifest, detector, embedder)
        assert subjects(gallery) == {"g": 1, "m": 1}

    def test_an_invalid_manifest_line_keeps_its_photograph_enrolled(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        (folder / "m.csv").write_text(
            "path,subject\ngrace.jpg,grace\neileen/1.jpg,eileen\neileen/2.png\n"
        )
        report = sync(gallery, folder / "m.csv", detector, embedder)
        assert len(report.problems) == 1 and report.removed == 0
        assert subjects(gallery) == {"grace": 1, "eileen": 2}

    def test_a_broken_link_is_reported_and_its_photograph_stays_enrolled(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        (folder / "grace.jpg").rename(folder.parent / "store.jpg")
        (folder / "grace.jpg").symlink_to("../store.jpg")
        assert sync(gallery, folder, detector, embedder).unchanged == 3
        (folder.parent / "store.jpg").unlink()
        report = sync(gallery, folder, detector, embedder)
        assert [(p.path, p.subject, p.reason) for p in report.problems] == [
            ("grace.jpg", "grace", "a link to nothing")
        ]
        assert report.removed == 0 and subjects(gallery) == {"grace": 1, "eileen": 2}
        (folder / "grace.jpg").unlink()
        report = sync(gallery, folder, detector, embedder)
        assert report.problems == () and report.removed == 1 and subjects(gallery) == {"eileen": 2}

    def test_an_empty_folder_is_an_error_and_removes_nobody(
        self,
        gallery: Gallery,
        tmp_path: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
    ) -> None:
        (tmp_path / "empty").mkdir()
        for place in ("empty", "nowhere"):
            with pytest.raises(InputError):
                sync(gallery, tmp_path / place, detector, embedder)
        assert subjects(gallery) == {"grace": 1, "eileen": 2}


def _refuse(patch: pytest.MonkeyPatch, folder: Path) -> None:
    scan = os.scandir

    def refusing(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    patch.setattr(os, "scandir", refusing)


def test_unusable_photographs_are_reported_and_the_rest_enrolled(
    gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
) -> None:
    grace, eileen = PilImage.open(GRACE).convert("RGB"), PilImage.open(EILEEN).convert("RGB")
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.jpg").write_bytes(GRACE.read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    PilImage.new("RGB", (300, 300), "grey").save(folder / "wall.png")
    pair = PilImage.new("RGB", (1000, 500))
    pair.paste(grace.resize((500, 500)), (0, 0))
    pair.paste(eileen.resize((500, 500)), (500, 0))
    pair.save(folder / "pair.png")
    small = PilImage.new("RGB", (200, 200), "grey")
    small.paste(grace.resize((grace.width * 16 // 79, grace.height * 16 // 79)), (60, 60))
    small.save(folder / "small.png")
    report = enrol(gallery, folder, detector, embedder)
    reasons = {p.path: p.reason for p in report.problems}
    assert report.added == 3 and subjects(gallery) == {"grace": 1, "eileen": 2}
    assert reasons.pop("notes.txt") == OTHER_FILE
    for name in ("cut.jpg", "empty.jpg"):
        assert reasons.pop(name) == NOT_READABLE
    assert reasons.pop("wall.png") == NO_FACE
    assert reasons.pop("pair.png").startswith("2 faces: 1 at the left, ")
    assert reasons.pop("small.png").endswith("px between the eyes, 20 needed")
    assert reasons == {}
    assert {p.path for p in gallery.problems()} == {p.path for p in report.problems}


def _cmyk(picture: PilImage.Image, path: Path) -> None:
    picture.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


def _sixteen_bit(picture: PilImage.Image, path: Path) -> None:
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    PilImage.fromarray(grey).save(path.with_suffix(".png"))


def _exif_rotated(picture: PilImage.Image, path: Path) -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture.rotate(90, expand=True).save(path.with_suffix(".jpg"), quality=95, exif=exif)


def _palette_with_alpha(picture: PilImage.Image, path: Path) -> None:
    picture.convert("RGBA").save(path.with_suffix(".webp"), quality=95)


@pytest.mark.parametrize("form", [_cmyk, _sixteen_bit, _exif_rotated, _palette_with_alpha])
def test_unusual_picture_formats_give_the_same_features(
    form: Callable[[PilImage.Image, Path], None],
    gallery: Gallery,
    tmp_path: Path,
    detector: CountingDetector,
    embedder: CountingEmbedder,
) -> None:
    folder = tmp_path / "forms"
    (folder / "grace").mkdir(parents=True)
    plain = PilImage.open(GRACE).convert("L" if form is _sixteen_bit else "RGB")
    plain.save(folder / "grace" / "plain.png")
    form(plain, folder / "grace" / "form")
    report = enrol(gallery, folder, detector, embedder)
    assert report.added == 2 and report.problems == ()
    features = gallery.vectors().features
    assert float(features[0] @ features[1]) > 0.9


def test_a_file_that_changes_while_it_is_read_is_not_enrolled_under_the_wrong_hash(
    gallery: Gallery, folder: Path, builtin: Detector, embedder: CountingEmbedder
) -> None:
    class SlowDetector(CountingDetector):
        def detect(self, frames: Sequence[Image]) -> list[Detections]:
            shutil.copy(EILEEN, folder / "grace.jpg")
            return super().detect(frames)

    (folder / "eileen" / "1.jpg").unlink()
    report = enrol(gallery, folder, SlowDetector(builtin), embedder)
    assert [p.path for p in report.problems] == [
        "grace.jpg"
    ] and "while it was read" in report.problems[0].reason
    assert enrol(gallery, folder, builtin, embedder).added == 1
    assert {i.sha256 for i in gallery.images("grace")} == {sha256_file(EILEEN)}


class TestSeveralFaces:
    """A photograph of two people: Eileen at the left, Grace, larger, at the right."""

    @pytest.fixture
    def pair(self, tmp_path: Path) -> Path:
        sheet = PilImage.new("RGB", (600, 300), "grey")
        sheet.paste(PilImage.open(EILEEN).resize((200, 200)), (0, 0))
        sheet.paste(PilImage.open(GRACE).resize((300, 300)), (300, 0))
        (tmp_path / "pairs").mkdir()
        sheet.save(tmp_path / "pairs" / "pair.png")
        return tmp_path / "pairs" / "pair.png"

    def likeness(
        self, gallery: Gallery, embedder: CountingEmbedder, person: Path, detector: Detector
    ) -> float:
        """Cosine of the one enrolled face with that person's photograph."""
        face = read_face(person, detector, ALONE)
        assert isinstance(face, Face)
        feature, _ = embedder.embed(*as_tensors([face.aligned]))
        return float(gallery.vectors().features[0] @ feature[0].numpy())

    def test_photographs_with_several_faces_are_refused_with_their_positions(
        self, gallery: Gallery, pair: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        reported = EnrolDefaults(choice=Choice(remedy="do this"))
        (problem,) = enrol(gallery, pair.parent, detector, embedder, defaults=reported).problems
        assert problem.path == "pair.png" and problem.reason.startswith(
            "2 faces: 1 at the top left, "
        )
        assert "; 2 at the right, " in problem.reason and problem.reason.endswith(" px: do this")
        assert gallery.problems() == [problem]

    @pytest.mark.parametrize(("face", "person"), [(1, EILEEN), (2, GRACE), ("largest", GRACE)])
    def test_a_refused_photograph_is_enrolled_when_a_face_is_chosen(
        self,
        face: Which,
        person: Path,
        gallery: Gallery,
        pair: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
    ) -> None:
        assert enrol(gallery, pair, detector, embedder).added == 0
        report = enrol(
            gallery, pair, detector, embedder, defaults=EnrolDefaults(choice=Choice(face))
        )
        assert (report.added, report.problems, gallery.problems()) == (1, (), [])
        assert subjects(gallery) == {"pair": 1}
        other = EILEEN if person == GRACE else GRACE
        likeness = [self.likeness(gallery, embedder, p, detector) for p in (person, other)]
        assert likeness[0] > 0.6 > likeness[1]

    def test_a_face_number_needs_a_single_photograph(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        with pytest.raises(UsageError, match="contains 3 photographs"):
            enrol(gallery, folder, detector, embedder, defaults=EnrolDefaults(choice=Choice(2)))

    def test_an_enrolled_photograph_keeps_its_face_with_a_warning(
        self, gallery: Gallery, pair: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        enrol(gallery, pair, detector, embedder, defaults=EnrolDefaults(choice=Choice(1)))
        report = enrol(gallery, pair, detector, embedder, defaults=EnrolDefaults(choice=Choice(2)))
        assert (report.added, report.unchanged) == (0, 1)
        assert (
            report.warnings[0].startswith("pair.png is enrolled already")
            and f"fasr-video gallery remove {gallery.folder} --image " in report.warnings[0]
        )

    def test_photographs_judged_without_a_margin_are_judged_again(
        self,
        gallery: Gallery,
        tmp_path: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
    ) -> None:
        """Return it as older galleries hold it: with the detector's fingerprint alone."""
        (tmp_path / "one").mkdir()
        file = Path(shutil.copy(GRACE, tmp_path / "one" / "grace.jpg"))
        gallery.set_problems(
            [
                Problem(
                    "grace.jpg", "grace", sha256_file(file), "no face found", detector.fingerprint
                )
            ]
        )
        assert (
            enrol(gallery, file.parent, detector, embedder).added == 1 and gallery.problems() == []
        )


class TestListings:
    def test_a_file_and_a_folder_with_one_id_are_reported(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        shutil.copy(GRACE, folder / "eileen.jpg")
        (folder / "grace.jpg").rename(folder / "hopper.jpg")
        report = enrol(gallery, folder, detector, embedder)
        (problem,) = report.problems
        assert problem.path == "eileen.jpg" and "also that of a folder" in problem.reason
        assert subjects(gallery) == {"eileen": 2, "hopper": 1}

    def test_two_files_with_one_id_are_reported(self, folder: Path) -> None:
        PilImage.open(GRACE).save(folder / "grace.png")
        (problem,) = read_listing(folder).problems
        assert problem.path == "grace.png" and "also that of grace.jpg" in problem.reason

    def test_ids_that_differ_in_case_are_allowed_with_a_warning(self, folder: Path) -> None:
        shutil.copy(EILEEN, folder / "Grace.jpg")
        listing = read_listing(folder)
        assert {e.subject for e in listing.entries} == {"grace", "Grace", "eileen"}
        (warning,) = listing.warnings
        assert "Grace and grace" in warning

    def test_a_second_copy_of_a_photograph_is_listed_and_not_enrolled(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        shutil.copy(EILEEN, folder / "eileen" / "again.jpg")
        shutil.copy(GRACE, folder / "other.jpg")
        report = enrol(gallery, folder, detector, embedder)
        reasons = {p.path: p.reason for p in report.problems}
        assert (
            reasons
            == {
                "eileen/again.jpg": "the same file as eileen/1.jpg: one of them is enough",
                "other.jpg": (
                    "the same file as grace.jpg, which is listed for grace: remove one of the two"
                ),
            }
            or reasons["eileen/1.jpg"] == "the same file as eileen/again.jpg: one of them is enough"
        )
        assert subjects(gallery) == {"grace": 1, "eileen": 2}
        assert sync(gallery, folder, detector, embedder).renamed == 0

    def test_a_duplicate_of_an_unusable_file_is_not_called_enrolled(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        PilImage.new("RGB", (300, 300), "grey").save(folder / "big.png")
        shutil.copy(folder / "big.png", folder / "wall.png")
        reasons = {p.path: p.reason for p in enrol(gallery, folder, detector, embedder).problems}
        assert reasons == {
            "big.png": NO_FACE,
            "wall.png": "the same file as big.png, which is listed for big: remove one of the two",
        }

    def test_broken_links_and_non_files_are_reported(self, folder: Path) -> None:
        (folder / "gone.jpg").symlink_to("nowhere.jpg")
        (folder / "round.jpg").symlink_to("round.jpg")
        os.mkfifo(folder / "pipe.jpg")
        listing = read_listing(folder)
        reasons = {p.path: p.reason for p in listing.problems}
        assert reasons.pop("round.jpg").startswith("cannot be reached")
        assert reasons == {"gone.jpg": "a link to nothing", "pipe.jpg": "not a file"}
        assert {e.path for e in listing.entries} == {"grace.jpg", "eileen/1.jpg", "eileen/2.png"}

    def test_a_manifest_gives_subjects_and_details(
        self, gallery: Gallery, folder: Path, detector: CountingDetector, embedder: CountingEmbedder
    ) -> None:
        manifest = folder / "who.csv"
        manifest.write_text(
            "subject,path,note,authority,colour\n"
            'A-1,grace.jpg,"admiral, retired",order 7,red\n'
            "A-2,eileen/1.jpg,,,\n"
            "A-2,nowhere.jpg,,,\n"
            ",grace.jpg,,,\n"
            "A-3,eileen/2.png\n"
            "A-2,eileen/../eileen/1.jpg,,,\n",
            encoding="utf-8-sig",
        )
        report = enrol(
            gallery, manifest, detector, embedder, defaults=EnrolDefaults(source="archive")
        )
        assert subjects(gallery) == {"A-1": 1, "A-2": 1}
        assert gallery.subjects()[0].note == "admiral, retired"
        (image,) = gallery.images("A-1")
        assert (image.path, image.source, image.authority) == ("grace.jpg", "archive", "order 7")
        assert [(p.path, p.reason) for p in report.problems] == [
            ("who.csv, line 4", "nowhere.jpg: no such file"),
            ("who.csv, line 5", "grace.jpg: path or subject is empty"),
            (
                "who.csv, line 6",
                "eileen/2.png: the row has another number of fields than the header",
            ),
            ("who.csv, line 7", "eileen/../eileen/1.jpg: the same file as in line 3"),
        ]
        assert report.warnings == ("these columns are ignored: colour",)
        manifest.write_text("subject,path,note\nA-1,grace.jpg,rear admiral\nA-2,eileen/1.jpg,\n")
        assert sync(gallery, manifest, detector, embedder).unchanged == 2
        assert [s.note for s in gallery.subjects()] == ["rear admiral", ""]
        assert gallery.images("A-1")[0].authority == "order 7"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (b"", "no column path, subject"),
            (b"a,b\n1,2\n", "no column path, subject"),
            (b"path,subject\n", "lists no"),
            (b"\xff\xfe\x00", "not a readable CSV file"),
        ],
    )
    def test_an_invalid_manifest_is_an_error(self, tmp_path: Path, text: bytes, says: str) -> None:
        (tmp_path / "who.csv").write_bytes(text)
        with pytest.raises(InputError, match=says):
            read_listing(tmp_path / "who.csv")


def test_another_embedder_is_refused_before_anything_is_read(
    gallery: Gallery, tmp_path: Path, detector: CountingDetector, embedder: CountingEmbedder
) -> None:
    embedder.sha256 = "0" * 64
    with pytest.raises(WrongEmbedder):
        enrol(gallery, tmp_path / "nowhere", detector, embedder)


def test_a_killed_enrolment_continues(
    tmp_path: Path, detector: CountingDetector, embedder: CountingEmbedder
) -> None:
    """Killed once two batches are safe: the same command computes the rest and no photograph
    twice.
    """
    photos, folder = tmp_path / "photos", tmp_path / "gallery"
    photos.mkdir()
    picture = PilImage.open(GRACE).convert("RGB").resize((256, 256))
    for i in range(10):
        picture.point(lambda v, i=i: max(0, v - 3 * i)).save(photos / f"{i}.png")
    Gallery.create(folder, embedder.name, embedder.sha256, embedder.length).close()
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fasr_video.gallery import enrol\n"
        "from fasr_video.detection import open_for_photographs\n"
        "from fasr_video.recognition.embedders import open_embedder\n"
        "from fasr_video.gallery.gallery import Gallery\n"
        "enrol.BATCH_SIZE = 2\n"
        "def listen(done, total):\n"
        "    if done == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "with Gallery.open(Path(sys.argv[1])) as gallery:\n"
        "    embedder = open_embedder('builtin', None, 'cpu')\n"
        "    detector = open_for_photographs('cpu')\n"
        "    enrol.enrol(gallery, Path(sys.argv[2]), detector, embedder, listen=listen)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(photos)], cwd=ROOT, timeout=100
    )
    assert ended.returncode == -signal.SIGKILL
    with Gallery.open(folder) as gallery:
        assert len(gallery.subjects()) == 4
        report = enrol(gallery, photos, detector, embedder)
        assert (report.added, report.unchanged, embedder.faces) == (6, 4, 6)
        assert not any(c.problems for c in check(gallery))


class TestMigration:
    @pytest.fixture
    def other(self, tmp_path: Path) -> CountingEmbedder:
        """The builtin embedder with other weights: its last layer turned around."""
        from safetensors.torch import load_file, save_file

        state = {k: v.clone() for k, v in load_file(bundled("embedder.safetensors")).items()}
        state["head.3.weight"] = state["head.3.weight"].flip(0).contiguous()
        save_file(state, tmp_path / "other.safetensors")
        return CountingEmbedder(tmp_path / "other.safetensors")

    def test_every_picture_is_embedded_again(
        self,
        gallery: Gallery,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        other: CountingEmbedder,
    ) -> None:
        enrol(gallery, folder, detector, embedder)
        old = gallery.vectors()
        count, removal = migrate(gallery, other)
        assert (count, removal, other.faces) == (3, None, 3)
        gallery.require_embedder(other)
        new = gallery.vectors()
        assert new.features.shape == old.features.shape and set(new.ids.tolist()).isdisjoint(
            old.ids.tolist()
        )
        for image in gallery.images():
            face = gallery.face(image)
            assert face is not None
            feature, norm = other.embed(*as_tensors([face]))
            row = next(i for i, t in gallery.templates(new.ids).items() if t.image == image.sha256)
            assert torch.allclose(
                torch.from_numpy(new.features[new.ids == row]), feature, atol=1e-4
            )
            assert image.norm == pytest.approx(float(norm), rel=1e-4)
        assert not any(c.problems for c in check(gallery))
        data = b"".join(f.read_bytes() for f in gallery.files())
        assert not any(v.tobytes() in data for v in old.features)

    def test_photographs_without_picture_stop_a_migration_before_it_starts(
        self,
        gallery: Gallery,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        other: CountingEmbedder,
    ) -> None:
        enrol(gallery, folder, detector, embedder)
        (folder / "grace.jpg").unlink()
        ImageOps.mirror(PilImage.open(GRACE)).save(folder / "hopper.png")
        enrol(gallery, folder, detector, embedder, defaults=EnrolDefaults(pictures=False))
        before, state = ops.stored_vectors(gallery), gallery.state
        with pytest.raises(
            UsageError, match=r"1 of 4 photographs have no stored picture \(hopper\.png\)"
        ):
            migrate(gallery, other)
        assert ops.stored_vectors(gallery) == before and gallery.state == state
        gallery.require_embedder(embedder)
        count, removal = migrate(gallery, other, drop_missing=True)
        assert count == 3 and removal is not None
        assert (removal.subjects, removal.occurrences) == (("hopper",), 0)
        assert subjects(gallery) == {"eileen": 2, "grace": 1}

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["embedding", "swapping"])
    def test_a_killed_migration_leaves_the_old_gallery_intact(
        self,
        moment: str,
        tmp_path: Path,
        folder: Path,
        detector: CountingDetector,
        embedder: CountingEmbedder,
        other: CountingEmbedder,
    ) -> None:
        with Gallery.create(
            tmp_path / "g", embedder.name, embedder.sha256, embedder.length
        ) as gallery:
            enrol(gallery, folder, detector, embedder)
            before = ops.stored_vectors(gallery)
        script = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from fasr_video.gallery import enrol\n"
            "from fasr_video.gallery.gallery import Gallery\n"
            "from fasr_video.recognition.embedder import BuiltinEmbedder\n"
            "kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "if sys.argv[3] == 'swapping':\n"
            "    Gallery._update_dependents = kill\n"
            "listen = kill if sys.argv[3] == 'embedding' else None\n"
            "with Gallery.open(Path(sys.argv[1])) as gallery:\n"
            "    enrol.migrate(gallery, BuiltinEmbedder(Path(sys.argv[2])), listen=listen)\n"
        )
        command = [
            sys.executable,
            "-c",
            script,
            str(tmp_path / "g"),
            str(tmp_path / "other.safetensors"),
            moment,
        ]
        assert subprocess.run(command, cwd=ROOT, timeout=100).returncode == -signal.SIGKILL
        assert (tmp_path / "g" / "migrate.part").exists()
        with Gallery.open(tmp_path / "g") as gallery:
            gallery.require_embedder(embedder)
            assert ops.stored_vectors(gallery) == before
            assert not (tmp_path / "g" / "migrate.part").exists()
            assert not any(c.problems for c in check(gallery))
