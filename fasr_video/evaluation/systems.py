"""What is compared: a system is a method with all that can be varied of it, and draws a picture of each item."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fasr_video.detection.landmarks import LandmarkFinder
from fasr_video.errors import FasrError, InputError, UsageError
from fasr_video.evaluation.degradations import Degradation, enlarged, folder_name, repeated
from fasr_video.evaluation.photos import check_names, digest_of, plain_name
from fasr_video.evaluation.protocols import Item
from fasr_video.evaluation.store import Store
from fasr_video.files import PICTURES, sha256_file
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.recognition.combiner import FeatureCombiner
from fasr_video.recognition.embedder import Embedder, as_tensor, require_embedder
from fasr_video.sr import identity, sampling
from fasr_video.sr.attributes import Attribute, complete
from fasr_video.sr.guidance import STRENGTH, Guidance, open_guidance
from fasr_video.sr.methods import (
    METHODS,
    Method,
    ModelFiles,
    Need,
    Options,
    Supports,
    find_method,
    open_restorer,
)
from fasr_video.sr.methods import NAMES as METHOD_NAMES
from fasr_video.sr.methods.diffusion import FAMILY
from fasr_video.sr.methods.idfsr import IDFSR, Idfsr, load_idfsr_models
from fasr_video.sr.restoration import FaceInput, Restorer
from fasr_video.types import Image
from fasr_video.weights.manifest import bundled

IMAGES = "images:"
PLAIN = ("hr", "lr", "bicubic")
POOLED = "pooled"
# IDFSR with a vector fitted to the references of each face first.
FITTED = "idfsr-fitted"
FIT_STEPS = 200
OTHERS = (*PLAIN, POOLED, FITTED, f"{IMAGES}DIR")
NAMES = tuple(dict.fromkeys((*OTHERS, *METHOD_NAMES)))
MERGES = ("combiner", "mean", "weighted", "median")
# Whose cosines with a subject are averaged into a search's score.
FUSIONS = ("sr", "pooled+sr", "best+pooled+sr")
# Kinds of sampler that are processes of their own: methods with one are drawn by it alone.
PROCESSES = ("vecs", "vp", "subvp", "ddpm", *sampling.FLOWS)
# Warnings of a system that are told, the most frequent first; the others are counted.
MOST_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class System:
    """None: the method's own, or nothing that it knows."""

    method: str
    degradation: Degradation | None = None
    """None where probes are as the camera saw them."""
    sampler: str | None = None
    samples: int | None = None
    merge: str | None = None
    combiner: Path | None = None
    eta: float | None = None
    """That `combiner` was trained at, and is used at."""
    model: Path | None = None
    references: int | None = None
    """At most so many auxiliaries."""
    fuse: str | None = None

    @property
    def draws(self) -> bool:
        """Whether there is a picture to look at."""
        return self.method != POOLED


@dataclass(frozen=True, slots=True)
class Axes:
    """What is varied; each combination is a system. An empty one leaves it at each method's own."""

    method: Sequence[str]
    degradation: Sequence[Degradation] = ()
    sampler: Sequence[str] = ()
    samples: Sequence[int] = ()
    merge: Sequence[str] = ()
    combiner: Sequence[Path] = ()
    model: Sequence[Path] = ()
    references: Sequence[int] = ()
    fuse: Sequence[str] = ()

    def systems(self) -> list[System]:
        """Without those that differ only in what their method does not know."""
        for method in self.method:
            if method not in OTHERS and not method.startswith(IMAGES) and method_of(method) is None:
                raise UsageError(
                    f"method {method}", "no such method", f"use some of: {', '.join(NAMES)}"
                )
        for sampler in self.sampler:
            if not any(suits(method, sampler) for method in self.method):
                reason = f"none of {', '.join(self.method)} is drawn by its process"
                raise UsageError(
                    f"sampler {sampler}", reason, "leave it out, or give a method that it is for"
                )
        names = [f.name for f in fields(self)]
        rows = product(*(getattr(self, name) or (None,) for name in names))
        found = [System(**dict(zip(names, row, strict=True))) for row in rows]
        # A method that some sampler suits is drawn by those alone; one that none suits, by its own.
        kept = [
            s
            for s in found
            if s.sampler is None or suits(s.method, s.sampler) or s.method in self.unsuited()
        ]
        return list(dict.fromkeys(_sensible(s) for s in kept))

    def unsuited(self) -> list[str]:
        """Methods that none of the samplers is for: those that draw keep their own."""
        if not self.sampler:
            return []
        return [m for m in self.method if not any(suits(m, s) for s in self.sampler)]


