"""The Python interface: what a program or a notebook gets, with real films and real models."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import fasr_video
from fasr_video import api
from fasr_video.errors import UsageError
from fasr_video.gallery.records import GalleryError
from fasr_video.types import Image
from tests.support.paths import ROOT

MUGSHOTS = ROOT / "sample_videos" / "mugshots"
SURFACE = {
    "run": "(footage, *, gallery=None, out=None, preset='cpu', settings=None, progress=None)",
    "crop_face": "(picture, box, landmarks=None)",
    "load_detector": "(name='builtin', *, weights=None, min_score=0.5, device='cpu')",
    "load_embedder": "(name='builtin', *, weights=None, device='cpu')",
    "load_restorer": "(method='mean', *, weights=None, sampler=None, device='cpu')",
    "Case.open": "(folder)",
    "Case.picture": "(self, name)",
    "Case.track": "(self, name)",
    "Gallery.create": "(folder, photographs, *, embedder='builtin')",
    "Gallery.open": "(folder)",
    "Gallery.search": "(self, face, *, auxiliaries=(), length=10, fpir=0.01)",
    "FaceEmbedder.embed": "(self, faces)",
    "FaceRestorer.restore": "(self, face, *, auxiliaries=(), samples=None, seed=0)",
}


def face_of(person: str) -> Image:
    """Return the face of a mugshot in the canonical frame."""
    bgr = cv2.imread(str(MUGSHOTS / f"{person}.jpg"))
    assert bgr is not None
    picture = np.asarray(bgr[..., ::-1], np.uint8)
    (found,) = fasr_video.load_detector().detect([np.ascontiguousarray(picture)])
    assert found.landmarks is not None
    return fasr_video.crop_face(picture, found.boxes[0], found.landmarks[0])


@pytest.mark.parametrize("name", SURFACE)
def test_the_public_signatures_are_these(name: str) -> None:
    found: object = api
    for part in name.split("."):
        found = getattr(found, part)
    signature = inspect.signature(found)  # type: ignore[arg-type]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == SURFACE[name]


def test_the_package_names_the_interface_and_importing_it_loads_no_torch() -> None:
    code = "import sys, fasr_video; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    assert all(getattr(fasr_video, name) is not None for name in fasr_video.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        fasr_video.load_everything  # noqa: B018


def test_a_detector_gives_boxes_scores_and_landmarks() -> None:
    bgr = cv2.imread(str(MUGSHOTS / "ada.jpg"))
    assert bgr is not None
    picture = np.asarray(bgr[..., ::-1], np.uint8)
    (found,) = fasr_video.load_detector("builtin", min_score=0.5).detect([picture])
    assert found.boxes.shape == (1, 4) and found.scores[0] > 0.5
    assert found.landmarks is not None and found.landmarks.shape == (1, 5, 2)


def test_an_embedder_gives_unit_vectors_and_their_norms_for_faces_of_any_size() -> None:
    embedder = fasr_video.load_embedder()
    face = face_of("ada")
    small = np.asarray(cv2.resize(face, (24, 24), interpolation=cv2.INTER_AREA), np.uint8)
    vectors, norms = embedder.embed([face, small, face_of("bruno")])
    assert vectors.shape == (3, embedder.length) and norms.shape == (3,)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert embedder.embed([])[0].shape == (0, embedder.length)


def test_a_restorer_gives_a_picture_its_samples_and_their_spread() -> None:
    shrunk = cv2.resize(face_of("ada"), (16, 16), interpolation=cv2.INTER_AREA)
    small = np.asarray(shrunk, np.uint8)
    mean = fasr_video.load_restorer().restore(small)
    assert mean.picture.shape == (128, 128, 3) and mean.method == "mean"
    drawn = fasr_video.load_restorer("fasr++", sampler="dpmpp-3").restore(small, samples=2, seed=1)
    assert len(drawn.samples) == 2 and drawn.spread.mean() > 0
    with pytest.raises(UsageError, match="no such method"):
        fasr_video.load_restorer("enhance")


def test_a_gallery_is_made_searched_and_opened_by_string_paths(tmp_path: Path) -> None:
    gallery = fasr_video.Gallery.create(str(tmp_path / "people"), str(MUGSHOTS))
    assert sorted(subject.id for subject in gallery.subjects) == sorted(
        path.stem for path in MUGSHOTS.glob("*.jpg")
    )
    answer = fasr_video.Gallery.open(str(tmp_path / "people")).search(face_of("carlo"))
    assert answer.joined[0].subject == "carlo" and answer.joined[0].passes
    with pytest.raises(GalleryError, match="no gallery here"):
        fasr_video.Gallery.open(tmp_path)


@pytest.mark.slow
def test_the_readme_s_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_videos").symlink_to(ROOT / "sample_videos")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["case"].track("T1").leads
    assert names["drawn"].picture.shape == (128, 128, 3) and names["vectors"].shape[0] == 2


@pytest.mark.slow
def test_a_run_gives_a_case_whose_rows_name_tracks_pictures_and_leads(
    corridor: Path, tmp_path: Path
) -> None:
    seen: list[object] = []
    case = fasr_video.run(
        str(corridor),
        gallery=str(MUGSHOTS),
        out=str(tmp_path / "case"),
        settings={"sampling.every": 4},
        progress=seen.append,
    )
    assert seen and (tmp_path / "case" / "report" / "index.html").is_file()
    assert case == fasr_video.Case.open(tmp_path / "case")
    first = case.track("T1")
    assert first.end > first.start and first.sightings > 2 and first.verdict == "usable"
    assert first.reconstruction is not None and first.candidates
    assert case.picture(first.reconstruction.picture).shape == (128, 128, 3)
    with pytest.raises(KeyError):
        case.track("T99")
    table = case._repr_html_()
    assert table.count("<tr>") == 1 + len(case.tracks) and "reconstruction (synthetic)" in table
