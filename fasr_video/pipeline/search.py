"""Searching the tracks of a case in a gallery: gallery, calibration, and storing the results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fasr_video.case import log, replay, results
from fasr_video.case.case import Case
from fasr_video.case.last_search import LastSearch, SearchedGallery, last_search, save_last_search
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
from fasr_video.gallery.index import Index, import_faiss
from fasr_video.gallery.photos import read_listing
from fasr_video.gallery.records import GalleryError
from fasr_video.gallery.search import Mode, Searcher, SearchOptions, TrackQuery, Verdict
from fasr_video.gallery.store import DATABASE
from fasr_video.pipeline.references import SETTING, references_of_subject
from fasr_video.recognition.embedder import Embedder
from fasr_video.weights.manifest import bundled


def check_search(
    folder: Path,
    given: Path,
    encoder: TrackEncoder,
    settings: SearchSettings,
    *,
    subjects: Collection[str] = (),
) -> None:
    """Raise for whatever would stop the search later, before the footage is processed.

    `given` is a gallery or photographs; `subjects` are those whose photographs tracks are drawn
    from.
    """
    import_faiss()
    usable = usable_calibration(settings, encoder.provenance())
    _query_settings(settings).check(usable.calibration)
    is_gallery = (given / DATABASE).is_file()
    if not is_gallery and given_key() is not None:
        reason = "photographs are enrolled into the case, and a gallery is never encrypted"
        remedy = "give a gallery that `gallery create` made, on an encrypted disk"
        raise UsageError(given, reason, remedy)
    if not is_gallery:
        _check_photographs(given, subjects)
    gallery_folder = given if is_gallery else folder / GALLERY
    if (gallery_folder / DATABASE).is_file():
        with Gallery.open(gallery_folder, read_only=True) as gallery:
            gallery.require_embedder(encoder.embedder)
            if is_gallery:
                for subject in subjects:
                    references_of_subject(gallery, subject)


def _check_photographs(given: Path, subjects: Collection[str]) -> None:
    """Raise if no photograph can be read, or if one of the subjects has none."""
    listing = read_listing(given)
    if not listing.entries:
        first = next((f" ({p.path}: {p.reason})" for p in listing.problems), "")
        reason = f"none of its photographs can be read{first}"
        raise InputError(given, reason, "check that its disk is mounted")
    missing = sorted(set(subjects) - {entry.subject for entry in listing.entries})
    if missing:
        reason = f"no photograph of subject {missing[0]} in {given}"
        remedy = "take the subject out: its track is then drawn from its own faces"
        raise UsageError(SETTING, reason, remedy)


def enrolment_defaults(settings: SearchSettings) -> EnrolDefaults:
    """Return how the photographs given by `--gallery` are enrolled."""
    face: Which = "largest" if settings.several_faces == "largest" else None
    remedy = "take the largest with --set search.several_faces=largest, or cut it to one"
    return EnrolDefaults(choice=Choice(face, remedy))


def open_gallery(
    case: Case,
    given: Path,
    detector: Detector,
    embedder: Embedder,
    *,
    settings: SearchSettings,
    listen: Callable[[int, int], None],
) -> Gallery:
    """Open a gallery, or enrol a folder of photographs into the case's own gallery."""
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
    sync(gallery, given, detector, embedder, listen=listen, defaults=enrolment_defaults(settings))
    return gallery


def last_gallery(case: Case) -> Path | None:
    """Return the folder of the gallery of the last search; None if there was no search."""
    searched = last_search(case)
    return None if searched is None else case.folder / searched.gallery.folder


@dataclass(frozen=True, slots=True)
class UsableCalibration:
    """A calibration, and what it can be used for with the models of a case."""

    calibration: Calibration | None
    kinds: tuple[Kind, ...]
    """The kinds of features whose scores it is for."""
    remarks: tuple[str, ...]
    """What people have to know about it."""


def usable_calibration(settings: SearchSettings, models: Mapping[str, object]) -> UsableCalibration:
    """Return the given calibration or the bundled one, as far as it fits these models."""
    file = settings.calibration or bundled("calibration.json")
    calibration = Calibration.load(file)
    reason = calibration.mismatch(models)
    if reason is None:
        return UsableCalibration(calibration, tuple(Kind), ())
    if calibration.mismatch({**models, "restorer": None}) is None:
        # Only the restorer differs: the scores of the camera's own pictures are calibrated.
        why = f"the calibration does not fit ({reason})"
        if calibration.provenance.get("restorer") is None:
            why = "the calibration was measured without them"
        remark = (
            f"reconstructions do not count in this search, because {why}; "
            "their cosines are shown for information only"
        )
        return UsableCalibration(calibration, (Kind.BEST, Kind.POOLED), (remark,))
    if settings.calibration is not None:
        remedy = "calibrate these models, or use the models that it was made for"
        raise UsageError(file, reason, remedy)
    remark = f"scores are raw: the bundled calibration does not fit ({reason})"
    return UsableCalibration(None, (), (remark,))


