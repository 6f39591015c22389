"""Purging: expired cases are removed, a tombstone stays, and copies elsewhere are found."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fasr_video.archive.ledger import Ledger
from fasr_video.archive.summary import write_summary
from fasr_video.archive.tasks import OnProgress, Outcome, Status, Task
from fasr_video.case.case import Case
from fasr_video.case.document import tracks
from fasr_video.case.store import DATABASE, SETTINGS, TOMBSTONE, hold_lock
from fasr_video.configs import settings as configs
from fasr_video.custody import purge as purging
from fasr_video.custody.purge import Tombstone
from fasr_video.errors import CaseError
from tests.support.archives import run_batch, write_files
from tests.support.cases import make_synthetic_case, recompute_log_chain
from tests.support.commands import run_command


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic_case(tmp_path_factory.mktemp("template") / "case")


@pytest.fixture
def copied_case(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "case"))


def set_days(folder: Path, days: int | None) -> None:
    """Change the case as if it had been made with this setting."""

    def change(case: Case) -> None:
        case.db.execute(
            "UPDATE meta SET value = json_set(value, '$.case.retention_days', ?) WHERE key = "
            "'settings'",
            (days,),
        )
        update = (
            "UPDATE log SET details = json_set(details, '$.settings.case.retention_days', ?)"
            " WHERE event = 'created'"
        )
        case.db.execute(update, (days,))
        text = (folder / SETTINGS).read_text()
        (folder / SETTINGS).write_text(
            text.replace("retention_days: null", f"retention_days: {json.dumps(days)}")
        )

    recompute_log_chain(folder, change)


@pytest.fixture
def expire(copied_case: Path) -> Path:
    """Return a case whose time is over."""
    set_days(copied_case, 0)
    return copied_case


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix == ".png"
    }


def tombstone(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / TOMBSTONE).read_text())
    return content


NOW = ("--now", "--why", "its people asked", "--yes")


def make_case(task: Task, on_progress: OnProgress) -> Outcome:
    make_synthetic_case(task.case, tracks=1)
    return Outcome(Status.DONE, summary={"frames": 12, "tracks": 1, "with_candidates": 1})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return folder `cases` of a batch: cases a and b with a summary; the footage is in `in`."""
    run_batch(
        write_files(tmp_path / "in", a="1", b="2"),
        tmp_path / "cases",
        make_case,
        settings=configs.load("cpu"),
    )
    with Ledger.read(tmp_path / "cases") as ledger:
        assert len(write_summary(ledger).leads) == 2
    return tmp_path / "cases"


def case_of(archive: Path, name: str) -> Path:
    (folder,) = archive.glob(f"{name}-*")
    return folder