def method_of(name: str) -> Method | None:
    """Return the method that draws a system of that name; None for hr, lr, pooled and images:DIR."""
    prefix, colon, _ = name.partition(":")
    if name == FITTED:
        return IDFSR
    return find_method(name) if prefix + colon in METHODS else None


def _sensible(system: System) -> System:
    """Without what the method does not know, and with what it does by itself written out."""
    told: dict[str, object] = {}
    method = method_of(system.method)
    supports = Supports() if method is None else method.supports
    if system.method in (*PLAIN, POOLED):
        told |= {"fuse": None}
    pools = takes_feature(system.method) or ("fuse" not in told and "pooled" in (system.fuse or ""))
    merge = (system.merge or (method.merge if method else None) or "combiner") if pools else None
    if not supports.samples:
        told |= {"samples": None}
    if method is None or not _takes_model(method):
        told |= {"model": None}
    if not suits(system.method, system.sampler):
        told |= {"sampler": None}
    if not pools and not supports.references:
        told |= {"references": None}
    if merge != "combiner":
        told |= {"combiner": None}
    sensible = replace(system, merge=merge, **told)  # type: ignore[arg-type]
    return (
        sensible
        if sensible.combiner is None
        else replace(sensible, eta=merging.read_eta(sensible.combiner))
    )


def _takes_model(method: Method) -> bool:
    """Return whether a method draws with the diffusion network, which the axis `model` varies."""
    return method in FAMILY


def suits(method: str, sampler: str | None) -> bool:
    """Whether a method stays what it is when it is drawn so: a kind of SDE is drawn by its own process alone."""
    registered = method_of(method)
    if registered is None or not registered.supports.sampler:
        return False
    if sampler is None:
        return True
    how = sampling.parse(sampler)
    if not registered.defaults.sampler:  # its network is of no paper's process
        return how.in_few_steps
    own = sampling.parse(registered.defaults.sampler).kind
    return how.kind == own if own in PROCESSES else how.kind not in PROCESSES


def takes_feature(method: str) -> bool:
    registered = method_of(method)
    return method == POOLED or (registered is not None and registered.supports.feature)


def uses_identity(method: str) -> bool:
    """Return whether pictures of that system are drawn with somebody's feature or references."""
    registered = method_of(method)
    return takes_feature(method) or (registered is not None and registered.supports.references)


def is_guided(method: str) -> bool:
    """Return whether a system is nothing without attributes."""
    registered = method_of(method)
    return registered is not None and Need.ATTRIBUTES in registered.needs


def labels(systems: Sequence[System]) -> list[str]:
    """A name for each: the method, and what differs between the systems of that method."""
    found: list[str] = []
    for system in systems:
        peers = [s for s in systems if s.method == system.method]
        parts = [_method_label(system.method)]
        for name in (f.name for f in fields(System)):
            if len({getattr(s, name) for s in peers}) > 1:
                parts.append(_part(name, getattr(system, name)))
        label = " ".join(parts)
        twins = sum(
            f == label or f.startswith(f"{label} (") for f in found
        )  # files of one name in two folders
        found.append(f"{label} ({twins + 1})" if twins else label)
    return found


def _method_label(method: str) -> str:
    prefix, colon, path = method.partition(":")
    return f"{prefix}:{Path(path).name}" if colon else method


