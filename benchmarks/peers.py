"""What a user would take instead of `fasr-video run`, on the sample clips: speed, who is found, and
who stands first.

python benchmarks/peers.py [--seconds 4] [--only NAME …]

The whole takes some six minutes on two quiet cores. dlib comes with the package dlib-bin;
face_recognition needs face_recognition_models beside it. What is not installed has no line, and the
table says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from footage import REPO
from numpy.typing import NDArray
from results import Table, command_line
from skimage.feature import local_binary_pattern

from fasr_video.boxes import iou_matrix
from fasr_video.case.case import Case
from fasr_video.configs import settings
from fasr_video.detection import Detector, open_detector, open_for_photographs
from fasr_video.gallery.enrol import sync
from fasr_video.gallery.gallery import Gallery
from fasr_video.media import Sampling, open_video, read_picture
from fasr_video.pipeline.run import run
from fasr_video.recognition.align import align
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.recognition.embedders import open_embedder
from fasr_video.types import Boxes, Detections, Image

CLIPS = REPO / "sample_videos"
MUGSHOTS = CLIPS / "mugshots"
OVERLAP = 0.4  # intersection over union of a found face with a true one
HIDDEN = 0.5  # share of a face that is covered from which on nobody has to find it


@dataclass(frozen=True)
class Named:
    """A result that a system shows its user: a face of a frame, or a track."""

    faces: Sequence[tuple[int, NDArray[np.float32]]]
    """Frame and box of each of its faces."""
    first: str | None
    """Who stands first for it; None where the system names nobody."""


@dataclass(frozen=True)
class Answer:
    """A system's results for one clip."""

    frames: int
    seconds: float
    named: list[Named]


@dataclass
class Score:
    frames: int = 0
    seconds: float = 0.0
    people: int = 0
    found: int = 0
    enrolled: int = 0
    right: int = 0
    items: int = 0
    false: int = 0
    rates: list[float] = field(default_factory=list)
    """Of each enrolled person that was found: share of their items with the right name first."""

    def add(self, other: Score) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


# --- systems --------------------------------------------------------------------------------------


def run_ours(clip: Path, end: float, engine: str) -> Answer:
    """Run `fasr-video run` on a clip and return its tracks."""
    with tempfile.TemporaryDirectory() as name:
        run_settings = settings.load("cpu", [f"sampling.end={end}", f"detect.engine={engine}"])
        start = time.perf_counter()
        out, _ = run([clip], Path(name) / "case", run_settings, MUGSHOTS)
        spent = time.perf_counter() - start
        with Case.open(out, read_only=True) as case:
            frames = case.db.execute("SELECT sum(frames) FROM source").fetchone()[0]
            first = dict(
                case.db.execute(
                    "SELECT track, subject FROM candidate WHERE list = 'joined' AND rank = 1"
                )
            )
            faces = defaultdict(list)
            for row in case.db.execute("SELECT * FROM face WHERE track IS NOT NULL"):
                box = np.array([row[k] for k in ("x1", "y1", "x2", "y2")], np.float32)
                faces[row["track"]].append((row["frame_index"], box))
            tracks = [r[0] for r in case.db.execute("SELECT id FROM track WHERE state = 'done'")]
    return Answer(frames, spent, [Named(faces[t], first.get(t)) for t in tracks])


def search_each_face(clip: Path, end: float, backend: str, embed: bool) -> Answer:
    """Search for every face of every frame on its own, without tracking."""
    start = time.perf_counter()
    detector = (
        HogDetector()
        if backend == "dlib"
        else open_detector(backend, weights=None, device="cpu", min_score=0.5)
    )
    compare = (
        search_by_embedding(open_for_photographs("cpu")) if embed else search_by_patterns(detector)
    )
    named, count = [], 0
    for index, image in read_frames(clip, end):
        found = detector.detect([image])[0]
        landmarks = [None] * len(found) if found.landmarks is None else list(found.landmarks)
        faces = [
            align(image, box, points) for box, points in zip(found.boxes, landmarks, strict=True)
        ]
        names = compare([face.picture for face in faces]) if faces else []
        named += [Named([(index, box)], name) for box, name in zip(found.boxes, names, strict=True)]
        count += 1
    return Answer(count, time.perf_counter() - start, named)


