"""Attributes of a face: given by an examiner, or read by classifiers that also work on noisy
pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.errors import UsageError
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.networks.attributes import AttributeNet
from fasr_video.types import Image

# In the published meaning: class 1 is male, with glasses, *without* a beard.
NAMES = ("male", "glasses", "no_beard")
# Attribute as people name it: the classifiers' name for it, and the class that means yes.
YES = {"male": ("male", 1), "glasses": ("glasses", 1), "beard": ("no_beard", 0)}
# Given in place of an attribute: read all attributes that are not given.
READ = "read"

# Certainty from 0 (an even guess) to 1. A reading below SURE is ignored; from CLEAR on it
# contradicts the examiner.
SURE, CLEAR = 0.2, 0.9


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a person's face."""

    name: str
    """As people name it: one of YES."""
    value: bool
    confidence: float = 1.0
    """Above 0, at most 1: its weight in the guidance. For a reading, 2p − 1: the distance from an
    even guess.
    """
    source: Literal["examiner", "read"] = "examiner"

    def __str__(self) -> str:
        confidence = "" if self.confidence == 1 else f":{self.confidence:g}"
        return f"{self.name}={'yes' if self.value else 'no'}{confidence} ({self.source})"


def parse(text: str) -> Attribute:
    """Return the attribute of `NAME=yes|no` or, with a confidence, `beard=no:0.7`."""
    name, _, rest = text.partition("=")
    value, colon, confidence = rest.partition(":")
    if name not in YES:
        raise UsageError(
            f"attribute {name}", f"known are {', '.join(YES)}", "give one of them, as glasses=yes"
        )
    if value not in {"yes", "no"}:
        raise UsageError(
            f"attribute {text}",
            "not NAME=yes|no[:CONFIDENCE]",
            f"write {name}=yes, or {name}=no:0.7",
        )
    try:
        share = float(confidence) if colon else 1.0
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(
            f"attribute {text}", f"{confidence} is no confidence", "give one above 0 and at most 1"
        )
    return Attribute(name, value == "yes", share)


def parse_all(texts: Iterable[str]) -> tuple[tuple[Attribute, ...], bool]:
    """Return the attributes that the examiner gives, and whether to read the others."""
    texts = tuple(texts)
    given = tuple(sorted((parse(text) for text in texts if text != READ), key=lambda a: a.name))
    names = [a.name for a in given]
    twice = [name for name in YES if names.count(name) > 1]
    if twice:
        raise UsageError(f"attribute {twice[0]}", "given twice", "give it once")
    return given, READ in texts


class AttributeClassifier(nn.Module):
    """(N×3×side×side in [0, 1] plus noise, N sigmas) → N×2·attributes: two logits for each name."""

    def __init__(
        self, network: AttributeNet, names: tuple[str, ...], sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__()
        self.network = network
        self.names = names
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    @property
    def side(self) -> int:
        return self.network.side

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (3, self.side, self.side):
            reason = f"{tuple(images.shape)}, but the classifier is for N×3×{self.side}×{self.side}"
            raise UsageError("pictures", reason, "bring them to that size")
        return self.network(images, sigma)  # type: ignore[no-any-return]

    def logs(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return N×attributes×2: log C of class 0 and 1, differentiable in the pictures."""
        return F.log_softmax(self(images, sigma).float().unflatten(1, (-1, 2)), dim=2)


@dataclass(frozen=True, slots=True)
class Classifiers:
    """All attribute classifiers at hand: one network for several attributes, or one for each."""

    parts: tuple[AttributeClassifier, ...]
    sha256: tuple[str, ...]
    """Hash of each part's weights."""

    def __post_init__(self) -> None:
        inner = [name for part in self.parts for name in part.names]
        twice = [
            name for name, (classifier_name, _) in YES.items() if inner.count(classifier_name) > 1
        ]
        if twice:
            raise UsageError(
                f"classifier of {twice[0]}",
                "there are two",
                "give one classifier for each attribute",
            )

    @property
    def provenance(self) -> dict[str, str]:
        """Each attribute that they read, with the SHA-256 of the weights that read it."""
        hashes: dict[str, str] = {}
        for part, sha256 in zip(self.parts, self.sha256, strict=True):
            hashes |= dict.fromkeys(part.names, sha256)
        return {name: hashes[inner] for name, (inner, _) in YES.items() if inner in hashes}

    def check(self, attributes: Iterable[Attribute]) -> None:
        """Raise UsageError where there is no classifier for one of the attributes."""
        for attribute in attributes:
            if attribute.name not in self.provenance:
                reason = f"the classifiers here read {', '.join(self.provenance) or 'none'}"
                raise UsageError(
                    f"attribute {attribute.name}",
                    reason,
                    "give a classifier of it, or leave it out",
                )


@torch.no_grad()
def read(classifiers: Classifiers, faces: Sequence[Image]) -> tuple[Attribute, ...]:
    """Return all attributes that the classifiers read, by mean log odds over a person's faces.

    Faces may have any size. An enlarged LR face has almost no noise, so it is read at the lowest
    noise level of the training.
    """
    odds: dict[str, float] = {}
    for part in classifiers.parts:
        pictures = torch.cat([enlarge(as_tensor([f]), part.side) for f in faces]).to(
            next(part.parameters()).device
        )
        logs = part.logs(pictures, pictures.new_full((len(pictures),), part.sigma_min)).mean(0)
        odds |= dict(zip(part.names, (logs[:, 1] - logs[:, 0]).tolist(), strict=True))
    readings = []
    for name in classifiers.provenance:
        inner, yes = YES[name]
        value = (odds[inner] > 0) == (yes == 1)
        certainty = float(torch.tensor(abs(odds[inner]) / 2).tanh())  # 2p − 1
        readings.append(Attribute(name, value, max(0.001, round(certainty, 3)), "read"))
    return tuple(readings)


def complete(
    given: tuple[Attribute, ...], classifiers: Classifiers, faces: Sequence[Image]
) -> tuple[Attribute, ...]:
    """Return the attributes that the examiner gives, and readings of the others."""
    names = {a.name for a in given}
    return given + tuple(a for a in read(classifiers, faces) if a.name not in names)
