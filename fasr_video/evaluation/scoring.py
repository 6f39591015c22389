"""What a system's pictures and features are worth: numbers for each item, and for all searches or pairs together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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

VERIFIED_FMR = 0.01
"""Of the threshold at which a picture counts as verified: so many pairs of different people in the gallery pass it."""
RANKS = (1, 5, 10)
BATCH = 32


@dataclass(frozen=True, slots=True)
class Judges:
    """What looks at pictures beside the recogniser; None for what was not given."""

    attributes: AttributeClassifier | None = None
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
    fid: float = math.nan
    values: Mapping[str, float] = field(default_factory=dict)
    """Of all comparisons together, by measure."""


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
    system: System, shown: Sequence[Shown], pictures: Sequence[Image] | None, scorer: Scorer, pool: Pooler | None
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


def score(
    trial: Trial,
    shown: Sequence[Shown],
    pictures: Sequence[Image] | None,
    parts: Sequence[Tensor],
    scorer: Scorer,
    judges: Judges,
) -> Scored:
    gallery = scorer.unit([p.picture for p in trial.gallery])
    scores = torch.stack([part @ gallery.T for part in parts]).mean(0).double().numpy()
    own_at = np.array(trial.own)
    items: dict[str, Scores] = {}
    if pictures is not None:
        items |= _of_pictures(trial, shown, pictures, scorer, judges)
    fid = math.nan
    if pictures is not None and judges.inception is not None and not trial.native:
        truth = judges.inception(as_tensor([s.item.probe.picture for s in shown]))
        fid = frechet(judges.inception(as_tensor(pictures)), truth)
    if trial.pairs:
        rows = [scores[p.item, p.gallery] for p in trial.pairs]
        same = np.array([p.same for p in trial.pairs])
        values = np.array(rows)
        folds = verification.fold_accuracies(values, same, [p.fold for p in trial.pairs])
        return _with_values(Scored(items, values[same], values[~same], None, folds, fid))
    mine = np.where(own_at >= 0, scores[np.arange(len(scores)), own_at], np.nan)
    items["own"] = mine
    items["verified"] = np.where(np.isnan(mine), np.nan, mine >= _threshold(trial, gallery))
    stranger = np.ones(scores.shape, np.bool_)
    stranger[np.flatnonzero(own_at >= 0), own_at[own_at >= 0]] = False
    found = open_set.searches(scores, own_at, trial.people)
    return _with_values(Scored(items, mine[own_at >= 0], scores[stranger], found, None, fid))


def _threshold(trial: Trial, gallery: Tensor) -> float:
    """From the gallery alone, so that it is one for all systems."""
    table = (gallery @ gallery.T).numpy()
    return open_set.lowest_threshold(table[np.triu_indices(len(table), 1)], VERIFIED_FMR)


def _of_pictures(
    trial: Trial, shown: Sequence[Shown], pictures: Sequence[Image], scorer: Scorer, judges: Judges
) -> dict[str, Scores]:
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(shown), BATCH):
        some = shown[start : start + BATCH]
        drawn = as_tensor(pictures[start : start + BATCH])
        lr = [consistency(d[None], as_tensor([s.lr0])) for d, s in zip(drawn, some, strict=True)]
        told = {"consistency": torch.cat(lr)}
        if not trial.native:
            truth = as_tensor([s.item.probe.picture for s in some])
            told |= {"psnr": psnr(drawn, truth), "ssim": ssim(drawn, truth), "ms_ssim": ms_ssim(drawn, truth)}
            if judges.lpips is not None:
                told["lpips"] = judges.lpips(drawn, truth)
            if judges.attributes is not None:
                told["attributes"] = _agreement(judges.attributes, drawn, truth)
        for name, values in told.items():
            found.setdefault(name, []).append(values)
    measures = {name: torch.cat(values).double().numpy() for name, values in found.items()}
    if not trial.native:
        cosines = (scorer.unit(pictures) * scorer.unit([s.item.probe.picture for s in shown])).sum(1).double()
        measures |= {"cs": cosines.numpy(), "distance": (2 - 2 * cosines).clamp_min(0).sqrt().numpy()}
    return measures


@torch.no_grad()
def _agreement(classifier: AttributeClassifier, drawn: Tensor, truth: Tensor) -> Tensor:
    """Share of the attributes in which each picture reads like the true one."""
    sigma = torch.full((len(drawn),), classifier.sigma_min)
    said, true = (classifier(x, sigma).unflatten(1, (-1, 2)).argmax(2) for x in (drawn, truth))
    share: Tensor = (said == true).double().mean(1)
    return share


def _with_values(scored: Scored) -> Scored:
    values = {} if math.isnan(scored.fid) else {"fid": scored.fid}
    values |= recognition(scored.own, scored.others, scored.searches)
    if scored.folds is not None:
        values["accuracy"] = float(np.mean(scored.folds.accuracies))
    return Scored(scored.items, scored.own, scored.others, scored.searches, scored.folds, scored.fid, values)


def recognition(own: Scores, others: Scores, searches: Searches | None) -> dict[str, float]:
    values: dict[str, float] = {}
    if len(own) and len(others):
        values |= {"auc": open_set.auc(own, others), "eer": verification.eer(own, others)}
    if searches is not None and searches.mated.any():
        values |= {f"rank{k}": open_set.rank_rate(searches, k) for k in RANKS}
        if not searches.mated.all():
            rates = [rate for rate in FPIRS if open_set.resolves(searches, rate)]
            values |= {f"fnir{rate:g}": open_set.fnir_at(searches, rate) for rate in rates}
    return values
