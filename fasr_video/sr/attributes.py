"""Attributes of a face: what people say of them, classifiers of them under noise, and what those read off faces."""

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
# What people say: the classifiers' name for it, and the class there that means yes.
YES = {"male": ("male", 1), "glasses": ("glasses", 1), "beard": ("no_beard", 0)}
# Said in place of an attribute: read those that nobody has said.
READ = "read"

# Certainties from 0 (an even guess) to 1: below the first a reading is not used, from the second on
# it is clear.
SURE, CLEAR = 0.2, 0.9


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that is known, or held, of a person's face."""

    name: str
    """As people say it: one of YES."""
    value: bool
    confidence: float = 1.0
    """Above 0, at most 1: its share of the guidance. Of one that was read: how far it is from an even guess, 2p − 1."""
    source: Literal["examiner", "read"] = "examiner"

    def __str__(self) -> str:
        confidence = "" if self.confidence == 1 else f":{self.confidence:g}"
        return f"{self.name}={'yes' if self.value else 'no'}{confidence} ({self.source})"


def parse(text: str) -> Attribute:
    """`NAME=yes|no`, or with a confidence, as `beard=no:0.7`."""
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
    """What the examiner says, and whether the others shall be read."""
    texts = tuple(texts)
    said = tuple(sorted((parse(text) for text in texts if text != READ), key=lambda a: a.name))
    names = [a.name for a in said]
    twice = [name for name in YES if names.count(name) > 1]
    if twice:
        raise UsageError(f"attribute {twice[0]}", "given twice", "give it once")
    return said, READ in texts


class AttributeClassifier(nn.Module):
    """(N×3×side×side in [0, 1] plus noise, N sigmas) → N×2·attributes: logits of class 0 and 1 for each name."""

    def __init__(
        self, network: AttributeNet, names: tuple[str, ...], sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__()
        self.network, self.names, self.sigma_min, self.sigma_max = (
            network,
            names,
            sigma_min,
            sigma_max,
        )

    @property
    def side(self) -> int:
        return self.network.side

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (3, self.side, self.side):
            reason = f"{tuple(images.shape)}, but the classifier is for N×3×{self.side}×{self.side}"
            raise UsageError("pictures", reason, "bring them to that size")
        return self.network(images, sigma)  # type: ignore[no-any-return]

    def logs(self, images: Tensor, sigma: Tensor) -> Tensor:
        """N×attributes×2: log C of class 0 and 1; differentiable in the pictures."""
        return F.log_softmax(self(images, sigma).float().unflatten(1, (-1, 2)), dim=2)


@dataclass(frozen=True, slots=True)
class Classifiers:
    """All that can be asked of a face: one network for several attributes, or one for each."""

    parts: tuple[AttributeClassifier, ...]
    sha256: tuple[str, ...]
    """Of each part's weights."""

    def __post_init__(self) -> None:
        inner = [name for part in self.parts for name in part.names]
        twice = [name for name, (theirs, _) in YES.items() if inner.count(theirs) > 1]
        if twice:
            raise UsageError(
                f"classifier of {twice[0]}",
                "there are two",
                "give one classifier for each attribute",
            )

    @property
    def provenance(self) -> dict[str, str]:
        """Each attribute that they know, with the SHA-256 of the weights that know it."""
        theirs = {
            n: sha256
            for part, sha256 in zip(self.parts, self.sha256, strict=True)
            for n in part.names
        }
        return {name: theirs[inner] for name, (inner, _) in YES.items() if inner in theirs}

    def check(self, attributes: Iterable[Attribute]) -> None:
        for attribute in attributes:
            if attribute.name not in self.provenance:
                reason = f"the classifiers at hand know {', '.join(self.provenance) or 'none'}"
                raise UsageError(
                    f"attribute {attribute.name}",
                    reason,
                    "give a classifier of it, or leave it out",
                )


@torch.no_grad()
def read(classifiers: Classifiers, faces: Sequence[Image]) -> tuple[Attribute, ...]:
    """Every attribute that they know, by the mean log odds over all faces of one person, of whatever sizes.

    An LR face is enlarged and has next to no noise on it: it is shown at the lowest level of the training.
    """
    odds: dict[str, float] = {}
    for part in classifiers.parts:
        shown = torch.cat([enlarge(as_tensor([f]), part.side) for f in faces]).to(
            next(part.parameters()).device
        )
        logs = part.logs(shown, shown.new_full((len(shown),), part.sigma_min)).mean(0)
        odds |= dict(zip(part.names, (logs[:, 1] - logs[:, 0]).tolist(), strict=True))
    found = []
    for name in classifiers.provenance:
        inner, yes = YES[name]
        value = (odds[inner] > 0) == (yes == 1)
        certainty = float(torch.tensor(abs(odds[inner]) / 2).tanh())  # 2p − 1
        found.append(Attribute(name, value, max(0.001, round(certainty, 3)), "read"))
    return tuple(found)


def complete(
    said: tuple[Attribute, ...], classifiers: Classifiers, faces: Sequence[Image]
) -> tuple[Attribute, ...]:
    """What the examiner says, and what is read of the rest."""
    names = {a.name for a in said}
    return said + tuple(a for a in read(classifiers, faces) if a.name not in names)