def _part(name: str, value: object) -> str:
    if name == "degradation":
        return f"{value} px" if str(value).isdigit() else str(value)
    if name in ("sampler", "fuse", "merge"):
        return str(value)
    if isinstance(value, Path):
        return f"{name}={value.stem}"
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


# ------------------------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True, slots=True)
class Shown:
    """An item as the camera saw it."""

    item: Item
    lr0: Image
    auxiliaries: tuple[Image, ...]
    """Of their own sizes."""


# A picture of 128×128, and what there is to say of it.
Drawn = tuple[Image, tuple[str, ...]]


class Drawer(Protocol):
    def provenance(self, shown: Shown) -> Mapping[str, object]:
        """All that the picture depends on beside the faces themselves."""
        ...

    def draw(self, shown: Sequence[Shown]) -> list[Drawn]:
        """One an item."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What all systems of a run share."""

    store: Store
    embedder: Embedder
    """The one that conditions super-resolution."""
    device: torch.device
    precision: str = "float32"
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Other weights than the bundled ones, by method, of those whose network is not the axis `model`."""
    labelled: bool = False
    """Whether `srdg` is drawn towards labels, in place of what a classifier reads off the LR faces."""
    warnings: list[str] = field(default_factory=list)
    """What there is to say of what was drawn."""


class Plain:
    def __init__(self, method: str) -> None:
        self._method = method

    def provenance(self, shown: Shown) -> Mapping[str, object]:
        return {"method": self._method}

    def draw(self, shown: Sequence[Shown]) -> list[Drawn]:
        if self._method == "hr":
            return [(s.item.probe.picture, ()) for s in shown]
        pictures = (
            [repeated(s.lr0) for s in shown]
            if self._method == "lr"
            else enlarged([s.lr0 for s in shown])
        )
        return [(picture, ()) for picture in pictures]


class FromFolder:
    """Outputs that another program made: DIR/IDENTITY/PHOTO.png, or any other picture format, 128×128.

    In DIR there may be a folder for each degradation, named as `--inputs` names it.
    """

    def __init__(
        self, folder: Path, degradation: Degradation | None, items: Iterable[Item]
    ) -> None:
        own = folder / folder_name(degradation)
        folder = own if own.is_dir() else folder
        self._folder = folder
        found = (
            {}
            if not folder.is_dir()
            else {_stem(p, folder): p for p in sorted(folder.rglob("*")) if _is_picture(p)}
        )
        names = [item.name for item in items]
        check_names(names)
        missing = [name for name in names if plain_name(name) not in found]
        if missing:
            reason = f"it lacks {len(missing)} of {len(names)} pictures, the first is {missing[0]}"
            raise InputError(
                folder,
                reason,
                "make one for each picture that --inputs writes, under the same path",
            )
        self._files = {name: found[plain_name(name)] for name in names}

    def provenance(self, shown: Shown) -> Mapping[str, object]:
        return {"method": IMAGES, "picture": sha256_file(self._files[shown.item.name])}

    def draw(self, shown: Sequence[Shown]) -> list[Drawn]:
        return [(self._read(self._files[s.item.name]), ()) for s in shown]

    def _read(self, file: Path) -> Image:
        try:
            picture = read_picture(file)
        except UNREADABLE as error:
            raise InputError(file, "not a picture that can be read", "make it again") from error
        if picture.shape != (CANONICAL_SIDE, CANONICAL_SIDE, 3):
            height, width = picture.shape[:2]
            reason = f"{width}×{height} px, but all that is compared is {CANONICAL_SIDE}×{CANONICAL_SIDE}"
            raise InputError(file, reason, "bring the outputs to that size")
        return picture


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and path.is_file()


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


class ByRestorer:
    """Any restorer of `sr/`, told the feature that the system's merge makes of LR0 and its auxiliaries."""

    def __init__(
        self,
        system: System,
        restorer: Restorer,
        samples: int,
        tools: Tools,
        guidance: Guidance | None,
    ) -> None:
        self._system, self._restorer, self._samples, self._tools = system, restorer, samples, tools
        self._guidance = guidance
        self._pool = pooler(system, tools.embedder) if takes_feature(system.method) else None

    def provenance(self, shown: Shown) -> Mapping[str, object]:
        told = {} if self._pool is None else self._pool.provenance
        attributes = [str(a) for a in self._attributes(shown)] if self._tools.labelled else []
        common = {"samples": self._samples, "seed": shown.item.seed, "attributes": attributes}
        return {**self._restorer.provenance(), **told, **common}

    def draw(self, shown: Sequence[Shown]) -> list[Drawn]:
        answers = self._restorer.restore_all(
            [self._probe(s) for s in shown], self._samples, [s.item.seed for s in shown]
        )
        return [(a.picture, a.warnings) for a in answers]

    def _probe(self, shown: Shown) -> FaceInput:
        attributes = self._attributes(shown)
        if self._pool is None:
            return FaceInput(shown.lr0, attributes=attributes)
        feature = self._pool(self._tools.store, shown).numpy()
        return FaceInput(shown.lr0, feature=feature, attributes=attributes)

    def _attributes(self, shown: Shown) -> tuple[Attribute, ...]:
        if self._guidance is None:
            return ()
        said = _labelled(shown.item) if self._tools.labelled else ()
        return said or complete((), self._guidance.classifiers, [shown.lr0, *shown.auxiliaries])


