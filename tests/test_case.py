"""The case store: versions, integrity, decisions that can be taken back."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from fasr_video.configs import settings as configs
from fasr_video.errors import CaseError, IntegrityError
from fasr_video.pipeline.case import DATABASE, Case
from fasr_video.pipeline.links import decide
from fasr_video.pipeline.run import run
from fasr_video.pipeline.verify import verify


@pytest.fixture(scope="module")
def finished(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    footage = Path(shutil.copy(entrance, folder / "footage.mp4"))
    run([footage], folder / "case", configs.load("cpu", ("sampling.fps=3", "track.min_sightings=2")))
    return folder


@pytest.fixture
def case(finished: Path, tmp_path: Path) -> Path:
    """A copy to tamper with, its footage beside it."""
    shutil.copytree(finished, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "case" / DATABASE) as db:
        db.execute("UPDATE source SET path = ?", (str(tmp_path / "copy" / "footage.mp4"),))
    return tmp_path / "copy" / "case"


def problems(folder: Path) -> list[str]:
    with Case.open(folder) as case:
        return [p for c in verify(case) for p in c.problems]


def test_untouched_case_is_intact(case: Path) -> None:
    assert problems(case) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE log SET details = '{}' WHERE id = 1", "log line 1"),
        ("DELETE FROM log WHERE id = 2", "log line"),
        ("UPDATE face SET score = 0.99 WHERE id = 3", "faces or tracks"),
        ("UPDATE face SET reason = 'blurred' WHERE id = (SELECT min(id) FROM face)", "faces or tracks"),
        ("DELETE FROM face WHERE id = (SELECT max(id) FROM face)", "faces or tracks"),
        ("UPDATE track SET verdict = 'insufficient'", "faces or tracks"),
        ("UPDATE meta SET value = '{}' WHERE key = 'settings'", "settings"),
        ("UPDATE source SET sha256 = 'abc'", "not the footage"),
        ("UPDATE source SET sha256 = 'abc'", "what is known of"),
        ("UPDATE source SET info = json_set(info, '$.time_base', '1/1')", "what is known of"),
        ("UPDATE source SET detector = json_set(detector, '$.name', 'other')", "the detector of"),
        ("DELETE FROM log WHERE id = (SELECT max(id) FROM log)", "the end of the log"),
    ],
)
def test_every_change_of_a_row_is_found(case: Path, change: str, found: str) -> None:
    with sqlite3.connect(case / DATABASE) as db:
        assert db.execute(change).rowcount > 0
    assert any(found in p for p in problems(case))


def test_changed_and_missing_pictures_are_found(case: Path) -> None:
    first, second = sorted((case / "crops").glob("*/*.png"))[:2]
    first.write_bytes(first.read_bytes() + b"\0")
    second.unlink()
    told = problems(case)
    assert any(first.name in p and "changed" in p for p in told)
    assert any(second.name in p and "missing" in p for p in told)


def test_changed_footage_is_found_and_missing_footage_is_told(case: Path) -> None:
    footage = case.parent / "footage.mp4"
    footage.write_bytes(footage.read_bytes()[:-1])
    assert any("not the footage" in p for p in problems(case))
    footage.unlink()
    with Case.open(case) as opened:
        (sources,) = [c for c in verify(opened) if c.what == "sources"]
    assert sources.problems == [] and "is not there" in sources.unchecked[0]


def test_case_of_another_version_is_refused_by_name(case: Path) -> None:
    with sqlite3.connect(case / DATABASE) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(CaseError, match="another version"):
        Case.open(case)


def test_damaged_database_is_an_integrity_error_and_stays_as_it_is(case: Path) -> None:
    path = case / DATABASE
    damaged = b"not a database at all " * 400
    for extra in case.glob(f"{DATABASE}-*"):
        extra.unlink()
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match="damaged") as caught:
        Case.open(case)
    assert caught.value.exit_code == 4
    assert path.read_bytes() == damaged


def test_reading_a_case_writes_nothing(case: Path) -> None:
    before = {p.name: p.read_bytes() for p in case.iterdir() if p.is_file() and not p.name.endswith("-shm")}
    with Case.open(case, read_only=True) as opened:
        assert opened.db.execute("SELECT count(*) FROM face").fetchone()[0] > 0
        with pytest.raises(sqlite3.OperationalError):
            opened.db.execute("DELETE FROM face")
    after = {p.name: p.read_bytes() for p in case.iterdir() if p.is_file() and not p.name.endswith("-shm")}
    assert {k: v for k, v in after.items() if v} == {k: v for k, v in before.items() if v}


def test_damaged_pages_are_told_by_verify(case: Path) -> None:
    path = case / DATABASE
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = db.execute("SELECT rootpage FROM sqlite_master WHERE name IN ('face', 'track', 'log')").fetchall()
    db.close()
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    for (root,) in roots:
        start = (root - 1) * page
        data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    with Case.open(case, read_only=True) as opened:
        assert any(c.problems for c in verify(opened))


def test_failed_transaction_leaves_nothing(case: Path) -> None:
    with Case.open(case) as opened:
        before = opened.db.execute("SELECT count(*) FROM log").fetchone()[0]
        with pytest.raises(ZeroDivisionError), opened.transaction():
            opened.log("half", {})
            raise ZeroDivisionError
        assert opened.db.execute("SELECT count(*) FROM log").fetchone()[0] == before


def test_a_decision_on_a_link_can_be_taken_back_and_stays_in_the_log(case: Path) -> None:
    with Case.open(case) as opened:
        (track,) = opened.db.execute("SELECT id FROM track LIMIT 1").fetchone()
        with opened.transaction():
            opened.db.execute("INSERT INTO track (id, source, tracker_id, state) VALUES (1000, 1, 1000, 'live')")
            opened.db.execute(
                "INSERT INTO link (a, b, score, evidence, state) VALUES (?, 1000, 0.8, 'test', 'proposed')", (track,)
            )
        for decision in ("accepted", "refused", "proposed"):
            decide(opened, 1, decision, "an examiner")
        row = opened.db.execute("SELECT * FROM link").fetchone()
        assert (row["state"], row["decided_by"]) == ("proposed", None)
        assert not [p for c in verify(opened) for p in c.problems if p.startswith("link ")]
        opened.db.execute("UPDATE link SET state = 'accepted', decided_by = 'nobody'")
        assert [p for c in verify(opened) for p in c.problems if "link 1 is not as it was decided" in p]
        decided = opened.db.execute("SELECT count(*) FROM log WHERE event = 'link decided'").fetchone()[0]
        assert decided == 3


def test_opening_a_case_that_another_process_reads_works(case: Path) -> None:
    with Case.open(case) as one, Case.open(case) as two:
        one.db.execute("BEGIN")
        one.db.execute("SELECT * FROM face").fetchone()
        with two.transaction():
            two.log("noted", {})
        one.db.execute("COMMIT")
