"""C2PA manifests in exported pictures, signed with a certificate of the examiner's house, for other programs to check.

Nothing is asked of any network: no time stamp, no remote manifest, no state of the certificate. So the time of signing
is nobody's word, and whether the certificate is to be trusted is for the one who checks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image as Pictures

from fasr_video import __version__
from fasr_video.custody.keys import read_any_private, read_pem
from fasr_video.errors import InputError, MissingExtra
from fasr_video.provenance import CAMERA, described

try:
    import c2pa
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError as missing:
    raise MissingExtra("c2pa-python", "c2pa", "--c2pa-cert") from missing

# Label of the assertion that holds what the PNG's own text says: case, footage, frame, models. As
# text: readers of the format show lists of numbers within it as bytes.
FACTS = "fasr-video.facts"
PNG = "image/png"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_ALONE = {
    "verify": {
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
        "verify_trust": False,
        "verify_after_sign": True,
    },
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True, slots=True)
class Signatory:
    """A certificate chain, the leaf first, with the key of the leaf: both as PEM."""

    chain: bytes
    key: bytes
    algorithm: str

    def sign(
        self, name: str, png: bytes, facts: Mapping[str, Any], made_from: tuple[str, bytes] | None
    ) -> bytes:
        """The PNG with a manifest in it; `made_from` is the picture, with its name, that it was drawn from."""
        agent = {"name": "fasr-video", "version": __version__}
        action: dict[str, Any] = {
            "action": "c2pa.created",
            "digitalSourceType": facts["digital_source_type"],
            "softwareAgent": agent,
            "description": facts["what"],
        }
        if made_from is not None:
            action["parameters"] = {"ingredientIds": ["lr0"]}
        manifest = {
            "claim_generator_info": [agent],
            "title": name,
            "format": PNG,
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [action]}},
                {"label": FACTS, "data": {"json": json.dumps(facts)}},
            ],
        }
        signed = io.BytesIO()
        # Without a time-stamp authority (the last of these): nobody is called.
        info = c2pa.C2paSignerInfo(self.algorithm, self.chain, self.key, None)
        with (
            c2pa.Context.from_dict(_ALONE) as alone,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), alone) as builder,
        ):
            if made_from is not None:
                told = {"title": made_from[0], "relationship": "inputTo", "label": "lr0"}
                builder.add_ingredient(json.dumps(told), PNG, io.BytesIO(made_from[1]))
            builder.sign(signer, PNG, io.BytesIO(png), signed)
        return signed.getvalue()


def open_signatory(chain: Path, key: Path) -> Signatory:
    """Raise unless a manifest can be signed with these, which is tried on a picture of one pixel."""
    pem, secret = read_pem(chain), read_pem(key)
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise InputError(
            chain, "no certificates in PEM", "give the chain, the signing certificate first"
        ) from error
    private = read_any_private(key, "give the key of the certificate")
    der = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*der) != leaf.public_key().public_bytes(*der):
        raise InputError(
            key,
            f"not the key of the first certificate in {chain}",
            "give the two that belong together",
        )
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        valid = f"{leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}"
        raise InputError(
            chain, f"its first certificate is valid from {valid}, not today", "give one that is"
        )
    signatory = Signatory(pem, secret, _algorithm(private, key))
    try:
        signatory.sign("trial", _one_pixel(), described(CAMERA, {}), None)
    except c2pa.C2paError as error:
        reason = f"C2PA does not accept it ({error})"
        remedy = "give a chain whose first certificate may sign documents: not self-signed, digitalSignature, and a "
        raise InputError(chain, reason, remedy + "purpose such as emailProtection") from error
    return signatory


def _algorithm(key: object, path: Path) -> str:
    if isinstance(key, Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, RSAPrivateKey):
        return "ps256"
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    raise InputError(
        path,
        "not a kind of key that C2PA knows",
        "give one for P-256, P-384, P-521, Ed25519 or RSA",
    )


def _one_pixel() -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()