def in_summary(archive: Path) -> set[str]:
    """Return the names of the footage whose faces and candidates the summary shows."""
    document = json.loads((archive / "summary.json").read_text())
    visible = {lead["case"][0] for lead in document["leads"]}
    page = (archive / "summary.html").read_text()
    assert page.count("data:image/jpeg") >= len(visible)
    assert ("data:image/jpeg" in page) == bool(visible)
    assert ("&amp; son" in page) == bool(visible)
    return visible


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--now", "--why", "by order")])
def test_nothing_is_removed_without_yes(
    options: tuple[str, ...], expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(expire)
    code, out, _ = run_command(capsys, "purge", expire, *options)
    assert code == 0 and "would be removed" in out and "nothing was removed" in out
    assert hashes(expire) == before and not (expire / TOMBSTONE).exists()


def test_a_purge_leaves_only_a_tombstone_with_the_hashes(
    expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = hashes(expire)
    with Case.open(expire, read_only=True) as case:
        head, case_id = case.meta("log_head"), case.meta("case_id")
    code, out, _ = run_command(capsys, "purge", expire, "--yes", "--by", "an officer")
    assert code == 0 and "1 of 1 case removed" in out
    assert [p.name for p in expire.iterdir()] == [TOMBSTONE]
    content = tombstone(expire)
    assert (content["state"], content["by"], content["case_id"], content["log_head"]) == (
        "removed",
        "an officer",
        case_id,
        head,
    )
    assert {k: v["sha256"] for k, v in content["removed"].items() if k in pictures} == pictures
    assert {DATABASE, "settings.yaml"} < content["removed"].keys()
    assert content["copies"]["found"] == []
    with pytest.raises(CaseError, match="it was purged"):
        Case.open(expire)


@pytest.mark.parametrize("days", [None, 30])
def test_a_case_is_not_removed_before_its_time_is_over(
    days: int | None, copied_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_days(copied_case, days)
    code, out, _ = run_command(capsys, "purge", copied_case, "--yes")
    assert code == 0 and "0 of 1 case removed" in out and (copied_case / DATABASE).is_file()
    assert f"kept: {copied_case}: made " in out and "to remove it now: --now --why TEXT" in out


def test_time_is_counted_from_when_the_case_was_made(copied_case: Path) -> None:
    set_days(copied_case, 30)
    (due,) = purging.retained_cases([copied_case.parent])
    made_at = datetime.fromisoformat(due.made_at)
    assert not due.has_expired(made_at + timedelta(days=29.99))
    assert due.has_expired(made_at + timedelta(days=30))


def test_a_named_case_is_removed_early_with_a_reason(
    copied_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(capsys, "purge", copied_case, "--now", "--yes")[0] == 2
    assert (
        run_command(capsys, "purge", copied_case, "--now", "--yes", "--why", "court order 7")[0]
        == 0
    )
    assert tombstone(copied_case)["why"] == "court order 7"
    code, _, err = run_command(capsys, "search", copied_case, "--gallery", copied_case)
    assert code == 2 and "it was purged" in err
    again = ("purge", copied_case, "--now", "--why", "court order 7")
    for more in ((), ("--yes",)):
        assert run_command(capsys, *again, *more)[:2] == (0, f"{copied_case}: already purged\n")
    assert run_command(capsys, *again, "--dry-run")[1].endswith("dry run: nothing was removed\n")


def test_all_cases_of_a_folder_are_removed_early_only_with_all(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_command(capsys, "purge", archive, *NOW)
    assert code == 2 and "all 2 cases of a folder; add --all" in err
    assert out.count("would be removed") == 2 and (case_of(archive, "a") / DATABASE).is_file()
    assert run_command(capsys, "purge", archive, "--all", "--yes")[0] == 2, "--all is for --now"
    code, out, _ = run_command(
        capsys, "purge", archive, *NOW, "--all", "--search", archive.parent / "in"
    )
    assert code == 0 and "2 of 2 cases removed" in out


def test_copies_elsewhere_are_named_and_left(
    expire: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Case.open(expire, read_only=True) as case:
        picture = case.folder / str(tracks(case)[0].kept_faces[0].native)
        feature = case.db.execute("SELECT feature FROM probe").fetchone()[0]
    copied = Path(shutil.copy(picture, tmp_path / "copy.png"))
    page, packed, other = tmp_path / "page.html", tmp_path / "packed.bin", tmp_path / "other.bin"
    page.write_text(
        f"<img src='data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}'>"
    )
    packed.write_bytes(b"abc" + feature + b"def")
    other.write_bytes(os.urandom(10_000))
    code, out, _ = run_command(capsys, "purge", expire, "--yes")
    assert code == 4
    assert {
        line.rsplit(" ", 1)[1] for line in out.splitlines() if "copies are left in" in line
    } == {str(p) for p in (copied, page, packed)}
    assert tombstone(expire)["copies"]["found"] == sorted(map(str, (copied, page, packed)))
    assert copied.exists() and page.exists() and packed.exists()


def test_exported_pictures_are_found_as_copies(
    expire: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(capsys, "pictures", expire, "--out", tmp_path / "handed out")[0] == 0
    _, out, _ = run_command(capsys, "purge", expire, "--yes", "--json")
    found = {Path(p).name for p in json.loads(out)[0]["copies"]["found"]}
    assert found == {p.name for p in (tmp_path / "handed out").glob("*.png")}


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_a_killed_purge_leaves_no_open_case_and_is_finished_later(
    after: int, expire: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (due,) = purging.retained_cases([expire])
    search = purging.search_copies([due], [expire.parent])
    pictures, unlink, left = hashes(expire), Path.unlink, [after]

    def until_killed(path: Path, missing_ok: bool = False) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", until_killed)
        purging.purge(due, search, "one", "its time is over")
    if after:
        with pytest.raises(CaseError, match="it was purged"):
            Case.open(expire)
    (unfinished,) = purging.retained_cases([expire])
    assert unfinished.has_expired(datetime.now(UTC))
    purging.purge(unfinished, purging.search_copies([unfinished], []), "another", "")
    content = tombstone(expire)
    assert (
        [p.name for p in expire.iterdir()] == [TOMBSTONE]
        and content["state"] == "removed"
        and content["by"] == "one"
    )
    assert {k: v["sha256"] for k, v in content["removed"].items() if k in pictures} == pictures
    assert purging.retained_cases([expire]) == []


def test_a_purge_killed_while_writing_its_tombstone_is_finished_later(
    copied_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(capsys, "purge", copied_case, *NOW)[0] == 0
    half = json.dumps(tombstone(copied_case) | {"state": "removing"})
    (copied_case / TOMBSTONE).write_text(half)
    (copied_case / f"{TOMBSTONE}.part").write_text(half[:9])
    code, _, err = run_command(capsys, "purge", copied_case, "--yes")
    assert code == 0, err
    assert tombstone(copied_case)["state"] == "removed"
    assert [p.name for p in copied_case.iterdir()] == [TOMBSTONE]


def test_a_case_that_a_run_is_writing_is_not_removed(
    expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(expire)
    with hold_lock(expire):
        code, _, err = run_command(capsys, "purge", expire, "--yes")
    assert code == 3 and "another run is writing" in err and hashes(expire) == before


def test_a_damaged_case_is_not_removed_and_does_not_stop_the_others(
    expire: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / DATABASE).write_bytes(b"no database" * 1000)
    code, out, err = run_command(capsys, "purge", tmp_path, "--yes")
    assert (
        code == 3
        and "1 of 2 cases removed" in out
        and "damaged" in err
        and (damaged / DATABASE).is_file()
    )


def test_a_missing_search_folder_stops_the_purge(
    expire: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "purge", expire, "--yes", "--search", tmp_path / "nowhere")
    assert code == 2 and "no such folder to search" in err and (expire / DATABASE).is_file()


def test_a_case_without_a_log_is_not_removed(
    expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(expire / DATABASE) as db:
        db.execute("DELETE FROM log")
    code, _, err = run_command(capsys, "purge", expire, "--yes")
    assert code == 3 and "its log is empty" in err and (expire / DATABASE).is_file()


def test_a_folder_without_cases_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "purge", tmp_path, "--yes")
    assert code == 2 and "no case here" in err


def test_a_locked_case_keeps_neither_other_cases_nor_their_faces_in_the_summary(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold_lock(case_of(archive, "b")):
        code, out, err = run_command(capsys, "purge", archive, *NOW, "--all")
    assert code == 3 and "1 of 2 cases removed" in out and str(case_of(archive, "a")) in out
    assert err.count("\n") == 1 and "another run is writing" in err
    assert in_summary(archive) == {"b"}


def test_a_case_with_unreadable_pictures_is_kept_and_the_others_are_removed(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(case_of(archive, "b") / DATABASE) as db:
        db.execute("UPDATE restoration SET samples = 'no list'")
    code, out, err = run_command(
        capsys, "purge", archive, *NOW, "--all", "--search", archive.parent / "in"
    )
    assert code == 3 and "1 of 2 cases removed" in out and "damaged" in err and err.count("\n") == 1
    assert (case_of(archive, "b") / DATABASE).is_file() and not (
        case_of(archive, "a") / DATABASE
    ).exists()


def test_the_next_purge_takes_cases_of_a_killed_purge_out_of_the_summary(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for due in purging.retained_cases([archive]):
        purging.purge(due, purging.search_copies([due], []), "one", "order")
    assert in_summary(archive) == {"a", "b"}, "killed before it was written anew"
    assert run_command(capsys, "purge", archive)[0] == 0 and in_summary(archive) == {"a", "b"}, (
        "nothing without --yes"
    )
    code, out, _ = run_command(capsys, "purge", archive, "--yes")
    assert code == 0 and "0 of 0 cases removed" in out and in_summary(archive) == set()


def test_an_unwritable_summary_is_one_line_and_the_next_purge_writes_it(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = archive / "summary.html"
    page.rename(archive / "aside")
    page.mkdir()
    code, out, err = run_command(capsys, "purge", archive, *NOW, "--all")
    assert code == 3 and "2 of 2 cases removed" in out
    assert err.count("\n") == 1 and "summary was not written" in err and "cannot be written" in err
    page.rmdir()
    (archive / "aside").rename(page)
    assert run_command(capsys, "purge", archive, "--yes")[0] == 0 and in_summary(archive) == set()


def test_the_next_purge_lists_copies_that_a_killed_purge_found(
    expire: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Case.open(expire, read_only=True) as case:
        picture = case.folder / str(tracks(case)[0].kept_faces[0].native)
    copied, gone = (
        Path(shutil.copy(picture, tmp_path / name)) for name in ("copy.png", "gone.png")
    )

    def killed(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        assert run_command(capsys, "purge", expire, "--yes")[0] == 130
    gone.unlink()
    code, out, _ = run_command(capsys, "purge", expire, "--yes")
    assert code == 4 and f"copies are left in {copied}" in out and "gone.png" not in out
    assert run_command(capsys, "purge", expire, "--yes")[0] == 0, "there is nothing to go on with"


def test_a_damaged_tombstone_stops_no_other_case(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_command(
            capsys, "purge", case_of(archive, "b"), *NOW, "--search", archive.parent / "in"
        )[0]
        == 0
    )
    (case_of(archive, "b") / TOMBSTONE).write_text('{"state": "removed"}')
    code, out, err = run_command(capsys, "purge", archive, *NOW, "--all")
    assert code == 3 and "1 of 2 cases removed" in out and "a damaged tombstone" in err
    document = json.loads((archive / "summary.json").read_text())
    assert [p["case"][0] for p in document["purged"]] == ["a"] and len(document["not_read"]) == 1


def test_a_later_batch_neither_counts_nor_remakes_a_purged_case(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_command(
            capsys, "purge", case_of(archive, "a"), *NOW, "--search", archive.parent / "in"
        )[0]
        == 0
    )
    batch = (
        "batch",
        archive.parent / "in",
        "--out",
        archive,
        "--scheduler",
        "local",
        "--no-report",
    )
    code, out, _ = run_command(capsys, *batch)
    assert (
        code == 0
        and "1 done, 1 purged; 1 track, 1 with candidates" in out
        and "not read" not in out
    )
    document = json.loads((archive / "summary.json").read_text())
    write_tombstone = tombstone(case_of(archive, "a"))
    expected = {
        "case": case_of(archive, "a").name,
        "at": write_tombstone["removed_at"],
        "why": "its people asked",
    }
    assert document["purged"] == [expected] and document["not_read"] == []
    assert {u["case"][0]: (u["state"], u["counted"]) for u in document["jobs"]} == {
        "a": ("purged", False),
        "b": ("done", True),
    }
    page = (archive / "summary.html").read_text()
    assert "<b>1</b> purged" in page and "its people asked" in page and "newer settings" not in page
    assert not (case_of(archive, "a") / DATABASE).exists(), "it is not made again"


def write_tombstone(folder: Path, state: str, removed: dict[str, object] | None = None) -> None:
    """Write a tombstone, as an attacker would."""
    content: dict[str, object] = dict.fromkeys(Tombstone.__slots__, "")
    content |= {"state": state, "why": "its time is over", "log_head": "0" * 64}
    content |= dict.fromkeys(("made_at", "begun_at"), "2020-01-01T00:00:00+00:00")
    content["copies"] = {"folders": [], "files": 0, "size": 0, "unread": [], "found": []}
    content["removed"] = removed or {}
    (folder / TOMBSTONE).write_text(json.dumps(content))


@pytest.mark.parametrize("state", ["removing", "removed"])
def test_a_planted_tombstone_removes_no_case(
    state: str, copied_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(copied_case)
    write_tombstone(copied_case, state)
    code, out, err = run_command(capsys, "purge", copied_case, "--yes")
    assert (
        code == 3
        and "0 of 1 case removed" in out
        and "a tombstone, although the case still exists" in err
    )
    assert hashes(copied_case) == before and (copied_case / DATABASE).is_file()


def test_a_restored_tombstone_of_an_earlier_state_removes_no_case(
    copied_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    purged = Path(shutil.copytree(copied_case, tmp_path / "purged"))
    assert run_command(capsys, "purge", purged, *NOW, "--search", copied_case)[0] == 4, (
        "the other one holds copies"
    )
    content = tombstone(purged) | {"state": "removing"}
    (copied_case / TOMBSTONE).write_text(json.dumps(content))
    code, out, _ = run_command(capsys, "purge", copied_case, "--yes")
    assert code == 0 and "0 of 1 case removed" in out and (copied_case / DATABASE).is_file()
    with Case.open(copied_case) as case, case.transaction():
        case.log("resumed", {})
    code, _, err = run_command(capsys, "purge", copied_case, *NOW)
    assert (
        code == 3
        and "a tombstone, although the case still exists" in err
        and (copied_case / DATABASE).is_file()
    )


def test_a_planted_tombstone_removes_no_foreign_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    footage, notes = (
        tmp_path / "evidence" / "film.mp4",
        tmp_path / "evidence" / "notes" / "seen.txt",
    )
    notes.parent.mkdir(parents=True)
    for path in (footage, notes):
        path.write_text("of somebody")
    entry = {"sha256": hashlib.sha256(b"of somebody").hexdigest(), "size": 11}
    write_tombstone(footage.parent, "removing", {"film.mp4": entry, "notes/seen.txt": entry})
    code, _, err = run_command(capsys, "purge", footage.parent, "--yes")
    assert code == 3 and "nothing was removed" in err and footage.exists() and notes.exists()
    shutil.rmtree(notes.parent)
    (footage.parent / "settings.yaml").write_text("of somebody else")
    footage.unlink()
    code, _, err = run_command(capsys, "purge", footage.parent, "--yes")
    assert (
        code == 3
        and "not what the tombstone lists" in err
        and (footage.parent / "settings.yaml").exists()
    )


STRANGE = (
    "notes.txt",
    "crops/notes.txt",
    "film.mp4",
    "T1/case.sqlite",
    "report/mine.html",
    "gallery/mugshot.jpg",
)


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_that_the_case_did_not_write_stops_the_purge(
    name: str, expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(expire)
    (expire / name).parent.mkdir(exist_ok=True)
    (expire / name).write_text("of somebody")
    if name.startswith("report"):
        (expire / "report" / "SHA256SUMS").touch()
    code, out, err = run_command(capsys, "purge", expire, "--yes")
    assert code == 3 and "0 of " in out and "nothing was removed" in err
    assert (
        hashes(expire) == before
        and (expire / DATABASE).is_file()
        and not (expire / TOMBSTONE).exists()
    )


def test_a_case_inside_a_case_stops_the_purge(
    expire: Path, copied_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = Path(shutil.copytree(copied_case, expire / "inner"))
    set_days(inner, 1000)
    code, out, _ = run_command(capsys, "purge", expire, "--yes")
    assert code == 3 and "0 of 2 cases removed" in out
    assert (inner / DATABASE).is_file() and (expire / DATABASE).is_file()


def test_a_link_in_the_case_stops_the_purge(
    expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (expire / "link").symlink_to("/etc/passwd")
    code, _, err = run_command(capsys, "purge", expire, "--yes")
    assert code == 3 and "a link" in err and (expire / DATABASE).is_file()


def test_a_changed_picture_stops_the_purge(
    expire: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next((expire / "crops").glob("*/*.png"))
    picture.write_bytes(b"another")
    code, _, err = run_command(capsys, "purge", expire, "--yes")
    assert (
        code == 3
        and f"{picture}: not what this case wrote" in err
        and (expire / DATABASE).is_file()
    )


def test_a_retention_time_changed_by_sql_removes_no_case(
    copied_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(copied_case / DATABASE) as db:
        db.execute(
            "UPDATE meta SET value = json_set(value, '$.case.retention_days', 0) WHERE key = "
            "'settings'"
        )
    code, _, err = run_command(capsys, "purge", copied_case, "--yes")
    assert code == 3 and "settings differ from those" in err and (copied_case / DATABASE).is_file()


@pytest.mark.parametrize("days", [100, 4000])
def test_a_clock_far_from_the_log_removes_no_case(
    days: int,
    copied_case: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_days(copied_case, 30)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(days=days)

    monkeypatch.setattr("fasr_video.commands.custody.datetime", Clock)
    code, out, err = run_command(capsys, "purge", copied_case, "--yes")
    assert code == 3 and "too far apart" in err and "0 of 1 case removed" in out
    assert (copied_case / DATABASE).is_file()
    assert run_command(capsys, "purge", copied_case, *NOW)[0] == 0


def test_a_case_is_removed_by_the_clock_within_a_month_of_its_time(copied_case: Path) -> None:
    set_days(copied_case, 30)
    (due,) = purging.retained_cases([copied_case])
    assert due.last_logged is not None
    for days, removed in {29: False, 31: True, 60: True, 62: False}.items():
        at = due.last_logged + timedelta(days=days)
        assert (due.has_expired(at) and not due.clock_problem(at)) == removed
    behind = replace(due, expires_at=due.last_logged - timedelta(days=9))
    assert behind.has_expired(due.last_logged - timedelta(days=5)) and behind.clock_problem(
        due.last_logged - timedelta(days=5)
    )
