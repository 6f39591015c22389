"""The state of a gallery folder, in a case."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fasr_video.gallery.photos import examine, files_in
from fasr_video.pipeline.case import Case
from fasr_video.pipeline.detect import Detector


def check(case: Case, gallery: Path, detector: Detector) -> bool:
    """Record the state of every file in the gallery folder; returns whether anything changed since the last time."""
    files = files_in(gallery)
    known = {row["path"]: row["sha256"] for row in case.db.execute("SELECT path, sha256 FROM gallery_photo").fetchall()}
    hashes = {str(f.relative_to(gallery)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    if known == hashes:
        return False
    photos = [examine(gallery, f, detector) for f in files]
    with case.transaction():
        case.db.execute("DELETE FROM gallery_photo")
        for p in photos:
            case.db.execute(
                "INSERT INTO gallery_photo (path, subject, sha256, faces, problem) VALUES (?, ?, ?, ?, ?)",
                (str(p.path), p.subject, p.sha256, p.faces, p.problem),
            )
        case.log("gallery checked", {"folder": str(gallery.absolute()), "photographs": hashes})
    return True
