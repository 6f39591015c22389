"""Footage in, a case out: decode → detect → track → select → enrol → restore → search → case.

The frames are processed in segments. Each segment is stored in one transaction, with all that a
stopped run needs to resume: the position in the footage, the state of the tracker, and the faces
of the tracks that are still running. A resumed run gives the same case as an unbroken one.
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
from typing import Literal

import torch

from fasr_video import actors
from fasr_video.batch_size import FRAMES, batch_size_for
from fasr_video.case.case import Case
from fasr_video.case.decisions import reviewer_name
from fasr_video.case.last_search import last_search
from fasr_video.case.recording import Recording
from fasr_video.case.sources import (
    SourceModels,
    all_done,
    is_done,
    register_source,
    resume_point,
    set_recording,
)
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
from fasr_video.pipeline.references import check_tracks, references_of_tracks
from fasr_video.pipeline.restore import (
    NO_REFERENCES,
    encode_all,
    open_encoder,
    tracks_together,
    tracks_without_features,
)
from fasr_video.pipeline.search import (
    check_search,
    last_gallery,
    open_gallery,
    search_all,
    update_answers,
    usable_calibration,
)
from fasr_video.sqlite import explain_errors
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.types import Detections, FrameRef

FRAMES_AHEAD = 8  # decoded frames that wait for the detector
BYTES_AHEAD = 1 << 28
BATCHES_AHEAD = 2  # batches with detections that wait to be tracked and stored
# Settings of `detect` that are for the `Gate` before the detector.
GATE_SETTINGS = {"every", "gate"}
StageName = Literal["restore", "search", "link"]
# The stages that can be repeated, and the groups of settings that may change then.
STAGES: dict[StageName, set[str]] = {
    "restore": {"recognise", "restore", "search", "link"},
    "search": {"search"},
    "link": {"link"},
}
SUBJECTS = "restore.subjects"


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one source, sent after each batch of frames."""

    source: Path
    frames: int
    """Frames that this run has processed."""
    share: float | None
    """Share of the footage, by time; None if its length is unknown."""
    faces: int
    tracks: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The progress of a stage after the footage."""

    what: str
    done: int
    total: int


Listener = Callable[[Progress | Stage], None]


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a run; they can be used for several cases with the same settings."""

    detector: Detector
    encoder: TrackEncoder


@dataclass(frozen=True, slots=True)
class _Job:
    """What all sources of a run have in common."""

    case: Case
    models: Models
    settings: Settings
    listen: Listener | None


@dataclass(frozen=True, slots=True)
class _Footage:
    """One source of a run."""

    reader: VideoReader
    stamp: object
    """The `stamp` of its files from before they were hashed."""
    recording: Recording | None


@dataclass(frozen=True, slots=True)
class _Batch:
    """Frames that the detector processed together."""

    refs: list[FrameRef]
    """Of all its frames."""
    frames: list[Frame]
    """Those for the detector: damaged ones are left out, unless a setting says otherwise."""
    detections: list[Detections]
    losses: Losses
    """What the reader lost up to the last frame."""
    gate: GateState
    """The state of the gate after the last frame."""


def open_models(settings: Settings) -> Models:
    """Open the detector, the embedder and the restorer."""
    if settings.detect.gate == "motion" and settings.detect.every == 1:
        reason = "with detect.every=1 the detector gets every frame as a whole"
        raise SettingsError("detect.gate=motion", reason, "set detect.every to 2 or more as well")
    detector = open_detector(**settings.detect.model_dump(exclude=GATE_SETTINGS))
    return Models(detector, open_encoder(settings))


