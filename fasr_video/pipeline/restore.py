"""Features and super-resolved faces of the usable tracks of a case.

Several tracks are stored in one transaction. A resumed run begins with the first track that has no
features made with the same models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType

import numpy as np
import torch

from fasr_video.batch_size import PICTURES, batch_size_for
from fasr_video.case import tracks
from fasr_video.case.case import Case
from fasr_video.case.results import (
    Drawing,
    Encoding,
    Reconstruction,
    digest,
    encodings,
    save_features,
)
from fasr_video.case.sources import sources
from fasr_video.case.tracks import Face, Track
from fasr_video.checkpoint import find_device
from fasr_video.configs.settings import RestoreSettings, Settings
from fasr_video.errors import SettingsError, UsageError
from fasr_video.gallery.encoder import References, TrackEncoder, TrackFaces, make_encoder
from fasr_video.pipeline.references import sharpest
from fasr_video.pipeline.stills import heat
from fasr_video.provenance import BANNER, png_note
from fasr_video.recognition.align import (
    CANONICAL,
    CANONICAL_SIDE,
    Matrix,
    align,
    similarity,
    three_points,
    to_canonical,
)
from fasr_video.recognition.embedders import open_embedder
from fasr_video.sqlite import explain_errors
from fasr_video.sr.attributes import READ
from fasr_video.sr.guidance import Guidance, open_guidance
from fasr_video.sr.methods import Method, ModelFiles, Options, Supports, find_method, open_restorer
from fasr_video.sr.restoration import SMALLEST, Restoration, Restorer
from fasr_video.types import Image, shallow_dict

# Tracks that are restored and stored together on a CPU; on a GPU there may be more.
TOGETHER = 8
NO_REFERENCES: Mapping[int, References] = MappingProxyType({})


def open_encoder(settings: Settings) -> TrackEncoder:
    """Open the embedder, the restorer and, if attributes are read, the classifier."""
    recognise, restore = settings.recognise, settings.restore
    _check(restore)
    guidance = None
    if restore.attributes == READ:
        guidance = open_guidance((), restore.guidance, find_device(restore.device))
    restorer = None if restore.method == "none" else _open_restorer(restore, guidance)
    embedder = open_embedder(
        recognise.embedder, recognise.weights, recognise.device, recognise.flip
    )
    classifiers = None if guidance is None else guidance.classifiers
    return make_encoder(embedder, restorer, samples_of(restore), classifiers)


def samples_of(settings: RestoreSettings) -> int:
    """Return how many pictures are drawn of each face: as set, or the default of the method."""
    if settings.samples is not None:
        return settings.samples
    return 1 if settings.method == "none" else _method(settings).defaults.samples


def _method(settings: RestoreSettings) -> Method:
    try:
        return find_method(settings.method)
    except UsageError as error:
        setting = f"restore.method={settings.method}"
        raise SettingsError(setting, error.reason, error.remedy) from error


def _check(settings: RestoreSettings) -> None:
    """Raise for settings that the method does not support."""
    method = settings.method
    supports = Supports() if method == "none" else _method(settings).supports
    if settings.attributes == READ and not supports.attributes:
        problem = "draws nothing" if method == "none" else "cannot be drawn towards any"
        raise SettingsError(
            "restore.attributes=read", f"restore.method {method} {problem}", "set it to none"
        )
    if settings.weights is not None and not supports.weights:
        raise SettingsError("restore.weights", f"method {method} takes none", "set it to null")
    if (settings.samples or 1) > 1 and not supports.samples:
        reason = f"restore.method {method} draws no samples"
        raise SettingsError(f"restore.samples={settings.samples}", reason, "set it to null")
    if settings.subjects and not supports.references:
        raise SettingsError(
            "restore.subjects", f"method {method} takes no references", "use method idfsr"
        )


def _open_restorer(settings: RestoreSettings, guidance: Guidance | None) -> Restorer:
    options = Options(
        device=find_device(settings.device),
        files=ModelFiles(network=settings.weights),
        sampler=settings.sampler,
        precision=settings.precision,
        guidance=guidance,
        batch=settings.batch,
    )
    return open_restorer(_method(settings), options)


def tracks_together(settings: RestoreSettings) -> int:
    """Return how many tracks to restore together: on a GPU, as many as fill a batch."""
    device = torch.device(settings.device)
    if device.type == "cpu":
        return TOGETHER
    batch_size = batch_size_for(PICTURES, device, settings.batch)
    return max(TOGETHER, batch_size // samples_of(settings))


def encode_all(
    case: Case,
    encoder: TrackEncoder,
    seed: int,
    listen: Callable[[int, int], None],
    *,
    references: Mapping[int, References] = NO_REFERENCES,
    together: int | None = None,
) -> bool:
    """Make and store features of every usable track that has none of these models.

    `references` are the photographs that some tracks are drawn from in place of their own faces.
    Return whether there was such a track.
    """
    together = together or TOGETHER
    waiting = tracks_to_encode(case, encoder, seed, references)
    footage = {source.id: source.sha256 for source in sources(case)}
    for start in range(0, len(waiting), together):
        batch = waiting[start : start + together]
        listen(start, len(waiting))
        seeds = [track_seed(seed, footage[track.source], track) for track, _ in batch]
        faces = [track_faces(case, track.id, references.get(track.id)) for track, _ in batch]
        encoded = encoder.encode(faces, seeds)
        reconstructions = []
        with explain_errors(case.folder):
            for (track, _), features in zip(batch, encoded, strict=True):
                reconstructions.append(write_restoration(case, track.id, features.restoration))
        with case.transaction():
            rows = zip(batch, faces, encoded, reconstructions, strict=True)
            for (track, models), own_faces, features, reconstruction in rows:
                encoding = Encoding(track.id, models, len(own_faces.small))
                save_features(case, encoding, features.features, reconstruction)
            digests = {track.id: digest(case, track.id) for track, _ in batch}
            case.log("encoded", {"models": encoder.provenance(), "digests": digests})
    return bool(waiting)


def tracks_to_encode(
    case: Case,
    encoder: TrackEncoder,
    seed: int,
    references: Mapping[int, References] = NO_REFERENCES,
) -> list[tuple[Track, str]]:
    """Return usable tracks whose features are missing or out of date, and what they depend on."""
    stored = {track: encoding.models for track, encoding in encodings(case).items()}
    waiting = []
    for track in tracks.usable_tracks(case):
        models = _models(encoder, seed, references.get(track.id))
        if stored.get(track.id) != models:
            waiting.append((track, models))
    return waiting


def tracks_without_features(case: Case, encoder: TrackEncoder, seed: int) -> list[int]:
    """Return usable tracks that cannot be searched with these models.

    The photographs that a track was drawn from do not matter: that picture is not searched with.
    """
    needed = json.loads(_models(encoder, seed, None))
    stored = encodings(case)
    lacking = []
    for track in tracks.usable_tracks(case):
        models = stored[track.id].provenance if track.id in stored else {}
        if models | needed != models:
            lacking.append(track.id)
    return lacking


def _models(encoder: TrackEncoder, seed: int, references: References | None) -> str:
    """Return all that the features of a track depend on, beside its own faces, as JSON."""
    provenance = encoder.provenance() | {"seed": seed}
    if references is not None:
        drawn_from = {"subject": references.subject, "photographs": references.sha256}
        provenance |= {"drawn_from": drawn_from}
    return json.dumps(provenance, sort_keys=True)


def track_seed(seed: int, footage: str, track: Track) -> int:
    """Return the seed of a track, which depends on nothing else in the case.

    `footage` is the SHA-256 of its source.
    """
    text = f"{seed} {footage} {track.tracker_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


# Returns the recording's own pixels around a kept face.
Pixels = Callable[[Case, Face], Image]


def track_faces(
    case: Case, track: int, references: References | None = None, pixels: Pixels | None = None
) -> TrackFaces:
    """Return the kept faces of a track, in the canonical frame and at LR0's own resolution.

    `pixels` reads their pictures; by default those are the stored ones.
    """
    pixels = pixels or tracks.native_picture
    auxiliaries = tracks.auxiliaries(case, track).get(track, ())
    others = [face for face in auxiliaries if face.native is not None]
    aligned = tuple(align(pixels(case, face), *_box_and_landmarks(face)) for face in others)
    lr0 = tracks.shown_faces(case, track)[track]
    native = pixels(case, lr0)
    box, landmarks = _box_and_landmarks(lr0)
    points = three_points(box, landmarks)
    scale = similarity(points, CANONICAL)
    native_side = round(1 / float(np.hypot(scale[0, 0], scale[1, 0])))
    side = min(CANONICAL_SIDE, max(SMALLEST, native_side))
    if references is None:
        references = References(tuple(aligned[i].picture for i in sharpest(lr0, others)))
    return TrackFaces(
        lr0=align(native, box, landmarks),
        small=to_canonical(native, points, side),
        auxiliaries=aligned,
        references=references,
    )


def _box_and_landmarks(face: Face) -> tuple[Matrix, Matrix | None]:
    """Return the box and the landmarks of a kept face, in the pixels of its native crop."""
    origin = np.array(face.corner, np.float64)
    box = np.array(face.box) - np.tile(origin, 2)
    return box, None if face.points is None else np.array(face.points) - origin


def write_restoration(
    case: Case, track: int, restoration: Restoration | None
) -> Reconstruction | None:
    """Write the pictures of a restoration into the case, each with the provenance in its file.

    They are the mean, the samples, and where these disagree.
    """
    if restoration is None:
        return None
    facts = shallow_dict(restoration)
    del facts["picture"], facts["samples"], facts["spread"]
    drawing = Drawing(**facts, what=BANNER, disagreement=float(restoration.spread.mean()))
    note = png_note(asdict(drawing))
    samples = [case.write_picture(sample, note) for sample in restoration.samples]
    if len(samples) == 1:
        return Reconstruction(track, samples[0], samples, None, drawing)
    picture = case.write_picture(restoration.picture, note)
    spread = case.write_picture(heat(restoration.spread), note)
    return Reconstruction(track, picture, samples, spread, drawing)