def _labelled(item: Item) -> tuple[Attribute, ...]:
    """CelebA's columns, as an examiner would say them: 1 and 0, or its own −1."""
    told = {
        name: {"1": True, "0": False, "-1": False}.get(value)
        for name, value in item.probe.labels.items()
    }
    found = [(name, told.get(name)) for name in ("male", "glasses")]
    no_beard = told.get("no_beard")
    found.append(("beard", None if no_beard is None else not no_beard))
    return tuple(Attribute(name, value) for name, value in found if value is not None)


def _check_labels(items: Sequence[Item]) -> list[str]:
    """Drawing towards labels that are not there would be drawing towards what is read."""
    bare = [item.name for item in items if not _labelled(item)]
    if len(bare) == len(items):
        reason = "no probe has 1, 0 or -1 in a column male, glasses or no_beard"
        raise UsageError(
            "--labelled", reason, "give such columns with --labels, or leave --labelled out"
        )
    told = f"{len(bare)} of {len(items)} probes have no label of it ({', '.join(bare[:1])} is the first)"
    return [f"srdg --labelled: {told}: these are drawn towards what is read"] if bare else []


class ByIdfsr:
    """IDFSR: the auxiliaries' full-resolution photographs are its references; `fitted` fits a vector to them first."""

    def __init__(self, system: System, tools: Tools) -> None:
        finder = LandmarkFinder(str(tools.device))
        files = ModelFiles(network=tools.weights.get(IDFSR.name), embedder=tools.embedder)
        self._models = load_idfsr_models(files, tools.device, finder)
        self._restorer = Idfsr(self._models, system.sampler, tools.device, tools.precision)
        self._system, self._tools = system, tools

    def provenance(self, shown: Shown) -> Mapping[str, object]:
        fitted = FIT_STEPS if self._system.method == FITTED else 0
        references = [a.digest for a in shown.item.auxiliaries[: self._system.references]]
        common = {"samples": self._system.samples or 1, "seed": shown.item.seed}
        return {**self._restorer.provenance(), **common, "fitted": fitted, "references": references}

    def draw(self, shown: Sequence[Shown]) -> list[Drawn]:
        return [self._draw(s) for s in shown]

    def _draw(self, shown: Shown) -> Drawn:
        faces = tuple(a.picture for a in shown.item.auxiliaries[: self._system.references])
        restorer, unfitted = self._restorer, ""
        if self._system.method == FITTED:
            fitted, unfitted = self._fit(shown, faces)
            models = replace(self._models, identity=fitted)
            restorer = Idfsr(
                models, self._system.sampler, self._tools.device, self._tools.precision
            )
        probe = FaceInput(shown.lr0, faces)
        answer = restorer.restore_all([probe], self._system.samples or 1, [shown.item.seed])[0]
        return answer.picture, ((unfitted,) if unfitted else ()) + answer.warnings

    def _fit(self, shown: Shown, faces: tuple[Image, ...]) -> tuple[identity.Identity | None, str]:
        """The vector fitted to the references; None where fewer than two show landmarks, and why."""
        found = [
            (face, landmarks)
            for face in enlarged(faces)
            if (landmarks := self._models.find_landmarks(face)) is not None
        ]
        found = found[: identity.MOST]
        if len(found) < identity.FEWEST:
            return (
                None,
                f"drawn without fitting ({len(found)} references with landmarks, {identity.FEWEST} needed)",
            )
        pictures = as_tensor([face for face, _ in found])
        names = tuple(str(k) for k in range(len(found)))
        references = identity.References(
            names,
            names,
            pictures,
            torch.stack([torch.from_numpy(landmarks).float() for _, landmarks in found]),
            self._models.embedder.embed(pictures)[0],
        )
        try:
            vector, before, after = identity.fit(
                self._models.denoiser, references, FIT_STEPS, shown.item.seed, lambda _: None
            )
        except FasrError as error:
            return None, f"drawn without fitting ({error.reason})"
        about = identity.About(
            weights=self._models.denoiser_sha256,
            embedder=self._models.embedder.sha256,
            references=names,
            steps=FIT_STEPS,
            loss_before=before,
            loss_after=after,
            lowest_cosine=identity.lowest(identity.cosines(references)),
        )
        return identity.Identity(vector, about), ""


