"""Cases, galleries and archives that somebody else made: nothing of theirs leads out of their
folder.
"""

from __future__ import annotations

import csv
import json
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fasr_video import cli
from fasr_video.archive.ledger import CHUNKS, Ledger
from fasr_video.archive.ledger import DATABASE as LEDGER
from fasr_video.archive.ledger import LOCK as LEDGER_LOCK
from fasr_video.archive.summary import Summary, SummaryJob
from fasr_video.archive.summary import as_csv as summary_csv
from fasr_video.case import links
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide
from fasr_video.case.document import as_csv
from fasr_video.case.store import LOCK, hold_lock
from fasr_video.case.verify import verify
from fasr_video.console import readable_json
from fasr_video.custody.pictures import export_pictures
from fasr_video.encryption import new_key, read_key, warn_of_readers
from fasr_video.errors import FasrError, IntegrityError
from fasr_video.files import atomic_write, inside
from fasr_video.gallery.gallery import Gallery
from fasr_video.report.write import write_report
from tests.support.cases import make_synthetic_case
from tests.support.reviewed import Names, make_case


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return make_case(tmp_path / "case")


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A folder of the user's own with a file in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "will.txt").write_text("mine")
    return folder


def test_cleaning_up_follows_no_links_and_removes_only_files_of_ours(
    case: Path, user_folder: Path
) -> None:
    with Case.open(case) as opened:
        (case / "crops" / "zz").symlink_to(user_folder)
        (case / "crops" / "ab").mkdir(exist_ok=True)
        (case / "crops" / "ab" / "notes.txt").write_text("of somebody")
        left = [case / "crops" / "ab" / f"{'ab' * 32}.{end}" for end in ("png", "png.part", "new")]
        for path in left:
            path.write_bytes(b"of a kill")
        assert opened.sweep_pictures() == 3
    assert not any(path.exists() for path in left)
    assert (user_folder / "will.txt").read_text() == "mine" and (
        case / "crops" / "ab" / "notes.txt"
    ).exists()


@pytest.mark.parametrize("inside", ["crops/zz", "report", "signed-off"])
def test_a_case_that_holds_links_is_not_written(inside: str, case: Path, user_folder: Path) -> None:
    (case / inside).symlink_to(user_folder)
    with pytest.raises(IntegrityError, match="a link to"):
        Case.open(case)
    Case.open(case, read_only=True).db.close()


def test_a_report_is_not_written_through_a_link(case: Path, user_folder: Path) -> None:
    (case / "report").symlink_to(user_folder)
    with pytest.raises(IntegrityError, match="a link to"):
        write_report(case)
    assert [p.name for p in user_folder.iterdir()] == ["will.txt"]


def _report(case: Path) -> object:
    return write_report(case, formats=["html", "folder"])


def _pictures(case: Path) -> object:
    with Case.open(case, read_only=True) as opened:
        return export_pictures(opened, [], case / "report", redact=False)


@pytest.mark.parametrize("write", [_report, _pictures])
@pytest.mark.parametrize(
    "column", ["track.number", "track.source", "face.frame_index", "face.reason"]
)
def test_texts_in_a_case_never_become_file_names(
    column: str, write: Callable[[Path], object], user_folder: Path, tmp_path: Path
) -> None:
    """`T/../../../mine/will.html` lies where a report's page would."""
    case = make_synthetic_case(tmp_path / "case", tracks=2)
    table, name = column.split(".")
    (case / "report").mkdir()
    (case / "report" / "SHA256SUMS").touch()
    for way in ("T", "S", "T1-"):
        (case / "report" / way).mkdir()
    with Case.open(case) as opened:
        opened.db.execute("PRAGMA foreign_keys = OFF")
        row = f"WHERE id = (SELECT min(id) FROM {table})"
        opened.db.execute(f"UPDATE {table} SET {name} = ? {row}", ("/../../../mine/will",))
    before = {p for p in tmp_path.rglob("*") if case not in p.parents}
    with suppress(FasrError):
        write(case)
    assert {p for p in tmp_path.rglob("*") if case not in p.parents} == before


def test_verify_reports_a_text_in_place_of_a_number(case: Path) -> None:
    with Case.open(case) as opened:
        opened.db.execute("UPDATE track SET number = '/../../x' WHERE id = 1")
        (database,) = (c for c in verify(opened) if c.what == "database")
    assert database.problems == ["number of a row of track is no INTEGER"]


@pytest.mark.parametrize("part", ["..", ".", "", "a/b", "/etc", "a\0b"])
def test_only_plain_file_names_are_written(part: str, tmp_path: Path) -> None:
    assert inside(tmp_path, "pictures", "T1.png") == tmp_path / "pictures" / "T1.png"
    with pytest.raises(IntegrityError, match="not a plain file name"):
        inside(tmp_path, "pictures", part)


def _gallery(folder: Path) -> None:
    Gallery.open(folder / "gallery").close()


def _locked(folder: Path) -> object:
    with hold_lock(folder):
        return None


LOCKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a case's": (LOCK, _locked),
    "a gallery's": ("gallery/.lock", _gallery),
    "an archive's": (LEDGER_LOCK, lambda folder: Ledger.open(folder / "cases")),
}


@pytest.mark.parametrize("whose", LOCKS)
def test_a_link_in_place_of_a_lock_is_refused(whose: str, case: Path, user_folder: Path) -> None:
    name, take = LOCKS[whose]
    path = case / "cases" / name if whose == "an archive's" else case / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(user_folder / "will.txt")
    with pytest.raises(IntegrityError, match="a link to"):
        take(case)
    assert (user_folder / "will.txt").read_text() == "mine"


