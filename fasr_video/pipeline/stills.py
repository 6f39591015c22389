"""Stills in, reconstructions out: pictures, a sheet with the original, and a JSON file of facts."""

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
from fasr_video.detection import Detector, open_for_photographs
from fasr_video.detection.photograph import ALONE, Choice, Unclear, Which, choose_face
from fasr_video.errors import InputError, UsageError
from fasr_video.files import atomic_write, atomic_write_text, read_file, sha256_file
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.media.image_folder import others_in, pictures_in
from fasr_video.pictures import FORMATS
from fasr_video.provenance import BANNER, is_synthetic, png_note
from fasr_video.recognition.align import (
    CANONICAL_SIDE,
    native_side,
    three_points,
    to_canonical,
)
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sqlite import explain_errors
from fasr_video.sr.attributes import Attribute, complete, parse_all
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.guidance import STRENGTH, Guidance, open_guidance
from fasr_video.sr.methods import Method, ModelFiles, Options, find_method, open_restorer
from fasr_video.sr.methods.bicubic import BICUBIC
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
    """A picture of a face."""

    path: Path
    sha256: str
    face: Image
    """The LR face, square."""
    warnings: tuple[str, ...]


# Side in pixels of the largest face that a bundled network reconstructs.
LARGEST = 64


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of `fasr-video sr`."""

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
    """Which of several faces of a picture to take, with `align`."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result for one still."""

    path: Path
    state: str
    """`drawn`, `there already`, `refused`, or `not drawn`: enlarged by bicubic in its place."""
    sheet: Path | None
    warnings: tuple[str, ...]
    problem: str | None

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {
            "path": str(self.path),
            "sheet": None if self.sheet is None else str(self.sheet),
        }


def run(job: Job) -> Iterator[Done]:
    """Restore each image in turn; a refused one does not stop the others."""
    session = _Session(job)
    for path in job.images:
        yield session.restore(path)


class _Session:
    """What all stills of a job have in common: models, auxiliary faces and facts."""

    def __init__(self, job: Job) -> None:
        """Check the arguments, and open the models."""
        if job.samples is not None and not 1 <= job.samples <= 64:
            raise UsageError(f"--samples {job.samples}", "out of range", "give 1 to 64")
        self._job = job
        self._method = find_method(job.method)
        _check(job, self._method)
        self._choice = _choice(job)
        self._attributes, self._reads_attributes = parse_all(job.attr)
        self._guidance = _guidance(job)
        options = Options(
            device=find_device(job.device),
            files=ModelFiles(job.model, job.embedder, job.combiner, job.identity),
            sampler=job.sampler,
            precision=job.precision,
            guidance=self._guidance,
        )
        self._restorer = open_restorer(self._method, options)
        self._samples = job.samples or self._method.defaults.samples
        self._detector: Detector | None = None
        if job.align:
            self._detector = open_for_photographs(job.device)
        auxiliaries, self._auxiliary_warnings = read_auxiliaries(job.aux, self._detector)
        self._auxiliary_faces = tuple(still.face for still in auxiliaries)
        if self._guidance is not None:
            self._guidance.classifiers.check(self._attributes)
        self._facts = self._shared_facts(auxiliaries)

    def _shared_facts(self, auxiliaries: Sequence[Still]) -> dict[str, object]:
        """Return what each result depends on, beside its own picture."""
        job = self._job
        facts: dict[str, object] = {
            "auxiliaries": [still.sha256 for still in auxiliaries],
            "restorer": self._restorer.provenance(),
            "samples": self._samples,
            "seed": job.seed,
            "feature_only": job.feature_only,
            "aligned": job.align,
            "version": __version__,
        }
        if job.face is not None:
            facts["face"] = job.face
        if self._guidance is not None:
            stated = [asdict(attribute) for attribute in self._attributes]
            facts["attributes"] = {"stated": stated, "read": self._reads_attributes}
        return facts

    def restore(self, path: Path) -> Done:
        """Restore one still, unless the result is there already."""
        try:
            still = read_still(path, self._detector, self._method.supports.smallest, self._choice)
        except InputError as error:
            return Done(path, "refused", None, (), str(error))
        output = Output(self._job.out, still, {"picture": still.sha256, **self._facts})
        sheet_path = output.path("sheet.png")
        earlier = output.earlier_warnings()
        if earlier is not None:
            return Done(path, "there already", sheet_path, tuple(earlier), None)
        face = FaceInput(
            still.face,
            self._auxiliary_faces,
            lr_known=not self._job.feature_only,
            attributes=self._attributes_of(still),
        )
        restoration = restore(self._restorer, face, self._samples, self._job.seed)
        warnings = [*still.warnings, *self._auxiliary_warnings, *restoration.warnings]
        output.write(restoration, warnings)
        is_drawn = restoration.method != BICUBIC.name or self._method.name == BICUBIC.name
        state = "drawn" if is_drawn else "not drawn"
        return Done(path, state, sheet_path, tuple(warnings), None)

    def _attributes_of(self, still: Still) -> tuple[Attribute, ...]:
        """Return the stated attributes, with those that the classifier reads if that is wanted."""
        if self._guidance is None or not self._reads_attributes:
            return self._attributes
        faces = [still.face, *self._auxiliary_faces]
        return complete(self._attributes, self._guidance.classifiers, faces)