# ------------------------------------------------------------------------------------------------------------- pooling


class Pooler:
    """LR0 and its auxiliaries as one feature."""

    def __init__(
        self,
        rule: str,
        embedder: Embedder,
        combiner: FeatureCombiner | None,
        references: int | None,
    ) -> None:
        self._rule, self._embedder, self._combiner, self._references = (
            rule,
            embedder,
            combiner,
            references,
        )
        told = (
            rule
            if combiner is None
            else f"{rule} {merging.fingerprint(combiner)} eta {combiner.eta:g}"
        )
        self.provenance = {
            "pooled_by": told,
            "pooled_embedder": embedder.sha256,
            "auxiliaries": references,
        }

    def __call__(self, store: Store, shown: Shown) -> Tensor:
        faces = enlarged([shown.lr0, *shown.auxiliaries[: self._references]])
        named = {digest_of(face): face for face in faces}
        seen = store.features(self._embedder, named)
        features = torch.stack([seen[digest_of(face)] for face in faces])
        if self._rule == "combiner" and self._combiner is not None:
            return self._combiner.combine(features)
        if self._rule == "weighted":
            return merging.weighted_mean(features, features.norm(dim=1))
        return merging.robust_mean(features) if self._rule == "median" else merging.mean(features)


def pooler(system: System, embedder: Embedder) -> Pooler:
    """With the Feature Combiner that was trained on this embedder's features; where there is none, that is an error."""
    rule = system.merge or "combiner"
    if rule != "combiner":
        return Pooler(rule, embedder, None, system.references)
    file = system.combiner or bundled("combiner.safetensors")
    combiner = merging.load_combiner(file)
    require_embedder(file, combiner.source.sha256, embedder.sha256)
    return Pooler(rule, embedder, combiner, system.references)


