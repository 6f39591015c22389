"""Cases against ground truth: were faces found, people kept apart, and each track's person found in the gallery?"""

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
from fasr_video.case.results import kinds, photographs
from fasr_video.case.sources import sources
from fasr_video.case.tracks import Face, all_faces, usable
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

# Intersection over union from which a found box is a true face's.
OVERLAP = 0.5
# Share of a track's sightings that one person has to have for the track to be that person's.
PURE = 0.8
LISTS = ("best", "pooled", "sr", "joined")
REMEDY = "give JSON: {clip: {fps, people, frames: {index: {person: {box: [x1, y1, x2, y2]}}}}}"


@dataclass(frozen=True, slots=True)
class Truth:
    fps: Fraction
    people: tuple[str, ...]
    frames: Mapping[int, Mapping[str, Sequence[float]]]
    """Index → person → box."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One source of a case and its truth, frame by frame."""

    name: str
    frames: tuple[LabelledFrame, ...]
    detections: detection.Judged
    owners: Mapping[int, str | None]
    """Track → whose it is: a person, or None for nobody's and for mixed ones."""
    people: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    tables: tuple[Table, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    report: Path


def evaluate(folders: Sequence[Path], truth_file: Path, out: Path) -> Evaluation:
    truths = read_truth(truth_file)
    clips: list[Clip] = []
    answers: list[_Answer] = []
    left_out: list[LeftOut] = []
    given: set[Path] = set()
    subjects: set[str] = set()
    for folder in folders:
        if folder.resolve() in given:
            left_out.append(LeftOut(str(folder), "the same case twice"))
            continue
        given.add(folder.resolve())
        with Case.open(folder, read_only=True) as case:
            found, unknown = _clips(case, truths)
            clips += found
            left_out += unknown
            subjects |= _subjects(case)
            answers += _answers(case, {t: who for clip in found for t, who in clip.owners.items()})
    if not clips:
        raise UsageError(
            truth_file,
            "it has none of the cases' files",
            "name the clips in it as the files are named",
        )
    tables = [_detection_table(clips), _tracking_table(clips), _track_table(clips)]
    tables += [] if not answers else [_search_table(answers)]
    write_tables(tables, out / "tables")
    warnings = _strangers(clips, subjects)
    warnings += [] if not answers else _plot(answers, out / "plots")
    told = [*(f"**Warning:** {w}." for w in warnings), *(f"Left out: {line}." for line in left_out)]
    plotted = [f"![{p.stem}](plots/{p.name})" for p in sorted((out / "plots").glob("*.png"))]
    text = "\n\n".join(["# Evaluation: video", *told, *(t.markdown() for t in tables), *plotted])
    write_text(out / "report.md", text)
    return Evaluation(tuple(tables), tuple(left_out), tuple(warnings), out / "report.md")


def _subjects(case: Case) -> set[str]:
    return {photograph.subject for photograph in photographs(case) if photograph.problem is None}


def _strangers(clips: Sequence[Clip], subjects: set[str]) -> list[str]:
    """Truth that names people otherwise than the gallery does would make strangers of all."""
    unknown = sorted({who for clip in clips for who in clip.people} - subjects)
    if not subjects or not unknown:
        return []
    told = f"{len(unknown)} of the truth's people are no subjects of the gallery ({', '.join(unknown[:3])}"
    return [f"{told}{', …' if len(unknown) > 3 else ''}) and count as strangers"]


def _plot(answers: Sequence[_Answer], folder: Path) -> list[str]:
    """CMC, and DET where there are strangers, of each list."""
    found = {}
    for kind in LISTS:
        searches = _searches(answers, kind)
        if searches is not None:
            found[kind] = Scored({}, np.zeros(0), np.zeros(0), searches)
    emptied(folder)
    try:
        plots.cmc(found, folder / "cmc.png", min(plots.LAST_RANK, *(a.asked for a in answers)))
        plots.det(found, folder / "det.png")
    except MissingExtra as error:
        return [f"no plots: {error}"]
    return []


def read_truth(file: Path) -> dict[str, Truth]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: _truth(clip) for name, clip in content.items()}
    except (OSError, *READ_ERRORS) as error:
        raise InputError(
            file, f"no ground truth ({type(error).__name__}: {error})", REMEDY
        ) from error


