"""An archive into cases: each content once, in order, and whatever goes wrong with one file, the rest goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fasr_video import cli
from fasr_video.archive import unit as units
from fasr_video.archive.batch import prepare_gallery, settings_key
from fasr_video.archive.cameras import read_cameras
from fasr_video.archive.canonical import LEFT_OUT, TABLES, digest, dump
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.looks import CachedDetector, look
from fasr_video.archive.orders import End, Order, Outcome, Tell
from fasr_video.archive.scan import scan
from fasr_video.archive.unit import work
from fasr_video.case import decisions
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.detection import Detector, TiledDetector, open_detector
from fasr_video.errors import InputError, MediaError, UsageError
from fasr_video.gallery.gallery import Gallery
from fasr_video.media import open_video
from fasr_video.pipeline.run import run, sampling_of
from fasr_video.types import Image
from fasr_video.weights import manifest
from tests.archives import QUICK, SETTINGS, files, ledger_says, work_off
from tests.conftest import PORTRAITS
from tests.units import change_always, change_once, just_done


def test_each_file_becomes_a_case_named_after_it(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", door__one="1", door__two="22")
    told, units = work_off(archive, tmp_path / "cases")
    assert told.about("done") == ["one", "two"]
    assert [u.folder.rpartition("-")[0] for u in units] == ["one", "two"]
    assert [(tmp_path / "cases" / u.folder / "content").read_text() for u in units] == ["1", "22"]
    assert all(len(u.folder.rpartition("-")[2]) == 8 for u in units)


def test_equal_contents_are_one_unit_that_names_both_files(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="same", b__copy="same")
    told, (unit,) = work_off(archive, tmp_path / "cases")
    assert unit.state == "done" and told.about("skipped") == ["copy"]
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [f.name for f in ledger.files(unit)] == ["a.mp4", "b/copy.mp4"]


def test_a_bad_file_is_told_of_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="bad", b="good")
    told, units = work_off(archive, tmp_path / "cases")
    assert {u.folder[0]: u.state for u in units} == {"a": "failed", "b": "done"}
    assert units[0].error is not None and "no good" in units[0].error and units[0].tries == 1
    told, _ = work_off(archive, tmp_path / "cases")
    assert told.notes == []


def test_what_may_go_better_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="poor", b="good")
    told, units = work_off(archive, tmp_path / "cases", retries=2)
    assert {u.folder[0]: (u.state, u.tries) for u in units} == {
        "a": ("failed", 3),
        "b": ("done", 1),
    }
    assert told.about("again") == ["a", "a"] and told.about("failed") == ["a"]
    _, units = work_off(archive, tmp_path / "cases", retries=0, again=True)
    assert units[0].tries == 1


def test_done_is_done_and_only_what_is_new_is_worked_on(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="1")
    work_off(archive, tmp_path / "cases")
    files(archive, b="2")
    told, _ = work_off(archive, tmp_path / "cases")
    assert told.about("done") == ["b"]


def test_a_unit_whose_file_was_taken_away_is_missing_until_it_is_back(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="poor")
    work_off(archive, tmp_path / "cases", retries=0)
    shutil.move(archive / "a.mp4", tmp_path / "a.mp4")
    with Ledger.open(tmp_path / "cases") as ledger:
        ledger.put_job(ledger.units()[0].sha256, settings_key(SETTINGS), "a", 4, again=True)
    _, (unit,) = work_off(archive, tmp_path / "cases")
    assert (unit.state, unit.error) == ("missing", "its file is not there any more")
    shutil.move(tmp_path / "a.mp4", archive / "a.mp4")
    (archive / "a.mp4").write_text("good")
    _, units = work_off(archive, tmp_path / "cases")
    assert "done" in {u.state for u in units}


def test_priority_comes_first_then_time_then_name(tmp_path: Path) -> None:
    archive = files(
        tmp_path / "in", door__20240502="1", door__20240501="2", yard__20240503="3", z="4", a="5"
    )
    (tmp_path / "cameras.csv").write_text("camera,priority\nyard,5\n")
    cameras = read_cameras(r"(?P<camera>\w+)/(?P<date>\d{8})", tmp_path / "cameras.csv", "UTC")
    told, _ = work_off(archive, tmp_path / "cases", cameras=cameras)
    assert told.about("done") == ["20240503", "20240501", "20240502", "a", "z"]


def test_a_window_leaves_out_what_is_outside_and_names_what_nobody_can_tell(
    tmp_path: Path, entrance: Path
) -> None:
    archive = files(tmp_path / "in", d20240501T120000="1", d20240501T150002="2", unnamed="3")
    shutil.copy(
        entrance, archive / "d20240501T125957.mp4"
    )  # six seconds long: it goes on into the window
    cameras = read_cameras(r"d(?P<date>\d{8})T(?P<time>\d{6})", None, "UTC")
    after, before = (datetime(2024, 5, 1, h, tzinfo=UTC) for h in (13, 15))

    told, _ = work_off(
        archive, tmp_path / "cases", just_done, cameras=cameras, after=after, before=before
    )
    assert sorted(told.about("done")) == ["d20240501T120000", "d20240501T125957"]
    assert told.about("failed") == ["unnamed"]


def test_a_window_takes_files_of_which_only_the_day_is_known(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", d20240501="1", d20240504="2")
    cameras = read_cameras(r"d(?P<date>\d{8})", None, "UTC")
    told, _ = work_off(
        archive,
        tmp_path / "cases",
        cameras=cameras,
        after=datetime(2024, 5, 1, 13, tzinfo=UTC),
        before=datetime(2024, 5, 1, 15, tzinfo=UTC),
    )
    assert told.about("done") == ["d20240501"]


def test_a_file_that_changes_while_it_is_read_is_told_of_and_read_again(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="early", b="good")
    told, units = work_off(archive, tmp_path / "cases", change_once)
    assert told.about("changed") == ["a"] and sorted(told.about("done")) == ["a", "b"]
    done = [
        (tmp_path / "cases" / u.folder / "content").read_text() for u in units if u.state == "done"
    ]
    assert sorted(done) == ["good", "late, and longer"]


def test_a_file_that_never_stays_the_same_is_given_up(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="x")
    told, _ = work_off(archive, tmp_path / "cases", change_always, retries=1)
    assert told.about("changed") == ["a"] and told.about("failed") == ["a"]
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [Path(path).name for path, _ in ledger.problems()] == ["a.mp4"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_folders_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        archive = files(Path(name), a="1", locked__b="2")
        archive.chmod(0o755)
        (archive / "locked").chmod(0o700)
        os.seteuid(65534)
        try:
            found = scan(archive, None, tmp_path / "cases")
        finally:
            os.seteuid(0)
        assert [f.name for f in found.files] == ["a.mp4"]
        assert found.unread == {str(archive / "locked"): "Permission denied"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_copy_in_a_closed_folder_does_not_keep_the_other_from_being_read(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        archive = files(Path(name) / "in", a__locked="same", b="same")
        work_off(archive, Path(name) / "cases")
        (case,) = (Path(name) / "cases").glob("locked-*")
        shutil.rmtree(case)
        (archive / "a").chmod(0o700)
        subprocess.run(
            ["chmod", "-R", "a+rwX", name, archive / "b.mp4", Path(name) / "cases"], check=True
        )
        (archive / "a").chmod(0o700)
        os.seteuid(65534)
        try:
            told, (unit,) = work_off(archive, Path(name) / "cases")
        finally:
            os.seteuid(0)
        assert unit.state == "done" and told.about("done") == ["b"]
        with Ledger.read(Path(name) / "cases") as ledger:
            assert [Path(path).name for path, _ in ledger.problems()] == ["a"]
            assert [f.name for f in ledger.files(unit)] == ["a/locked.mp4", "b.mp4"], (
                "closed is not gone"
            )


def test_pipes_and_devices_are_listed_and_not_waited_for(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="1")
    os.mkfifo(archive / "pipe.mp4")
    (archive / "device.mp4").symlink_to("/dev/zero")
    told, (unit,) = work_off(archive, tmp_path / "cases")
    assert told.about("done") == ["a"] and unit.state == "done"
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [(Path(p).name, "no regular file" in why) for p, why in ledger.problems()] == [
            ("device.mp4", True),
            ("pipe.mp4", True),
        ]


def test_a_window_that_cannot_be_judged_takes_nothing_from_what_is_done(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", unnamed="1")
    work_off(archive, tmp_path / "cases")
    told, (unit,) = work_off(archive, tmp_path / "cases", after=datetime(2024, 5, 1, tzinfo=UTC))
    assert told.about("failed") == ["unnamed"] and unit.state == "done"
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [f.name for f in ledger.files(unit)] == ["unnamed.mp4"]
        assert ["no time is known" in why for _, why in ledger.problems()] == [True]
    work_off(archive, tmp_path / "cases")
    with Ledger.read(tmp_path / "cases") as ledger:
        assert ledger.problems() == [], "without a window there is nothing to judge"


def test_files_that_were_deleted_or_renamed_are_no_failures_and_leave_no_names(
    tmp_path: Path,
) -> None:
    archive = files(tmp_path / "in", a="bad", b="good", c="film")
    work_off(archive, tmp_path / "cases")
    (archive / "a.mp4").unlink()
    (archive / "b.mp4").rename(archive / "renamed.mp4")
    (archive / "c.mp4").unlink()
    _, units = work_off(archive, tmp_path / "cases")
    assert {u.folder[0]: u.state for u in units} == {"a": "missing", "b": "done", "c": "done"}
    with Ledger.read(tmp_path / "cases") as ledger:
        names = {u.folder[0]: [f.name for f in ledger.files(u)] for u in units}
    assert names["b"] == ["renamed.mp4"]
    assert names["c"] == ["c.mp4"], "what a case was made of is told, wherever its disk is"


def test_the_exit_code_is_about_what_was_asked_for_this_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path / "one", a="no film")
    (tmp_path / "one" / "link").symlink_to(tmp_path)
    (tmp_path / "two").mkdir()

    def ended_with(archive: str) -> object:
        command = [
            "batch",
            str(tmp_path / archive),
            "--out",
            str(tmp_path / "cases"),
            "--scheduler",
            "local",
        ]
        monkeypatch.setattr(sys, "argv", ["fasr-video", *command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    assert ended_with("one") == 3
    assert ended_with("two") == 0
    with Ledger.read(tmp_path / "cases") as ledger:
        assert ["link to a folder" in why for _, why in ledger.problems()] == [True], (
            "another folder's stay"
        )
    (tmp_path / "one" / "a.mp4").unlink()
    (tmp_path / "one" / "link").unlink()
    assert ended_with("one") == 0
    capsys.readouterr()


def test_links_to_folders_and_the_cases_themselves_are_not_walked_into(tmp_path: Path) -> None:
    archive = files(tmp_path, a="1", cases__clip="2", other__b="3")
    (archive / "link").symlink_to(archive / "other")
    found = scan(archive, None, tmp_path / "cases")
    assert [f.name for f in found.files] == ["a.mp4", "other/b.mp4"]
    assert list(found.unread) == [str(archive / "link")]


def test_a_glob_goes_through_folders_and_takes_any_ending(tmp_path: Path) -> None:
    files(tmp_path, cam3__x="1", cam4__x="2")
    (tmp_path / "cam3" / "y.dat").write_text("3")
    assert [f.name for f in scan(tmp_path, "cam3/*", tmp_path / "cases").files] == [
        "cam3/x.mp4",
        "cam3/y.dat",
    ]


def test_a_case_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="1")
    _, (unit,) = work_off(archive, tmp_path / "cases")
    shutil.rmtree(tmp_path / "cases" / unit.folder)
    told, _ = work_off(archive, tmp_path / "cases")
    assert told.about("done") == ["a"] and (tmp_path / "cases" / unit.folder).is_dir()


def test_a_gallery_that_cannot_be_asked_is_told_before_any_file_is_touched(tmp_path: Path) -> None:
    Gallery.create(tmp_path / "gallery", "another", "0" * 64, 512).close()
    with pytest.raises(UsageError, match="another"):
        prepare_gallery(tmp_path / "gallery", tmp_path / "cases", SETTINGS)
    with pytest.raises(InputError, match="no such gallery"):
        prepare_gallery(tmp_path / "nowhere", tmp_path / "cases", SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{in}", "--scheduler", "slurm"], "no such scheduler"),
        (
            ["{in}", "--scheduler", "local", "--workers", "2"],
            "--workers: it is for --scheduler processes",
        ),
        (["{in}", "--after", "noon"], "not a time in ISO 8601"),
        (["{in}", "--before", "2024-05-01T12:00:00"], "it has no time zone"),
        (["{in}", "--names", "(?P<who>.)"], "no such group who"),
        (
            ["{in}", "--set", "restore.subjects={T1: X}", "--set", "restore.method=idfsr"],
            "restore.subjects",
        ),
        (
            ["{in}", "--set", "sampling.every=2", "--set", "sampling.fps=5"],
            "they exclude each other",
        ),
        (["{in}/nowhere", "--scheduler", "local"], "no such folder"),
        (["{in}", "--gpus", ","], "--gpus ,: a GPU without a name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    given = [a.replace("{in}", str(tmp_path / "in")) for a in arguments]
    monkeypatch.setattr(
        sys, "argv", ["fasr-video", "batch", *given, "--out", str(tmp_path / "cases")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and says in told
    assert len(told.strip().splitlines()) == 1 and "Traceback" not in told


@pytest.mark.parametrize("wrong", [("--scheduler", "slurm"), ("--gpus", "0,")])
def test_what_is_wrong_with_the_options_is_told_before_anybody_is_enrolled(
    wrong: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    command = [
        "batch",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "cases"),
        "--gallery",
        str(PORTRAITS / "mugshots"),
    ]
    monkeypatch.setattr(sys, "argv", ["fasr-video", *command, *wrong])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and not (tmp_path / "cases").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_failed_before_is_named_again_by_the_next_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path / "in", a="no film")
    command = [
        "batch",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "cases"),
        "--scheduler",
        "local",
    ]
    command += [part for one in QUICK for part in ("--set", one)]
    said = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["fasr-video", *command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 3
        said.append(capsys.readouterr().out)
    assert "not done:" not in said[0]  # it was told of when it failed
    assert re.search(r"not done: a\.mp4: .*not a video.*; --again tries it again", said[1])


def test_settings_that_may_be_asked_anew_make_no_other_unit() -> None:
    key = settings_key(SETTINGS)
    assert settings_key(configs.load("cpu", (*QUICK, "search.fpir=0.1"))) == key
    assert settings_key(configs.load("cpu", (*QUICK, "sampling.fps=3"))) != key


def test_ledger_of_before_knows_its_units_again() -> None:
    """Then the settings held a weight of embeddings, which no run ever used: what was done is not done again."""
    before = SETTINGS.model_dump(mode="json", exclude={"search": True, "restore": {"subjects"}})
    before["track"]["appearance_weight"] = 0.5
    assert (
        settings_key(SETTINGS)
        == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]
    )


# With real footage.


def order(footage: Path, case: Path, **more: object) -> Order:
    from fasr_video.files import sha256_file

    facts = footage.stat()
    known = (1, footage, sha256_file(footage), facts.st_size, facts.st_mtime_ns)
    values = {"gallery": None, "place": Recording("door"), **more}
    return Order(*known, case, SETTINGS.model_dump_json(), **values)  # type: ignore[arg-type]


def canonical(folder: Path) -> str:
    with Case.open(folder, read_only=True) as case:
        return digest(case)


@pytest.fixture(scope="module")
def unbroken(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "case"
    assert work(order(entrance, out), lambda share: None).end is End.DONE
    return out


def test_what_a_unit_makes_is_what_run_makes(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    run([entrance], tmp_path / "case", SETTINGS, recording=Recording("door"))
    assert canonical(tmp_path / "case") == canonical(unbroken)
    with Case.open(unbroken, read_only=True) as case:
        assert case.db.execute("SELECT count(*) FROM track").fetchone()[0]
        assert not [p for c in verify(case) for p in c.problems]


def test_the_canonical_dump_sees_every_other_difference(unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "case")
    with Case.open(tmp_path / "case") as case:
        tables = {
            row[0] for row in case.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        assert tables - set(TABLES) == {"log", "sqlite_sequence"}
        before = dump(case)
        case.db.execute("UPDATE source SET seconds = 99, path = '/elsewhere'")
        case.db.execute("UPDATE segment SET at = 'later'")
        assert dump(case) == before
        for change in ("UPDATE face SET score = score + 1e-9", "UPDATE source SET camera = 'yard'"):
            case.db.execute(change)
            assert dump(case) != before
            before = dump(case)
    assert set(LEFT_OUT) <= set(TABLES)


def test_a_file_that_is_not_what_was_hashed_makes_no_case(entrance: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(entrance, clip)
    stale = order(clip, tmp_path / "case")
    clip.write_bytes(clip.read_bytes()[:-10])
    outcome = work(stale, lambda share: None)
    assert outcome.end is End.CHANGED and not (tmp_path / "case").exists()


@pytest.fixture
def decided(unbroken: Path, tmp_path: Path) -> Path:
    """The case of a clip beside it, with a decision of somebody."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "cases" / "case"))
    with Case.open(folder) as case:
        decisions.decide(case, 1, "rejected", "other ear", "Anna")
    return folder


