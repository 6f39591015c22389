"""Tracks that are no faces: stored with a reason; not searched, reconstructed or linked."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from fasr_video import cli
from fasr_video.case import document
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide, standing_decisions
from fasr_video.case.entries import track_state
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.configs.settings import Settings
from fasr_video.errors import CaseError
from fasr_video.pipeline.evidence import Evidence, uses_bundled_models
from fasr_video.pipeline.run import Progress, Stage, run
from fasr_video.report.write import write_report
from fasr_video.review.cards import Filter, cards
from fasr_video.weights.manifest import bundled
from tests.support.paths import PORTRAITS

YELLOW, DARK, WALL = (230, 200, 60), (30, 30, 30), (200, 200, 210)
FRAMES = 6
# A sign is less of a face than a person whatever the bundled weights; how much less is not tested.
NORMS = ("select.sure_score=1", "select.min_norm=6.5", "select.min_norm_large=6.5")
LIMITS = (*NORMS, "track.start_score=0.3", "track.high_score=0.3")
SMALL = (
    *LIMITS,
    "select.min_score=0.3",
    "select.auxiliaries=2",
    "case.segment_frames=2",
    "detect.batch=1",
)
QUICK = (*SMALL, "restore.method=bicubic", "restore.samples=1")


def settings(*more: str) -> Settings:
    return configs.load("cpu", (*QUICK, *more))


@pytest.fixture(scope="module")
def footage_with_sign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person, and beside them a yellow oval with two holes that the detector takes for a face."""
    folder = tmp_path_factory.mktemp("footage") / "frames"
    folder.mkdir()
    with PilImage.open(PORTRAITS / "mugshots" / "grace_hopper.jpg") as photo:
        person = np.asarray(photo.convert("RGB").resize((160, 160)))
    for frame in range(FRAMES):
        picture = np.full((240, 480, 3), WALL, np.uint8)
        x, y = 360 + frame % 2, 120
        cv2.ellipse(picture, (x, y), (30, 40), 0, 0, 360, YELLOW, -1, cv2.LINE_AA)
        for side in (-1, 1):
            cv2.ellipse(picture, (x + 13 * side, y - 6), (8, 6), 0, 0, 360, DARK, -1, cv2.LINE_AA)
        shaded = picture * np.linspace(0.7, 1.2, 480)[None, :, None]
        picture = np.clip(shaded, 0, 255).astype(np.uint8)
        picture[40:200, 30 + frame : 190 + frame] = person
        PilImage.fromarray(picture).save(folder / f"{frame:03d}.png")
    return folder


