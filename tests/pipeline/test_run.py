"""Running footage into a case: the results, and that nothing is lost or doubled by any stop."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from fasr_video.case import document as export
from fasr_video.case import store as case_module
from fasr_video.case.case import Case
from fasr_video.case.store import DATABASE
from fasr_video.case.verify import verify
from fasr_video.commands import screen
from fasr_video.configs import settings as configs
from fasr_video.errors import (
    CaseError,
    EnvironmentFailure,
    FasrError,
    InputError,
    MissingExtra,
    SettingsError,
)
from fasr_video.gallery.photos import OTHER_FILE
from fasr_video.pipeline import run as run_module
from fasr_video.pipeline.run import Progress, Stage, run
from fasr_video.types import Reason
from tests.support import videos
from tests.support.commands import start_command
from tests.support.paths import PORTRAITS

QUICK = ("sampling.fps=5", "case.segment_frames=5", "track.min_sightings=2")


def case_contents(folder: Path) -> dict[str, Any]:
    """Return the contents of a case, without what differs between two runs: times and durations."""
    with Case.open(folder) as case:
        document = asdict(export.as_document(case))
        faces = export.faces(case)
    for source in document["sources"]:
        del source["seconds_of_work"]
    return {k: document[k] for k in ("sources", "tracks", "links", "gallery")} | {"faces": faces}


@pytest.fixture(scope="module")
def unbroken(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "case"
    run([entrance], out, configs.load("cpu", QUICK))
    return out


def test_person_in_the_sample_is_one_usable_track(unbroken: Path) -> None:
    truth = json.loads((PORTRAITS / "ground_truth.json").read_text())["entrance.mp4"]
    seen = {int(k) for k, people in truth["frames"].items() if "grace_hopper" in people}
    tracks = [t for t in case_contents(unbroken)["tracks"] if t["verdict"] == "usable"]
    assert len(tracks) == 1
    (track,) = tracks
    assert track["first_frame"] in range(min(seen), min(seen) + 10)
    assert track["last_frame"] in range(max(seen) - 12, max(seen) + 4)
    x1, y1, x2, y2 = track["shown"]["box"]
    tx1, ty1, tx2, ty2 = truth["frames"][str(track["shown"]["frame"])]["grace_hopper"]["box"]
    assert abs((x1 + x2) / 2 - (tx1 + tx2) / 2) < 0.25 * (tx2 - tx1)
    assert abs((y1 + y2) / 2 - (ty1 + ty2) / 2) < 0.25 * (ty2 - ty1)


def test_every_face_seen_has_a_row_and_a_reason(unbroken: Path) -> None:
    faces = case_contents(unbroken)["faces"]
    assert faces
    assert all(face["reason"] in set(Reason) for face in faces)
    assert [f["id"] for f in faces] == sorted({f["id"] for f in faces})


def test_pictures_are_kept_for_chosen_faces_only_and_are_lossless(
    unbroken: Path, entrance: Path
) -> None:
    from fasr_video.media import Sampling, open_video

    document = case_contents(unbroken)
    kept = {f["native"] for f in document["faces"] if f["native"]} | {
        f["aligned"] for f in document["faces"] if f["aligned"]
    }
    restorations = [t["restoration"] for t in document["tracks"] if t["restoration"]]
    for restoration in restorations:
        names = (restoration["picture"], restoration["spread"], *restoration["samples"])
        kept |= {Path(name).stem for name in names if name is not None}
    assert {p.stem for p in (unbroken / "crops").glob("*/*")} == kept
    shown = document["tracks"][0]["shown"]
    frame = next(
        f for f in open_video(entrance).frames(Sampling()) if f.ref.index == shown["frame"]
    )
    native = np.asarray(PilImage.open(unbroken / shown["native"]))
    with Case.open(unbroken) as case:
        x, y = case.db.execute(
            "SELECT native_x, native_y FROM face WHERE id = ?", (shown["face"],)
        ).fetchone()
    height, width = native.shape[:2]
    assert np.array_equal(native, frame.image[y : y + height, x : x + width])
    assert np.asarray(PilImage.open(unbroken / shown["aligned"])).shape == (128, 128, 3)


def test_a_second_run_does_nothing(unbroken: Path, entrance: Path) -> None:
    before = case_contents(unbroken)
    _, worked = run([entrance], unbroken, configs.load("cpu", QUICK))
    assert not worked
    assert case_contents(unbroken) == before


def test_other_settings_are_refused_by_name(unbroken: Path, entrance: Path) -> None:
    with pytest.raises(CaseError, match=r"select\.auxiliaries"):
        run([entrance], unbroken, configs.load("cpu", (*QUICK, "select.auxiliaries=3")))


def test_two_files_are_one_case(entrance: Path, corridor: Path, tmp_path: Path) -> None:
    settings = configs.load("cpu", ("sampling.fps=2", "sampling.end=4", "track.min_sightings=2"))
    run([entrance, corridor], tmp_path / "case", settings)
    document = case_contents(tmp_path / "case")
    assert [Path(s["path"]).name for s in document["sources"]] == ["entrance.mp4", "corridor.mp4"]
    assert {t["name"].split("-")[0] for t in document["tracks"]} >= {"T1", "S2"}


def start_run(footage: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    overrides = [part for o in QUICK for part in ("--set", o)]
    return start_command("run", footage, "--out", out, *overrides, *more, cwd=out.parent)


def wait_for_segments(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if (out / DATABASE).exists():
            with sqlite3.connect(out / DATABASE) as db:
                if db.execute("SELECT count(*) FROM segment").fetchone()[0] >= count:
                    return
        time.sleep(0.01)
    raise AssertionError(f"ended before segment {count}: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_and_finds_the_same(
    how: signal.Signals, unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    out = tmp_path / "case"
    for segments in (1, 2):
        process = start_run(entrance, out)
        wait_for_segments(out, segments, process)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=20)
        if how is not signal.SIGKILL:
            assert process.returncode == 130
            assert "continues where it stopped" in stderr and "Traceback" not in stderr
        with Case.open(out) as case:
            assert not [p for c in verify(case) for p in c.problems]
    last = start_run(entrance, out)
    _, stderr = last.communicate(timeout=60)
    assert last.returncode == 0, stderr
    assert case_contents(out) == case_contents(unbroken)
    with Case.open(out) as case:
        events = [r["event"] for r in case.db.execute("SELECT event FROM log ORDER BY id")]
    assert (
        events.count("source added") == 1
        and events.count("source done") == 1
        and "resumed" in events
    )


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["none", "motion"])
def test_a_resumed_run_with_a_gate_equals_an_unbroken_one(
    gate: str, entrance: Path, tmp_path: Path
) -> None:
    settings = configs.load(
        "cpu", (*QUICK, "detect.every=4", f"detect.gate={gate}", "restore.method=none")
    )
    run([entrance], tmp_path / "unbroken", settings)

    def stop(event: Progress | Stage) -> None:
        if (
            isinstance(event, Progress) and event.frames == 18
        ):  # in the fourth segment, not after a whole frame
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([entrance], tmp_path / "case", settings, listen=stop)
    run([entrance], tmp_path / "case", settings)
    document = case_contents(tmp_path / "case")
    assert document == case_contents(tmp_path / "unbroken")
    (source,) = document["sources"]
    least = -(-source["frames_looked_at"] // 4)
    assert least <= source["frames_looked_at_whole"] < source["frames_looked_at"]
    assert gate == "motion" or source["frames_looked_at_whole"] == least
    with Case.open(tmp_path / "case") as case:
        assert not [p for c in verify(case) for p in c.problems]
        case.set_meta(
            "detection 1", json.dumps({"whole": source["frames_looked_at"], "skipped": 0})
        )
        (problem,) = [p for c in verify(case) for p in c.problems]
    assert problem.startswith("the counts of processed frames of")
    assert any(face["reason"] == "lr0" for face in document["faces"])


def test_the_motion_gate_is_refused_if_every_frame_is_a_whole_one(
    entrance: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"set detect\.every to 2 or more"):
        run([entrance], tmp_path / "case", configs.load("cpu", (*QUICK, "detect.gate=motion")))


@pytest.mark.slow
@pytest.mark.parametrize("short_by", [1, 2, 3])
def test_a_full_disk_stops_the_run_and_it_resumes_later(
    short_by: int, unbroken: Path, entrance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "case", configs.load("cpu", QUICK)
    connect = case_module._connect
    with Case.open(unbroken) as case:
        pages = case.db.execute("PRAGMA page_count").fetchone()[0]

    def small_disk(path: Path) -> sqlite3.Connection:
        db = connect(path)
        db.execute(
            f"PRAGMA max_page_count = {pages - short_by}"
        )  # SQLite's own "database or disk is full"
        return db

    with monkeypatch.context() as patch:
        patch.setattr(case_module, "_connect", small_disk)
        with pytest.raises(EnvironmentFailure, match="disk is full"):
            run([entrance], out, settings)
    if (out / DATABASE).exists():
        with Case.open(out) as case:
            assert not [p for c in verify(case) for p in c.problems]
        run([entrance], out, settings)
        assert case_contents(out) == case_contents(unbroken)


def test_a_case_that_was_half_created_is_created_again(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    out = tmp_path / "case"
    (out / "crops").mkdir(parents=True)
    (out / "settings.yaml").write_text("half a fi")
    (out / f"{DATABASE}.new").write_bytes(b"SQLite format 3\0 and no more")
    run([entrance], out, configs.load("cpu", QUICK))
    assert case_contents(out) == case_contents(unbroken)


@pytest.mark.slow
def test_two_runs_at_once_on_one_case_are_refused(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    out = tmp_path / "case"
    first = start_run(entrance, out)
    wait_for_segments(out, 1, first)
    with pytest.raises(CaseError, match="another run is writing"):
        run([entrance], out, configs.load("cpu", QUICK))
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert case_contents(out) == case_contents(unbroken)


@pytest.mark.slow
def test_linking_that_was_killed_is_done_by_the_next_run(
    corridor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configs.load(
        "cpu", ("sampling.every=5", "track.max_gap=0.3", "track.min_sightings=2")
    )

    def stopped(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(run_module, "propose_all", stopped)
        run([corridor], tmp_path / "case", settings)
    assert not case_contents(tmp_path / "case")["links"]
    run([corridor], tmp_path / "case", settings)
    assert case_contents(tmp_path / "case")["links"], (
        "the person hidden for a while is two tracklets, proposed as one"
    )


@pytest.mark.slow
def test_proposals_keep_their_numbers_when_footage_is_added(corridor: Path, tmp_path: Path) -> None:
    settings = configs.load(
        "cpu", ("sampling.every=5", "track.max_gap=0.3", "track.min_sightings=2")
    )
    run([corridor], tmp_path / "case", settings)
    before = {(x["id"], x["a"], x["b"]) for x in case_contents(tmp_path / "case")["links"]}
    nobody = videos.encode(tmp_path / "nobody.mp4", videos.GOOD["h264.mp4"])
    run([corridor, nobody], tmp_path / "case", settings)
    assert before and before == {
        (x["id"], x["a"], x["b"]) for x in case_contents(tmp_path / "case")["links"]
    }


@pytest.mark.slow
def test_a_case_is_not_resumed_with_another_detector(entrance: Path, tmp_path: Path) -> None:
    out = tmp_path / "case"
    process = start_run(entrance, out)
    wait_for_segments(out, 1, process)
    process.kill()
    process.communicate()
    with Case.open(out) as case, case.transaction():
        other = json.dumps(
            {
                "name": "other",
                "model_sha256": "0" * 64,
                "licence": "",
                "landmarks": True,
                "embedder": None,
            }
        )
        case.db.execute("UPDATE source SET detector = ?", (other,))
    with pytest.raises(CaseError, match="another detector"):
        run([entrance], out, configs.load("cpu", QUICK))


def test_a_refused_run_leaves_no_case_behind(entrance: Path, tmp_path: Path) -> None:
    out = tmp_path / "case"
    for bad in (("sampling.every=2", "sampling.fps=5"), ("sampling.start=2", "sampling.end=1")):
        with pytest.raises(FasrError):
            run([entrance], out, configs.load("cpu", bad))
    with pytest.raises(InputError):
        run([entrance], out, configs.load("cpu"), tmp_path / "no_gallery")
    assert not out.exists()


def test_without_faiss_a_search_is_refused_before_footage_is_read(
    entrance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fasr-video\[cpu\]'"):
        run([entrance], tmp_path / "case", configs.load("cpu", QUICK), PORTRAITS / "mugshots")
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("case.sqlite", "crops/1.png"), r"holds a database \(case.sqlite\)"),
        (("a.md", "b/c.yaml"), "none of its 2 files is a picture"),
    ],
)
def test_a_folder_that_is_no_gallery_is_refused_before_footage_is_read(
    made: tuple[str, ...], message: str, entrance: Path, tmp_path: Path
) -> None:
    for name in made:
        (tmp_path / "given" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "given" / name).touch()
    with pytest.raises(InputError, match=message):
        run([entrance], tmp_path / "case", configs.load("cpu", QUICK), tmp_path / "given")
    assert not (tmp_path / "case").exists()


def test_the_same_footage_twice_is_refused_by_name(entrance: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(entrance.read_bytes())
    with pytest.raises(FasrError, match="same footage as"):
        run([entrance, copy], tmp_path / "case", configs.load("cpu"))


def test_footage_without_faces_is_a_finished_case(tmp_path: Path) -> None:
    footage = videos.encode(tmp_path / "empty_street.mp4", videos.Recipe("no faces"), frames=20)
    run([footage], tmp_path / "case", configs.load("cpu"))
    document = case_contents(tmp_path / "case")
    assert document["tracks"] == []
    assert (
        document["sources"][0]["state"] == "done"
        and document["sources"][0]["frames_looked_at"] == 20
    )


def test_damaged_frames_are_skipped_counted_and_used_on_demand(tmp_path: Path) -> None:
    complete = videos.encode(tmp_path / "whole.mkv", videos.Recipe("H.264"))
    broken = videos.flip_bits(complete, tmp_path / "broken.mkv", seed=1)
    run([broken], tmp_path / "case", configs.load("cpu"))
    source = case_contents(tmp_path / "case")["sources"][0]
    assert source["frames_skipped_as_damaged"] > 0
    assert source["losses"]["damaged_frames"] == source["frames_skipped_as_damaged"]
    run([broken], tmp_path / "all", configs.load("cpu", ("media.use_damaged=true",)))
    used = case_contents(tmp_path / "all")["sources"][0]
    assert (
        used["frames_looked_at"] == source["frames_looked_at"] + source["frames_skipped_as_damaged"]
    )


def test_without_landmarks_faces_are_aligned_by_their_boxes(entrance: Path, tmp_path: Path) -> None:
    run(
        [entrance],
        tmp_path / "case",
        configs.load("cpu", ("detect.backend=haar", "sampling.fps=2", "sampling.start=3")),
    )
    document = case_contents(tmp_path / "case")
    assert document["sources"][0]["detector"]["landmarks"] is False
    assert document["tracks"] and document["tracks"][0]["shown"]["landmarks"] is None
    assert document["tracks"][0]["shown"]["quality"]["turn"] is None


class TestGalleryFolder:
    @pytest.fixture
    def gallery(self, tmp_path: Path) -> Path:
        folder = tmp_path / "mugshots"
        folder.mkdir()
        for photo in (PORTRAITS / "mugshots").glob("*.jpg"):
            (folder / photo.name).write_bytes(photo.read_bytes())
        (folder / "notes.txt").write_text("no picture")
        PilImage.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(folder / "wall.png")
        both = [
            PilImage.open(p).resize((256, 256))
            for p in sorted((PORTRAITS / "mugshots").glob("*.jpg"))[:2]
        ]
        pair = PilImage.new("RGB", (512, 256))
        pair.paste(both[0], (0, 0))
        pair.paste(both[1], (256, 0))
        (folder / "someone").mkdir()
        pair.save(folder / "someone" / "pair.png")
        return folder

    def test_each_file_has_its_state(
        self, gallery: Path, entrance: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = configs.load("cpu", ("sampling.fps=1",))
        run([entrance], tmp_path / "case", settings, gallery)
        photos = {p["path"]: p for p in case_contents(tmp_path / "case")["gallery"]}
        assert photos["grace_hopper.jpg"]["problem"] is None
        assert photos["eileen_collins.jpg"]["problem"] is None
        assert photos["notes.txt"]["problem"] == OTHER_FILE
        assert photos["wall.png"]["problem"].startswith("no face found")
        assert photos["someone/pair.png"]["problem"].startswith("2 faces")
        assert photos["someone/pair.png"]["subject"] == "someone"
        screen.summary(tmp_path / "case", worked=True, seconds=1, as_json=False)
        out = capsys.readouterr().out
        assert "photographs left out: 3 (" in out
        assert "notes.txt: not a picture file; " in out
        assert "pair.png: 2 faces" in out

    def test_a_changed_photograph_is_noticed(
        self, gallery: Path, entrance: Path, tmp_path: Path
    ) -> None:
        settings = configs.load("cpu", ("sampling.fps=1",))
        run([entrance], tmp_path / "case", settings, gallery)
        assert run([entrance], tmp_path / "case", settings, gallery)[1] is False
        (gallery / "wall.png").unlink()
        assert run([entrance], tmp_path / "case", settings, gallery)[1] is True
        assert "wall.png" not in {p["path"] for p in case_contents(tmp_path / "case")["gallery"]}

    def test_a_missing_folder_is_reported_in_one_line(self, entrance: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file or folder"):
            run(
                [entrance],
                tmp_path / "case",
                configs.load("cpu", ("sampling.fps=1",)),
                tmp_path / "nowhere",
            )


def test_an_unwritable_output_is_reported_in_one_line(entrance: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "case", tmp_path / "file", Path("/proc/no/such")):
        with pytest.raises(FasrError, match=r"cannot be written|not empty|a file, not a folder"):
            run([entrance], out, configs.load("cpu", QUICK))


def test_a_folder_with_other_files_does_not_become_a_case(entrance: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(CaseError, match="not empty"):
        run([entrance], tmp_path, configs.load("cpu", QUICK))
    assert os.listdir(tmp_path) == ["mine.txt"]
