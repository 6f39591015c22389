"""Encode and restore some tracks of a case again, and compare the results with the stored ones.

The case's id decides which tracks are taken, so nobody can ask again until a better sample comes.
Each track is computed alone from the stored crops, with the settings and models that the case
names. What is missing on this machine is reported.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fasr_video.case.case import Case
from fasr_video.case.damage import Check
from fasr_video.case.results import encodings, features, reconstructions
from fasr_video.case.sources import sources
from fasr_video.case.store import package_versions
from fasr_video.case.tracks import Track, finished_tracks
from fasr_video.configs.settings import Settings, load
from fasr_video.errors import FasrError
from fasr_video.gallery.encoder import TrackEncoder, TrackFeatures
from fasr_video.pipeline.restore import open_encoder, track_faces, track_seed

# A pixel may differ by this much: other machines, versions and batches round differently.
GREY_LEVELS = 1
# An element of a feature may differ by this much.
TOLERANCE = 1e-3


def rerun(case: Case, count: int) -> Check:
    """Compute `count` tracks of the case again, or all where it has fewer, and return the check."""
    with case.snapshot():
        return _rerun(case, count)


def _rerun(case: Case, count: int) -> Check:
    case.check_key()
    problems: list[str] = []
    unchecked: list[str] = []
    notes: list[str] = []
    footage = {source.id: source.sha256 for source in sources(case)}
    for made_with, tracks in _chosen(case, count).items():
        try:
            encoder, seed = _open_encoder_as_stored(case, json.loads(made_with))
        except FasrError as error:
            unchecked += [f"track {track.name}: {error}" for track in tracks]
            continue
        for track in tracks:
            try:
                own_seed = track_seed(seed, footage[track.source], track)
                computed = encoder.encode([track_faces(case, track.id)], [own_seed])[0]
                levels, numbers = _differences(case, track.id, computed)
            except FasrError as error:
                problems.append(f"track {track.name}: {error}")
                continue
            notes.append(f"track {track.name}: {_differences_in_words(levels, numbers)}")
            if levels > GREY_LEVELS or numbers > TOLERANCE:
                problems.append(notes[-1])
    if notes:
        notes.append(_versions(case))
    return Check("tracks done again", len(notes[:-1]), problems, unchecked, tuple(notes))


def _chosen(case: Case, count: int) -> dict[str, list[Track]]:
    """Return the chosen tracks, grouped by the models that encoded them."""
    salt = case.meta("case_id")
    encoded = encodings(case)

    def draw(track: Track) -> bytes:
        return hashlib.sha256(f"{salt} {track.id}".encode()).digest()

    tracks = [track for track in finished_tracks(case) if track.id in encoded]
    by_models = defaultdict(list)
    for track in sorted(tracks, key=draw)[:count]:
        by_models[encoded[track.id].models].append(track)
    return by_models


def _open_encoder_as_stored(case: Case, made_with: Mapping[str, Any]) -> tuple[TrackEncoder, int]:
    """Return the encoder that these tracks were encoded with, and the seed of the case.

    The error names the first model or setting that differs on this machine.
    """
    if "drawn_from" in made_with:
        subject = made_with["drawn_from"]["subject"]
        raise FasrError(
            "restore.subjects", f"drawn from photographs of subject {subject}", "not computed again"
        )
    settings = _settings(case, made_with["restorer"])
    encoder = open_encoder(settings)
    stored = dict(_flat(made_with))
    here = dict(_flat(encoder.provenance()))
    for name in sorted((stored.keys() | here.keys()) - {"seed"}):
        if stored.get(name) != here.get(name):
            raise FasrError(
                name,
                f"{_short(stored.get(name))} in the case, {_short(here.get(name))} here",
                "install what the case names to check it",
            )
    return encoder, made_with.get("seed", settings.restore.seed)


def _settings(case: Case, restorer: Mapping[str, Any] | None) -> Settings:
    """Return the settings of the case.

    The track's provenance says what the case left to defaults, which change with versions.
    """
    stored = case.settings
    values = load("cpu").model_dump(mode="json")
    for group in values:
        values[group] |= stored.get(group, {})
    if restorer is None:
        values["restore"]["method"] = "none"
    else:
        values["restore"] |= {
            k: restorer[k] for k in ("sampler", "samples", "precision") if k in restorer
        }
    return Settings.model_validate(values)


def _flat(provenance: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _differences(case: Case, track: int, computed: TrackFeatures) -> tuple[float, float]:
    """Return the largest difference in pictures, in grey levels, and in features.

    Both are infinite where a picture or feature is missing.
    """
    stored = reconstructions(case, track).get(track)
    names = [] if stored is None else [stored.picture, *stored.samples]
    drawn = []
    if computed.restoration is not None:
        drawn = [computed.restoration.picture, *computed.restoration.samples]
    stored_features = features(case, track)
    if len(names) != len(drawn) or stored_features.keys() != computed.features.keys():
        return np.inf, np.inf
    stored_pictures = [case.read_picture(name) for name in names]
    vectors = [(stored_features[kind], computed.features[kind]) for kind in stored_features]
    pictures = list(zip(stored_pictures, drawn, strict=True))
    return _largest_difference(pictures), _largest_difference(vectors)


def _largest_difference(pairs: list[tuple[Any, Any]]) -> float:
    if any(a.shape != b.shape for a, b in pairs):
        return np.inf
    return max((float(np.abs(a.astype(float) - b).max()) for a, b in pairs), default=0.0)


def _differences_in_words(levels: float, numbers: float) -> str:
    if np.isinf(levels):
        return "other pictures or features than stored"
    pictures = "all pixels equal"
    if levels:
        pictures = f"pixels differ by up to {levels:g} grey levels"
    vectors = "features too"
    if numbers:
        vectors = f"features differ by up to {numbers:.1g}"
    return f"{pictures}, {vectors}"


def _versions(case: Case) -> str:
    """Return in words whether the case was made with the versions that run here."""
    stored = json.loads(case.meta("versions"))
    here = package_versions()
    changed = [
        f"{name} {stored.get(name)} → {here.get(name)}"
        for name in sorted(stored.keys() | here.keys())
        if stored.get(name) != here.get(name)
    ]
    versions = "the case's own versions"
    if changed:
        versions = f"other versions than the case's ({', '.join(changed)})"
    tolerance = f"up to {GREY_LEVELS} grey level, {TOLERANCE:g} in a feature"
    return f"{versions}; tolerated: {tolerance}"
