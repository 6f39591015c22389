"""Signed exports: a manifest and a signature that this program, and others, can check."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fasr_video.case.store import DATABASE
from fasr_video.custody.keys import make_signing_keys
from fasr_video.custody.signing import check_signature, sign
from fasr_video.errors import IntegrityError
from tests.support.commands import run_command


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("keys") / "examiner.pem"
    make_signing_keys(private)
    return private


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


@pytest.fixture
def export(tmp_path: Path, key: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "T1").mkdir(parents=True)
    (folder / "report.html").write_text("<p>a lead</p>")
    (folder / "T1" / "lr0.png").write_bytes(bytes(range(256)))
    sign(folder, key)
    return folder


def test_an_unchanged_export_passes_and_names_the_key(
    export: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_command(capsys, "check-signature", export, "--key", public(key))
    assert code == 0 and "2 files, signed at" in out
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", public(key), "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    expected = (
        subprocess.run(["sha256sum"], input=der, capture_output=True, check=True)
        .stdout.split()[0]
        .decode()
    )
    assert expected in out


def test_signing_again_says_that_the_earlier_signature_was_replaced(
    export: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("a lead")
    code, out, _ = run_command(capsys, "sign", note, "--key", key)
    assert code == 0 and "1 file signed by" in out and "replaced" not in out
    code, out, _ = run_command(capsys, "sign", export, "--key", key)
    assert code == 0 and "the earlier signature was replaced" in out
    code, _, err = run_command(capsys, "sign", tmp_path / "nowhere", "--key", key)
    assert code == 2 and "give the file or folder to sign" in err


def alter(folder: Path) -> None:
    (folder / "report.html").write_text("<p>a proof</p>")


def add_file(folder: Path) -> None:
    (folder / "T1" / "more.png").write_bytes(b"")


def remove_file(folder: Path) -> None:
    (folder / "T1" / "lr0.png").unlink()


def alter_manifest(folder: Path) -> None:
    manifest = folder.with_name("export.sha256")
    manifest.write_bytes(manifest.read_bytes().replace(b"report", b"rapport"))


def alter_signature(folder: Path) -> None:
    folder.with_name("export.sha256.sig").write_bytes(bytes(64))


def empty_manifest(folder: Path) -> None:
    folder.with_name("export.sha256").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (alter, "report.html was altered"),
        (add_file, "T1/more.png was added"),
        (remove_file, "T1/lr0.png is missing"),
        (alter_manifest, "it was altered, or not signed with key"),
        (alter_signature, "it was altered, or not signed with key"),
        (empty_manifest, "it was altered, or not signed with key"),
    ],
)
def test_every_change_ends_with_four_and_one_line(
    change, says: str, export: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(export)
    code, out, err = run_command(capsys, "check-signature", export, "--key", public(key))
    assert (code, out) == (4, "") and says in err and err.count("\n") == 1


def test_a_signature_by_another_key_is_reported(export: Path, tmp_path: Path) -> None:
    make_signing_keys(tmp_path / "other")
    with pytest.raises(IntegrityError, match="not signed with key"):
        check_signature(export, tmp_path / "other.pub")


def test_a_single_file_is_signed_too_and_may_move_with_its_signature(
    tmp_path: Path, key: Path
) -> None:
    report = tmp_path / "report.pdf"
    report.write_bytes(b"%PDF")
    sign(report, key)
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("report.pdf*"):
        shutil.move(path, tmp_path / "elsewhere")
    assert check_signature(tmp_path / "elsewhere" / "report.pdf", public(key)).files == 1


def test_other_programs_can_check_the_signature(export: Path, key: Path) -> None:
    manifest = export.with_name("export.sha256")
    subprocess.run(
        ["sha256sum", "--check", "--strict", manifest], cwd=export, check=True, capture_output=True
    )
    signature = manifest.with_name(f"{manifest.name}.sig")
    how: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-rawin",
        "-pubin",
        "-inkey",
        public(key),
        "-in",
        manifest,
        "-sigfile",
    ]
    subprocess.run([*how, signature], check=True, capture_output=True)


def test_only_its_owner_can_read_the_private_key(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_private_key_is_never_overwritten(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = key.read_bytes()
    code, _, err = run_command(capsys, "keygen", key)
    assert code == 2 and "it exists already" in err and key.read_bytes() == before


def test_a_public_key_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its private key may lie elsewhere. A dangling link counts as a file, too."""
    existing, linked = tmp_path / "kept.pub", tmp_path / "linked.pub"
    existing.write_text("of the other half")
    linked.symlink_to(tmp_path / "elsewhere")
    for public in (existing, linked):
        code, _, err = run_command(capsys, "keygen", public.with_suffix(""))
        assert code == 2 and f"{public}: it exists already" in err and err.count("\n") == 1
    assert existing.read_text() == "of the other half"
    assert sorted(tmp_path.iterdir()) == [existing, linked], "no private key without its public one"


def test_a_key_pair_is_created_completely_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "k" * 253  # with .pub it is longer than a name may be
    code, _, err = run_command(capsys, "keygen", tmp_path / name)
    assert code == 1 and "cannot be written" in err and not list(tmp_path.iterdir())


def test_what_cannot_be_signed_is_reported_in_one_line(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / DATABASE).touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "passwords").symlink_to("/etc/passwd")
    (tmp_path / "named" / "a\nb").mkdir(parents=True)
    (tmp_path / "named" / "a\nb" / "c").write_text("")
    (tmp_path / "text").write_text("no key")
    good = tmp_path / "text"
    for target, signing_key, says in (
        (tmp_path / "nowhere", key, "no such file or folder"),
        (tmp_path / "empty", key, "it holds no files"),
        (tmp_path / "linked", key, "a link"),
        (tmp_path / "named", key, "unprintable name"),
        (tmp_path / "case", key, "a case: it changes"),
        (good, good, "not a private key in PEM"),
        (good, public(key), "not a private key in PEM"),
        (good, tmp_path / "gone", "cannot be read"),
    ):
        code, _, err = run_command(capsys, "sign", target, "--key", signing_key)
        assert code == 2 and says in err and err.count("\n") == 1
    for target, checking_key, says in (
        (good, public(key), "no signature beside it"),
        (good, key, "a private key"),
    ):
        code, _, err = run_command(capsys, "check-signature", target, "--key", checking_key)
        assert code == 2 and says in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["keygen", "sign", "check-signature"])
def test_help_needs_no_cryptography(command: str) -> None:
    code = "import sys; sys.modules['cryptography'] = None; from fasr_video.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr
