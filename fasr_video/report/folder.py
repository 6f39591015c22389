"""The report as a folder for other tools: pictures as PNG, named by track, with metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fasr_video.case.entries import TrackEntry
from fasr_video.provenance import with_note
from fasr_video.report.pictures import TrackPictures
from fasr_video.report.words import BANNER, NOTICE

README = f"""fasr-video: a case, for import elsewhere

{NOTICE}

tracks.csv      one line per track: source with SHA-256, times, quality, the candidate above the
                threshold if there is one
report.json     the full case, schema fasr-video/report/1; docs/report.md of fasr-video names its
                fields
SHA256SUMS      hashes of all files here; check them with: sha256sum -c SHA256SUMS
pictures/       PNG files, named by track (column `name` of tracks.csv):
  T1_lr0_native.png        the best face: the recording's own pixels, not resampled
  T1_lr0_canonical.png     the same face, resampled to the canonical frame (128x128)
  T1_aux01_native.png      auxiliary faces in order of time: the recording's own pixels
  T1_bicubic.png           classical enhancement: bicubic interpolation of the best face
  T1_average.png           classical enhancement: mean of all kept faces, aligned
  T1_SYNTHETIC_mean.png    reconstruction: the mean of its samples
  T1_SYNTHETIC_sample1.png reconstruction: one file for each sample
  T1_SYNTHETIC_spread.png  where the samples disagree: black means not at all

Files with SYNTHETIC in their names. {BANNER}.
A network drew them. Each PNG file says how it was made and where it comes from, in its text field
`fasr-video`.

Photographs of candidates are not included, and tracks.csv does not name people below the threshold.
In report.json, a candidate whose `passes` is false is below the threshold: for
information, no lead.
"""


def picture_files(track: TrackEntry, pictures: TrackPictures) -> Iterator[tuple[str, bytes]]:
    """Yield the path in the folder and the bytes of each picture of a track."""
    natives = {}
    for face, picture in pictures.natives.items():
        data = with_note(picture.data, pictures.metadata[face], pictures.what)
        natives[face] = replace(picture, data=data)
    auxiliaries = {
        f"aux{n:02d}_native": natives[a.face] for n, a in enumerate(track.auxiliaries, 1)
    }
    samples = {f"SYNTHETIC_sample{n}": sample for n, sample in enumerate(pictures.samples, 1)}
    by_name = {
        "lr0_native": natives.get(track.shown.face) if track.shown else None,
        "lr0_canonical": pictures.lr0,
        **auxiliaries,
        "bicubic": pictures.bicubic,
        "average": pictures.average,
        "SYNTHETIC_mean": pictures.reconstruction,
        **samples,
        "SYNTHETIC_spread": pictures.spread,
    }
    for name, exported in by_name.items():
        if exported is not None:
            yield f"pictures/{track.name}_{name}.png", exported.data
