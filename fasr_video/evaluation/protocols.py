"""Protocols turn photographs into a trial: who is searched for, with what, in which gallery.

All random choices follow from the seed and the names of people and photographs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fasr_video.console import count
from fasr_video.csv_file import read_csv
from fasr_video.errors import InputError, UsageError
from fasr_video.evaluation.photos import ROLES, LeftOut, Photo, without

PAIRS_REMEDY = (
    "give LFW's pairs.txt, or a CSV with the columns a, b (paths), same (0 or 1) and fold"
)


@dataclass(frozen=True, slots=True)
class Item:
    """One search."""

    name: str
    """The probe's path."""
    person: str
    probe: Photo
    auxiliaries: tuple[Photo, ...]
    seed: int
    """Seed of its super-resolution and degradation."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two photographs to compare, by their indices in a trial."""

    gallery: int
    item: int
    same: bool
    fold: int


@dataclass(frozen=True, slots=True)
class Trial:
    protocol: str
    seed: int
    gallery: tuple[Photo, ...]
    """Full-resolution photographs, one of each enrolled person; with pairs, the first ones."""
    items: tuple[Item, ...]
    native: bool = False
    """Whether probes are as the camera saw them: without a true picture or a degradation."""
    pairs: tuple[Pair, ...] = ()
    skipped: tuple[LeftOut, ...] = ()
    """People with too few photographs."""
    left_out: tuple[LeftOut, ...] = ()
    """Photographs and pairs that cannot be used."""

    @property
    def people(self) -> list[str]:
        return [item.person for item in self.items]

    @property
    def own(self) -> list[int]:
        """The gallery index of each item's person, or -1."""
        index = {photo.person: k for k, photo in enumerate(self.gallery)}
        return [index.get(item.person, -1) for item in self.items]

    def provenance(self) -> dict[str, object]:
        """Return what identifies this trial."""
        digest = hashlib.sha256()
        for photo in self.gallery:
            digest.update(f"{photo.person} {photo.digest} ".encode())
        for item in self.items:
            photos = " ".join(p.digest for p in (item.probe, *item.auxiliaries))
            digest.update(f"{item.name} {item.person} {item.seed} {photos} ".encode())
        digest.update(repr(self.pairs).encode())
        return {
            "protocol": self.protocol,
            "seed": self.seed,
            "gallery": len(self.gallery),
            "items": len(self.items),
            "people": len(set(self.people)),
            "strangers": len(set(self.people) - {p.person for p in self.gallery}),
            "pairs": len(self.pairs),
            "skipped": len(self.skipped),
            "left_out": len(self.left_out),
            "sha256": digest.hexdigest(),
        }


def celeba(
    photos: Sequence[Photo], seed: int = 0, people: int | None = None, fewest: int = 3
) -> Trial:
    """Return the papers' trial: each person has a gallery photograph, a probe, and auxiliaries.

    Roles are random, except those of a manifest. `people` limits the number of people; a larger
    number includes the people of a smaller one.
    """
    gallery: list[Photo] = []
    items: list[Item] = []
    skipped: list[LeftOut] = []
    left_out: list[LeftOut] = []
    for person, own in _in_order(_by_person(photos), seed):
        parts = _parts(sorted(own, key=lambda p: (_role(p), _number(seed, p.path))))
        usable = len(own) if parts is None else len(own) - len(parts[3])
        if usable < fewest:
            skipped.append(LeftOut(person, f"{count(usable, 'photograph')}, {fewest} needed"))
        elif parts is None:
            skipped.append(
                LeftOut(person, "by their roles no photograph is the gallery's, or none the probe")
            )
        elif people is None or len(items) < people:
            enrolled, probe, others, spare = parts
            gallery.append(enrolled)
            items.append(Item(probe.path, person, probe, others, _number(seed, person) % 2**31))
            left_out += [LeftOut(p.path, f"{enrolled.path} is enrolled already") for p in spare]
    trial = Trial(
        "celeba",
        seed,
        tuple(gallery),
        tuple(items),
        skipped=tuple(skipped),
        left_out=tuple(left_out),
    )
    return _checked(trial)


