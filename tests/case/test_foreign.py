"""Cases, galleries and ledgers of somebody else: what no version of ours made is refused before it
does anything.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fasr_video import sqlite
from fasr_video.archive.ledger import DATABASE as LEDGER
from fasr_video.archive.ledger import Ledger
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide
from fasr_video.case.store import DATABASE, chain_hash
from fasr_video.errors import IntegrityError
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.store import DATABASE as GALLERY
from tests.support.archives import run_batch, write_files
from tests.support.cases import write_hot_journal
from tests.support.commands import run_command

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
VIEW = (
    f"CREATE VIEW track AS {ENDLESS} SELECT x AS id, 1 AS source, x AS number, 'done' AS state "
    "FROM n"
)
TRIGGER = (
    "CREATE TRIGGER kind AFTER INSERT ON decision BEGIN UPDATE decision SET verdict = 'accepted'; "
    "END"
)


@pytest.fixture
def case(reviewed_case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reviewed_case, tmp_path / "cases" / "case"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    run_batch(write_files(tmp_path / "in", a="1"), tmp_path / "cases")
    return tmp_path / "cases"


def execute_sql(database: Path, *statements: str) -> None:
    with sqlite3.connect(database) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def recompute_hashes(case: Path, *statements: str) -> None:
    """Change it as who knows the program: all hashes of the log fit again."""
    execute_sql(case / DATABASE, *statements)
    with sqlite3.connect(case / DATABASE) as db:
        previous = ""
        for number, at, event, details in db.execute(
            "SELECT id, at, event, details FROM log ORDER BY id"
        ).fetchall():
            hashed = chain_hash(previous, at, event, details)
            db.execute(
                "UPDATE log SET previous = ?, hash = ? WHERE id = ?", (previous, hashed, number)
            )
            previous = hashed
        db.execute("UPDATE meta SET value = ? WHERE key = 'log_head'", (previous,))
    db.close()


def test_a_trigger_that_changes_decisions_never_runs(case: Path) -> None:
    execute_sql(case / DATABASE, TRIGGER)
    for read_only in (True, False):
        with pytest.raises(IntegrityError, match="trigger kind was added to or changed in it"):
            Case.open(case, read_only)


@pytest.mark.parametrize("command", ["show", "verify", "purge"])
def test_an_endless_view_does_not_block_any_command(
    command: str, case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute_sql(
        case / DATABASE, "PRAGMA foreign_keys = OFF", "ALTER TABLE track RENAME TO old", VIEW
    )
    code, _, err = run_command(capsys, command, case)
    assert code == (3 if command == "purge" else 4)
    assert err.count("\n") == 1 and "not a database that fasr-video made" in err


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("CREATE TABLE more (x)", "table more was added to"),
        ("CREATE INDEX more ON face (score)", "index more was added to"),
        ("DROP INDEX face_by_track", "index face_by_track is missing from"),
        ("DROP TABLE gallery_photo", "table gallery_photo is missing from"),
        ("ALTER TABLE face ADD COLUMN more", "table face was added to or changed in"),
        ("DROP TABLE meta", "table meta is missing from"),
        (f"CREATE VIEW more AS {ENDLESS} SELECT x FROM n", "view more was added to"),
    ],
)
def test_a_case_with_a_different_schema_is_refused(case: Path, statement: str, says: str) -> None:
    execute_sql(case / DATABASE, statement)
    with pytest.raises(IntegrityError, match=says) as caught:
        Case.open(case, read_only=True)
    assert "\n" not in str(caught.value)


def test_a_meta_table_that_is_a_view_is_never_queried(case: Path) -> None:
    view = f"CREATE VIEW meta AS {ENDLESS} SELECT 'schema' AS key, x AS value FROM n WHERE x < 0"
    execute_sql(case / DATABASE, "DROP TABLE meta", view)
    with pytest.raises(IntegrityError, match="meta"):
        Case.open(case, read_only=True)


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE more (x)", f"CREATE VIEW more AS {ENDLESS} SELECT x FROM n"]
)
def test_a_gallery_or_ledger_with_a_different_schema_is_refused(
    case: Path, archive: Path, statement: str
) -> None:
    execute_sql(case / "gallery" / GALLERY, statement)
    execute_sql(archive / LEDGER, statement)
    opens: list[Callable[[], object]] = [
        lambda: Gallery.open(case / "gallery"),
        lambda: Gallery.open(case / "gallery", read_only=True),
        lambda: Ledger.open(archive),
        lambda: Ledger.read(archive),
    ]
    for opened in opens:
        with pytest.raises(IntegrityError, match="more was added to or changed in it"):
            opened()


def test_a_ledger_of_another_version_is_refused_for_readers_too(archive: Path) -> None:
    execute_sql(archive / LEDGER, "UPDATE meta SET value = '99'")
    for opened in (Ledger.open, Ledger.read):
        with pytest.raises(IntegrityError, match="another version"):
            opened(archive)


@pytest.mark.parametrize("whose", ["case", "gallery", "ledger"])
def test_a_journal_that_names_another_file_does_not_delete_it(
    whose: str, case: Path, archive: Path
) -> None:
    mine = archive.parent / "mine.txt"
    mine.write_text("mine")
    database = {
        "case": case / DATABASE,
        "gallery": case / "gallery/gallery.sqlite",
        "ledger": archive / LEDGER,
    }[whose]
    write_hot_journal(mine, database)
    with pytest.raises(IntegrityError, match="a journal that has SQLite remove another file"):
        if whose == "case":
            Case.open(case)
        elif whose == "gallery":
            Gallery.open(case / "gallery")
        else:
            Ledger.open(archive)
    assert mine.read_text() == "mine"


def test_a_case_in_a_folder_with_a_non_utf8_name_is_read(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/c\xf6"))
    case.rename(folder)
    codes = {}
    for command in ("show", "verify", "report", "purge"):
        codes[command], _, err = run_command(capsys, command, folder)
        assert "Traceback" not in err, (command, err)
    assert codes == {"show": 0, "verify": 0, "report": 0, "purge": 0}


def test_an_endless_statement_is_reported_as_damage(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_STEPS", 1_000_000)
    with (
        pytest.raises(IntegrityError, match="takes longer than"),
        Case.open(case, read_only=True) as opened,
    ):
        opened.db.execute(f"{ENDLESS} SELECT count(*) FROM n").fetchone()
    with Case.open(case) as opened:  # each statement has its own measure
        for _ in range(50):
            opened.db.execute("SELECT count(*) FROM face, face").fetchone()
        decide(opened, 1, "rejected", "ears", by="Anna")


VALUES = {
    "a time base of nothing": "UPDATE source SET info = json_set(info, '$.time_base', '1/0')",
    "a time base without end": "UPDATE source SET info = json_set(info, '$.time_base', '1e400')",
    "no time base": "UPDATE source SET info = json_remove(info, '$.time_base')",
    "half a list of landmarks": "UPDATE face SET landmarks = '['",
    "landmarks of words": (
        "UPDATE face SET landmarks = '[[1, 2], [1, 2], [1, 2], [1, 2], [1, \"x\"]]'"
    ),
    "a list of provenance": "UPDATE restoration SET provenance = '[]'",
    "provenance without a method": (
        "UPDATE restoration SET provenance = json_remove(provenance, '$.method')"
    ),
    "a number of a track that is a path": "UPDATE track SET number = '../../../tmp/x' WHERE id = 1",
    "a picture that is a path": (
        "UPDATE face SET native = '../../../etc/passwd' WHERE native IS NOT NULL"
    ),
    "samples that are a path": "UPDATE restoration SET samples = '[\"/etc/passwd\"]'",
    "a spread that is a path": "UPDATE restoration SET spread = '/etc/passwd'",
    "support that is a number": "UPDATE candidate SET support = '7' WHERE list = 'joined'",
    "a score that is text": "UPDATE candidate SET score = 'high' WHERE list = 'joined'",
    "a joined candidate without a score": "UPDATE candidate SET score = NULL WHERE list = 'joined'",
    "a finished track without a number": "UPDATE track SET number = NULL WHERE id = 1",
    "two tracks of one name": "UPDATE track SET number = 1 WHERE source = 2",
    "a finished track without faces": "UPDATE face SET track = 1 WHERE track = 2",
    "a reason that nobody gave": "UPDATE track SET verdict_reason = 'odd' WHERE id = 5",
    "a clock without a zone": (
        "UPDATE source SET clock = json_set(clock, '$.start', '2026-03-01') WHERE id = 2"
    ),
    "losses that are no numbers": 'UPDATE source SET losses = \'{"corrupt_packets": "many"}\'',
    "an answer that is a list": "UPDATE meta SET value = '[]' WHERE key = 'searched'",
    "settings that are a list": "UPDATE meta SET value = '[]' WHERE key = 'settings'",
    "features of two lengths": (
        "UPDATE probe SET feature = x'00000000' WHERE track = 1 AND kind = 'best'"
    ),
    "a box without end": "UPDATE face SET x1 = 9e999",
    "a line of the log that is a list": "UPDATE log SET details = '[]' WHERE event = 'encoded'",
    "a line of the log without what it tells": (
        "UPDATE log SET details = '{}' WHERE event = 'searched'"
    ),
    "a line of the log of no time": "UPDATE log SET at = 'yesterday' WHERE id = 1",
    "models that are text": "UPDATE encoding SET models = '\"all\"'",
}


@pytest.mark.parametrize("what", VALUES)
def test_an_invalid_value_is_a_one_line_error_for_every_reader(
    what: str, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recompute_hashes(case, VALUES[what])
    commands: list[tuple[object, ...]] = [
        ("show", case),
        ("show", case, "--json"),
        ("verify", case),
    ]
    commands += [
        ("export", case, "--format", "csv"),
        ("report", case, "--out", tmp_path / "report"),
    ]
    commands += [
        ("pictures", case, "--out", tmp_path / "pictures"),
        ("decide", case, "T1", "rejected", "--reason", "x", "--by", "Anna"),
    ]
    for command in commands:
        code, _, err = run_command(capsys, *command)
        assert (code, err.count("\n")) == (4, 1) and "damaged" in err, (command, err)


def test_values_of_galleries_and_ledgers_are_checked_too(case: Path, archive: Path) -> None:
    execute_sql(case / "gallery" / GALLERY, "UPDATE image SET landmarks = '['")
    with pytest.raises(IntegrityError, match="damaged"):
        Gallery.open(case / "gallery", read_only=True)
    execute_sql(archive / LEDGER, "UPDATE job SET summary = '[]'")
    for opened in (Ledger.open, Ledger.read):
        with pytest.raises(IntegrityError, match="damaged"):
            opened(archive)


def test_a_checked_database_is_checked_again_after_a_change(case: Path) -> None:
    Case.open(case, read_only=True).db.close()
    with Case.open(case) as opened:
        opened.db.execute("UPDATE track SET number = 'x' WHERE id = 1")
    with pytest.raises(IntegrityError, match="number of a row of track is no INTEGER"):
        Case.open(case, read_only=True)


def test_a_large_table_is_checked_when_a_value_in_it_cannot_be_read(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recompute_hashes(case, "UPDATE face SET landmarks = '['")
    monkeypatch.setattr("fasr_video.schema.LARGE_DATABASE", 0)
    with pytest.raises(IntegrityError, match="damaged"), Case.open(case, read_only=True) as opened:
        json.loads(opened.db.execute("SELECT landmarks FROM face").fetchone()[0])
