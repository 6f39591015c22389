"""Tracks of cases whose people are known, as searches to calibrate on: footage of one's own is the better data."""

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
    """As `show` names it."""
    person: str
    """A subject of the gallery, or somebody who is not in it."""


def from_tracks(labels: Path, gallery: Gallery, seed: int) -> Calibration:
    """Calibrate on the labelled tracks, with each subject's pooled template or, of one photograph, its single one."""
    probes, models = _probes(read_labels(labels))
    if models.get("embedder") != gallery.embedder.sha256:
        reason = "the cases were searched with another embedder than the gallery's"
        raise UsageError(
            labels, reason, "give the gallery that was made with it, or migrate this one"
        )
    data = f"{len(probes)} tracks labelled in {labels.name} (sha256 {sha256_file(labels)}), gallery {gallery.id}"
    return from_probes(probes, _enrolled(gallery), models, data, seed)


def read_labels(file: Path) -> list[Label]:
    """A CSV with the columns case, track and person; cases by their paths from the file's folder."""
    remedy = f"give a CSV with the columns {', '.join(COLUMNS)}"
    rows = read_csv(file, COLUMNS, remedy).rows
    if not rows:
        raise InputError(file, "no labels in it", remedy)
    found = []
    for number, row in rows.items():
        if not row["case"] or not row["track"]:
            raise InputError(f"{file} line {number}", "no case or no track", remedy)
        # Nobody knows who: a stranger of his own.
        person = row["person"] or f"stranger of line {number}"
        found.append(Label(file.parent / row["case"], row["track"], person))
    return found


def _probes(labels: list[Label]) -> tuple[list[LabelledProbe], Mapping[str, object]]:
    """The searches, and the models that made them all."""
    probes: list[LabelledProbe] = []
    models: set[str] = set()
    for folder in dict.fromkeys(label.case for label in labels):
        with Case.open(folder, read_only=True) as case:
            names, made = track_names(case), encodings(case)
            for label in (x for x in labels if x.case == folder):
                if label.track not in names:
                    reason = f"no track {label.track} in it"
                    raise UsageError(folder, reason, "name tracks as `fasr-video show` does")
                found = features(case, names[label.track])
                if not found:
                    raise UsageError(folder, f"track {label.track} is not usable", "leave it out")
                probes.append(LabelledProbe(label.person, found, made[names[label.track]].side))
            models |= {of_track.models for of_track in made.values()}
    if len(models) != 1:
        reason = f"the cases were probed with {len(models)} sets of models"
        raise UsageError("calibrate", reason, "run the footage again with one set")
    facts: Mapping[str, object] = json.loads(models.pop())
    return probes, facts


def _enrolled(gallery: Gallery) -> dict[str, Feature]:
    """A subject's last template: the pooled one, where there are several photographs."""
    vectors = gallery.features_of(s.id for s in gallery.subjects())
    return {subject: own[-1] for subject, own in vectors.items() if len(own)}
