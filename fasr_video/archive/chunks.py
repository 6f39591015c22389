"""Detections of a long file, made by several workers and stored until the run needs them.

Detection is the slow part of a run and looks at one image at a time; tracking needs all images in
order. So the chunks of a long file are detected in parallel. Then one pass makes the tracks, and
takes the detections of each image from here by the image's hash. There are no seams: the case is
the same as that of an uncut run. The pass detects an image itself where its detections are missing:
the chunk failed, another detector made it, or the decoder started at another position and gave
other pixels.
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


def detect_chunk(reader: VideoReader, detector: Detector, settings: Settings, path: Path) -> None:
    """Detect in the frames that `settings` choose, and write the detections to `path`."""

    def write(partial: Path) -> None:
        partial.unlink(missing_ok=True)  # a killed worker may have left one
        database = sqlite3.connect(partial)
        database.execute(
            "CREATE TABLE image (hash BLOB PRIMARY KEY, detections BLOB NOT NULL) WITHOUT ROWID"
        )
        database.execute("CREATE TABLE detector (fingerprint TEXT NOT NULL, name TEXT NOT NULL)")
        database.execute(
            "INSERT INTO detector VALUES (?, ?)", (detector.fingerprint, detector.name)
        )
        frames = reader.frames(sampling_of(settings))
        while batch := list(islice(frames, frame_batch_size(settings.detect))):
            images = [frame.image for frame in batch if not frame.damaged]
            rows = [
                (_hash(image), _pack(detections))
                for image, detections in zip(images, detector.detect(images), strict=True)
            ]
            database.executemany("INSERT OR REPLACE INTO image VALUES (?, ?)", rows)
        database.commit()
        database.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, write)


def _open_chunk(path: Path) -> sqlite3.Connection:
    """Return a connection for reading that any thread may use."""
    return connect(path, f"file:{quote(os.fsencode(path))}?mode=ro", check_same_thread=False)


class CachedDetector:
    """A detector that takes detections from a folder of chunks, and detects only what is missing.

    Chunks of another detector are ignored: all boxes of a case come from the detector it names.
    """

    def __init__(self, detector: Detector, folder: Path) -> None:
        self._detector = detector
        # A run may detect in another thread than the one that opens and closes this one, but never
        # in two threads at the same time.
        chunks = [_open_chunk(path) for path in sorted(folder.absolute().glob("*.sqlite"))]
        self._chunks = [chunk for chunk in chunks if _is_made_by(detector, chunk)]
        self.ignored_chunks = len(chunks) - len(self._chunks)
        """How many chunks another detector made, or do not say which one made them."""
        for chunk in set(chunks) - set(self._chunks):
            chunk.close()
        self.name = detector.name
        self.has_landmarks = detector.has_landmarks
        self.fingerprint = detector.fingerprint
        self.licence = detector.licence
        self.misses = 0
        """How many images were in no chunk."""

    def close(self) -> None:
        for chunk in self._chunks:
            chunk.close()

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        detections = [self._cached(frame) for frame in frames]
        missing = [k for k, cached in enumerate(detections) if cached is None]
        if missing:
            self.misses += len(missing)
            fresh = self._detector.detect([frames[k] for k in missing])
            for k, of_frame in zip(missing, fresh, strict=True):
                detections[k] = of_frame
        return [of_frame for of_frame in detections if of_frame is not None]

    def _cached(self, frame: Image) -> Detections | None:
        key = _hash(frame)
        for k, chunk in enumerate(self._chunks):
            row = chunk.execute("SELECT detections FROM image WHERE hash = ?", (key,)).fetchone()
            if row is not None:
                # The next image is probably in the same chunk.
                self._chunks.insert(0, self._chunks.pop(k))
                return _unpack(row[0])
        return None


def _is_made_by(detector: Detector, chunk: sqlite3.Connection) -> bool:
    try:
        rows = chunk.execute("SELECT fingerprint, name FROM detector").fetchall()
    except sqlite3.DatabaseError:  # an earlier version wrote it, or it is not a database
        return False
    return rows == [(detector.fingerprint, detector.name)]


def _hash(image: Image) -> bytes:
    hasher = hashlib.sha256(repr(image.shape).encode())
    hasher.update(np.ascontiguousarray(image).data)
    return hasher.digest()


def _pack(detections: Detections) -> bytes:
    boxes = np.asarray(detections.boxes, np.float32).tobytes()
    scores = np.asarray(detections.scores, np.float32).tobytes()
    landmarks = None
    if detections.landmarks is not None:
        landmarks = np.asarray(detections.landmarks, np.float32).tobytes()
    packed: bytes = msgpack.packb((boxes, scores, landmarks))
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