def run(
    sources: Sequence[Path],
    out: Path | None,
    settings: Settings,
    gallery: Path | None = None,
    *,
    listen: Listener | None = None,
    recording: Recording | None = None,
    models: Models | None = None,
    by: str = "",
    role: str = "",
) -> tuple[Path, bool]:
    """Process footage into the case at `out`, or resume where an earlier run stopped.

    `recording` is the camera and clock of a single source. `models` have to be those of the
    settings. `by` and `role` are for the log; the defaults are the login name and the role from the
    environment. Return the folder of the case, and whether there was anything left to do.
    """
    operator = _operator("run", by, role)
    stamps = [stamp(source) for source in sources]
    readers = _open_readers(sources, settings)
    if recording is not None and len(readers) > 1:
        reason = "they describe one recording, but there are several files"
        raise UsageError("--camera and --clock", reason, "give one file for each case")
    sampling_of(settings)  # raises for settings that contradict each other
    folder = out or _default_folder(readers[0].info)
    models = models or open_models(settings)
    _check_gallery(
        folder, gallery, models.encoder, settings.search, subjects=settings.restore.subjects
    )
    worked = False
    with only_writer(folder), open_case(folder, settings) as case, case.logged_run(operator):
        job = _Job(case, models, settings, listen)
        for reader, stamp_before in zip(readers, stamps, strict=True):
            worked |= _run_source(job, _Footage(reader, stamp_before, recording))
        worked |= _after_footage(job, gallery)
    return folder, worked


def _open_readers(sources: Sequence[Path], settings: Settings) -> list[VideoReader]:
    """Open all footage; raise for a start after the end, and for the same footage given twice."""
    assumed_fps = Fraction(str(settings.media.assumed_fps))
    readers = [open_video(source, settings.media.backend, assumed_fps) for source in sources]
    start = settings.sampling.start or 0.0
    paths: dict[str, Path] = {}
    for info in (reader.info for reader in readers):
        if info.duration is not None and start >= info.duration:
            reason = f"this is after the end of {info.path.name} ({float(info.duration):.1f} s)"
            raise UsageError(f"--start {start:g}", reason, "give an earlier time")
    for info in (reader.info for reader in readers):
        first = paths.setdefault(info.sha256, info.path)
        if first != info.path:
            raise UsageError(info.path, f"the same footage as {first}", "give it only once")
    return readers


def _default_folder(info: MediaInfo) -> Path:
    return Path("cases") / f"{info.path.absolute().stem[:80]}-{info.sha256[:8]}"


def _check_gallery(
    folder: Path,
    gallery: Path | None,
    encoder: TrackEncoder,
    search: SearchSettings,
    *,
    subjects: Mapping[str, str],
) -> None:
    """Raise now for what would stop the search, or the use of subjects' photographs, later.

    A given calibration is checked even where nothing is searched.
    """
    if gallery is not None:
        check_search(folder, gallery, encoder, search, subjects=set(subjects.values()))
    elif subjects:
        reason = "there is no gallery with the subjects' photographs"
        raise UsageError(SUBJECTS, reason, "give --gallery")
    elif search.calibration is not None:
        usable_calibration(search, encoder.provenance())


def redo(
    out: Path,
    stage: StageName,
    settings: Settings,
    gallery: Path | None = None,
    *,
    listen: Listener | None = None,
    by: str = "",
    role: str = "",
) -> bool:
    """Repeat a stage of a finished case, and what depends on it; no footage is read.

    The settings of the stage may be other ones, and so may the gallery; the default is the gallery
    of the last search. All is checked before the case takes the settings. Return whether there was
    anything to do.
    """
    operator = _operator(f"stage {stage}", by, role)
    with only_writer(out), Case.open(out) as case, case.logged_run(operator):
        case.check_key()
        if not all_done(case):
            remedy = "run the footage again first: the run resumes where it stopped"
            raise CaseError(out, "its footage is not finished", remedy)
        gallery = gallery or last_gallery(case)
        if stage == "search" and gallery is None:
            raise UsageError("--stage search", "this case was never searched", "give --gallery")
        _check_settings(case, settings, stage)
        models = open_models(settings)
        subjects = settings.restore.subjects if stage == "restore" else {}
        _check_gallery(out, gallery, models.encoder, settings.search, subjects=subjects)
        check_tracks(case, track_names(case), subjects)
        if stage == "search":
            _check_features(case, models.encoder, settings.restore.seed)
        if stage == "link":
            _take_settings(case, settings, stage)
            return propose_all(case, settings.link)
        return _after_footage(_Job(case, models, settings, listen), gallery, stage)


