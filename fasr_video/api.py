"""The Python interface: run footage, read a case, and use each model by itself.

    import fasr_video

    case = fasr_video.run("footage.mp4", gallery="mugshots", out="cases/one")
    for track in case.tracks:
        print(track.name, track.verdict, [lead.subject for lead in track.leads])

Pictures are NumPy arrays, H×W×3, RGB, uint8. A face in the canonical frame is square, 128×128 at
full size, with its eyes near (43, 62) and (83, 61). Paths are `str` or `os.PathLike`.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from fasr_video.case import results, sources, tracks
from fasr_video.case.case import Case as StoredCase
from fasr_video.case.decisions import Decision, by_track
from fasr_video.case.results import Reconstruction
from fasr_video.case.tracks import Face
from fasr_video.checkpoint import find_device
from fasr_video.configs import settings as configs
from fasr_video.detection import Detector, open_detector
from fasr_video.detection.photograph import MIN_SCORE
from fasr_video.gallery.encoder import TrackFaces, make_encoder
from fasr_video.gallery.enrol import sync
from fasr_video.gallery.gallery import Gallery as StoredGallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import Subject
from fasr_video.gallery.search import Answer, Candidate, Mode, Searcher, SearchOptions, TrackQuery
from fasr_video.pipeline.run import Listener
from fasr_video.pipeline.run import run as run_footage
from fasr_video.pipeline.search import usable_calibration
from fasr_video.recognition.align import (
    CANONICAL_SIDE,
    native_side,
    three_points,
    to_canonical,
)
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.recognition.embedders import open_embedder
from fasr_video.report.write import refresh
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.methods import ModelFiles, Options, find_method, open_restorer
from fasr_video.sr.restoration import FaceInput, Restoration, Restorer, as_image, square_face
from fasr_video.types import AlignedFace, Image

PathLike = str | os.PathLike[str]
THUMBNAIL = 96  # px, the side of pictures in a notebook


@dataclass(frozen=True, slots=True)
class Track:
    """One person's way through one film."""

    name: str
    """T1, or S2-T1 of the second film."""
    source: str
    """Path of the film."""
    start: float
    end: float
    """Seconds from the film's first frame."""
    sightings: int
    """Frames in which the face was seen."""
    verdict: str | None
    """usable, insufficient or not a face."""
    verdict_reason: str | None
    face: Face | None
    """The best face: what is reconstructed and searched with."""
    auxiliaries: tuple[Face, ...]
    """Further good faces of the track."""
    reconstruction: Reconstruction | None
    """What was drawn from it: synthetic, and never proof."""
    answer: Answer | None
    """What the gallery says; None where nobody was searched for."""
    decisions: tuple[Decision, ...]
    """What reviewers decided, in the order of time."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the ranked subjects of the gallery, the nearest first."""
        return () if self.answer is None else tuple(self.answer.joined)

    @property
    def leads(self) -> tuple[Candidate, ...]:
        """Return the candidates over the threshold: worth a person's time, and no proof."""
        return tuple(candidate for candidate in self.candidates if candidate.passes)


@dataclass(frozen=True, slots=True)
class Case:
    """What a run found, as it is on the disk at the moment of opening."""

    folder: Path
    tracks: tuple[Track, ...]

    @classmethod
    def open(cls, folder: PathLike) -> Case:
        """Return the case in a folder.

        >>> case = Case.open("cases/demo")            # doctest: +SKIP
        >>> [track.name for track in case.tracks]     # doctest: +SKIP
        ['T1', 'T2']
        """
        path = Path(folder)
        with StoredCase.open(path, read_only=True) as case, case.snapshot():
            return cls(path, tuple(_tracks(case)))

    def track(self, name: str) -> Track:
        """Return the track of that name; raise KeyError where there is none."""
        for track in self.tracks:
            if track.name == name:
                return track
        raise KeyError(name)

    def picture(self, name: str) -> Image:
        """Return a picture of the case by the name that a face or a reconstruction gives."""
        with StoredCase.open(self.folder, read_only=True) as case:
            return case.read_picture(name)

    def _repr_html_(self) -> str:
        """Return a table for a notebook: each track's camera picture beside its reconstruction."""
        with StoredCase.open(self.folder, read_only=True) as case:
            rows = [_row(case, track) for track in self.tracks]
        head = (
            "<tr><th>track</th><th>camera</th><th>reconstruction (synthetic)</th><th>lead</th></tr>"
        )
        return f"<table>{head}{''.join(rows)}</table>"


