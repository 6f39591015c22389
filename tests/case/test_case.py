"""The case store: versions, integrity, decisions that can be undone."""

from __future__ import annotations

import shutil
import sqlite3
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fasr_video import cli
from fasr_video.case.case import Case
from fasr_video.case.document import as_document
from fasr_video.case.links import decide
from fasr_video.case.sources import rows_digest
from fasr_video.case.store import DATABASE, chain_hash
from fasr_video.case.verify import verify
from fasr_video.commands import screen
from fasr_video.configs import settings as configs
from fasr_video.errors import CaseError, IntegrityError, MediaError
from fasr_video.media import hash_folder, pyav
from fasr_video.pipeline.run import run
from fasr_video.report.write import write_report
from tests.support.cases import propose_link, recompute_log_chain
from tests.support.commands import run_command
from tests.support.reviewed import make_case


@pytest.fixture(scope="module")
def finished(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    footage = Path(shutil.copy(entrance, folder / "footage.mp4"))
    run(
        [footage], folder / "case", configs.load("cpu", ("sampling.fps=3", "track.min_sightings=2"))
    )
    return folder


@pytest.fixture
def case(finished: Path, tmp_path: Path) -> Path:
    """A copy to tamper with, its footage beside it."""
    shutil.copytree(finished, tmp_path / "copy")
    path = str(tmp_path / "copy" / "footage.mp4")

    def move_case(case: Case) -> None:
        case.db.execute("UPDATE source SET path = ?", (path,))
        case.db.execute(
            "UPDATE log SET details = json_set(details, '$.path', ?) WHERE event = 'source added'",
            (path,),
        )
        rows = "UPDATE log SET details = json_set(details, '$.rows', ?) WHERE event = 'source done'"
        case.db.execute(rows, (rows_digest(case, 1),))

    recompute_log_chain(tmp_path / "copy" / "case", move_case)
    return tmp_path / "copy" / "case"


def problems(folder: Path) -> list[str]:
    """What `verify` says; of a case that is not opened, why."""
    try:
        with Case.open(folder) as case:
            return [p for c in verify(case) for p in c.problems]
    except IntegrityError as error:
        return [error.reason]


def test_untouched_case_is_intact(case: Path) -> None:
    assert problems(case) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE log SET details = json_set(details, '$.version', '9') WHERE id = 1", "log line 1"),
        ("UPDATE log SET details = '{}' WHERE id = 1", "row 1 of log"),
        ("DELETE FROM log WHERE id = 2", "log line"),
        ("UPDATE face SET score = 0.99 WHERE id = 3", "faces or tracks"),
        (
            "UPDATE face SET reason = 'blurred' WHERE id = (SELECT min(id) FROM face)",
            "faces or tracks",
        ),
        ("DELETE FROM face WHERE id = (SELECT max(id) FROM face)", "faces or tracks"),
        ("UPDATE track SET verdict = 'insufficient'", "faces or tracks"),
        ("UPDATE meta SET value = '{}' WHERE key = 'settings'", "row settings of meta"),
        (
            "UPDATE meta SET value = json_set(value, '$.case.retention_days', 0) WHERE key = "
            "'settings'",
            "settings",
        ),
        ("UPDATE source SET sha256 = 'abc'", "not the footage"),
        ("UPDATE source SET sha256 = 'abc'", "the facts about"),
        ("UPDATE source SET info = json_set(info, '$.time_base', '1/1')", "the facts about"),
        ("UPDATE source SET detector = json_set(detector, '$.name', 'other')", "the detector of"),
        ("DELETE FROM log WHERE id = (SELECT max(id) FROM log)", "the end of the log"),
        ("UPDATE source SET state = 'running'", "is done differs from the log"),
        ("UPDATE source SET path = '/elsewhere.mp4'", "the facts about"),
        ("UPDATE source SET losses = replace(losses, '0', '7')", "segments, tracks or counts"),
        ("UPDATE source SET frames = frames + 1", "segments, tracks or counts"),
        ("UPDATE source SET skipped_damaged = 1", "segments, tracks or counts"),
        ("UPDATE source SET seconds = 0", "segments, tracks or counts"),
        ("UPDATE source SET last_pts = last_pts - 1", "segments, tracks or counts"),
        ("UPDATE track SET tracker_id = tracker_id + 100", "segments, tracks or counts"),
        ("UPDATE segment SET faces = faces + 1", "segments, tracks or counts"),
        ("DELETE FROM segment", "segments, tracks or counts"),
        ("DELETE FROM source", "is gone from the case"),
        ("DELETE FROM source", "refers to a missing row of source"),
        (
            "UPDATE meta SET value = 'x' WHERE key = 'case_id'",
            "case_id differs from the one in the log",
        ),
        ("UPDATE meta SET value = '9.9' WHERE key = 'version'", "version differs from the one"),
        ("UPDATE meta SET value = '{}' WHERE key = 'versions'", "versions differs from the one"),
        (
            "UPDATE meta SET value = '[]' WHERE key = 'linked_tracks'",
            "the tracks that links were proposed from",
        ),
        (
            "INSERT INTO link (a, b, score, evidence, state) SELECT min(id), max(id), 0.9, '', "
            "'proposed' FROM track",
            "link 1 is not in the log",
        ),
    ],
)
def test_every_change_of_a_row_is_reported(case: Path, change: str, expected: str) -> None:
    with sqlite3.connect(case / DATABASE) as db:
        assert db.execute(change).rowcount > 0
    assert any(expected in p for p in problems(case))


