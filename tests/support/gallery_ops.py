"""Random changes of a gallery, and its expected contents, for the test and benchmark of kills.

    python tests/support/gallery_ops.py GALLERY SEED DONE

Changes GALLERY for ever, and writes a line to DONE after each change.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import EnrolledPhoto, Removal
from fasr_video.recognition.combiner import weighted_mean
from fasr_video.types import AlignedFace

LENGTH = 32
PEOPLE = 40


@dataclass
class Model:
    """The expected contents of the gallery: subject → its photographs in the order of adding."""

    people: dict[str, dict[str, EnrolledPhoto]] = field(default_factory=dict)
    operations: int = 0

    def apply(self, change: Change) -> None:
        self.operations += len(change.photos) + len(change.gone)
        for subject, random_photo in change.photos:
            self.people.setdefault(subject, {})[random_photo.sha256] = random_photo
        for sha256 in change.gone:
            subject = next(s for s, photos in self.people.items() if sha256 in photos)
            del self.people[subject][sha256]
            if not self.people[subject]:
                del self.people[subject]

    def vectors(self) -> set[tuple[str, str, bytes]]:
        """Return (subject, kind or photograph, bytes of the vector) for each template."""
        rows = set()
        for subject, photos in self.people.items():
            rows |= {(subject, sha256, p.feature.tobytes()) for sha256, p in photos.items()}
            if len(photos) > 1:
                features = torch.from_numpy(np.stack([p.feature for p in photos.values()]))
                pooled = weighted_mean(features, torch.tensor([p.norm for p in photos.values()]))
                rows.add((subject, "pooled", pooled.numpy().tobytes()))
        return rows


@dataclass(frozen=True)
class Change:
    """One transaction that adds or removes photographs."""

    photos: tuple[tuple[str, EnrolledPhoto], ...] = ()
    gone: tuple[str, ...] = ()

    def apply(self, gallery: Gallery) -> None:
        if self.gone:
            removal = gallery.remove(self.gone, "random")
            assert removal.occurrences == 0, removal
            return
        with gallery.transaction():
            for subject, random_photo in self.photos:
                gallery.add(subject, random_photo)


def random_photo(
    name: str, rng: np.random.Generator, length: int = LENGTH, picture: bool = False
) -> EnrolledPhoto:
    feature = rng.standard_normal(length).astype(np.float32)
    feature /= np.linalg.norm(feature)
    face = AlignedFace(rng.integers(0, 256, (128, 128, 3), np.uint8), None) if picture else None
    digest = hashlib.sha256(name.encode()).hexdigest()
    return EnrolledPhoto(digest, f"{name}.png", feature, float(rng.uniform(1, 30)), 40.0, 0.9, face)


def random_changes(seed: int, largest: int = 60) -> Iterator[Change]:
    """Yield random changes that depend on the seed only."""
    rng = np.random.default_rng(seed)
    enrolled: list[str] = []
    step = 0
    while True:
        step += 1
        count = int(rng.integers(1, largest))
        if len(enrolled) > 10 * PEOPLE or (enrolled and rng.random() < 0.4):
            rows = sorted(
                rng.choice(len(enrolled), min(count, len(enrolled)), replace=False).tolist(),
                reverse=True,
            )
            yield Change(gone=tuple(enrolled.pop(row) for row in rows))
        else:
            names = [f"{seed}-{step}-{i}" for i in range(count)]
            added = tuple(
                (f"p{rng.integers(PEOPLE)}", random_photo(n, rng, picture=rng.random() < 0.02))
                for n in names
            )
            enrolled += [p.sha256 for _, p in added]
            yield Change(photos=added)


def remove_subject(gallery: Gallery, subject: str) -> Removal:
    """Remove a subject with all photographs."""
    return gallery.remove(
        [i.sha256 for i in gallery.select_images((subject,), ())], "test", (subject,)
    )


def stored_vectors(gallery: Gallery) -> set[tuple[str, str, bytes]]:
    """Return (subject, kind or photograph, bytes of the vector) of each stored template."""
    vectors = gallery.vectors()
    known = gallery.templates(vectors.ids)
    assert len(known) == len(vectors.ids)
    rows = zip(vectors.ids.tolist(), vectors.features, strict=True)
    return {(known[i].subject, known[i].image or "pooled", v.tobytes()) for i, v in rows}


def disagreements(gallery: Gallery, model: Model) -> int:
    """Return the templates in which database, index and model differ."""
    from fasr_video.gallery import index

    expected, stored = model.vectors(), stored_vectors(gallery)
    opened = Index.open(gallery)
    ids, features = index.read_vectors(gallery.folder)
    vectors = gallery.vectors()
    same = np.array_equal(ids, vectors.ids) and np.array_equal(features, vectors.features)
    return len(expected ^ stored) + (0 if same and len(opened) == len(expected) else len(expected))


def main() -> None:
    folder, seed, done = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    with Gallery.open(folder) as gallery, done.open("a") as lines:
        for change in random_changes(seed):
            change.apply(gallery)
            lines.write("done\n")
            lines.flush()


if __name__ == "__main__":
    main()