class HogDetector:
    """dlib's frontal face detector, which enlarges the frame once, as in `face_recognition`."""

    def __init__(self) -> None:
        import dlib

        self._run = dlib.get_frontal_face_detector().run

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Image) -> Detections:
        rectangles, scores, _ = self._run(frame, 1, 0.0)
        boxes = np.array(
            [(p.left(), p.top(), p.right(), p.bottom()) for p in rectangles], np.float32
        ).reshape(-1, 4)
        return Detections(boxes, np.array(scores, np.float32), None)


def search_by_embedding(detector: Detector) -> Callable[[list[Image]], list[str]]:
    embedder = open_embedder("builtin", None, "cpu")
    with (
        tempfile.TemporaryDirectory() as name,
        enrol_mugshots(Path(name) / "g", detector, embedder) as gallery,
    ):
        vectors = gallery.vectors()
        owners = gallery.templates(vectors.ids.tolist())
    subjects = [owners[int(i)].subject for i in vectors.ids]

    def compare(faces: list[Image]) -> list[str]:
        features = embedder.embed(as_tensor(faces))[0].numpy()
        return [subjects[i] for i in (features @ vectors.features.T).argmax(1)]

    return compare


def enrol_mugshots(folder: Path, detector: Detector, embedder: Embedder) -> Gallery:
    gallery = Gallery.create(folder, embedder.name, embedder.sha256, embedder.length)
    sync(gallery, MUGSHOTS, detector, embedder)
    return gallery


def search_by_patterns(detector: HogDetector | Detector) -> Callable[[list[Image]], list[str]]:
    """Return a search by OpenCV's LBPH.

    Patterns of 8 neighbours, histograms of 8×8 cells, the nearest by chi-square.
    """
    subjects, histograms = [], []
    for file in sorted(MUGSHOTS.glob("*.jpg")):
        picture = read_picture(file)
        found = detector.detect([picture])[0]
        if len(found):
            subjects.append(file.stem)
            histograms.append(pattern_histograms(align(picture, found.boxes[0], None).picture))
    known = np.stack(histograms)

    def compare(faces: list[Image]) -> list[str]:
        names = []
        for face in faces:
            own = pattern_histograms(face)
            distance = ((known - own) ** 2 / np.maximum(known + own, 1e-9)).sum(1)
            names.append(subjects[int(distance.argmin())])
        return names

    return compare


def pattern_histograms(face: Image) -> NDArray[np.float64]:
    codes = local_binary_pattern(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), 8, 1).astype(np.uint8)
    cells = codes.reshape(8, 16, 8, 16).swapaxes(1, 2).reshape(64, -1)
    return np.concatenate([np.bincount(cell, minlength=256) / cell.size for cell in cells])


def run_face_recognition(clip: Path, end: float) -> Answer:
    """Run `face_recognition` as in its examples: HOG, 128 numbers a face, tolerance 0.6."""
    importlib.import_module("face_recognition_models")  # without it the next one ends the process
    import face_recognition

    start = time.perf_counter()
    subjects, known = [], []
    for file in sorted(MUGSHOTS.glob("*.jpg")):
        for feature in face_recognition.face_encodings(face_recognition.load_image_file(str(file)))[
            :1
        ]:
            subjects.append(file.stem)
            known.append(feature)
    named, count = [], 0
    for index, image in read_frames(clip, end):
        locations = face_recognition.face_locations(image)
        for (top, right, bottom, left), feature in zip(
            locations, face_recognition.face_encodings(image, locations), strict=True
        ):
            distances = face_recognition.face_distance(known, feature)
            name = subjects[int(distances.argmin())] if distances.min() <= 0.6 else None
            named.append(Named([(index, np.array((left, top, right, bottom), np.float32))], name))
        count += 1
    return Answer(count, time.perf_counter() - start, named)


def decode_only(clip: Path, end: float) -> Answer:
    start, count = time.perf_counter(), 0
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= end:
                break
            frame.to_ndarray(format="rgb24")
            count += 1
    return Answer(count, time.perf_counter() - start, [])


def read_frames(clip: Path, end: float) -> Iterator[tuple[int, Image]]:
    for frame in open_video(clip).frames(Sampling(end=Fraction(end))):
        yield frame.ref.index, frame.image


SYSTEMS: dict[str, Callable[[Path, float], Answer]] = {
    "fasr-video run": lambda clip, end: run_ours(clip, end, "torch"),
    "fasr-video run, detector in OpenVINO": lambda clip, end: run_ours(clip, end, "openvino"),
    "each face by itself: our detector, our embedder": lambda clip, end: search_each_face(
        clip, end, "builtin", True
    ),
    "each face by itself: Haar, our embedder": lambda clip, end: search_each_face(
        clip, end, "haar", True
    ),
    "each face by itself: Haar, LBPH": lambda clip, end: search_each_face(clip, end, "haar", False),
    "each face by itself: dlib's HOG, our embedder": lambda clip, end: search_each_face(
        clip, end, "dlib", True
    ),
    "face_recognition (dlib)": run_face_recognition,
    "bare PyAV, to rgb24": decode_only,
}


