"""The tracks of a case against a gallery: which gallery, which calibration, and what is written of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasr_video.case import log, replay, results
from fasr_video.case.case import Case
from fasr_video.case.results import Photograph, conditioned_subjects, encodings
from fasr_video.case.store import GALLERY
from fasr_video.configs.settings import SearchSettings
from fasr_video.detection import Detector
from fasr_video.detection.photograph import Choice, Which
from fasr_video.encryption import given_key
from fasr_video.errors import InputError, UsageError
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.encoder import Kind, TrackEncoder
from fasr_video.gallery.enrol import EnrolDefaults, sync
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.photos import read_listing
from fasr_video.gallery.records import GalleryError
from fasr_video.gallery.search import Mode, Searcher, SearchOptions, TrackQuery, Verdict
from fasr_video.gallery.store import DATABASE
from fasr_video.pipeline.references import SETTING, of_subject
from fasr_video.recognition.embedder import Embedder
from fasr_video.weights.manifest import bundled


def check_question(
    folder: Path,
    given: Path,
    encoder: TrackEncoder,
    settings: SearchSettings,
    drawn_from: Collection[str] = (),
) -> None:
    """Whatever would stop the search in this case is told before the footage is looked at.

    `drawn_from` are subjects from whose photographs tracks are drawn.
    """
    reading = read_calibration(settings, encoder.provenance())
    _question(settings).check(reading.calibration)
    is_gallery = (given / DATABASE).is_file()
    if not is_gallery and given_key() is not None:
        reason = "photographs would be enrolled into the case, and a gallery is not encrypted"
        raise UsageError(
            given, reason, "give a gallery that `gallery create` made, on an encrypted disk"
        )
    if not is_gallery:
        _check_photographs(given, drawn_from)
    place = given if is_gallery else folder / GALLERY
    if (place / DATABASE).is_file():
        with Gallery.open(place, read_only=True) as gallery:
            gallery.require_embedder(encoder.embedder)
            if is_gallery:
                for subject in drawn_from:
                    of_subject(gallery, subject)


def _check_photographs(given: Path, drawn_from: Collection[str]) -> None:
    listing = read_listing(given)
    if not listing.entries:
        first = next((f" ({p.path}: {p.reason})" for p in listing.problems), "")
        raise InputError(
            given, f"none of its photographs can be read{first}", "see that its disk is mounted"
        )
    missing = sorted(set(drawn_from) - {entry.subject for entry in listing.entries})
    if missing:
        reason = f"no photograph of subject {missing[0]} in {given}"
        raise UsageError(
            SETTING, reason, "take it out: its track is then drawn anew, from its own faces"
        )


def enrolment_defaults(settings: SearchSettings) -> EnrolDefaults:
    """Return how the photographs that `--gallery` names are enrolled."""
    face: Which = "largest" if settings.several_faces == "largest" else None
    return EnrolDefaults(
        choice=Choice(
            face, "take the largest with --set search.several_faces=largest, or cut it to one"
        )
    )


def open_gallery(
    case: Case,
    given: Path,
    detector: Detector,
    embedder: Embedder,
    settings: SearchSettings,
    listen: Callable[[int, int], None],
) -> Gallery:
    """A gallery that `gallery create` made, as it is; or the folder of photographs, enrolled into the case."""
    if (given / DATABASE).is_file():
        gallery = Gallery.open(given, read_only=True)
        gallery.require_embedder(embedder)
        return gallery
    own = case.folder / GALLERY
    if (own / DATABASE).is_file():
        gallery = Gallery.open(own)
        gallery.require_embedder(embedder)
    else:
        gallery = Gallery.create(own, embedder.name, embedder.sha256, embedder.length)
    sync(gallery, given, detector, embedder, listen, enrolment_defaults(settings))
    return gallery


def last_gallery(case: Case) -> Path | None:
    """Where the gallery lies that the case was searched in last; None when it never was."""
    searched = case.searched()
    return None if searched is None else case.folder / searched["gallery"]["folder"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How scores are read in this case."""

    calibration: Calibration | None
    calibrated: tuple[Kind, ...]
    remarks: tuple[str, ...]


def read_calibration(settings: SearchSettings, models: Mapping[str, object]) -> Reading:
    """The given calibration, or the one in the box, as far as it fits these models."""
    file = settings.calibration or bundled("calibration.json")
    found = Calibration.load(file)
    reason = found.mismatch(models)
    if reason is None:
        return Reading(found, tuple(Kind), ())
    if found.mismatch({**models, "restorer": None}) is None:
        # Super-resolved otherwise: what it says of the camera's own pictures still holds.
        remark = f"scores of the reconstructions are raw and count for nothing: the calibration does not fit ({reason})"
        return Reading(found, (Kind.BEST, Kind.POOLED), (remark,))
    if settings.calibration is not None:
        raise UsageError(file, reason, "calibrate these models, or use those that it was made for")
    return Reading(
        None, (), (f"scores are raw: the calibration in the box does not fit ({reason})",)
    )


