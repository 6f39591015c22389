"""The systems of a comparison: a system is a method with its options, and draws each item's
picture.
"""

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

from fasr_video.datasets.faces import plain_name
from fasr_video.detection.landmarks import LandmarkFinder
from fasr_video.errors import FasrError, InputError, UsageError
from fasr_video.evaluation.degradations import Degradation, enlarged, folder_name, repeated
from fasr_video.evaluation.photos import check_names, digest_of
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
# IDFSR with an identity that is first fitted to the references of each face.
FITTED = "idfsr-fitted"
FIT_STEPS = 200
OTHERS = (*PLAIN, POOLED, FITTED, f"{IMAGES}DIR")
NAMES = tuple(dict.fromkeys((*OTHERS, *METHOD_NAMES)))
MERGES = ("combiner", "mean", "weighted", "median")
# Features whose cosines with a subject are averaged as the score of a search.
FUSIONS = ("sr", "pooled+sr", "best+pooled+sr")
# Samplers with a process of their own: a method with one of them takes no other.
PROCESSES = ("vecs", "vp", "subvp", "ddpm", *sampling.FLOWS)
# Number of a system's warnings that are shown, the most frequent first; others are counted.
MOST_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class System:
    """A method with its options; None for the method's default, or if it does not apply."""

    method: str
    degradation: Degradation | None = None
    """None if probes are as the camera saw them."""
    sampler: str | None = None
    samples: int | None = None
    merge: str | None = None
    combiner: Path | None = None
    eta: float | None = None
    """The eta that `combiner` was trained with."""
    model: Path | None = None
    references: int | None = None
    """Largest number of auxiliaries."""
    fuse: str | None = None

    @property
    def draws(self) -> bool:
        """Whether it draws pictures."""
        return self.method != POOLED


@dataclass(frozen=True, slots=True)
class Axes:
    """Values of the options; each combination is a system. Empty means the methods' defaults."""

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
        """Return all systems, without those that differ only in options that do not apply."""
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
        combinations = [System(**dict(zip(names, row, strict=True))) for row in rows]
        # A method takes the samplers that suit it; if none does, its own.
        drawable = [
            s
            for s in combinations
            if s.sampler is None or suits(s.method, s.sampler) or s.method in self.unsuited()
        ]
        return list(dict.fromkeys(_normalised(s) for s in drawable))

    def unsuited(self) -> list[str]:
        """Return the methods that none of the samplers suits; they keep their own."""
        if not self.sampler:
            return []
        return [m for m in self.method if not any(suits(m, s) for s in self.sampler)]


def method_of(name: str) -> Method | None:
    """Return the method of a system's name; None for hr, lr, pooled and images:DIR."""
    prefix, colon, _ = name.partition(":")
    if name == FITTED:
        return IDFSR
    return find_method(name) if prefix + colon in METHODS else None


def _normalised(system: System) -> System:
    """Return the system without options that do not apply, and with its default merge and eta."""
    changes: dict[str, object] = {}
    method = method_of(system.method)
    supports = Supports() if method is None else method.supports
    if system.method in (*PLAIN, POOLED):
        changes["fuse"] = None
    pools = takes_feature(system.method) or (
        "fuse" not in changes and "pooled" in (system.fuse or "")
    )
    merge = (system.merge or (method.merge if method else None) or "combiner") if pools else None
    if not supports.samples:
        changes["samples"] = None
    if method is None or not _takes_model(method):
        changes["model"] = None
    if not suits(system.method, system.sampler):
        changes["sampler"] = None
    if not pools and not supports.references:
        changes["references"] = None
    if merge != "combiner":
        changes["combiner"] = None
    changed = replace(system, merge=merge, **changes)  # type: ignore[arg-type]
    if changed.combiner is None:
        return changed
    return replace(changed, eta=merging.read_eta(changed.combiner))


def _takes_model(method: Method) -> bool:
    """Return whether a method uses the diffusion network, which the axis `model` varies."""
    return method in FAMILY