def run(
    footage: PathLike | Sequence[PathLike],
    *,
    gallery: PathLike | None = None,
    out: PathLike | None = None,
    preset: PathLike = "cpu",
    settings: Mapping[str, object] | None = None,
    progress: Listener | None = None,
) -> Case:
    """Process footage into a case, with its report, and return it.

    `settings` change the preset's, by their full names: `{"restore.method": "fasr++"}`. The same
    call continues an earlier one that was stopped.

    >>> case = run("door.mp4", gallery="mugshots", out="cases/door")    # doctest: +SKIP
    """
    given = [footage] if isinstance(footage, str | os.PathLike) else footage
    overrides = [f"{name}={json.dumps(value)}" for name, value in (settings or {}).items()]
    folder, _ = run_footage(
        sources=[Path(path) for path in given],
        out=None if out is None else Path(out),
        settings=configs.load(os.fspath(preset), overrides),
        gallery=None if gallery is None else Path(gallery),
        listen=progress,
    )
    refresh(folder)
    return Case.open(folder)


def load_detector(
    name: str = "builtin",
    *,
    weights: PathLike | None = None,
    min_score: float = MIN_SCORE,
    device: str = "cpu",
) -> Detector:
    """Return a face detector: builtin, haar, retinaface or insightface.

    `detect` takes a list of pictures and returns, for each, `boxes` (N×4: left, top, right,
    bottom), `scores` and `landmarks` (N×5×2, or None).

    >>> (faces,) = load_detector().detect([picture])    # doctest: +SKIP
    >>> faces.boxes.shape                               # doctest: +SKIP
    (3, 4)
    """
    file = None if weights is None else Path(weights)
    return open_detector(name, weights=file, device=device, min_score=min_score)


def crop_face(picture: Image, box: Sequence[float], landmarks: Any = None) -> Image:
    """Return a detected face in the canonical frame, square, no larger than the camera saw it.

    >>> face = crop_face(picture, faces.boxes[0], faces.landmarks[0])    # doctest: +SKIP
    """
    points = three_points(np.asarray(box, np.float64), landmarks)
    return to_canonical(picture, points, native_side(points))


class FaceEmbedder:
    """An embedder that takes pictures."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name, self.length, self.licence = embedder.name, embedder.length, embedder.licence

    def embed(self, faces: Sequence[Image]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return unit vectors, N×length, and their norms before that, N: small for poor faces.

        Faces are square, in the canonical frame, of any size from 8 px.
        """
        if not faces:
            return np.zeros((0, self.length), np.float32), np.zeros(0, np.float32)
        vectors, norms = self._embedder.embed(as_tensor([_canonical(face) for face in faces]))
        return vectors.numpy(), norms.numpy()


def load_embedder(
    name: str = "builtin", *, weights: PathLike | None = None, device: str = "cpu"
) -> FaceEmbedder:
    """Return an embedder: builtin, dlib, adaface or insightface.

    >>> vectors, norms = load_embedder().embed([face, other])    # doctest: +SKIP
    >>> float(vectors[0] @ vectors[1])                           # doctest: +SKIP
    0.71
    """
    return FaceEmbedder(open_embedder(name, None if weights is None else Path(weights), device))


class FaceRestorer:
    """A super-resolution method that takes one face at a time."""

    def __init__(self, restorer: Restorer, samples: int) -> None:
        self._restorer, self._samples = restorer, samples
        self.name = restorer.name

    def restore(
        self,
        face: Image,
        *,
        auxiliaries: Sequence[Image] = (),
        samples: int | None = None,
        seed: int = 0,
    ) -> Restoration:
        """Return the reconstruction of a square face in the canonical frame, at its own size.

        `auxiliaries` are other faces of the same person. The same seed gives the same picture.
        """
        square, _ = square_face("face", face)
        others = tuple(square_face("auxiliary face", other)[0] for other in auxiliaries)
        given = FaceInput(square, others)
        return self._restorer.restore_all([given], samples or self._samples, [seed])[0]


def load_restorer(
    method: str = "mean",
    *,
    weights: PathLike | None = None,
    sampler: str | None = None,
    device: str = "cpu",
) -> FaceRestorer:
    """Return a super-resolution method by name: mean, fasr++, fasr, sde-sr-ve, bicubic …

    >>> drawn = load_restorer("fasr++").restore(face, samples=2, seed=1)    # doctest: +SKIP
    >>> drawn.picture.shape                                                 # doctest: +SKIP
    (128, 128, 3)
    """
    found = find_method(method)
    files = ModelFiles(network=None if weights is None else Path(weights))
    options = Options(device=find_device(device), files=files, sampler=sampler)
    return FaceRestorer(open_restorer(found, options), found.defaults.samples)


