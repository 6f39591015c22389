"""Classifier guidance (SRDG): the gradient of log C(c | x, sigma) moves pictures towards
attributes.

    score'(x, sigma) = score(x, sigma) + h Σ_a w_a ∇ₓ log C(c_a | x, sigma)
    D'(x, sigma)     = D(x, sigma) + h sigma² Σ_a w_a ∇ₓ log C(c_a | x, sigma)

with the confidences w_a. A guided denoiser works with every sampler, since all take their score
from D.
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

# (N×3×S×S with noise, N sigmas) → N: log C of the wanted attributes of each picture,
# differentiable in the pictures.
LogProbability = Callable[[Tensor, Tensor], Tensor]


class Guided(Denoiser):
    """A denoiser that moves its output to where log C is higher.

    Knowing c moves the expected picture by sigma² ∇ log C. `bounded` limits the move (its root mean
    square over the picture) to one standard deviation of the face at that noise level: no yes or no
    at even odds moves a mean further. Times h, the move would go further; thousands of small steps
    correct that, ten steps do not.
    """

    def __init__(
        self, denoiser: Denoiser, log_probability: LogProbability, strength: float, bounded: bool
    ) -> None:
        super().__init__()
        self._denoiser = denoiser
        self._log_probability = log_probability
        self._strength = strength
        self._bounded = bounded
        self.side = denoiser.side
        self.feature_length = denoiser.feature_length
        self.network = denoiser.network
        self.sigma_min = denoiser.sigma_min
        self.sigma_max = denoiser.sigma_max
        self.band = denoiser.band
        self.embedder = denoiser.embedder
        self.precision = denoiser.precision

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        clean: Tensor = self._denoiser(x, sigma, condition)
        move = self._strength * per_item(sigma, x) ** 2 * self._gradient(x, sigma)
        if self._bounded:
            room = open_spread(sigma, condition)
            length = move.flatten(1).square().mean(1).sqrt()
            move = move * per_item(room / length.maximum(room), move)
        return clean + move

    def _gradient(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ∇ₓ log C of each picture (no picture enters the log C of another)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self._log_probability(x, sigma).sum(), x)[0]


def open_spread(sigma: Tensor, condition: Condition) -> Tensor:
    """Return N standard deviations of the clean face, given the noisy one and any LR face."""
    known = condition.lr.flatten(1).any(dim=1)
    data = torch.where(known, ResidualDenoiser.WITH_LR, ResidualDenoiser.WITHOUT_LR).to(sigma)
    return sigma * data / (sigma**2 + data**2).sqrt()


@dataclass(frozen=True, slots=True)
class Guidance:
    """Attribute classifiers, and the strength of their guidance."""

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
        """Return the denoiser guided to each row's attributes, if there are any."""
        if self.strength == 0 or not any(rows):
            return denoiser
        targets = [(part, *_targets(part, rows)) for part in self.classifiers.parts]
        targets = [(part, classes, weights) for part, classes, weights in targets if weights.any()]

        def log_probability(x: Tensor, sigma: Tensor) -> Tensor:
            total = x.new_zeros(len(x))
            for part, classes, weights in targets:
                # Outside its training range a classifier gets the nearest noise level in it.
                logs = part.logs(x, sigma.clamp(part.sigma_min, part.sigma_max))
                total = total + (weights * logs.gather(2, classes[..., None])[..., 0]).sum(1)
            return total

        return Guided(denoiser, log_probability, self.strength, bounded)


def _targets(
    part: AttributeClassifier, rows: Sequence[Sequence[Attribute]]
) -> tuple[Tensor, Tensor]:
    """Return N×A classes and N×A confidences; a confidence of 0 means "not known".

    A are the classifier's attributes, in its order.
    """
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
    """Return the guidance of the classifiers in these files; without files, of the bundled one.

    Our files name their attributes. A published file is for one attribute: give it as NAME=FILE.
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
    """Return the classifier of FILE (ours) or NAME=FILE (published), and its path."""
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
        reason = f"the file names its own attributes: {', '.join(classifier.names)}"
        raise ModelError(path, reason, "give it without a name")
    if classifier.names == ("",):
        reason = "a published classifier does not name its attribute"
        raise ModelError(path, reason, f"give NAME={path}, with NAME one of {', '.join(YES)}")
    return classifier, path
