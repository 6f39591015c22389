"""Provenance in picture files: where a picture is from, and whether a camera or a network made it.

A PNG states it three times: as a line for people (`Description`), as facts in JSON (`fasr-video`),
and as IPTC's digital source type in XMP, which other programs read.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping

from PIL.PngImagePlugin import PngInfo

from fasr_video import __version__
from fasr_video.pictures import MOST_OF_A_PHOTOGRAPH, opened

# The name of the PNG text chunk with the facts.
NOTE = "fasr-video"
BANNER = "SYNTHETIC RECONSTRUCTION · lead only, not for comparison"
CAMERA = "CAMERA PICTURE · the recording's own pixels"
COVERED = "CAMERA PICTURE · the recording's own pixels, other people's faces pixelated"
PROCESSED = (
    "CAMERA PICTURE · aligned, scaled or averaged by classical means; "
    "nothing in it was learned or drawn"
)

_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# IPTC's term for each kind of picture.
SOURCE_TYPES = {
    BANNER: f"{_TERMS}compositeWithTrainedAlgorithmicMedia",
    CAMERA: f"{_TERMS}digitalCapture",
    COVERED: f"{_TERMS}algorithmicallyEnhanced",
    PROCESSED: f"{_TERMS}algorithmicallyEnhanced",
}

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' Iptc4xmpExt:DigitalSourceType="{term}"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


def described(what: str, facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts, after what the picture is and which version of fasr-video wrote them."""
    return {
        "what": what,
        "digital_source_type": SOURCE_TYPES[what],
        "version": __version__,
        **facts,
    }


def png_note(facts: Mapping[str, object], what: str = BANNER) -> PngInfo:
    """Return the text chunks for a PNG that is about to be written, by default a reconstruction."""
    note = PngInfo()
    note.add_text("Description", what)
    note.add_itxt(NOTE, json.dumps(described(what, facts)))
    note.add_itxt("XML:com.adobe.xmp", xmp(what))
    return note


def xmp(what: str) -> str:
    """Return the XMP packet that says what the picture is, for formats without further notes."""
    return _XMP.format(term=SOURCE_TYPES[what])


def with_note(png: bytes, facts: Mapping[str, object], what: str) -> bytes:
    """Return a PNG file with new text chunks in place of the old ones; the pixel data is kept."""
    header, *others = ((kind, data) for kind, data in _chunks(png) if kind not in _TEXTS)
    notes = [(kind, data) for kind, data, *_ in png_note(facts, what).chunks]
    chunks = (header, *notes, *others)
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def is_synthetic(png: bytes) -> bool:
    """Return whether a picture file says that this program drew it."""
    with opened(png, MOST_OF_A_PHOTOGRAPH) as picture:
        description = picture.info.get("Description")
        return NOTE in picture.info and description not in {CAMERA, COVERED, PROCESSED}


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the data of each chunk of a PNG file."""
    offset = len(_SIGNATURE)
    while offset < len(png):
        length, kind = struct.unpack_from(">I4s", png, offset)
        yield kind, png[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
