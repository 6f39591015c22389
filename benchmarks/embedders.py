"""Embedders beside each other on the validation people, from full size down to 12 px and through
cameras.

python benchmarks/embedders.py [--people 907] [--data ../shared/data] [--without dlib] [--traced
NAME FILE]

The papers' protocol: each person's first photograph is the gallery, the second is the probe; where
faces are pooled, all but the first are.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from footage import DATA, find_data
from results import Table, command_line
from torch import Tensor
from torch.nn import functional as F

from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.evaluation.open_set import rank_and_area
from fasr_video.recognition.embedders import open_embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.surveillance import camera
from fasr_video.training.teacher import Teacher

PLAIN = (128, 64, 32, 24, 16, 12)
CAMERA = (64, 32, 16)
POOLED = 16
TEACHER = "face-reidentification-retail-0095.xml"
# N×3×128×128 in [0, 1] → N unit vectors.
Embed = Callable[[Tensor], Tensor]


def degrade(pictures: Tensor, side: int, by_camera: bool) -> Tensor:
    """Return the faces shrunk and enlarged again, or each degraded by a camera of its own."""
    if by_camera:
        return camera(side)(pictures, range(len(pictures)))
    return pictures if side == 128 else enlarge(shrink(pictures, side), 128)


def open_traced(file: Path) -> Embed:
    """Return an embedder that was saved by torch.jit: weights of an earlier network."""
    net = torch.jit.load(str(file)).eval()

    @torch.inference_mode()
    def embed(faces: Tensor) -> Tensor:
        parts = [net(part) for part in faces.split(8)]
        return F.normalize(torch.cat(parts), dim=1)

    return embed


def open_embedders(
    data: Path, without: Sequence[str], others: Sequence[tuple[str, str]] = ()
) -> dict[str, Embed]:
    """Return the compared embedders by name."""
    builtin, dlib = (open_embedder(name, None, "cpu") for name in ("builtin", "dlib"))
    teacher = Teacher(find_data(data / "teachers" / TEACHER), torch.device("cpu"))
    by_name: dict[str, Embed] = {
        "builtin": lambda x: builtin.embed(x)[0],
        "the teacher": teacher.vectors,
        "dlib": lambda x: dlib.embed(x)[0],
    }
    by_name |= {name: open_traced(find_data(Path(file))) for name, file in others}
    return {name: embed for name, embed in by_name.items() if name not in without}


def embed_in_batches(embed: Embed, pictures: Tensor) -> Tensor:
    return torch.cat([embed(part) for part in pictures.split(64)])


def table_cells(groups: list[list[int]], pictures: Tensor, embed: Embed) -> list[str]:
    """Return the cells of one embedder: Rank-1 and AUC for each kind of probe."""
    gallery = embed_in_batches(embed, pictures[[g[0] for g in groups]])
    probes = pictures[[g[1] for g in groups]]
    cells = []
    for by_camera, sides in ((False, PLAIN), (True, CAMERA)):
        for side in sides:
            cells.append(
                format_rank_and_area(
                    embed_in_batches(embed, degrade(probes, side, by_camera)), gallery
                )
            )
    others = [row for g in groups for row in g[1:]]
    small = embed_in_batches(embed, degrade(pictures[others], POOLED, False))
    owner = torch.tensor([i for i, g in enumerate(groups) for _ in g[1:]])
    pooled = torch.zeros_like(gallery).index_add_(0, owner, small)
    return [*cells, format_rank_and_area(F.normalize(pooled, dim=1), gallery)]


def format_rank_and_area(probes: Tensor, gallery: Tensor) -> str:
    rank, area = rank_and_area((probes @ gallery.T).numpy())
    return f"{rank:.3f} ({area:.3f})"


def measure_milliseconds(embed: Embed, pictures: Tensor) -> float:
    """Return the milliseconds a face, of the faster of two runs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        embed_in_batches(embed, pictures)
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / len(pictures)


def read_people(file: Path, count: int) -> tuple[list[list[int]], Faces]:
    faces, _ = read_faces([file])
    return [g for g in faces.people.values() if len(g) >= 3][:count], faces


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=907)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--without", action="append", default=[], help="an embedder to leave out")
    parser.add_argument(
        "--traced",
        action="append",
        default=[],
        nargs=2,
        metavar=("NAME", "FILE"),
        help="another one, saved by torch.jit",
    )
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    groups, faces = read_people(find_data(args.data / "celeba" / "val-00.tar"), args.people)
    pictures = views(faces.pictures, 128, False, torch.Generator())
    columns = [f"{side} px" for side in PLAIN] + [f"{side} px, camera" for side in CAMERA]
    table = Table(
        "embedders",
        f"Embedders: {len(groups)} people, Rank-1 and in brackets AUC",
        command_line(),
        ["embedder", *columns, f"pooled {POOLED} px", "ms a face"],
    )
    for name, embed in open_embedders(args.data, args.without, args.traced).items():
        table.add_row(
            [
                name,
                *table_cells(groups, pictures, embed),
                f"{measure_milliseconds(embed, pictures[:128]):.1f}",
            ]
        )
    table.add_note(
        "128 px is the photograph as it is. The smaller ones are shrunk (antialiased bilinear) "
        "and enlarged (bicubic) as in the papers, or degraded as by a camera: blurred, noisy, "
        "compressed, a little misaligned. *Pooled*: the mean of all of a person's photographs but "
        "the first. The teacher is what the builtin embedder was distilled from, each face with "
        "its mirror image; dlib is the public-domain recogniser, which nothing here was trained "
        "with. The builtin embedder was trained on none of these people. Rank-1 is uncertain by "
        f"±{1.96 * math.sqrt(0.25 / len(groups)):.3f} (95 %)."
    )
    table.write()


if __name__ == "__main__":
    main()
