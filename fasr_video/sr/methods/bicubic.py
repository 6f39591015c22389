"""`bicubic`: the LR face enlarged, with nothing added."""

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
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        pairs = zip(faces, seeds, strict=True)
        return [enlarged(face, seed, unused_auxiliaries(NAME, face)) for face, seed in pairs]


def enlarged(face: FaceInput, seed: int, warnings: tuple[str, ...]) -> Restoration:
    """Return a face enlarged by bicubic interpolation, as a restoration."""
    return Restoration(
        *pictures_of(enlarge(as_tensor([face.lr0]), SIDE)),
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
