"""Search finished cases again, without their footage: the cases hold the features of their tracks.

For a gallery that people were added to or removed from since, or with other search settings.
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
from fasr_video.case.last_search import last_search
from fasr_video.case.results import encodings
from fasr_video.case.sources import all_done
from fasr_video.case.store import DATABASE, TOMBSTONE, no_case, only_writer
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
    """How the candidates of one track differ from those of the last search."""

    track: str
    new: tuple[str, ...]
    """Candidates that pass the threshold now and did not before."""
    gone: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        new = [f"new candidate {subject}" for subject in self.new]
        gone = [f"no longer a candidate: {subject}" for subject in self.gone]
        return new + gone


@dataclass(frozen=True, slots=True)
class SearchResult:
    case: Path
    problem: str | None
    """Why the case could not be searched, or what went wrong afterwards."""
    was_searched: bool = False
    """False where the stored answer is that of the same gallery and settings."""
    tracks: int = 0
    changes: tuple[Change, ...] = ()


def cases_in(folders: Sequence[Path]) -> list[Path]:
    """Return the case folders among and below these folders, each of them one time.

    Other folders beside a ledger (its gallery, its chunks) are skipped: CASES/* names them, too.
    """
    cases: dict[Path, None] = {}
    for folder in folders:
        if is_gone(folder):
            raise CaseError(folder, "no such folder", "give a folder that `run` or `batch` made")
        below = list(_cases_below(folder))
        if not below and not (folder.absolute().parent / LEDGER).is_file():
            raise _no_cases(folder)
        cases |= dict.fromkeys(below)
    if not cases:
        raise _no_cases(folders[0])
    return list(cases)


def _no_cases(folder: Path) -> CaseError:
    if (folder / TOMBSTONE).is_file():
        return no_case(folder)
    reason = "there is no case here, nor in the folders below"
    return CaseError(folder, reason, "give a folder that `run` or `batch` made")


def _cases_below(top: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(top):
        subfolders.sort()
        if DATABASE in names:
            subfolders.clear()  # there are no cases inside a case
            yield Path(folder)


# Given the settings of a case's last search, returns those to search it with now.
ChooseSettings = Callable[[SearchSettings], SearchSettings]


def with_overrides(overrides: Sequence[str]) -> ChooseSettings:
    """Return a function that applies overrides (search.KEY=VALUE) to search settings."""
    changed = load("cpu", overrides).search
    names = []
    for override in overrides:
        group, _, name = override.partition("=")[0].strip().partition(".")
        if group != "search":
            remedy = "for another reconstruction: fasr-video run --stage restore --out CASE"
            reason = "`search` changes only settings of the group search"
            raise UsageError(f"--set {override}", reason, remedy)
        names.append(name)
    return lambda last: last.model_copy(update={name: getattr(changed, name) for name in names})


def search_again(
    cases: Sequence[Path],
    gallery_folder: Path,
    reports: bool = True,
    choose_settings: ChooseSettings = lambda last: last,
) -> Iterator[SearchResult]:
    """Search one case after another. A case that cannot be searched does not stop the others."""
    with Gallery.open(gallery_folder, read_only=True) as gallery:
        index = Index.open(gallery)
        for case in cases:
            try:
                yield search_case(case, gallery, index, choose_settings, reports=reports)
            except FasrError as error:
                yield SearchResult(case, str(error))


def is_up_to_date(case: Case, gallery: Gallery, search: SearchSettings) -> bool:
    """Return whether a case was last searched with this state of the gallery and these settings.

    Whether its models are still the same is not checked.
    """
    last = last_search(case)
    if last is None:
        return False
    same_gallery = (last.gallery.id, last.gallery.state) == (gallery.id, gallery.state)
    all_tracks = last.tracks == [*encodings(case)] and not outdated(case)
    same_settings = last.settings == search.model_dump(mode="json")
    return bool(same_gallery and all_tracks and same_settings)


def search_case(
    folder: Path, gallery: Gallery, index: Index, choose_settings: ChooseSettings, *, reports: bool
) -> SearchResult:
    with only_writer(folder), Case.open(folder) as case:
        if not all_done(case):
            reason = "its footage is not processed to the end"
            raise CaseError(folder, reason, "let `run` or `batch` finish it")
        settings = _settings(case)
        encoder = _encoder(settings.model_dump_json())
        gallery.require_embedder(encoder.embedder)
        _check_encoder(case, encoder)
        last = last_search(case)
        if last is None:
            last_settings = settings.search
        else:
            last_settings = SearchSettings.model_validate(last.settings)
        before = _passing_candidates(case)
        was_searched = search_all(
            case, gallery, encoder, choose_settings(last_settings), index=index
        )
        after = _passing_candidates(case)
    changes = _compare(before, after)
    problem = None
    try:
        if reports:
            refresh(folder)
    except FasrError as error:
        # Return the changes all the same: they are in the case, and the next search will not
        # report them as new.
        problem = f"searched, but its report was not written: {error}"
    return SearchResult(folder, problem, was_searched, len(after), changes)


def _settings(case: Case) -> Settings:
    """Return the settings that the case was made with; settings added since have their defaults."""
    stored = case.settings
    defaults = load("cpu").model_dump(mode="json")
    return Settings.model_validate(
        {group: values | stored.get(group, {}) for group, values in defaults.items()}
    )


@lru_cache(maxsize=4)
def _encoder(settings: str) -> TrackEncoder:
    return open_encoder(Settings.model_validate_json(settings))


def _check_encoder(case: Case, encoder: TrackEncoder) -> None:
    """Raise where the case's features come from other models: they cannot be compared."""
    current = json.loads(json.dumps(encoder.provenance()))
    for models in {encoding.models for encoding in encodings(case).values()}:
        stored = json.loads(models)
        if {key: stored.get(key) for key in current} != current:
            raise UsageError(
                case.folder,
                "its features come from other models than those in use",
                f"compute them again: fasr-video run --stage restore --out {case.folder}",
            )


def _passing_candidates(case: Case) -> dict[str, set[str]]:
    """Return the candidates that pass the threshold, by the names of the searched tracks."""
    return {
        track.name: {candidate.subject for candidate in track.answer.passing}
        for track in tracks_of(case)
        if track.answer is not None
    }


def _compare(before: dict[str, set[str]], after: dict[str, set[str]]) -> tuple[Change, ...]:
    changes = []
    for track in after | before:
        old = before.get(track, set())
        new = after.get(track, set())
        if old != new:
            changes.append(Change(track, tuple(sorted(new - old)), tuple(sorted(old - new))))
    return tuple(changes)
