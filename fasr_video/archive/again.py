"""Finished cases searched again, without their footage: the features of their tracks are in them.

For a gallery that somebody was enrolled into, or removed from, since; or with other settings of the search.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fasr_video.archive.ledger import DATABASE as LEDGER
from fasr_video.case.case import Case
from fasr_video.case.document import tracks as tracks_of
from fasr_video.case.results import encodings
from fasr_video.case.sources import all_done
from fasr_video.case.store import DATABASE, only_writer
from fasr_video.configs.settings import SearchSettings, Settings, load
from fasr_video.errors import CaseError, FasrError, UsageError
from fasr_video.files import is_gone
from fasr_video.gallery.encoder import TrackEncoder
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.pipeline.restore import open_encoder
from fasr_video.pipeline.search import outdated, search_all
from fasr_video.report.write import refresh


@dataclass(frozen=True, slots=True)
class Change:
    """What another search says otherwise of one track."""

    track: str
    new: tuple[str, ...]
    """Candidates that pass the threshold now and did not."""
    gone: tuple[str, ...]

    @property
    def told(self) -> list[str]:
        return [f"new candidate {s}" for s in self.new] + [
            f"no longer a candidate: {s}" for s in self.gone
        ]


@dataclass(frozen=True, slots=True)
class Searched:
    case: Path
    problem: str | None
    """Why it could not be searched, or what went wrong after."""
    asked: bool = False
    """False where the same question was answered before."""
    tracks: int = 0
    changes: tuple[Change, ...] = ()


def cases_in(places: Sequence[Path]) -> list[Path]:
    """Case folders, each once: those given, and those at any depth in folders that are given.

    What else lies beside a ledger (its gallery, parts) is passed over: a shell's CASES/* names it, too.
    """
    found: dict[Path, None] = {}
    for place in places:
        if is_gone(place):
            raise CaseError(place, "no such folder", "give what `run` or `batch` made")
        own = list(_below(place))
        if not own and not (place.absolute().parent / LEDGER).is_file():
            raise CaseError(
                place, "no case here, nor in the folders in it", "give what `run` or `batch` made"
            )
        found |= dict.fromkeys(own)
    if not found:
        raise CaseError(
            places[0], "no case here, nor in the folders in it", "give what `run` or `batch` made"
        )
    return list(found)


def _below(place: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(place):
        below.sort()
        if DATABASE in names:
            below.clear()  # a case's own folders hold none
            yield Path(folder)


# What to ask with, by what a case was asked with last.
Questions = Callable[[SearchSettings], SearchSettings]


def changed(overrides: Sequence[str]) -> Questions:
    """As it was asked last, but for these (search.KEY=VALUE)."""
    given = load("cpu", overrides).search
    names = []
    for override in overrides:
        group, _, name = override.partition("=")[0].strip().partition(".")
        if group != "search":
            remedy = "give settings of the group search; others need the footage: fasr-video run, or batch"
            raise UsageError(f"--set {override}", "finished cases are only searched", remedy)
        names.append(name)
    return lambda last: last.model_copy(update={name: getattr(given, name) for name in names})


def search_again(
    cases: Sequence[Path],
    given: Path,
    reports: bool = True,
    questions: Questions = lambda last: last,
) -> Iterator[Searched]:
    """One after another; a case that cannot be searched is told of, and the rest goes on."""
    with Gallery.open(given, read_only=True) as gallery:
        index = Index.open(gallery)
        for folder in cases:
            try:
                yield search_one(folder, gallery, index, questions, reports)
            except FasrError as error:
                yield Searched(folder, str(error))


def is_answered(case: Case, gallery: Gallery, search: SearchSettings) -> bool:
    """Whether that is what a case was asked last, as far as one can see without its models."""
    last = case.searched()
    if last is None:
        return False
    same = last["gallery"]["id"] == gallery.id and last["gallery"]["state"] == gallery.state
    whole = last["tracks"] == [*encodings(case)] and not outdated(case)
    return bool(same and whole and last["question"] == search.model_dump(mode="json"))


def search_one(
    folder: Path, gallery: Gallery, index: Index, questions: Questions, reports: bool
) -> Searched:
    with only_writer(folder), Case.open(folder) as case:
        if not all_done(case):
            raise CaseError(folder, "its footage is not done", "let `run` or `batch` finish it")
        settings = _settings(case)
        encoder = _encoder(settings.model_dump_json())
        gallery.require_embedder(encoder.embedder)
        _check_encoder(case, encoder)
        question = case.searched()
        last = (
            settings.search
            if question is None
            else SearchSettings.model_validate(question["question"])
        )
        before = _passing(case)
        asked = search_all(case, gallery, encoder, questions(last), index)
        after = _passing(case)
    changes = (
        Change(t, tuple(sorted(now - then)), tuple(sorted(then - now)))
        for t, then, now in _beside(before, after)
    )
    told = tuple(c for c in changes if c.new or c.gone)
    try:
        if reports:
            refresh(folder)
    except (
        FasrError
    ) as error:  # what the search found is told all the same: it is in the case, and new but once
        return Searched(
            folder, f"searched, but its report was not written: {error}", asked, len(after), told
        )
    return Searched(folder, None, asked, len(after), told)


def _settings(case: Case) -> Settings:
    """Those the case was made with; one that came later has its default."""
    stored, default = case.settings, load("cpu").model_dump(mode="json")
    return Settings.model_validate(
        {group: values | stored.get(group, {}) for group, values in default.items()}
    )


@lru_cache(maxsize=4)
def _encoder(settings: str) -> TrackEncoder:
    return open_encoder(Settings.model_validate_json(settings))


def _check_encoder(case: Case, encoder: TrackEncoder) -> None:
    """Features of other models mean something else."""
    now = json.loads(json.dumps(encoder.provenance()))
    for models in {of_track.models for of_track in encodings(case).values()}:
        made = json.loads(models)
        if {key: made.get(key) for key in now} != now:
            reason = "its features were made with other models than those at hand"
            raise UsageError(
                case.folder,
                reason,
                f"make them anew: fasr-video run --stage restore --out {case.folder}",
            )


def _passing(case: Case) -> dict[str, set[str]]:
    """Candidates of each track that was asked for, by its name."""
    asked = [t for t in tracks_of(case) if t["answer"] is not None]
    return {t["name"]: {c["subject"] for c in t["answer"]["joined"] if c["passes"]} for t in asked}


def _beside(
    before: dict[str, set[str]], after: dict[str, set[str]]
) -> Iterator[tuple[str, set[str], set[str]]]:
    for track in after | before:
        yield track, before.get(track, set()), after.get(track, set())