def suits(method: str, sampler: str | None) -> bool:
    """Return whether a sampler suits a method: a method of one SDE takes that process alone."""
    registered = method_of(method)
    if registered is None or not registered.supports.sampler:
        return False
    if sampler is None:
        return True
    parsed = sampling.parse(sampler)
    if not registered.defaults.sampler:  # its network belongs to no paper's process
        return parsed.in_few_steps
    own = sampling.parse(registered.defaults.sampler).kind
    return parsed.kind == own if own in PROCESSES else parsed.kind not in PROCESSES


def takes_feature(method: str) -> bool:
    """Return whether that system uses a person's merged feature."""
    registered = method_of(method)
    return method == POOLED or (registered is not None and registered.supports.feature)


def uses_identity(method: str) -> bool:
    """Return whether that system uses somebody's feature or references."""
    registered = method_of(method)
    return takes_feature(method) or (registered is not None and registered.supports.references)


def is_guided(method: str) -> bool:
    """Return whether that system needs attributes."""
    registered = method_of(method)
    return registered is not None and Need.ATTRIBUTES in registered.needs


def labels(systems: Sequence[System]) -> list[str]:
    """Return a name for each system: the method, and the options in which its systems differ."""
    names: list[str] = []
    for system in systems:
        peers = [s for s in systems if s.method == system.method]
        parts = [_method_label(system.method)]
        for option in (f.name for f in fields(System)):
            if len({getattr(s, option) for s in peers}) > 1:
                parts.append(_part(option, getattr(system, option)))
        label = " ".join(parts)
        # Two folders can have files of one name.
        twins = sum(name == label or name.startswith(f"{label} (") for name in names)
        names.append(f"{label} ({twins + 1})" if twins else label)
    return names


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


# ------------------------------------------------------------------------------------------ drawing


@dataclass(frozen=True, slots=True)
class ObservedItem:
    """An item's faces as the camera saw them."""

    item: Item
    lr0: Image
    auxiliaries: tuple[Image, ...]
    """Faces of any sizes."""


# A picture of 128×128, and its warnings.
Drawn = tuple[Image, tuple[str, ...]]


class Drawer(Protocol):
    def provenance(self, observed: ObservedItem) -> Mapping[str, object]:
        """Return everything that the picture depends on, besides the faces."""
        ...

    def draw(self, observed: Sequence[ObservedItem]) -> list[Drawn]:
        """Return a picture for each item."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What all systems of a run have in common."""

    store: Store
    embedder: Embedder
    """The embedder that conditions super-resolution."""
    device: torch.device
    precision: str = "float32"
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Weights other than the bundled ones, by method; for methods without the axis `model`."""
    labelled: bool = False
    """Whether labels guide `srdg`, not a classifier's readings of the LR faces."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about the drawn pictures."""


class Plain:
    """The methods hr, lr and bicubic."""

    def __init__(self, method: str) -> None:
        self._method = method

    def provenance(self, observed: ObservedItem) -> Mapping[str, object]:
        return {"method": self._method}

    def draw(self, observed: Sequence[ObservedItem]) -> list[Drawn]:
        if self._method == "hr":
            return [(s.item.probe.picture, ()) for s in observed]
        if self._method == "lr":
            pictures = [repeated(s.lr0) for s in observed]
        else:
            pictures = enlarged([s.lr0 for s in observed])
        return [(picture, ()) for picture in pictures]


class FromFolder:
    """Outputs of another program: DIR/IDENTITY/PHOTO.png, or any other picture format, 128×128.

    DIR may have a folder for each degradation, with the names of `--inputs`.
    """

    def __init__(
        self, folder: Path, degradation: Degradation | None, items: Iterable[Item]
    ) -> None:
        own = folder / folder_name(degradation)
        folder = own if own.is_dir() else folder
        self._folder = folder
        files: dict[str, Path] = {}
        if folder.is_dir():
            pictures = (p for p in sorted(folder.rglob("*")) if _is_picture(p))
            files = {_stem(p, folder): p for p in pictures}
        names = [item.name for item in items]
        check_names(names)
        missing = [name for name in names if plain_name(name) not in files]
        if missing:
            reason = f"it lacks {len(missing)} of {len(names)} pictures, the first is {missing[0]}"
            raise InputError(
                folder,
                reason,
                "make one for each picture that --inputs writes, under the same path",
            )
        self._files = {name: files[plain_name(name)] for name in names}

    def provenance(self, observed: ObservedItem) -> Mapping[str, object]:
        return {"method": IMAGES, "picture": sha256_file(self._files[observed.item.name])}

    def draw(self, observed: Sequence[ObservedItem]) -> list[Drawn]:
        return [(self._read(self._files[s.item.name]), ()) for s in observed]

    def _read(self, file: Path) -> Image:
        try:
            picture = read_picture(file)
        except UNREADABLE as error:
            raise InputError(file, "not a picture that can be read", "make it again") from error
        if picture.shape != (CANONICAL_SIDE, CANONICAL_SIDE, 3):
            height, width = picture.shape[:2]
            reason = (
                f"{width}×{height} px, but compared pictures have {CANONICAL_SIDE}×{CANONICAL_SIDE}"
            )
            raise InputError(file, reason, "resize the outputs")
        return picture


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and path.is_file()


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