def _truth(clip: Mapping[str, Any]) -> Truth:
    frames = {
        int(k): {who: _box(face["box"]) for who, face in seen.items()}
        for k, seen in clip["frames"].items()
    }
    fps, people = Fraction(clip["fps"]).limit_denominator(1001), tuple(clip["people"])
    if fps <= 0:
        raise ValueError(f"{clip['fps']} frames a second")
    if min(frames, default=0) < 0:
        raise ValueError(f"frame {min(frames)}")
    unknown = sorted({who for seen in frames.values() for who in seen} - set(people))
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
            clips.append(_clip(case, source.id, name, truths[name], settings))
    return clips, left_out


def _clip(case: Case, source: int, name: str, truth: Truth, settings: Settings) -> Clip:
    number = {who: k for k, who in enumerate(truth.people)}
    seen: dict[int, list[Face]] = {}
    for face in all_faces(case, source):
        seen.setdefault(face.frame_index, []).append(face)
    frames: list[LabelledFrame] = []
    counted: list[detection.Found] = []
    heights = []
    sightings: dict[int, Counter[str | None]] = {}
    for index in sorted(set(_looked_at(truth, settings)) | set(seen)):
        people, here = truth.frames.get(index, {}), seen.get(index, [])
        true, found = _boxes(list(people.values())), _boxes([face.box for face in here])
        scores = np.array([face.score for face in here], np.float32)
        counted += detection.assign(
            found.astype(np.float32), scores, true.astype(np.float32), OVERLAP
        )
        heights.append(detection.heights(true.astype(np.float32)))
        tracked = [k for k, face in enumerate(here) if face.track is not None]
        ids = np.array([here[k].track for k in tracked], np.int64)
        frames.append(
            LabelledFrame(
                np.array([number[who] for who in people], np.int64), true, ids, found[tracked]
            )
        )
        for track, who in zip(
            ids.tolist(), _whose(found[tracked], true, list(people)), strict=True
        ):
            sightings.setdefault(track, Counter())[who] += 1
    numbers = {track.id for track in usable(case)}
    owners = {track: _owner(counts) for track, counts in sightings.items() if track in numbers}
    faces = np.concatenate([np.zeros(0), *heights])
    return Clip(name, tuple(frames), detection.judged(counted, faces), owners, truth.people)


def _looked_at(truth: Truth, settings: Settings) -> Iterator[int]:
    """Indexes of the frames that the run looked at, also of those without a face, by the truth's own frame rate."""
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


def _whose(
    found: NDArray[np.float64], true: NDArray[np.float64], people: Sequence[str]
) -> list[str | None]:
    if not len(found) or not people:
        return [None] * len(found)
    overlaps = iou_matrix(found, true)
    return [people[int(row.argmax())] if row.max() >= OVERLAP else None for row in overlaps]


def _owner(counts: Counter[str | None]) -> str | None:
    who, times = counts.most_common(1)[0]
    return who if times >= PURE * counts.total() else None


# -------------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was said of one track."""

    person: str
    enrolled: bool
    lists: Mapping[str, Sequence[tuple[str, float]]]
    """Subjects with scores, the first candidate first; empty where nobody passes. What was not searched with is not
    among them."""
    length: int
    """Subjects in the gallery."""
    asked: int
    """Candidates that a list holds at most."""
    named: bool
    """Whether the answer was candidates, not unknown."""


def _answers(case: Case, owners: Mapping[int, str | None]) -> list[_Answer]:
    subjects, searched, probes = _subjects(case), case.searched(), kinds(case)
    asked = 0 if searched is None else int(searched["question"]["candidates"])
    found = []
    for track in document.tracks(case):
        person, answer = owners.get(track["id"]), track["answer"]
        if person is None or answer is None:
            continue
        joined = [(c["subject"], float(c["score"])) for c in answer["joined"]]
        lists = {
            kind: [(c["subject"], float(c["cosine"])) for c in rows]
            for kind, rows in answer["lists"].items()
        }
        # A case keeps no row of a list on which nobody is.
        empty: dict[str, list[tuple[str, float]]] = {
            kind: [] for kind in probes.get(track["id"], ())
        }
        told = {**empty, **lists, "joined": joined}
        named = answer["verdict"] == "candidates"
        found.append(_Answer(person, person in subjects, told, len(subjects), asked, named))
    return found


def _searches(answers: Sequence[_Answer], kind: str) -> Searches | None:
    """Somebody who is enrolled and not on a list is missed at any rank and threshold; None where nothing was asked."""
    rows = [a for a in answers if kind in a.lists]
    if not rows:
        return None
    right, wrong, rank = [], [], []
    for a in rows:
        listed = a.lists[kind]
        own = next(
            ((k, score) for k, (subject, score) in enumerate(listed, 1) if subject == a.person),
            None,
        )
        place, score = own or (UNLISTED, -math.inf)
        right.append(score if a.enrolled else math.nan)
        rank.append(place if a.enrolled else 0)
        wrong.append(max((s for subject, s in listed if subject != a.person), default=-math.inf))
    people = np.array([a.person for a in rows], np.str_)
    return Searches(np.array(right), np.array(wrong), np.array(rank, np.intp), people)


