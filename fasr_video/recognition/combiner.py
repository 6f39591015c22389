"""One identity feature of several features of a face: FASR++'s Feature Combiner, and averages.

All take K×D features and return a unit vector of length D. For K = 0 it is the zero vector, which
means 'no feature' to the super-resolution networks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.checkpoint import check_contract, load_state, read_metadata
from fasr_video.errors import ModelError, SettingsError, UsageError
from fasr_video.files import atomic_write

FORMAT = "fasr-video/combiner/1"
LENGTH = 512
ETA = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """The embedder that made the features, if it is known. Features of others do not fit."""

    embedder: str = ""
    sha256: str = ""


UNKNOWN = Source()


class FeatureCombiner(nn.Module):
    """FASR++'s Feature Combiner: the mean of a pair and a learned correction, normalised.

    F = (F1 + F2) / 2 + eta · delta([F1, F2]). The order within a pair matters, unless eta is 0.
    """

    margin: float | None
    """Margin of the triplet loss of its training; None if that is not known."""

    def __init__(
        self,
        length: int = LENGTH,
        eta: float = ETA,
        source: Source = UNKNOWN,
        margin: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= eta <= 1:
            raise SettingsError(
                f"eta {eta}", "outside 0-1", "give the weight of the learned correction, 0 to 1"
            )
        self.length = length
        self.eta = eta
        self.source = source
        self.margin = margin
        last = nn.Linear(512, length)
        # The correction starts at zero, and the combiner as the mean of the pair. With random
        # weights the correction would be about ten times as long as the mean, and the margin would
        # not fit the distances that training starts with.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.delta = nn.Sequential(*_layer(2 * length, 1024), *_layer(1024, 512), last)

    def pair(self, first: Tensor, second: Tensor) -> Tensor:
        """Combine N×D and N×D row by row to N×D."""
        first = unit_rows(first, self.length)
        second = unit_rows(second, self.length)
        correction = self.delta(torch.cat((first, second), 1))
        return F.normalize((first + second) / 2 + self.eta * correction, dim=1)

    forward = pair

    @torch.no_grad()
    def combine(self, features: Tensor) -> Tensor:
        """Combine K×D to D: the mean of the pairs (1, 2), (3, 4), … and an odd last feature.

        It always computes in eval mode. The order of the pairs does not matter, but which features
        form a pair does.
        """
        features = unit_rows(features, self.length)
        paired = len(features) // 2 * 2
        training = self.training
        self.eval()
        pairs = self.pair(features[0:paired:2], features[1:paired:2])
        self.train(training)
        return F.normalize(torch.cat((pairs, features[paired:])).sum(0), dim=0)


def shares(count: int, paired: bool) -> list[float]:
    """Return the weight of each feature in `combine` (paired) or in `mean`.

    The learned correction is left out, because it cannot be attributed to single features.
    """
    if not paired:
        return [1 / count] * count
    units = (count + 1) // 2  # a pair and an odd last feature have the same weight
    return [0.5 / units] * (count // 2 * 2) + [1 / units] * (count % 2)


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.2)


def mean(features: Tensor) -> Tensor:
    return F.normalize(unit_rows(features).sum(0), dim=0)


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Return the mean by K weights ≥ 0, such as the faces' quality; the plain mean if all are 0."""
    features = unit_rows(features)
    weights = weights.to(features)
    if weights.shape != features.shape[:1] or not bool(((weights >= 0) & weights.isfinite()).all()):
        reason = f"they have to be {len(features)} numbers that are 0 or more"
        raise UsageError("weights of the features", reason, "give one for each feature")
    if not weights.any():
        return mean(features)
    # Divided by the largest one: the squares of very small weights would be 0 in the norm.
    return F.normalize(weights / weights.max() @ features, dim=0)


def robust_mean(features: Tensor) -> Tensor:
    """Return the geometric median on the sphere: the unit vector closest to all features.

    It minimises the sum of distances, not of squares as the mean does, so each feature has the same
    influence, and fewer than half of them cannot move it far. It needs no threshold for outliers,
    which would have to differ between sharp and blurred faces. The method is Weiszfeld's iteration
    (1937), each step of which lowers the sum.
    """
    features = unit_rows(features)
    median = mean(features)
    for _ in range(50):
        distance = (features - median).norm(dim=1).clamp_min(1e-6)
        median = mean((features / distance[:, None]).sum(0, keepdim=True))
    return median


def unit_rows(features: Tensor, length: int | None = None) -> Tensor:
    """Return K×D features in float32, each of unit length; with `length`, D has to be that."""
    if features.ndim != 2 or (length is not None and features.shape[1] != length):
        expected = "K×D" if length is None else f"K×{length}"
        reason = f"{expected} needed, not {'×'.join(map(str, features.shape))}"
        remedy = "give one row for each face, from the embedder that these weights were made for"
        raise UsageError("features", reason, remedy)
    features = features.float()
    if not bool(features.isfinite().all()):
        rows = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
        reason = f"{len(rows)} of {len(features)} are not finite, row {rows[0]} is the first"
        raise UsageError("features", reason, "leave those faces out")
    return F.normalize(features, dim=1)


def save(combiner: FeatureCombiner, path: Path) -> None:
    """Write the weights in float16, with eta, length, margin and embedder in the header."""
    tensors = {
        k: (v.half() if v.is_floating_point() else v).cpu()
        for k, v in combiner.state_dict().items()
    }
    header = {
        "format": FORMAT,
        "eta": combiner.eta,
        "length": combiner.length,
        "margin": combiner.margin,
        "source": asdict(combiner.source),
    }
    # A single entry: safetensors writes several in random order, and the file's hash would change.
    atomic_write(path, lambda partial: save_file(tensors, partial, {"header": json.dumps(header)}))


def fingerprint(combiner: FeatureCombiner) -> str:
    """Return a hash of eta, the embedder and the weights in float32."""
    digest = hashlib.sha256(f"{combiner.eta} {combiner.source.sha256}".encode())
    for name, value in sorted(combiner.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def load_combiner(path: Path) -> FeatureCombiner:
    header = _read_header(path)
    try:
        margin = header.get("margin")
        combiner = FeatureCombiner(
            int(header["length"]),
            float(header["eta"]),
            Source(**header["source"]),
            None if margin is None else float(margin),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, SettingsError) as error:
        raise ModelError(
            path, f"its header is damaged ({error})", "copy or download it again"
        ) from error
    load_state(combiner, path)
    return combiner.eval()


def read_eta(path: Path) -> float:
    """Return the eta that the Feature Combiner in this file was trained with."""
    return load_combiner(path).eta


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    check_contract(path, FORMAT)
    try:
        header = json.loads(read_metadata(path).get("header", "{}"))
    except ValueError as error:
        raise ModelError(
            path, f"its header is damaged ({error})", "copy or download it again"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelError(
            path,
            "its header does not name a Feature Combiner",
            "give weights that `train combiner` wrote",
        )
    return header
