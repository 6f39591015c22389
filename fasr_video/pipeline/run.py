"""Footage in, a case out: decode → detect → track → select → enrol → restore → search → case.

A segment of frames at a time is made safe. What a run needs to go on is in the case after each: where it stopped,
the tracker's state, and the faces kept for the tracks still running. A resumed run gives what an unbroken one gives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from fasr_video import actors
from fasr_video.batch_size import FRAMES, batch_size_for
from fasr_video.case.case import Case
from fasr_video.case.decisions import reviewer_name
from fasr_video.case.recording import Recording
from fasr_video.case.sources import all_done, is_done, register_source, resume_point, set_recording
from fasr_video.case.store import DATABASE, SETTINGS, only_writer
from fasr_video.case.tracks import track_names
from fasr_video.configs.settings import (
    DetectSettings,
    SearchSettings,
    Settings,
    as_yaml,
    fraction,
    load,
)
from fasr_video.detection import Detector, open_detector
from fasr_video.detection.frame_skipping import Gate, GateState
from fasr_video.errors import CaseError, MediaError, SettingsError, UsageError
from fasr_video.files import atomic_write_text
from fasr_video.gallery.encoder import References, TrackEncoder
from fasr_video.gallery.gallery import Gallery
from fasr_video.media import Frame, Losses, MediaInfo, Sampling, VideoReader, open_video, stamp
from fasr_video.pipeline import segments
from fasr_video.pipeline.evidence import uses_bundled_models
from fasr_video.pipeline.links import propose_all
from fasr_video.pipeline.prefetch import prefetch
from fasr_video.pipeline.references import check_tracks, of_tracks
from fasr_video.pipeline.restore import (
    NOBODY,
    encode_all,
    open_encoder,
    tracks_together,
    tracks_without_features,
)
from fasr_video.pipeline.search import (
    check_question,
    last_gallery,
    open_gallery,
    renew_answers,
    search_all,
)
from fasr_video.sqlite import explain_errors
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.types import Detections, FrameRef

AHEAD = 8  # decoded frames that wait for the detector
BYTES_AHEAD = 1 << 28
FOUND_AHEAD = 2  # batches with their faces that wait to be tracked and stored
# Settings of `detect` that say when to look, which the detector itself knows nothing of.
LOOKING = {"every", "gate"}
StageName = Literal["restore", "search", "link"]
# What can be done again, and the groups of settings that may be other ones then.
STAGES: dict[StageName, set[str]] = {
    "restore": {"recognise", "restore", "search", "link"},
    "search": {"search"},
    "link": {"link"},
}
SUBJECTS = "restore.subjects"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one source is; sent after each batch of frames."""

    source: Path
    frames: int
    """Looked at in this run."""
    share: float | None
    """Of the footage, by time; None when its length is unknown."""
    faces: int
    tracks: int


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a stage after the footage is."""

    what: str
    done: int
    total: int


Listener = Callable[[Progress | Stage], None]


@dataclass(frozen=True, slots=True)
class Models:
    """What a run computes with: opened once, and used for any number of cases with the same settings."""

    detector: Detector
    encoder: TrackEncoder


def open_models(settings: Settings) -> Models:
    if settings.detect.gate == "motion" and settings.detect.every == 1:
        reason = "the whole of every frame is looked at, and nothing is left to skip"
        raise SettingsError(
            "detect.gate=motion", reason, "give detect.every, too: the whole of each Nth frame"
        )
    return Models(
        open_detector(**settings.detect.model_dump(exclude=LOOKING)), open_encoder(settings)
    )


def run(
    sources: Sequence[Path],
    out: Path | None,
    settings: Settings,
    gallery: Path | None = None,
    listen: Listener | None = None,
    place: Recording | None = None,
    models: Models | None = None,
    by: str = "",
    role: str = "",
) -> tuple[Path, bool]:
    """Process footage into the case at `out`, going on where an earlier run stopped.

    `place` says where and when a single source was recorded; `models` are those of the settings, where they are open
    already; the log names who runs it and as what: unless told, the login and what the environment says. Returns the
    case's folder and whether there was anything left to do.
    """
    runs_it = _who("run", by, role)
    stamps = [stamp(source) for source in sources]
    readers = [
        open_video(s, settings.media.backend, Fraction(str(settings.media.assumed_fps)))
        for s in sources
    ]
    for reader in readers:
        length, start = reader.info.duration, settings.sampling.start or 0.0
        if length is not None and start >= length:
            reason = f"it begins after the end of {reader.info.path.name} ({float(length):.1f} s)"
            raise UsageError(f"--start {start:g}", reason, "give an earlier time")
    if out is None:
        first = readers[0].info
        out = Path("cases") / f"{first.path.absolute().stem[:80]}-{first.sha256[:8]}"
    seen: dict[str, Path] = {}
    for reader in readers:
        first_path = seen.setdefault(reader.info.sha256, reader.info.path)
        if first_path != reader.info.path:
            raise UsageError(reader.info.path, f"the same footage as {first_path}", "give it once")
    if place is not None and len(readers) > 1:
        raise UsageError(
            "--camera and --clock", "they are about one recording", "give one file a case"
        )
    sampling = sampling_of(settings)
    models = models or open_models(settings)
    subjects = settings.restore.subjects
    if gallery is not None:
        check_question(out, gallery, models.encoder, settings.search, set(subjects.values()))
    elif subjects:
        raise _no_photographs()
    worked = False
    with only_writer(out), open_case(out, settings) as case, case.logged_run(runs_it):
        for reader, before in zip(readers, stamps, strict=True):
            worked |= _run_source(case, reader, models, settings, sampling, listen, place, before)
        worked |= _after_footage(case, gallery, models, settings, listen)
    return out, worked


def redo(
    out: Path,
    stage: StageName,
    settings: Settings,
    gallery: Path | None = None,
    listen: Listener | None = None,
    by: str = "",
    role: str = "",
) -> bool:
    """Do one stage of a case again with other settings or another gallery, and what depends on it; no footage is read.

    Returns whether there was anything to do. Without a gallery, the one that was searched last is searched again.
    Whatever would refuse it is looked at before the case takes the settings.
    """
    runs_it = _who(f"stage {stage}", by, role)
    with only_writer(out), Case.open(out) as case, case.logged_run(runs_it):
        case.check_key()
        if not all_done(case):
            raise CaseError(
                out,
                "its footage is not done",
                "run the footage again first: it goes on where it was",
            )
        gallery = gallery or last_gallery(case)
        if stage == "search" and gallery is None:
            raise UsageError("--stage search", "this case was never searched", "give --gallery")
        _check_settings(case, settings, stage)
        models, subjects = (
            open_models(settings),
            settings.restore.subjects if stage == "restore" else {},
        )
        if gallery is not None:
            check_question(out, gallery, models.encoder, settings.search, set(subjects.values()))
        elif subjects:
            raise _no_photographs()
        check_tracks(case, track_names(case), subjects)
        if stage == "search" and (
            bare := tracks_without_features(case, models.encoder, settings.restore.seed)
        ):
            reason = f"{len(bare)} of its tracks have no probes made with the models at hand"
            raise CaseError(out, reason, "give --stage restore, which searches too")
        if stage == "link":
            _take_settings(case, settings, stage)
            return propose_all(case, settings.link)
        return _after_footage(case, gallery, models, settings, listen, stage)


def own_settings(folder: Path, stage: StageName, overrides: Sequence[str]) -> Settings:
    """What a stage begins with: the case's own settings, changed by `overrides`; where it searches, those of the search
    are the ones that the case was asked with last, by whatever command."""
    with Case.open(folder, read_only=True) as case:
        searched = case.searched()
    asked = {} if searched is None or "search" not in STAGES[stage] else searched["question"]
    last = [
        f"search.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in asked.items()
    ]
    return load(str(folder / SETTINGS), (*last, *overrides))


def _who(what: str, by: str, role: str) -> dict[str, str]:
    return {
        "what": what,
        "by": reviewer_name(by or actors.login()),
        "role": actors.role(role) or actors.stated(),
    }


def _no_photographs() -> UsageError:
    return UsageError(SUBJECTS, "there is no gallery with their photographs", "give --gallery")


def _after_footage(
    case: Case,
    gallery: Path | None,
    models: Models,
    settings: Settings,
    listen: Listener | None,
    stage: StageName | None = None,
) -> bool:
    """Restore, search, link: whatever of it is not done with these models, settings and people. Of a stage, the case
    takes the settings when people and photographs are at hand, and nothing can refuse it any more."""
    encoder, worked = models.encoder, False
    with _people(case, gallery, models, settings.search, listen) as people:
        drawn_from: Mapping[int, References] = NOBODY
        if people is not None and stage != "search":
            drawn_from = of_tracks(case, track_names(case), people, settings.restore.subjects)
        if stage is not None:
            _take_settings(case, settings, stage)
        if stage != "search":  # which asks with the probes that are there
            tell, together = _stage(listen, "super-resolving"), tracks_together(settings.restore)
            worked = encode_all(case, encoder, settings.restore.seed, tell, drawn_from, together)
        if people is not None:
            worked |= search_all(case, people, encoder, settings.search)
    if gallery is None:
        worked |= renew_answers(case, encoder)
    worked |= propose_all(case, settings.link)
    case.sweep_pictures()  # each time: a run that was cut while it swept left some
    return worked


def _people(
    case: Case,
    gallery: Path | None,
    models: Models,
    settings: SearchSettings,
    listen: Listener | None,
) -> AbstractContextManager[Gallery | None]:
    if gallery is None:
        return nullcontext()
    tell = _stage(listen, "enrolling")
    return open_gallery(case, gallery, models.detector, models.encoder.embedder, settings, tell)


def _stage(listen: Listener | None, what: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if listen is not None:
            listen(Stage(what, done, total))

    return tell


def open_case(out: Path, settings: Settings) -> Case:
    """The case at `out`, new or made with the same settings; whom to search for, and draw from, may be asked anew."""
    chosen = json.loads(settings.model_dump_json())
    if not (out / DATABASE).is_file():
        return Case.create(out, chosen, as_yaml(settings))
    case = Case.open(out)
    case.check_key()
    changed = [
        name
        for name in _changed(case, chosen)
        if name.split(".")[0] != "search" and name != SUBJECTS
    ]
    if changed:
        reason = f"this case was made with other settings ({', '.join(changed)})"
        raise CaseError(out, reason, "give another --out, or the same settings to go on")
    return case


def _changed(case: Case, chosen: dict[str, dict[str, Any]]) -> list[str]:
    """The settings that are not the case's; one that came after the case was made had its default. How many items are
    computed at a time is about the machine, not about what is found."""
    stored, before = json.loads(case.meta("settings")), json.loads(load("cpu").model_dump_json())
    names = [(g, k) for g in chosen for k in chosen[g] if k != "batch"]
    return [f"{g}.{k}" for g, k in names if stored.get(g, {}).get(k, before[g][k]) != chosen[g][k]]


def _check_settings(case: Case, settings: Settings, stage: StageName) -> None:
    """Only those of the stage, and of what follows it, may be other ones than the case has."""
    changed = _changed(case, json.loads(settings.model_dump_json()))
    fixed = [name for name in changed if name.split(".")[0] not in STAGES[stage]]
    if fixed:
        reason = f"stage {stage} does not depend on {', '.join(fixed)}"
        raise CaseError(
            case.folder, reason, "leave that as the case has it, or run the footage into a new case"
        )


def _take_settings(case: Case, settings: Settings, stage: StageName) -> None:
    """From now on the case has these settings."""
    chosen = json.loads(settings.model_dump_json())
    changed = _changed(case, chosen)
    if changed:
        with case.transaction():
            case.set_meta("settings", json.dumps(chosen, sort_keys=True))
            case.log("stage redone", {"stage": stage, "changed": changed, "settings": chosen})
    elif json.loads(case.meta("settings")) != chosen:
        return  # how much is computed at a time, or what came after the case was made
    with explain_errors(case.folder):
        atomic_write_text(case.folder / "settings.yaml", as_yaml(settings))


def _run_source(
    case: Case,
    reader: VideoReader,
    models: Models,
    settings: Settings,
    sampling: Sampling,
    listen: Listener | None,
    place: Recording | None,
    before: object,
) -> bool:
    """`before` is the footage's `stamp` from before it was hashed: one that changed since is not done."""
    info, detector = reader.info, models.detector
    embedder = models.encoder.embedder if uses_bundled_models(settings) else None
    described = {
        "name": detector.name,
        "model_sha256": detector.fingerprint,
        "licence": detector.licence,
        "landmarks": detector.has_landmarks,
        "embedder": None if embedder is None else embedder.sha256,
    }
    source = register_source(case, info, described)
    if place is not None:
        set_recording(case, source, place)
    if is_done(case, source):
        return False
    track = settings.track
    tracker = TRACKERS[track.method](TrackerSettings(**track.model_dump(exclude={"method"})))
    tracklets = segments.resume_tracklets(case, source, info, tracker, settings.select, embedder)
    after = resume_point(case, source, info)
    if after is not None:
        with case.transaction():
            case.log("resumed", {"source": source, "after_frame": after.index})
    frames = prefetch(_with_losses(reader, sampling, after), _ahead(info))
    # The next faces are looked for while those found are tracked, measured and stored.
    motion = settings.detect.gate == "motion"
    gate = Gate(detector, settings.detect.every, motion, segments.resume_gate(case, source))
    batches = prefetch(_detected(frames, gate, settings), FOUND_AHEAD)
    began, counted, losses = time.monotonic(), Losses(), Losses()
    span: tuple[FrameRef, FrameRef] | None = None
    state = gate.state
    looked = faces = damaged = 0

    def save(done: bool) -> None:
        nonlocal began, counted, span, damaged
        now = time.monotonic()
        segments.save_segment(
            case,
            source,
            tracklets.take_segment(),
            span,
            tracker=tracker,
            gate=state,
            losses=losses - counted,
            damaged=damaged,
            seconds=now - began,
            done=done,
        )
        began, counted, span, damaged = now, losses, None, 0

    try:
        for batch, good, detections, after_them in batches:
            losses, state = batch[-1][1], after_them
            for frame, found in zip(good, detections, strict=True):
                tracklets.look(frame, found)
                faces += len(found)
            looked += len(good)
            damaged += len(batch) - len(good)
            span = (span[0] if span else batch[0][0].ref, batch[-1][0].ref)
            if tracklets.frames_waiting >= settings.case.segment_frames:
                save(done=False)
            if listen is not None:
                share = _share(batch[-1][0].ref, reader, settings)
                listen(
                    Progress(
                        info.path, looked, share, faces, tracklets.confirmed + tracklets.running
                    )
                )
    finally:
        batches.close()
    if stamp(info.path) != before:
        reason = "it changed while it was read: what was found is of no footage that ever was"
        raise MediaError(info.path, reason, "wait until it is whole, and run it into a new case")
    losses = replace(reader.losses)
    tracklets.finish()
    save(done=True)
    return True


