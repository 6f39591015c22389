"""`spandrel:FILE`: a third-party restorer, from a local checkpoint that spandrel can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fasr_video.errors import MissingExtra, ModelError
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.methods.method import Method, Options
from fasr_video.sr.restoration import SIDE, FaceInput, Restoration, pictures_of, unused_auxiliaries

PREFIX = "spandrel:"
# Side in pixels of the aligned faces that face-only networks take.
FACE_SIDE = 512


class ThirdParty:
    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            import spandrel
        except ImportError as error:
            raise MissingExtra("spandrel", "sr-zoo", f"method {PREFIX}FILE") from error
        self.name = f"{PREFIX}{path.name}"
        if not path.is_file():
            raise ModelError(path, "no such file", "check the path of the weights")
        self._sha256 = sha256_file(path)
        try:
            self._model = spandrel.ModelLoader(device).load_from_file(str(path)).eval()
        except Exception as error:  # each network of spandrel may fail in its own way
            reason = f"spandrel cannot read it ({error})"
            raise ModelError(path, reason, "give a checkpoint that spandrel lists") from error
        self._device = device

    def provenance(self) -> dict[str, object]:
        return {"method": self.name, "network": self._sha256}

    def restore_all(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        return [self._restore(face, seed) for face, seed in zip(faces, seeds, strict=True)]

    @torch.no_grad()
    def _restore(self, face: FaceInput, seed: int) -> Restoration:
        picture = as_tensor([face.lr0]).to(self._device)
        if str(self._model.purpose) == "FaceSR":
            picture = enlarge(picture, FACE_SIDE)
        out = self._model(picture).float().cpu()
        out = shrink(out, SIDE) if out.shape[-1] > SIDE else enlarge(out, SIDE)
        return Restoration(
            *pictures_of(out),
            method=self.name,
            sampler="",
            calls=1,
            seed=seed,
            model=self._sha256,
            feature="none",
            warnings=unused_auxiliaries(self.name, face),
        )


def _open(method: Method, options: Options) -> ThirdParty:
    return ThirdParty(Path(method.name.removeprefix(PREFIX)), options.device)


SPANDREL = Method(PREFIX, _open)
