"""Stills in, reconstructions out: pictures, a sheet with the original beside them, and the facts to repeat them by."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from fasr_video import __version__
from fasr_video.checkpoint import find_device
from fasr_video.detection import Detector, open_detector
from fasr_video.detection.photograph import ALONE, MIN_SCORE, Choice, Unclear, Which, choose_face
from fasr_video.errors import InputError, UsageError
from fasr_video.files import atomic_write, atomic_write_text, read_file, sha256_file
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.media.image_folder import others_in, pictures_in
from fasr_video.pictures import FORMATS
from fasr_video.provenance import BANNER, is_synthetic, png_note
from fasr_video.recognition.align import (
    CANONICAL,
    CANONICAL_SIDE,
    similarity,
    three_points,
    to_canonical,
)
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sqlite import explain_errors
from fasr_video.sr.attributes import complete, parse_all
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.guidance import STRENGTH, Guidance, open_guidance
from fasr_video.sr.methods import Method, ModelFiles, Options, find_method, open_restorer
from fasr_video.sr.restoration import (
    SMALLEST,
    FaceInput,
    Restoration,
    as_image,
    restore,
    square_face,
)
from fasr_video.types import Image


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
    attr: Sequence[str]
    """NAME=yes|no[:CONFIDENCE], or read."""
    guidance: float | None
    classifier: Sequence[str]
    """FILE of ours, or NAME=FILE for each published one; none for the bundled one."""
    identity: Path | None = None
    """A fitted identity, for idfsr."""
    face: Which = None
    """Which of several faces of a picture, with `align`."""


@dataclass(frozen=True, slots=True)
class Done:
    """One still, finished or refused."""

    path: Path
    state: str
    """drawn, there already, or refused."""
    sheet: Path | None
    warnings: tuple[str, ...]
    problem: str | None

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {
            "path": str(self.path),
            "sheet": None if self.sheet is None else str(self.sheet),
        }


def run(job: Job) -> Iterator[Done]:
    """Each image in turn; one that cannot be used is told and does not stop the others."""
    if job.samples is not None and not 1 <= job.samples <= 64:
        raise UsageError(f"--samples {job.samples}", "out of range", "give 1 to 64")
    method = find_method(job.method)
    _check(job, method)
    choice = _choice(job)
    said, reading = parse_all(job.attr)
    guidance = _guidance(job)
    options = Options(
        device=find_device(job.device),
        files=ModelFiles(job.model, job.embedder, job.combiner, job.identity),
        sampler=job.sampler,
        precision=job.precision,
        guidance=guidance,
    )
    restorer = open_restorer(method, options)
    samples = job.samples or method.defaults.samples
    detector = (
        open_detector("builtin", weights=None, device=job.device, min_score=MIN_SCORE)
        if job.align
        else None
    )
    auxiliaries, about_aux = read_auxiliaries(job.aux, detector)
    shared = {
        "auxiliaries": [a.sha256 for a in auxiliaries],
        "restorer": restorer.provenance(),
        "samples": samples,
        "seed": job.seed,
        "feature_only": job.feature_only,
        "aligned": job.align,
        "version": __version__,
    }
    if job.face is not None:
        shared["face"] = job.face
    if guidance is not None:
        guidance.classifiers.check(said)
        shared["attributes"] = {"said": [asdict(a) for a in said], "read": reading}
    faces = tuple(a.face for a in auxiliaries)
    for path in job.images:
        try:
            still = read_still(path, detector, method.supports.smallest, choice)
        except InputError as error:
            yield Done(path, "refused", None, (), str(error))
            continue
        target = Target(job.out, still, {"picture": still.sha256, **shared})
        warnings, state = target.earlier(), "there already"
        if warnings is None:
            held = (
                complete(said, guidance.classifiers, [still.face, *faces])
                if guidance and reading
                else said
            )
            probe = FaceInput(still.face, faces, lr_known=not job.feature_only, attributes=held)
            answer = restore(restorer, probe, samples, job.seed)
            warnings, state = [*still.warnings, *about_aux, *answer.warnings], "drawn"
            target.write(answer, warnings)
        yield Done(path, state, target.path("sheet.png"), tuple(warnings), None)


def _choice(job: Job) -> Choice:
    """Return which face of each picture is meant."""
    if job.face is not None and not job.align:
        reason = "without --align a picture is one face, and none is looked for"
        raise UsageError(f"--face {job.face}", reason, "give --align, too, or leave it out")
    if isinstance(job.face, int) and len(job.images) > 1:
        reason = f"{len(job.images)} pictures were given, and a number is about one"
        raise UsageError(f"--face {job.face}", reason, "give that picture alone, or --face largest")
    remedy = "take one with --face N (and this picture alone), the largest with --face largest, or cut it to one"
    return Choice(job.face, remedy)


def _check(job: Job, method: Method) -> None:
    """Refuse what would change nothing, and stand in the facts as if it had."""
    if method.supports.samples:
        return
    feature = method.supports.feature
    reason = f"method {job.method} draws no samples" + ("" if feature else ", and takes no feature")
    useless = {
        "--feature-only": job.feature_only and not feature,
        f"--samples {job.samples}": (job.samples or 1) > 1,
    }
    for option, given in useless.items():
        if given:
            raise UsageError(option, reason, "leave it out, or use fasr++ or fasr")


def _guidance(job: Job) -> Guidance | None:
    if job.attr:
        strength = STRENGTH if job.guidance is None else job.guidance
        return open_guidance(job.classifier, strength, find_device(job.device))
    for option, given in (
        ("--guidance", job.guidance is not None),
        ("--classifier", job.classifier),
    ):
        if given:
            raise UsageError(
                option, "there are no attributes to draw towards", "give some with --attr"
            )
    return None


def read_auxiliaries(
    folder: Path | None, detector: Detector | None
) -> tuple[list[Still], list[str]]:
    """The faces of the folder, and a warning for each that cannot be used or had to be cut."""
    if folder is None:
        return [], []
    remedy = "give a folder with faces of the same person"
    if not folder.is_dir():
        raise InputError(folder, "no such folder", remedy)
    stills, warnings = [], []
    for path in pictures_in(folder):
        try:
            stills.append(read_still(path, detector))
            warnings += [f"auxiliary {path.name}: {w}" for w in stills[-1].warnings]
        except InputError as error:
            warnings.append(f"auxiliary left out: {error}")
    warnings += [
        f"auxiliary left out: {p}: no picture by the ending of its name" for p in others_in(folder)
    ]
    if not stills:
        raise InputError(folder, warnings[0] if warnings else "it holds no pictures", remedy)
    return stills, warnings


def read_still(
    path: Path, detector: Detector | None, smallest: int = SMALLEST, choice: Choice = ALONE
) -> Still:
    """A face crop; with a detector, the face of a larger picture that is meant brought into the canonical frame."""
    if not path.is_file():
        raise InputError(
            path, "a folder" if path.is_dir() else "no such file", "give pictures of faces"
        )
    try:
        digest, image = sha256_file(path), read_picture(path)
    except UNREADABLE as error:
        remedy = f"give one of {', '.join(FORMATS)}"
        raise InputError(path, "not a picture that can be read", remedy) from error
    if is_synthetic(read_file(path)):
        raise InputError(path, "it is a reconstruction that this program drew", "give the original")
    if detector is not None:
        face, warnings = align_face(path, image, detector, smallest, choice)
    else:
        face, warnings = square_face(str(path), image, smallest)
        if len(face) > CANONICAL_SIDE:
            reason = f"a face of {len(face)} px needs no super-resolution to {CANONICAL_SIDE} px"
            raise InputError(
                path, reason, "give a small face crop, or --align for a picture with a face in it"
            )
    if face.min() == face.max():
        raise InputError(path, "one flat colour", "give a picture of a face")
    return Still(path, digest, face, warnings)


def align_face(
    path: Path, image: Image, detector: Detector, smallest: int, choice: Choice = ALONE
) -> tuple[Image, tuple[str, ...]]:
    """The face of a picture that is meant in the canonical frame, no larger than the camera saw it; and warnings."""
    found = choose_face(image, detector, choice)
    if isinstance(found, Unclear):
        raise InputError(path, found.reason, found.remedy)
    points = three_points(found.boxes[0], None if found.landmarks is None else found.landmarks[0])
    # The canonical square in the picture's own pixels: no larger than the camera saw it.
    one = similarity(points, CANONICAL)
    side = min(CANONICAL_SIDE, round(1 / float(np.hypot(one[0, 0], one[1, 0]))))
    if side < smallest:
        raise InputError(
            path,
            f"its face is {side} px, {smallest} needed",
            "choose a frame where the person is nearer",
        )
    warnings = (
        ()
        if found.landmarks is not None
        else ("aligned by the face's box: the detector gives no landmarks",)
    )
    return to_canonical(image, points, side), warnings


class Target:
    """The files of one answer; their name holds a piece of the question's hash, so that no answer replaces another."""

    def __init__(self, folder: Path, still: Still, asked: dict[str, object]) -> None:
        self._folder, self._still, self._asked = folder, still, asked
        mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        self._name = f"{still.path.stem}-{mark}"

    def path(self, kind: str) -> Path:
        return self._folder / f"{self._name}.{kind}"

    def earlier(self) -> list[str] | None:
        """The warnings of an earlier answer to the same question, if all of its files are there as they were."""
        try:
            facts = json.loads(read_file(self.path("json")))
            whole = all(
                sha256_file(self._folder / name) == digest
                for name, digest in facts["files"].items()
            )
            return list(facts["warnings"]) if whole and facts["asked"] == self._asked else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def write(self, answer: Restoration, warnings: list[str]) -> None:
        """The facts last: with them the still counts as done."""
        facts: dict[str, object] = {
            "what": BANNER,
            "source": str(self._still.path),
            "asked": self._asked,
            "network_calls": answer.calls,
            "feature": answer.feature,
            "attributes": [asdict(a) for a in answer.attributes],
            "disagreement": float(answer.spread.mean()),
            "warnings": warnings,
        }
        pictures = {"mean.png" if len(answer.samples) > 1 else "sr.png": answer.picture}
        if len(answer.samples) > 1:
            pictures |= {f"sample{k}.png": sample for k, sample in enumerate(answer.samples, 1)}
        pictures["sheet.png"] = sheet(self._still, answer)
        with explain_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for kind, picture in pictures.items():
                _save(self.path(kind), picture, facts)
            facts["files"] = {
                self.path(kind).name: sha256_file(self.path(kind)) for kind in pictures
            }
            text = json.dumps(facts, indent=2, allow_nan=False)
            atomic_write_text(self.path("json"), text)


