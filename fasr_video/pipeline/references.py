"""What IDFSR draws a track from: its own sharpest faces, or the photographs of a subject of the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fasr_video.case.case import Case
from fasr_video.case.tracks import Face, usable_tracks
from fasr_video.errors import UsageError
from fasr_video.gallery.encoder import References
from fasr_video.gallery.gallery import Gallery

# Frames between any two references, LR0 among them: neighbours show the same.
APART = 20
SETTING = "restore.subjects"


def sharpest(lr0: Face, others: Sequence[Face]) -> list[int]:
    """Places of the faces to draw from, the one with the most detail first; far enough from LR0 and each other."""
    order = sorted(range(len(others)), key=lambda i: -others[i].sharpness * others[i].eye_px)
    frames, chosen = [lr0.frame_index], []
    for i in order:
        if all(abs(others[i].frame_index - frame) >= APART for frame in frames):
            frames.append(others[i].frame_index)
            chosen.append(i)
    return chosen


def check_tracks(case: Case, names: Mapping[str, int], subjects: Mapping[str, str]) -> None:
    """Raise where one that is to be drawn from photographs is no usable track. `names` are those of all tracks."""
    numbers = {track.id for track in usable_tracks(case)}
    known = [name for name, track in names.items() if track in numbers]
    strange = [name for name in subjects if name not in known]
    if strange:
        reason = f"no usable track {strange[0]} in this case, but {', '.join(known) or 'none'}"
        raise UsageError(SETTING, reason, "name tracks as `fasr-video show` does")


def of_tracks(
    case: Case, names: Mapping[str, int], gallery: Gallery, subjects: Mapping[str, str]
) -> dict[int, References]:
    """By track: the photographs of the subject that it is to be drawn from."""
    check_tracks(case, names, subjects)
    return {names[track]: of_subject(gallery, subject) for track, subject in subjects.items()}


def of_subject(gallery: Gallery, subject: str) -> References:
    """The photographs of a subject whose pictures the gallery keeps."""
    images = gallery.images(gallery.subject(subject).id)
    kept = [
        (image.sha256, face.picture)
        for image in images
        if (face := gallery.face(image)) is not None
    ]
    if not kept:
        remedy = f"add its photographs again without --no-pictures, or take it out of {SETTING}"
        raise UsageError(f"subject {subject}", "the gallery keeps no picture of it", remedy)
    return References(tuple(face for _, face in kept), tuple(sha256 for sha256, _ in kept), subject)
