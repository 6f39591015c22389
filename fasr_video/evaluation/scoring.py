"""What a system's pictures and features are worth: numbers for each item, and for all searches or pairs together."""

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
from fasr_video.evaluation.systems import Pooler, Shown, System
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.sr.attributes import AttributeClassifier
from fasr_video.types import Image

# Of the threshold at which a picture counts as verified: so many pairs of different people in the
# gallery pass it.
VERIFIED_FMR = 0.01
RANKS = (1, 5, 10)
BATCH = 32


@dataclass(frozen=True, slots=True)
class Judges:
    """What looks at pictures beside the recogniser; None for what was not given."""

    attributes: AttributeClassifier | None = None
    attributes_sha256: str = ""
    lpips: Lpips | None = None
    inception: Inception | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One system by one recogniser."""

    items: Mapping[str, Scores]
    """By measure, a number an item; NaN where there is none."""
    own: Scores
    """Scores of comparisons of one person,"""
    others: Scores
    """and of two people."""
    searches: Searches | None
    """None with pairs."""
    folds: verification.Folds | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """Of all comparisons together, by measure."""
    enrolled: int = 0
    """People in the gallery; 0 with pairs."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A recogniser, and what it sees of a trial's photographs."""

    embedder: Embedder
    store: Store

    def unit(self, pictures: Sequence[Image]) -> Tensor:
        """N×length unit vectors."""
        named = {digest_of(p): p for p in pictures}
        seen = self.store.features(self.embedder, named)
        return F.normalize(torch.stack([seen[digest_of(p)] for p in pictures]), dim=1)


def probe_parts(
    system: System,
    shown: Sequence[Shown],
    pictures: Sequence[Image] | None,
    scorer: Scorer,
    pool: Pooler | None,
) -> list[Tensor]:
    """What is compared with the gallery: one feature an item, or several whose cosines are averaged."""
    kinds = ["pooled"] if pictures is None else (system.fuse or "sr").split("+")
    parts = []
    for kind in kinds:
        if kind == "sr" and pictures is not None:
            parts.append(scorer.unit(pictures))
        elif kind == "best":
            parts.append(scorer.unit(enlarged([s.lr0 for s in shown])))
        elif pool is not None:
            parts.append(torch.stack([pool(scorer.store, s) for s in shown]))
    return parts


def score(trial: Trial, parts: Sequence[Tensor], looked: Looked, scorer: Scorer) -> Scored:
    gallery = scorer.unit([p.picture for p in trial.gallery])
    scores = torch.stack([part @ gallery.T for part in parts]).mean(0).double().numpy()
    items = {**looked.items, **_likeness(trial, looked.pictures, scorer)}
    if trial.pairs:
        same = np.array([p.same for p in trial.pairs])
        values = np.array([scores[p.item, p.gallery] for p in trial.pairs])
        folds = verification.fold_accuracies(values, same, [p.fold for p in trial.pairs])
        return _with_values(Scored(items, values[same], values[~same], None, folds), looked.fid)
    own_at = np.array(trial.own)
    enrolled = np.flatnonzero(own_at >= 0)
    mine = np.full(len(scores), np.nan)
    mine[enrolled] = scores[enrolled, own_at[enrolled]]
    items["own"] = mine
    if len(gallery) > 1:  # one person makes no pair of two to take a threshold from
        items["verified"] = np.where(np.isnan(mine), np.nan, mine >= _threshold(gallery))
    others = np.ones(scores.shape, np.bool_)
    others[enrolled, own_at[enrolled]] = False
    found = open_set.searches(scores, own_at, trial.people)
    items["hit"] = np.where(found.mated, found.rank == 1, np.nan)
    return _with_values(
        Scored(items, mine[enrolled], scores[others], found, enrolled=len(gallery)), looked.fid
    )


def _threshold(gallery: Tensor) -> float:
    """From the gallery alone, so that it is one for all systems."""
    table = (gallery @ gallery.T).numpy()
    return open_set.lowest_threshold(table[np.triu_indices(len(table), 1)], VERIFIED_FMR)


