"""A report as a folder that other tools can take in: pictures as PNG, named by track, with what each of them is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fasr_video.provenance import with_note
from fasr_video.report.pictures import TrackPictures
from fasr_video.report.words import BANNER, NOTICE

README = f"""fasr-video: a case, for import elsewhere

{NOTICE}

tracks.csv      one line a track: source and its SHA-256, times, quality, the candidate if one passes the threshold
report.json     the whole case; its fields are in docs/report.md of fasr-video, schema fasr-video/report/1
SHA256SUMS      of every file here; check them with: sha256sum -c SHA256SUMS
pictures/       PNG, by the names of the tracks (column `name` of tracks.csv):
  T1_lr0_native.png        the best face: the recording's own pixels, not resampled
  T1_lr0_canonical.png     the same face brought into the canonical frame (128x128)
  T1_aux01_native.png      auxiliary faces in the order of time: the recording's own pixels
  T1_bicubic.png           classical enhancement: bicubic interpolation of the best face
  T1_average.png           classical enhancement: mean of all kept faces, aligned
  T1_SYNTHETIC_mean.png    reconstruction: mean of its samples
  T1_SYNTHETIC_sample1.png reconstruction: one sample each
  T1_SYNTHETIC_spread.png  where the samples disagree, black not at all

Files with SYNTHETIC in their names. {BANNER}.
They were drawn by a network. How, and where each of the other pictures is from, stands in the files themselves (PNG
text `fasr-video`).

Photographs of candidates are not in here; neither are names of people who do not pass the threshold in tracks.csv.
In report.json a candidate whose `passes` is false is below the threshold: a list to look through, no lead.
"""


def files_of(track: dict[str, Any], shown: TrackPictures) -> Iterator[tuple[str, bytes]]:
    """Each picture of a track with its name in the folder."""
    natives = {
        face: replace(picture, data=with_note(picture.data, shown.facts[face], shown.what))
        for face, picture in shown.kept.items()
    }
    auxiliaries = {
        f"aux{n:02d}_native": natives[a["face"]] for n, a in enumerate(track["auxiliaries"], 1)
    }
    samples = {f"SYNTHETIC_sample{n}": sample for n, sample in enumerate(shown.samples, 1)}
    found = {
        "lr0_native": natives.get(track["shown"]["face"]) if track["shown"] else None,
        "lr0_canonical": shown.lr0,
        **auxiliaries,
        "bicubic": shown.bicubic,
        "average": shown.average,
        "SYNTHETIC_mean": shown.reconstruction,
        **samples,
        "SYNTHETIC_spread": shown.spread,
    }
    for name, picture in found.items():
        if picture is not None:
            yield f"pictures/{track['name']}_{name}.png", picture.data