def search_all(
    case: Case,
    gallery: Gallery,
    encoder: TrackEncoder,
    settings: SearchSettings,
    index: Index | None = None,
) -> bool:
    """Ask for every track that has probes; returns whether the question had not been asked before.

    `index` is the gallery's, where it is open already.
    """
    reading = read_calibration(settings, encoder.provenance())
    photographs = photographs_of(gallery)
    asked = _asked(case, gallery, encoder, settings, reading) | {
        "photographs": replay.photographs_digest(photographs)
    }
    if case.searched() == asked and not outdated(case):
        return False
    index = index or Index.open(gallery)
    searcher = Searcher(
        gallery, index, _question(settings), reading.calibration, reading.calibrated
    )
    tracks = asked["tracks"]
    made, features, drawn_from = (
        encodings(case),
        results.all_features(case),
        conditioned_subjects(case),
    )
    questions = [TrackQuery(features.get(track, {}), made[track].side) for track in tracks]
    answers = dict(zip(tracks, searcher.answers(questions), strict=True))
    with case.transaction():
        replay.require_unchanged(case)
        results.save_photographs(case, photographs)
        results.clear_answers(case)
        for track, answer in answers.items():
            remark = _remark(reading.calibration, made[track].side, drawn_from.get(track))
            results.add_answer(case, track, answer, remark)
        case.set_meta("searched", json.dumps(asked))
        # Answers give way to those of the next search; which tracks had led to anybody stays in the log.
        leads = [track for track, answer in answers.items() if answer.verdict is Verdict.CANDIDATES]
        about = {
            "index_made_anew": index.rebuilt,
            "answers": replay.answer_digests(case),
            "leads": leads,
        }
        case.log("searched", {**asked, **about})
    return True


def outdated(case: Case) -> list[int]:
    """Tracks whose answers are about probes that were made anew since."""
    since: set[int] = set()
    for line in log.entries(case, "encoded", "searched"):
        since = (
            set()
            if line.event == "searched"
            else since | {int(track) for track in line.details["digests"]}
        )
    return [track for track in results.verdicts(case) if track in since]


def renew_answers(case: Case, encoder: TrackEncoder) -> bool:
    """Ask again as last, in the gallery that was searched last, where answers are outdated; where it is not at hand,
    or cannot be asked with these models, they are taken out. Returns whether there were any."""
    late, searched = outdated(case), case.searched()
    if not late or searched is None:
        return False
    try:
        with Gallery.open(case.folder / searched["gallery"]["folder"], read_only=True) as gallery:
            if gallery.id != searched["gallery"]["id"]:
                raise GalleryError(
                    gallery.folder,
                    "another gallery than the one that was searched",
                    "give --gallery",
                )
            gallery.require_embedder(encoder.embedder)
            return search_all(
                case, gallery, encoder, SearchSettings.model_validate(searched["question"])
            )
    except UsageError as error:
        _take_out(case, late, searched, f"{error.subject}: {error.reason}")
        return True


def _take_out(case: Case, late: Sequence[int], searched: Mapping[str, Any], why: str) -> None:
    """From now on these tracks were not searched for; the log keeps that they were."""
    left = {
        "tracks": [track for track in searched["tracks"] if track not in late],
        "conditioned_on": {
            t: subject for t, subject in searched["conditioned_on"].items() if int(t) not in late
        },
    }
    with case.transaction():
        replay.require_unchanged(case)
        results.clear_answers(case, late)
        case.set_meta("searched", json.dumps({**searched, **left}))
        details = {"tracks": late, "why": why, "searched": {**searched, **left}}
        case.log("answers taken out", details)


def _question(settings: SearchSettings) -> SearchOptions:
    return SearchOptions(Mode(settings.mode), settings.candidates, settings.fpir)


def _asked(
    case: Case, gallery: Gallery, encoder: TrackEncoder, settings: SearchSettings, reading: Reading
) -> dict[str, Any]:
    """All that the answers depend on."""
    people = len(gallery.subjects())
    facts = {
        "id": gallery.id,
        "generation": gallery.generation,
        "state": gallery.state,
        "people": people,
    }
    # The case's own gallery moves with it.
    own = gallery.folder == case.folder / GALLERY
    facts |= {
        "templates": gallery.count(),
        "folder": GALLERY if own else str(gallery.folder.absolute()),
    }
    warnings = reading.calibration.warnings(people) if reading.calibration else []
    return {
        "gallery": facts,
        "models": encoder.provenance(),
        "question": settings.model_dump(mode="json"),
        "calibration": None if reading.calibration is None else reading.calibration.sha256,
        "remarks": [*reading.remarks, *warnings],
        "conditioned_on": {
            str(track): subject for track, subject in conditioned_subjects(case).items()
        },
        "tracks": [*encodings(case)],
    }


def _remark(calibration: Calibration | None, side: int, drawn_from: str | None) -> str | None:
    told = [] if calibration is None else [calibration.size_warning(side)]
    if drawn_from is not None:
        told.append(
            f"the reconstruction is conditioned on subject {drawn_from}: it was not searched with"
        )
    return "; ".join(filter(None, told)) or None


def photographs_of(gallery: Gallery) -> list[Photograph]:
    """Those that stand behind the answers, and those that could not be used."""
    found = [Photograph(i.path, i.subject, i.sha256, None) for i in gallery.images()]
    return found + [Photograph(p.path, p.subject, p.sha256, p.reason) for p in gallery.problems()]
