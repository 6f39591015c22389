"""Scores of a system's pictures and features: for each item, and for all searches or pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.evaluation import open_set, verification
from fasr_video.evaluation.degradations import enlarged
from fasr_video.evaluation.open_set import FPIRS, Scores, Searches
from fasr_video.evaluation.perceptual import Inception, Lpips, frechet
from fasr_video.evaluation.photos import digest_of
from fasr_video.evaluation.pictures import consistency, ms_ssim, psnr, ssim
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.store import Store
from fasr_video.evaluation.systems import ObservedItem, Pooler, System
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.sr.attributes import AttributeClassifier
from fasr_video.types import Image

# A picture is verified at the threshold that this share of the gallery's pairs of two people pass.
VERIFIED_FMR = 0.01
RANKS = (1, 5, 10)
BATCH = 32


@dataclass(frozen=True, slots=True)
class Judges:
    """The models that judge pictures besides the recogniser; None if not given."""

    attributes: AttributeClassifier | None = None
    attributes_sha256: str = ""
    lpips: Lpips | None = None
    inception: Inception | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of one system by one recogniser."""

    items: Mapping[str, Scores]
    """By measure, a number an item; NaN for none."""
    own: Scores
    """Scores of comparisons of one person."""
    others: Scores
    """Scores of comparisons of two people."""
    searches: Searches | None
    """None for pairs."""
    folds: verification.Folds | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """By measure, a number for all comparisons together."""
    enrolled: int = 0
    """Number of people in the gallery; 0 for pairs."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A recogniser with the store of its features."""

    embedder: Embedder
    store: Store

    def unit(self, pictures: Sequence[Image]) -> Tensor:
        """Return N×length unit vectors of pictures."""
        by_digest = {digest_of(p): p for p in pictures}
        features = self.store.features(self.embedder, by_digest)
        return F.normalize(torch.stack([features[digest_of(p)] for p in pictures]), dim=1)


def probe_parts(
    system: System,
    observed: Sequence[ObservedItem],
    pictures: Sequence[Image] | None,
    scorer: Scorer,
    *,
    pool: Pooler | None,
) -> list[Tensor]:
    """Return the features to compare with the gallery; the cosines of several are averaged."""
    kinds = ["pooled"] if pictures is None else (system.fuse or "sr").split("+")
    parts = []
    for kind in kinds:
        if kind == "sr" and pictures is not None:
            parts.append(scorer.unit(pictures))
        elif kind == "best":
            parts.append(scorer.unit(enlarged([s.lr0 for s in observed])))
        elif pool is not None:
            parts.append(torch.stack([pool(scorer.store, s) for s in observed]))
    return parts


def score(
    trial: Trial, parts: Sequence[Tensor], picture_scores: PictureScores, scorer: Scorer
) -> Scored:
    """Return the scores of a system with these features and picture scores."""
    gallery = scorer.unit([p.picture for p in trial.gallery])
    scores = torch.stack([part @ gallery.T for part in parts]).mean(0).double().numpy()
    items = {**picture_scores.items, **_identity_similarity(trial, picture_scores.pictures, scorer)}
    if trial.pairs:
        same = np.array([p.same for p in trial.pairs])
        values = np.array([scores[p.item, p.gallery] for p in trial.pairs])
        folds = verification.fold_accuracies(values, same, [p.fold for p in trial.pairs])
        return _with_values(
            Scored(items, values[same], values[~same], None, folds), picture_scores.fid
        )
    own_index = np.array(trial.own)
    enrolled = np.flatnonzero(own_index >= 0)
    own_scores = np.full(len(scores), np.nan)
    own_scores[enrolled] = scores[enrolled, own_index[enrolled]]
    items["own"] = own_scores
    if len(gallery) > 1:  # a threshold needs a pair of two people
        items["verified"] = np.where(
            np.isnan(own_scores), np.nan, own_scores >= _threshold(gallery)
        )
    others = np.ones(scores.shape, np.bool_)
    others[enrolled, own_index[enrolled]] = False
    searches = open_set.searches(scores, own_index, trial.people)
    items["hit"] = np.where(searches.mated, searches.rank == 1, np.nan)
    return _with_values(
        Scored(items, own_scores[enrolled], scores[others], searches, enrolled=len(gallery)),
        picture_scores.fid,
    )


def _threshold(gallery: Tensor) -> float:
    """Return the threshold of `verified`, from the gallery alone: the same for all systems."""
    table = (gallery @ gallery.T).numpy()
    return open_set.lowest_threshold(table[np.triu_indices(len(table), 1)], VERIFIED_FMR)


