"""The texts of reports: verdicts with their reasons, and what every report says."""

from __future__ import annotations

from fasr_video.case.entries import AnswerEntry, TrackEntry, track_state
from fasr_video.case.last_search import LastSearch
from fasr_video.console import count
from fasr_video.pipeline.evidence import explain
from fasr_video.types import REASON_TEXT, Reason

NOTICE = (
    "What this report shows are leads for trained people to examine, never proof of who somebody "
    "is. No action should rest on it alone, nor on one examiner's view of it."
)
BANNER = "Synthetic reconstruction: a lead, not for comparison"
BANNER_WHY = (
    "A network drew these pictures. Any detail that is not in the camera's own pixels above comes "
    "from the faces that it was trained on and from the feature that it was given. They may look "
    "like somebody; they show nobody."
)
PROBES = {"best": "best face (LR0)", "pooled": "all kept faces pooled", "sr": "reconstruction"}
LOSSES = {
    "corrupt_packets": "corrupt packets",
    "damaged_frames": "damaged frames",
    "missing_frames": "missing frames",
    "time_jumps": "jumps in time",
    "other_files": "files that are not pictures",
}
CLOCKS = {
    "given": "entered by hand",
    "csv": "from the table of cameras",
    "path": "from the file's path",
    "container": "from the file's container",
}
TIMES = {
    "pts": "from the file's own time stamps",
    "container": "from the container's constant rate",
    "assumed_fps": "from an assumed frame rate: the file has no times",
}
# Where the feature of a reconstruction comes from.
FEATURES = {
    "given": "pooled from this track's faces",
    "combiner": "merged by the Feature Combiner",
    "mean": "mean of the faces that it was drawn from",
    "own": "the LR face alone",
    "fitted": "fitted to photographs of one person",
    "none": "none",
}
# Components that two faces are compared by, after FISWG's list for morphological analysis.
COMPONENTS = (
    "Face and head: shape and proportions",
    "Hairline and hair",
    "Forehead",
    "Eyebrows",
    "Eyes",
    "Nose",
    "Cheeks",
    "Ears",
    "Mouth and lips",
    "Chin and jawline",
    "Neck",
    "Facial hair",
    "Lines and creases",
    "Scars, moles and other marks",
    "Alterations (piercings, make-up, tattoos)",
)
LIMITS = (
    "A similarity or a likelihood ratio compares two faces. It is not the probability that "
    "somebody is the person: that also depends on everything else that is known.",
    "The answer is unknown wherever nobody passes the threshold. The lists below the threshold "
    "always name somebody, for information: being on one means nothing by itself.",
    "The threshold was set on labelled photographs of other people, mostly sharper than footage "
    "and from other cameras; error rates on this footage may be higher.",
    "A reconstruction adds detail that the camera did not see. A lead that only the "
    "reconstruction supports is the weakest of leads, and is marked as such.",
    "Where a face is outside the sizes that the models were trained and calibrated on, a remark "
    "says so.",
    "Errors are not shared evenly: models trained on public photographs of celebrities do worse "
    "on faces that such photographs lack.",
    "A link between two tracks is a proposal; only a person joins them. A track may be a part of "
    "somebody's way through the picture, and in rare cases a mixture of two people.",
    "Video times are as exact as the file's own times; times of day are as good as the camera's "
    "clock, and carry the uncertainty that was stated for it.",
)


def verdict(track: TrackEntry, searched: LastSearch | None) -> tuple[str, str]:
    """Return the verdict on a track in a few words, and the reason."""
    state = track_state(track)
    answer = track.answer
    if state == "insufficient":
        return "Insufficient quality", _why_insufficient(track)
    if state == "not a face" and track.evidence is not None:
        return "Not a face", explain(track.evidence)
    if answer is None or searched is None:
        return "Not searched", "Its faces are usable, but no gallery was searched."
    if state == "unknown":
        return _unknown(answer, searched)
    passing = answer.passing
    headline = f"Candidates: {count(len(passing), 'lead')}"
    why = f"Above the threshold of {answer.threshold:.2f}, {_meaning(answer, searched)}."
    if all(candidate.only_sr for candidate in passing):
        why += " Only the reconstruction supports this: the weakest of leads."
    return headline, why


def _why_insufficient(track: TrackEntry) -> str:
    reason = track.verdict_reason
    text = REASON_TEXT[Reason(reason)] if reason else "none of its faces is usable"
    number = track.faces_by_reason.get(reason, track.sightings)
    detections = f"{number} of {count(track.sightings, 'detection')}"
    return f"{detections}: {text}. There was no reconstruction and no search."


def _unknown(answer: AnswerEntry, searched: LastSearch) -> tuple[str, str]:
    if answer.threshold is None:
        return "Unknown", "Its scores are not calibrated, so nobody can pass a threshold."
    nearest = max((candidate.score for candidate in answer.joined), default=None)
    highest = "" if nearest is None else f" The highest score is {nearest:.2f}."
    threshold = f"{answer.threshold:.2f}, {_meaning(answer, searched)}"
    return "Unknown", f"Nobody in the gallery passes the threshold of {threshold}.{highest}"


def _meaning(answer: AnswerEntry, searched: LastSearch) -> str:
    """Return what the threshold means, in words."""
    percent = 100 * searched.settings["fpir"]
    text = f"set so that {percent:g} % of strangers' searches pass it"
    text += f" in a gallery of {count(searched.gallery.templates, 'template')}"
    if answer.extrapolated:
        text += (
            "; the calibration has too few strangers to measure this threshold, so it was "
            "extrapolated: the true rate of false leads may differ"
        )
    return text