def _check_features(case: Case, encoder: TrackEncoder, seed: int) -> None:
    """Raise if a track has no features of these models to search with."""
    tracks = tracks_without_features(case, encoder, seed)
    if tracks:
        reason = f"{len(tracks)} of its tracks have no features made with these models"
        remedy = "give --stage restore, which makes them and searches as well"
        raise CaseError(case.folder, reason, remedy)


def own_settings(folder: Path, stage: StageName, overrides: Sequence[str]) -> Settings:
    """Return the settings of a case, changed by `overrides`, for repeating a stage.

    If the stage searches, the settings of the search are those of the last search.
    """
    with Case.open(folder, read_only=True) as case:
        searched = last_search(case)
    last_settings = {}
    if searched is not None and "search" in STAGES[stage]:
        last_settings = searched.settings
    search = [
        f"search.{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in last_settings.items()
    ]
    return load(str(folder / SETTINGS), (*search, *overrides))


def _operator(what: str, by: str, role: str) -> dict[str, str]:
    """Return who runs what, for the log."""
    return {
        "what": what,
        "by": reviewer_name(by or actors.login_name()),
        "role": actors.role(role) or actors.role_from_environment(),
    }


def _after_footage(job: _Job, gallery_path: Path | None, stage: StageName | None = None) -> bool:
    """Restore, search and link whatever is not done yet; return whether there was anything.

    If a stage is repeated, the case takes the settings after the gallery is open, when nothing can
    be refused any more.
    """
    case, encoder, settings = job.case, job.models.encoder, job.settings
    worked = False
    with _open_gallery(job, gallery_path) as gallery:
        references: Mapping[int, References] = NO_REFERENCES
        if gallery is not None and stage != "search":
            subjects = settings.restore.subjects
            references = references_of_tracks(case, track_names(case), gallery, subjects)
        if stage is not None:
            _take_settings(case, settings, stage)
        if stage != "search":
            report = _stage_listener(job.listen, "super-resolving")
            together = tracks_together(settings.restore)
            worked = encode_all(
                case,
                encoder,
                settings.restore.seed,
                report,
                references=references,
                together=together,
            )
        if gallery is not None:
            worked |= search_all(case, gallery, encoder, settings.search)
    if gallery_path is None:
        worked |= update_answers(case, encoder)
    worked |= propose_all(case, settings.link)
    case.sweep_pictures()  # always: an earlier run may have been stopped in the middle of it
    return worked


def _open_gallery(job: _Job, path: Path | None) -> AbstractContextManager[Gallery | None]:
    if path is None:
        return nullcontext()
    report = _stage_listener(job.listen, "enrolling")
    models = job.models
    embedder = models.encoder.embedder
    return open_gallery(
        job.case, path, models.detector, embedder, settings=job.settings.search, listen=report
    )


def _stage_listener(listen: Listener | None, what: str) -> Callable[[int, int], None]:
    """Return a function that reports how much of a stage is done."""

    def report(done: int, total: int) -> None:
        if listen is not None:
            listen(Stage(what, done, total))

    return report


def open_case(out: Path, settings: Settings) -> Case:
    """Open the case at `out`, or create it; raise if it was made with other settings.

    The settings of the search, and `restore.subjects`, may differ.
    """
    chosen = json.loads(settings.model_dump_json())
    if not (out / DATABASE).is_file():
        return Case.create(out, chosen, as_yaml(settings))
    case = Case.open(out)
    case.check_key()
    changed = [
        name
        for name in _changed_settings(case, chosen)
        if name.split(".")[0] != "search" and name != SUBJECTS
    ]
    if changed:
        reason = f"this case was made with other settings ({', '.join(changed)})"
        raise CaseError(out, reason, "give another --out, or the same settings to resume")
    return case


