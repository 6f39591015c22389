"""The accuracy of attribute classifiers at noise levels, and on enlarged LR faces."""

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
    """The noise and the size of the faces that a classifier reads."""

    sigma: float
    side: int | None = None
    """Side of the LR face; None for the face at full resolution."""


VIEWS = (View(0.01), View(0.1), View(0.3), View(1.0), View(0.01, 16))


@dataclass(frozen=True, slots=True)
class Score:
    view: View
    attribute: str
    accuracy: float
    balanced: float
    """The mean of the two classes' accuracies: 0.5 for a constant classifier."""


def scores(
    classifier: AttributeClassifier,
    faces: Faces,
    labels: Tensor,
    conditions: Sequence[View] = VIEWS,
    *,
    batch: int = 64,
) -> list[Score]:
    """Return a score for each view and each attribute of the classifier.

    `labels` are N×3 of 0 or 1, in the order of NAMES. The noise of a face depends on its row alone,
    so it is the same for every classifier and batch size.
    """
    unknown = [name for name in classifier.names if name not in NAMES]
    if unknown:
        raise UsageError(
            f"attribute {unknown[0]}", "there are no labels for it", f"name it {', '.join(NAMES)}"
        )
    columns = {name: labels[:, NAMES.index(name)] for name in classifier.names}
    one_class = [name for name, truth in columns.items() if bool((truth == truth[0]).all())]
    if one_class:
        raise UsageError(
            "labels", f"all faces are alike in {', '.join(one_class)}", "give faces of both classes"
        )
    results = []
    for view in conditions:
        predicted = _predictions(classifier, faces, view, batch)
        for i, (name, truth) in enumerate(columns.items()):
            results.append(_score(view, name, predicted[:, i], truth))
    return results


def _score(view: View, name: str, predicted: Tensor, truth: Tensor) -> Score:
    right = (predicted == truth).double()
    balanced = (right[truth == 0].mean() + right[truth == 1].mean()) / 2
    return Score(view, name, float(right.mean()), float(balanced))


@torch.no_grad()
def _predictions(classifier: AttributeClassifier, faces: Faces, view: View, batch: int) -> Tensor:
    """Return N×attributes: the more probable class."""
    device = next(classifier.parameters()).device
    predictions = []
    for start in range(0, len(faces), batch):
        pictures = views(
            faces.pictures[start : start + batch], classifier.side, False, torch.Generator()
        )
        if view.side is not None:
            pictures = enlarge(shrink(pictures, view.side), classifier.side)
        pictures = pictures + view.sigma * noise_like(
            pictures, generators(range(start, start + len(pictures)))
        )
        sigma = torch.full((len(pictures),), view.sigma, device=device)
        predictions.append(
            classifier(pictures.to(device), sigma).unflatten(1, (-1, 2)).argmax(2).cpu()
        )
    return torch.cat(predictions)