@dataclass(frozen=True, slots=True)
class Gallery:
    """Enrolled people, to search for."""

    folder: Path

    @classmethod
    def create(
        cls, folder: PathLike, photographs: PathLike, *, embedder: str = "builtin"
    ) -> Gallery:
        """Enrol a folder with one file, or one folder, a person; return the gallery.

        >>> gallery = Gallery.create("people", "mugshots")    # doctest: +SKIP
        """
        model = open_embedder(embedder, None, "cpu")
        path = Path(folder)
        with StoredGallery.create(path, model.name, model.sha256, model.length) as gallery:
            sync(gallery, Path(photographs), load_detector(), model)
        return cls(path)

    @classmethod
    def open(cls, folder: PathLike) -> Gallery:
        """Return the gallery in a folder; raise where there is none."""
        path = Path(folder)
        with StoredGallery.open(path, read_only=True):
            return cls(path)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Return the enrolled people."""
        with StoredGallery.open(self.folder, read_only=True) as gallery:
            return tuple(gallery.subjects())

    def search(
        self,
        face: Image,
        *,
        auxiliaries: Sequence[Image] = (),
        length: int = 10,
        fpir: float = 0.01,
    ) -> Answer:
        """Search for the person of a square face in the canonical frame, at its own size.

        Likelihood ratios are given for sizes that were calibrated; elsewhere similarities are raw
        and nobody is a lead.

        >>> [c.subject for c in gallery.search(face).joined if c.passes]    # doctest: +SKIP
        ['anna']
        """
        with StoredGallery.open(self.folder, read_only=True) as gallery:
            embedder = open_embedder(gallery.embedder.embedder, None, "cpu")
            gallery.require_embedder(embedder)
            encoder = make_encoder(embedder, None, 1)
            best = AlignedFace(_canonical(face), None)
            others = tuple(AlignedFace(_canonical(other), None) for other in auxiliaries)
            (probes,) = encoder.encode([TrackFaces(best, face, others)], [0])
            usable = usable_calibration(configs.load("cpu").search, encoder.provenance())
            question = SearchOptions(Mode.INVESTIGATION, length, fpir)
            index = Index.open(gallery)
            searcher = Searcher(
                gallery, index, question, usable.calibration, calibrated=usable.kinds
            )
            return searcher.answer(TrackQuery(probes.features, len(face)))


def _canonical(face: Image) -> Image:
    """Return a square face at the size of the canonical frame."""
    square, _ = square_face("face", face)
    if len(square) == CANONICAL_SIDE:
        return square
    return as_image(enlarge(as_tensor([square]), CANONICAL_SIDE)[0])


def _tracks(case: StoredCase) -> list[Track]:
    footage = {source.id: source for source in sources.sources(case)}
    sightings = tracks.sightings(case)
    best = tracks.shown_faces(case)
    others = tracks.auxiliaries(case)
    drawn = results.reconstructions(case)
    answers = results.answers(case)
    decisions = by_track(case)
    rows = []
    for row in tracks.finished_tracks(case):
        if row.id not in sightings:
            continue
        source, seen = footage[row.source], sightings[row.id]
        answer = answers.get(row.id)
        track = Track(
            name=row.name,
            source=source.path,
            start=source.since_start(seen.first_pts),
            end=source.since_start(seen.last_pts),
            sightings=seen.count,
            verdict=row.verdict,
            verdict_reason=row.verdict_reason,
            face=best.get(row.id),
            auxiliaries=tuple(others.get(row.id, ())),
            reconstruction=drawn.get(row.id),
            answer=None if answer is None else answer.answer,
            decisions=tuple(decisions.get(row.id, ())),
        )
        rows.append(((row.source, seen.first_frame, row.id), track))
    return [track for _, track in sorted(rows, key=lambda pair: pair[0])]


def _row(case: StoredCase, track: Track) -> str:
    name = track.face.native if track.face is not None else None
    camera = "" if name is None else _thumbnail(case.read_picture(name))
    drawn = track.reconstruction
    reconstruction = "" if drawn is None else _thumbnail(case.read_picture(drawn.picture))
    lead = html.escape(track.leads[0].subject) if track.leads else "unknown"
    cells = (html.escape(track.name), camera, reconstruction, lead)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _thumbnail(picture: Image) -> str:
    """Return an <img> with the picture in it."""
    image = Pictures.fromarray(picture)
    image = image.resize((THUMBNAIL, THUMBNAIL), Pictures.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "PNG")
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img width="{THUMBNAIL}" height="{THUMBNAIL}" src="data:image/png;base64,{text}">'
