"""Make a file a case: the task of a worker, the same under every scheduler."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import count
from pathlib import Path

import cv2
import torch

from fasr_video import __version__
from fasr_video.archive.chunks import CachedDetector, detect_chunk
from fasr_video.archive.tasks import Chunk, OnProgress, Outcome, Status, Task
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

# Log lines that people cause, not runs.
BY_PEOPLE = ("decided", "decision undone", "link decided", "signed off")
# Seconds between two reports of progress.
PROGRESS_INTERVAL = 0.5
# A Dask worker may have several threads, but the models and cv2 are used by one at a time.
_one_task = threading.Lock()


def run_task(task: Task, on_progress: OnProgress) -> Outcome:
    """Do a task and return its outcome. Only signals raise: every error becomes an outcome."""
    began = time.monotonic()
    with _one_task:
        problem = why_unfit(task.version, task.settings, task.case.parent, task.gallery)
        if problem is None:
            outcome = _try(task, on_progress)
        else:
            outcome = Outcome(Status.UNFIT, problem)
    return replace(outcome, seconds=time.monotonic() - began)


def why_unfit(version: str, settings: str, cases: Path, gallery: Path | None) -> str | None:
    """Return why this process cannot do any task of a batch; None where it can."""
    if version != __version__:
        return (
            f"it has fasr-video {__version__}, but the batch runs {version};"
            " install the same version there"
        )
    for name, folder in {"cases": cases, "gallery": gallery}.items():
        if folder is not None and not os.path.exists(folder):
            return f"{folder}: the {name} cannot be seen from there; mount it under the same path"
    try:
        _models(settings)
    except FasrError as error:
        return str(error)
    return None


def _try(task: Task, on_progress: OnProgress) -> Outcome:
    try:
        if not _has_same_stat(task) and not _has_same_content(task):
            return _changed(task)
        if task.chunk is not None:
            outcome = _detect_chunk(task, task.chunk)
        else:
            outcome = _make_case(task, on_progress)
        return outcome if _has_same_content(task) else _changed(task)
    except CaseBusy as error:
        return Outcome(Status.BUSY, str(error))
    except EnvironmentFailure as error:
        return Outcome(Status.STOPPED, str(error))
    except FasrError as error:
        if not os.path.exists(task.path):
            return _gone(task)
        if not _has_same_stat(task):
            return _changed(task)
        return Outcome(Status.BAD, str(error))
    except Exception as error:  # one file must not stop the others
        if not os.path.exists(task.path):
            return _gone(task)
        text = " ".join(str(error).split())
        return Outcome(Status.FAILED, f"{task.path}: {type(error).__name__}: {text}")


def _make_case(task: Task, on_progress: OnProgress) -> Outcome:
    ignored_chunks = _run(task, on_progress)
    summary = summary_of(task.case, task.sha256)
    if summary is None and not _has_same_content(task):
        return _changed(task)
    if summary is None:
        return Outcome(
            Status.BAD,
            f"{task.case}: it also holds other footage;"
            " move the case elsewhere, then give --retry-failed",
        )
    messages = []
    if ignored_chunks:
        messages.append(
            f"{ignored_chunks} of its chunks came from another detector and were detected again"
        )
    if task.report and (problem := _write_report(task.case)):
        messages.append(problem)
    return Outcome(Status.DONE, "; ".join(messages), summary)


def _run(task: Task, on_progress: OnProgress) -> int:
    """Make the case; return how many chunks came from another detector and were detected again."""
    settings = Settings.model_validate_json(task.settings)
    models = _models(task.settings)
    listen = _progress_listener(on_progress)
    if task.chunks is None:
        run(
            [task.path],
            task.case,
            settings,
            task.gallery,
            listen=listen,
            recording=task.recording,
            models=models,
        )
        return 0
    detector = CachedDetector(models.detector, task.chunks)
    models = Models(detector, models.encoder)
    try:
        run(
            [task.path],
            task.case,
            settings,
            task.gallery,
            listen=listen,
            recording=task.recording,
            models=models,
        )
    finally:
        detector.close()
    shutil.rmtree(task.chunks, ignore_errors=True)
    return detector.ignored_chunks if detector.misses else 0


def _progress_listener(on_progress: OnProgress) -> Callable[[object], None]:
    """Return a listener for events of a run that passes its progress on, but not too often."""
    last = 0.0

    def listen(event: object) -> None:
        nonlocal last
        if not isinstance(event, Progress) or event.share is None:
            return
        if time.monotonic() - last > PROGRESS_INTERVAL:
            last = time.monotonic()
            on_progress(event.share)

    return listen


def _write_report(case: Path) -> str | None:
    """Write the case's report; returns why it could not be written. The case stays done."""
    try:
        refresh(case)
    except EnvironmentFailure:
        raise
    except FasrError as error:
        return f"its report was not written: {error}"
    return None


