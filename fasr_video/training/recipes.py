"""The papers' training recipes, as values of the options of `train sr` and `train attributes`.

The numbers are those of the released configurations, but for the number of steps: 10⁶ for all,
where the releases have between 0.95 and 2.4 million. `--recipe` replaces the defaults of the
options, so each of them can still be given.

All papers: NCSN++, Adam with a learning rate of 2e-4 that rises for 5,000 steps and then stays,
gradients clipped at 1, float32, LR faces by the papers' degradation. Faces are mirrored at random,
as FASR's are and SDE-SR's with VP; the releases for VE of SDE-SR and SRDG do not mirror them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fasr_video.errors import UsageError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a paper trained a network."""

    paper: str
    feature: bool
    """Whether the network takes a face feature."""
    options: Mapping[str, object]
    """Values of the trainer's options, by their names in Python."""


def _of_papers(**changes: object) -> Mapping[str, object]:
    """Return the options that the papers have in common, with some changed."""
    options: dict[str, object] = {
        "network": "ncsnpp",
        "noise": "ve",
        "sides": "16",
        "optimizer": "adam",
        "schedule": "constant",
        "lr": 2e-4,
        "warmup": 5_000,
        "ema": 0.999,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "steps": 1_000_000,
        "batch": 4,
        "fp32": True,
        "no_lr": 0.0,
        "no_feature": 0.0,
        "others": 0.0,
        "identity": 0.0,
        "surveillance": 0.0,
    }
    return MappingProxyType(options | changes)


# FASR always conditions on the feature of the HR face; FASR++ trains the same network and merges
# the features of LR faces when it draws.
SUPER_RESOLUTION: Mapping[str, Recipe] = MappingProxyType(
    {
        "fasr": Recipe("FASR", True, _of_papers()),
        "fasr++": Recipe("FASR++", True, _of_papers()),
        "sde-sr-ve": Recipe("SDE-SR", False, _of_papers(batch=2)),
        "sde-sr-vp": Recipe(
            "SDE-SR", False, _of_papers(noise="vp", ema=0.9999, dropout=0.1, batch=2)
        ),
        "sde-sr-subvp": Recipe(
            "SDE-SR", False, _of_papers(noise="subvp", ema=0.9999, dropout=0.1, batch=2)
        ),
        "srdg": Recipe("SRDG", False, _of_papers(batch=1)),
        "srdg-x16": Recipe("SRDG", False, _of_papers(batch=1, sides="8")),
    }
)


# SRDG's classifiers: AdamW, few faces a batch, many passes over the data.
ATTRIBUTES: Mapping[str, Recipe] = MappingProxyType(
    {"srdg": Recipe("SRDG", False, MappingProxyType({"lr": 1e-3, "batch": 4, "epochs": 50}))}
)


def check_data(name: str, features: Path | None) -> None:
    """Raise UsageError where features are missing, or where the paper's network takes none."""
    recipe = SUPER_RESOLUTION[name]
    if recipe.feature and features is None:
        reason = f"{recipe.paper} conditions on a feature of each face"
        remedy = "make the features with `train features`, and give them with --features"
        raise UsageError(f"recipe {name}", reason, remedy)
    if not recipe.feature and features is not None:
        reason = f"the network of {recipe.paper} takes no face feature"
        raise UsageError(f"recipe {name}", reason, "leave --features out")
