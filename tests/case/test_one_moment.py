"""Readers of a case see one consistent state, even while another process writes it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fasr_video.archive import summary
from fasr_video.archive.ledger import Job, Ledger
from fasr_video.case import decisions, links
from fasr_video.case import document as export
from fasr_video.case.case import Case
from fasr_video.case.entries import TrackEntry
from fasr_video.case.verify import verify
from fasr_video.clock import now
from fasr_video.custody.pictures import export_pictures
from fasr_video.report import document
from fasr_video.report.write import refresh, write_report
from fasr_video.review.signoff import sign_off
from tests.support import cases
from tests.support.reviewed import make_case


@pytest.fixture(scope="module")
def prepared_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_synthetic_case(tmp_path_factory.mktemp("whole") / "case")


@pytest.fixture
def folder(prepared_case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared_case, tmp_path / "case"))


@pytest.fixture
def case(folder: Path) -> Iterator[Case]:
    with Case.open(folder, read_only=True) as opened:
        yield opened


def decide(folder: Path) -> None:
    with Case.open(folder) as case:
        decisions.decide(case, 1, "rejected", "other ear", by="Anna Amt")


def decide_and_note(folder: Path) -> None:
    """As a report does that is written meanwhile."""
    decide(folder)
    with Case.open(folder, read_only=True) as case:
        head = case.meta("log_head")
    (folder / "report").mkdir()
    (folder / "report" / "report.json").write_text(json.dumps({"log_head": head}))


def sign(folder: Path) -> None:
    with Case.open(folder) as case:
        sign_off(case, "Cleo Chef", although_undecided=True)


@contextmanager
def run_meanwhile(case: Case, words: str, happens: Callable[[Path], None]) -> Iterator[None]:
    """It happens by another connection, right before the first statement with these words is
    executed.
    """
    waiting, done = [happens], []

    def write_at(statement: str) -> None:  # what it raises is swallowed
        if waiting and words in statement:
            waiting.pop()(case.folder)
            done.append(statement)

    case.db.set_trace_callback(write_at)
    yield
    case.db.set_trace_callback(None)
    assert done


@pytest.mark.parametrize("happens", [decide, decide_and_note, sign])
def test_a_decision_during_verify_is_not_reported_as_damage(
    tmp_path: Path, happens: Callable[[Path], None]
) -> None:
    with Case.open(make_case(tmp_path / "whole"), read_only=True) as case:
        with run_meanwhile(case, "key = 'log_head'", happens):
            checks = verify(case)
        assert [problem for check in checks for problem in check.problems] == []
        assert [problem for check in verify(case) for problem in check.problems] == []


def test_a_missing_or_changed_signed_off_report_is_reported(folder: Path, case: Case) -> None:
    sign(folder)
    (signed,) = (folder / "signed-off").glob("*.json")
    content = signed.read_bytes()
    signed.write_bytes(content + b" ")
    signed.with_name(signed.name + ".new").write_bytes(content)
    for remedy in ("was changed", "is missing"):
        problems = [problem for check in verify(case) for problem in check.problems]
        assert f"{signed} {remedy}" in problems
        signed.unlink(missing_ok=True)
        signed.with_name(signed.name + ".new").unlink(missing_ok=True)


def test_a_document_is_one_consistent_state_of_the_case(case: Case) -> None:
    before = export.as_document(case)
    with run_meanwhile(case, "FROM link", decide):
        assert export.as_document(case) == before
    assert export.as_document(case) != before


def test_a_report_has_the_log_head_of_the_state_that_it_shows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [decide]

    def later() -> str:
        if waiting:
            waiting.pop()(folder)
        return now()

    monkeypatch.setattr(document, "now", later)
    write_report(folder)
    report: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    assert not waiting and not any(track["decisions"] for track in report["tracks"])
    assert report["log_head"] == report["log"][-1]["hash"]
    refresh(folder)
    report = json.loads((folder / "report" / "report.json").read_text())
    assert any(track["decisions"] for track in report["tracks"])


def test_exported_pictures_all_name_the_same_log_head(case: Case, tmp_path: Path) -> None:
    head = case.meta("log_head")
    with run_meanwhile(case, "key = 'case_id'", decide):
        written = export_pictures(case, (), tmp_path / "out", redact=False)
    entries = [
        json.loads(path.with_suffix(".json").read_text())["case"]["log_head"] for path in written
    ]
    assert set(entries) == {head} and len(entries) > 1


def test_a_summary_reads_tracks_and_links_in_one_snapshot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = summary.tracks_of

    def accepted_meanwhile(case: Case) -> list[TrackEntry]:
        result = read(case)
        with Case.open(folder) as other:
            links.join(other, [result[0].id, result[-1].id], "Anna Amt")
        return result

    monkeypatch.setattr(summary, "tracks_of", accepted_meanwhile)
    with Ledger.open(folder.parent / "cases") as ledger:
        job = Job(1, "0" * 64, "case", "done", 1, None, 0, {}, None)
        row = summary._job(ledger, job, counted=True)
    assert not any(track.accepted for track in summary._tracks_of_case(folder, row, 0))
    monkeypatch.setattr(summary, "tracks_of", read)
    assert any(track.accepted for track in summary._tracks_of_case(folder, row, 0))


def test_nothing_is_written_within_a_snapshot_and_snapshots_end(folder: Path) -> None:
    with Case.open(folder) as case:
        with case.snapshot(), case.snapshot():
            head = case.meta("log_head")
            decide(folder)
            assert case.meta("log_head") == head
        assert case.meta("log_head") != head
        with (
            case.snapshot(),
            pytest.raises(sqlite3.OperationalError, match="within a transaction"),
        ):
            decisions.decide(case, 1, "rejected", "other nose", by="Ben Beck")
        decisions.decide(case, 1, "rejected", "other nose", by="Ben Beck")
