"""Some tracks of a case probed and restored again, and held against what is stored.

Which tracks is fixed by the case's id: nobody can ask until a better sample comes. They are done one at a time from
the stored crops, with the settings and models that the case names; what is not at hand any more is told.
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

# By which a pixel may differ: other machines, versions and batches round otherwise.
GREY_LEVELS = 1
# By which a number of a feature may differ.
TOLERANCE = 1e-3


def rerun(case: Case, count: int) -> Check:
    """So many of the case's tracks again, or all where it has fewer."""
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
            encoder, seed = _as_it_was(case, json.loads(made_with))
        except FasrError as error:
            unchecked += [f"track {track.name}: {error}" for track in tracks]
            continue
        for track in tracks:
            try:
                answer = encoder.encode(
                    [track_faces(case, track.id)], [track_seed(seed, footage[track.source], track)]
                )[0]
                levels, numbers = _apart(case, track.id, answer)
            except FasrError as error:
                problems.append(f"track {track.name}: {error}")
                continue
            notes.append(f"track {track.name}: {_told(levels, numbers)}")
            if levels > GREY_LEVELS or numbers > TOLERANCE:
                problems.append(notes[-1])
    if notes:
        notes.append(_versions(case))
    return Check("tracks done again", len(notes[:-1]), problems, unchecked, tuple(notes))


def _chosen(case: Case, count: int) -> dict[str, list[Track]]:
    """Tracks by what their probes were made with."""
    salt, made = case.meta("case_id"), encodings(case)
    tracks = [track for track in finished_tracks(case) if track.id in made]
    drawn = sorted(
        tracks, key=lambda track: hashlib.sha256(f"{salt} {track.id}".encode()).digest()
    )[:count]
    found = defaultdict(list)
    for track in drawn:
        found[made[track.id].models].append(track)
    return found


def _as_it_was(case: Case, made_with: Mapping[str, Any]) -> tuple[TrackEncoder, int]:
    """What probed these tracks, and the seed of the case; an error names the first thing that is another one here."""
    remedy = "install what the case names to check it"
    if "drawn_from" in made_with:
        subject = made_with["drawn_from"]["subject"]
        raise FasrError(
            "restore.subjects", f"drawn from photographs of subject {subject}", "not done again"
        )
    settings = _settings(case, made_with["restorer"])
    encoder = open_encoder(settings)
    before, here = dict(_flat(made_with)), dict(_flat(encoder.provenance()))
    for name in sorted((before.keys() | here.keys()) - {"seed"}):
        if before.get(name) != here.get(name):
            raise FasrError(
                name,
                f"{_short(before.get(name))} in the case, {_short(here.get(name))} here",
                remedy,
            )
    return encoder, made_with.get("seed", settings.restore.seed)


def _settings(case: Case, restorer: Mapping[str, Any] | None) -> Settings:
    """The case's. What it left to defaults is as the provenance of the track say: defaults change with versions."""
    stored, values = case.settings, load("cpu").model_dump(mode="json")
    for group in values:
        values[group] |= stored.get(group, {})
    if restorer is None:
        values["restore"]["method"] = "none"
    else:
        values["restore"] |= {
            k: restorer[k] for k in ("sampler", "samples", "precision") if k in restorer
        }
    return Settings.model_validate(values)


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _apart(case: Case, track: int, answer: TrackFeatures) -> tuple[float, float]:
    """Grey levels between the stored pictures and these, and the same of features; infinite where one is missing."""
    stored = reconstructions(case, track).get(track)
    names = [] if stored is None else [stored.picture, *stored.samples]
    drawn = (
        []
        if answer.restoration is None
        else [answer.restoration.picture, *answer.restoration.samples]
    )
    before = features(case, track)
    if len(names) != len(drawn) or before.keys() != answer.features.keys():
        return np.inf, np.inf
    pictures = [
        (case.read_picture(name), picture) for name, picture in zip(names, drawn, strict=True)
    ]
    vectors = [(before[kind], answer.features[kind]) for kind in before]
    return _farthest(pictures), _farthest(vectors)


def _farthest(pairs: list[tuple[Any, Any]]) -> float:
    same_shape = all(a.shape == b.shape for a, b in pairs)
    return (
        max((float(np.abs(a.astype(float) - b).max()) for a, b in pairs), default=0.0)
        if same_shape
        else np.inf
    )


def _told(levels: float, numbers: float) -> str:
    if np.isinf(levels):
        return "other pictures or probes than before"
    pictures = (
        "each pixel the same" if levels == 0 else f"pixels differ by up to {levels:g} grey levels"
    )
    return f"{pictures}, {'features too' if numbers == 0 else f'features differ by up to {numbers:.1g}'}"


def _versions(case: Case) -> str:
    """Whether the programs that the case was made with are those that run here."""
    before, here = json.loads(case.meta("versions")), package_versions()
    changed = [
        f"{k} {before.get(k)} → {here.get(k)}"
        for k in sorted(before.keys() | here.keys())
        if before.get(k) != here.get(k)
    ]
    told = (
        f"other versions than the case's ({', '.join(changed)})"
        if changed
        else "the case's own versions"
    )
    return f"{told}; the same is: up to {GREY_LEVELS} grey level, {TOLERANCE:g} in a feature"