@pytest.fixture(scope="module")
def case(footage_with_sign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Searched in a gallery of one person."""
    out, people = (tmp_path_factory.mktemp("signs") / name for name in ("case", "people"))
    people.mkdir()
    shutil.copy(PORTRAITS / "mugshots" / "grace_hopper.jpg", people)
    run([footage_with_sign], out, settings(), people)
    return out


def tracks(folder: Path) -> list[dict[str, Any]]:
    with Case.open(folder, read_only=True) as case:
        return [asdict(track) for track in document.tracks(case)]


def sign_and_person(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tracks on the right and on the left of the picture."""
    left, right = sorted(tracks(folder), key=lambda t: t["shown"]["box"][0])
    return right, left


def test_a_sign_is_stored_with_its_reason_and_not_reconstructed(case: Path) -> None:
    sign, person = sign_and_person(case)
    assert (sign["verdict"], sign["verdict_reason"]) == ("insufficient", "not_a_face")
    assert sign["evidence"]["norm"] < sign["evidence"]["min_norm"] == 6.5
    assert sign["shown"]["reason"] == "lr0" and (case / sign["shown"]["native"]).is_file()
    assert sign["restoration"] is None and sign["answer"] is None
    with Case.open(case, read_only=True) as opened:
        (row,) = (t for t in document.tracks(opened) if t.id == sign["id"])
    assert track_state(row) == "not a face"
    assert (person["verdict"], person["verdict_reason"]) == ("usable", None)
    assert person["evidence"]["norm"] >= 6.5
    assert person["restoration"] is not None and person["answer"] is not None
    with Case.open(case) as opened:
        assert document.links(opened) == []


def test_the_evidence_is_the_mean_score_of_all_sightings_and_logged(
    case: Path, tmp_path: Path
) -> None:
    sign, _ = sign_and_person(case)
    copy = Path(shutil.copytree(case, tmp_path / "case"))
    with Case.open(copy) as opened:
        scores = [f["score"] for f in document.faces(opened) if f["track"] == int(sign["name"][1:])]
        assert len(scores) == FRAMES
        assert sign["evidence"]["mean_score"] == pytest.approx(
            np.mean(np.array(scores, float)), abs=1e-4
        )
        assert not [p for c in verify(opened) for p in c.problems]
        opened.db.execute("UPDATE track SET norm = 12 WHERE id = ?", (sign["id"],))
        problems = [p for c in verify(opened) for p in c.problems]
    assert any("faces or tracks" in p for p in problems)


def test_report_export_and_show_explain_it(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, person = sign_and_person(case)
    written = write_report(case, tmp_path / "report", ("html", "json"))
    page = " ".join((written / f"{sign['name']}.html").read_text(encoding="utf-8").split())
    eye_px = sign["shown"]["quality"]["eye_px"]
    norm = (
        f"norm {sign['evidence']['norm']:.2f}, less than 6.5, at {eye_px:.0f} px between the eyes"
    )
    assert "<strong>Not a face</strong>" in page and norm in page
    assert "No search was made: this is not a face." in page and "LR0: the best face" not in page
    index = " ".join((written / "index.html").read_text(encoding="utf-8").split())
    assert "<dt>not a face</dt><dd>1</dd>" in index
    assert "<dt>insufficient quality</dt><dd>0</dd>" in index
    states = {
        t["name"]: t["state"] for t in json.loads((written / "report.json").read_text())["tracks"]
    }
    assert states[sign["name"]] == "not a face" != states[person["name"]]
    with Case.open(case) as opened:
        line = next(
            x for x in document.as_csv(opened, "tracks").splitlines() if ",not_a_face," in x
        )
    assert ",not a face," in line and f",{sign['evidence']['norm']}," in line
    monkeypatch.setattr(sys, "argv", ["fasr-video", "show", str(case)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main()
    assert f"not a face: score {sign['evidence']['mean_score']:.3f}" in capsys.readouterr().out


def test_reviewers_see_it_and_may_decide_otherwise(case: Path, tmp_path: Path) -> None:
    sign, _ = sign_and_person(case)
    copy = Path(shutil.copytree(case, tmp_path / "case"))
    with Case.open(copy) as opened:
        names = [c.name for c in cards(opened) if Filter.read({"state": "not a face"}).fits(c)]
        assert names == [sign["name"]]
        decide(opened, sign["id"], "rejected", "it is a face, in a mask", by="Ann")
        assert [d.by for d in standing_decisions(opened, sign["id"])] == ["Ann"]


def test_the_review_page_explains_it(case: Path) -> None:
    pytest.importorskip("flask")
    from fasr_video.review.app import make_app

    sign, _ = sign_and_person(case)
    with Case.open(case, read_only=True) as opened:
        number = opened.meta("case_id")
    browser = make_app({number: case}, "token", 1).test_client()
    browser.get("/?token=token", base_url="http://127.0.0.1:1")
    answer = browser.get(f"/case/{number}/track/{sign['name']}", base_url="http://127.0.0.1:1")
    text = " ".join(answer.text.split())
    assert answer.status_code == 200 and "the embedder sees no face in it" in text


def test_a_resumed_run_decides_by_the_same_evidence(
    footage_with_sign: Path, case: Path, tmp_path: Path
) -> None:
    without = settings("restore.method=none")

    def stop(event: Progress | Stage) -> None:
        if isinstance(event, Progress) and event.frames == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([footage_with_sign], tmp_path / "case", without, listen=stop)
    with Case.open(tmp_path / "case") as opened:
        ((own,),) = opened.db.execute(
            "SELECT json_extract(detector, '$.embedder') FROM source"
        ).fetchall()
        other = "UPDATE source SET detector = json_set(detector, '$.embedder', ?)"
        opened.db.execute(other, ("f" * 64,))
    with pytest.raises(CaseError, match="begun with another embedder"):
        run([footage_with_sign], tmp_path / "case", without)
    with Case.open(tmp_path / "case") as opened:
        opened.db.execute(other, (own,))
    run([footage_with_sign], tmp_path / "case", without)
    keys = ("verdict", "verdict_reason", "evidence", "sightings", "shown", "auxiliaries")
    assert [[t[k] for k in keys] for t in tracks(tmp_path / "case")] == [
        [t[k] for k in keys] for t in tracks(case)
    ]


def test_with_other_weights_nothing_is_decided(footage_with_sign: Path, tmp_path: Path) -> None:
    weights = shutil.copy(bundled("embedder.safetensors"), tmp_path / "own.safetensors")
    run(
        [footage_with_sign],
        tmp_path / "case",
        settings(f"recognise.weights={weights}", "restore.method=none"),
    )
    sign, _ = sign_and_person(tmp_path / "case")
    assert (sign["verdict"], sign["evidence"]) == ("usable", None)


@pytest.mark.parametrize(
    "other",
    [
        "recognise.embedder=dlib",
        "recognise.embedder=adaface",
        "recognise.embedder=insightface",
        "detect.backend=haar",
        "detect.weights=detector.safetensors",
    ],
)
def test_only_the_bundled_models_decide(other: str) -> None:
    assert uses_bundled_models(configs.load("cpu"))
    assert not uses_bundled_models(configs.load("cpu", [other]))


@pytest.mark.parametrize(
    ("score", "norm", "eye_px", "is_face"),
    [
        (0.59, 4.9, 8.0, False),
        (0.60, 0.0, 8.0, True),
        (0.30, 5.0, 8.0, True),
        (0.59, 8.9, 19.9, True),
        (0.59, 8.9, 20.0, False),
        (0.60, 8.9, 66.0, True),
        (0.30, 9.0, 66.0, True),
    ],
)
def test_a_track_is_no_face_only_if_score_and_norm_are_low(
    score: float, norm: float, eye_px: float, is_face: bool
) -> None:
    chosen = ("select.sure_score=0.6", "select.min_norm=5", "select.min_norm_large=9")
    limits = configs.load("cpu", chosen).select
    assert Evidence(score, norm, eye_px).is_face(limits) is is_face


def test_evidence_has_the_limit_for_a_face_of_its_size(case: Path, tmp_path: Path) -> None:
    sign, _ = sign_and_person(case)
    assert sign["evidence"]["eye_px"] == sign["shown"]["quality"]["eye_px"] >= 20
    copy = Path(shutil.copytree(case, tmp_path / "case"))
    with Case.open(copy) as opened:
        limit = (
            "UPDATE meta SET value = json_set(value, '$.select.min_norm_large', 7.5) WHERE key = "
            "'settings'"
        )
        opened.db.execute(limit)
        (track,) = (t for t in document.tracks(opened) if t.id == sign["id"])
    assert track.evidence is not None and track.evidence.min_norm == 7.5
