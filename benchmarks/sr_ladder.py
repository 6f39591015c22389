"""Samplers on one trained network: how few network calls keep the quality and the spread of
thousands.

python benchmarks/sr_ladder.py [--faces 8] [--more 48] [--samples 2] [--model FILE]

The first table has every sampler beside the papers' own (predictor-corrector, 2,000 steps, 4,000
calls a sample) on a few faces; the second has the fast ones on more. Faces are people whom no
network was trained on, 16×16, each with the merged feature of the person's other photographs at
16×16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from results import Table, command_line
from torch import Tensor

from fasr_video.datasets.faces import read_faces, views
from fasr_video.evaluation.pictures import consistency, psnr, ssim
from fasr_video.recognition.embedder import Embedder
from fasr_video.recognition.embedders import open_embedder
from fasr_video.sr import samplers, sampling
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import Models, load_models
from fasr_video.sr.sampling import sample_seed

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
REFERENCE = "pc-2000"
LADDER = (
    "pc-100",
    "dpmpp-30",
    "dpmpp-20",
    "dpmpp-15",
    "dpmpp-10",
    "dpmpp-sde-30",
    "dpmpp-sde-20",
    "dpmpp-sde-15",
    "dpmpp-sde-10",
    "heun-10",
    "heun-8",
    "ddim-20",
    "dpmpp-15@3",
    "dpmpp-10@3",
    "dpmpp-10@1",
    "dpmpp-8@1",
    "dpmpp-sde-15@3",
)


@dataclass(frozen=True)
class Faces:
    clean: Tensor
    small: Tensor
    condition: Condition
    scorer: Embedder
    """dlib, which conditioned no network."""
    own: Tensor
    """Its feature of the true picture."""


@dataclass(frozen=True)
class SamplerQuality:
    mean_psnr: float
    sample_psnr: float
    mean_ssim: float
    identity: float
    """Cosine of the mean picture's feature with the true picture's."""
    sample_identity: float
    consistency: float
    spread: float
    distance_ratio: float
    """Squared distance of two samples over that of a sample and the truth: 1 for draws from the
    true posterior.
    """
    seconds: float


def choose_faces(count: int, models: Models, scorer: Embedder) -> Faces:
    """Return a photo each of people who have more, and the feature of their others at 16×16."""
    faces, _ = read_faces([DATA])
    groups = [g for g in faces.people.values() if len(g) >= 3][:count]
    pictures = views(faces.pictures, 128, False, torch.Generator())
    clean = pictures[[g[0] for g in groups]]
    small = shrink(clean, 16)
    assert models.features.embedder is not None and models.features.combiner is not None
    merged = []
    for g in groups:
        features, _ = models.features.embedder.embed(enlarge(shrink(pictures[g[1:]], 16), 128))
        merged.append(models.features.combiner.combine(features))
    own, _ = scorer.embed(clean)
    condition = models.condition(enlarge(small, 128), 16, torch.stack(merged))
    return Faces(clean, small, condition, scorer, own)


# A picture for each row of the condition.
Drawing = Callable[[Condition, samplers.Generators], Tensor]


def measure(draw: Drawing, faces: Faces, samples: int, batch: int = 16) -> SamplerQuality:
    rows = torch.arange(len(faces.clean)).repeat_interleave(samples)
    seeds = samplers.generators(
        [sample_seed(i, k) for i in range(len(faces.clean)) for k in range(samples)]
    )
    start = time.monotonic()
    parts = [
        draw(faces.condition[rows[i : i + batch]], seeds[i : i + batch])
        for i in range(0, len(rows), batch)
    ]
    seconds = time.monotonic() - start
    drawn = torch.cat(parts).unflatten(0, (-1, samples))
    mean, first = drawn.mean(1), drawn[:, 0]
    of_mean, of_first = (faces.scorer.embed(x)[0] for x in (mean, first))
    between = (drawn[:, 0] - drawn[:, 1]).square().mean()
    from_truth = (drawn[:, :2] - faces.clean[:, None]).square().mean()
    return SamplerQuality(
        float(psnr(mean, faces.clean).mean()),
        float(psnr(first, faces.clean).mean()),
        float(ssim(mean, faces.clean).mean()),
        float((of_mean * faces.own).sum(1).mean()),
        float((of_first * faces.own).sum(1).mean()),
        float(consistency(mean, faces.small).mean()),
        float(drawn.std(1).mean()),
        float(between / from_truth),
        seconds,
    )


COLUMNS = (
    "sampler",
    "network calls a sample",
    "PSNR of the mean",
    "PSNR of a sample",
    "SSIM of the mean",
    "identity of the mean, by dlib",
    "identity of a sample, by dlib",
    "LR consistency",
    "spread, share of the reference's",
    "samples' distance², share of that to the truth",
    "time, share of the reference's",
)


def table_row(name: str, calls: int, m: SamplerQuality, base: SamplerQuality) -> list[object]:
    """Return the row of a sampler; `base` is the reference."""
    return [
        name,
        calls,
        f"{m.mean_psnr:.2f}",
        f"{m.sample_psnr:.2f}",
        f"{m.mean_ssim:.4f}",
        f"{m.identity:.3f}",
        f"{m.sample_identity:.3f}",
        f"{m.consistency:.1f}",
        f"{m.spread / base.spread:.3f}",
        f"{m.distance_ratio:.2f}",
        f"{m.seconds / base.seconds:.4f}",
    ]


def add_rows(
    table: Table,
    names: tuple[str, ...],
    reference: str,
    faces: Faces,
    *,
    models: Models,
    samples: int,
) -> None:
    base: SamplerQuality | None = None
    for name in (reference, *names):
        sampler = sampling.parse(name)

        def draw(
            c: Condition, g: samplers.Generators, sampler: sampling.Sampling = sampler
        ) -> Tensor:
            return sampling.draw(models.denoiser, c, sampler, g)

        quality = measure(draw, faces, samples)
        base = base or quality
        table.add_row(table_row(name, sampler.calls, quality, base))
    bicubic = enlarge(faces.small, 128)
    identity = float((faces.scorer.embed(bicubic)[0] * faces.own).sum(1).mean())
    bicubic_cells = (
        f"{float(psnr(bicubic, faces.clean).mean()):.2f}",
        "",
        f"{float(ssim(bicubic, faces.clean).mean()):.4f}",
    )
    table.add_row(
        [
            "bicubic",
            0,
            *bicubic_cells,
            f"{identity:.3f}",
            "",
            f"{float(consistency(bicubic, faces.small).mean()):.1f}",
            "",
            "",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--more", type=int, default=48)
    parser.add_argument("--samples", type=int, default=2, help="two or more")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--reference", default=REFERENCE)
    args = parser.parse_args()
    models = load_models(METHODS["fasr++"], ModelFiles(network=args.model), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16
    scorer = open_embedder("dlib", None, "cpu")
    command = command_line()
    title = f"The reference sampler and all others: {args.faces} faces, {args.samples} samples each"
    ladder = Table("sr_ladder", f"Samplers on the compact network. {title}", command, COLUMNS)
    add_rows(
        ladder,
        LADDER,
        args.reference,
        choose_faces(args.faces, models, scorer),
        models=models,
        samples=args.samples,
    )
    more = Table("sr_ladder", f"The fast ones on {args.more} faces", command, COLUMNS)
    add_rows(
        more,
        LADDER[1:],
        LADDER[0],
        choose_faces(args.more, models, scorer),
        models=models,
        samples=args.samples,
    )
    more.add_note(
        "Identity is the cosine of dlib's features, which are not those that the network is "
        "given. The true face is itself a draw from the posterior, so two samples should lie as "
        "far from each other as from it: a share above 1 means too much invention, below 1 too "
        "little variety. LR consistency is the mean squared error ×10⁻⁵ of the picture shrunk "
        "again. Faces are of CelebA's validation people, never trained on; none is shown here."
    )
    ladder.write(more)


if __name__ == "__main__":
    main()
