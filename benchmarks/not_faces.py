"""What detectors take for a face and is none: is it recognised, and how many faces does that cost?

python benchmarks/not_faces.py [--data ../shared/data] [--scenes 250] [--negatives 462] [--set]

Each labelled scene is shown for five frames by a shaky camera, so that its faces are tracks, which
are then judged as in a run; pictures without a face are, too. `--set` writes the limits of the
embedder's norm that were measured into the presets.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
from footage import DATA, REPO, find_data
from numpy.typing import NDArray
from results import Table, command_line

from fasr_video.boxes import intersection, iou_matrix
from fasr_video.case.case import Case
from fasr_video.case.document import tracks as tracks_of
from fasr_video.configs import settings
from fasr_video.configs.settings import LARGE, SelectSettings, Settings
from fasr_video.media import Frame
from fasr_video.pipeline.evidence import Evidence, measure_evidence
from fasr_video.pipeline.quality import cut, measure
from fasr_video.pipeline.run import Models, open_models, run
from fasr_video.pipeline.tracklets import EndedTrack, Face, Tracklets
from fasr_video.trackers import TRACKERS, TrackerSettings
from fasr_video.training.detector_data import Scene, read_scenes
from fasr_video.types import Boxes, Detections, FrameRef, Image

FRAMES = 5
TICK = Fraction(1, 5)  # s between them
# The shaky camera: factors' logarithm, px, share, grey levels.
ZOOM, SHIFT, LIGHT, NOISE = 0.05, 2.0, 0.07, 3.0
# Overlap (IoU) with a labelled face from which on a detection is that face.
MATCH = 0.4
# Share of the faces that may be lost.
LOST = 0.01
# Share of the faces that may have a norm below the limit: with more it would say little.
WEAK = 0.1
# px between the eyes, at which the rows begin.
BANDS = (0, 6, 8, 12, LARGE)
# Settings of the group `select`, by name.
Limits = dict[str, float]


@dataclass(frozen=True)
class LabelledEvidence:
    """The evidence of a single detection or of a track, with its label."""

    is_face: bool
    evidence: Evidence


@dataclass(frozen=True)
class Shot:
    image: Image
    boxes: Boxes
    """Of everything that is labelled in it."""
    sure: NDArray[np.bool_]

    def shows_face(self, box: Boxes) -> bool | None:
        """Return whether a detection (1×4) is a face; None if it only touches a label."""
        if (iou_matrix(box, self.boxes[self.sure]) >= MATCH).any():
            return True
        return None if (intersection(box, self.boxes) > 0).any() else False


def make_shots(scene: Scene, seed: int) -> list[Shot]:
    """Return the scene as it is, then as a shaky camera shows it."""
    generator = np.random.default_rng(seed)
    size = scene.picture.shape[1::-1]
    boxes = scene.faces.boxes.astype(np.float32)
    result = [Shot(scene.picture, boxes, scene.faces.sure)]
    for _ in range(FRAMES - 1):
        zoom = float(np.exp(generator.uniform(-ZOOM, ZOOM)))
        offset = generator.uniform(-SHIFT, SHIFT, 2) + (1 - zoom) * np.array(size) / 2
        transform = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])
        method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        picture = cv2.warpAffine(
            scene.picture, transform, size, flags=method, borderMode=cv2.BORDER_REPLICATE
        )
        brightness = generator.uniform(1 - LIGHT, 1 + LIGHT)
        noisy = picture * brightness + generator.normal(0, NOISE, picture.shape)
        image = np.clip(noisy, 0, 255).astype(np.uint8)
        moved_boxes = (zoom * boxes + np.tile(offset, 2)).astype(np.float32)
        result.append(Shot(image, moved_boxes, scene.faces.sure))
    return result


def label_detections(shot: Shot, found: Detections, models: Models) -> list[LabelledEvidence]:
    """Return the evidence of the detections of one picture, each as if it were a track."""
    rows = []
    for i in range(len(found)):
        is_face = shot.shows_face(found.boxes[[i]])
        if is_face is None:
            continue
        landmarks = None if found.landmarks is None else found.landmarks[i]
        aligned = cut(shot.image, found.boxes[i], landmarks).aligned
        quality = measure(shot.image, found, i, aligned)
        evidence = measure_evidence(
            models.encoder.embedder, quality.score, quality.eye_px, [aligned]
        )
        rows.append(LabelledEvidence(is_face, evidence))
    return rows


def label_tracks(
    clip: Sequence[Shot], found: Sequence[Detections], models: Models, run_settings: Settings
) -> list[LabelledEvidence]:
    """Return the evidence of the clip's searchable tracks that have a clear label."""
    track = run_settings.track
    tracker = TRACKERS[track.method](TrackerSettings(**track.model_dump(exclude={"method"})))
    tracklets = Tracklets(tracker, run_settings.select, 1, models.encoder.embedder)
    for index, (shot, detections) in enumerate(zip(clip, found, strict=True)):
        tracklets.add_frame(
            Frame(FrameRef("0" * 64, index, index, TICK), shot.image, False), detections
        )
    tracklets.finish()
    segment = tracklets.take_segment()
    rows = []
    for ended in segment.ended:
        own = [face for face in segment.faces if face.tracker_id == ended.tracker_id]
        labelled = _label_track(ended, own, clip)
        if labelled is not None:
            rows.append(labelled)
    return rows


