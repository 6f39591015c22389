"""One long file looked at by several workers: what the detector found in each picture, kept until the run asks.

Detecting is the dear part of a run and depends on one picture alone; tracking needs all of them in order. So the parts
of a long file are looked at beside each other, and the tracks are then made in one pass, which takes what it needs from
here by the picture's own hash. There are no seams: the case is the one that an uncut run makes. A picture that is not
here (a part failed, another detector looked at it, or a decoder that began elsewhere gave other pixels) is looked at
then and there.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgpack
import numpy as np

from fasr_video.configs.settings import Settings
from fasr_video.detection import Detector
from fasr_video.files import atomic_write
from fasr_video.media import VideoReader
from fasr_video.pipeline.run import frame_batch_size, sampling_of
from fasr_video.sqlite import connect
from fasr_video.types import Detections, Image


def look(reader: VideoReader, detector: Detector, settings: Settings, path: Path) -> None:
    """Detect in the frames that `settings` choose, and write what was found to `path`, whole or not at all."""

    def write(partial: Path) -> None:
        partial.unlink(missing_ok=True)  # of a worker that was killed
        database = sqlite3.connect(partial)
        database.execute(
            "CREATE TABLE look (picture BLOB PRIMARY KEY, found BLOB NOT NULL) WITHOUT ROWID"
        )
        database.execute("CREATE TABLE detector (fingerprint TEXT NOT NULL, name TEXT NOT NULL)")
        database.execute(
            "INSERT INTO detector VALUES (?, ?)", (detector.fingerprint, detector.name)
        )
        frames = reader.frames(sampling_of(settings))
        while batch := list(islice(frames, frame_batch_size(settings.detect))):
            images = [f.image for f in batch if not f.damaged]
            rows = [
                (_key(i), _pack(d)) for i, d in zip(images, detector.detect(images), strict=True)
            ]
            database.executemany("INSERT OR REPLACE INTO look VALUES (?, ?)", rows)
        database.commit()
        database.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, write)


def _open_part(path: Path) -> sqlite3.Connection:
    """Open one to read, in whatever thread."""
    return connect(path, f"file:{quote(os.fsencode(path))}?mode=ro", check_same_thread=False)


class CachedDetector:
    """A detector that does not look twice at a picture that a part has seen. A part that another detector looked at is
    left out: a case names one detector, and its boxes are that one's."""

    def __init__(self, detector: Detector, folder: Path) -> None:
        self._detector = detector
        # A run may detect in another thread than the one that opens and closes this; never in two at once.
        parts = sorted(folder.absolute().glob("*.sqlite"))
        opened = [_open_part(part) for part in parts]
        self._parts = [part for part in opened if _looked_with(detector, part)]
        self.left_out = len(opened) - len(self._parts)
        """Parts that another detector looked at, or that do not say which."""
        for part in set(opened) - set(self._parts):
            part.close()
        self.name, self.has_landmarks = detector.name, detector.has_landmarks
        self.fingerprint, self.licence = detector.fingerprint, detector.licence
        self.looked = 0
        """Pictures that no part had seen."""

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        found = [self._remembered(frame) for frame in frames]
        missing = [k for k, f in enumerate(found) if f is None]
        if missing:
            self.looked += len(missing)
            for k, seen in zip(
                missing, self._detector.detect([frames[k] for k in missing]), strict=True
            ):
                found[k] = seen
        return [f for f in found if f is not None]

    def _remembered(self, frame: Image) -> Detections | None:
        key = _key(frame)
        for k, part in enumerate(self._parts):
            row = part.execute("SELECT found FROM look WHERE picture = ?", (key,)).fetchone()
            if row is not None:
                self._parts.insert(
                    0, self._parts.pop(k)
                )  # the next picture is likely in the same part
                return _unpack(row[0])
        return None


def _looked_with(detector: Detector, part: sqlite3.Connection) -> bool:
    try:
        named = part.execute("SELECT fingerprint, name FROM detector").fetchall()
    except sqlite3.DatabaseError:  # of an earlier version, or no database at all
        return False
    return named == [(detector.fingerprint, detector.name)]


def _key(image: Image) -> bytes:
    hasher = hashlib.sha256(repr(image.shape).encode())
    hasher.update(np.ascontiguousarray(image).data)
    return hasher.digest()


def _pack(found: Detections) -> bytes:
    landmarks = (
        None if found.landmarks is None else np.asarray(found.landmarks, np.float32).tobytes()
    )
    boxes, scores = np.asarray(found.boxes, np.float32), np.asarray(found.scores, np.float32)
    packed: bytes = msgpack.packb((boxes.tobytes(), scores.tobytes(), landmarks))
    return packed


def _unpack(data: bytes) -> Detections:
    def array(raw: bytes, *shape: int) -> Any:
        return np.frombuffer(raw, np.float32).reshape(-1, *shape).copy()

    boxes, scores, landmarks = msgpack.unpackb(data)
    return Detections(
        array(boxes, 4),
        array(scores).ravel(),
        None if landmarks is None else array(landmarks, 5, 2),
    )
