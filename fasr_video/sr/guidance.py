"""Classifier guidance (SRDG): pictures are drawn towards attributes, by the slope of log C(c | x, sigma).

    score'(x, sigma) = score(x, sigma) + h Σ_a w_a ∇ₓ log C(c_a | x, sigma)
    D'(x, sigma)     = D(x, sigma) + h sigma² Σ_a w_a ∇ₓ log C(c_a | x, sigma)

with the confidences w_a. As a denoiser it acts in every step of every sampler, for each of them takes its score from D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fasr_video.errors import ModelError, UsageError
from fasr_video.files import sha256_file
from fasr_video.sr import checkpoints
from fasr_video.sr.attributes import YES, Attribute, AttributeClassifier, Classifiers
from fasr_video.sr.denoiser import Condition, Denoiser, ResidualDenoiser
from fasr_video.sr.sde import per_item
from fasr_video.weights.manifest import bundled

# h of the paper; its released code takes 500.
STRENGTH = 50.0
STRONGEST = 10_000.0

# (N×3×S×S with noise, N sigmas) → N: log C of what is wanted of each; differentiable in the
# pictures.
LogProbability = Callable[[Tensor, Tensor], Tensor]


class Guided(Denoiser):
    """A denoiser that is drawn to where log C is higher.

    sigma² ∇ log C is how far the expected picture moves once c is known. `bounded` leaves it at most one standard
    deviation of what is open at that noise level, in root mean square over the picture: as far as a yes or no at even
    odds can move a mean. Times h it would go further, which thousands of small steps make good and ten do not.
    """

    def __init__(
        self, denoiser: Denoiser, log_probability: LogProbability, strength: float, bounded: bool
    ) -> None:
        super().__init__()
        self._denoiser, self._log_probability = denoiser, log_probability
        self._strength, self._bounded = strength, bounded
        self.side, self.feature_length, self.network = (
            denoiser.side,
            denoiser.feature_length,
            denoiser.network,
        )
        self.sigma_min, self.sigma_max, self.band = (
            denoiser.sigma_min,
            denoiser.sigma_max,
            denoiser.band,
        )
        self.embedder, self.precision = denoiser.embedder, denoiser.precision

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        clean: Tensor = self._denoiser(x, sigma, condition)
        move = self._strength * per_item(sigma, x) ** 2 * self._slope(x, sigma)
        if self._bounded:
            room = open_spread(sigma, condition)
            length = move.flatten(1).square().mean(1).sqrt()
            move = move * per_item(room / length.maximum(room), move)
        return clean + move

    def _slope(self, x: Tensor, sigma: Tensor) -> Tensor:
        """∇ₓ log C; a picture's own, since no picture has a part in the others' C."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self._log_probability(x, sigma).sum(), x)[0]


def open_spread(sigma: Tensor, condition: Condition) -> Tensor:
    """N: the standard deviation of what a face under noise sigma leaves open, with or without an LR face beside it."""
    known = condition.lr.flatten(1).any(dim=1)
    data = torch.where(known, ResidualDenoiser.WITH_LR, ResidualDenoiser.WITHOUT_LR).to(sigma)
    return sigma * data / (sigma**2 + data**2).sqrt()


@dataclass(frozen=True, slots=True)
class Guidance:
    """What knows attributes, and how hard it draws."""

    classifiers: Classifiers
    strength: float = STRENGTH

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= STRONGEST:
            raise UsageError(
                f"guidance {self.strength:g}", "out of range", f"give 0 to {STRONGEST:g}"
            )

    def provenance(self) -> dict[str, object]:
        return {"guidance": self.strength, "classifier": self.classifiers.provenance}

    def guided(
        self, denoiser: Denoiser, rows: Sequence[Sequence[Attribute]], bounded: bool
    ) -> Denoiser:
        """The denoiser, drawn to each row's own attributes; the same one where nothing draws."""
        if self.strength == 0 or not any(rows):
            return denoiser
        wanted = [(part, *_wanted(part, rows)) for part in self.classifiers.parts]
        asked = [(part, classes, weights) for part, classes, weights in wanted if weights.any()]

        def log_probability(x: Tensor, sigma: Tensor) -> Tensor:
            total = x.new_zeros(len(x))
            for part, classes, weights in asked:
                # Beyond its training it is asked at the nearest level of it.
                logs = part.logs(x, sigma.clamp(part.sigma_min, part.sigma_max))
                total = total + (weights * logs.gather(2, classes[..., None])[..., 0]).sum(1)
            return total

        return Guided(denoiser, log_probability, self.strength, bounded)


def _wanted(
    part: AttributeClassifier, rows: Sequence[Sequence[Attribute]]
) -> tuple[Tensor, Tensor]:
    """N×A classes and N×A confidences, 0 where nothing is known; A are the classifier's attributes in its order."""
    classes = torch.zeros(len(rows), len(part.names), dtype=torch.long)
    weights = torch.zeros(len(rows), len(part.names))
    for i, attributes in enumerate(rows):
        for attribute in attributes:
            inner, yes = YES[attribute.name]
            if inner in part.names:
                k = part.names.index(inner)
                classes[i, k] = yes if attribute.value else 1 - yes
                weights[i, k] = attribute.confidence
    device = next(part.parameters()).device
    return classes.to(device), weights.to(device)


def open_guidance(files: Sequence[str], strength: float, device: torch.device) -> Guidance:
    """With the classifiers of these files, or with the bundled one.

    A file of ours says itself which attributes it knows; a published one is for one, and is given as NAME=FILE.
    """
    if not files:
        files = (str(bundled("attributes.safetensors")),)
    opened = [_open(text, device) for text in files]
    return Guidance(
        Classifiers(tuple(c for c, _ in opened), tuple(sha for _, sha in opened)), strength
    )


def _open(text: str, device: torch.device) -> tuple[AttributeClassifier, str]:
    classifier, path = open_classifier(text, device)
    return classifier.requires_grad_(False), sha256_file(path)


def open_classifier(
    text: str, device: torch.device | str = "cpu"
) -> tuple[AttributeClassifier, Path]:
    """The classifier of FILE (one of ours) or NAME=FILE (a published one, for that attribute), and the file."""
    name, equals, rest = text.partition("=")
    named = bool(equals) and not Path(text).is_file()
    if named and name not in YES:
        raise UsageError(
            f"classifier {text}",
            f"no attribute {name}: known are {', '.join(YES)}",
            "give NAME=FILE",
        )
    path = Path(rest if named else text)
    classifier = checkpoints.load_attribute_classifier(path, device, YES[name][0] if named else "")
    if named and classifier.names != (YES[name][0],):
        reason = f"it says itself what it knows: {', '.join(classifier.names)}"
        raise ModelError(path, reason, "give it without a name")
    if classifier.names == ("",):
        reason = "a published classifier does not say which attribute is its"
        raise ModelError(path, reason, f"give NAME={path}, with NAME one of {', '.join(YES)}")
    return classifier, path
