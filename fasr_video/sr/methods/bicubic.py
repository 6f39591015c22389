"""`bicubic`: what is there, larger; nothing is added."""

from __future__ import annotations

from collections.abc import Sequence

from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.methods.method import Method, Options
from fasr_video.sr.restoration import SIDE, FaceInput, Restoration, pictures_of, unused_auxiliaries

NAME = "bicubic"


class Bicubic:
    name = NAME

    def provenance(self) -> dict[str, object]:
        return {"method": NAME}

    def restore_all(
        self, probes: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        pairs = zip(probes, seeds, strict=True)
        return [enlarged(probe, seed, unused_auxiliaries(NAME, probe)) for probe, seed in pairs]


def enlarged(probe: FaceInput, seed: int, warnings: tuple[str, ...]) -> Restoration:
    """Return the classical picture of a face."""
    return Restoration(
        *pictures_of(enlarge(as_tensor([probe.lr0]), SIDE)),
        method=NAME,
        sampler="",
        calls=0,
        seed=seed,
        model="",
        feature="none",
        warnings=warnings,
    )


def _open(method: Method, options: Options) -> Bicubic:
    return Bicubic()


BICUBIC = Method(NAME, _open)
