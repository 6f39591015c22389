"""Calibrate on labelled tracks of cases: footage of one's own is better data than photographs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fasr_video.calibration.calibrate import LabelledProbe, from_probes
from fasr_video.case.case import Case
from fasr_video.case.results import encodings, features
from fasr_video.case.tracks import track_names
from fasr_video.csv_file import read_csv
from fasr_video.errors import InputError, UsageError
from fasr_video.files import sha256_file
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.encoder import Feature
from fasr_video.gallery.gallery import Gallery

COLUMNS = ("case", "track", "person")


@dataclass(frozen=True, slots=True)
class Label:
    case: Path
    track: str
    """Its name as in `fasr-video show`."""
    person: str
    """A gallery subject, or a name for somebody who is not in the gallery."""


def from_tracks(labels: Path, gallery: Gallery, seed: int) -> Calibration:
    """Return a calibration from labelled tracks and the last template of each gallery subject."""
    probes, models = _probes(read_labels(labels))
    if models.get("embedder") != gallery.embedder.sha256:
        reason = "the cases were searched with another embedder than the gallery's"
        raise UsageError(
            labels, reason, "give the gallery that was made with it, or migrate this one"
        )
    data = (
        f"{len(probes)} tracks labelled in {labels.name} (sha256 {sha256_file(labels)}),"
        f" gallery {gallery.id}"
    )
    return from_probes(probes, _enrolled(gallery), models, data, seed=seed)


def read_labels(file: Path) -> list[Label]:
    """Return the labels in a CSV of case, track, person; cases are paths relative to the file."""
    remedy = f"give a CSV with the columns {', '.join(COLUMNS)}"
    rows = read_csv(file, COLUMNS, remedy).rows
    if not rows:
        raise InputError(file, "it contains no labels", remedy)
    labels = []
    for number, row in rows.items():
        if not row["case"] or not row["track"]:
            raise InputError(f"{file} line {number}", "case or track is missing", remedy)
        # Without a name, each line is a different stranger.
        person = row["person"] or f"stranger of line {number}"
        labels.append(Label(file.parent / row["case"], row["track"], person))
    return labels


def _probes(labels: list[Label]) -> tuple[list[LabelledProbe], Mapping[str, object]]:
    """Return the probes of the labelled tracks, and the models that made all of them."""
    probes: list[LabelledProbe] = []
    models: set[str] = set()
    for folder in dict.fromkeys(label.case for label in labels):
        with Case.open(folder, read_only=True) as case:
            ids = track_names(case)
            track_encodings = encodings(case)
            for label in labels:
                if label.case != folder:
                    continue
                if label.track not in ids:
                    reason = f"it has no track {label.track}"
                    raise UsageError(folder, reason, "use the track names of `fasr-video show`")
                track = ids[label.track]
                track_features = features(case, track)
                if not track_features:
                    raise UsageError(folder, f"track {label.track} is not usable", "leave it out")
                side = track_encodings[track].side
                probes.append(LabelledProbe(label.person, track_features, side))
            models |= {encoding.models for encoding in track_encodings.values()}
    if len(models) != 1:
        reason = f"the cases were encoded with {len(models)} sets of models"
        raise UsageError("calibrate", reason, "run the footage again with one set")
    facts: Mapping[str, object] = json.loads(models.pop())
    return probes, facts


def _enrolled(gallery: Gallery) -> dict[str, Feature]:
    """Return the last template of each subject, which is the pooled one where there is one."""
    vectors = gallery.features_of(s.id for s in gallery.subjects())
    return {subject: own[-1] for subject, own in vectors.items() if len(own)}
