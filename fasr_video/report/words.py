"""What reports say in words: verdicts and their reasons, and the texts that stand in every report."""

from __future__ import annotations

from typing import Any

from fasr_video.case.document import track_state
from fasr_video.pipeline.evidence import explain
from fasr_video.types import REASON_TEXT, Reason

NOTICE = (
    "What this report shows are leads for trained people to examine, never proof of who somebody is. "
    "No action should rest on it alone, nor on one examiner's view of it."
)
BANNER = "Synthetic reconstruction: a lead, not for comparison"
BANNER_WHY = (
    "A network drew these pictures. Detail that is not in the camera's own pixels above was filled in from the faces "
    "that it was trained on and from the feature that it was told. They may look like somebody; they show nobody."
)
PROBES = {"best": "best face (LR0)", "pooled": "all kept faces pooled", "sr": "reconstruction"}
LOSSES = {
    "corrupt_packets": "corrupt packets",
    "damaged_frames": "damaged frames",
    "missing_frames": "missing frames",
    "time_jumps": "jumps in time",
    "other_files": "files that are no pictures",
}
CLOCKS = {
    "given": "given by hand",
    "csv": "from a table of cameras",
    "path": "from the file's path",
    "container": "from the file's container",
}
TIMES = {
    "pts": "from the file's own time stamps",
    "container": "from the container's constant rate",
    "assumed_fps": "from an assumed rate: the file has none",
}
# What two faces are compared by, after FISWG's list of features for morphological analysis.
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
    "A similarity or a likelihood ratio compares two faces. It is not the probability that somebody is the person: "
    "that also depends on all else that is known.",
    "Unknown is the answer wherever nothing passes the threshold. A list to look through always names somebody: being "
    "on it means nothing by itself.",
    "A threshold was set on labelled photographs of other people, mostly sharper than footage and of unlike cameras; "
    "rates of error on this footage may be higher.",
    "A reconstruction adds detail that the camera did not see. A lead that only the reconstruction supports is the "
    "weakest of leads, and is marked as such.",
    "A face outside the sizes that the models were trained and calibrated on is answered with a remark that says so.",
    "Errors are not shared evenly: models trained on public photographs of celebrities do worse on faces that such "
    "photographs lack.",
    "That two tracks look alike is a proposal; only a person joins them. A track may be a part of somebody's way "
    "through the picture, and rarely two people mixed up.",
    "Video times are exact as far as the file tells them; wall times are as good as the camera's clock, and carry the "
    "uncertainty that was stated for it.",
)


def verdict(track: dict[str, Any], searched: dict[str, Any] | None) -> tuple[str, str]:
    """What there is to say of a track, in a line, and why."""
    state, answer = track_state(track), track["answer"]
    if state == "insufficient":
        return "Insufficient quality", _why_insufficient(track)
    if state == "not a face":
        return "Not a face", explain(track["evidence"])
    if answer is None or searched is None:
        return "Not searched", "Its faces are usable, but no gallery was searched for them."
    if state == "unknown":
        return _unknown(answer, searched)
    passing = [c for c in answer["joined"] if c["passes"]]
    headline = "Candidates: 1 lead" if len(passing) == 1 else f"Candidates: {len(passing)} leads"
    why = f"Over the threshold of {answer['threshold']:.2f}, {_meaning(answer, searched)}."
    if all(c["only_sr"] for c in passing):
        why += " Nothing but the reconstruction supports this: the weakest of leads."
    return headline, why


def _why_insufficient(track: dict[str, Any]) -> str:
    reason, seen = track["verdict_reason"], track["sightings"]
    told = REASON_TEXT[Reason(reason)] if reason else "none of its faces is usable"
    count = track["faces_by_reason"].get(reason, seen)
    return f"{count} of {seen} sightings: {told}. Nothing was reconstructed, and nobody was searched for."


def _unknown(answer: dict[str, Any], searched: dict[str, Any]) -> tuple[str, str]:
    if answer["threshold"] is None:
        return "Unknown", "Its scores are not calibrated, so nobody can pass a threshold."
    nearest = max((c["score"] for c in answer["joined"]), default=None)
    told = "" if nearest is None else f" The nearest scores {nearest:.2f}."
    meaning = _meaning(answer, searched)
    return (
        "Unknown",
        f"Nobody in the gallery passes the threshold of {answer['threshold']:.2f}, {meaning}.{told}",
    )


def _meaning(answer: dict[str, Any], searched: dict[str, Any]) -> str:
    size, share = searched["gallery"]["templates"], searched["question"]["fpir"]
    beyond = (
        "; it lies beyond what the calibration's data can support" if answer["extrapolated"] else ""
    )
    return f"set so that {100 * share:g} % of strangers' searches pass it in a gallery of {size} templates{beyond}"
