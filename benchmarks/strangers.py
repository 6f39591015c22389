"""Office clips of five people, each left out of the gallery in turn: who is found, and is a
stranger a lead?

    python benchmarks/strangers.py [--data ../shared/data/clips] [--set SETTING=VALUE]

Each person is enrolled with the best face of their first clip, and searched for in all the others.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from footage import DATA, find_data
from results import Table, command_line

from fasr_video.case.case import Case
from fasr_video.case.results import features
from fasr_video.configs import settings
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.gallery.search import Answer, Mode, Searcher, SearchOptions, TrackQuery, Verdict
from fasr_video.pipeline.run import open_models, run
from fasr_video.weights.manifest import bundled

NOBODY = "nobody known"
LONG = 10  # sightings: shorter tracks are glimpses, often of no face
FPIR = 0.01


@dataclass(frozen=True)
class Track:
    clip: str
    person: str
    """NOBODY where it is not the signer's."""
    sightings: int
    query: TrackQuery


def read_tracks(
    clips: Sequence[Path], people: dict[str, str], overrides: Sequence[str]
) -> list[Track]:
    """Run the footage into a temporary case and return its tracks that can be searched for."""
    run_settings = settings.load("cpu", ["restore.method=none", *overrides])
    tracks = []
    with tempfile.TemporaryDirectory() as folder:
        out, _ = run(
            list(clips), Path(folder) / "case", run_settings, models=open_models(run_settings)
        )
        sql = """
            SELECT track.id, source.path, encoding.side,
                avg((x1 + x2) / 2) AS centre, count(*) AS sightings
            FROM track JOIN encoding ON encoding.track = track.id
            JOIN source ON source.id = track.source
            JOIN face ON face.track = track.id GROUP BY track.id"""
        with Case.open(out) as case:
            for row in case.db.execute(sql).fetchall():
                clip = Path(row["path"]).name
                signer = 640 / 3 <= row["centre"] <= 2 * 640 / 3
                query = TrackQuery(features(case, row["id"]), row["side"])
                tracks.append(
                    Track(clip, people[clip] if signer else NOBODY, row["sightings"], query)
                )
    return tracks


def enrolled_clips(people: dict[str, str]) -> dict[str, str]:
    """Return the clip that each person is enrolled with: the first one by name."""
    first: dict[str, str] = {}
    for clip, person in sorted(people.items()):
        first.setdefault(person, clip)
    return first


def search(
    tracks: Sequence[Track],
    known: dict[str, Feature],
    calibration: Calibration | None,
    folder: Path,
) -> list[Answer]:
    """Return the answers of a gallery of these people."""
    with Gallery.create(folder, "builtin", "0" * 64, len(next(iter(known.values())))) as gallery:
        for person, feature in known.items():
            photo = EnrolledPhoto(f"{person:0>64}"[-64:], person, feature, 1.0, 60.0, 0.9, None)
            gallery.add(person, photo)
        options = SearchOptions(Mode.INVESTIGATION, 10, FPIR)
        kinds = (Kind.BEST, Kind.POOLED)
        searcher = Searcher(gallery, Index.open(gallery), options, calibration, calibrated=kinds)
        return searcher.answers([track.query for track in tracks])


def table_row(
    left_out: str, tracks: Sequence[Track], answers: Sequence[Answer], known: dict[str, Feature]
) -> list[str]:
    """Return the results for the tracks of enrolled people, and for those of strangers."""
    pairs = list(zip(tracks, answers, strict=True))
    mates = [(t, a) for t, a in pairs if t.person in known]
    strangers = [a for t, a in pairs if t.person not in known]
    first = [a.joined[0].subject == t.person for t, a in mates]
    lead = [
        right and a.verdict is Verdict.CANDIDATES
        for right, (_, a) in zip(first, mates, strict=True)
    ]
    named = [a for a in strangers if a.verdict is Verdict.CANDIDATES]
    cosines = [a.joined[0].cosines[Kind.POOLED] for a in strangers]
    ratios = [a.joined[0].ratio for a in strangers if a.joined[0].ratio is not None]
    return [
        left_out,
        str(len(mates)),
        str(sum(first)),
        str(sum(lead)),
        str(len(strangers)),
        str(len(named)),
        f"{max(cosines):.3f}" if cosines else "none",
        f"{max(ratios):.2f}" if ratios else "none",
    ]


def extreme_cosines(tracks: Sequence[Track]) -> tuple[float, float]:
    """Return the lowest cosine of two tracks of one person, and the highest of two people."""
    signers = [t for t in tracks if t.person != NOBODY]
    same: list[float] = []
    different: list[float] = []
    for a, b in combinations(signers, 2):
        cosine = float(a.query.features[Kind.POOLED] @ b.query.features[Kind.POOLED])
        (same if a.person == b.person else different).append(cosine)
    return min(same), max(different)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA / "clips")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="SETTING=VALUE"
    )
    args = parser.parse_args()
    people = json.loads(find_data(args.data / "asl_people.json").read_text())
    torch.set_num_threads(os.cpu_count() or 1)
    tracks = read_tracks([args.data / clip for clip in sorted(people)], people, args.overrides)
    enrolled_by = enrolled_clips(people)
    photographs: dict[str, Feature] = {}
    for person, clip in enrolled_by.items():
        own = [t for t in tracks if t.clip == clip and t.person == person]
        photographs[person] = max(own, key=lambda t: t.sightings).query.features[Kind.BEST]
    searched = [t for t in tracks if t.clip not in enrolled_by.values()]
    builtin = not any("embedder" in o for o in args.overrides)
    calibration = Calibration.load(bundled("calibration.json")) if builtin else None
    columns = ["left out", "tracks of enrolled", "first", "first and a lead"]
    columns += ["tracks of strangers", "a lead", "highest similarity", "highest log10 LR"]
    table = Table(
        "strangers", "Office clips, each person left out in turn", command_line(), columns
    )
    with tempfile.TemporaryDirectory() as folder:
        for left_out in ("nobody", *sorted(photographs)):
            known = {person: f for person, f in photographs.items() if person != left_out}
            answers = search(searched, known, calibration, Path(folder) / left_out)
            table.add_row(table_row(left_out, searched, answers, known))
    long = [track for track in tracks if track.sightings >= LONG]
    least, most = extreme_cosines(long)
    least_with_short, most_with_short = extreme_cosines(tracks)
    short = [track for track in tracks if track.sightings < LONG and track.person != NOBODY]
    table.add_note(
        f"Pooled faces of tracks with {LONG} sightings or more: the least alike of one person have "
        f"a cosine of **{least:.3f}**, the most alike of two people **{most:.3f}**: a gap of "
        f"{least - most:+.3f}. With shorter tracks of signers too ({len(short)}): "
        f"{least_with_short:.3f} and {most_with_short:.3f}, "
        f"{least_with_short - most_with_short:+.3f}."
    )
    sides = [t.query.side for t in tracks if t.person != NOBODY]
    table.add_note(
        f"{len(people)} clips, {len(photographs)} people, faces of {min(sides)}-{max(sides)} px. A "
        "person is enrolled by the best face of one clip and searched for in the others, at FPIR "
        f"{FPIR:g}. Strangers are the tracks of the person left out, and every track that is not "
        "the signer's, in the middle of the picture."
    )
    table.write()


if __name__ == "__main__":
    main()
