"""Evaluation of cases against ground truth: detection, tracking, and identification by track."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.case import document
from fasr_video.case.case import Case
from fasr_video.case.last_search import last_search
from fasr_video.case.results import photographs, probe_kinds
from fasr_video.case.sources import sources
from fasr_video.case.tracks import Face, all_faces, usable_tracks
from fasr_video.configs.settings import Settings
from fasr_video.errors import InputError, MissingExtra, UsageError
from fasr_video.evaluation import detection, open_set, plots
from fasr_video.evaluation.compare import emptied, write_tables, write_text
from fasr_video.evaluation.open_set import UNLISTED, Searches
from fasr_video.evaluation.photos import LeftOut
from fasr_video.evaluation.report import between, search_bounds
from fasr_video.evaluation.scoring import RANKS, Scored, ranks
from fasr_video.evaluation.tables import Cell, Column, Row, Table
from fasr_video.evaluation.tracking import LabelledFrame, TrackingScores
from fasr_video.evaluation.tracking import score as score_tracks
from fasr_video.pipeline.run import sampling_of
from fasr_video.sqlite import READ_ERRORS

# Intersection over union from which a detected box belongs to a true face.
OVERLAP = 0.5
# A track belongs to a person who has this share of its sightings.
PURE = 0.8
LISTS = ("best", "pooled", "sr", "joined")
REMEDY = "give JSON: {clip: {fps, people, frames: {index: {person: {box: [x1, y1, x2, y2]}}}}}"


@dataclass(frozen=True, slots=True)
class Truth:
    fps: Fraction
    people: tuple[str, ...]
    frames: Mapping[int, Mapping[str, Sequence[float]]]
    """Frame index → person → box."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One source of a case with its truth, frame by frame."""

    name: str
    frames: tuple[LabelledFrame, ...]
    detections: detection.JudgedDetections
    owners: Mapping[int, str | None]
    """Track → its person; None for a mixed track, or for nobody's."""
    people: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    tables: tuple[Table, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    report: Path


def evaluate(folders: Sequence[Path], truth_file: Path, out: Path) -> Evaluation:
    """Evaluate cases against ground truth, and write tables, plots and a report."""
    truths = read_truth(truth_file)
    clips: list[Clip] = []
    results: list[_TrackResult] = []
    left_out: list[LeftOut] = []
    opened: set[Path] = set()
    subjects: set[str] = set()
    for folder in folders:
        if folder.resolve() in opened:
            left_out.append(LeftOut(str(folder), "the same case twice"))
            continue
        opened.add(folder.resolve())
        with Case.open(folder, read_only=True) as case:
            case_clips, skipped = _clips(case, truths)
            clips += case_clips
            left_out += skipped
            subjects |= _subjects(case)
            results += _track_results(
                case, {t: who for clip in case_clips for t, who in clip.owners.items()}
            )
    if not clips:
        raise UsageError(
            truth_file,
            "it has none of the cases' files",
            "name the clips in it as the files are named",
        )
    tables = [_detection_table(clips), _tracking_table(clips), _track_table(clips)]
    tables += [] if not results else [_search_table(results)]
    write_tables(tables, out / "tables")
    warnings = _strangers(clips, subjects)
    warnings += [] if not results else _plot(results, out / "plots")
    notes = [
        *(f"**Warning:** {w}." for w in warnings),
        *(f"Left out: {line}." for line in left_out),
    ]
    plotted = [f"![{p.stem}](plots/{p.name})" for p in sorted((out / "plots").glob("*.png"))]
    text = "\n\n".join(["# Evaluation: video", *notes, *(t.markdown() for t in tables), *plotted])
    write_text(out / "report.md", text)
    return Evaluation(tuple(tables), tuple(left_out), tuple(warnings), out / "report.md")


def _subjects(case: Case) -> set[str]:
    return {photograph.subject for photograph in photographs(case) if photograph.problem is None}


def _strangers(clips: Sequence[Clip], subjects: set[str]) -> list[str]:
    """Return a warning about people in the truth who are no subjects of the gallery."""
    unknown = sorted({who for clip in clips for who in clip.people} - subjects)
    if not subjects or not unknown:
        return []
    names = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
    return [
        f"{len(unknown)} of the truth's people are no subjects of the gallery ({names}) "
        "and count as strangers"
    ]


def _plot(results: Sequence[_TrackResult], folder: Path) -> list[str]:
    """Write the CMC and, given strangers, the DET of each list, and return warnings."""
    scores = {}
    for kind in LISTS:
        searches = _searches(results, kind)
        if searches is not None:
            scores[kind] = Scored({}, np.zeros(0), np.zeros(0), searches)
    emptied(folder)
    try:
        plots.cmc(
            scores, folder / "cmc.png", min(plots.LAST_RANK, *(a.most_candidates for a in results))
        )
        plots.det(scores, folder / "det.png")
    except MissingExtra as error:
        return [f"no plots: {error}"]
    return []


def read_truth(file: Path) -> dict[str, Truth]:
    """Return the ground truth in a file, by clip."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: _truth(clip) for name, clip in content.items()}
    except (OSError, *READ_ERRORS) as error:
        raise InputError(
            file, f"no ground truth ({type(error).__name__}: {error})", REMEDY
        ) from error


def _truth(clip: Mapping[str, Any]) -> Truth:
    frames = {
        int(k): {person: _box(face["box"]) for person, face in faces.items()}
        for k, faces in clip["frames"].items()
    }
    fps, people = Fraction(clip["fps"]).limit_denominator(1001), tuple(clip["people"])
    if fps <= 0:
        raise ValueError(f"{clip['fps']} frames a second")
    if min(frames, default=0) < 0:
        raise ValueError(f"frame {min(frames)}")
    unknown = sorted({person for faces in frames.values() for person in faces} - set(people))
    if unknown:
        raise ValueError(f"{unknown[0]} is in a frame and not among people")
    return Truth(fps, people, frames)


def _box(values: Sequence[float]) -> list[float]:
    box = [float(v) for v in values]
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"{values} is no box")
    return box


def _clips(case: Case, truths: Mapping[str, Truth]) -> tuple[list[Clip], list[LeftOut]]:
    settings = Settings.model_validate_json(case.meta("settings"))
    clips: list[Clip] = []
    left_out: list[LeftOut] = []
    for source in sources(case):
        name = Path(source.path).name
        if name not in truths:
            left_out.append(LeftOut(f"{case.folder}: {name}", "no ground truth of it"))
        elif not source.done:
            left_out.append(LeftOut(f"{case.folder}: {name}", "its run is not done"))
        else:
            clips.append(_clip(case, source.id, name, truths[name], settings=settings))
    return clips, left_out


def _clip(case: Case, source: int, name: str, truth: Truth, *, settings: Settings) -> Clip:
    number = {person: k for k, person in enumerate(truth.people)}
    faces_by_frame: dict[int, list[Face]] = {}
    for face in all_faces(case, source):
        faces_by_frame.setdefault(face.frame_index, []).append(face)
    frames: list[LabelledFrame] = []
    counted: list[detection.ScoredDetection] = []
    heights = []
    sightings: dict[int, Counter[str | None]] = {}
    for index in sorted(set(_processed_frames(truth, settings)) | set(faces_by_frame)):
        truth_boxes = truth.frames.get(index, {})
        faces = faces_by_frame.get(index, [])
        true = _boxes(list(truth_boxes.values()))
        detected = _boxes([face.box for face in faces])
        scores = np.array([face.score for face in faces], np.float32)
        counted += detection.assign(
            detected.astype(np.float32), scores, true.astype(np.float32), OVERLAP
        )
        heights.append(detection.heights(true.astype(np.float32)))
        tracked = [k for k, face in enumerate(faces) if face.track is not None]
        ids = np.array([faces[k].track for k in tracked], np.int64)
        frames.append(
            LabelledFrame(
                true_ids=np.array([number[person] for person in truth_boxes], np.int64),
                true_boxes=true,
                predicted_ids=ids,
                predicted_boxes=detected[tracked],
            )
        )
        owners_here = _true_people(detected[tracked], true, list(truth_boxes))
        for track, owner in zip(ids.tolist(), owners_here, strict=True):
            sightings.setdefault(track, Counter())[owner] += 1
    numbers = {track.id for track in usable_tracks(case)}
    owners = {track: _owner(counts) for track, counts in sightings.items() if track in numbers}
    face_heights = np.concatenate([np.zeros(0), *heights])
    return Clip(
        name, tuple(frames), detection.rank_detections(counted, face_heights), owners, truth.people
    )


def _processed_frames(truth: Truth, settings: Settings) -> Iterator[int]:
    """Yield the frames that the run processed, with faces or without, by the truth's frame rate."""
    sampling = sampling_of(settings)
    before: Fraction | None = None
    for index in range(max(truth.frames, default=-1) + 1):
        seconds = index / truth.fps
        if sampling.is_past(seconds):
            return
        if sampling.wants(index, seconds, before):
            yield index
        before = seconds


def _boxes(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(-1, 4)


def _true_people(
    detected: NDArray[np.float64], true: NDArray[np.float64], people: Sequence[str]
) -> list[str | None]:
    if not len(detected) or not people:
        return [None] * len(detected)
    overlaps = iou_matrix(detected, true)
    return [people[int(row.argmax())] if row.max() >= OVERLAP else None for row in overlaps]


def _owner(counts: Counter[str | None]) -> str | None:
    who, times = counts.most_common(1)[0]
    return who if times >= PURE * counts.total() else None


# ------------------------------------------------------------------------------------------- search


@dataclass(frozen=True, slots=True)
class _TrackResult:
    """The search result of one track."""

    person: str
    enrolled: bool
    lists: Mapping[str, Sequence[tuple[str, float]]]
    """By probe, subjects with scores, best first; empty if nobody passes.

    Probes that were not searched with are missing.
    """
    subjects: int
    """Number of subjects in the gallery."""
    most_candidates: int
    """Largest number of candidates on a list."""
    has_candidates: bool
    """Whether the verdict was candidates, not unknown."""


def _track_results(case: Case, owners: Mapping[int, str | None]) -> list[_TrackResult]:
    subjects, searched, probes = _subjects(case), last_search(case), probe_kinds(case)
    most_candidates = 0 if searched is None else int(searched.settings["candidates"])
    results = []
    for track in document.tracks(case):
        person, answer = owners.get(track.id), track.answer
        if person is None or answer is None:
            continue
        joined = [(c.subject, c.score) for c in answer.joined]
        lists = {}
        for kind, hits in answer.lists.items():
            lists[str(kind)] = [(hit.subject, hit.cosine) for hit in hits]
        # A case stores no row for an empty list.
        empty: dict[str, list[tuple[str, float]]] = {kind: [] for kind in probes.get(track.id, ())}
        all_lists = {**empty, **lists, "joined": joined}
        result = _TrackResult(
            person=person,
            enrolled=person in subjects,
            lists=all_lists,
            subjects=len(subjects),
            most_candidates=most_candidates,
            has_candidates=answer.verdict == "candidates",
        )
        results.append(result)
    return results


def _searches(results: Sequence[_TrackResult], kind: str) -> Searches | None:
    """Return the searches of one list; None if nothing was searched with it.

    An enrolled person who is not on the list is missed at any rank and threshold.
    """
    rows = [a for a in results if kind in a.lists]
    if not rows:
        return None
    right, wrong, rank = [], [], []
    for a in rows:
        listed = a.lists[kind]
        own = next(
            ((k, score) for k, (subject, score) in enumerate(listed, 1) if subject == a.person),
            None,
        )
        rank_of_own, score = own or (UNLISTED, -math.inf)
        right.append(score if a.enrolled else math.nan)
        rank.append(rank_of_own if a.enrolled else 0)
        wrong.append(max((s for subject, s in listed if subject != a.person), default=-math.inf))
    people = np.array([a.person for a in rows], np.str_)
    return Searches(np.array(right), np.array(wrong), np.array(rank, np.intp), people)


# ------------------------------------------------------------------------------------------- tables


def _detection_table(clips: Sequence[Clip]) -> Table:
    rows = []
    for clip in clips:
        detections = clip.detections
        precision = float(detections.true.mean()) if len(detections.true) else math.nan
        values = (
            len(detections.faces),
            detection.average_precision(detections),
            precision,
            detection.recall(detections),
        )
        rows.append(Row(clip.name, tuple(Cell(float(v)) for v in values)))
    columns = (Column("faces", 0), Column("AP", 3), Column("precision", 3), Column("recall", 3))
    note = f"All detected faces; a box belongs to a face from an overlap of {OVERLAP:g} on."
    return Table("Detection", "clip", columns, tuple(rows), (note,))


def _tracking_table(clips: Sequence[Clip]) -> Table:
    rows = [Row(clip.name, _tracking_cells(score_tracks(clip.frames))) for clip in clips]
    columns = [Column(n, 1) for n in ("HOTA", "DetA", "AssA", "IDF1", "MOTA")]
    note = "In %, on the processed frames; all detections that belong to a track."
    return Table("Tracking", "clip", (*columns, Column("switches", 0)), tuple(rows), (note,))


def _tracking_cells(scores: TrackingScores) -> tuple[Cell, ...]:
    shares = (scores.hota, scores.deta, scores.assa, scores.idf1, scores.mota)
    return (*(Cell(100 * v) for v in shares), Cell(float(scores.switches)))


def _track_table(clips: Sequence[Clip]) -> Table:
    rows = []
    for clip in clips:
        owned = [who for who in clip.owners.values() if who is not None]
        missed = len(set(clip.people) - set(owned))
        values = (len(clip.owners), len(clip.owners) - len(owned), len(clip.people), missed)
        rows.append(Row(clip.name, tuple(Cell(float(v)) for v in values)))
    columns = [
        Column(n, 0)
        for n in ("usable tracks", "nobody's or mixed", "people", "people without a track")
    ]
    note = f"A track belongs to a person who has a share of {PURE:g} of its detections."
    return Table("Tracks", "clip", tuple(columns), tuple(rows), (note,))


def _search_table(results: Sequence[_TrackResult]) -> Table:
    """Return the table of identification by track, for each list, and by the case's verdicts."""
    rows = []
    # A list of ten shows Rank-10; so does a gallery of eleven.
    possible_ranks = ranks(min(min(a.subjects, a.most_candidates + 1) for a in results))
    for kind in LISTS:
        searches = _searches(results, kind)
        if searches is not None:
            rows.append(
                Row(
                    kind,
                    tuple(
                        _search_cells(searches, results if kind == "joined" else (), possible_ranks)
                    ),
                )
            )
    columns = (
        *(Column("tracks of enrolled people", 0), Column("of others", 0)),
        *(Column(f"Rank-{k}", 3, "up") for k in RANKS),
        Column("FNIR at FPIR 0.1", 3, "down"),
        *(Column("FNIR as decided", 3, "down"), Column("FPIR as decided", 3, "down")),
    )
    note = (
        "One search for each usable track of one person. Lists are limited; in identification they "
        "have only the candidates who pass, and none without a calibration. An enrolled person who "
        "is not on a list counts as missed at any threshold, so FNIR at FPIR is an upper bound. "
        "Rank-k is given up to the length of the shortest list. As decided: with the thresholds of "
        "the case's calibration; an enrolled person counts as found when that person is the first "
        "candidate. In brackets: 95 % by resampling people."
    )
    return Table(
        "Identification by track", "list", columns, tuple(rows), (note,)
    ).without_empty_columns()


def _search_cells(
    searches: Searches, results: Sequence[_TrackResult], possible_ranks: Sequence[int]
) -> list[Cell]:
    """Return the cells of a list; the errors as decided are those of `results`."""
    mated, others = int(searches.mated.sum()), int((~searches.mated).sum())
    values = {f"rank{k}": open_set.rank_rate(searches, k) for k in possible_ranks} if mated else {}
    if mated and others and open_set.resolves(searches, 0.1):
        values["fnir0.1"] = open_set.fnir_at(searches, 0.1)
    bounds = search_bounds(searches)
    measured = [
        Cell(values[name], between(*bounds[name])) if name in values else Cell()
        for name in (*(f"rank{k}" for k in RANKS), "fnir0.1")
    ]
    known = [a.has_candidates and _first(a) == a.person for a in results if a.enrolled]
    strangers = [a.has_candidates for a in results if not a.enrolled]
    decided = [
        1 - float(np.mean(known)) if known else math.nan,
        float(np.mean(strangers)) if strangers else math.nan,
    ]
    return [Cell(float(mated)), Cell(float(others)), *measured, *(Cell(v) for v in decided)]


def _first(answer: _TrackResult) -> str | None:
    """Return the first candidate of all probes together."""
    return next((subject for subject, _ in answer.lists["joined"]), None)
