"""What was found for each track: its probes, and what its reconstruction was drawn from."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from fasr_video.case.store import CaseStore
from fasr_video.gallery.probes import Feature, Kind


def features(case: CaseStore, track: int) -> dict[Kind, Feature]:
    rows = case.db.execute("SELECT kind, feature FROM probe WHERE track = ?", (track,)).fetchall()
    stored = {Kind(row["kind"]): case.unseal(row["feature"], probe_place(track, row["kind"])) for row in rows}
    found = {kind: np.frombuffer(data, np.float32) for kind, data in stored.items()}
    return {kind: found[kind] for kind in Kind if kind in found}


def conditioned(case: CaseStore) -> dict[int, str]:
    """The tracks whose reconstruction was drawn from a gallery subject's photographs, and whose."""
    found = case.db.execute("SELECT track, facts FROM restoration ORDER BY track").fetchall()
    subjects = {int(row["track"]): json.loads(row["facts"]).get("conditioned_on", "") for row in found}
    return {track: subject for track, subject in subjects.items() if subject}


def digest(case: CaseStore, track: int) -> str:
    """One hash over the probes and the restoration of a track, so that the log's chain covers them."""
    hasher = hashlib.sha256()
    for query in (
        "SELECT track, kind, hex(feature) FROM probe WHERE track = ? ORDER BY kind",
        "SELECT * FROM probed WHERE track = ?",
        "SELECT * FROM restoration WHERE track = ?",
    ):
        for row in case.db.execute(query, (track,)):
            hasher.update(json.dumps(tuple(row)).encode())
    return hasher.hexdigest()


def probe_place(track: int, kind: str) -> str:
    return f"probe {kind} of track {track}"