def decisions_in(folder: Path) -> int:
    with Case.open(folder, read_only=True) as case:
        assert not [p for c in verify(case) for p in c.problems]
        return int(case.db.execute("SELECT count(*) FROM decision").fetchone()[0])


def test_footage_that_was_touched_keeps_its_case(
    decided: Path, entrance: Path, tmp_path: Path
) -> None:
    clip = Path(shutil.copy(entrance, tmp_path / "clip.mp4"))
    stale = order(clip, decided)
    os.utime(clip, (1, 1))
    outcome = work(stale, lambda share: None)
    assert outcome.end is End.DONE and decisions_in(decided) == 1


def test_footage_that_is_touched_while_it_is_read_is_read_again_into_the_same_case(
    decided: Path, entrance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Path(shutil.copy(entrance, tmp_path / "clip.mp4"))

    def touched(*_: object) -> None:
        os.utime(clip, (1, 1))
        raise MediaError(clip, "it changed while it was read", "wait")

    monkeypatch.setattr(units, "run", touched)
    outcome = work(order(clip, decided), lambda share: None)
    assert (
        outcome.end is End.CHANGED
        and "what it holds is the same" in outcome.text
        and decisions_in(decided) == 1
    )


def test_footage_that_changed_takes_no_decisions_with_it(
    decided: Path, entrance: Path, tmp_path: Path
) -> None:
    clip = Path(shutil.copy(entrance, tmp_path / "clip.mp4"))
    stale = order(clip, decided)
    clip.write_bytes(clip.read_bytes()[:-10])
    outcome = work(stale, lambda share: None)
    assert outcome.end is End.CHANGED and not decided.exists()
    assert "people decided on its tracks: its case is kept as case.kept-1" in outcome.text
    assert decisions_in(decided.with_name("case.kept-1")) == 1


def test_footage_that_changed_takes_nobodys_notes_with_it(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    clip, folder = (
        Path(shutil.copy(entrance, tmp_path / "clip.mp4")),
        Path(shutil.copytree(unbroken, tmp_path / "case")),
    )
    (folder / "notes.txt").write_text("of somebody")
    stale = order(clip, folder)
    clip.write_bytes(clip.read_bytes()[:-10])
    outcome = work(stale, lambda share: None)
    assert (
        "it holds what no run wrote" in outcome.text
        and (tmp_path / "case.kept-1" / "notes.txt").exists()
    )


def test_a_case_that_holds_other_footage_too_is_not_removed(
    decided: Path, corridor: Path, tmp_path: Path
) -> None:
    clip = Path(shutil.copy(corridor, tmp_path / "clip.mp4"))
    outcome = work(order(clip, decided), lambda share: None)
    assert (
        outcome.end is End.BAD
        and "it holds other footage, too" in outcome.text
        and decisions_in(decided) == 1
    )


def test_a_case_whose_report_cannot_be_written_is_done_and_says_so(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    shutil.copytree(unbroken, tmp_path / "case")
    report = tmp_path / "case" / "report"
    shutil.rmtree(report)
    report.mkdir()
    (report / "notes.txt").write_text(
        "somebody's own"
    )  # a folder that no report may be written into
    outcome = work(order(entrance, tmp_path / "case"), lambda share: None)
    assert outcome.end is End.DONE and outcome.facts["tracks"]
    assert "its report was not written" in outcome.text and "\n" not in outcome.text
    quiet = work(order(entrance, tmp_path / "case", report=False), lambda share: None)
    assert quiet.end is End.DONE and not quiet.text


def test_no_footage_is_bad_and_another_version_is_unfit(tmp_path: Path) -> None:
    text = files(tmp_path, a="no film") / "a.mp4"
    outcome = work(order(text, tmp_path / "case"), lambda share: None)
    assert outcome.end is End.BAD and "not a video" in outcome.text
    other = work(order(text, tmp_path / "case", version="0.0.0"), lambda share: None)
    assert other.end is End.UNFIT and "0.0.0" in other.text


def test_a_file_whose_disk_went_away_is_missing_and_not_bad(entrance: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    clip = Path(shutil.copy(entrance, tmp_path / "in"))

    def unmount(order: Order, tell: Tell) -> Outcome:
        order.path.unlink()
        return work(order, tell)

    told, (unit,) = work_off(tmp_path / "in", tmp_path / "cases", unmount)
    assert [n.text for n in told.notes] == [f"{clip}: it went away while it was read"]
    assert (unit.state, unit.error) == ("missing", "its file is not there any more")


def test_a_case_that_somebody_writes_is_left_to_them(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    from fasr_video.case.store import only_writer

    shutil.copytree(unbroken, tmp_path / "case")
    with only_writer(tmp_path / "case"):
        assert work(order(entrance, tmp_path / "case"), lambda share: None).end is End.BUSY


def test_a_long_file_looked_at_in_parts_is_the_same_case(entrance: Path, tmp_path: Path) -> None:
    archive, whole, parts = tmp_path / "in", tmp_path / "whole", tmp_path / "parts"
    archive.mkdir()
    shutil.copy(entrance, archive)
    _, (unit,) = work_off(archive, whole, work)
    told, _ = work_off(archive, parts, work, cut=1.5)
    assert canonical(parts / unit.folder) == canonical(whole / unit.folder)
    assert told.about("warning") == []
    assert not list((parts / "parts").iterdir()), "what was found in parts is not needed any more"


def test_a_picture_that_a_part_has_seen_is_not_looked_at_again(
    entrance: Path, tmp_path: Path
) -> None:
    detector, reader = (
        open_detector("haar", weights=None, device="cpu", min_score=0.3),
        open_video(entrance),
    )
    look(reader, detector, SETTINGS, tmp_path / "looks" / "0.sqlite")
    remembering = CachedDetector(detector, tmp_path / "looks")
    images = [f.image for f in reader.frames(sampling_of(SETTINGS))][-3:]
    for known, fresh in zip(remembering.detect(images), detector.detect(images), strict=True):
        assert (known.boxes == fresh.boxes).all() and (known.scores == fresh.scores).all()
    assert remembering.looked == 0
    with ThreadPoolExecutor(1) as other:  # a run may detect beside reading and storing
        other.submit(remembering.detect, [images[0][::-1].copy()]).result()
    assert remembering.looked == 1
    remembering.close()


def seen(detector: Detector, looks: Path, images: Sequence[Image]) -> tuple[int, int]:
    """How many of them no part had seen, and how many parts were left out."""
    remembering = CachedDetector(detector, looks)
    remembering.detect(images)
    remembering.close()
    return remembering.looked, remembering.left_out


@pytest.mark.parametrize("other", ["model", "way to run it", "nobody says which", "no part at all"])
def test_what_another_detector_found_in_a_part_is_not_taken(
    other: str, entrance: Path, tmp_path: Path
) -> None:
    reader, part = open_video(entrance), tmp_path / "looks" / "0.sqlite"
    detector = open_detector("haar", weights=None, device="cpu", min_score=0.3)
    images = [f.image for f in reader.frames(sampling_of(SETTINGS))][:2]
    look(reader, detector, SETTINGS, part)
    assert seen(detector, part.parent, images) == (0, 0)
    if other == "model":
        detector.fingerprint = "0" * 64
    elif other == "way to run it":
        detector = TiledDetector(detector, 480, 80)
    elif other == "nobody says which":  # as before parts named their detector
        with closing(sqlite3.connect(part)) as database:
            database.execute("DROP TABLE detector")
    else:
        part.write_text("no database")
    assert seen(detector, part.parent, images) == (2, 1)


def test_parts_are_looked_at_again_when_the_weights_were_replaced_after_a_kill(
    entrance: Path, tmp_path: Path
) -> None:
    archive, weights = tmp_path / "in", tmp_path / "weights.safetensors"
    archive.mkdir()
    shutil.copy(entrance, archive)
    shutil.copy(manifest.bundled("detector.safetensors"), weights)
    asked = configs.load("cpu", (*QUICK, "detect.backend=builtin", f"detect.weights={weights}"))

    def be_killed_after_the_parts(order: Order, tell: Tell) -> Outcome:
        if order.part is None:
            raise KeyboardInterrupt
        return work(order, tell)

    with pytest.raises(KeyboardInterrupt):
        work_off(archive, tmp_path / "cut", be_killed_after_the_parts, settings=asked, cut=1.5)
    assert len(list((tmp_path / "cut" / "parts").glob("*/*.sqlite"))) == 3
    with safe_open(weights, "pt") as file:
        form = file.metadata()
    save_file({name: value * 0.98 for name, value in load_file(weights).items()}, weights, form)
    units._models.cache_clear()  # as in the process of the next command
    told, (unit,) = work_off(archive, tmp_path / "cut", work, settings=asked, cut=1.5)
    work_off(archive, tmp_path / "whole", work, settings=asked)
    assert canonical(tmp_path / "cut" / unit.folder) == canonical(tmp_path / "whole" / unit.folder)
    assert "3 of its parts" in told.notes[-1].text and told.about("warning") == [unit.folder]
    assert not list((tmp_path / "cut" / "parts").iterdir())


def test_camera_and_clock_are_in_the_case_and_may_be_corrected(
    entrance: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "in"
    archive.mkdir()
    shutil.copy(entrance, archive / "door_20240501_120000.mp4")
    names = r"(?P<camera>[a-z]+)_(?P<date>\d+)_(?P<time>\d+)"
    _, (unit,) = work_off(
        archive, tmp_path / "cases", work, cameras=read_cameras(names, None, "UTC")
    )

    def clock() -> tuple[object, ...]:
        with Case.open(tmp_path / "cases" / unit.folder, read_only=True) as case:
            assert not [p for c in verify(case) for p in c.problems]
            return tuple(
                case.db.execute("SELECT camera, clock ->> '$.start' FROM source").fetchone()
            )

    assert clock() == ("door", "2024-05-01T12:00:00+00:00")
    work_off(archive, tmp_path / "cases", work)
    assert clock() == ("door", "2024-05-01T12:00:00+00:00"), "saying nothing takes nothing back"
    told, _ = work_off(
        archive, tmp_path / "cases", work, cameras=read_cameras(names, None, "+02:00")
    )
    assert clock() == ("door", "2024-05-01T12:00:00+02:00")
    assert [n.text for n in told.notes] == ["camera and clock corrected"]


def start(archive: Path, cases: Path, *more: str) -> subprocess.Popen[str]:
    overrides = [part for o in QUICK for part in ("--set", o)]
    command = [
        sys.executable,
        "-m",
        "fasr_video",
        "batch",
        str(archive),
        "--out",
        str(cases),
        "--workers",
        "1",
    ]
    return subprocess.Popen(
        [*command, *overrides, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cases.parent,
    )


def test_killed_it_goes_on_and_ends_with_the_same_cases(
    entrance: Path, unbroken: Path, tmp_path: Path
) -> None:
    archive, cases = tmp_path / "in", tmp_path / "cases"
    archive.mkdir()
    shutil.copy(entrance, archive / "a.mp4")
    (archive / "b.mp4").write_text("no film")
    process = start(archive, cases)
    while not list(cases.glob("a-*/case.sqlite")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ("running",) in ledger_says(cases, "SELECT state FROM unit")
    process = start(archive, cases, "--json")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, err
    assert '"failed": 1' in out.splitlines()[-1] and "Traceback" not in err
    assert dict(ledger_says(cases, "SELECT substr(folder, 1, 1), tries FROM unit")) == {
        "a": 1,
        "b": 1,
    }
    (case,) = cases.glob("a-*/")
    with Case.open(case) as opened:
        assert not [p for c in verify(opened) for p in c.problems]
    run(
        [entrance], case, SETTINGS, recording=Recording("door")
    )  # the only thing that this batch was not told
    assert canonical(case) == canonical(unbroken)
    assert (cases / "summary.html").is_file() and (cases / "summary.csv").is_file()