def open_drawer(system: System, tools: Tools, items: Sequence[Item]) -> Drawer:
    name = system.method
    method = method_of(name)
    if name in PLAIN:
        return Plain(name)
    if method is None:
        return FromFolder(Path(name.removeprefix(IMAGES)), system.degradation, items)
    if method.supports.references:
        return ByIdfsr(system, tools)
    guidance = open_guidance((), STRENGTH, tools.device) if is_guided(name) else None
    options = Options(
        device=tools.device,
        files=ModelFiles(network=system.model or tools.weights.get(name), embedder=tools.embedder),
        sampler=system.sampler,
        precision=tools.precision,
        guidance=guidance,
    )
    given = replace(method, needs=method.needs - {Need.COMBINER})  # merging is done here
    samples = system.samples or method.defaults.samples
    return ByRestorer(system, open_restorer(given, options), samples, tools, guidance)


def check_systems(systems: Sequence[System], tools: Tools, items: Sequence[Item]) -> None:
    """Open each once: what is missing for the last one is told before hours are spent on the first."""
    alike = (replace(s, references=None, samples=None, fuse=None) for s in systems if s.draws)
    plain = (s if s.method.startswith(IMAGES) else replace(s, degradation=None) for s in alike)
    for system in dict.fromkeys(plain):
        open_drawer(system, tools, items)
    if tools.labelled and any(is_guided(s.method) for s in systems):
        tools.warnings.extend(_check_labels(items))
    tools.warnings.extend(_few_references(systems, items))


def _few_references(systems: Sequence[System], items: Sequence[Item]) -> list[str]:
    """A row that says eight references may stand for five."""
    told = []
    for wanted in sorted({s.references for s in systems if s.references}):
        having = [len(i.auxiliaries) for i in items if len(i.auxiliaries) < wanted]
        if having:
            counts = f"{len(having)} of {len(items)} searches have fewer auxiliaries, {min(having)} the least"
            told.append(f"references={wanted}: {counts}; all of theirs were taken")
    return told


def draw_all(
    system: System,
    label: str,
    shown: Sequence[Shown],
    tools: Tools,
    batch: int,
    tell: Callable[[int], None],
) -> list[Image]:
    """A picture of each item; those that are in the store already are not drawn again. `tell`: how many are done."""
    drawer = open_drawer(system, tools, [s.item for s in shown])
    keys = [_key(system, drawer, s) for s in shown]
    found = {key: drawn for key in keys if (drawn := tools.store.drawn(key)) is not None}
    missing = [(k, s) for k, s in zip(keys, shown, strict=True) if k not in found]
    done = len(shown) - len(missing)
    tell(done)
    for start in range(0, len(missing), batch):
        some = missing[start : start + batch]
        for (key, s), (picture, warnings) in zip(
            some, drawer.draw([s for _, s in some]), strict=True
        ):
            tools.store.keep(key, label, s.item.name, picture, warnings)
            found[key] = (picture, warnings)
        done += len(some)
        tell(done)
    if system.method not in PLAIN and not system.method.startswith(IMAGES):
        tools.warnings.extend(_summary(label, [found[key][1] for key in keys]))
    return [found[key][0] for key in keys]


def _summary(label: str, told: Sequence[tuple[str, ...]]) -> list[str]:
    """What there is to say of a system's pictures, and of how many: those that differ in numbers alone are one."""
    kinds: dict[str, list[str]] = {}
    for warnings in told:
        once: dict[str, str] = {}
        for text in warnings:
            once.setdefault(re.sub(r"\d+(\.\d+)?", "0", text), text)
        for kind, text in once.items():
            kinds.setdefault(kind, []).append(text)
    rows = sorted(kinds.values(), key=len, reverse=True)
    lines = [
        f"{label}, {len(row)} of {len(told)} pictures: {row[0]}" for row in rows[:MOST_WARNINGS]
    ]
    if len(rows) > MOST_WARNINGS:
        lines.append(f"{label}: {len(rows) - MOST_WARNINGS} rarer warnings are not shown")
    return lines


def _key(system: System, drawer: Drawer, shown: Shown) -> str:
    told = [digest_of(face) for face in (shown.lr0, *shown.auxiliaries)]
    question = [dict(drawer.provenance(shown)), shown.item.name, shown.item.probe.digest, told]
    return hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()