def _parts(own: Sequence[Photo]) -> tuple[Photo, Photo, tuple[Photo, ...], list[Photo]] | None:
    """Return a person's gallery photograph, probe, auxiliaries, and further gallery photographs.

    Given roles stay; photographs without a role fill the others. Further probes are auxiliaries.
    """
    enrolled = next((p for p in own if p.role in ("gallery", "")), None)
    probe = next((p for p in own if p.role in ("probe", "") and p is not enrolled), None)
    if enrolled is None or probe is None:
        return None
    rest = [p for p in own if p is not enrolled and p is not probe]
    auxiliaries = tuple(p for p in rest if p.role != "gallery")
    return enrolled, probe, auxiliaries, [p for p in rest if p.role == "gallery"]


def first_searches(trial: Trial, count: int | None) -> Trial:
    """Return the trial with its first `count` items and the full gallery, for slow methods."""
    return replace(trial, items=trial.items[:count])


def quis_campi(
    gallery: Sequence[Photo],
    probes: Sequence[Photo],
    seed: int = 0,
    people: int | None = None,
    *,
    each: int = 5,
) -> Trial:
    """Return a trial of controlled photographs and of faces as the camera saw them.

    Each face is the probe once, with the person's other ones as its auxiliaries. A manifest's roles
    stay: no probe is enrolled, no gallery photograph is searched for, and auxiliaries are only
    that.
    """
    gallery = [p for p in gallery if p.role in ("gallery", "")]
    probes, left_out = without([p for p in probes if p.role != "gallery"], gallery)
    enrolled = _by_person(gallery)
    observed = _by_person(probes)
    photos: list[Photo] = []
    items: list[Item] = []
    skipped: list[LeftOut] = []
    for person, faces in _in_order(observed, seed):
        own = [p for p in faces if p.role != "auxiliary"]
        if len(own) < each:
            skipped.append(LeftOut(person, f"{count(len(own), 'probe')}, {each} needed"))
        elif person not in enrolled:
            skipped.append(LeftOut(person, "no gallery photograph"))
        elif people is None or len(photos) < people:
            photos.append(min(enrolled[person], key=lambda p: _number(seed, p.path)))
            drawn = sorted(own, key=lambda p: _number(seed, p.path))[:each]
            beside = sorted(
                (p for p in faces if p.role == "auxiliary"), key=lambda p: _number(seed, p.path)
            )
            for probe in drawn:
                others = tuple(p for p in (*drawn, *beside) if p is not probe)
                items.append(
                    Item(probe.path, person, probe, others, _number(seed, probe.path) % 2**31)
                )
    skipped += [LeftOut(person, "no probes") for person in enrolled if person not in observed]
    trial = Trial(
        "quis-campi", seed, tuple(photos), tuple(items), True, (), tuple(skipped), tuple(left_out)
    )
    return _checked(trial)


def leave_some_out(trial: Trial, share: float) -> Trial:
    """Return an open-set trial: a random share of the people is searched for but not enrolled."""
    if trial.pairs or not 0 <= share < 1:
        raise UsageError(
            f"leave out {share:g}",
            "it takes a share from 0 up to 1, and no pairs",
            "give another share",
        )
    names = sorted(
        {p.person for p in trial.gallery}, key=lambda name: _number(trial.seed, f"enrolled {name}")
    )
    strangers = set(names[: round(share * len(names))])
    if len(strangers) == len(names):
        raise UsageError(
            f"leave out {share:g}",
            "nobody would be enrolled",
            "give more people, or a smaller share",
        )
    return replace(trial, gallery=tuple(p for p in trial.gallery if p.person not in strangers))