def sheet(still: Still, answer: Restoration) -> Image:
    """The original in its own pixels, bicubic, the mean, each sample, and where the samples disagree."""
    side = answer.picture.shape[0]
    original = cv2.resize(still.face, (side, side), interpolation=cv2.INTER_NEAREST)
    cells = [(f"original, {len(still.face)} px", original)]
    cells.append(("bicubic", as_image(enlarge(as_tensor([still.face]), side)[0])))
    cells.append(
        (
            f"mean of {len(answer.samples)}" if len(answer.samples) > 1 else answer.method,
            answer.picture,
        )
    )
    if len(answer.samples) > 1:
        cells += [(f"sample {k + 1}", sample) for k, sample in enumerate(answer.samples)]
        cells.append(("disagreement, 4 times", heat(answer.spread)))
    head, line, gap = 16, 15, 6
    width = gap + len(cells) * (side + gap)
    told = _about_attributes(answer, width // 6)
    page = Pictures.new("RGB", (width, head + side + 18 + line * len(told)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for i, (label, picture) in enumerate(cells):
        left = gap + i * (side + gap)
        page.paste(Pictures.fromarray(np.ascontiguousarray(picture)), (left, head))
        pen.text((left, 2), label, fill="black", font=font)
    for i, text in enumerate((BANNER, *told)):
        pen.text((gap, head + side + 3 + line * i), text, fill=(176, 0, 0), font=font)
    return np.asarray(page)


def _about_attributes(answer: Restoration, letters: int) -> list[str]:
    """Lines of so many letters: what a guided picture was drawn towards, and what is to be said of it."""
    if not answer.attributes:
        return []
    told = [
        f"drawn towards {', '.join(map(str, answer.attributes))}: it shows them because of that",
        *answer.warnings,
    ]
    return [line for text in told for line in textwrap.wrap(text, letters)]


def heat(spread: NDArray[np.float32]) -> Image:
    """Disagreement from black (none) to white (a quarter of the whole range of brightness)."""
    levels = (np.clip(spread * 4, 0, 1) * 255).astype(np.uint8)
    return np.asarray(
        cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8
    )


def _save(path: Path, image: Image, facts: dict[str, object]) -> None:
    atomic_write(
        path,
        lambda partial: Pictures.fromarray(image).save(partial, "PNG", pnginfo=png_note(facts)),
    )
