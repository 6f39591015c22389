"""C2PA manifests in exported pictures, signed with the examiner's certificate.

Other programs can check them. Nothing here uses a network: no time stamp, no remote manifest, no
revocation check. So no authority confirms the time of signing, and whoever checks a picture decides
whether to trust the certificate.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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

# Label of the assertion with the metadata of the PNG's own text: case, footage, frame, models. The
# label is part of the format. The value is JSON as text, because readers of C2PA show lists of
# numbers as bytes.
METADATA_LABEL = "fasr-video.facts"
PNG = "image/png"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_OFFLINE = {
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
        self,
        name: str,
        png: bytes,
        metadata: Mapping[str, object],
        drawn_from: tuple[str, bytes] | None,
    ) -> bytes:
        """Return the PNG with a manifest in it.

        `drawn_from` is the picture that a reconstruction was drawn from: name and bytes.
        """
        agent = {"name": "fasr-video", "version": __version__}
        action: dict[str, object] = {
            "action": "c2pa.created",
            "digitalSourceType": metadata["digital_source_type"],
            "softwareAgent": agent,
            "description": metadata["what"],
        }
        if drawn_from is not None:
            action["parameters"] = {"ingredientIds": ["lr0"]}
        manifest = {
            "claim_generator_info": [agent],
            "title": name,
            "format": PNG,
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [action]}},
                {"label": METADATA_LABEL, "data": {"json": json.dumps(metadata)}},
            ],
        }
        signed = io.BytesIO()
        # None: no time-stamp authority, so no request is sent.
        info = c2pa.C2paSignerInfo(self.algorithm, self.chain, self.key, None)
        with (
            c2pa.Context.from_dict(_OFFLINE) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), context) as builder,
        ):
            if drawn_from is not None:
                ingredient = {"title": drawn_from[0], "relationship": "inputTo", "label": "lr0"}
                builder.add_ingredient(json.dumps(ingredient), PNG, io.BytesIO(drawn_from[1]))
            builder.sign(signer, PNG, io.BytesIO(png), signed)
        return signed.getvalue()


def open_signatory(chain: Path, key: Path) -> Signatory:
    """Return the signatory of this chain and key.

    Raise where they cannot sign a manifest, which is tried on a picture of one pixel.
    """
    pem = read_pem(chain)
    secret = read_pem(key)
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise InputError(
            chain, "it holds no PEM certificate", "give the chain, the signing certificate first"
        ) from error
    private = read_any_private(key, "give the key of the certificate")
    der = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*der) != leaf.public_key().public_bytes(*der):
        raise InputError(
            key,
            f"not the key of the first certificate in {chain}",
            "give the key that belongs to this certificate",
        )
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        valid = f"{leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}"
        raise InputError(
            chain, f"its first certificate is valid from {valid}, not today", "give one valid today"
        )
    signatory = Signatory(pem, secret, _algorithm(private, key))
    try:
        signatory.sign("test", _one_pixel(), described(CAMERA, {}), None)
    except c2pa.C2paError as error:
        reason = f"C2PA does not accept it ({error})"
        remedy = (
            "give a chain whose first certificate may sign documents: not self-signed, with "
            "digitalSignature and a purpose such as emailProtection"
        )
        raise InputError(chain, reason, remedy) from error
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
        "C2PA does not support this kind of key",
        "give a key for P-256, P-384, P-521, Ed25519 or RSA",
    )


def _one_pixel() -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()