# -------------------------------------------------------------------------------------------------------------- tables


def _detection_table(clips: Sequence[Clip]) -> Table:
    rows = []
    for clip in clips:
        found = clip.detections
        precision = float(found.true.mean()) if len(found.true) else math.nan
        values = (
            len(found.faces),
            detection.average_precision(found),
            precision,
            detection.recall(found),
        )
        rows.append(Row(clip.name, tuple(Cell(float(v)) for v in values)))
    columns = (Column("faces", 0), Column("AP", 3), Column("precision", 3), Column("recall", 3))
    told = f"Every face that was seen, whatever became of it; a box is a face's from an overlap of {OVERLAP:g} on."
    return Table("Detection", "clip", columns, tuple(rows), (told,))


def _tracking_table(clips: Sequence[Clip]) -> Table:
    rows = [Row(clip.name, _tracking_cells(score_tracks(clip.frames))) for clip in clips]
    columns = [Column(n, 1) for n in ("HOTA", "DetA", "AssA", "IDF1", "MOTA")]
    told = "In %, on the frames that were looked at; all sightings that belong to a track."
    return Table("Tracking", "clip", (*columns, Column("switches", 0)), tuple(rows), (told,))


def _tracking_cells(found: TrackingScores) -> tuple[Cell, ...]:
    shares = (found.hota, found.deta, found.assa, found.idf1, found.mota)
    return (*(Cell(100 * v) for v in shares), Cell(float(found.switches)))


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
    told = f"A track is a person's who has a share of {PURE:g} of its sightings."
    return Table("Tracks", "clip", tuple(columns), tuple(rows), (told,))


def _search_table(answers: Sequence[_Answer]) -> Table:
    """Identification by track: of each list, and what the case decided."""
    rows = []
    # A list of ten tells Rank-10, and so does one of a gallery of eleven.
    told_ranks = ranks(min(min(a.length, a.asked + 1) for a in answers))
    for kind in LISTS:
        found = _searches(answers, kind)
        if found is not None:
            rows.append(
                Row(
                    kind,
                    tuple(_search_cells(found, answers if kind == "joined" else (), told_ranks)),
                )
            )
    columns = (
        *(Column("tracks of enrolled people", 0), Column("of others", 0)),
        *(Column(f"Rank-{k}", 3, "up") for k in RANKS),
        Column("FNIR at FPIR 0.1", 3, "down"),
        *(Column("FNIR as decided", 3, "down"), Column("FPIR as decided", 3, "down")),
    )
    told = (
        "One search a usable track that is one person's. An enrolled person who is not on a list (it holds as many "
        "candidates as were asked for; in identification, those alone who pass, and nobody where it is not calibrated) "
        "counts as missed at any threshold: FNIR at FPIR is an upper bound. Rank-k up to the length of the shortest "
        "list asked for. As decided: with the thresholds of the case's calibration; an enrolled person counts as found "
        "when the answer is candidates and the first one is that person. In brackets: 95 % by drawing people anew."
    )
    return Table("Identification by track", "list", columns, tuple(rows), (told,)).known()


def _search_cells(
    found: Searches, answers: Sequence[_Answer], told_ranks: Sequence[int]
) -> list[Cell]:
    """`answers`: of which to tell the errors as decided."""
    mated, others = int(found.mated.sum()), int((~found.mated).sum())
    values = {f"rank{k}": open_set.rank_rate(found, k) for k in told_ranks} if mated else {}
    if mated and others and open_set.resolves(found, 0.1):
        values["fnir0.1"] = open_set.fnir_at(found, 0.1)
    bounds = search_bounds(found)
    measured = [
        Cell(values[name], between(*bounds[name])) if name in values else Cell()
        for name in (*(f"rank{k}" for k in RANKS), "fnir0.1")
    ]
    known = [a.named and _first(a) == a.person for a in answers if a.enrolled]
    strangers = [a.named for a in answers if not a.enrolled]
    decided = [
        1 - float(np.mean(known)) if known else math.nan,
        float(np.mean(strangers)) if strangers else math.nan,
    ]
    return [Cell(float(mated)), Cell(float(others)), *measured, *(Cell(v) for v in decided)]


def _first(answer: _Answer) -> str | None:
    """The first candidate of all probes together."""
    return next((subject for subject, _ in answer.lists["joined"]), None)