def _changed_settings(case: Case, chosen: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the names of settings that differ from those of the case.

    A setting that is newer than the case had its default. Batch sizes do not count: they depend on
    the machine and do not change the result.
    """
    stored = json.loads(case.meta("settings"))
    defaults = json.loads(load("cpu").model_dump_json())
    changed = []
    for group, values in chosen.items():
        for name, value in values.items():
            before = stored.get(group, {}).get(name, defaults[group][name])
            if name != "batch" and before != value:
                changed.append(f"{group}.{name}")
    return changed


def _check_settings(case: Case, settings: Settings, stage: StageName) -> None:
    """Raise for changed settings that the stage does not depend on."""
    changed = _changed_settings(case, json.loads(settings.model_dump_json()))
    fixed = [name for name in changed if name.split(".")[0] not in STAGES[stage]]
    if fixed:
        reason = f"stage {stage} does not depend on {', '.join(fixed)}"
        remedy = "leave these settings as they are, or run the footage into a new case"
        raise CaseError(case.folder, reason, remedy)


def _take_settings(case: Case, settings: Settings, stage: StageName) -> None:
    """Store these settings in the case."""
    chosen = json.loads(settings.model_dump_json())
    changed = _changed_settings(case, chosen)
    if changed:
        with case.transaction():
            case.set_meta("settings", json.dumps(chosen, sort_keys=True))
            case.log("stage redone", {"stage": stage, "changed": changed, "settings": chosen})
    elif json.loads(case.meta("settings")) != chosen:
        return  # only batch sizes differ, or settings that are newer than the case
    with explain_errors(case.folder):
        atomic_write_text(case.folder / "settings.yaml", as_yaml(settings))


def _run_source(job: _Job, footage: _Footage) -> bool:
    """Process one source into the case; return whether there was anything left to do."""
    source = register_source(job.case, footage.reader.info, _models_for_source(job))
    if footage.recording is not None:
        set_recording(job.case, source, footage.recording)
    if is_done(job.case, source):
        return False
    _SourceRun(job, footage, source).process()
    return True


def _models_for_source(job: _Job) -> SourceModels:
    """Return which models decide what the case says of a source."""
    detector = job.models.detector
    embedder = job.models.encoder.embedder if uses_bundled_models(job.settings) else None
    return SourceModels(
        name=detector.name,
        model_sha256=detector.fingerprint,
        licence=detector.licence,
        landmarks=detector.has_landmarks,
        embedder=None if embedder is None else embedder.sha256,
    )


class _SourceRun:
    """Processes one source: frames through detector and tracker into segments of the case."""

    def __init__(self, job: _Job, footage: _Footage, source: int) -> None:
        case, settings = job.case, job.settings
        self._job = job
        self._footage = footage
        self._source = source
        track = settings.track
        tracker_settings = TrackerSettings(**track.model_dump(exclude={"method"}))
        self._tracker = TRACKERS[track.method](tracker_settings)
        embedder = job.models.encoder.embedder if uses_bundled_models(settings) else None
        info = footage.reader.info
        self._tracklets = segments.resume_tracklets(
            case, source, info, self._tracker, select=settings.select, embedder=embedder
        )
        self._after = resume_point(case, source, info)
        if self._after is not None:
            with case.transaction():
                case.log("resumed", {"source": source, "after_frame": self._after.index})
        motion = settings.detect.gate == "motion"
        state = segments.resume_gate(case, source)
        self._gate = Gate(job.models.detector, settings.detect.every, motion, state)
        self._gate_state = state
        self._losses = Losses()
        # Since the last segment was stored:
        self._began = time.monotonic()
        self._stored_losses = Losses()
        self._span: tuple[FrameRef, FrameRef] | None = None
        self._damaged = 0
        # Of this run, for its progress:
        self._frames = 0
        self._faces = 0

    def process(self) -> None:
        """Process all frames that are left; raise if the footage changes meanwhile."""
        reader, settings = self._footage.reader, self._job.settings
        frames = _with_losses(reader, sampling_of(settings), self._after)
        decoded = prefetch(frames, _frames_ahead(reader.info))
        # The detector works on the next frames while these are tracked, measured and stored.
        batches = prefetch(_detect(decoded, self._gate, settings), BATCHES_AHEAD)
        try:
            for batch in batches:
                self._add(batch)
                if self._tracklets.frames_waiting >= settings.case.segment_frames:
                    self._store_segment(is_last=False)
                self._report_progress(batch.refs[-1])
        finally:
            batches.close()
        if stamp(reader.info.path) != self._footage.stamp:
            reason = "it changed while it was read, so the case does not match it"
            remedy = "wait until it is complete, and run it into a new case"
            raise MediaError(reader.info.path, reason, remedy)
        self._losses = replace(reader.losses)
        self._tracklets.finish()
        self._store_segment(is_last=True)

    def _add(self, batch: _Batch) -> None:
        self._losses = batch.losses
        self._gate_state = batch.gate
        for frame, detections in zip(batch.frames, batch.detections, strict=True):
            self._tracklets.add_frame(frame, detections)
            self._faces += len(detections)
        self._frames += len(batch.frames)
        self._damaged += len(batch.refs) - len(batch.frames)
        first = batch.refs[0] if self._span is None else self._span[0]
        self._span = first, batch.refs[-1]

    def _store_segment(self, is_last: bool) -> None:
        now = time.monotonic()
        summary = segments.SegmentSummary(
            span=self._span,
            tracker=self._tracker,
            gate=self._gate_state,
            losses=self._losses - self._stored_losses,
            damaged=self._damaged,
            seconds=now - self._began,
            is_last=is_last,
        )
        segment = self._tracklets.take_segment()
        segments.save_segment(self._job.case, self._source, segment, summary)
        self._began = now
        self._stored_losses = self._losses
        self._span = None
        self._damaged = 0

    def _report_progress(self, ref: FrameRef) -> None:
        if self._job.listen is None:
            return
        reader = self._footage.reader
        tracks = self._tracklets.confirmed + self._tracklets.running
        share = _share(ref, reader.info, self._job.settings)
        progress = Progress(reader.info.path, self._frames, share, self._faces, tracks)
        self._job.listen(progress)


def _frames_ahead(info: MediaInfo) -> int:
    """Return how many decoded frames may wait: the larger they are, the fewer."""
    return max(1, min(FRAMES_AHEAD, BYTES_AHEAD // (3 * info.width * info.height)))


def sampling_of(settings: Settings) -> Sampling:
    chosen = settings.sampling
    return Sampling(
        chosen.every, fraction(chosen.fps), fraction(chosen.start), fraction(chosen.end)
    )


def _with_losses(
    reader: VideoReader, sampling: Sampling, after: FrameRef | None
) -> Generator[tuple[Frame, Losses]]:
    """Yield each frame with what was lost up to it: the reader is ahead of the detector."""
    for frame in reader.frames(sampling, after):
        yield frame, replace(reader.losses)


def _detect(
    frames: Generator[tuple[Frame, Losses]], gate: Gate, settings: Settings
) -> Generator[_Batch]:
    """Yield batches of frames with their detections."""
    with closing(frames):
        while pairs := list(islice(frames, frame_batch_size(settings.detect))):
            usable = [f for f, _ in pairs if settings.media.use_damaged or not f.damaged]
            detections = gate.detect([frame.image for frame in usable])
            refs = [frame.ref for frame, _ in pairs]
            _, losses = pairs[-1]
            yield _Batch(refs, usable, detections, losses, gate.state)


def frame_batch_size(settings: DetectSettings) -> int:
    return batch_size_for(FRAMES, torch.device(settings.device), settings.batch)


def _share(ref: FrameRef, info: MediaInfo, settings: Settings) -> float | None:
    """Return which share of the footage lies before a frame; None if its length is unknown."""
    start = settings.sampling.start or 0.0
    ends = [end for end in (settings.sampling.end, _length(info)) if end is not None]
    if not ends or min(ends) <= start:
        return None
    seconds = float((ref.pts - info.first_pts) * info.time_base)
    return min(1.0, max(0.0, (seconds - start) / (min(ends) - start)))


def _length(info: MediaInfo) -> float | None:
    """Return the length of the footage in seconds, if it is known."""
    if info.duration:
        return float(info.duration)
    if info.declared_frames is not None and info.time_source != "pts":
        return float(info.declared_frames * info.time_base)
    return None