class ByRestorer:
    """Any restorer of `sr/`, with the feature that the system merges for it."""

    def __init__(
        self,
        system: System,
        restorer: Restorer,
        samples: int,
        tools: Tools,
        *,
        guidance: Guidance | None,
    ) -> None:
        self._system = system
        self._restorer = restorer
        self._samples = samples
        self._tools = tools
        self._guidance = guidance
        self._pool = pooler(system, tools.embedder) if takes_feature(system.method) else None

    def provenance(self, observed: ObservedItem) -> Mapping[str, object]:
        pooling = {} if self._pool is None else self._pool.provenance
        attributes = [str(a) for a in self._attributes(observed)] if self._tools.labelled else []
        common = {"samples": self._samples, "seed": observed.item.seed, "attributes": attributes}
        return {**self._restorer.provenance(), **pooling, **common}

    def draw(self, observed: Sequence[ObservedItem]) -> list[Drawn]:
        restorations = self._restorer.restore_all(
            [self._face_input(s) for s in observed], self._samples, [s.item.seed for s in observed]
        )
        return [(r.picture, r.warnings) for r in restorations]

    def _face_input(self, observed: ObservedItem) -> FaceInput:
        attributes = self._attributes(observed)
        if self._pool is None:
            return FaceInput(observed.lr0, attributes=attributes)
        feature = self._pool(self._tools.store, observed).numpy()
        return FaceInput(observed.lr0, feature=feature, attributes=attributes)

    def _attributes(self, observed: ObservedItem) -> tuple[Attribute, ...]:
        if self._guidance is None:
            return ()
        labelled = _labelled(observed.item) if self._tools.labelled else ()
        return labelled or complete(
            (), self._guidance.classifiers, [observed.lr0, *observed.auxiliaries]
        )


def _labelled(item: Item) -> tuple[Attribute, ...]:
    """Return the attributes in CelebA's columns, with values 1 and 0, or −1."""
    columns = {
        name: {"1": True, "0": False, "-1": False}.get(value)
        for name, value in item.probe.labels.items()
    }
    attributes = [(name, columns.get(name)) for name in ("male", "glasses")]
    no_beard = columns.get("no_beard")
    attributes.append(("beard", None if no_beard is None else not no_beard))
    return tuple(Attribute(name, value) for name, value in attributes if value is not None)


def _check_labels(items: Sequence[Item]) -> list[str]:
    """Return a warning if some items have no labels; raise UsageError if none has any."""
    unlabelled = [item.name for item in items if not _labelled(item)]
    if len(unlabelled) == len(items):
        reason = "no probe has 1, 0 or -1 in a column male, glasses or no_beard"
        raise UsageError(
            "--labelled", reason, "give such columns with --labels, or leave --labelled out"
        )
    if not unlabelled:
        return []
    counts = f"{len(unlabelled)} of {len(items)} probes have no such label"
    return [
        f"srdg --labelled: {counts} ({unlabelled[0]} is the first): "
        "a classifier's readings guide these"
    ]


