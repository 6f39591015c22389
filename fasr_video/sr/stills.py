"""Stills in, reconstructions out: pictures, a sheet with the original beside them, and the facts to repeat them by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from fasr_video import __version__
from fasr_video.checkpoint import find_device
from fasr_video.errors import InputError, UsageError
from fasr_video.pipeline.case import environment
from fasr_video.pipeline.detect import Detector, open_detector
from fasr_video.pipeline.media import UNREADABLE, read_picture
from fasr_video.recognition.align import CANONICAL, CANONICAL_SIDE, similarity, three_points, to_canonical
from fasr_video.sr.methods import METHODS, Models, load_models, make_restorer, samples_of
from fasr_video.sr.restoration import SMALLEST, Probe, Restoration, Restorer, restore, square_face
from fasr_video.types import Image

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
BANNER = "SYNTHETIC RECONSTRUCTION · lead only, not for comparison"


@dataclass(frozen=True, slots=True)
class Still:
    path: Path
    sha256: str
    face: Image
    """The LR face, square."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What `fasr-video sr` is asked for."""

    images: Sequence[Path]
    aux: Path | None
    align: bool
    out: Path
    method: str
    samples: int | None
    seed: int
    sampler: str | None
    feature_only: bool
    model: Path | None
    embedder: Path | None
    combiner: Path | None
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class Done:
    """One still, finished or refused."""

    path: Path
    state: str
    """drawn, or there already."""
    sheet: Path | None
    warnings: tuple[str, ...]
    problem: str | None

    def as_json(self) -> dict[str, object]:
        sheet = None if self.sheet is None else str(self.sheet)
        return {
            "picture": str(self.path),
            "state": self.state,
            "sheet": sheet,
            "warnings": list(self.warnings),
            "problem": self.problem,
        }


def run(job: Job) -> Iterator[Done]:
    """Each image in turn; one that cannot be used is told and does not stop the others."""
    if job.samples is not None and not 1 <= job.samples <= 64:
        raise UsageError(f"--samples {job.samples}", "out of range", "give 1 to 64")
    restorer = open_restorer(job)
    samples = job.samples or samples_of(job.method)
    detector = open_detector("builtin", weights=None, device=job.device, min_score=0.5) if job.align else None
    auxiliaries = [] if job.aux is None else [read_still(p, detector) for p in _pictures_in(job.aux)]
    names = _names(job.images)
    for path in job.images:
        try:
            still = read_still(path, detector)
        except InputError as error:
            yield Done(path, "refused", None, (), str(error))
            continue
        asked = {
            "picture": still.sha256,
            "auxiliaries": [a.sha256 for a in auxiliaries],
            "restorer": restorer.facts(),
            "samples": samples,
            "seed": job.seed,
            "feature_only": job.feature_only,
            "aligned": job.align,
            "version": __version__,
        }
        target = job.out / names[path]
        warnings = _earlier(target, asked)
        state = "there already"
        if warnings is None:
            probe = Probe(still.face, tuple(a.face for a in auxiliaries), lr_known=not job.feature_only)
            answer = restore(restorer, probe, samples, job.seed)
            warnings, state = [*still.warnings, *answer.warnings], "drawn"
            _write(target, still, answer, asked, warnings)
        yield Done(path, state, target.with_name(f"{target.name}.sheet.png"), tuple(warnings), None)


def open_restorer(job: Job) -> Restorer:
    device = find_device(job.device)

    def models() -> Models:
        loaded = load_models(job.model, job.embedder, job.combiner, device, METHODS[job.method].merge)
        loaded.denoiser.precision = PRECISIONS[job.precision]
        return loaded

    return make_restorer(job.method, models, job.sampler, device)


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "give a folder with faces of the same person")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(folder, "it holds no pictures", "give a folder with faces of the same person")
    return files


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """The files' stems, with a piece of the path's hash where two are alike."""
    stems = [p.stem for p in paths]
    marks = {p: hashlib.sha256(str(p).encode()).hexdigest()[:8] for p in paths}
    return {p: p.stem if stems.count(p.stem) == 1 else f"{p.stem}-{marks[p]}" for p in paths}


def _earlier(target: Path, asked: dict[str, object]) -> list[str] | None:
    """The warnings of an earlier answer to the same question, if it is there whole."""
    try:
        facts = json.loads(target.with_name(f"{target.name}.json").read_text(encoding="utf-8"))
        return list(facts["warnings"]) if facts["asked"] == asked else None
    except (OSError, ValueError, KeyError):
        return None


