"""Faces of sizes that a network was not trained on are enlarged, not drawn, with a warning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fasr_video.errors import UsageError
from fasr_video.sr.methods.bicubic import enlarged
from fasr_video.sr.restoration import FaceInput, Restoration

# Returns one restoration a face, drawn with these seeds.
Draw = Callable[[Sequence[FaceInput], Sequence[int]], list[Restoration]]


# Smallest and largest side of the LR faces that a network was trained on.
Band = tuple[int, int]


def draw_within(
    band: Band | None, faces: Sequence[FaceInput], seeds: Sequence[int], draw: Draw
) -> list[Restoration]:
    """Return restorations: drawn for faces within the band, enlarged for the others.

    All are drawn if the band is not known.
    """
    warnings = [None if band is None else outside(band, face) for face in faces]
    inside = [k for k, warning in enumerate(warnings) if warning is None]
    drawn = iter(draw([faces[k] for k in inside], [seeds[k] for k in inside]) if inside else ())
    restorations = []
    for face, seed, warning in zip(faces, seeds, warnings, strict=True):
        restorations.append(next(drawn) if warning is None else enlarged(face, seed, (warning,)))
    return restorations


def outside(band: Band, face: FaceInput) -> str | None:
    """Return why a network trained on these sizes does not draw a face; None if it does."""
    smallest, largest = band
    side = len(face.lr0)
    if not face.lr_known or smallest <= side <= largest:
        return None
    return (
        f"nothing is reconstructed: the face has {side} px, "
        f"and the network was trained on {sizes(band)}"
    )


def sizes(band: Band) -> str:
    """Return a band in words."""
    smallest, largest = band
    return f"{smallest} px" if smallest == largest else f"{smallest} to {largest} px"


def check_lr_face(name: str, faces: Sequence[FaceInput]) -> None:
    """Raise UsageError for a face without an LR picture."""
    if not all(face.lr_known for face in faces):
        raise UsageError("feature-only", f"method {name} needs the LR face", "use fasr++ or fasr")
