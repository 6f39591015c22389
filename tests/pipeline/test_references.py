"""A run with IDFSR: references of tracks, conditioned pictures, and what is not searched with."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from fasr_video.case import document
from fasr_video.case.case import Case
from fasr_video.case.tracks import Face
from fasr_video.case.verify import verify
from fasr_video.cli import main
from fasr_video.configs import settings as configs
from fasr_video.configs.settings import Settings
from fasr_video.errors import FasrError
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.pipeline.references import MIN_DISTANCE, references_of_subject, sharpest
from fasr_video.pipeline.restore import open_encoder
from fasr_video.pipeline.run import redo, run
from fasr_video.provenance import NOTE
from fasr_video.sr.idfsr import identity_denoiser
from fasr_video.sr.networks.idfsr import IdfsrNet, Size
from fasr_video.sr.weights import save_idfsr
from fasr_video.types import AlignedFace
from tests.support.paths import PORTRAITS

QUICK = ("sampling.fps=3", "track.min_sightings=2", "select.auxiliaries=3")
HOPPER = "grace_hopper"


def case_document(folder: Path) -> dict[str, Any]:
    with Case.open(folder, read_only=True) as case:
        return asdict(document.as_document(case))


def the_track(folder: Path) -> dict[str, Any]:
    (track,) = [t for t in case_document(folder)["tracks"] if t["verdict"] == "usable"]
    return track


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network in which every layer says something."""
    torch.manual_seed(0)
    net = IdfsrNet(
        Size(
            128,
            8,
            (16, 32),
            blocks=1,
            condition=32,
            attention=0,
            style_widths=(16, 32),
            residual=True,
        )
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    file = tmp_path_factory.mktemp("weights") / "idfsr.safetensors"
    denoiser = identity_denoiser(net)
    denoiser.band = (4, 128)  # the tracks' faces are larger than IDFSR's
    save_idfsr(denoiser, file)
    return file


def settings(weights: Path, *more: str) -> Settings:
    return configs.load(
        "cpu", (*QUICK, "restore.method=idfsr", f"restore.weights={weights}", *DRAWN, *more)
    )


DRAWN = ("restore.sampler=ddim-2", "restore.samples=2")


@pytest.fixture(scope="module")
def mugshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photograph of Eileen Collins, two of Grace Hopper: the second a little darker."""
    root = Path(
        shutil.copytree(PORTRAITS / "mugshots", tmp_path_factory.mktemp("gallery") / "mugshots")
    )
    photograph = cv2.imread(str(root / f"{HOPPER}.jpg"))
    assert photograph is not None
    (root / HOPPER).mkdir()
    (root / f"{HOPPER}.jpg").rename(root / HOPPER / "1.jpg")
    cv2.imwrite(str(root / HOPPER / "2.png"), (photograph * 0.8).astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def drawn_from_own_faces(
    entrance: Path, weights: Path, mugshots: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A case whose one track is drawn from its own faces."""
    out = tmp_path_factory.mktemp("own") / "case"
    run([entrance], out, settings(weights), mugshots)
    return out


@pytest.fixture(scope="module")
def drawn_from_photographs(
    drawn_from_own_faces: Path,
    entrance: Path,
    weights: Path,
    mugshots: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The same, drawn from Grace Hopper's photographs."""
    out = Path(shutil.copytree(drawn_from_own_faces, tmp_path_factory.mktemp("hers") / "case"))
    assert (
        run([entrance], out, settings(weights, f"restore.subjects={{T1: {HOPPER}}}"), mugshots)[1]
        is True
    )
    return out


@pytest.fixture
def copy(drawn_from_photographs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn_from_photographs, tmp_path / "case"))


def face(frame: int, sharpness: float, eye_px: float = 10) -> Face:
    return Face(
        id=frame,
        source=1,
        track=1,
        frame_index=frame,
        pts=frame,
        x1=0,
        y1=0,
        x2=30,
        y2=40,
        landmarks=None,
        score=0.9,
        eye_px=eye_px,
        sharpness=sharpness,
        turn=0,
        exposure=0.5,
        contrast=0.2,
        inside=1,
        clear=1,
        total=0.5,
        reason="aux",
    )


def test_references_are_the_sharpest_faces_twenty_frames_apart() -> None:
    lr0 = face(100, 0.9)
    others = [
        face(81, 0.8),
        face(40, 0.5),
        face(59, 0.6),
        face(120, 0.3),
        face(300, 0.3, eye_px=30),
    ]
    chosen = sharpest(lr0, others)
    assert chosen == [4, 2, 3]  # 81 is too near to LR0, 40 to the sharper 59
    assert MIN_DISTANCE == 20 and sharpest(lr0, []) == []


def test_a_track_is_drawn_from_its_own_faces_and_searched_with(drawn_from_own_faces: Path) -> None:
    track = the_track(drawn_from_own_faces)
    restoration = track["restoration"]
    assert (
        restoration["method"] == "idfsr"
        and restoration["feature"] == "mean"
        and restoration["conditioned_on"] == ""
    )
    assert any("conditioned on its references" in w for w in restoration["warnings"])
    assert set(track["answer"]["lists"]) == {"best", "pooled", "sr"}


def test_a_picture_drawn_from_photographs_says_so_everywhere(
    drawn_from_photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    track = the_track(drawn_from_photographs)
    restoration, note = track["restoration"], f"conditioned on subject {HOPPER}"
    assert restoration["conditioned_on"] == HOPPER and any(
        w.startswith(note) for w in restoration["warnings"]
    )
    for name in (restoration["picture"], restoration["spread"], *restoration["samples"]):
        with Pictures.open(drawn_from_photographs / name) as picture:
            assert json.loads(picture.info[NOTE])["conditioned_on"] == HOPPER
    with Case.open(drawn_from_photographs, read_only=True) as case:
        (line,) = [
            x
            for x in csv.DictReader(document.as_csv(case, "tracks").splitlines())
            if x["sr_picture"]
        ]
        assert line["sr_conditioned_on"] == HOPPER and note in line["remark"]
        assert not any(c.problems for c in verify(case))
    monkeypatch.setattr("sys.argv", ["fasr-video", "show", str(drawn_from_photographs)])
    with pytest.raises(SystemExit):
        main()
    shown = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    assert "was not searched with" in shown and "conditioned on" in shown


def test_a_picture_drawn_from_photographs_is_not_searched_with(
    drawn_from_own_faces: Path, drawn_from_photographs: Path
) -> None:
    answer = the_track(drawn_from_photographs)["answer"]
    assert set(answer["lists"]) == {"best", "pooled"} and answer["joined"]
    assert all(set(c["cosines"]) == {"best", "pooled"} for c in answer["joined"])
    assert answer["remark"].endswith(f"conditioned on subject {HOPPER}: it was not searched with")
    for kind in ("best", "pooled"):  # the camera's own pictures give the same scores
        assert answer["lists"][kind] == the_track(drawn_from_own_faces)["answer"]["lists"][kind]
    assert case_document(drawn_from_photographs)["searched"]["conditioned_on"] == {"1": HOPPER}


def test_the_same_run_again_does_nothing(
    copy: Path, entrance: Path, weights: Path, mugshots: Path
) -> None:
    assert (
        run([entrance], copy, settings(weights, f"restore.subjects={{T1: {HOPPER}}}"), mugshots)[1]
        is False
    )


def test_without_the_setting_a_track_is_drawn_from_its_own_faces(
    drawn_from_own_faces: Path, copy: Path, entrance: Path, weights: Path, mugshots: Path
) -> None:
    """A copy of the case in which nothing but the log remembers the photographs."""
    before = the_track(copy)["restoration"]
    assert run([entrance], copy, settings(weights), mugshots)[1] is True
    after = the_track(copy)
    assert after == the_track(drawn_from_own_faces) and set(after["answer"]["lists"]) == {
        "best",
        "pooled",
        "sr",
    }
    assert not any((copy / name).exists() for name in (before["picture"], *before["samples"]))


def test_without_the_setting_it_is_searched_in_the_last_gallery(
    drawn_from_own_faces: Path, copy: Path, entrance: Path, weights: Path
) -> None:
    assert run([entrance], copy, settings(weights))[1] is True
    assert the_track(copy) == the_track(drawn_from_own_faces), (
        "no answer says that it was drawn from anybody"
    )
    with Case.open(copy, read_only=True) as case:
        assert not any(c.problems for c in verify(case))


def test_a_track_drawn_from_photographs_is_searched_for_in_any_gallery(
    copy: Path, weights: Path, mugshots: Path, tmp_path: Path
) -> None:
    chosen = settings(weights, "search.fpir=0.05", f"restore.subjects={{T1: {HOPPER}}}")
    with Case.open(copy) as case, case.transaction():  # as if the case had been made so
        stored = json.loads(case.meta("settings"))
        stored["restore"]["subjects"] = {"T1": HOPPER}
        case.set_meta("settings", json.dumps(stored, sort_keys=True))
    before = the_track(copy)
    assert redo(copy, "search", chosen) is True
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(mugshots / "eileen_collins.jpg", others)
    assert redo(copy, "search", chosen, others) is True
    after = the_track(copy)
    assert after["restoration"] == before["restoration"], "nothing was drawn"
    assert [c["subject"] for c in after["answer"]["joined"]] == ["eileen_collins"]
    assert "conditioned on subject" in after["answer"]["remark"]


@pytest.mark.parametrize(
    ("subjects", "says"),
    [(f"{{T9: {HOPPER}}}", "no usable track T9"), ("{T1: nobody}", "no subject 'nobody'")],
)
def test_a_refused_stage_does_not_change_the_case(
    subjects: str, says: str, copy: Path, weights: Path
) -> None:
    before, settings_before = case_document(copy), (copy / "settings.yaml").read_text()
    with pytest.raises(FasrError, match=says):
        redo(copy, "restore", settings(weights, f"restore.subjects={subjects}"))
    assert case_document(copy) == before and (copy / "settings.yaml").read_text() == settings_before


def test_a_removed_photograph_is_no_longer_a_reference(
    copy: Path, entrance: Path, weights: Path, mugshots: Path, tmp_path: Path
) -> None:
    fewer = Path(shutil.copytree(mugshots, tmp_path / "mugshots"))
    (fewer / HOPPER / "2.png").unlink()
    chosen, before = (
        settings(weights, f"restore.subjects={{T1: {HOPPER}}}"),
        the_track(copy)["restoration"],
    )
    assert run([entrance], copy, chosen, fewer)[1] is True
    assert the_track(copy)["restoration"]["picture"] != before["picture"]
    shutil.rmtree(fewer / HOPPER)
    with pytest.raises(FasrError, match=f"no photograph of subject {HOPPER}.*take the subject out"):
        run([entrance], copy, chosen, fewer)
    assert run([entrance], copy, settings(weights), fewer)[1] is True
    track = the_track(copy)
    assert track["restoration"]["conditioned_on"] == "" and HOPPER not in json.dumps(track)


def test_a_gallery_without_pictures_has_no_references(tmp_path: Path) -> None:
    feature, picture = np.eye(512, dtype=np.float32)[0], np.full((128, 128, 3), 99, np.uint8)
    with Gallery.create(tmp_path / "gallery", "fixed", "f" * 64, 512) as gallery:
        kept, bare = AlignedFace(picture, None), None
        gallery.add("kept", EnrolledPhoto("1" * 64, "1.png", feature, 1.0, 30.0, 0.9, kept))
        gallery.add("bare", EnrolledPhoto("2" * 64, "2.png", feature, 1.0, 30.0, 0.9, bare))
        references = references_of_subject(gallery, "kept")
        assert (
            references.sha256 == ("1" * 64,)
            and np.array_equal(references.faces[0], picture)
            and references.subject == "kept"
        )
        with pytest.raises(FasrError, match="has no pictures of it"):
            references_of_subject(gallery, "bare")
        with pytest.raises(FasrError, match="no subject 'nobody'"):
            references_of_subject(gallery, "nobody")


def test_a_wrong_subject_is_reported_in_one_line(
    drawn_from_own_faces: Path, entrance: Path, weights: Path, mugshots: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(drawn_from_own_faces, tmp_path / "case"))

    def settings_with(subjects: str) -> Settings:
        return settings(weights, f"restore.subjects={subjects}")

    for chosen, gallery, says in (
        (settings_with(f"{{T7: {HOPPER}}}"), mugshots, "no usable track T7 in this case, but T1"),
        (settings_with("{T1: nobody}"), mugshots, "no photograph of subject nobody"),
        (settings_with("{T1: nobody}"), out / "gallery", "no subject 'nobody'"),
        (settings_with(f"{{T1: {HOPPER}}}"), None, "give --gallery"),
    ):
        with pytest.raises(FasrError, match=says) as caught:
            run([entrance], out, chosen, gallery)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ("restore.method=idfsr", "restore.attributes=read"),
            "method idfsr cannot be drawn towards any",
        ),
        (("restore.method=bicubic", "restore.weights=some.file"), "method bicubic takes none"),
        (("restore.method=mean", "restore.samples=2"), "restore.method mean draws no samples"),
        (("restore.subjects={T1: somebody}",), "takes no references"),
    ],
)
def test_settings_that_a_method_cannot_follow_are_refused(
    overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(FasrError, match=says):
        open_encoder(configs.load("cpu", overrides))
