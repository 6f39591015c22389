"""References of IDFSR for a track: its sharpest faces, or the photographs of a gallery subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fasr_video.case.case import Case
from fasr_video.case.tracks import Face, usable_tracks
from fasr_video.errors import UsageError
from fasr_video.gallery.encoder import References
from fasr_video.gallery.gallery import Gallery

# Least number of frames between any two references, and LR0: neighbouring frames show the same.
MIN_DISTANCE = 20
SETTING = "restore.subjects"


def sharpest(lr0: Face, others: Sequence[Face]) -> list[int]:
    """Return the indexes of the faces with the most detail, best first.

    All are far enough in time from LR0 and from each other.
    """
    order = sorted(range(len(others)), key=lambda i: -others[i].sharpness * others[i].eye_px)
    frames = [lr0.frame_index]
    chosen = []
    for i in order:
        if all(abs(others[i].frame_index - frame) >= MIN_DISTANCE for frame in frames):
            frames.append(others[i].frame_index)
            chosen.append(i)
    return chosen


def check_tracks(case: Case, names: Mapping[str, int], subjects: Mapping[str, str]) -> None:
    """Raise if `subjects` names a track that is not a usable one; `names` are those of all."""
    numbers = {track.id for track in usable_tracks(case)}
    usable_names = [name for name, track in names.items() if track in numbers]
    unknown = [name for name in subjects if name not in usable_names]
    if unknown:
        others = ", ".join(usable_names) or "none"
        reason = f"no usable track {unknown[0]} in this case, but {others}"
        raise UsageError(SETTING, reason, "name tracks as `fasr-video show` does")


def references_of_tracks(
    case: Case, names: Mapping[str, int], gallery: Gallery, subjects: Mapping[str, str]
) -> dict[int, References]:
    """Return the photographs of the subject that each named track is drawn from."""
    check_tracks(case, names, subjects)
    return {
        names[track]: references_of_subject(gallery, subject) for track, subject in subjects.items()
    }


def references_of_subject(gallery: Gallery, subject: str) -> References:
    """Return the photographs of a subject; raise if the gallery has no pictures of it."""
    pictures = []
    digests = []
    for image in gallery.images(gallery.subject(subject).id):
        face = gallery.face(image)
        if face is not None:
            pictures.append(face.picture)
            digests.append(image.sha256)
    if not pictures:
        remedy = f"add its photographs again without --no-pictures, or take it out of {SETTING}"
        raise UsageError(f"subject {subject}", "the gallery has no pictures of it", remedy)
    return References(tuple(pictures), tuple(digests), subject)