class ByIdfsr:
    """IDFSR with the auxiliaries at full resolution as references; FITTED fits an identity."""

    def __init__(self, system: System, tools: Tools) -> None:
        finder = LandmarkFinder(str(tools.device))
        files = ModelFiles(network=tools.weights.get(IDFSR.name), embedder=tools.embedder)
        self._models = load_idfsr_models(files, tools.device, finder)
        self._restorer = Idfsr(self._models, system.sampler, tools.device, tools.precision)
        self._system, self._tools = system, tools

    def provenance(self, observed: ObservedItem) -> Mapping[str, object]:
        fitted = FIT_STEPS if self._system.method == FITTED else 0
        references = [a.digest for a in observed.item.auxiliaries[: self._system.references]]
        common = {"samples": self._system.samples or 1, "seed": observed.item.seed}
        return {**self._restorer.provenance(), **common, "fitted": fitted, "references": references}

    def draw(self, observed: Sequence[ObservedItem]) -> list[Drawn]:
        return [self._draw(s) for s in observed]

    def _draw(self, observed: ObservedItem) -> Drawn:
        faces = tuple(a.picture for a in observed.item.auxiliaries[: self._system.references])
        restorer = self._restorer
        warning = ""
        if self._system.method == FITTED:
            fitted, warning = self._fit(observed, faces)
            models = replace(self._models, identity=fitted)
            restorer = Idfsr(
                models, self._system.sampler, self._tools.device, self._tools.precision
            )
        face = FaceInput(observed.lr0, faces)
        restoration = restorer.restore_all([face], self._system.samples or 1, [observed.item.seed])[
            0
        ]
        return restoration.picture, ((warning,) if warning else ()) + restoration.warnings

    def _fit(
        self, observed: ObservedItem, faces: tuple[Image, ...]
    ) -> tuple[identity.Identity | None, str]:
        """Return the identity fitted to the references, or None and the reason."""
        usable: list[Image] = []
        points: list[Tensor] = []
        for face in enlarged(faces):
            landmarks = self._models.find_landmarks(face)
            if landmarks is not None:
                usable.append(face)
                points.append(torch.from_numpy(landmarks).float())
        count = min(len(usable), identity.MOST)
        if count < identity.FEWEST:
            counts = f"{count} references with landmarks, {identity.FEWEST} needed"
            return None, f"drawn without fitting ({counts})"
        pictures = as_tensor(usable[:count])
        names = tuple(str(k) for k in range(count))
        references = identity.References(
            names=names,
            sha256=names,
            pictures=pictures,
            landmarks=torch.stack(points[:count]),
            features=self._models.embedder.embed(pictures)[0],
        )
        try:
            vector, before, after = identity.fit(
                self._models.denoiser,
                references,
                FIT_STEPS,
                observed.item.seed,
                report=lambda _: None,
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


# ------------------------------------------------------------------------------------------ pooling


class Pooler:
    """Merges LR0 and its auxiliaries into one feature."""

    def __init__(
        self,
        rule: str,
        embedder: Embedder,
        combiner: FeatureCombiner | None,
        references: int | None,
    ) -> None:
        self._rule = rule
        self._embedder = embedder
        self._combiner = combiner
        self._references = references
        description = rule
        if combiner is not None:
            description = f"{rule} {merging.fingerprint(combiner)} eta {combiner.eta:g}"
        self.provenance = {
            "pooled_by": description,
            "pooled_embedder": embedder.sha256,
            "auxiliaries": references,
        }

    def __call__(self, store: Store, observed: ObservedItem) -> Tensor:
        faces = enlarged([observed.lr0, *observed.auxiliaries[: self._references]])
        by_digest = {digest_of(face): face for face in faces}
        stored = store.features(self._embedder, by_digest)
        features = torch.stack([stored[digest_of(face)] for face in faces])
        if self._rule == "combiner" and self._combiner is not None:
            return self._combiner.combine(features)
        if self._rule == "weighted":
            return merging.weighted_mean(features, features.norm(dim=1))
        return merging.robust_mean(features) if self._rule == "median" else merging.mean(features)


def pooler(system: System, embedder: Embedder) -> Pooler:
    """Return the pooler of a system; raise an error if its Feature Combiner does not fit."""
    rule = system.merge or "combiner"
    if rule != "combiner":
        return Pooler(rule, embedder, None, system.references)
    file = system.combiner or bundled("combiner.safetensors")
    combiner = merging.load_combiner(file)
    require_embedder(file, combiner.source.sha256, embedder.sha256)
    return Pooler(rule, embedder, combiner, system.references)


def open_drawer(system: System, tools: Tools, items: Sequence[Item]) -> Drawer:
    """Return what draws the pictures of a system."""
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
    without_combiner = replace(method, needs=method.needs - {Need.COMBINER})  # `Pooler` merges
    samples = system.samples or method.defaults.samples
    return ByRestorer(
        system, open_restorer(without_combiner, options), samples, tools, guidance=guidance
    )


def check_systems(systems: Sequence[System], tools: Tools, items: Sequence[Item]) -> None:
    """Open each system, so that missing files are reported before hours of drawing."""
    alike = (replace(s, references=None, samples=None, fuse=None) for s in systems if s.draws)
    plain = (s if s.method.startswith(IMAGES) else replace(s, degradation=None) for s in alike)
    for system in dict.fromkeys(plain):
        open_drawer(system, tools, items)
    if tools.labelled and any(is_guided(s.method) for s in systems):
        tools.warnings.extend(_check_labels(items))
    tools.warnings.extend(_few_references(systems, items))


def _few_references(systems: Sequence[System], items: Sequence[Item]) -> list[str]:
    """Return warnings about searches with fewer auxiliaries than a system uses."""
    warnings = []
    for wanted in sorted({s.references for s in systems if s.references}):
        fewer = [len(i.auxiliaries) for i in items if len(i.auxiliaries) < wanted]
        if fewer:
            warnings.append(
                f"references={wanted}: {len(fewer)} of {len(items)} searches have "
                f"fewer auxiliaries, {min(fewer)} the least; all of theirs were used"
            )
    return warnings


def draw_all(
    system: System,
    label: str,
    observed: Sequence[ObservedItem],
    tools: Tools,
    *,
    batch: int,
    report_done: Callable[[int], None],
) -> list[Image]:
    """Return a picture of each item, from the store if it is there.

    `report_done` is called with the number of finished items.
    """
    drawer = open_drawer(system, tools, [s.item for s in observed])
    keys = [_key(system, drawer, item) for item in observed]
    drawn: dict[str, Drawn] = {}
    for key in keys:
        stored = tools.store.stored_picture(key)
        if stored is not None:
            drawn[key] = stored
    missing = [(key, item) for key, item in zip(keys, observed, strict=True) if key not in drawn]
    done = len(observed) - len(missing)
    report_done(done)
    for start in range(0, len(missing), batch):
        part = missing[start : start + batch]
        new = drawer.draw([item for _, item in part])
        for (key, item), (picture, warnings) in zip(part, new, strict=True):
            tools.store.store_picture(key, label, item.item.name, picture, warnings=warnings)
            drawn[key] = (picture, warnings)
        done += len(part)
        report_done(done)
    if system.method not in PLAIN and not system.method.startswith(IMAGES):
        tools.warnings.extend(_summarise_warnings(label, [drawn[key][1] for key in keys]))
    return [drawn[key][0] for key in keys]


def _summarise_warnings(label: str, warnings_by_picture: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the warnings of a system, the most frequent first, each with a count.

    Warnings that differ only in their numbers are the same one.
    """
    kinds: dict[str, list[str]] = {}
    for warnings in warnings_by_picture:
        first_of_kind: dict[str, str] = {}
        for text in warnings:
            first_of_kind.setdefault(re.sub(r"\d+(\.\d+)?", "0", text), text)
        for kind, text in first_of_kind.items():
            kinds.setdefault(kind, []).append(text)
    rows = sorted(kinds.values(), key=len, reverse=True)
    lines = [
        f"{label}, {len(row)} of {len(warnings_by_picture)} pictures: {row[0]}"
        for row in rows[:MOST_WARNINGS]
    ]
    if len(rows) > MOST_WARNINGS:
        lines.append(f"{label}: {len(rows) - MOST_WARNINGS} rarer warnings are not shown")
    return lines


def _key(system: System, drawer: Drawer, observed: ObservedItem) -> str:
    digests = [digest_of(face) for face in (observed.lr0, *observed.auxiliaries)]
    inputs = [
        dict(drawer.provenance(observed)),
        observed.item.name,
        observed.item.probe.digest,
        digests,
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
