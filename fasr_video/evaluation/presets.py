"""The papers' comparisons by name, without data, weights and numbers of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SDES = ("sde-sr-ve", "sde-sr-vecs", "sde-sr-vp", "sde-sr-subvp")
SYSTEMS = ("hr", "lr", "bicubic", *SDES, "srdg", "sr3", "idfsr", "idfsr-fitted", "fasr", "fasr++")
LANGEVIN = tuple(f"ve-100,r={r}" for r in ("0.05", "0.1", "0.16", "0.3", "0.5"))


@dataclass(frozen=True, slots=True)
class Preset:
    what: str
    axes: Mapping[str, Sequence[str]]
    """Values of options that the command line leaves out."""
    needs: str = ""
    """What the user must give, in words; empty if everything is bundled."""
    twice: str = ""
    """The option that must be given twice or more for that."""
    etas: bool = False
    """Whether the given Feature Combiners must differ in their eta."""


PRESETS = {
    "paper-table1": Preset("methods at ×8", {"method": SYSTEMS, "degrade": ("16",)}),
    "paper-table2": Preset(
        "methods side by side as searches: "
        "raw face, pooled feature, pictures, and all three joined",
        {
            "method": ("bicubic", "pooled", "fasr", "fasr++"),
            "fuse": ("sr", "pooled+sr", "best+pooled+sr"),
            "degrade": ("12", "16", "24", "32"),
        },
    ),
    "paper-table3": Preset("kinds of SDE", {"method": ("bicubic", *SDES), "degrade": ("16",)}),
    "paper-table4": Preset(
        "a network as it was and fine-tuned",
        {"method": ("bicubic", "fasr", "fasr++"), "degrade": ("16",)},
        "--model twice: the network before and after",
        "model",
    ),
    "paper-fig5": Preset(
        "eta of the Feature Combiner",
        {"method": ("fasr++",), "degrade": ("16",)},
        "--combiner several times: one trained at each eta",
        "combiner",
        etas=True,
    ),
    "paper-fig6": Preset(
        "size of the Feature Combiner's training set",
        {"method": ("pooled", "fasr++"), "degrade": ("16",)},
        "--combiner several times: one trained on each size",
        "combiner",
    ),
    "paper-fig7": Preset(
        "r of the Langevin corrector",
        {"method": ("sde-sr-ve",), "sampler": LANGEVIN, "degrade": ("16",)},
    ),
    "paper-fig8": Preset(
        "×8 beside ×16",
        {"method": ("bicubic", "sde-sr-ve", "fasr", "fasr++"), "degrade": ("16", "8")},
    ),
    "paper-fig9": Preset(
        "number of references, IDFSR before and after fitting",
        {
            "method": ("bicubic", "fasr++", "idfsr", "idfsr-fitted"),
            "references": ("1", "2", "4", "8"),
            "degrade": ("16", "8"),
        },
    ),
}