def _detect_chunk(task: Task, chunk: Chunk) -> Outcome:
    settings = Settings.model_validate_json(task.settings)
    sampling = settings.sampling.model_copy(update={"start": chunk.start, "end": chunk.end})
    settings = settings.model_copy(update={"sampling": sampling})
    assumed_fps = Fraction(str(settings.media.assumed_fps))
    reader = open_video(task.path, settings.media.backend, assumed_fps)
    detect_chunk(reader, _models(task.settings).detector, settings, chunk.file)
    return Outcome(Status.DONE)


def _has_same_stat(task: Task) -> bool:
    """Return whether the file has the size and the time of change that it was hashed with."""
    try:
        stat = task.path.stat()
    except OSError:
        return True  # the file is gone; opening it gives the better message
    return (stat.st_size, stat.st_mtime_ns) == (task.size, task.mtime_ns)


def _has_same_content(task: Task) -> bool:
    """Return whether the file has the hash of the task, or is gone."""
    return not os.path.exists(task.path) or sha256_file(task.path) == task.sha256


def _may_have_same_content(task: Task) -> bool:
    """Return whether the file has the hash of the task, or cannot be read now."""
    try:
        return _has_same_content(task)
    except OSError:
        return True


def _gone(task: Task) -> Outcome:
    """Return the outcome for a file that disappeared: its disk may be back by the next try."""
    return Outcome(Status.FAILED, f"{task.path}: it disappeared while it was read")


def _changed(task: Task) -> Outcome:
    """Return the outcome for a file that changed, and remove what was made of its old content.

    A case that people worked on is renamed, not removed.
    """
    if _may_have_same_content(task):
        return Outcome(
            Status.CHANGED,
            f"{task.path}: it was touched while it was read; its content is the same",
        )
    message = f"{task.path}: it changed while it was read; it will be read again"
    if task.chunk is not None:
        return Outcome(Status.CHANGED, message)
    if task.chunks is not None:
        shutil.rmtree(task.chunks, ignore_errors=True)
    if not os.path.lexists(task.case):
        return Outcome(Status.CHANGED, message)
    reason = _reason_to_keep(task.case)
    if reason is not None:
        name = _move_aside(task.case).name
        return Outcome(Status.CHANGED, f"{message}; {reason}: its case is kept as {name}")
    shutil.rmtree(task.case, ignore_errors=True)
    return Outcome(Status.CHANGED, message)


def _reason_to_keep(case: Path) -> str | None:
    """Return why a case must not be removed; None where it holds only what a run writes."""
    try:
        if not (case / DATABASE).is_file():
            files_named_as_in_a_case(case)
            return None
        with Case.open(case, read_only=True) as opened:
            files_of_case(opened)
            by_people = log.entries(opened, *BY_PEOPLE)
    except FasrError as error:
        return f"it holds files that no run wrote ({error.subject})"
    return "people decided on its tracks" if by_people else None


def _move_aside(case: Path) -> Path:
    """Rename a case to a name that no job uses; returns the new path."""
    candidates = (case.with_name(f"{case.name}.kept-{number}") for number in count(1))
    target = next(path for path in candidates if not os.path.lexists(path))
    case.rename(target)
    sync_folder(case.parent)
    return target


def summary_of(folder: Path, sha256: str) -> dict[str, object] | None:
    """Return a finished case in numbers; None where it holds other footage than this one file."""
    with Case.open(folder, read_only=True) as case, case.snapshot():
        footage = sources(case)
        tracks = finished_tracks(case)
        answers = list(verdicts(case).values())
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
        "footage_seconds": _length(source.info["duration"]),
    }


def _length(duration: str | None) -> float | None:
    return None if duration in (None, "None") else round(float(Fraction(duration)), 3)


@lru_cache(maxsize=1)
def _models(settings: str) -> Models:
    """Open the models, one time per process, with one thread each.

    Several threads would add numbers in another order, and the other cores have their own workers.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return open_models(Settings.model_validate_json(settings))