def _ahead(info: MediaInfo) -> int:
    """How many decoded frames may wait: few of large ones."""
    return max(1, min(AHEAD, BYTES_AHEAD // (3 * info.width * info.height)))


def sampling_of(settings: Settings) -> Sampling:
    chosen = settings.sampling
    return Sampling(
        chosen.every, fraction(chosen.fps), fraction(chosen.start), fraction(chosen.end)
    )


def _with_losses(
    reader: VideoReader, sampling: Sampling, after: FrameRef | None
) -> Generator[tuple[Frame, Losses]]:
    """Each frame with what was lost up to it: the reader itself is some frames ahead of the detector."""
    for frame in reader.frames(sampling, after):
        yield frame, replace(reader.losses)


def _detected(
    frames: Generator[tuple[Frame, Losses]], gate: Gate, settings: Settings
) -> Generator[tuple[list[tuple[Frame, Losses]], list[Frame], list[Detections], GateState]]:
    """Each batch of frames, those of it that are looked at, what is found in these, and the gate's state after it."""
    with closing(frames):
        while batch := list(islice(frames, frame_batch_size(settings.detect))):
            good = [f for f, _ in batch if settings.media.use_damaged or not f.damaged]
            yield batch, good, gate.detect([f.image for f in good]), gate.state


def frame_batch_size(settings: DetectSettings) -> int:
    return batch_size_for(FRAMES, torch.device(settings.device), settings.batch)


def _share(ref: FrameRef, reader: VideoReader, settings: Settings) -> float | None:
    info, start, end = reader.info, settings.sampling.start or 0.0, settings.sampling.end
    length = float(info.duration) if info.duration else None
    if info.declared_frames is not None and length is None:
        length = float(info.declared_frames * info.time_base) if info.time_source != "pts" else None
    stop = min(v for v in (end, length) if v is not None) if end or length else None
    if stop is None or stop <= start:
        return None
    at = float((ref.pts - info.first_pts) * info.time_base)
    return min(1.0, max(0.0, (at - start) / (stop - start)))
