"""The signed-off report: who decided what in a case, with the log head of that moment.

    CASE/signed-off/WHEN.json    the report; its schema is `fasr-video/signed-off/1`
    CASE/signed-off/WHEN.html    the same for people, as one file
    CASE/signed-off/WHEN.json.sha256, WHEN.json.sha256.sig
                                 where a key was given: a signature of the report, and so of the log
                                 head in it; `fasr-video check-signature` checks it

The SHA-256 of all of them goes into the log, so that `fasr-video verify` notices a changed file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fasr_video import __version__
from fasr_video.actors import name_with_role
from fasr_video.actors import role as as_role
from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.decisions import Agreement, Decision, by_track, digest, reviewer_name
from fasr_video.case.document import below_threshold, links
from fasr_video.case.last_search import last_search
from fasr_video.case.links import clusters
from fasr_video.case.replay import require_unchanged
from fasr_video.case.results import StoredAnswer, answers
from fasr_video.case.sources import sources
from fasr_video.case.verify import NEW, SIGNED_OFF
from fasr_video.clock import now
from fasr_video.console import clock, count
from fasr_video.errors import CaseError
from fasr_video.files import atomic_write, make_folder, put_in_place
from fasr_video.review.cards import Card, cards, ratio

SCHEMA = "fasr-video/signed-off/1"


@dataclass(frozen=True, slots=True)
class SignedOff:
    files: dict[str, str]
    """Name → SHA-256."""
    at: str
    by: str
    role: str
    undecided: tuple[str, ...]


def undecided(case_cards: list[Card]) -> list[str]:
    """Return the names of the tracks without a decision."""
    return [card.name for card in case_cards if card.agreement is Agreement.UNDECIDED]


def sign_off(
    case: Case,
    by: str,
    although_undecided: bool = False,
    role: str = "",
    *,
    key: Path | None = None,
) -> SignedOff:
    """Write the report of all decisions into the case, and its hashes into the log.

    Sign it where a key is given.
    """
    by, role = reviewer_name(by, "sign-off"), as_role(role)
    with case.transaction():  # nobody decides while the report is written
        name_signed_off(case)
        document = _document(case, by, role)
        open_tracks = document["undecided"]
        if not document["tracks"]:
            raise CaseError(
                case.folder, "there is no finished track to sign off", "let the run finish first"
            )
        if open_tracks and not although_undecided:
            names = ", ".join(open_tracks[:20]) + (", …" if len(open_tracks) > 20 else "")
            reason = f"{count(len(open_tracks), 'track is', 'tracks are')} undecided ({names})"
            raise CaseError(
                case.folder, reason, "decide on them, or sign off although they are undecided"
            )
        files = _write(case.folder / SIGNED_OFF, document, key)
        about = {"files": files, "undecided": open_tracks, "digest": document["decisions_sha256"]}
        case.log("signed off", {"by": by, "role": role, **about})
    with case.transaction():
        name_signed_off(case)
    return SignedOff(files, document["at"], by, role, tuple(open_tracks))


def name_signed_off(case: Case) -> None:
    """Give logged reports their final names, and remove files of an interrupted sign-off."""
    known = {name for report in signed_off(case) for name in report.files}
    for path in sorted((case.folder / SIGNED_OFF).glob(f"*{NEW}*")):
        if path.suffix == NEW and path.name.removesuffix(NEW) in known:
            put_in_place(path, path.with_name(path.name.removesuffix(NEW)))
        else:
            path.unlink()


def signed_off(case: Case) -> list[SignedOff]:
    """Return all signed-off reports, the newest first."""
    reports = []
    for line in reversed(log.entries(case, "signed off")):
        details = line.details
        role = details.get("role", "")
        open_tracks = tuple(details["undecided"])
        reports.append(SignedOff(details["files"], line.at, details["by"], role, open_tracks))
    return reports


def _document(case: Case, by: str, role: str) -> dict[str, Any]:
    require_unchanged(case)
    case_cards = cards(case)
    names = {card.id: card.name for card in case_cards}
    searched = last_search(case)
    decisions = by_track(case)
    answers_by_track = answers(case)
    return {
        "schema": SCHEMA,
        "version": __version__,
        "case": case.meta("case_id"),
        "at": now(),
        "signed_off_by": by,
        "signed_off_as": role,
        "log_head": case.meta("log_head"),
        "log_lines": log.entry_count(case),
        "decisions_sha256": digest(case),
        "gallery": None if searched is None else asdict(searched.gallery),
        "sources": [
            {k: getattr(s, k) for k in ("path", "sha256", "camera", "state")} for s in sources(case)
        ],
        "reviewers": sorted({d.by for card in case_cards for d in card.decisions}),
        "undecided": undecided(case_cards),
        "one_reviewer": [card.name for card in case_cards if card.agreement is Agreement.ONE],
        "disagreements": [card.name for card in case_cards if card.agreement is Agreement.CONFLICT],
        "tracks": [
            _track(card, decisions.get(card.id, []), answers_by_track.get(card.id))
            for card in case_cards
        ],
        "subjects": [[names[track] for track in group] for group in clusters(case, ["accepted"])],
        "links": [
            asdict(link) | {"a": names[link.a], "b": names[link.b]}
            for link in links(case)
            if link.state != "proposed"
        ],
    }


def _track(
    card: Card, decisions: Sequence[Decision], answer: StoredAnswer | None
) -> dict[str, object]:
    lead = card.lead
    return {
        "name": card.name,
        "source": card.source,
        "footage": card.footage,
        "camera": card.camera,
        "start_seconds": card.start,
        "end_seconds": card.end,
        "wall_time": None if card.clock is None else card.clock.text(card.start),
        "state": card.state,
        "insufficient_because": card.why,
        "first_candidate": None if lead is None else lead.subject,
        "log10_likelihood_ratio": None if lead is None else lead.ratio,
        "at_bound_of_calibration": lead is not None and lead.at_bound,
        "only_the_reconstruction_supports_it": lead is not None and lead.only_sr,
        "agreement": card.agreement,
        "decisions": [
            _as_json(d) | {"below_threshold": below_threshold(answer, d.subject)} for d in decisions
        ],
    }


def _as_json(decision: Decision) -> dict[str, object]:
    names = ("id", "subject", "verdict", "reason", "by", "role", "at", "undone_by", "undone_at")
    return {name: getattr(decision, name) for name in names}


def _write(folder: Path, document: dict[str, Any], key: Path | None) -> dict[str, str]:
    """Write all files and return their hashes by name."""
    make_folder(folder)
    stem = document["at"].replace(":", "").replace("+0000", "Z")
    text = json.dumps(document, indent=2, ensure_ascii=False).encode()
    contents = {f"{stem}.json": text, f"{stem}.html": _html(document).encode()}
    if key is not None:
        contents |= _signature(f"{stem}.json", text, document, key)
    files = {}
    for name, data in contents.items():
        atomic_write(folder / (name + NEW), partial(_write_bytes, data))
        files[name] = hashlib.sha256(data).hexdigest()
    return files


def _write_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _signature(name: str, text: bytes, document: dict[str, Any], key: Path) -> dict[str, bytes]:
    """Return the two signature files, as `fasr-video sign` writes them beside an export."""
    from fasr_video.custody import keys, signing

    hashes = {name: hashlib.sha256(text).hexdigest()}
    who = name_with_role(document["signed_off_by"], document["signed_off_as"])
    private_key = keys.read_private(key)
    manifest, signature = signing.signed_manifest(hashes, private_key, who, document["at"])
    return {f"{name}.sha256": manifest, f"{name}.sha256.sig": signature}


def _html(document: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("fasr_video.review"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(clock=clock, ratio=ratio)
    style = (Path(__file__).parent / "static" / "signed_off.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template("signed_off.html")
    return template.render(
        report=document, style=style, policy=f"default-src 'none'; style-src 'sha256-{allowed}'"
    )