def _likeness(trial: Trial, pictures: Sequence[Image] | None, scorer: Scorer) -> dict[str, Scores]:
    """How near each picture's feature is to the true picture's."""
    if pictures is None or trial.native:
        return {}
    truth = scorer.unit([item.probe.picture for item in trial.items])
    cosines = (scorer.unit(pictures) * truth).sum(1).double()
    return {"cs": cosines.numpy(), "distance": (2 - 2 * cosines).clamp_min(0).sqrt().numpy()}


# ------------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, slots=True)
class Looked:
    """What is seen of a system's pictures without any recogniser."""

    pictures: Sequence[Image] | None = None
    """None where there are none, or where they are the true ones."""
    items: Mapping[str, Scores] = field(default_factory=dict)
    fid: float = math.nan


def true_features(trial: Trial, judges: Judges) -> Scores | None:
    """What FID holds pictures against."""
    if judges.inception is None or trial.native:
        return None
    return judges.inception(as_tensor([item.probe.picture for item in trial.items]))


def look(
    trial: Trial,
    shown: Sequence[Shown],
    pictures: Sequence[Image],
    judges: Judges,
    truths: Scores | None,
) -> Looked:
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(shown), BATCH):
        some = shown[start : start + BATCH]
        drawn = as_tensor(pictures[start : start + BATCH])
        lr = [consistency(d[None], as_tensor([s.lr0])) for d, s in zip(drawn, some, strict=True)]
        told = {"consistency": torch.cat(lr)}
        if not trial.native:
            told |= _against(drawn, as_tensor([s.item.probe.picture for s in some]), judges)
        for name, values in told.items():
            found.setdefault(name, []).append(values)
    items = {name: torch.cat(values).double().numpy() for name, values in found.items()}
    if truths is None or judges.inception is None:
        return Looked(pictures, items)
    return Looked(pictures, items, frechet(judges.inception(as_tensor(pictures)), truths))


def _against(drawn: Tensor, truth: Tensor, judges: Judges) -> dict[str, Tensor]:
    told = {
        "psnr": psnr(drawn, truth),
        "ssim": ssim(drawn, truth),
        "ms_ssim": ms_ssim(drawn, truth),
    }
    if judges.lpips is not None:
        told["lpips"] = judges.lpips(drawn, truth)
    if judges.attributes is not None:
        told["attributes"] = _agreement(judges.attributes, drawn, truth)
    return told


@torch.no_grad()
def _agreement(classifier: AttributeClassifier, drawn: Tensor, truth: Tensor) -> Tensor:
    """Share of the attributes in which each picture reads like the true one."""
    sigma = torch.full((len(drawn),), classifier.sigma_min)
    said, true = (classifier(x, sigma).unflatten(1, (-1, 2)).argmax(2) for x in (drawn, truth))
    share: Tensor = (said == true).double().mean(1)
    return share


def _with_values(scored: Scored, fid: float) -> Scored:
    values = {} if math.isnan(fid) else {"fid": fid}
    values |= recognition(scored.own, scored.others, scored.searches, scored.enrolled)
    if scored.folds is not None:
        values["accuracy"] = float(np.mean(scored.folds.accuracies))
    return replace(scored, values=values)


def ranks(enrolled: int) -> list[int]:
    """Those at which a search in a gallery of so many may fail."""
    return [k for k in RANKS if k == 1 or k < enrolled]


def recognition(
    own: Scores, others: Scores, searches: Searches | None, enrolled: int
) -> dict[str, float]:
    values: dict[str, float] = {}
    if len(own) and len(others):
        values |= {"auc": open_set.auc(own, others), "eer": verification.eer(own, others)}
    if searches is not None and searches.mated.any():
        values |= {f"rank{k}": open_set.rank_rate(searches, k) for k in ranks(enrolled)}
        if not searches.mated.all():
            rates = [rate for rate in FPIRS if open_set.resolves(searches, rate)]
            values |= {f"fnir{rate:g}": open_set.fnir_at(searches, rate) for rate in rates}
    return values