def read_still(path: Path, detector: Detector | None) -> Still:
    """A face crop; with a detector, the one face of a larger picture brought into the canonical frame."""
    if not path.is_file():
        raise InputError(path, "no such file", "check the path")
    try:
        image = read_picture(path)
    except UNREADABLE as error:
        raise InputError(path, "not a picture that can be read", "give PNG, JPEG, WebP, BMP or TIFF") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if detector is not None:
        face, warnings = _aligned(path, image, detector)
    else:
        face, warnings = square_face(str(path), image)
        if len(face) > CANONICAL_SIDE:
            reason = f"a face of {len(face)} px needs no super-resolution to {CANONICAL_SIDE} px"
            raise InputError(path, reason, "give a small face crop, or --align for a picture with a face in it")
    return Still(path, digest, face, warnings)


def _aligned(path: Path, image: Image, detector: Detector) -> tuple[Image, tuple[str, ...]]:
    found = detector.detect([image])[0]
    found = found.take(found.scores >= 0.5)
    if len(found) != 1:
        raise InputError(
            path, f"{len(found) or 'no'} faces found in it, one needed", "cut it so that it shows one face"
        )
    points = three_points(found.boxes[0], None if found.landmarks is None else found.landmarks[0])
    # The canonical square in the picture's own pixels: no larger than the camera saw it.
    one = similarity(points, CANONICAL)
    side = min(CANONICAL_SIDE, round(1 / float(np.hypot(one[0, 0], one[1, 0]))))
    if side < SMALLEST:
        raise InputError(path, f"its face is {side} px, {SMALLEST} needed", "choose a frame where the person is nearer")
    warnings = () if found.landmarks is not None else ("aligned by the face's box: the detector gives no landmarks",)
    return to_canonical(image, points, side), warnings


def _write(target: Path, still: Still, answer: Restoration, asked: dict[str, object], warnings: list[str]) -> None:
    """NAME.png, NAME.sampleK.png, NAME.sheet.png and NAME.json; the last one last: with it the still counts as done."""
    facts = {
        "what": BANNER,
        "source": str(still.path),
        "asked": asked,
        "network_calls": answer.calls,
        "feature": answer.feature,
        "disagreement": float(answer.spread.mean()),
        "warnings": warnings,
    }
    with environment(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        _save(target.with_name(f"{target.name}.png"), answer.picture, facts)
        for k, sample in enumerate(answer.samples if len(answer.samples) > 1 else ()):
            _save(target.with_name(f"{target.name}.sample{k + 1}.png"), sample, facts)
        _save(target.with_name(f"{target.name}.sheet.png"), sheet(still, answer), facts)
        text = json.dumps(facts, indent=2)
        _replace(target.with_name(f"{target.name}.json"), lambda path: path.write_text(text, encoding="utf-8"))


def sheet(still: Still, answer: Restoration) -> Image:
    """The original in its own pixels, bicubic, the mean, each sample, and where the samples disagree."""
    side = answer.picture.shape[0]
    original = cv2.resize(still.face, (side, side), interpolation=cv2.INTER_NEAREST)
    cells = [(f"original, {len(still.face)} px", original)]
    cells.append(("bicubic", cv2.resize(still.face, (side, side), interpolation=cv2.INTER_CUBIC)))
    cells.append((f"mean of {len(answer.samples)}" if len(answer.samples) > 1 else answer.method, answer.picture))
    if len(answer.samples) > 1:
        cells += [(f"sample {k + 1}", sample) for k, sample in enumerate(answer.samples)]
        cells.append(("disagreement ×4", heat(answer.spread)))
    head, foot, gap = 16, 18, 6
    page = Pictures.new("RGB", (gap + len(cells) * (side + gap), head + side + foot), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for i, (label, picture) in enumerate(cells):
        left = gap + i * (side + gap)
        page.paste(Pictures.fromarray(np.ascontiguousarray(picture)), (left, head))
        pen.text((left, 2), label, fill="black", font=font)
    pen.text((gap, head + side + 3), BANNER, fill=(176, 0, 0), font=font)
    return np.asarray(page)


def heat(spread: NDArray[np.float32]) -> Image:
    """Disagreement from black (none) to white (a quarter of the whole range of brightness)."""
    levels = (np.clip(spread * 4, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def _save(path: Path, image: Image, facts: dict[str, object]) -> None:
    note = PngInfo()
    note.add_text("Description", BANNER)
    note.add_itxt("fasr-video", json.dumps(facts))
    _replace(path, lambda partial: Pictures.fromarray(image).save(partial, "PNG", pnginfo=note))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(path.name + ".part")
    write(partial)
    os.replace(partial, path)
