"""Exported pictures say where they come from; other people's faces can be pixelated."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as Pictures

from fasr_video.case import document, tracks
from fasr_video.case.case import Case
from fasr_video.custody.pictures import export_pictures
from fasr_video.errors import IntegrityError
from fasr_video.files import sha256_file
from fasr_video.provenance import BANNER, CAMERA, COVERED, NOTE, is_synthetic, with_note
from fasr_video.report.redact import BLOCKS, pixelated, pixelated_photograph, without_bystanders
from tests.support.commands import run_command

TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.fixture(scope="module")
def exported(corridor_case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    with Case.open(corridor_case, read_only=True) as case:
        assert export_pictures(case, (), out, redact=False)
    return out


def read_metadata(picture: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Pictures.open(picture).info[NOTE])
    return found


def source_type(picture: Path) -> str:
    packet = Pictures.open(picture).info["XML:com.adobe.xmp"]
    (metadata,) = [
        v
        for e in ElementTree.fromstring(packet.encode()).iter()
        for k, v in e.items()
        if "DigitalSource" in k
    ]
    return str(metadata)


def test_a_camera_picture_names_footage_frame_and_time(
    exported: Path, corridor: Path, corridor_case: Path
) -> None:
    (picture,) = exported.glob("T1-lr0-*.png")
    metadata = read_metadata(picture)
    with Case.open(corridor_case, read_only=True) as case:
        best_face = document.tracks(case)[0].kept_faces[0]
        assert metadata["case"]["id"] == case.meta("case_id")
    assert (
        metadata["what"] == CAMERA
        and source_type(picture) == metadata["digital_source_type"] == TERMS + "digitalCapture"
    )
    assert metadata["source"] == {"name": corridor.name, "sha256": sha256_file(corridor)}
    assert (metadata["frame"], metadata["pts"]) == (best_face.frame, best_face.pts)
    assert metadata["seconds"] == pytest.approx(metadata["frame"] / 25, abs=0.05)
    assert (
        metadata["detector"]["model_sha256"]
        and metadata["version"]
        and metadata["case"]["settings_sha256"]
    )


def test_a_reconstruction_says_that_a_network_made_it_and_from_what(exported: Path) -> None:
    for picture in exported.glob("T1-s*.png"):
        metadata = read_metadata(picture)
        assert metadata["what"] == Pictures.open(picture).info["Description"] == BANNER
        assert source_type(picture) == TERMS + "compositeWithTrainedAlgorithmicMedia"
        assert (
            metadata["made_with"]["restorer"]["network"] == metadata["model"]
            and metadata["seed"]
            and metadata["frames"][0]["pts"]
        )
        assert is_synthetic(picture.read_bytes())


def test_reconstructions_in_the_case_and_of_stills_carry_metadata_too(corridor_case: Path) -> None:
    with Case.open(corridor_case, read_only=True) as case:
        name = case.db.execute("SELECT picture FROM restoration").fetchone()[0]
        assert (
            source_type(case.picture_path(name)) == TERMS + "compositeWithTrainedAlgorithmicMedia"
        )


def test_every_picture_has_its_metadata_in_a_file_beside_it(exported: Path) -> None:
    pictures = sorted(exported.glob("*.png"))
    assert len(pictures) == len(list(exported.glob("*.json")))
    for picture in pictures:
        beside = json.loads(picture.with_suffix(".json").read_text())
        assert (beside.pop("file"), beside.pop("sha256")) == (picture.name, sha256_file(picture))
        assert beside == read_metadata(picture)


def test_metadata_changes_no_pixel_and_no_compressed_byte(
    exported: Path, corridor_case: Path
) -> None:
    (picture,) = exported.glob("T1-lr0-*.png")
    with Case.open(corridor_case, read_only=True) as case:
        stored = case.picture_bytes(read_metadata(picture)["picture_sha256"])
    assert np.array_equal(
        np.asarray(Pictures.open(picture)), np.asarray(Pictures.open(io.BytesIO(stored)))
    )
    assert stored[stored.index(b"IDAT") :] in picture.read_bytes()


def test_adding_metadata_twice_is_the_same_as_once(exported: Path) -> None:
    (picture,) = exported.glob("T1-sr.png")
    data = picture.read_bytes()
    metadata = read_metadata(picture)
    assert with_note(data, metadata, BANNER) == data


def test_an_exported_camera_picture_can_be_super_resolved_but_a_reconstruction_cannot(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.png"
    lr0 = Pictures.open(next(exported.glob("T1-lr0-*.png")))
    buffer = io.BytesIO()
    lr0.resize((24, 24)).save(buffer, "PNG")
    small.write_bytes(with_note(buffer.getvalue(), {}, CAMERA))
    assert run_command(capsys, "sr", small, "--method", "bicubic", "--out", tmp_path)[0] == 0
    drawn = tmp_path / "drawn.png"
    drawn.write_bytes(with_note(small.read_bytes(), {}, BANNER))
    code, _, err = run_command(capsys, "sr", drawn, "--method", "bicubic", "--out", tmp_path)
    assert code == 2 and "a reconstruction that this program drew" in err


def test_a_picture_that_was_changed_is_not_exported(copied_case: Path, tmp_path: Path) -> None:
    with Case.open(copied_case, read_only=True) as case:
        picture = case.folder / str(document.tracks(case)[0].kept_faces[0].native)
        picture.write_bytes(picture.read_bytes() + b"\0")
        with pytest.raises(IntegrityError, match="it was changed"):
            export_pictures(case, ["T1"], tmp_path / "out", redact=False)


def test_an_unknown_track_is_named_in_the_error(
    corridor_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "pictures", corridor_case, "T9", "--out", tmp_path / "out")
    assert (
        code == 2
        and "T9: no such track; the case has T1, T2" in err
        and not (tmp_path / "out").exists()
    )


def test_other_faces_are_pixelated_and_the_tracks_own_face_is_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    covered = pixelated(image, [(60, 20, 80, 40), (200, 200, 220, 220)], own=(10, 10, 64, 50))
    face = covered[14:46, 64:86]
    assert len(np.unique(face.reshape(-1, 3), axis=0)) <= (BLOCKS + 1) ** 2
    assert np.array_equal(covered[10:50, 10:64], image[10:50, 10:64]), (
        "what lies in the own box stays"
    )
    assert np.array_equal(covered[:, 90:], image[:, 90:]), "and so does what is far from any face"
    assert len(np.unique(pixelated_photograph(image).reshape(-1, 3), axis=0)) <= BLOCKS**2


def test_a_redacted_export_covers_other_people_in_the_frame(
    copied_case: Path, tmp_path: Path
) -> None:
    with Case.open(copied_case) as case:
        track = document.tracks(case)[0]
        best_face = track.kept_faces[0]
        face = tracks.read_face(case, best_face.face)
        before = case.read_picture(Path(str(best_face.native)).stem)
        assert np.array_equal(without_bystanders(case, face), before), "nobody else is in it"
        x, y = face.corner
        with case.transaction():  # a person at the crop's corner
            beside = replace(face, id=tracks.next_face_id(case), x1=x, y1=y, x2=x + 8, y2=y + 8)
            tracks.add_faces(case, [beside])
        export_pictures(case, ["T1"], tmp_path, redact=True)
    (picture,) = tmp_path.glob("T1-lr0-*.png")
    after = np.asarray(Pictures.open(picture))
    assert (
        read_metadata(picture)["what"] == COVERED
        and source_type(picture) == TERMS + "algorithmicallyEnhanced"
    )
    assert len(np.unique(after[:8, :8].reshape(-1, 3), axis=0)) <= BLOCKS**2
    assert not np.array_equal(after[:8, :8], before[:8, :8])
    x1, y1, x2, y2 = (round(v) for v in np.array(best_face.box) - np.tile(face.corner, 2))
    assert np.array_equal(after[y1:y2, x1:x2], before[y1:y2, x1:x2])