def _label_track(
    ended: EndedTrack, own: Sequence[Face], clip: Sequence[Shot]
) -> LabelledEvidence | None:
    if ended.evidence is None:
        return None
    labels = [clip[f.ref.index].shows_face(np.array([f.box], np.float32)) for f in own]
    if labels.count(True) > len(labels) / 2:
        return LabelledEvidence(True, ended.evidence)
    return LabelledEvidence(False, ended.evidence) if set(labels) == {False} else None


def label_scenes(
    scenes: Iterable[Scene], models: Models, run_settings: Settings
) -> tuple[list[LabelledEvidence], list[LabelledEvidence]]:
    """Return the evidence of single detections, and of tracks, in all scenes."""
    singles: list[LabelledEvidence] = []
    tracks: list[LabelledEvidence] = []
    for number, scene in enumerate(scenes):
        clip = make_shots(scene, number)
        found = models.detector.detect([shot.image for shot in clip])
        singles += label_detections(clip[0], found[0], models)
        tracks += label_tracks(clip, found, models, run_settings)
    return singles, tracks


def group_by_size(rows: Sequence[LabelledEvidence]) -> dict[int, list[LabelledEvidence]]:
    """Return the rows of each band of sizes that has any, by the band's lower end."""
    by_size = {}
    for low, high in zip(BANDS, (*BANDS[1:], np.inf), strict=True):
        band = [s for s in rows if low <= s.evidence.eye_px < high]
        if band:
            by_size[low] = band
    return by_size


def measured_limits(tracks: Sequence[LabelledEvidence], sure_score: float) -> Limits:
    """Return the largest limits of the norm, to a tenth, that lose no more faces than LOST."""
    by_band = group_by_size([t for t in tracks if t.is_face])
    small = [largest_limit(faces, sure_score) for low, faces in by_band.items() if low < LARGE]
    large = by_band.get(LARGE)
    if not small or large is None:
        which = f"{LARGE} px or more" if small else f"less than {LARGE} px"
        raise SystemExit(f"no face of {which} between the eyes among the tracks; take more scenes")
    return {"min_norm": min(small), "min_norm_large": largest_limit(large, sure_score)}


def largest_limit(faces: Sequence[LabelledEvidence], sure_score: float) -> float:
    """Return the largest limit for these faces."""
    limit = float(np.quantile([f.evidence.norm for f in faces], WEAK))
    unsure = sorted(f.evidence.norm for f in faces if f.evidence.score < sure_score)
    spare = int(LOST * len(faces))
    if spare < len(unsure):
        limit = min(limit, unsure[spare])
    return float(np.floor(10 * limit) / 10)


def area_under_curve(rows: Sequence[LabelledEvidence], measure: Callable[[Evidence], float]) -> str:
    """Return how often a face measures more than what is no face; – where either is missing."""
    of_faces = np.array([measure(s.evidence) for s in rows if s.is_face])
    of_others = np.array([measure(s.evidence) for s in rows if not s.is_face])
    if not len(of_faces) or not len(of_others):
        return "–"
    more = (of_faces[:, None] > of_others[None]).mean()
    equal = (of_faces[:, None] == of_others[None]).mean()
    return f"{more + equal / 2:.3f}"


def table_row(text: str, rows: Sequence[LabelledEvidence], limits: SelectSettings) -> list[str]:
    """Return counts, shares judged to be no face, and areas under the curves."""
    not_faces = [s for s in rows if not s.evidence.is_face(limits)]
    counts = []
    for is_face in (True, False):
        count = sum(s.is_face is is_face for s in rows)
        taken = sum(s.is_face is is_face for s in not_faces)
        counts += [str(count), f"{taken / count:.1%}" if count else "–"]
    # Both together: a clear face's norm is near 16.
    measures: tuple[Callable[[Evidence], float], ...] = (
        lambda e: e.score,
        lambda e: e.norm,
        lambda e: e.score + e.norm / 16,
    )
    return [text, *counts, *(area_under_curve(rows, measure) for measure in measures)]


