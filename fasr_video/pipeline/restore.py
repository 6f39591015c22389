"""What each usable track of a case asks the gallery: its probes, and its super-resolved face.

A few tracks are one transaction; a run that goes on begins with the first track that has no probes made with the
models at hand.
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
from fasr_video.case.results import Encoding, Reconstruction, digest, encodings, save_features
from fasr_video.case.sources import sources
from fasr_video.case.tracks import Face, Track
from fasr_video.checkpoint import find_device
from fasr_video.configs.settings import RestoreSettings, Settings
from fasr_video.errors import SettingsError
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
from fasr_video.sr.methods import ModelFiles, Options, Supports, find_method, open_restorer
from fasr_video.sr.restoration import SMALLEST, Restoration, Restorer
from fasr_video.types import Image

# Tracks that are restored, and made safe, together; on a GPU perhaps more.
TOGETHER = 8
NOBODY: Mapping[int, References] = MappingProxyType({})


def open_encoder(settings: Settings) -> TrackEncoder:
    chosen, how = settings.recognise, settings.restore
    _check(how)
    guidance = (
        open_guidance((), how.guidance, find_device(how.device)) if how.attributes == READ else None
    )
    restorer = None if how.method == "none" else _open_restorer(how, guidance)
    embedder = open_embedder(chosen.embedder, chosen.weights, chosen.device, chosen.flip)
    classifiers = None if guidance is None else guidance.classifiers
    return make_encoder(embedder, restorer, samples_of(how), classifiers)


def samples_of(how: RestoreSettings) -> int:
    """Return how many pictures are drawn of each face: as set, or as the method does by itself."""
    if how.samples is not None:
        return how.samples
    return 1 if how.method == "none" else find_method(how.method).defaults.samples


def _check(how: RestoreSettings) -> None:
    """Refuse settings that ask for what the method cannot do."""
    nothing = how.method == "none"
    supports = Supports() if nothing else find_method(how.method).supports
    if how.attributes == READ and not supports.attributes:
        does = "draws nothing" if nothing else "cannot be drawn towards any"
        raise SettingsError(
            "restore.attributes=read", f"restore.method {how.method} {does}", "set it to none"
        )
    if how.weights is not None and not supports.weights:
        raise SettingsError("restore.weights", f"method {how.method} takes none", "set it to null")
    if (how.samples or 1) > 1 and not supports.samples:
        reason = f"restore.method {how.method} draws no samples"
        raise SettingsError(f"restore.samples={how.samples}", reason, "set it to null")
    if how.subjects and not supports.references:
        raise SettingsError(
            "restore.subjects", f"method {how.method} takes no references", "use method idfsr"
        )


def _open_restorer(how: RestoreSettings, guidance: Guidance | None) -> Restorer:
    options = Options(
        device=find_device(how.device),
        files=ModelFiles(network=how.weights),
        sampler=how.sampler,
        precision=how.precision,
        guidance=guidance,
        batch=how.batch,
    )
    return open_restorer(find_method(how.method), options)


def tracks_together(how: RestoreSettings) -> int:
    """As many as fill a batch of a GPU."""
    device = torch.device(how.device)
    if device.type == "cpu":
        return TOGETHER
    return max(TOGETHER, batch_size_for(PICTURES, device, how.batch) // samples_of(how))


def encode_all(
    case: Case,
    encoder: TrackEncoder,
    seed: int,
    listen: Callable[[int, int], None],
    subjects: Mapping[int, References] = NOBODY,
    together: int | None = None,
) -> bool:
    """TrackFeatures for every usable track that has none made with these models; returns whether there was one.

    `subjects` are the photographs that some tracks are drawn from in place of their own faces.
    """
    together = together or TOGETHER
    waiting = tracks_to_encode(case, encoder, seed, subjects)
    footage = {source.id: source.sha256 for source in sources(case)}
    for start in range(0, len(waiting), together):
        part = waiting[start : start + together]
        listen(start, len(waiting))
        seeds = [track_seed(seed, footage[track.source], track) for track, _ in part]
        faces = [track_faces(case, track.id, subjects.get(track.id)) for track, _ in part]
        answers = encoder.encode(faces, seeds)
        with explain_errors(case.folder):
            pairs = zip(part, answers, strict=True)
            drawn = [
                write_restoration(case, track.id, answer.restoration)
                for (track, _), answer in pairs
            ]
        with case.transaction():
            for (track, models), face, answer, made in zip(
                part, faces, answers, drawn, strict=True
            ):
                save_features(
                    case, Encoding(track.id, models, len(face.small)), answer.features, made
                )
            digests = {track.id: digest(case, track.id) for track, _ in part}
            case.log("encoded", {"models": encoder.provenance(), "digests": digests})
    return bool(waiting)


def tracks_to_encode(
    case: Case, encoder: TrackEncoder, seed: int, subjects: Mapping[int, References] = NOBODY
) -> list[tuple[Track, str]]:
    """Usable tracks without probes made as they would be now, and what theirs would depend on."""
    made = {track: probes.models for track, probes in encodings(case).items()}
    wanted = [
        (track, _models(encoder, seed, subjects.get(track.id)))
        for track in tracks.usable_tracks(case)
    ]
    return [(track, models) for track, models in wanted if made.get(track.id) != models]


def tracks_without_features(case: Case, encoder: TrackEncoder, seed: int) -> list[int]:
    """Usable tracks that cannot be searched for with these models. From whose photographs one was drawn is no matter:
    nobody is searched for with that picture."""
    needed, made = json.loads(_models(encoder, seed, None)), encodings(case)
    before = {
        track.id: made[track.id].provenance if track.id in made else {}
        for track in tracks.usable_tracks(case)
    }
    return [track for track, models in before.items() if models | needed != models]


def _models(encoder: TrackEncoder, seed: int, subject: References | None) -> str:
    """All that a track's probes depend on but its own faces: with other ones they are made anew."""
    drawn_from = (
        {}
        if subject is None
        else {"drawn_from": {"subject": subject.subject, "photographs": subject.sha256}}
    )
    return json.dumps(encoder.provenance() | {"seed": seed} | drawn_from, sort_keys=True)


