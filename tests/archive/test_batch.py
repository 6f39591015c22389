"""A batch makes an archive into cases, and a bad file does not stop the others."""

from __future__ import annotations

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
from fasr_video.archive import worker
from fasr_video.archive.batch import prepare_gallery, settings_key
from fasr_video.archive.cameras import read_cameras
from fasr_video.archive.canonical import LEFT_OUT, TABLES, digest, dump
from fasr_video.archive.chunks import CachedDetector, detect_chunk
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.scan import scan
from fasr_video.archive.tasks import OnProgress, Outcome, Status, Task
from fasr_video.archive.worker import run_task
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
from tests.support.archives import QUICK, SETTINGS, query_ledger, run_batch, write_files
from tests.support.commands import start_command
from tests.support.paths import PORTRAITS
from tests.support.quick_tasks import change_always, change_once, report_done


def test_each_file_becomes_a_case_named_after_it(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", door__one="1", door__two="22")
    events, jobs = run_batch(archive, tmp_path / "cases")
    assert events.about("done") == ["one", "two"]
    assert [job.folder.rpartition("-")[0] for job in jobs] == ["one", "two"]
    assert [(tmp_path / "cases" / job.folder / "content").read_text() for job in jobs] == [
        "1",
        "22",
    ]
    assert all(len(job.folder.rpartition("-")[2]) == 8 for job in jobs)


def test_files_of_equal_content_are_one_job_that_names_both(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="same", b__copy="same")
    events, (job,) = run_batch(archive, tmp_path / "cases")
    assert job.state == "done" and events.about("skipped") == ["copy"]
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [f.name for f in ledger.files(job)] == ["a.mp4", "b/copy.mp4"]


def test_a_bad_file_is_reported_one_time_and_the_others_are_done(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="bad", b="good")
    events, jobs = run_batch(archive, tmp_path / "cases")
    assert {job.folder[0]: job.state for job in jobs} == {"a": "failed", "b": "done"}
    assert jobs[0].error is not None and "no good" in jobs[0].error and jobs[0].tries == 1
    events, _ = run_batch(archive, tmp_path / "cases")
    assert events.notes == []


def test_a_failed_job_is_retried_and_then_given_up(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="poor", b="good")
    events, jobs = run_batch(archive, tmp_path / "cases", retries=2)
    assert {job.folder[0]: (job.state, job.tries) for job in jobs} == {
        "a": ("failed", 3),
        "b": ("done", 1),
    }
    assert events.about("retry") == ["a", "a"] and events.about("failed") == ["a"]
    _, jobs = run_batch(archive, tmp_path / "cases", retries=0, retry_failed=True)
    assert jobs[0].tries == 1


def test_a_second_batch_only_processes_new_files(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="1")
    run_batch(archive, tmp_path / "cases")
    write_files(archive, b="2")
    events, _ = run_batch(archive, tmp_path / "cases")
    assert events.about("done") == ["b"]


def test_a_job_whose_file_was_removed_is_missing_until_the_file_is_back(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="poor")
    run_batch(archive, tmp_path / "cases", retries=0)
    shutil.move(archive / "a.mp4", tmp_path / "a.mp4")
    with Ledger.open(tmp_path / "cases") as ledger:
        ledger.put_job(ledger.jobs()[0].sha256, settings_key(SETTINGS), "a", 4, retry_failed=True)
    _, (job,) = run_batch(archive, tmp_path / "cases")
    assert (job.state, job.error) == ("missing", "its file is not there any more")
    shutil.move(tmp_path / "a.mp4", archive / "a.mp4")
    (archive / "a.mp4").write_text("good")
    _, jobs = run_batch(archive, tmp_path / "cases")
    assert "done" in {job.state for job in jobs}


def test_files_are_ordered_by_priority_then_time_then_name(tmp_path: Path) -> None:
    archive = write_files(
        tmp_path / "in", door__20240502="1", door__20240501="2", yard__20240503="3", z="4", a="5"
    )
    (tmp_path / "cameras.csv").write_text("camera,priority\nyard,5\n")
    cameras = read_cameras(r"(?P<camera>\w+)/(?P<date>\d{8})", tmp_path / "cameras.csv", "UTC")
    events, _ = run_batch(archive, tmp_path / "cases", cameras=cameras)
    assert events.about("done") == ["20240503", "20240501", "20240502", "a", "z"]


def test_a_window_leaves_out_files_outside_and_lists_those_without_a_time(
    tmp_path: Path, entrance: Path
) -> None:
    archive = write_files(tmp_path / "in", d20240501T120000="1", d20240501T150002="2", unnamed="3")
    shutil.copy(
        entrance, archive / "d20240501T125957.mp4"
    )  # six seconds long: it goes on into the window
    cameras = read_cameras(r"d(?P<date>\d{8})T(?P<time>\d{6})", None, "UTC")
    after, before = (datetime(2024, 5, 1, h, tzinfo=UTC) for h in (13, 15))

    events, _ = run_batch(
        archive, tmp_path / "cases", report_done, cameras=cameras, after=after, before=before
    )
    assert sorted(events.about("done")) == ["d20240501T120000", "d20240501T125957"]
    assert events.about("failed") == ["unnamed"]


def test_a_window_includes_files_of_which_only_the_day_is_known(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", d20240501="1", d20240504="2")
    cameras = read_cameras(r"d(?P<date>\d{8})", None, "UTC")
    events, _ = run_batch(
        archive,
        tmp_path / "cases",
        cameras=cameras,
        after=datetime(2024, 5, 1, 13, tzinfo=UTC),
        before=datetime(2024, 5, 1, 15, tzinfo=UTC),
    )
    assert events.about("done") == ["d20240501"]


def test_a_file_that_changes_while_it_is_read_is_reported_and_read_again(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="early", b="good")
    events, jobs = run_batch(archive, tmp_path / "cases", change_once)
    assert events.about("changed") == ["a"] and sorted(events.about("done")) == ["a", "b"]
    done = [
        (tmp_path / "cases" / job.folder / "content").read_text()
        for job in jobs
        if job.state == "done"
    ]
    assert sorted(done) == ["good", "late, and longer"]


def test_a_file_that_changes_at_each_try_is_given_up(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="x")
    events, _ = run_batch(archive, tmp_path / "cases", change_always, retries=1)
    assert events.about("changed") == ["a"] and events.about("failed") == ["a"]
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [Path(path).name for path, _ in ledger.problems()] == ["a.mp4"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_folders_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        archive = write_files(Path(name), a="1", locked__b="2")
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
def test_a_file_is_read_although_its_copy_lies_in_a_closed_folder(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        archive = write_files(Path(name) / "in", a__locked="same", b="same")
        run_batch(archive, Path(name) / "cases")
        (case,) = (Path(name) / "cases").glob("locked-*")
        shutil.rmtree(case)
        (archive / "a").chmod(0o700)
        subprocess.run(
            ["chmod", "-R", "a+rwX", name, archive / "b.mp4", Path(name) / "cases"], check=True
        )
        (archive / "a").chmod(0o700)
        os.seteuid(65534)
        try:
            events, (job,) = run_batch(archive, Path(name) / "cases")
        finally:
            os.seteuid(0)
        assert job.state == "done" and events.about("done") == ["b"]
        with Ledger.read(Path(name) / "cases") as ledger:
            assert [Path(path).name for path, _ in ledger.problems()] == ["a"]
            assert [f.name for f in ledger.files(job)] == ["a/locked.mp4", "b.mp4"], (
                "closed is not gone"
            )


def test_pipes_and_devices_are_listed_and_do_not_block(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="1")
    os.mkfifo(archive / "pipe.mp4")
    (archive / "device.mp4").symlink_to("/dev/zero")
    events, (job,) = run_batch(archive, tmp_path / "cases")
    assert events.about("done") == ["a"] and job.state == "done"
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [
            (Path(p).name, "not a regular file" in reason) for p, reason in ledger.problems()
        ] == [
            ("device.mp4", True),
            ("pipe.mp4", True),
        ]


def test_a_finished_job_stays_done_when_a_later_window_cannot_place_its_file(
    tmp_path: Path,
) -> None:
    archive = write_files(tmp_path / "in", unnamed="1")
    run_batch(archive, tmp_path / "cases")
    events, (job,) = run_batch(archive, tmp_path / "cases", after=datetime(2024, 5, 1, tzinfo=UTC))
    assert events.about("failed") == ["unnamed"] and job.state == "done"
    with Ledger.read(tmp_path / "cases") as ledger:
        assert [f.name for f in ledger.files(job)] == ["unnamed.mp4"]
        assert ["its time is not known" in reason for _, reason in ledger.problems()] == [True]
    run_batch(archive, tmp_path / "cases")
    with Ledger.read(tmp_path / "cases") as ledger:
        assert ledger.problems() == [], "without a window no time is needed"


def test_deleted_and_renamed_files_are_no_failures_and_their_names_are_forgotten(
    tmp_path: Path,
) -> None:
    archive = write_files(tmp_path / "in", a="bad", b="good", c="film")
    run_batch(archive, tmp_path / "cases")
    (archive / "a.mp4").unlink()
    (archive / "b.mp4").rename(archive / "renamed.mp4")
    (archive / "c.mp4").unlink()
    _, jobs = run_batch(archive, tmp_path / "cases")
    assert {job.folder[0]: job.state for job in jobs} == {"a": "missing", "b": "done", "c": "done"}
    with Ledger.read(tmp_path / "cases") as ledger:
        names = {job.folder[0]: [f.name for f in ledger.files(job)] for job in jobs}
    assert names["b"] == ["renamed.mp4"]
    assert names["c"] == ["c.mp4"], "the file of a finished case stays known: its disk may be away"


def test_the_exit_code_is_about_the_archive_given_this_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "one", a="no film")
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
        assert ["links to folders" in reason for _, reason in ledger.problems()] == [True], (
            "problems of other archives stay"
        )
    (tmp_path / "one" / "a.mp4").unlink()
    (tmp_path / "one" / "link").unlink()
    assert ended_with("one") == 0
    capsys.readouterr()


def test_links_to_folders_and_the_cases_themselves_are_not_scanned(tmp_path: Path) -> None:
    archive = write_files(tmp_path, a="1", cases__clip="2", other__b="3")
    (archive / "link").symlink_to(archive / "other")
    found = scan(archive, None, tmp_path / "cases")
    assert [f.name for f in found.files] == ["a.mp4", "other/b.mp4"]
    assert list(found.unread) == [str(archive / "link")]


def test_a_glob_matches_across_folders_and_any_ending(tmp_path: Path) -> None:
    write_files(tmp_path, cam3__x="1", cam4__x="2")
    (tmp_path / "cam3" / "y.dat").write_text("3")
    assert [f.name for f in scan(tmp_path, "cam3/*", tmp_path / "cases").files] == [
        "cam3/x.mp4",
        "cam3/y.dat",
    ]


def test_a_case_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="1")
    _, (job,) = run_batch(archive, tmp_path / "cases")
    shutil.rmtree(tmp_path / "cases" / job.folder)
    events, _ = run_batch(archive, tmp_path / "cases")
    assert events.about("done") == ["a"] and (tmp_path / "cases" / job.folder).is_dir()


def test_an_unusable_gallery_is_an_error_before_any_file_is_read(tmp_path: Path) -> None:
    Gallery.create(tmp_path / "gallery", "another", "0" * 64, 512).close()
    with pytest.raises(UsageError, match="another"):
        prepare_gallery(tmp_path / "gallery", tmp_path / "cases", SETTINGS)
    with pytest.raises(InputError, match="no such file or folder"):
        prepare_gallery(tmp_path / "nowhere", tmp_path / "cases", SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
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
        (["{in}/../night.mp4"], "night.mp4: a file; for one file use fasr-video run"),
        (["{in}", "--gpus", ","], "--gpus ,: a GPU without a name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "night.mp4").touch()
    given = [a.replace("{in}", str(tmp_path / "in")) for a in arguments]
    monkeypatch.setattr(
        sys, "argv", ["fasr-video", "batch", *given, "--out", str(tmp_path / "cases")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    err = capsys.readouterr().err
    assert ended.value.code == 2 and expected in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_an_archive_without_footage_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    command = ["batch", str(tmp_path / "in"), "--out", str(tmp_path / "cases")]
    monkeypatch.setattr(sys, "argv", ["fasr-video", *command, "--scheduler", "local"])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"{tmp_path}/in: no footage found (files" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [("--scheduler", "slurm"), ("--gpus", "0,")])
def test_wrong_options_are_an_error_before_anybody_is_enrolled(
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


def test_jobs_that_failed_before_are_named_by_the_next_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "in", a="no film")
    command = [
        "batch",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "cases"),
        "--scheduler",
        "local",
    ]
    command += [part for one in QUICK for part in ("--set", one)]
    outputs = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["fasr-video", *command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 3
        outputs.append(capsys.readouterr().out)
    assert "not done:" not in outputs[0]  # the failure itself was printed
    assert re.search(
        r"not done: a\.mp4: .*not a video.*; --retry-failed tries it again", outputs[1]
    )


def test_other_search_settings_are_the_same_job() -> None:
    key = settings_key(SETTINGS)
    assert settings_key(configs.load("cpu", (*QUICK, "search.fpir=0.1"))) == key
    assert settings_key(configs.load("cpu", (*QUICK, "sampling.fps=3"))) != key


# With real footage.


def task_for(footage: Path, case: Path, **more: object) -> Task:
    from fasr_video.files import sha256_file

    facts = footage.stat()
    known = (1, footage, sha256_file(footage), facts.st_size, facts.st_mtime_ns)
    values = {"gallery": None, "recording": Recording("door"), **more}
    return Task(*known, case, SETTINGS.model_dump_json(), **values)  # type: ignore[arg-type]


def canonical(folder: Path) -> str:
    with Case.open(folder, read_only=True) as case:
        return digest(case)


@pytest.fixture(scope="module")
def unbroken(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "case"
    assert run_task(task_for(entrance, out), lambda share: None).status is Status.DONE
    return out


def test_a_task_makes_the_same_case_as_run(unbroken: Path, entrance: Path, tmp_path: Path) -> None:
    run([entrance], tmp_path / "case", SETTINGS, recording=Recording("door"))
    assert canonical(tmp_path / "case") == canonical(unbroken)
    with Case.open(unbroken, read_only=True) as case:
        assert case.db.execute("SELECT count(*) FROM track").fetchone()[0]
        assert not [p for c in verify(case) for p in c.problems]


def test_the_canonical_dump_shows_every_other_difference(unbroken: Path, tmp_path: Path) -> None:
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


def test_a_file_that_is_not_the_hashed_one_makes_no_case(entrance: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(entrance, clip)
    stale = task_for(clip, tmp_path / "case")
    clip.write_bytes(clip.read_bytes()[:-10])
    outcome = run_task(stale, lambda share: None)
    assert outcome.status is Status.CHANGED and not (tmp_path / "case").exists()


@pytest.fixture
def decided(unbroken: Path, tmp_path: Path) -> Path:
    """The case of a clip beside it, with a decision of somebody."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "cases" / "case"))
    with Case.open(folder) as case:
        decisions.decide(case, 1, "rejected", "other ear", by="Anna")
    return folder


def decisions_in(folder: Path) -> int:
    with Case.open(folder, read_only=True) as case:
        assert not [p for c in verify(case) for p in c.problems]
        return int(case.db.execute("SELECT count(*) FROM decision").fetchone()[0])


def test_footage_that_was_touched_keeps_its_case(
    decided: Path, entrance: Path, tmp_path: Path
) -> None:
    clip = Path(shutil.copy(entrance, tmp_path / "clip.mp4"))
    stale = task_for(clip, decided)
    os.utime(clip, (1, 1))
    outcome = run_task(stale, lambda share: None)
    assert outcome.status is Status.DONE and decisions_in(decided) == 1


def test_footage_touched_while_it_is_read_is_read_again_into_the_same_case(
    decided: Path, entrance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Path(shutil.copy(entrance, tmp_path / "clip.mp4"))

    def touched(*_: object, **__: object) -> None:
        os.utime(clip, (1, 1))
        raise MediaError(clip, "it changed while it was read", "wait")

    monkeypatch.setattr(worker, "run", touched)
    outcome = run_task(task_for(clip, decided), lambda share: None)
    assert (
        outcome.status is Status.CHANGED
        and "its content is the same" in outcome.message
        and decisions_in(decided) == 1
    )


def test_a_case_with_decisions_is_kept_when_its_footage_changed(
    decided: Path, entrance: Path, tmp_path: Path
) -> None:
    clip = Path(shutil.copy(entrance, tmp_path / "clip.mp4"))
    stale = task_for(clip, decided)
    clip.write_bytes(clip.read_bytes()[:-10])
    outcome = run_task(stale, lambda share: None)
    assert outcome.status is Status.CHANGED and not decided.exists()
    assert "people decided on its tracks: its case is kept as case.kept-1" in outcome.message
    assert decisions_in(decided.with_name("case.kept-1")) == 1


def test_a_case_with_foreign_files_is_kept_when_its_footage_changed(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    clip, folder = (
        Path(shutil.copy(entrance, tmp_path / "clip.mp4")),
        Path(shutil.copytree(unbroken, tmp_path / "case")),
    )
    (folder / "notes.txt").write_text("of somebody")
    stale = task_for(clip, folder)
    clip.write_bytes(clip.read_bytes()[:-10])
    outcome = run_task(stale, lambda share: None)
    assert (
        "it holds files that no run wrote" in outcome.message
        and (tmp_path / "case.kept-1" / "notes.txt").exists()
    )


def test_a_case_that_also_holds_other_footage_is_not_removed(
    decided: Path, corridor: Path, tmp_path: Path
) -> None:
    clip = Path(shutil.copy(corridor, tmp_path / "clip.mp4"))
    outcome = run_task(task_for(clip, decided), lambda share: None)
    assert (
        outcome.status is Status.BAD
        and "it also holds other footage" in outcome.message
        and decisions_in(decided) == 1
    )


def test_a_case_whose_report_cannot_be_written_is_done_with_a_warning(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    shutil.copytree(unbroken, tmp_path / "case")
    report = tmp_path / "case" / "report"
    shutil.rmtree(report)
    report.mkdir()
    (report / "notes.txt").write_text(
        "somebody's own"
    )  # a folder that no report may be written into
    outcome = run_task(task_for(entrance, tmp_path / "case"), lambda share: None)
    assert outcome.status is Status.DONE and outcome.summary["tracks"]
    assert "its report was not written" in outcome.message and "\n" not in outcome.message
    without_report = run_task(
        task_for(entrance, tmp_path / "case", report=False), lambda share: None
    )
    assert without_report.status is Status.DONE and not without_report.message


def test_a_file_that_is_no_video_is_bad_and_another_version_is_unfit(tmp_path: Path) -> None:
    text = write_files(tmp_path, a="no film") / "a.mp4"
    outcome = run_task(task_for(text, tmp_path / "case"), lambda share: None)
    assert outcome.status is Status.BAD and "not a video" in outcome.message
    other = run_task(task_for(text, tmp_path / "case", version="0.0.0"), lambda share: None)
    assert other.status is Status.UNFIT and "0.0.0" in other.message


def test_a_file_whose_disk_was_detached_is_missing_and_not_bad(
    entrance: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    clip = Path(shutil.copy(entrance, tmp_path / "in"))

    def unmount(task: Task, on_progress: OnProgress) -> Outcome:
        task.path.unlink()
        return run_task(task, on_progress)

    events, (job,) = run_batch(tmp_path / "in", tmp_path / "cases", unmount)
    assert [n.text for n in events.notes] == [f"{clip}: it disappeared while it was read"]
    assert (job.state, job.error) == ("missing", "its file is not there any more")


def test_a_case_that_another_process_writes_is_busy(
    unbroken: Path, entrance: Path, tmp_path: Path
) -> None:
    from fasr_video.case.store import only_writer

    shutil.copytree(unbroken, tmp_path / "case")
    with only_writer(tmp_path / "case"):
        assert (
            run_task(task_for(entrance, tmp_path / "case"), lambda share: None).status
            is Status.BUSY
        )


def test_a_long_file_in_chunks_makes_the_same_case(entrance: Path, tmp_path: Path) -> None:
    archive = tmp_path / "in"
    uncut = tmp_path / "uncut"
    cut = tmp_path / "cut"
    archive.mkdir()
    shutil.copy(entrance, archive)
    _, (job,) = run_batch(archive, uncut, run_task)
    events, _ = run_batch(archive, cut, run_task, cut=1.5)
    assert canonical(cut / job.folder) == canonical(uncut / job.folder)
    assert events.about("warning") == []
    assert not list((cut / "chunks").iterdir()), "detections of chunks are removed afterwards"


def test_an_image_of_a_chunk_is_not_detected_a_second_time(entrance: Path, tmp_path: Path) -> None:
    detector, reader = (
        open_detector("haar", weights=None, device="cpu", min_score=0.3),
        open_video(entrance),
    )
    detect_chunk(reader, detector, SETTINGS, tmp_path / "chunks" / "0.sqlite")
    cached = CachedDetector(detector, tmp_path / "chunks")
    images = [f.image for f in reader.frames(sampling_of(SETTINGS))][-3:]
    for stored, fresh in zip(cached.detect(images), detector.detect(images), strict=True):
        assert (stored.boxes == fresh.boxes).all() and (stored.scores == fresh.scores).all()
    assert cached.misses == 0
    with ThreadPoolExecutor(1) as other:  # a run may detect beside reading and storing
        other.submit(cached.detect, [images[0][::-1].copy()]).result()
    assert cached.misses == 1
    cached.close()


def misses(detector: Detector, chunks: Path, images: Sequence[Image]) -> tuple[int, int]:
    """Return how many of the images are in no chunk, and how many chunks were ignored."""
    cached = CachedDetector(detector, chunks)
    cached.detect(images)
    cached.close()
    return cached.misses, cached.ignored_chunks


@pytest.mark.slow
@pytest.mark.parametrize("other", ["model", "way to run it", "not named", "no chunk at all"])
def test_chunks_of_another_detector_are_ignored(other: str, entrance: Path, tmp_path: Path) -> None:
    reader, chunk = open_video(entrance), tmp_path / "chunks" / "0.sqlite"
    detector = open_detector("haar", weights=None, device="cpu", min_score=0.3)
    images = [f.image for f in reader.frames(sampling_of(SETTINGS))][:2]
    detect_chunk(reader, detector, SETTINGS, chunk)
    assert misses(detector, chunk.parent, images) == (0, 0)
    if other == "model":
        detector.fingerprint = "0" * 64  # type: ignore[misc]
    elif other == "way to run it":
        detector = TiledDetector(detector, 480, 80)
    elif other == "not named":  # as in earlier versions
        with closing(sqlite3.connect(chunk)) as database:
            database.execute("DROP TABLE detector")
    else:
        chunk.write_text("no database")
    assert misses(detector, chunk.parent, images) == (2, 1)


def test_chunks_are_detected_anew_when_the_weights_were_replaced_after_a_kill(
    entrance: Path, tmp_path: Path
) -> None:
    archive, weights = tmp_path / "in", tmp_path / "weights.safetensors"
    archive.mkdir()
    shutil.copy(entrance, archive)
    shutil.copy(manifest.bundled("detector.safetensors"), weights)
    settings = configs.load("cpu", (*QUICK, "detect.backend=builtin", f"detect.weights={weights}"))

    def be_killed_after_the_chunks(task: Task, on_progress: OnProgress) -> Outcome:
        if task.chunk is None:
            raise KeyboardInterrupt
        return run_task(task, on_progress)

    with pytest.raises(KeyboardInterrupt):
        run_batch(archive, tmp_path / "cut", be_killed_after_the_chunks, settings=settings, cut=1.5)
    assert len(list((tmp_path / "cut" / "chunks").glob("*/*.sqlite"))) == 3
    with safe_open(weights, "pt") as file:
        form = file.metadata()
    save_file({name: value * 0.98 for name, value in load_file(weights).items()}, weights, form)
    worker._models.cache_clear()  # as in the process of the next command
    events, (job,) = run_batch(archive, tmp_path / "cut", run_task, settings=settings, cut=1.5)
    run_batch(archive, tmp_path / "uncut", run_task, settings=settings)
    assert canonical(tmp_path / "cut" / job.folder) == canonical(tmp_path / "uncut" / job.folder)
    assert "3 of its chunks" in events.notes[-1].text and events.about("warning") == [job.folder]
    assert not list((tmp_path / "cut" / "chunks").iterdir())


def test_camera_and_clock_are_stored_in_the_case_and_can_be_corrected(
    entrance: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "in"
    archive.mkdir()
    shutil.copy(entrance, archive / "door_20240501_120000.mp4")
    names = r"(?P<camera>[a-z]+)_(?P<date>\d+)_(?P<time>\d+)"
    _, (job,) = run_batch(
        archive, tmp_path / "cases", run_task, cameras=read_cameras(names, None, "UTC")
    )

    def clock() -> tuple[object, ...]:
        with Case.open(tmp_path / "cases" / job.folder, read_only=True) as case:
            assert not [p for c in verify(case) for p in c.problems]
            return tuple(
                case.db.execute("SELECT camera, clock ->> '$.start' FROM source").fetchone()
            )

    assert clock() == ("door", "2024-05-01T12:00:00+00:00")
    run_batch(archive, tmp_path / "cases", run_task)
    assert clock() == ("door", "2024-05-01T12:00:00+00:00"), "without new values the old ones stay"
    events, _ = run_batch(
        archive, tmp_path / "cases", run_task, cameras=read_cameras(names, None, "+02:00")
    )
    assert clock() == ("door", "2024-05-01T12:00:00+02:00")
    assert [n.text for n in events.notes] == ["camera and clock corrected"]


def start_batch(archive: Path, cases: Path, *more: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    overrides = [part for o in QUICK for part in ("--set", o)]
    return start_command(
        "batch", archive, "--out", cases, "--workers", 1, *overrides, *more, cwd=cases.parent
    )


@pytest.mark.slow
def test_a_killed_batch_goes_on_and_makes_the_same_cases(
    entrance: Path, unbroken: Path, tmp_path: Path
) -> None:
    archive, cases = tmp_path / "in", tmp_path / "cases"
    archive.mkdir()
    shutil.copy(entrance, archive / "a.mp4")
    (archive / "b.mp4").write_text("no film")
    process = start_batch(archive, cases)
    while not list(cases.glob("a-*/case.sqlite")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ("running",) in query_ledger(cases, "SELECT state FROM job")
    process = start_batch(archive, cases, "--json")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, err
    assert '"failed": 1' in out.splitlines()[-1] and "Traceback" not in err
    assert dict(query_ledger(cases, "SELECT substr(folder, 1, 1), tries FROM job")) == {
        "a": 1,
        "b": 1,
    }
    (case,) = cases.glob("a-*/")
    with Case.open(case) as opened:
        assert not [p for c in verify(opened) for p in c.problems]
    run([entrance], case, SETTINGS, recording=Recording("door"))  # this batch was given no camera
    assert canonical(case) == canonical(unbroken)
    assert (cases / "summary.html").is_file() and (cases / "summary.csv").is_file()
