"""Pictures with C2PA manifests: content, signer, and errors."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fasr_video.provenance import NOTE
from tests.support.cases import make_synthetic_case
from tests.support.commands import run_command

MISSING = importlib.util.find_spec("c2pa") is None
needs_c2pa = pytest.mark.skipif(
    MISSING, reason="c2pa-python is not installed: pip install 'fasr-video[c2pa]'"
)
if not MISSING:
    import c2pa
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    from PIL import Image as Pictures

KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Ed25519": lambda: Ed25519PrivateKey.generate(),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


def certificate(
    subject: str, key: Any, issuer: str, issuers: Any, *, ends_in: int = 9, usable: bool = True
) -> Any:
    """Return a certificate of `subject` by `issuer`; where both are equal, of an authority."""
    is_authority, at = subject == issuer, datetime.now(UTC)

    def distinguished_name(name: str) -> Any:
        given = ((NameOID.ORGANIZATION_NAME, "Laboratory"), (NameOID.COMMON_NAME, name))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in given])

    builder = x509.CertificateBuilder(
        distinguished_name(issuer),
        distinguished_name(subject),
        key.public_key(),
        x509.random_serial_number(),
    )
    builder = builder.not_valid_before(at - timedelta(days=9)).not_valid_after(
        at + timedelta(days=ends_in)
    )
    builder = builder.add_extension(x509.BasicConstraints(is_authority, None), True)
    usage = x509.KeyUsage(
        not is_authority, False, False, False, False, is_authority, is_authority, False, False
    )
    builder = builder.add_extension(usage, True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers.public_key()), False
    )
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    )
    if usable and not is_authority:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False
        )
    return builder.sign(
        issuers, None if isinstance(issuers, Ed25519PrivateKey) else hashes.SHA256()
    )


def write_chain(
    folder: Path, kind: str = "P-256", ends_in: int = 9, usable: bool = True
) -> tuple[Path, Path]:
    """Write a chain of two certificates and the key of the first."""
    is_authority, key = KEYS[kind](), KEYS[kind]()
    chain = [
        certificate("examiner", key, "house", is_authority, ends_in=ends_in, usable=usable),
        certificate("house", is_authority, "house", is_authority),
    ]
    files = folder / "chain.pem", folder / "key.pem"
    files[0].write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in chain))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files[1].chmod(0o600)
    return files


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic_case(tmp_path_factory.mktemp("made") / "case", 1)


def manifest(picture: Path) -> dict[str, Any]:
    """Return the active manifest of a file with a valid signature."""
    with c2pa.Reader("image/png", io.BytesIO(picture.read_bytes())) as reader:
        assert reader.get_validation_state() == "Valid" and reader.get_remote_url() is None
        found: dict[str, Any] = reader.get_active_manifest()
    return found


def assertion(stored: dict[str, Any], label: str) -> Any:
    (data,) = [a["data"] for a in stored["assertions"] if a["label"].startswith(label)]
    return data


def metadata(stored: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(assertion(stored, "fasr-video.facts")["json"])
    return found


@needs_c2pa
@pytest.mark.parametrize("kind", KEYS)
def test_each_picture_holds_a_manifest_with_the_same_metadata_as_its_text(
    case: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, key = write_chain(tmp_path, kind)
    out = tmp_path / "out"
    code, _, err = run_command(
        capsys, "pictures", case, "--out", out, "--c2pa-cert", chain, "--c2pa-key", key
    )
    assert code == 0, err
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) > 3
    for picture in pictures:
        stored, own = manifest(picture), json.loads(Pictures.open(picture).info[NOTE])
        (action,) = assertion(stored, "c2pa.actions")["actions"]
        assert action["digitalSourceType"] == own["digital_source_type"]
        assert metadata(stored) == own, "case, footage, frame, and the hashes of models"
        assert (
            stored["signature_info"]["common_name"] == "examiner"
            and stored["signature_info"].get("time") is None
        )


@needs_c2pa
def test_a_reconstruction_names_the_camera_picture_that_it_was_drawn_from(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, key = write_chain(tmp_path)
    run_command(
        capsys, "pictures", case, "--out", tmp_path / "out", "--c2pa-cert", chain, "--c2pa-key", key
    )
    stored = manifest(tmp_path / "out" / "T1-sr.png")
    (source,) = stored["ingredients"]
    assert source["relationship"] == "inputTo" and source["title"].startswith("T1-lr0-frame")
    (action,) = assertion(stored, "c2pa.actions")["actions"]
    assert action["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert metadata(stored)["made_with"]["restorer"]["network"] == "9" * 64


@needs_c2pa
def test_a_changed_picture_fails_the_signature_check(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, key = write_chain(tmp_path)
    run_command(
        capsys, "pictures", case, "--out", tmp_path / "out", "--c2pa-cert", chain, "--c2pa-key", key
    )
    data = bytearray((tmp_path / "out" / "T1-sr.png").read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    with c2pa.Reader("image/png", io.BytesIO(bytes(data))) as reader:
        assert reader.get_validation_state() == "Invalid"


@needs_c2pa
def test_an_unusable_certificate_or_key_is_one_line_and_writes_nothing(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("good", "other", "old", "no_purpose", "text")}
    for folder in folders.values():
        folder.mkdir()
    good, other = write_chain(folders["good"]), write_chain(folders["other"])
    old, no_purpose = (
        write_chain(folders["old"], ends_in=-1),
        write_chain(folders["no_purpose"], usable=False),
    )
    text = folders["text"] / "note.pem"
    text.write_text("no certificate")
    text.chmod(0o600)
    is_authority = folders["good"] / "house.pem"
    is_authority.write_bytes(
        b"-----BEGIN CERTIFICATE" + good[0].read_bytes().split(b"-----BEGIN CERTIFICATE")[2]
    )
    for chain, key, why in (
        (good[0], other[1], "not the key of the first certificate"),
        (is_authority, good[1], "not the key of the first certificate"),
        (*old, "not today"),
        (*no_purpose, "C2PA does not accept it"),
        (text, good[1], "it holds no PEM certificate"),
        (good[0], text, "not a private key in PEM"),
        (tmp_path / "none.pem", good[1], "cannot be read"),
    ):
        out = tmp_path / "out"
        code, _, err = run_command(
            capsys, "pictures", case, "--out", out, "--c2pa-cert", chain, "--c2pa-key", key
        )
        assert code == 2 and why in err and len(err.splitlines()) == 1, err
        assert not out.exists()


def test_certificate_and_key_must_be_given_together(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(
        capsys, "pictures", case, "--out", tmp_path / "out", "--c2pa-cert", tmp_path / "chain.pem"
    )
    assert code == 2 and "a manifest needs both" in err and not (tmp_path / "out").exists()


def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    case: Path, tmp_path: Path
) -> None:
    """Run in a process where the package cannot be imported, even if it is installed."""
    code = "import sys; sys.modules['c2pa'] = None; from fasr_video.cli import main; main()"
    options = (
        "--out",
        tmp_path / "out",
        "--c2pa-cert",
        tmp_path / "chain.pem",
        "--c2pa-key",
        tmp_path / "key.pem",
    )
    command = [sys.executable, "-c", code, "pictures", case, *options]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=100)
    assert result.returncode == 2 and "pip install 'fasr-video[c2pa]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()
