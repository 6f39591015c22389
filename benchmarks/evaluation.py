"""The papers' tables and figures in shape: `fasr-video eval` on people whom no bundled model was
trained on.

python benchmarks/evaluation.py [--few 64] [--many 454] [--runs DIR] [--combiner FILE]…

`--few` are drawn by every method, some of which ask the network 300 times a picture, `--many` by
the fast ones alone; the gallery is always everybody's. The figure of η takes Feature Combiners that
were trained at each: `--combiner` twice or more; without them it is not made. The runs' folders
hold CelebA's faces: they stay out of the repository.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from models import DATA
from results import RESULTS, Table, command_line

FEW, MANY = "few", "many"
# The part that compares Feature Combiners.
ETA = "eta"
PHOTOS = DATA / "val-00.tar"
LABELS = ("--labels", str(DATA / "labels.csv"))
PRECISION = ("--precision", "bfloat16")
SYSTEM = "fasr++"
# dlib conditioned no network and never saw a small face; the builtin embedder is what a search here
# really uses.
TWO_SCORERS = ("--scorer", "dlib", "--scorer", "builtin")


@dataclass(frozen=True)
class Part:
    title: str
    shape_of: str
    count: str
    options: tuple[str, ...]


PARTS = {
    "methods": Part(
        "Methods at ×8",
        "the methods' tables",
        FEW,
        ("--preset", "paper-table1", "--baseline", "bicubic"),
    ),
    "search": Part(
        "Does super-resolution help the search? An open set, at four sizes",
        "the recognition tables; the open set is ours",
        MANY,
        ("--preset", "paper-table2", "--leave-out", "0.5", "--baseline", "bicubic", *TWO_SCORERS),
    ),
    "sdes": Part("Kinds of SDE", "SDE-SR's table", FEW, ("--preset", "paper-table3")),
    ETA: Part("η of the Feature Combiner", "FASR++'s figure", MANY, ("--preset", "paper-fig5")),
    "scales": Part("×8 beside ×16", "the figure of scales", FEW, ("--preset", "paper-fig8")),
    "references": Part(
        "How many references",
        "the figure of references",
        FEW,
        ("--preset", "paper-fig9", "--degrade", "16"),
    ),
}
# FASR++'s own, as published: trained on FFHQ, tested on CelebA with another recogniser.
PAPER = {"PSNR": "+3.37 dB", "SSIM": "+0.131", "Rank-1": "0.118 to 0.596"}


def evaluate(name: str, part: Part, args: argparse.Namespace) -> Path:
    """Run `fasr-video eval` for one part and return its folder."""
    folder: Path = args.runs / name
    count = args.few if part.count == FEW else args.many
    command = [
        sys.executable,
        "-m",
        "fasr_video",
        "eval",
        "celeba",
        str(PHOTOS),
        "--searches",
        str(count),
    ]
    files = args.combiner if name == ETA else ()
    combiners = [text for file in files for text in ("--combiner", str(file))]
    command += [*part.options, *combiners, *LABELS, *PRECISION, "--out", str(folder)]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 3):
        sys.exit(f"benchmark: {name} ended with {code}")
    return folder


def paper_table(folder: Path, command: str, count: int) -> Table:
    """Return the table of FASR++'s gain over the LR face, in its paper and here."""
    columns = ("measure", "the paper", "here: bicubic", f"here: {SYSTEM}")
    table = Table("evaluation", "The papers' tables with the bundled models", command, columns)
    rows: dict[str, dict[str, str]] = {}
    for file in sorted((folder / "tables").glob("*.csv")):
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                rows.setdefault(row.pop("system", ""), {}).update(row)
    for measure, published in PAPER.items():
        values = [float(rows[name][measure]) for name in ("bicubic", SYSTEM)]
        table.add_row([measure, published, *(f"{v:.3f}" for v in values)])
    table.add_note(
        "The papers trained on FFHQ with networks of 71 M parameters on GPUs, tested on CelebA "
        "and Quis-Campi, and scored with a published recogniser. Here: the same protocol on "
        "CelebA's validation people, networks of 12 M parameters from two CPU cores, scored by "
        f"dlib, {count} searches in a gallery of everybody. The tables have the same form, but it "
        "is not the same test. Left out: the table of fine-tuning on camera faces, which needs "
        "such faces, and rows of other restorers, whose weights are not available (`--method "
        "spandrel:FILE`). What each preset varies is in `../evaluation.md`."
    )
    return table


def read_tables(folder: Path) -> str:
    """Return the run's report without its title and its pictures of CelebA's people."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("# ", "!["))]
    return re.sub(
        r"\n{3,}", "\n\n", re.sub(r"^##", "###", "\n".join(lines), flags=re.MULTILINE)
    ).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=64)
    parser.add_argument("--many", type=int, default=454)
    parser.add_argument("--runs", type=Path, default=Path("runs/eval"))
    parser.add_argument("--combiner", type=Path, action="append", default=[], metavar="FILE")
    args = parser.parse_args()
    command = command_line()
    parts = {name: part for name, part in PARTS.items() if name != ETA or len(args.combiner) > 1}
    folders = {name: evaluate(name, part, args) for name, part in parts.items()}
    text = [paper_table(folders["methods"], command, args.few).text()]
    for name, part in parts.items():
        options = " ".join(part.options)
        text += [
            f"## {part.title}\n",
            f"In the shape of {part.shape_of}: `fasr-video eval celeba … {options}`.\n",
        ]
        text += [read_tables(folders[name]), ""]
    path = RESULTS / "evaluation.md"
    path.write_text("\n".join(text), encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
