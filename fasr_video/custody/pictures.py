"""A track's pictures as files that say where they come from, each with its metadata beside it.

A case keeps camera pictures as they were cut, named by their hash. The metadata is written into
them here, on export. The compressed pixels stay the same bytes, so that copies can be found.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as Pictures

from fasr_video.case.case import Case
from fasr_video.case.document import frame_time, picture_origin, tracks
from fasr_video.case.entries import FaceEntry, RestorationEntry, TrackEntry
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
class ExportedPicture:
    name: str
    """File name: the track, the kind of picture, and the frame."""
    data: bytes
    metadata: dict[str, object]


def export_pictures(
    case: Case,
    names: Collection[str],
    out: Path,
    redact: bool,
    *,
    signatory: Signatory | None = None,
) -> list[Path]:
    """Write the pictures of these tracks, or of all, and a JSON with the metadata of each.

    Return the paths of the pictures. With a signatory, each picture holds a C2PA manifest.
    """
    with case.snapshot():
        return _export(case, names, out, redact, signatory=signatory)


def _export(
    case: Case, names: Collection[str], out: Path, redact: bool, *, signatory: Signatory | None
) -> list[Path]:
    by_name = {track.name: track for track in tracks(case)}
    unknown = sorted(set(names) - by_name.keys())
    if unknown:
        reason = f"no such track; the case has {', '.join(by_name) or 'none'}"
        raise CaseError(unknown[0], reason, "name tracks as `fasr-video show` does")
    written = []
    with explain_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in names or by_name:
            pictures = pictures_of_track(case, by_name[name], redact)
            if signatory is not None:
                pictures = _signed(pictures, signatory)
            for picture in pictures:
                path = inside(out, picture.name)
                _write(path, picture)
                written.append(path)
    return written


def pictures_of_track(case: Case, track: TrackEntry, redact: bool) -> Iterator[ExportedPicture]:
    """Yield the track's faces in the recording's own pixels, then its reconstructions."""
    for face in track.kept_faces:
        if face.native is not None:
            yield _camera_picture(case, track, face, face.native, redact=redact)
    if track.restoration is not None:
        yield from _reconstructions(case, track, track.restoration)


def _reconstructions(
    case: Case, track: TrackEntry, restoration: RestorationEntry
) -> Iterator[ExportedPicture]:
    stored_pictures = {"sr": restoration.picture, "disagreement": restoration.spread}
    for number, sample in enumerate(restoration.samples, 1):
        stored_pictures[f"sample{number}"] = sample
    left_out = {"what", "picture", "spread", "samples"}
    settings = {key: value for key, value in asdict(restoration).items() if key not in left_out}
    frames = [frame_time(track, face) for face in track.kept_faces]
    made_with = encodings(case, track.id)[track.id].provenance
    for kind, stored in stored_pictures.items():
        if stored is None:
            continue
        metadata = picture_origin(case, track, stored) | {"frames": frames, "made_with": made_with}
        png = case.picture_bytes(Path(stored).stem)
        yield _exported(f"{track.name}-{kind}.png", png, BANNER, metadata | settings)


def _signed(pictures: Iterator[ExportedPicture], signatory: Signatory) -> Iterator[ExportedPicture]:
    """Yield each picture with a manifest. A reconstruction's manifest names LR0 as its source."""
    lr0: tuple[str, bytes] | None = None
    for picture in pictures:
        is_reconstruction = picture.metadata["what"] == BANNER
        drawn_from = lr0 if is_reconstruction else None
        data = signatory.sign(picture.name, picture.data, picture.metadata, drawn_from)
        if picture.metadata.get("face") == "lr0":
            lr0 = (picture.name, data)
        yield replace(picture, data=data)


def _camera_picture(
    case: Case, track: TrackEntry, face: FaceEntry, native: str, *, redact: bool
) -> ExportedPicture:
    metadata = picture_origin(case, track, native) | frame_time(track, face)
    metadata |= {"box": face.box, "face": face.reason}
    name = f"{track.name}-{face.reason}-frame{require_integer(face.frame)}.png"
    if not redact:
        return _exported(name, case.picture_bytes(Path(native).stem), CAMERA, metadata)
    buffer = io.BytesIO()
    Pictures.fromarray(without_bystanders(case, read_face(case, face.face))).save(buffer, "PNG")
    return _exported(name, buffer.getvalue(), COVERED, metadata)


def _exported(name: str, png: bytes, what: str, metadata: dict[str, object]) -> ExportedPicture:
    return ExportedPicture(name, with_note(png, metadata, what), described(what, metadata))


def _write(path: Path, picture: ExportedPicture) -> None:
    atomic_write(path, lambda partial: partial.write_bytes(picture.data))
    sha256 = hashlib.sha256(picture.data).hexdigest()
    metadata = picture.metadata | {"file": path.name, "sha256": sha256}
    text = json.dumps(metadata, indent=2, ensure_ascii=False)
    atomic_write_text(path.with_suffix(".json"), text)