def test_a_link_in_place_of_a_partial_file_is_replaced_not_followed(
    tmp_path: Path, user_folder: Path
) -> None:
    (tmp_path / "a.json.part").symlink_to(user_folder / "will.txt")
    atomic_write(tmp_path / "a.json", lambda path: path.write_text("new"))
    assert (user_folder / "will.txt").read_text() == "mine" and (
        tmp_path / "a.json"
    ).read_text() == "new"


@pytest.mark.parametrize("folder", ["../outside", "/tmp/outside", "..", "a/b", ""])
def test_a_ledger_that_names_a_case_outside_of_its_folder_is_refused(
    folder: str, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path / "cases") as ledger:
        ledger.put_job("ab" * 32, "s", "door-12345678", 1, retry_failed=False)
        ledger.db.execute("UPDATE job SET folder = ?", (folder,))
        with pytest.raises(IntegrityError, match="outside of these cases"):
            ledger.take_job()


@pytest.mark.parametrize("name", [CHUNKS, LEDGER])
def test_an_archive_whose_ledger_or_chunks_are_links_is_not_written(
    name: str, tmp_path: Path, user_folder: Path
) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / name).symlink_to(user_folder)
    with pytest.raises(IntegrityError, match="a link to"):
        Ledger.open(tmp_path / "cases")


def test_new_cases_galleries_and_archives_belong_to_their_owner_alone(
    case: Path, tmp_path: Path
) -> None:
    Ledger.open(tmp_path / "archive").db.close()
    for folder in (case, case / "gallery", tmp_path / "archive"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_exists_keeps_its_permissions(case: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o750)
    make_case(tmp_path / "shared")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o750
    shutil.rmtree(tmp_path / "shared")


NASTY = '=HYPERLINK("x")\x1b]0;owned\x07\x1b[2J\nbert: accepted\u202e'


def test_names_cannot_control_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = Names(
        anna=NASTY,
        bert="\x9b31mbert",
        yard="/footage/\x1b[8mhidden.mp4",
        camera=NASTY,
        remark=NASTY,
    )
    case = make_case(tmp_path / "case", names)
    gallery = str(case / "gallery")
    with Case.open(case) as opened:
        track, link = 1, opened.db.execute("SELECT id FROM link").fetchone()["id"]
        decide(opened, track, "rejected", NASTY, by="Anna")
        links.decide(opened, link, "refused", "Anna")
    calls = [
        ["show", str(case)],
        ["show", str(case), "--json"],
        ["export", str(case), "--format", "csv"],
    ]
    calls += [
        ["verify", str(case)],
        ["gallery", "list", gallery],
        ["gallery", "show", gallery, NASTY],
    ]
    calls += [
        ["gallery", "log", gallery],
        ["gallery", "list", gallery, "--json"],
        ["purge", str(case)],
    ]
    for call in calls:
        cli.cli(call, standalone_mode=False)
        printed = capsys.readouterr()
        bad = [c for c in printed.out + printed.err if c != "\n" and not c.isprintable()]
        assert printed.out and not bad, call
        assert not any(line.startswith("bert: accepted") for line in printed.out.splitlines()), call


def test_readable_json_parses_to_the_same_document() -> None:
    document = {"a": [NASTY, "Ärger", 1.5, None]}
    assert json.loads(readable_json(document)) == document and "Ärger" in readable_json(document)


def test_texts_in_exported_tables_are_no_formulas(tmp_path: Path) -> None:
    case = make_case(
        tmp_path / "case",
        Names(anna="=cmd|' /C calc'!A0", yard="+1.mp4", door="@SUM(A1)", camera="-2"),
    )
    with Case.open(case) as opened:
        opened.db.execute(
            """
            UPDATE encoding
            SET models = '{"pooled_by": "mean", "restorer": null, "embedder": "e"}'
            """
        )
        tables = [as_csv(opened, "tracks"), as_csv(opened, "faces")]
    tables.append((write_report(case, tmp_path / "report", ["csv"]) / "tracks.csv").read_text())
    for table in tables:
        rows = list(csv.DictReader(table.splitlines()))
        assert {row["source"] for row in rows} == {"'+1.mp4", "'@SUM(A1)"}
        cells = [cell for row in rows for cell in row.values() if cell]
        assert not [c for c in cells if c[0] in "=@" or (c[0] in "+-" and not is_number(c))]
    assert {row["candidate"] for row in rows} == {"", "'=cmd|' /C calc'!A0", "bert"}
    assert {row["camera"] for row in rows} == {"", "'-2"}


def test_texts_in_the_summary_table_are_no_formulas() -> None:
    empty: dict[str, Any] = dict.fromkeys(SummaryJob.__slots__)
    job = SummaryJob(**empty | {"files": ["=1+1.mp4"], "camera": "@door", "frames": -1})
    document = Summary("", "", "", {}, {}, [job], [], [], [], [])
    (row,) = csv.DictReader(summary_csv(document).splitlines())
    assert (row["files"], row["camera"], row["frames"]) == ("'=1+1.mp4", "'@door", "-1")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", ["signing", "encryption"])
def test_a_key_that_others_can_read_is_a_warning(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    from fasr_video.custody.keys import make_signing_keys, read_private, write_secret

    key = tmp_path / "a.key"
    if kind == "signing":
        make_signing_keys(key)
    else:
        write_secret(key, new_key())
    read = read_private if kind == "signing" else read_key
    read(key)
    assert capsys.readouterr().err == ""
    warn_of_readers.cache_clear()
    key.chmod(0o640)
    read(key)
    read(key)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and f"chmod 600 {key}" in warning