# --- scores ---------------------------------------------------------------------------------------


def score_answer(
    answer: Answer, truth: dict[str, dict[str, dict[str, object]]], gallery: set[str]
) -> Score:
    """Score an answer by the truth: frame → person → box and the share of it that is covered."""
    names_by_person: dict[str, list[str | None]] = defaultdict(list)
    score = Score(answer.frames, answer.seconds, items=len(answer.named))
    for item in answer.named:
        sightings = Counter(
            seen for index, box in item.faces if (seen := person_at(box, truth.get(str(index), {})))
        )
        if not sightings:
            score.false += 1
            continue
        person, times = sightings.most_common(1)[0]
        names_by_person[person] += [item.first] * times
    visible = {
        p
        for frame in truth.values()
        for p, face in frame.items()
        if float(str(face["occluded"])) < HIDDEN
    }
    score.people, score.found = len(visible), len(visible & names_by_person.keys())
    score.enrolled = len(visible & gallery)
    for person in visible & gallery & names_by_person.keys():
        names = Counter(names_by_person[person])
        score.right += names.most_common(1)[0][0] == person
        score.rates.append(names[person] / names.total())
    return score


def person_at(box: NDArray[np.float32], faces: dict[str, dict[str, object]]) -> str | None:
    """Return the person whose true box overlaps this one most."""
    boxes: Boxes = np.array([face["box"] for face in faces.values()], np.float32).reshape(-1, 4)
    if not len(boxes):
        return None
    overlaps = iou_matrix(box[None], boxes)[0]
    return list(faces)[int(overlaps.argmax())] if overlaps.max() >= OVERLAP else None


def table_row(name: str, score: Score) -> list[str]:
    if SYSTEMS[name] is decode_only:  # looks for nobody
        return [name, f"{score.frames / score.seconds:.1f}", *["–"] * 5]
    named = f"{score.right} of {score.enrolled}"
    rate = f"{np.mean(score.rates):.3f}" if score.rates else "–"
    cells = [f"{score.found} of {score.people}", named, rate, str(score.items), str(score.false)]
    return [name, f"{score.frames / score.seconds:.1f}", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    truth = json.loads((CLIPS / "ground_truth.json").read_text())
    gallery = {file.stem for file in MUGSHOTS.glob("*.jpg")}
    columns = [
        "system",
        "frames/s",
        "people found",
        "right one first",
        "share of their faces",
        "items to look at",
    ]
    command = command_line()
    table = Table("peers", "What one would take instead", command, [*columns, "of nobody"])
    missing = []
    for name in args.only:
        score = Score()
        try:
            for clip in sorted(truth):
                answer = SYSTEMS[name](CLIPS / clip, args.seconds)
                end = args.seconds * truth[clip]["fps"]
                frames = {k: faces for k, faces in truth[clip]["frames"].items() if int(k) < end}
                score.add(score_answer(answer, frames, gallery))
        except ModuleNotFoundError as error:
            missing.append(f"{name} ({error.name} is not installed)")
            continue
        table.add_row(table_row(name, score))
    table.add_note(
        f"The first {args.seconds:g} s of the three sample clips with the bundled mugshots; "
        "everything from opening the files to the last answer is timed, loading models and "
        "enrolling included, and for `run` also super-resolving and storing. The people are drawn "
        "by the bundled networks: the table compares ways of working, and says nothing about how "
        "well real people are distinguished."
    )
    table.add_note(
        "*People found*: who is at some time at least half in view, over all clips, and has a "
        f"face found (IoU {OVERLAP}). *Right one first*: of those who are enrolled, whose faces "
        "have their own name first more often than any other one; *share of their faces* is how "
        "often, in the mean of these people. An item is what the user has to check: a face of a "
        "frame, or with `run` a track. *Of nobody*: items that are no true face."
    )
    table.add_note(
        "LBPH here is that of OpenCV's contrib (its package cannot be installed beside the main "
        "one), computed by scikit-image. Trackers and FAISS have peers of their own in "
        "`tracking.md` and `gallery.md`."
    )
    if missing:
        table.add_note("Not measured: " + "; ".join(missing) + ".")
    table.write()


if __name__ == "__main__":
    main()
