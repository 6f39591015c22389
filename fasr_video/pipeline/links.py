"""Proposed joinings of tracklets in a case, and what a person decided about them."""

from __future__ import annotations

from fasr_video.configs.settings import LinkSettings
from fasr_video.errors import CaseError
from fasr_video.pipeline.case import Case, now
from fasr_video.trackers.linking import Tracklet, appearance, propose
from fasr_video.types import FaceCrop

EVIDENCE = "appearance (form and colours; not face recognition)"


def propose_all(case: Case, settings: LinkSettings) -> None:
    """Propose anew for all finished tracks, unless that is done; what a person decided stays."""
    if case.meta("linked_tracks") == str(_finished(case)):
        return
    tracklets = [
        t for row in case.db.execute("SELECT * FROM track WHERE state = 'done'").fetchall() if (t := _load(case, row))
    ]
    with case.transaction():
        proposals = propose(tracklets, settings.max_gap, settings.min_score)
        still = {(p.a, p.b) for p in proposals}
        for row in case.db.execute("SELECT id, a, b FROM link WHERE state = 'proposed'").fetchall():
            if (row["a"], row["b"]) not in still:
                case.db.execute("DELETE FROM link WHERE id = ?", (row["id"],))
        for p in proposals:  # a pair keeps its number
            case.db.execute(
                "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed')"
                " ON CONFLICT (a, b) DO UPDATE SET score = excluded.score WHERE state = 'proposed'",
                (p.a, p.b, p.score, EVIDENCE),
            )
        case.set_meta("linked_tracks", str(_finished(case)))


def decide(case: Case, link: int, state: str, who: str) -> None:
    """Accept, refuse or (state `proposed`) reopen a proposal; each change stays in the log."""
    row = case.db.execute("SELECT * FROM link WHERE id = ?", (link,)).fetchone()
    if row is None:
        raise CaseError(f"link {link}", "no such proposal in this case", "`fasr-video show CASE` lists them")
    with case.transaction():
        decided = (None, None) if state == "proposed" else (who, now())
        case.db.execute(
            "UPDATE link SET state = ?, decided_by = ?, decided_at = ? WHERE id = ?", (state, *decided, link)
        )
        pair = {"link": link, "tracks": [row["a"], row["b"]]}
        case.log("link decided", {**pair, "from": row["state"], "to": state, "by": who})


def _finished(case: Case) -> int:
    return int(case.db.execute("SELECT count(*) FROM track WHERE state = 'done'").fetchone()[0])


def _load(case: Case, track: dict[str, int]) -> Tracklet | None:
    """A finished track with its kept pictures; None when it has none."""
    kept = case.db.execute(
        "SELECT * FROM face WHERE track = ? AND aligned IS NOT NULL ORDER BY id", (track["id"],)
    ).fetchall()
    if not kept:
        return None
    crops = [
        FaceCrop(case.read_picture(r["aligned"]), case.read_picture(r["native"]), (r["native_x"], r["native_y"]))
        for r in kept
    ]
    first, last = case.db.execute("SELECT min(pts), max(pts) FROM face WHERE track = ?", (track["id"],)).fetchone()
    base = case.time_base(track["source"])
    return Tracklet(track["id"], track["source"], float(first * base), float(last * base), appearance(crops))
