"""A run's folder with its pictures and features so far, from which an interrupted run resumes.

RUN/
  eval.sqlite     pictures (with their warnings) and features by the hash of their inputs
  trial.json      who was searched for with what: protocol, seed, hashes, what was left out
  report.md, tables/, plots/
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image as Pictures
from torch import Tensor

from fasr_video.errors import IntegrityError, UsageError
from fasr_video.evaluation.protocols import Trial
from fasr_video.files import atomic_write
from fasr_video.pictures import UNREADABLE, decoded
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.sqlite import READ_ERRORS, connect_to_write
from fasr_video.types import Image

DATABASE, TRIAL = "eval.sqlite", "trial.json"
SCHEMA = """
    CREATE TABLE IF NOT EXISTS drawn (key TEXT PRIMARY KEY, system TEXT, item TEXT,
        picture BLOB NOT NULL, warnings TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS seen (embedder TEXT, picture TEXT, feature BLOB NOT NULL,
        PRIMARY KEY (embedder, picture)) WITHOUT ROWID;
"""
BATCH = 64
# Parts of the provenance that do not change the trial: unusable files.
BESIDE = ("skipped", "left_out")


class Store:
    """Pictures and features that already exist."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._db = connect_to_write(folder / DATABASE)
        self._db.executescript(SCHEMA)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._db.close()

    def bind(self, trial: Trial) -> None:
        """Write trial.json; raise UsageError if the folder is for another trial."""
        file, provenance = self.folder / TRIAL, trial.provenance()
        if file.exists():
            stored = self._stored_provenance(file)
            differing = ", ".join(
                k for k in provenance if k not in BESIDE and stored.get(k) != provenance[k]
            )
            if differing:
                reason = f"it holds another trial ({differing} differ)"
                raise UsageError(
                    self.folder,
                    reason,
                    "give the same photographs, protocol and seed, or another --out",
                )
        text = json.dumps({"provenance": provenance, **as_listing(trial)}, indent=1)
        atomic_write(file, lambda path: path.write_text(text))

    def _stored_provenance(self, file: Path) -> Mapping[str, object]:
        """Return the provenance of the trial that the folder is for."""
        try:
            return dict(json.loads(file.read_text(encoding="utf-8"))["provenance"])
        except READ_ERRORS as error:
            remedy = (
                f"remove {TRIAL} if the photographs and options are the same as before, "
                "or give another --out"
            )
            raise IntegrityError(file, f"it is damaged ({type(error).__name__})", remedy) from error

    def stored_picture(self, key: str) -> tuple[Image, tuple[str, ...]] | None:
        """Return a stored picture and its warnings; None if there is none."""
        row = self._db.execute(
            "SELECT picture, warnings FROM drawn WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        remedy = "give another --out"
        try:
            picture = decoded(row[0])
        except UNREADABLE as error:
            raise IntegrityError(
                self.folder / DATABASE, "a picture in it is damaged", remedy
            ) from error
        try:
            return picture, tuple(str(line) for line in json.loads(row[1]))
        except READ_ERRORS as error:
            raise IntegrityError(
                self.folder / DATABASE, "a warning in it is damaged", remedy
            ) from error

    def store_picture(
        self, key: str, system: str, item: str, picture: Image, *, warnings: Sequence[str] = ()
    ) -> None:
        file = io.BytesIO()
        Pictures.fromarray(picture).save(file, "PNG")
        row = (key, system, item, file.getvalue(), json.dumps(list(warnings)))
        self._db.execute("INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?, ?)", row)

    def features(self, embedder: Embedder, pictures: Mapping[str, Image]) -> dict[str, Tensor]:
        """Return the embedder's features of 128×128 pictures by their hash, not normalised."""
        features = {digest: self._stored_feature(embedder.sha256, digest) for digest in pictures}
        missing = [digest for digest, feature in features.items() if feature is None]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            unit, norms = embedder.embed(as_tensor([pictures[d] for d in batch]))
            self._db.execute("BEGIN")
            for digest, feature in zip(batch, unit * norms[:, None], strict=True):
                features[digest] = feature
                blob = feature.numpy().astype(np.float32).tobytes()
                self._db.execute(
                    "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (embedder.sha256, digest, blob)
                )
            self._db.execute("COMMIT")
        return {digest: feature for digest, feature in features.items() if feature is not None}

    def _stored_feature(self, embedder: str, digest: str) -> Tensor | None:
        query = "SELECT feature FROM seen WHERE embedder = ? AND picture = ?"
        row = self._db.execute(query, (embedder, digest)).fetchone()
        return None if row is None else torch.from_numpy(np.frombuffer(row[0], np.float32).copy())


def as_listing(trial: Trial) -> dict[str, object]:
    """Return every search of the trial, and what was left out, by names."""
    return {
        "gallery": [{"person": p.person, "photo": p.path} for p in trial.gallery],
        "items": [
            {
                "person": i.person,
                "probe": i.name,
                "auxiliaries": [a.path for a in i.auxiliaries],
                "seed": i.seed,
            }
            for i in trial.items
        ],
        "skipped": lines(trial.skipped),
        "left_out": lines(trial.left_out),
    }


def lines(values: Sequence[object]) -> list[str]:
    """Return the values as text."""
    return [str(v) for v in values]
