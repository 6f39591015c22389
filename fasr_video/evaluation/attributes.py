"""How well a classifier reads attributes off faces: at noise levels, and off LR faces brought up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasr_video.datasets.faces import Faces, views
from fasr_video.errors import UsageError
from fasr_video.sr.attributes import NAMES, AttributeClassifier
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.samplers import generators, noise_like


@dataclass(frozen=True, slots=True)
class View:
    """How faces are shown."""

    sigma: float
    side: int | None = None
    """Of the LR face; None for the face at full resolution."""


VIEWS = (View(0.01), View(0.1), View(0.3), View(1.0), View(0.01, 16))


@dataclass(frozen=True, slots=True)
class Score:
    view: View
    attribute: str
    accuracy: float
    balanced: float
    """The mean of the two classes' accuracies: 0.5 for a classifier that says the same of every face."""


def scores(
    classifier: AttributeClassifier,
    faces: Faces,
    labels: Tensor,
    shown: Sequence[View] = VIEWS,
    batch: int = 64,
) -> list[Score]:
    """For each view and each attribute of the classifier; `labels` N×3 in the order of NAMES, 0 or 1.

    Each face has its own noise by its row, the same for every classifier and every batch size.
    """
    strange = [name for name in classifier.names if name not in NAMES]
    if strange:
        raise UsageError(
            f"attribute {strange[0]}", "there are no labels for it", f"name it {', '.join(NAMES)}"
        )
    columns = {name: labels[:, NAMES.index(name)] for name in classifier.names}
    one_class = [name for name, truth in columns.items() if bool((truth == truth[0]).all())]
    if one_class:
        raise UsageError(
            "labels", f"all faces are alike in {', '.join(one_class)}", "give faces of both classes"
        )
    found = []
    for view in shown:
        said = _said(classifier, faces, view, batch)
        found += [
            _score(view, name, said[:, i], truth) for i, (name, truth) in enumerate(columns.items())
        ]
    return found


def _score(view: View, name: str, said: Tensor, truth: Tensor) -> Score:
    right = (said == truth).double()
    balanced = (right[truth == 0].mean() + right[truth == 1].mean()) / 2
    return Score(view, name, float(right.mean()), float(balanced))


@torch.no_grad()
def _said(classifier: AttributeClassifier, faces: Faces, view: View, batch: int) -> Tensor:
    """N×attributes: the more probable class."""
    device = next(classifier.parameters()).device
    said = []
    for start in range(0, len(faces), batch):
        seen = views(
            faces.pictures[start : start + batch], classifier.side, False, torch.Generator()
        )
        if view.side is not None:
            seen = enlarge(shrink(seen, view.side), classifier.side)
        seen = seen + view.sigma * noise_like(seen, generators(range(start, start + len(seen))))
        sigma = torch.full((len(seen),), view.sigma, device=device)
        said.append(classifier(seen.to(device), sigma).unflatten(1, (-1, 2)).argmax(2).cpu())
    return torch.cat(said)
