"""`fasr-video gallery …` from the outside: what it prints, the exit codes, and one line for each
error.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from fasr_video.actors import login_name
from fasr_video.detection import open_for_photographs
from fasr_video.gallery.enrol import enrol
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import INDEX_FILE
from fasr_video.gallery.store import DATABASE
from fasr_video.recognition.embedders import open_embedder
from fasr_video.weights.manifest import bundled
from tests.support.commands import run_command
from tests.support.paths import MUGSHOTS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "gallery"
    embedder = open_embedder("builtin", None, "cpu")
    with Gallery.create(folder, embedder.name, embedder.sha256, embedder.length) as gallery:
        enrol(gallery, MUGSHOTS, open_for_photographs("cpu"), embedder)
    return folder


@pytest.fixture
def gallery(enrolled: Path, tmp_path: Path) -> Path:
    shutil.copytree(enrolled, tmp_path / "gallery")
    return tmp_path / "gallery"


def document(capsys: Capture, *arguments: object) -> Any:
    code, out, err = run_command(capsys, "gallery", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_create_and_add_make_a_searchable_gallery(tmp_path: Path, capsys: Capture) -> None:
    folder, photos = tmp_path / "gallery", tmp_path / "photos"
    shutil.copytree(MUGSHOTS, photos)
    (photos / "notes.txt").write_text("no picture")
    assert run_command(capsys, "gallery", "create", folder)[0] == 0
    code, out, err = run_command(
        capsys, "gallery", "add", folder, photos, "--source", "web", "--authority", "order 5"
    )
    assert code == 3 and "2 added" in out and "1 not enrolled" in out and "notes.txt" in out, err
    listed = document(capsys, "list", folder)
    assert [s["id"] for s in listed["subjects"]] == ["eileen_collins", "grace_hopper"]
    assert [p["path"] for p in listed["problems"]] == ["notes.txt"]
    entry = document(capsys, "show", folder, "grace_hopper")
    assert (entry["images"][0]["source"], entry["images"][0]["authority"]) == ("web", "order 5")
    (photos / "notes.txt").unlink()
    (photos / "grace_hopper.jpg").unlink()
    code, out, _ = run_command(capsys, "gallery", "add", folder, photos, "--sync")
    assert code == 0 and "1 removed" in out and "no piece of the removed data is left in" in out
    assert [s["id"] for s in document(capsys, "list", folder)["subjects"]] == ["eileen_collins"]


def test_list_show_and_stats_print_subjects(gallery: Path, capsys: Capture) -> None:
    assert "grace_hopper" in run_command(capsys, "gallery", "list", gallery)[1]
    _, out, _ = run_command(capsys, "gallery", "show", gallery, "grace_hopper")
    assert "grace_hopper.jpg" in out and "picture stored" in out
    _, out, _ = run_command(capsys, "gallery", "stats", gallery)
    assert "eileen_collins and grace_hopper, cosine" in out and "flat" in out
    stats = document(capsys, "stats", gallery)
    assert (stats["subjects"], stats["templates"], stats["index_state"]) == (2, 2, "fits")
    assert stats["embedder"]["embedder"] == "builtin" and stats["disk_bytes"] > 10_000


def test_remove_has_a_dry_run_and_reports_the_proof(gallery: Path, capsys: Capture) -> None:
    before = (gallery / DATABASE).read_bytes()
    code, out, _ = run_command(
        capsys, "gallery", "remove", gallery, "grace_hopper", "--why", "order", "--dry-run"
    )
    assert code == 0 and "1 photograph would be removed; nothing was changed" in out
    assert (gallery / DATABASE).read_bytes() == before
    sha256 = document(capsys, "show", gallery, "grace_hopper")["images"][0]["sha256"]
    proof = document(capsys, "remove", gallery, "--image", sha256, "--why", "order")
    assert (proof["images"], proof["subjects"], proof["occurrences"]) == (
        [sha256],
        ["grace_hopper"],
        0,
    )
    assert proof["files_scanned"] >= 3
    code, out, _ = run_command(
        capsys, "gallery", "remove", gallery, "eileen_collins", "--why", "order"
    )
    assert code == 0 and "no piece of the removed data is left in" in out
    assert document(capsys, "list", gallery) == {"subjects": [], "problems": []}
    assert document(capsys, "stats", gallery)["nearest"] is None


def test_the_log_names_who_enrolled_and_removed_but_no_subject(
    gallery: Path, capsys: Capture
) -> None:
    who = ("--by", "Anna Huber", "--role", "administrator")
    assert (
        run_command(capsys, "gallery", "remove", gallery, "grace_hopper", "--why", "order 7", *who)[
            0
        ]
        == 0
    )
    enrolled, removed = document(capsys, "log", gallery)["log"]
    assert (enrolled["event"], enrolled["added"], enrolled["by"]) == ("enrol", 2, login_name())
    assert (removed["event"], removed["why"], removed["subjects"], removed["images"]) == (
        "removed",
        "order 7",
        1,
        1,
    )
    assert (removed["by"], removed["role"]) == ("Anna Huber", "administrator")
    code, out, _ = run_command(capsys, "gallery", "log", gallery)
    assert code == 0 and "Anna" in out and "hopper" not in out


def test_no_name_remains_when_a_person_is_removed(
    gallery: Path, tmp_path: Path, capsys: Capture
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    ImageOps.mirror(PilImage.open(MUGSHOTS / "grace_hopper.jpg")).save(photos / "alice_secret.jpg")
    shutil.copy(photos / "alice_secret.jpg", photos / "bob.jpg")
    PilImage.new("RGB", (300, 300), "grey").save(photos / "dave_noface.jpg")
    assert run_command(capsys, "gallery", "add", gallery, photos)[0] == 3
    assert "alice_secret" in run_command(capsys, "gallery", "list", gallery)[1]
    arguments = ("gallery", "remove", gallery, "alice_secret", "dave_noface", "--why", "order")
    code, out, _ = run_command(capsys, *arguments, "--dry-run")
    assert (
        code == 0
        and "would be forgotten: bob.jpg" in out
        and "would be forgotten: dave_noface.jpg" in out
    )
    code, out, _ = run_command(capsys, *arguments)
    assert (
        code == 0
        and "removed: alice_secret, dave_noface (" in out
        and "no piece of the removed data is left in" in out
    )
    assert "2 lines about photographs that were not enrolled" in out
    assert document(capsys, "list", gallery)["problems"] == []
    data = b"".join(f.read_bytes() for f in gallery.iterdir() if f.is_file())
    assert b"alice_secret" not in data and b"dave_noface" not in data
    code, _, err = run_command(capsys, "gallery", "show", gallery, "dave_noface")
    assert code == 2 and "no subject 'dave_noface'" in err


def test_remaining_bytes_of_removed_data_give_exit_code_four(
    gallery: Path, capsys: Capture
) -> None:
    with Gallery.open(gallery) as opened:
        vector = opened.vectors().features[0].tobytes()
        subject = next(iter(opened.templates(opened.vectors().ids).values())).subject
    (gallery / "export.bin").write_bytes(vector)
    code, out, _ = run_command(capsys, "gallery", "remove", gallery, subject, "--why", "order")
    assert code == 4 and "4 pieces of the removed data are left in" in out and "what to do" in out


def test_check_reports_intact_and_damaged_galleries(gallery: Path, capsys: Capture) -> None:
    document(capsys, "stats", gallery)
    code, out, _ = run_command(capsys, "gallery", "check", gallery)
    assert code == 0 and "FAILED" not in out
    data = bytearray((gallery / INDEX_FILE).read_bytes())
    data[1000] ^= 1
    (gallery / INDEX_FILE).write_bytes(data)
    code, out, _ = run_command(capsys, "gallery", "check", gallery)
    assert code == 4 and "what to do: delete" in out
    code, out, _ = run_command(capsys, "gallery", "check", gallery, "--json")
    assert code == 4 and json.loads(out)["intact"] is False


def test_migrate_embeds_stored_pictures_again(
    gallery: Path, tmp_path: Path, capsys: Capture
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other.safetensors"
    state = {k: v.clone() for k, v in load_file(bundled("embedder.safetensors")).items()}
    last = "head.3.weight"
    save_file(state | {last: state[last].flip(0).contiguous()}, other)
    photos = tmp_path / "photos"
    photos.mkdir()
    ImageOps.mirror(PilImage.open(MUGSHOTS / "grace_hopper.jpg")).save(photos / "mirrored.png")
    assert run_command(capsys, "gallery", "add", gallery, photos, "--no-pictures")[0] == 0
    code, _, err = run_command(capsys, "gallery", "add", gallery, photos, "--weights", other)
    assert code == 2 and "gallery migrate" in err and len(err.strip().splitlines()) == 1
    code, out, _ = run_command(
        capsys, "gallery", "migrate", gallery, "--weights", other, "--dry-run"
    )
    assert (
        code == 0 and "no stored picture: mirrored.png" in out and "2 photographs would be" in out
    )
    before = (gallery / DATABASE).read_bytes()
    for options in ((), ("--dry-run",), ("--drop-missing",)):
        code, out, _ = run_command(capsys, "gallery", "migrate", gallery, *options)
        assert code == 0 and "nothing to do" in out and "embedded again" not in out
    assert (gallery / DATABASE).read_bytes() == before
    code, _, err = run_command(capsys, "gallery", "migrate", gallery, "--weights", other)
    assert code == 2 and "--drop-missing" in err
    code, out, _ = run_command(
        capsys, "gallery", "migrate", gallery, "--weights", other, "--drop-missing"
    )
    assert (
        code == 0
        and "2 photographs embedded again" in out
        and "no piece of the removed data is left in" in out
    )
    assert run_command(capsys, "gallery", "check", gallery)[0] == 0
    assert run_command(capsys, "gallery", "add", gallery, photos, "--weights", other)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["list", "{nowhere}"], 2, "no gallery here"),
        (["create", "{gallery}"], 2, "already a gallery"),
        (["add", "{gallery}", "{nowhere}"], 2, "no such file or folder"),
        (["show", "{gallery}", "nobody"], 2, "no subject 'nobody'"),
        (["remove", "{gallery}", "nobody", "--why", "x"], 2, "no subject 'nobody'"),
        (["remove", "{gallery}", "--image", "00", "--why", "x"], 2, "no photograph 00"),
        (["remove", "{gallery}", "--why", "x"], 2, "nothing to remove"),
        (["migrate", "{gallery}", "--weights", "{nowhere}"], 2, "no such file"),
        (["list", "{damaged}"], 4, "nothing was written"),
        (["check", "{damaged}"], 4, "nothing was written"),
        (["add", "{damaged}", "{gallery}"], 4, "nothing was written"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, says: str, gallery: Path, tmp_path: Path, capsys: Capture
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / DATABASE).write_bytes(b"no database" * 1000)
    paths = {"gallery": gallery, "nowhere": tmp_path / "nowhere", "damaged": damaged}
    ended, _, err = run_command(capsys, "gallery", *(a.format(**paths) for a in arguments))
    errors = [line for line in err.splitlines() if line.startswith("fasr-video: ")]
    assert ended == code and len(errors) == 1 and says in errors[0] and "Traceback" not in err


def test_the_face_option_chooses_one_of_several_faces(
    gallery: Path, tmp_path: Path, capsys: Capture
) -> None:
    photo = tmp_path / "two people.png"
    sheet = PilImage.new("RGB", (600, 300), "grey")
    sheet.paste(PilImage.open(MUGSHOTS / "eileen_collins.jpg").resize((200, 200)), (0, 0))
    sheet.paste(PilImage.open(MUGSHOTS / "grace_hopper.jpg").resize((300, 300)), (300, 0))
    sheet.save(photo)
    assert run_command(capsys, "gallery", "add", gallery, photo)[0] == 3
    (problem,) = document(capsys, "list", gallery)["problems"]
    assert (
        problem["reason"].startswith("2 faces: 1 at the top left, ")
        and "--face N" in problem["reason"]
    )
    for wrong, says in (("0", "from 1"), ("left", "from 1")):
        code, _, err = run_command(capsys, "gallery", "add", gallery, photo, "--face", wrong)
        assert code == 2 and says in err and err.count("\n") == 1
    code, _, err = run_command(capsys, "gallery", "add", gallery, MUGSHOTS, "--face", "1")
    assert code == 2 and "contains 2 photographs" in err
    code, _, err = run_command(capsys, "gallery", "add", gallery, photo, "--face", "2", "--sync")
    assert code == 2 and "one photograph" in err
    assert run_command(capsys, "gallery", "add", gallery, photo, "--face", "2")[0] == 0
    listed = document(capsys, "list", gallery)
    assert [s["id"] for s in listed["subjects"]] == ["eileen_collins", "grace_hopper", "two people"]
    assert listed["problems"] == []