def _identity_similarity(
    trial: Trial, pictures: Sequence[Image] | None, scorer: Scorer
) -> dict[str, Scores]:
    """Return the similarity of each picture's feature and the true picture's."""
    if pictures is None or trial.native:
        return {}
    truth = scorer.unit([item.probe.picture for item in trial.items])
    cosines = (scorer.unit(pictures) * truth).sum(1).double()
    return {"cs": cosines.numpy(), "distance": (2 - 2 * cosines).clamp_min(0).sqrt().numpy()}


# ----------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, slots=True)
class PictureScores:
    """The scores of a system's pictures without a recogniser."""

    pictures: Sequence[Image] | None = None
    """None if there are none, or if they are the true ones."""
    items: Mapping[str, Scores] = field(default_factory=dict)
    fid: float = math.nan


def true_features(trial: Trial, judges: Judges) -> Scores | None:
    """Return the features of the true pictures for FID; None if it is not measured."""
    if judges.inception is None or trial.native:
        return None
    return judges.inception(as_tensor([item.probe.picture for item in trial.items]))


def measure_pictures(
    trial: Trial,
    observed: Sequence[ObservedItem],
    pictures: Sequence[Image],
    judges: Judges,
    *,
    truths: Scores | None,
) -> PictureScores:
    """Return the scores of pictures that do not depend on the recogniser."""
    values_by_name: dict[str, list[Tensor]] = {}
    for start in range(0, len(observed), BATCH):
        batch = observed[start : start + BATCH]
        drawn = as_tensor(pictures[start : start + BATCH])
        lr = [consistency(d[None], as_tensor([s.lr0])) for d, s in zip(drawn, batch, strict=True)]
        measured = {"consistency": torch.cat(lr)}
        if not trial.native:
            measured |= _compare_with_truth(
                drawn, as_tensor([s.item.probe.picture for s in batch]), judges
            )
        for name, values in measured.items():
            values_by_name.setdefault(name, []).append(values)
    items = {name: torch.cat(values).double().numpy() for name, values in values_by_name.items()}
    if truths is None or judges.inception is None:
        return PictureScores(pictures, items)
    return PictureScores(pictures, items, frechet(judges.inception(as_tensor(pictures)), truths))


def _compare_with_truth(drawn: Tensor, truth: Tensor, judges: Judges) -> dict[str, Tensor]:
    """Return the measures of drawn pictures against the true ones."""
    measured = {
        "psnr": psnr(drawn, truth),
        "ssim": ssim(drawn, truth),
        "ms_ssim": ms_ssim(drawn, truth),
    }
    if judges.lpips is not None:
        measured["lpips"] = judges.lpips(drawn, truth)
    if judges.attributes is not None:
        measured["attributes"] = _agreement(judges.attributes, drawn, truth)
    return measured


@torch.no_grad()
def _agreement(classifier: AttributeClassifier, drawn: Tensor, truth: Tensor) -> Tensor:
    """Return the share of attributes that read the same on each picture and the true one."""
    sigma = torch.full((len(drawn),), classifier.sigma_min)
    predicted, true = (classifier(x, sigma).unflatten(1, (-1, 2)).argmax(2) for x in (drawn, truth))
    share: Tensor = (predicted == true).double().mean(1)
    return share


def _with_values(scored: Scored, fid: float) -> Scored:
    values = {} if math.isnan(fid) else {"fid": fid}
    values |= recognition(scored.own, scored.others, scored.searches, scored.enrolled)
    if scored.folds is not None:
        values["accuracy"] = float(np.mean(scored.folds.accuracies))
    return replace(scored, values=values)


def ranks(enrolled: int) -> list[int]:
    """Return the ranks at which a search in a gallery of this size can fail."""
    return [k for k in RANKS if k == 1 or k < enrolled]


def recognition(
    own: Scores, others: Scores, searches: Searches | None, enrolled: int
) -> dict[str, float]:
    """Return the recognition measures of scores and searches, by name."""
    values: dict[str, float] = {}
    if len(own) and len(others):
        values |= {"auc": open_set.auc(own, others), "eer": verification.eer(own, others)}
    if searches is not None and searches.mated.any():
        values |= {f"rank{k}": open_set.rank_rate(searches, k) for k in ranks(enrolled)}
        if not searches.mated.all():
            rates = [rate for rate in FPIRS if open_set.resolves(searches, rate)]
            values |= {f"fnir{rate:g}": open_set.fnir_at(searches, rate) for rate in rates}
    return values
