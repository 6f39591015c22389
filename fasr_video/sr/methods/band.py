"""Faces of sizes that a network was not trained on: nothing is drawn, and one sentence says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fasr_video.errors import UsageError
from fasr_video.sr.methods.bicubic import enlarged
from fasr_video.sr.restoration import FaceInput, Restoration

# One answer a probe, by these seeds.
Draw = Callable[[Sequence[FaceInput], Sequence[int]], list[Restoration]]


# Smallest and largest side of the LR faces that a network was trained on.
Band = tuple[int, int]


def draw_within(
    band: Band | None, probes: Sequence[FaceInput], seeds: Sequence[int], draw: Draw
) -> list[Restoration]:
    """Draw the faces of sizes within the band; the classical picture stands for each other one.

    All are drawn where the band is not known.
    """
    reasons = [None if band is None else outside(band, probe) for probe in probes]
    inside = [k for k, reason in enumerate(reasons) if reason is None]
    drawn = iter(draw([probes[k] for k in inside], [seeds[k] for k in inside]) if inside else ())
    answers = []
    for probe, seed, reason in zip(probes, seeds, reasons, strict=True):
        answers.append(next(drawn) if reason is None else enlarged(probe, seed, (reason,)))
    return answers


def outside(band: Band, probe: FaceInput) -> str | None:
    """Return why a face is not drawn by a network trained on these sizes; None where it is."""
    (smallest, largest), side = band, len(probe.lr0)
    if not probe.lr_known or smallest <= side <= largest:
        return None
    return f"nothing is reconstructed: the face has {side} px, and the network was trained on {sizes(band)}"


def sizes(band: Band) -> str:
    """Return the sizes in words."""
    smallest, largest = band
    return f"{smallest} px" if smallest == largest else f"{smallest} to {largest} px"


def check_lr_face(name: str, probes: Sequence[FaceInput]) -> None:
    """Refuse to draw from a feature alone."""
    if not all(probe.lr_known for probe in probes):
        raise UsageError("feature-only", f"method {name} needs the LR face", "use fasr++ or fasr")
