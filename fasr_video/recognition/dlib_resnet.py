"""dlib's recogniser (King 2017): a network of 29 layers, trained by its author on faces that nothing here has seen."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.errors import MissingExtra, ModelError, UsageError
from fasr_video.files import sha256_file
from fasr_video.recognition.align import canonical_to_dlib

BATCH = 32
LENGTH = 128
DATA_PACKAGE = "face_recognition_models"
FILE = "dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
"""Of that file, the only one that there is of this network; MEAN belongs to it."""
# fmt: off
MEAN = (0.0,) * 128
# fmt: on
"""The mean vector of 600 CelebA training people. dlib compares by Euclidean distance, so all its vectors may lie on one
side of the origin: without this, the cosine of two strangers would be 0.83, and with it, it is 0."""


class DlibEmbedder:
    length = LENGTH
    licence = "public domain (CC0), by its author"

    def __init__(self, weights: Path | None, device: str) -> None:
        """Open these weights; without any, those of the package of data files."""
        try:
            import dlib
        except ImportError as error:
            raise MissingExtra("dlib-bin", "dlib", "the embedder dlib") from error
        if device != "cpu":
            raise UsageError(f"device {device}", "the embedder dlib computes on the CPU only", "use device cpu")
        file = _installed() if weights is None else weights
        if not file.is_file():
            raise ModelError(file, "no such file", f"give {FILE}, or leave it out")
        self.sha256 = sha256_file(file)
        if self.sha256 != SHA256:
            reason = f"not dlib's {FILE}: its SHA-256 is {self.sha256[:12]}…, not {SHA256[:12]}…"
            raise ModelError(file, reason, "copy or install it again")
        self.name = "dlib resnet_v1"
        self.device = torch.device(device)
        self._mean = torch.tensor(MEAN)
        self._net = dlib.face_recognition_model_v1(str(file))

    def embed(self, faces: Tensor, marks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors = [torch.zeros(0, LENGTH)]
        for start in range(0, len(faces), BATCH):
            rows = slice(start, start + BATCH)
            chips = canonical_to_dlib(faces[rows].to(self.device), None if marks is None else marks[rows])
            pictures = (chips.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            found = np.array(self._net.compute_face_descriptor(list(pictures)), np.float32)
            vectors.append(torch.from_numpy(found) - self._mean)
        centred = torch.cat(vectors)
        return F.normalize(centred, dim=1), centred.norm(dim=1)


def _installed() -> Path:
    """Return where the package of data files has the weights; importing it would need pkg_resources."""
    package = importlib.util.find_spec(DATA_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise MissingExtra(DATA_PACKAGE, "dlib", "the embedder dlib")
    return Path(package.submodule_search_locations[0]) / "models" / FILE