def search_all(
    case: Case,
    gallery: Gallery,
    encoder: TrackEncoder,
    settings: SearchSettings,
    *,
    index: Index | None = None,
) -> bool:
    """Search every track that has features; store the results.

    `index` is the index of the gallery, if it is open already. Return False if the last search was
    the same and its results are up to date.
    """
    usable = usable_calibration(settings, encoder.provenance())
    calibration = usable.calibration
    photographs = photographs_of(gallery)
    photographs_sha256 = replay.photographs_digest(photographs)
    search = _search_facts(
        case, gallery, encoder, settings, usable=usable, photographs=photographs_sha256
    )
    if last_search(case) == search and not outdated(case):
        return False
    index = index or Index.open(gallery)
    searcher = Searcher(
        gallery, index, _query_settings(settings), calibration, calibrated=usable.kinds
    )
    tracks = search.tracks
    stored = encodings(case)
    features = results.all_features(case)
    subjects = conditioned_subjects(case)
    queries = [TrackQuery(features.get(track, {}), stored[track].side) for track in tracks]
    answers = dict(zip(tracks, searcher.answers(queries), strict=True))
    with case.transaction():
        replay.require_unchanged(case)
        results.save_photographs(case, photographs)
        results.clear_answers(case)
        for track, answer in answers.items():
            remark = _remark(calibration, stored[track].side, subjects.get(track))
            results.add_answer(case, track, answer, remark)
        save_last_search(case, search)
        # The next search replaces these results; the log keeps which tracks had candidates.
        leads = [track for track, answer in answers.items() if answer.verdict is Verdict.CANDIDATES]
        outcome = {
            "index_rebuilt": index.rebuilt,
            "answers": replay.answer_digests(case),
            "leads": leads,
        }
        case.log("searched", {**asdict(search), **outcome})
    return True


def outdated(case: Case) -> list[int]:
    """Return the tracks whose features changed after the last search."""
    changed: set[int] = set()
    for line in log.entries(case, "encoded", "searched"):
        if line.event == "searched":
            changed = set()
        else:
            changed |= {int(track) for track in line.details["digests"]}
    return [track for track in results.verdicts(case) if track in changed]


def update_answers(case: Case, encoder: TrackEncoder) -> bool:
    """Repeat the last search if some of its results are outdated.

    If the gallery is missing, or does not fit these models, the outdated results are removed.
    Return whether there were any.
    """
    late = outdated(case)
    searched = last_search(case)
    if not late or searched is None:
        return False
    try:
        with Gallery.open(case.folder / searched.gallery.folder, read_only=True) as gallery:
            if gallery.id != searched.gallery.id:
                reason = "another gallery than the one that was searched"
                raise GalleryError(gallery.folder, reason, "give --gallery")
            gallery.require_embedder(encoder.embedder)
            settings = SearchSettings.model_validate(searched.settings)
            return search_all(case, gallery, encoder, settings)
    except UsageError as error:
        _remove_answers(case, late, searched, f"{error.subject}: {error.reason}")
        return True


def _remove_answers(case: Case, tracks: Sequence[int], searched: LastSearch, why: str) -> None:
    """Remove the results of these tracks; the log keeps that there were some."""
    conditioned_on = {
        track: subject
        for track, subject in searched.conditioned_on.items()
        if int(track) not in tracks
    }
    remaining = replace(
        searched,
        tracks=[track for track in searched.tracks if track not in tracks],
        conditioned_on=conditioned_on,
    )
    with case.transaction():
        replay.require_unchanged(case)
        results.clear_answers(case, tracks)
        save_last_search(case, remaining)
        details = {"tracks": tracks, "why": why, "searched": asdict(remaining)}
        case.log("answers taken out", details)


def _query_settings(settings: SearchSettings) -> SearchOptions:
    return SearchOptions(Mode(settings.mode), settings.candidates, settings.fpir)


def _search_facts(
    case: Case,
    gallery: Gallery,
    encoder: TrackEncoder,
    settings: SearchSettings,
    *,
    usable: UsableCalibration,
    photographs: str,
) -> LastSearch:
    """Return all that the results of a search depend on."""
    calibration = usable.calibration
    people = len(gallery.subjects())
    # The case's own gallery moves with the case.
    is_own = gallery.folder == case.folder / GALLERY
    return LastSearch(
        gallery=SearchedGallery(
            id=gallery.id,
            generation=gallery.generation,
            state=gallery.state,
            people=people,
            templates=gallery.count(),
            folder=GALLERY if is_own else str(gallery.folder.absolute()),
        ),
        models=encoder.provenance(),
        settings=settings.model_dump(mode="json"),
        calibration=None if calibration is None else calibration.sha256,
        remarks=[*usable.remarks, *(calibration.warnings(people) if calibration else [])],
        conditioned_on={
            str(track): subject for track, subject in conditioned_subjects(case).items()
        },
        tracks=[*encodings(case)],
        photographs=photographs,
    )


def _remark(calibration: Calibration | None, side: int, subject: str | None) -> str | None:
    """Return what people have to know about the result of one track, None if there is nothing.

    `subject` is the one whose photographs the track was drawn from.
    """
    remarks = [] if calibration is None else [calibration.size_warning(side)]
    if subject is not None:
        remarks.append(
            f"the reconstruction is conditioned on subject {subject}: it was not searched with"
        )
    return "; ".join(remark for remark in remarks if remark) or None


def photographs_of(gallery: Gallery) -> list[Photograph]:
    """Return the photographs of the gallery, and those that could not be used."""
    enrolled = [Photograph(i.path, i.subject, i.sha256, None) for i in gallery.images()]
    refused = [Photograph(p.path, p.subject, p.sha256, p.reason) for p in gallery.problems()]
    return enrolled + refused