def _choice(job: Job) -> Choice:
    """Return which face of each picture to take."""
    if job.face is not None and not job.align:
        reason = "without --align each picture is taken as one face"
        raise UsageError(f"--face {job.face}", reason, "give --align as well, or leave it out")
    if isinstance(job.face, int) and len(job.images) > 1:
        reason = f"a number is for one picture, and {len(job.images)} were given"
        raise UsageError(f"--face {job.face}", reason, "give that picture alone, or --face largest")
    remedy = (
        "take one with --face N (and this picture alone), the largest with --face largest, "
        "or cut it to one"
    )
    return Choice(job.face, remedy)


def _check(job: Job, method: Method) -> None:
    """Raise for options that change nothing with this method: the facts would be misleading."""
    if method.supports.samples:
        return
    takes_feature = method.supports.feature
    reason = f"method {job.method} draws no samples"
    if not takes_feature:
        reason += ", and takes no feature"
    useless = {
        "--feature-only": job.feature_only and not takes_feature,
        f"--samples {job.samples}": (job.samples or 1) > 1,
    }
    for option, is_given in useless.items():
        if is_given:
            raise UsageError(option, reason, "leave it out, or use fasr++ or fasr")


def _guidance(job: Job) -> Guidance | None:
    """Open the guidance if there are attributes; raise for its options if there are none."""
    if job.attr:
        strength = STRENGTH if job.guidance is None else job.guidance
        return open_guidance(job.classifier, strength, find_device(job.device))
    options = {"--guidance": job.guidance is not None, "--classifier": bool(job.classifier)}
    for option, is_given in options.items():
        if is_given:
            reason = "there are no attributes to draw towards"
            raise UsageError(option, reason, "give some with --attr")
    return None


def read_auxiliaries(
    folder: Path | None, detector: Detector | None
) -> tuple[list[Still], list[str]]:
    """Return the faces of a folder, and a warning about each that is unusable or had to be cut."""
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
    """Read a face crop; with a detector, the chosen face of a larger picture, aligned."""
    if not path.is_file():
        if path.is_dir():
            raise InputError(path, "a folder", f"give its files: fasr-video sr {path}/*.jpg")
        raise InputError(path, "no such file", "give pictures of faces")
    try:
        digest = sha256_file(path)
        image = read_picture(path)
    except UNREADABLE as error:
        remedy = f"give one of {', '.join(FORMATS)}"
        raise InputError(path, "not a picture that can be read", remedy) from error
    if is_synthetic(read_file(path)):
        raise InputError(path, "it is a reconstruction that this program drew", "give the original")
    if detector is not None:
        face, warnings = align_face(path, image, detector, smallest, choice=choice)
    else:
        face, warnings = square_face(str(path), image, smallest)
        if len(face) > CANONICAL_SIDE:
            reason = f"the picture is larger than the {CANONICAL_SIDE} px that sr produces"
            remedy = (
                f"sr is for faces of {smallest} to {LARGEST} px; "
                "to cut a face out of a larger picture, add --align"
            )
            raise InputError(path, reason, remedy)
    if face.min() == face.max():
        raise InputError(path, "one flat colour", "give a picture of a face")
    return Still(path, digest, face, warnings)


def align_face(
    path: Path, image: Image, detector: Detector, smallest: int, *, choice: Choice = ALONE
) -> tuple[Image, tuple[str, ...]]:
    """Return the chosen face of a picture in the canonical frame, and warnings.

    It is no larger than in the picture itself.
    """
    face = choose_face(image, detector, choice)
    if isinstance(face, Unclear):
        raise InputError(path, face.reason, face.remedy)
    points = three_points(face.boxes[0], None if face.landmarks is None else face.landmarks[0])
    side = native_side(points)
    if side < smallest:
        reason = f"its face is {side} px, {smallest} needed"
        raise InputError(path, reason, "choose a frame where the person is nearer")
    warnings: tuple[str, ...] = ()
    if face.landmarks is None:
        warnings = ("aligned by the face's box: the detector gives no landmarks",)
    return to_canonical(image, points, side), warnings