def pairs(photos: Sequence[Photo], file: Path, seed: int = 0) -> Trial:
    """Return a trial of the 1:1 comparisons in a list; a pair's second photograph is the probe."""
    gallery_index: dict[str, int] = {}
    item_index: dict[str, int] = {}
    gallery: list[Photo] = []
    items: list[Item] = []
    listed: list[Pair] = []
    left_out: list[LeftOut] = []
    known = {p.path: p for p in photos} | {str(Path(p.path).with_suffix("")): p for p in photos}
    for line, (a, b, same, fold) in _listed(file):
        missing = [name for name in (a, b) if name not in known]
        if missing:
            left_out.append(
                LeftOut(f"{file.name} line {line}", f"no usable photograph {missing[0]}")
            )
            continue
        first, second = known[a], known[b]
        if first is second:
            left_out.append(
                LeftOut(f"{file.name} line {line}", f"the same picture twice, {first.path}")
            )
            continue
        if first.path not in gallery_index:
            gallery_index[first.path] = len(gallery)
            gallery.append(first)
        if second.path not in item_index:
            item_index[second.path] = len(items)
            items.append(
                Item(second.path, second.person, second, (), _number(seed, second.path) % 2**31)
            )
        listed.append(Pair(gallery_index[first.path], item_index[second.path], same, fold))
    if len({p.fold for p in listed}) < 2 and listed:
        raise InputError(
            file, "all usable pairs are in one fold", "give pairs in two folds or more; LFW has ten"
        )
    if len({p.same for p in listed}) < 2:
        example = f"; the first of {len(left_out)} left out is {left_out[0]}" if left_out else ""
        raise InputError(
            file,
            f"no usable pairs of both kinds{example}",
            "give the photographs that the list names",
        )
    return Trial(
        "pairs", seed, tuple(gallery), tuple(items), pairs=tuple(listed), left_out=tuple(left_out)
    )


def _listed(file: Path) -> list[tuple[int, tuple[str, str, bool, int]]]:
    """Return each pair: its line; two photographs, whether they show one person, and the fold."""
    try:
        if file.suffix.lower() == ".csv":
            rows = read_csv(file, ["a", "b", "same", "fold"], PAIRS_REMEDY).rows
            return [(k, _of_row(row)) for k, row in rows.items()]
        lines = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        folds, each = (int(word) for word in (lines[0] if len(lines[0]) > 1 else ("1", *lines[0])))
        listed = [(k, line) for k, line in enumerate(lines[1:], 2) if line]
        if len(listed) != 2 * folds * each:
            raise ValueError(
                f"its first line says {2 * folds * each} pairs, there are {len(listed)}"
            )
        return [(k, _of_lfw(line, n // (2 * each))) for n, (k, line) in enumerate(listed)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, f"not a readable list of pairs ({error})", PAIRS_REMEDY) from error
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise InputError(file, f"not a list of pairs ({error})", PAIRS_REMEDY) from error


def _of_row(row: Mapping[str, str]) -> tuple[str, str, bool, int]:
    if row["same"] not in ("0", "1"):
        raise ValueError(f"same is {row['same']}")
    return row["a"], row["b"], row["same"] == "1", int(row["fold"])


def _of_lfw(words: list[str], fold: int) -> tuple[str, str, bool, int]:
    """Return the pair of a line `NAME 1 2` or `NAME 1 OTHER 2`."""
    name, first, *rest = words
    other, second = (name, *rest) if len(rest) == 1 else rest
    return _lfw_path(name, first), _lfw_path(other, second), len(rest) == 1, fold


def _lfw_path(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _by_person(photos: Sequence[Photo]) -> dict[str, list[Photo]]:
    people: dict[str, list[Photo]] = {}
    for photo in photos:
        people.setdefault(photo.person, []).append(photo)
    return people


def _in_order(people: Mapping[str, list[Photo]], seed: int) -> list[tuple[str, list[Photo]]]:
    return sorted(people.items(), key=lambda row: _number(seed, row[0]))


def _role(photo: Photo) -> int:
    return ROLES.index(photo.role) if photo.role else len(ROLES)


def _number(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8])


def _checked(trial: Trial) -> Trial:
    if len(trial.gallery) < 2:
        reason = f"{len(trial.gallery)} people can be tested"
        if trial.skipped:
            reason += f"; the first of {len(trial.skipped)} skipped is {trial.skipped[0]}"
        raise UsageError(
            f"protocol {trial.protocol}", reason, "give two people or more with enough photographs"
        )
    return trial