def test_a_source_deleted_with_all_its_rows_is_reported(case: Path) -> None:
    with sqlite3.connect(case / DATABASE) as db:
        for table in ("segment", "face", "track", "source"):
            db.execute(f"DELETE FROM {table}")
    assert any("source 1 is gone from the case" in p for p in problems(case))


def test_a_trigger_in_the_database_is_reported(case: Path) -> None:
    with sqlite3.connect(case / DATABASE) as db:
        db.execute("CREATE TRIGGER odd AFTER INSERT ON decision BEGIN DELETE FROM decision; END")
    assert problems(case) == [
        "not a database that fasr-video made: trigger odd was added to or changed in it"
    ]


def test_hashes_that_an_older_version_did_not_log_are_noted_and_no_problem(case: Path) -> None:
    def older(opened: Case) -> None:
        opened.db.execute("DELETE FROM log WHERE event = 'links proposed'")
        opened.db.execute("UPDATE log SET details = json_remove(details, '$.rows', '$.case_id')")
        opened.db.execute("UPDATE track SET tracker_id = tracker_id + 100")

    recompute_log_chain(case, older)
    with Case.open(case, read_only=True) as opened:
        checks = verify(opened)
    assert not [p for c in checks for p in c.problems]
    assert [
        n
        for c in checks
        for n in c.notes
        if n.startswith("segments and counts: an earlier version")
    ]


def test_a_rewritten_log_is_detected_by_a_noted_head(
    case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Case.open(case, read_only=True) as opened:
        head = opened.meta("log_head")
    assert cli.cli(["verify", str(case), "--head", head], standalone_mode=False) == 0
    write_report(case)
    recompute_log_chain(
        case,
        lambda opened: opened.db.execute("DELETE FROM log WHERE id = (SELECT max(id) FROM log)"),
    )
    (problem_text,) = problems(case)
    assert "report.json: the log has no line" in problem_text
    shutil.rmtree(case / "report")
    assert problems(case) == []
    capsys.readouterr()
    assert cli.cli(["verify", str(case), "--head", head], standalone_mode=False) == 4
    assert (
        f"the head that was given: the log has no line with the hash {head[:16]}"
        in capsys.readouterr().out
    )


def test_files_beside_the_database_are_checked(case: Path) -> None:
    write_report(case)
    assert problems(case) == []
    (case / "report" / "index.html").write_text("all is well")
    (case / "report" / "T9.html").write_text("all is well")
    (case / "settings.yaml").write_text(
        (case / "settings.yaml").read_text().replace("fps: 3.0", "fps: 4.0")
    )
    (case / "signed-off").mkdir()
    (case / "signed-off" / "2020.json").write_text("{}")
    stray = case / "crops" / "ab" / f"{'ab' * 32}.png"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"")
    (case / "signed-off" / "2021.json.new").write_text("{}")
    problem_text = "\n".join(problems(case))
    for name, what in {
        "report/index.html": "was changed or removed",
        "settings.yaml": "differs from the settings in the database",
        "signed-off/2020.json": "is not in the log",
    }.items():
        assert f"{case / name} {what}" in problem_text
    assert "2021" not in problem_text
    with Case.open(case, read_only=True) as opened:
        noted = "\n".join(n for c in verify(opened) for n in c.notes)
    assert f"{stray} is not a picture of the case" in noted
    assert f"{case / 'report' / 'T9.html'}: not part of the report" in noted
    (case / "report" / ".unfinished").touch()  # as a kill leaves it
    assert not [p for p in problems(case) if "report" in p and "signed" not in p]