class Output:
    """The files of one result.

    Their names have a part of a hash over all that the result depends on, so that no other result
    replaces them.
    """

    def __init__(self, folder: Path, still: Still, depends_on: dict[str, object]) -> None:
        self._folder = folder
        self._still = still
        self._depends_on = depends_on
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        self._name = f"{still.path.stem}-{digest[:8]}"

    def path(self, ending: str) -> Path:
        return self._folder / f"{self._name}.{ending}"

    def earlier_warnings(self) -> list[str] | None:
        """Return the warnings of an earlier result, if there is one with all files unchanged."""
        try:
            facts = json.loads(read_file(self.path("json")))
            if facts["request"] != self._depends_on:
                return None
            for name, digest in facts["files"].items():
                if sha256_file(self._folder / name) != digest:
                    return None
            return list(facts["warnings"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def write(self, restoration: Restoration, warnings: list[str]) -> None:
        """Write the pictures, and then the facts, which mark the result as complete."""
        facts: dict[str, object] = {
            "what": BANNER,
            "source": str(self._still.path),
            "request": self._depends_on,
            "network_calls": restoration.calls,
            "feature": restoration.feature,
            "attributes": [asdict(attribute) for attribute in restoration.attributes],
            "disagreement": float(restoration.spread.mean()),
            "warnings": warnings,
        }
        samples = restoration.samples
        pictures = {"mean.png" if len(samples) > 1 else "sr.png": restoration.picture}
        if len(samples) > 1:
            pictures |= {f"sample{k}.png": sample for k, sample in enumerate(samples, 1)}
        pictures["sheet.png"] = sheet(self._still, restoration)
        with explain_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for ending, picture in pictures.items():
                _save(self.path(ending), picture, facts)
            facts["files"] = {
                self.path(ending).name: sha256_file(self.path(ending)) for ending in pictures
            }
            text = json.dumps(facts, indent=2, allow_nan=False)
            atomic_write_text(self.path("json"), text)


def sheet(still: Still, restoration: Restoration) -> Image:
    """Draw a sheet with the original, its bicubic enlargement, and the result.

    The result is a picture, or the mean, the samples, and where the samples disagree.
    """
    side = restoration.picture.shape[0]
    cells = _sheet_cells(still, restoration, side)
    top, line_height, gap = 16, 15, 6
    width = gap + len(cells) * (side + gap)
    notes = _attribute_notes(restoration, width // 6)
    height = top + side + 18 + line_height * len(notes)
    page = Pictures.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for i, (label, picture) in enumerate(cells):
        left = gap + i * (side + gap)
        page.paste(Pictures.fromarray(np.ascontiguousarray(picture)), (left, top))
        draw.text((left, 2), label, fill="black", font=font)
    for i, text in enumerate((BANNER, *notes)):
        draw.text((gap, top + side + 3 + line_height * i), text, fill=(176, 0, 0), font=font)
    return np.asarray(page)


def _sheet_cells(still: Still, restoration: Restoration, side: int) -> list[tuple[str, Image]]:
    """Return the labels and pictures of a sheet."""
    samples = restoration.samples
    original = cv2.resize(still.face, (side, side), interpolation=cv2.INTER_NEAREST)
    bicubic = as_image(enlarge(as_tensor([still.face]), side)[0])
    label = f"mean of {len(samples)}" if len(samples) > 1 else restoration.method
    cells = [
        (f"original, {len(still.face)} px", np.asarray(original, np.uint8)),
        ("bicubic", bicubic),
        (label, restoration.picture),
    ]
    if len(samples) > 1:
        cells += [(f"sample {k}", sample) for k, sample in enumerate(samples, 1)]
        cells.append(("disagreement, 4 times", heat(restoration.spread)))
    return cells


def _attribute_notes(restoration: Restoration, letters: int) -> list[str]:
    """Return what a sheet says about attributes, in lines of a limited number of letters."""
    if not restoration.attributes:
        return []
    attributes = ", ".join(map(str, restoration.attributes))
    notes = [
        f"drawn towards {attributes}: it shows them because of that",
        *restoration.warnings,
    ]
    return [line for note in notes for line in textwrap.wrap(note, letters)]


def heat(spread: NDArray[np.float32]) -> Image:
    """Draw disagreement from black (none) to white (a quarter of the range of brightness)."""
    levels = (np.clip(spread * 4, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), np.uint8)


def _save(path: Path, image: Image, facts: dict[str, object]) -> None:
    atomic_write(
        path,
        lambda partial: Pictures.fromarray(image).save(partial, "PNG", pnginfo=png_note(facts)),
    )