def add_rows(table: Table, rows: Sequence[LabelledEvidence], limits: SelectSettings) -> None:
    for low, band in group_by_size(rows).items():
        high = dict(pairwise(BANDS)).get(low)
        table.add_row(table_row(f"{low}+" if high is None else f"{low}–{high}", band, limits))
    table.add_row(table_row("all", rows, limits))


def add_clip_rows(table: Table, folder: Path, models: Models, run_settings: Settings) -> None:
    """Add a row for each track of the office clips, the lowest norm first."""
    files = sorted(folder.glob("asl_*.mkv"))
    with tempfile.TemporaryDirectory() as case_folder:
        out, _ = run(files, Path(case_folder) / "case", run_settings, models=models)
        with Case.open(out) as case:
            found = [(t.evidence, t) for t in tracks_of(case) if t.evidence is not None]
    for evidence, t in sorted(found, key=lambda pair: (pair[0].norm, pair[1].name)):
        verdict = "not a face" if t.verdict_reason == "not_a_face" else "a face"
        numbers = [f"{evidence.mean_score:.3f}", f"{evidence.norm:.2f}", verdict]
        table.add_row(
            [Path(t.source).stem, t.name, t.sightings, f"{evidence.eye_px:.0f}", *numbers]
        )
    table.add_note(
        f"Every track with a usable face of {len(files)} clips of five signers, the least norm "
        "first."
    )


def write_limits(limits: Limits) -> None:
    """Write the limits into both presets."""
    for preset in settings.presets():
        path = REPO / "fasr_video" / "configs" / f"{preset}.yaml"
        text = path.read_text(encoding="utf-8")
        for name, limit in limits.items():
            line = f"  {name}: {limit:g}".ljust(25)
            text = re.sub(rf"(?m)^  {name}: [\d.]+ *(?=#)", line, text)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--scenes", type=int, help="only the first of the check split")
    parser.add_argument("--negatives", type=int, help="only the first pictures without a face")
    parser.add_argument(
        "--set", action="store_true", help="write the measured limit into the presets"
    )
    args = parser.parse_args()
    find_data(args.data / "scenes")
    run_settings = settings.load("cpu", ["restore.method=none"])
    models = open_models(run_settings)
    empty = (s for s in read_scenes(args.data / "scenes", "train") if not len(s.faces))
    checked = islice(read_scenes(args.data / "scenes", "check"), args.scenes)
    parts = [
        label_scenes(scenes, models, run_settings)
        for scenes in (checked, islice(empty, args.negatives))
    ]
    singles, tracks = ([*a, *b] for a, b in zip(*parts, strict=True))
    measured = measured_limits(tracks, run_settings.select.sure_score)
    if args.set:
        write_limits(measured)
        overrides = [f"select.{name}={limit}" for name, limit in measured.items()]
        run_settings = settings.load("cpu", ["restore.method=none", *overrides])
    limits = run_settings.select
    areas = ["AUC score", "AUC norm", "AUC both"]
    columns = ["eyes, px", "faces", "taken for none", "no faces", "recognised", *areas]
    table = Table("not_faces", "Tracks that are no faces", command_line(), columns)
    add_rows(table, tracks, limits)
    table.add_note(
        f"At most {LOST:.0%} of the faces of each band may be lost: with `select.sure_score` "
        f"{limits.sure_score:g}, `select.min_norm` may be **{measured['min_norm']:g}** and "
        f"`select.min_norm_large`, from {LARGE} px between the eyes on, "
        f"**{measured['min_norm_large']:g}**; the table is with {limits.min_norm:g} and "
        f"{limits.min_norm_large:g}. Pictures of the check split of labelled scenes and pictures "
        f"without a face, each shown for {FRAMES} frames by a shaky camera, through the detector, "
        "tracker and selection of a run. Only tracks that would be searched for are judged and "
        "counted. A track is a face where most of its detections overlap a sure label (IoU "
        f"{MATCH:g} or more), none where no detection touches any label; others are left out. The "
        "labels are another detector's."
    )
    table.add_note(
        "The embedder was trained on parts of the pictures without a face, not cut by this "
        "detector; the scenes of the check split it has not seen. Animals' faces count as no faces."
    )
    alone = Table("not_faces", "Single detections", "", columns)
    add_rows(alone, singles, limits)
    alone.add_note(
        "All detections of the pictures as they are, from a score of "
        f"{run_settings.detect.min_score:g} on, each judged as if it were a track: what the two "
        "numbers show by themselves. No run judges these: a track needs several detections, one "
        f"with a score of {run_settings.track.start_score:g}, and a usable face."
    )
    columns = ["clip", "track", "sightings", "eyes, px", "mean score", "norm", "verdict"]
    footage = Table("not_faces", "Office clips", "", columns)
    add_clip_rows(footage, find_data(args.data / "clips"), models, run_settings)
    table.write(alone, footage)


if __name__ == "__main__":
    main()
