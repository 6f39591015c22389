"""The pictures of a track as files that say where they are from, each with its facts in a file beside it.

Camera pictures lie in a case as they were cut, named by their own hash. What they are is written into them here, on
their way out; the compressed pixels stay the same bytes, so that a copy can be found by them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as Pictures

from fasr_video.case.case import Case
from fasr_video.case.document import frame_time, picture_origin, tracks
from fasr_video.case.results import encodings
from fasr_video.case.tracks import read_face, require_integer
from fasr_video.errors import CaseError
from fasr_video.files import atomic_write, atomic_write_text, inside
from fasr_video.provenance import BANNER, CAMERA, COVERED, described, with_note
from fasr_video.report.redact import without_bystanders
from fasr_video.sqlite import explain_errors

if TYPE_CHECKING:
    from fasr_video.custody.credentials import Signatory


@dataclass(frozen=True, slots=True)
class Exported:
    name: str
    """Of the file: the track, what it is, and the frame."""
    data: bytes
    facts: dict[str, object]


def export_pictures(
    case: Case, names: Collection[str], out: Path, redact: bool, signatory: Signatory | None = None
) -> list[Path]:
    """The pictures of these tracks, or of all, into a folder, and a JSON with the facts of each.

    With a signatory, each picture holds a C2PA manifest.
    """
    with case.snapshot():
        return _export(case, names, out, redact, signatory)


def _export(
    case: Case, names: Collection[str], out: Path, redact: bool, signatory: Signatory | None
) -> list[Path]:
    found = {t["name"]: t for t in tracks(case)}
    if strange := sorted(set(names) - found.keys()):
        reason = f"no such track, but {', '.join(found) or 'none'}"
        raise CaseError(strange[0], reason, "name tracks as `fasr-video show` does")
    written = []
    with explain_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in names or found:
            pictures = of_track(case, found[name], redact)
            for picture in pictures if signatory is None else _signed(pictures, signatory):
                written.append(inside(out, picture.name))
                _write(written[-1], picture)
    return written


def of_track(case: Case, track: dict[str, Any], redact: bool) -> Iterator[Exported]:
    """Its kept faces in the recording's own pixels, and what was drawn of them."""
    name, shown, made = track["name"], track["shown"], track["restoration"]
    for face in filter(None, (shown, *track["auxiliaries"])):
        if face["native"] is not None:
            yield _camera(case, track, face, redact)
    if made is not None:
        kinds = {"sr": made["picture"], "disagreement": made["spread"]}
        kinds |= {f"sample{k}": sample for k, sample in enumerate(made["samples"], 1)}
        drawn = {k: made[k] for k in made.keys() - {"what", "picture", "spread", "samples"}}
        frames = [frame_time(track, face) for face in (shown, *track["auxiliaries"])]
        made_with = encodings(case, track["id"])[track["id"]].provenance
        for kind, stored in kinds.items():
            if stored is not None:
                facts = (
                    picture_origin(case, track, stored)
                    | {"frames": frames, "made_with": made_with}
                    | drawn
                )
                yield _exported(
                    f"{name}-{kind}.png", case.picture_bytes(Path(stored).stem), BANNER, facts
                )


def _signed(pictures: Iterator[Exported], signatory: Signatory) -> Iterator[Exported]:
    """Each with its manifest; those of reconstructions hold LR0's, as what they were drawn from."""
    lr0: tuple[str, bytes] | None = None
    for picture in pictures:
        drawn = picture.facts["what"] == BANNER
        data = signatory.sign(picture.name, picture.data, picture.facts, lr0 if drawn else None)
        if picture.facts.get("face") == "lr0":
            lr0 = (picture.name, data)
        yield replace(picture, data=data)


def _camera(case: Case, track: dict[str, Any], face: dict[str, Any], redact: bool) -> Exported:
    facts = (
        picture_origin(case, track, face["native"])
        | frame_time(track, face)
        | {"box": face["box"], "face": face["reason"]}
    )
    name = f"{track['name']}-{face['reason']}-frame{require_integer(face['frame'])}.png"
    if not redact:
        return _exported(name, case.picture_bytes(Path(face["native"]).stem), CAMERA, facts)
    buffer = io.BytesIO()
    Pictures.fromarray(without_bystanders(case, read_face(case, face["face"]))).save(buffer, "PNG")
    return _exported(name, buffer.getvalue(), COVERED, facts)


def _exported(name: str, png: bytes, what: str, facts: dict[str, object]) -> Exported:
    return Exported(name, with_note(png, facts, what), described(what, facts))


def _write(path: Path, picture: Exported) -> None:
    atomic_write(path, lambda partial: partial.write_bytes(picture.data))
    facts = picture.facts | {"file": path.name, "sha256": hashlib.sha256(picture.data).hexdigest()}
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    atomic_write_text(path.with_suffix(".json"), text)