def test_footage_is_hashed_before_it_is_decoded(
    entrance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("sha256_file", "_decode"):
        real = getattr(pyav, name)

        def note(*given: Any, real: Any = real, name: str = name) -> Any:
            done.append(name)
            return real(*given)

        monkeypatch.setattr(pyav, name, note)
    pyav.PyAvReader(entrance, Fraction(25))
    assert done == ["sha256_file", "_decode"]


def test_footage_that_changes_while_it_is_read_is_not_done(entrance: Path, tmp_path: Path) -> None:
    footage = Path(shutil.copy(entrance, tmp_path / "footage.mp4"))

    def listen(event: object) -> None:
        with footage.open("ab") as handle:
            handle.write(b"more")

    with pytest.raises(MediaError, match="changed while it was read"):
        run(
            [footage],
            tmp_path / "case",
            configs.load("cpu", ("sampling.fps=3", "sampling.end=1")),
            listen=listen,
        )
    with Case.open(tmp_path / "case", read_only=True) as case:
        assert case.db.execute("SELECT state FROM source").fetchone()["state"] == "running"


def test_changed_and_missing_pictures_are_reported(case: Path) -> None:
    first, second = sorted((case / "crops").glob("*/*.png"))[:2]
    first.write_bytes(first.read_bytes() + b"\0")
    second.unlink()
    problem_text = problems(case)
    assert any(first.name in p and "changed" in p for p in problem_text)
    assert any(second.name in p and "missing" in p for p in problem_text)


def test_changed_footage_is_a_problem_and_missing_footage_is_unchecked(case: Path) -> None:
    footage = case.parent / "footage.mp4"
    footage.write_bytes(footage.read_bytes()[:-1])
    assert any("not the footage" in p for p in problems(case))
    footage.unlink()
    with Case.open(case) as opened:
        (sources,) = [c for c in verify(opened) if c.what == "sources"]
    assert sources.problems == [] and "is not there" in sources.unchecked[0]


def test_unreadable_footage_is_reported_with_its_reason(
    case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `/proc/self/mem` gives is an error of reading, for root too."""
    footage = case.parent / "footage.mp4"
    footage.unlink()
    footage.symlink_to("/proc/self/mem")
    code, out, err = run_command(capsys, "verify", case)
    assert code == 0 and err == "" and "intact  log chain" in out
    assert f"not checked: {footage} cannot be read (Input/output error)" in out
    code, out, err = run_command(capsys, "run", footage, "--out", case.parent / "other")
    assert code == 2 and err == (
        f"fasr-video: {footage}: Input/output error; check its permissions and the disk that it is "
        "on\n"
    )


def test_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "frame1.png").write_bytes(b"a picture")
    (tmp_path / "frame2.png").symlink_to("/proc/self/mem")
    with pytest.raises(
        MediaError,
        match=r"frame2\.png: cannot be read \(Input/output error\); change its permissions",
    ):
        hash_folder(tmp_path)


def test_a_case_of_another_version_is_refused_with_that_version(case: Path) -> None:
    with sqlite3.connect(case / DATABASE) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(CaseError, match="another version"):
        Case.open(case)


def test_a_damaged_database_is_an_integrity_error_and_is_not_changed(case: Path) -> None:
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
    before = {
        p.name: p.read_bytes()
        for p in case.iterdir()
        if p.is_file() and not p.name.endswith("-shm")
    }
    with Case.open(case, read_only=True) as opened:
        assert opened.db.execute("SELECT count(*) FROM face").fetchone()[0] > 0
        with pytest.raises(sqlite3.OperationalError):
            opened.db.execute("DELETE FROM face")
    after = {
        p.name: p.read_bytes()
        for p in case.iterdir()
        if p.is_file() and not p.name.endswith("-shm")
    }
    assert {k: v for k, v in after.items() if v} == {k: v for k, v in before.items() if v}


def test_verify_reports_damaged_pages(case: Path) -> None:
    path = case / DATABASE
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name IN ('face', 'track', 'log')"
        ).fetchall()
    db.close()
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    for (root,) in roots:
        start = (root - 1) * page
        data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    assert problems(case)


def test_failed_transaction_leaves_nothing(case: Path) -> None:
    with Case.open(case) as opened:
        before = opened.db.execute("SELECT count(*) FROM log").fetchone()[0]
        with pytest.raises(ZeroDivisionError), opened.transaction():
            opened.log("half", {})
            raise ZeroDivisionError
        assert opened.db.execute("SELECT count(*) FROM log").fetchone()[0] == before


def test_a_decision_on_a_link_can_be_undone_and_stays_in_the_log(case: Path) -> None:
    with Case.open(case) as opened:
        (track,) = opened.db.execute("SELECT id FROM track LIMIT 1").fetchone()
        with opened.transaction():
            opened.db.execute(
                "INSERT INTO track (id, source, tracker_id, state) VALUES (1000, 1, 1000, 'live')"
            )
        propose_link(opened, track, 1000)
        for decision in ("accepted", "refused", "proposed"):
            decide(opened, 1, decision, "an examiner")
        row = opened.db.execute("SELECT * FROM link").fetchone()
        assert (row["state"], row["decided_by"]) == ("proposed", None)
        assert not [p for c in verify(opened) for p in c.problems if p.startswith("link ")]
        opened.db.execute("UPDATE link SET state = 'accepted', decided_by = 'nobody'")
        assert [p for c in verify(opened) for p in c.problems if "link 1 differs from the log" in p]
        decided = opened.db.execute(
            "SELECT count(*) FROM log WHERE event = 'link decided'"
        ).fetchone()[0]
        assert decided == 3


def test_opening_a_case_that_another_process_reads_works(case: Path) -> None:
    with Case.open(case) as one, Case.open(case) as two:
        one.db.execute("BEGIN")
        one.db.execute("SELECT * FROM face").fetchone()
        with two.transaction():
            two.log("noted", {})
        one.db.execute("COMMIT")


def test_a_log_line_dated_before_the_previous_one_is_noted(tmp_path: Path) -> None:
    """Somebody who adds a line behind the log may say that it was written long ago."""
    with Case.open(make_case(tmp_path / "case")) as case:
        assert [c.notes for c in verify(case) if c.what == "log chain"] == [()]
        last = case.db.execute("SELECT * FROM log ORDER BY id DESC LIMIT 1").fetchone()
        at, text = "2020-01-01T00:00:00.000+00:00", '{"by": "Anna"}'
        digest = chain_hash(last["hash"], at, "camera and clock", text)
        row = (at, "camera and clock", text, last["hash"], digest)
        case.db.execute(
            "INSERT INTO log (at, event, details, previous, hash) VALUES (?, ?, ?, ?, ?)", row
        )
        case.set_meta("log_head", digest)
        (notes,) = [c.notes for c in verify(case) if c.what == "log chain"]
    assert len(notes) == 1 and notes[0].startswith(
        f"log line {last['id'] + 1} (camera and clock) is dated {at}"
    )


def test_show_prints_only_the_first_of_many_tracks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "MOST_ROWS", 2)
    with Case.open(make_case(tmp_path / "case"), read_only=True) as case:
        screen.show(as_document(case))
    output = capsys.readouterr().out
    assert (
        "2 of 5 tracks are shown: --json, `fasr-video export` and the report have all"
        in " ".join(output.split())
    )
    assert " T2 " in output and " S2-T1 " not in output.split("perhaps the same person")[0]
