"""One unit of an archive: a file becomes a case. The same function on every scheduler, so the same case."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import torch

from fasr_video import __version__
from fasr_video.archive.looks import CachedDetector, look
from fasr_video.archive.orders import End, Order, Outcome, Tell
from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.results import verdicts
from fasr_video.case.sources import sources
from fasr_video.case.store import DATABASE, CaseBusy
from fasr_video.case.tracks import finished_tracks, reasons_of_source
from fasr_video.configs.settings import Settings
from fasr_video.custody.contents import files_named_as_in_a_case, files_of_case
from fasr_video.errors import EnvironmentFailure, FasrError
from fasr_video.files import sha256_file, sync_folder
from fasr_video.media import open_video
from fasr_video.pipeline.run import Models, Progress, open_models, run
from fasr_video.report.write import refresh

# Lines of a log that no run writes.
BY_PEOPLE = ("decided", "decision undone", "link decided", "signed off")
_alone = threading.Lock()  # a Dask worker may have several threads; models and cv2 are for one


def work(order: Order, tell: Tell) -> Outcome:
    """Never raises but for a signal: whatever happens is an outcome."""
    began = time.monotonic()
    with _alone:
        problem = unfit(order.version, order.settings, order.case.parent, order.gallery)
        outcome = _try(order, tell) if problem is None else Outcome(End.UNFIT, problem)
    return replace(outcome, seconds=time.monotonic() - began)


def unfit(version: str, settings: str, cases: Path, gallery: Path | None) -> str | None:
    """Why no unit of a batch could be done in this process; None when nothing speaks against it."""
    if version != __version__:
        return (
            f"it has fasr-video {__version__}, and the batch is {version}'s; install the same there"
        )
    for what, place in {"cases": cases, "gallery": gallery}.items():
        if place is not None and not os.path.exists(place):
            return f"{place}: the {what} cannot be seen from there; mount them under the same path"
    try:
        _models(settings)
    except FasrError as error:
        return str(error)
    return None


def _try(order: Order, tell: Tell) -> Outcome:
    try:
        if not _untouched(order) and not _has_content(order):
            return _changed(order)
        outcome = _look(order) if order.part else _run(order, tell)
        return outcome if _has_content(order) else _changed(order)
    except CaseBusy as error:
        return Outcome(End.BUSY, str(error))
    except EnvironmentFailure as error:
        return Outcome(End.STOPPED, str(error))
    except FasrError as error:
        if not os.path.exists(order.path):
            return _gone(order)
        return Outcome(End.BAD, str(error)) if _untouched(order) else _changed(order)
    except Exception as error:  # isolates the file: the others go on
        if not os.path.exists(order.path):
            return _gone(order)
        return Outcome(
            End.FAILED, f"{order.path}: {type(error).__name__}: {' '.join(str(error).split())}"
        )


def _run(order: Order, tell: Tell) -> Outcome:
    settings = Settings.model_validate_json(order.settings)
    models, told = _models(order.settings), [0.0]

    def listen(event: object) -> None:
        if (
            isinstance(event, Progress)
            and event.share is not None
            and time.monotonic() - told[0] > 0.5
        ):
            told[0] = time.monotonic()
            tell(event.share)

    left_out = 0
    if order.looks is None:
        run([order.path], order.case, settings, order.gallery, listen, order.place, models)
    else:
        remembering = CachedDetector(models.detector, order.looks)
        try:
            with_looks = Models(remembering, models.encoder)
            run([order.path], order.case, settings, order.gallery, listen, order.place, with_looks)
            left_out = remembering.left_out if remembering.looked else 0
        finally:
            remembering.close()
        shutil.rmtree(order.looks, ignore_errors=True)
    facts = provenance_of(order.case, order.sha256)
    if facts is None and not _has_content(order):
        return _changed(order)
    if facts is None:
        return Outcome(
            End.BAD,
            f"{order.case}: it holds other footage, too; move it elsewhere, then give --again",
        )
    again = (
        f"{left_out} of its parts were not looked at with this detector: looked at again"
        if left_out
        else ""
    )
    said = (again, _report(order.case) if order.report else "")
    return Outcome(End.DONE, "; ".join(filter(None, said)), facts)


def _report(case: Path) -> str:
    """Why it could not be written: what was found is in the case all the same."""
    try:
        refresh(case)
    except EnvironmentFailure:
        raise
    except FasrError as error:
        return f"its report was not written: {error}"
    return ""


def _look(order: Order) -> Outcome:
    assert order.part is not None
    settings = Settings.model_validate_json(order.settings)
    stretch = settings.sampling.model_copy(
        update={"start": order.part.start, "end": order.part.end}
    )
    settings = settings.model_copy(update={"sampling": stretch})
    reader = open_video(
        order.path, settings.media.backend, Fraction(str(settings.media.assumed_fps))
    )
    look(reader, _models(order.settings).detector, settings, order.part.file)
    return Outcome(End.DONE)


def _untouched(order: Order) -> bool:
    """Whether the file has the size and the time of change that it had when it was hashed."""
    try:
        facts = order.path.stat()
    except OSError:
        return True  # it is gone, which reading it says better
    return (facts.st_size, facts.st_mtime_ns) == (order.size, order.mtime_ns)


def _has_content(order: Order) -> bool:
    """Whether the file holds what was hashed, whatever its time of change."""
    return not os.path.exists(order.path) or sha256_file(order.path) == order.sha256


def _may_be_same(order: Order) -> bool:
    """Whether it holds what was hashed, or cannot be read now, which reading it again tells."""
    try:
        return _has_content(order)
    except OSError:
        return True


def _gone(order: Order) -> Outcome:
    """No fault of the file: its disk may be back by the next try."""
    return Outcome(End.FAILED, f"{order.path}: it went away while it was read")


def _changed(order: Order) -> Outcome:
    """The footage is read again. What its case holds of a content that never was goes; what people did stays."""
    if _may_be_same(order):
        return Outcome(
            End.CHANGED,
            f"{order.path}: it was touched while it was read; what it holds is the same",
        )
    told = f"{order.path}: it changed while it was read; it is read again"
    if order.part is not None:
        return Outcome(End.CHANGED, told)
    if order.looks is not None:
        shutil.rmtree(order.looks, ignore_errors=True)
    if not os.path.lexists(order.case):
        return Outcome(End.CHANGED, told)
    why = _why_kept(order.case)
    if why:
        return Outcome(
            End.CHANGED, f"{told}; {why}: its case is kept as {_move_aside(order.case).name}"
        )
    shutil.rmtree(order.case, ignore_errors=True)
    return Outcome(End.CHANGED, told)


def _why_kept(case: Path) -> str:
    """Why a case is not removed; empty where it holds nothing but what a run makes."""
    try:
        if not (case / DATABASE).is_file():
            files_named_as_in_a_case(case)
            return ""
        with Case.open(case, read_only=True) as opened:
            files_of_case(opened)
            work = log.entries(opened, *BY_PEOPLE)
    except FasrError as error:
        return f"it holds what no run wrote ({error.subject})"
    return "people decided on its tracks" if work else ""


def _move_aside(case: Path) -> Path:
    """Give it a name that no unit has; returns it."""
    names = (case.with_name(f"{case.name}.kept-{number}") for number in count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    case.rename(kept)
    sync_folder(case.parent)
    return kept


def provenance_of(folder: Path, sha256: str) -> dict[str, object] | None:
    """A finished case in numbers; None when it is not of this footage alone."""
    with Case.open(folder, read_only=True) as case, case.snapshot():
        footage, tracks, answers = (
            sources(case),
            finished_tracks(case),
            list(verdicts(case).values()),
        )
        if [source.sha256 for source in footage] != [sha256]:
            return None
        (source,) = footage
        faces = reasons_of_source(case, source.id)
    return {
        "frames": source.frames,
        "faces": sum(count for reason, count in faces.items() if reason is not None),
        "tracks": len(tracks),
        "usable": sum(track.verdict == "usable" for track in tracks),
        "with_candidates": answers.count("candidates"),
        "unknown": answers.count("unknown"),
        "losses": sum(source.losses.values()),
        "footage_seconds": _length(source.info),
    }


def _length(info: Mapping[str, Any]) -> float | None:
    return (
        None if info["duration"] in (None, "None") else round(float(Fraction(info["duration"])), 3)
    )


@lru_cache(maxsize=1)
def _models(settings: str) -> Models:
    """Opened once a process. One thread each: sums of several threads come in another order, and other workers have
    the other cores."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return open_models(Settings.model_validate_json(settings))
