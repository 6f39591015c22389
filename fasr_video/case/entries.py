"""The rows of a case's document, as `show`, `export` and reports have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fasr_video.case.decisions import Decision
from fasr_video.case.last_search import LastSearch
from fasr_video.case.links import Link
from fasr_video.case.recording import StatedClock
from fasr_video.case.results import Drawing
from fasr_video.case.sources import SourceModels
from fasr_video.gallery.encoder import Kind
from fasr_video.types import Reason


@dataclass(frozen=True, slots=True)
class SourceEntry:
    path: str
    sha256: str
    state: str
    """`running`, or `done`."""
    info: dict[str, Any]
    """Facts about the file: `MediaInfo.as_json`."""
    detector: SourceModels
    camera: str | None
    clock: StatedClock | None
    losses: dict[str, int]
    frames_looked_at: int
    frames_looked_at_whole: int
    frames_not_looked_at: int
    frames_skipped_as_damaged: int
    seconds_of_work: float
    faces_by_reason: dict[str, int]


@dataclass(frozen=True, slots=True)
class FaceEntry:
    """A kept face of a track."""

    face: int
    """Its id."""
    frame: int
    pts: int
    reason: str | None
    box: list[float]
    landmarks: list[list[float]] | None
    quality: dict[str, float | None]
    aligned: str | None
    native: str | None
    """Paths of its pictures in the case's folder."""


@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """The measures that say whether a track is a face, and their limits."""

    mean_score: float | None
    norm: float
    eye_px: float
    sure_score: float
    min_norm: float


@dataclass(frozen=True, slots=True)
class RestorationEntry(Drawing):
    picture: str
    spread: str | None
    samples: list[str]
    """Paths of its pictures in the case's folder."""


@dataclass(frozen=True, slots=True)
class CandidateEntry:
    """A candidate of the joined list."""

    rank: int
    subject: str
    log10_likelihood_ratio: float | None
    score: float
    cosines: dict[Kind, float]
    support: list[Kind]
    passes: bool
    only_sr: bool
    at_bound_of_calibration: bool


@dataclass(frozen=True, slots=True)
class HitEntry:
    """A candidate of one probe's own list."""

    rank: int
    subject: str
    log10_likelihood_ratio: float | None
    cosine: float


@dataclass(frozen=True, slots=True)
class AnswerEntry:
    """The search answer for a track."""

    verdict: str
    threshold: float | None
    extrapolated: bool
    remark: str | None
    joined: list[CandidateEntry]
    lists: dict[Kind, list[HitEntry]]

    @property
    def passing(self) -> list[CandidateEntry]:
        """Return the candidates above the threshold."""
        return [candidate for candidate in self.joined if candidate.passes]


@dataclass(frozen=True, slots=True)
class DecisionEntry(Decision):
    below_threshold: bool | None
    """Whether its subject is below the threshold; None without a subject or a search."""


@dataclass(frozen=True, slots=True)
class TrackEntry:
    id: int
    name: str
    source: str
    """Path of the footage."""
    source_sha256: str
    time_source: str
    start_seconds: float
    end_seconds: float
    first_frame: int
    last_frame: int
    first_pts: int
    last_pts: int
    time_base: str
    sightings: int
    most_eye_px: float
    verdict: str | None
    verdict_reason: str | None
    evidence: EvidenceEntry | None
    faces_by_reason: dict[str | None, int]
    shown: FaceEntry | None
    """LR0, or the best of its unusable faces."""
    auxiliaries: Sequence[FaceEntry]
    restoration: RestorationEntry | None
    answer: AnswerEntry | None
    decisions: list[DecisionEntry]

    @property
    def kept_faces(self) -> Sequence[FaceEntry]:
        """Return the face that stands for the track, and its auxiliary faces."""
        return self.auxiliaries if self.shown is None else [self.shown, *self.auxiliaries]

    @property
    def standing(self) -> list[DecisionEntry]:
        """Return the reviewers' decisions that nobody undid."""
        return [decision for decision in self.decisions if decision.stands]


@dataclass(frozen=True, slots=True)
class LinkEntry(Link):
    decided_as: str = ""
    """The role of the reviewer who decided on it."""


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """A group of tracks that links join."""

    tracks: list[str]
    links: list[int]
    links_accepted: int
    weakest_score: float


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run that computed something."""

    begun: str
    ended: str | None
    """Of an interrupted run, when it stored its last segment."""
    by: str
    role: str
    what: str
    finished: bool


@dataclass(frozen=True, slots=True)
class PhotographEntry:
    """A gallery photograph of the last search: a row of `gallery_photo`."""

    id: int
    path: str
    subject: str
    sha256: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A row of `log`."""

    id: int
    at: str
    event: str
    details: str
    """JSON."""
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Document:
    """A case except its pictures and the faces that were not selected."""

    schema: str
    case: dict[str, str]
    settings: dict[str, dict[str, Any]]
    runs: list[RunEntry]
    sources: list[SourceEntry]
    tracks: list[TrackEntry]
    links: list[LinkEntry]
    clusters: dict[str, list[ClusterEntry]]
    """By the state of the links that join them: accepted, or proposed."""
    searched: LastSearch | None
    gallery: list[PhotographEntry]
    log: list[LogLine]


def track_state(track: TrackEntry) -> str:
    """Return the state of a track: candidates, unknown, insufficient, not a face or not
    searched."""
    if track.answer is not None:
        return track.answer.verdict
    return state_without_search(track.verdict, track.verdict_reason)


def state_without_search(verdict: str | None, reason: str | None) -> str:
    """Return the state of a track that was not searched."""
    if reason == Reason.NOT_A_FACE:
        return "not a face"
    return "not searched" if verdict == "usable" else "insufficient"


def picture_name(restoration: RestorationEntry) -> str:
    """Return the caption for the picture of a reconstruction."""
    if len(restoration.samples) > 1:
        return f"Mean of {len(restoration.samples)} samples"
    if not restoration.model:
        return "Enlarged by bicubic: nothing was reconstructed"
    if restoration.sampler:
        return "One sample"
    return "Posterior mean" if restoration.method == "mean" else "One picture"


def certainty_note(restoration: RestorationEntry) -> str:
    """Return a sentence on how certain the picture of a reconstruction is."""
    if len(restoration.samples) > 1:
        share = f"{100 * restoration.disagreement:.1f} %"
        return (
            f"Its samples disagree by {share} of the brightness range on average. They share one"
            " network: what all of them show may still be invented."
        )
    if not restoration.model:
        return "No network drew it: it shows what the camera saw, and no more."
    if restoration.method == "mean":
        return (
            "The average of all faces that fit what the camera saw:"
            " smooth areas mean that the camera recorded no detail."
        )
    return "One picture alone cannot say how sure the network is."


def decided_subject(decision: DecisionEntry) -> str:
    """Return the subject of a decision, marked where it is below the threshold."""
    subject = decision.subject or ""
    return f"{subject} (below the threshold)" if decision.below_threshold else subject