def track_seed(seed: int, footage: str, track: Track) -> int:
    """A track's picture depends on its own seed, whatever else is in the case; `footage` is its source's SHA-256."""
    text = f"{seed} {footage} {track.tracker_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


# The recording's own pixels around a kept face.
Pixels = Callable[[Case, Face], Image]


def track_faces(
    case: Case, track: int, subject: References | None = None, pixels: Pixels | None = None
) -> TrackFaces:
    """The kept faces of a track, in the canonical frame and at LR0's own resolution; of these pixels, where they are to
    be others than those kept."""
    pixels = pixels or tracks.native_picture
    others = [
        face for face in tracks.auxiliaries(case, track).get(track, ()) if face.native is not None
    ]
    auxiliaries = tuple(align(pixels(case, face), *_landmarks(face)) for face in others)
    lr0 = tracks.shown_faces(case, track)[track]
    native, (box, landmarks) = pixels(case, lr0), _landmarks(lr0)
    points = three_points(box, landmarks)
    scale = similarity(points, CANONICAL)
    own = round(1 / float(np.hypot(scale[0, 0], scale[1, 0])))
    side = min(CANONICAL_SIDE, max(SMALLEST, own))
    references = subject or References(tuple(auxiliaries[i].picture for i in sharpest(lr0, others)))
    return TrackFaces(
        align(native, box, landmarks), to_canonical(native, points, side), auxiliaries, references
    )


def _landmarks(face: Face) -> tuple[Matrix, Matrix | None]:
    """Box and landmarks of a kept face in its own picture."""
    origin = np.array(face.corner, np.float64)
    box = np.array(face.box) - np.tile(origin, 2)
    return box, None if face.points is None else np.array(face.points) - origin


def write_restoration(
    case: Case, track: int, restoration: Restoration | None
) -> Reconstruction | None:
    """Its pictures into the case: the mean, the samples, where they disagree; with the provenance inside."""
    if restoration is None:
        return None
    provenance = {
        k: v for k, v in asdict(restoration).items() if k not in {"picture", "samples", "spread"}
    }
    provenance |= {"what": BANNER, "disagreement": float(restoration.spread.mean())}
    note = png_note(provenance)
    samples = [case.write_picture(s, note) for s in restoration.samples]
    several = len(samples) > 1
    picture = case.write_picture(restoration.picture, note) if several else samples[0]
    spread = case.write_picture(heat(restoration.spread), note) if several else None
    return Reconstruction(track, picture, samples, spread, provenance)
