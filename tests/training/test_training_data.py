"""What people train on: photographs are aligned first, and people are named as the data name them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fasr_video.cli import cli
from fasr_video.datasets.faces import Faces, name_people, read_faces
from fasr_video.detection import open_detector
from fasr_video.detection.photograph import choose_face
from fasr_video.errors import FasrError
from fasr_video.media import read_picture
from fasr_video.recognition.align import eyes_and_mouth, to_canonical
from fasr_video.training.alignment import LARGEST_FACE, RIM, framed_face
from fasr_video.training.combiner import CombinerFeatures
from fasr_video.types import Detections
from tests.support.paths import MUGSHOTS

PATHS = ("00000/00000.png", "00000/00001.png", "01000/01000.png")


def some_faces() -> Faces:
    return Faces(torch.zeros(3, 3, 128, 128, dtype=torch.uint8), PATHS)


def test_folders_name_the_people_by_default() -> None:
    assert name_people(some_faces(), "folders").identities == ["00000", "00000", "01000"]


def test_each_picture_can_be_a_person_of_its_own() -> None:
    people = name_people(some_faces(), "none").people
    assert list(people.values()) == [[0], [1], [2]]


def test_a_csv_file_can_name_the_people(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("path,identity\n" + "".join(f"{path},Ann\n" for path in PATHS))
    assert name_people(some_faces(), str(file)).people == {"Ann": [0, 1, 2]}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (f"path,identity\n{PATHS[0]},Ann\n", "no row for 2 of 3 faces"),
        (f"path,who\n{PATHS[0]},Ann\n", "identity"),
        ("path,identity\n" + "".join(f"{path},\n" for path in PATHS), "has no identity"),
    ],
)
def test_a_csv_file_that_does_not_name_everybody_is_refused(
    rows: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(rows)
    with pytest.raises(FasrError, match=problem):
        name_people(some_faces(), str(file))


def test_people_that_are_neither_a_word_nor_a_file_are_refused() -> None:
    with pytest.raises(FasrError, match="nobody"):
        name_people(some_faces(), "nobody")


def test_a_large_picture_is_refused_with_the_command_that_aligns_it(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Image.fromarray(np.zeros((1024, 1024, 3), np.uint8)).save(tmp_path / "p" / "0.png")
    with pytest.raises(FasrError, match=r"1024×1024, but an aligned face .* run `train align`"):
        read_faces([tmp_path])


def test_photographs_are_aligned_to_the_canonical_frame_with_a_rim(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in sorted(MUGSHOTS.glob("*.jpg"))[:2]:
        (photos / photo.stem).mkdir()
        (photos / photo.stem / "1.jpg").write_bytes(photo.read_bytes())
    (photos / "nobody").mkdir()
    Image.fromarray(np.full((300, 300, 3), 127, np.uint8)).save(photos / "nobody" / "1.png")
    out = tmp_path / "aligned"
    arguments = ["train", "align", str(photos), "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "2 aligned faces, 1 left out" in result.output
    assert "nobody/1.png: no face found" in result.output
    faces, left_out = read_faces([out])
    assert faces.pictures.shape == (2, 3, 144, 144) and not left_out
    assert [len(rows) for rows in faces.people.values()] == [1, 1]
    made = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    CliRunner().invoke(cli, arguments)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.png")} == made


def test_the_middle_of_an_aligned_photograph_is_the_canonical_frame() -> None:
    photo = read_picture(MUGSHOTS / "grace_hopper.jpg")
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.5)
    found = choose_face(photo, detector, LARGEST_FACE)
    face = framed_face(photo, detector)
    assert isinstance(found, Detections) and isinstance(face, np.ndarray)
    assert found.landmarks is not None
    canonical = to_canonical(photo, eyes_and_mouth(found.landmarks[0]))
    difference = face[RIM:-RIM, RIM:-RIM].astype(int) - canonical
    assert np.abs(difference).mean() < 0.5  # positions are rounded to 1/32 px


def test_features_by_dlib_name_their_embedder(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    for person in range(2):
        (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
        pixels = np.random.default_rng(person).integers(0, 256, (128, 128, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "faces" / f"p{person}" / "0.png")
    out = tmp_path / "features.npz"
    arguments = ["train", "features", str(tmp_path / "faces"), "--embedder", "dlib"]
    result = CliRunner().invoke(cli, [*arguments, "--identities", "none", "--out", str(out)])
    assert result.exit_code == 0, result.output
    features = CombinerFeatures.load(out)
    assert features.source.embedder.startswith("dlib") and features.hr.shape == (2, 128)


def test_an_aligned_face_stays_in_its_folder_whatever_a_tar_names(tmp_path: Path) -> None:
    photo = (MUGSHOTS / "grace_hopper.jpg").read_bytes()
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name in ("../../outside/1.jpg", "/rooted/1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(photo)
            tar.addfile(member, io.BytesIO(photo))
    out = tmp_path / "deep" / "aligned"
    arguments = ["train", "align", str(tmp_path / "photos.tar"), "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert written == ["deep/aligned/outside/1.png", "deep/aligned/rooted/1.png"]


def test_two_photographs_that_differ_in_their_ending_are_not_one(tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "p"
    photos.mkdir(parents=True)
    for name in ("1.jpg", "1.jpeg"):
        (photos / name).write_bytes((MUGSHOTS / "grace_hopper.jpg").read_bytes())
    arguments = ["train", "align", str(photos.parent), "--out", str(tmp_path / "aligned")]
    result = CliRunner().invoke(cli, arguments)
    assert "1 aligned face, 1 left out" in result.output
    assert "p/1.jpg: p/1.jpeg would have the same name, p/1.png: rename one of them" in (
        result.output
    )
