"""The sample clips, as `make demo` runs them: who is enrolled is found, who is not is unknown."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from fasr_video.case import document
from fasr_video.case.case import Case
from fasr_video.configs import settings as configs
from fasr_video.pipeline.run import run
from tests.support.paths import SAMPLES

ENROLLED = {photo.stem for photo in (SAMPLES / "mugshots").iterdir()}
TRUTH = json.loads((SAMPLES / "ground_truth.json").read_text())
CLIPS = sorted(path.name for path in SAMPLES.glob("*.mp4"))


@pytest.fixture(scope="module", params=CLIPS)
def clip(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tracks_by_person(
    clip: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """By person: the usable tracks that show them."""
    out = tmp_path_factory.mktemp("samples") / "case"
    run([SAMPLES / clip], out, configs.load("cpu"), SAMPLES / "mugshots")
    with Case.open(out, read_only=True) as case:
        tracks = [asdict(t) for t in document.tracks(case) if t.answer is not None]
    people: dict[str, list[dict[str, Any]]] = {}
    for track in tracks:
        people.setdefault(shown_person(clip, track), []).append(track)
    return people


def shown_person(clip: str, track: dict[str, Any]) -> str:
    """Whose face the track's own picture shows: the least covered one around its middle."""
    x1, y1, x2, y2 = track["shown"]["box"]
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    faces = TRUTH[clip]["frames"][str(track["shown"]["frame"])]
    inside = {
        name: face["occluded"]
        for name, face in faces.items()
        if face["box"][0] < x < face["box"][2] and face["box"][1] < y < face["box"][3]
    }
    return min(inside, key=lambda name: inside[name]) if inside else "nobody"


@pytest.mark.slow
def test_everybody_in_the_clip_has_a_track_and_nothing_else_has(
    clip: str, tracks_by_person: dict[str, list[dict[str, Any]]]
) -> None:
    assert tracks_by_person.keys() == set(TRUTH[clip]["people"])


def test_enrolled_people_are_ranked_first_and_others_are_unknown(
    tracks_by_person: dict[str, list[dict[str, Any]]],
) -> None:
    leads = []
    for person, tracks in tracks_by_person.items():
        for track in tracks:
            answer = track["answer"]
            if person in ENROLLED:
                assert answer["joined"][0]["subject"] == person
                leads.append(answer["verdict"] == "candidates")
            else:
                assert answer["verdict"] == "unknown"
    assert sum(leads) >= len(leads) - 1, "one of these faces is too small to be told from strangers"


def test_some_people_are_not_enrolled_and_some_enrolled_people_do_not_appear() -> None:
    walking = {person for clip in CLIPS for person in TRUTH[clip]["people"]}
    assert len(walking | ENROLLED) >= 6 and walking - ENROLLED and ENROLLED - walking


def test_faces_are_as_small_as_in_footage() -> None:
    sides = [
        face["box"][3] - face["box"][1]
        for clip in CLIPS
        for faces in TRUTH[clip]["frames"].values()
        for face in faces.values()
        if face["occluded"] == 0
    ]
    assert sorted(sides)[len(sides) // 20] > 14 and sorted(sides)[-len(sides) // 20] < 60
