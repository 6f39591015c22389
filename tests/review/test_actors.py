"""Who did what in a case, and as what: decisions, links, sign-off, runs, purge, signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fasr_video.actors import ROLE_VARIABLE
from fasr_video.archive.canonical import dump
from fasr_video.case import decisions
from fasr_video.case import document as export
from fasr_video.case.case import Case
from fasr_video.case.store import TOMBSTONE
from fasr_video.case.verify import SIGNED_OFF, verify
from fasr_video.configs import settings as configs
from fasr_video.custody.keys import make_signing_keys
from fasr_video.pipeline.run import run
from fasr_video.report.write import write_report
from tests.conftest import CORRIDOR_QUICK
from tests.support.browser import Browser
from tests.support.cases import make_synthetic_case
from tests.support.commands import run_command


def last_log_details(case: Path, event: str) -> dict[str, Any]:
    """Details of the last line of that kind."""
    with Case.open(case, read_only=True) as opened:
        rows = opened.db.execute(
            "SELECT details FROM log WHERE event = ? ORDER BY id", (event,)
        ).fetchall()
        assert not [problem for check in verify(opened) for problem in check.problems]
    details: dict[str, Any] = json.loads(rows[-1]["details"])
    return details


def test_decisions_links_and_their_reversals_name_the_role(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--by", "Anna Huber", "--role", "examiner")
    assert (
        run_command(capsys, "decide", folder, "T1", "rejected", "--reason", "other ear", *options)[
            0
        ]
        == 0
    )
    assert run_command(capsys, "link", folder, 1, "refuse", *options)[0] == 0
    assert (
        last_log_details(folder, "decided")["role"]
        == last_log_details(folder, "link decided")["role"]
        == "examiner"
    )
    shown = run_command(capsys, "show", folder)[1]
    assert shown.count("Anna") > 1 and shown.count("(examiner)") > 1
    document = json.loads(run_command(capsys, "show", folder, "--json")[1])
    assert (
        document["tracks"][0]["decisions"][0]["role"]
        == document["links"][0]["decided_as"]
        == "examiner"
    )
    assert run_command(capsys, "undo", folder, 1, "--by", "Ben", "--role", "supervisor")[0] == 0
    assert last_log_details(folder, "decision undone")["role"] == "supervisor"


def test_a_reopened_link_was_decided_by_nobody(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for decision in ("refuse", "reopen"):
        run_command(capsys, "link", folder, 1, decision, "--by", "Anna", "--role", "examiner")
    with Case.open(folder, read_only=True) as case:
        assert export.links(case)[0].decided_as == ""


def test_without_the_option_the_role_is_that_of_the_environment_or_none(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = ("decide", folder, "T1", "rejected", "--reason", "other ear", "--by", "Anna")
    run_command(capsys, *decide)
    assert last_log_details(folder, "decided")["role"] == ""
    monkeypatch.setenv(ROLE_VARIABLE, "reviewer")
    run_command(capsys, *decide)
    assert last_log_details(folder, "decided")["role"] == "reviewer"


def test_a_role_is_one_short_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decide = ("decide", folder, "T1", "rejected", "--reason", "other ear", "--by", "Anna", "--role")
    code, _, err = run_command(capsys, *decide, "x" * 101)
    assert code == 2 and "role: it has 101 characters; give at most 100" in err
    assert run_command(capsys, *decide, " senior\n examiner ")[0] == 0
    assert last_log_details(folder, "decided")["role"] == "senior examiner"


def test_pages_take_the_role_keep_it_and_show_it(browser: Browser, folder: Path) -> None:
    page = browser.get("/track/T1")
    assert 'name="role"' in page.text and '<option value="supervisor">' in page.text
    fields = {"by": "Anna", "role": "<examiner>"}
    assert (
        browser.post(
            "/track/T1/decide", verdict="rejected", reason="other ear", **fields
        ).status_code
        == 303
    )
    assert last_log_details(folder, "decided")["role"] == "<examiner>"
    for path in ("/track/T1", "/log"):
        assert "Anna (&lt;examiner&gt;)" in browser.get(path).text
    browser.post("/track/T1/undo/1", by="Anna")
    assert last_log_details(folder, "decision undone")["role"] == "<examiner>", (
        "the form to undo asks for no other"
    )
    browser.post("/sign-off", by="Ben", role="supervisor", although="on")
    assert last_log_details(folder, "signed off")["role"] == "supervisor"
    (written,) = (folder / SIGNED_OFF).glob("*.json")
    document = json.loads(written.read_text())
    assert (
        document["signed_off_as"] == "supervisor"
        and document["tracks"][0]["decisions"][0]["role"] == "<examiner>"
    )
    assert "by Ben (supervisor)" in browser.get("/sign-off").text


def test_the_report_says_who_ran_it_and_who_decided(tmp_path: Path) -> None:
    folder = make_synthetic_case(tmp_path / "case", 1)
    with Case.open(folder) as case:
        with case.logged_run({"what": "run", "by": "Olga", "role": "operator"}), case.transaction():
            case.log("resumed", {})
        decisions.decide(case, 1, "rejected", "other ear", by="Anna", role="examiner")
    page = (write_report(folder, tmp_path / "report", ["html"]) / "index.html").read_text()
    assert "Olga (operator)" in page and "Anna (examiner)" in page


def test_a_run_is_logged_with_its_period_and_only_if_it_did_something(
    corridor: Path, copied_case: Path
) -> None:
    settings = configs.load("cpu", CORRIDOR_QUICK)
    with Case.open(copied_case, read_only=True) as case:
        (before,), head = export.runs(case), case.meta("log_head")
        assert before.finished and before.ended and before.begun <= before.ended and before.by
        events = [r["event"] for r in case.db.execute("SELECT event FROM log ORDER BY id")]
    assert events[:3] == ["created", "run begun", "source added"] and events[-1] == "run ended"
    run([corridor], copied_case, settings, by="Olga", role="operator")
    with Case.open(copied_case, read_only=True) as case:
        assert case.meta("log_head") == head, "there was nothing to do"


def test_an_interrupted_run_ends_with_its_last_log_line(folder: Path) -> None:
    with Case.open(folder) as case:
        before = dump(case)
        with (
            pytest.raises(KeyboardInterrupt),
            case.logged_run({"what": "run", "by": "Olga", "role": ""}),
        ):
            with case.transaction():
                case.log("resumed", {})
            raise KeyboardInterrupt
        (run_row,) = export.runs(case)
        assert not run_row.finished and run_row.ended is None and dump(case) == before


def test_tombstone_and_signature_name_the_role(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(
        capsys,
        "purge",
        folder,
        "--now",
        "--why",
        "order",
        "--yes",
        "--by",
        "Olga",
        "--role",
        "administrator",
    )
    tombstone = json.loads((folder / TOMBSTONE).read_text())
    assert (tombstone["by"], tombstone["role"]) == ("Olga", "administrator")
    export = tmp_path / "report.txt"
    export.write_text("a lead")
    make_signing_keys(tmp_path / "key")
    run_command(
        capsys, "sign", export, "--key", tmp_path / "key", "--by", "Anna", "--role", "examiner"
    )
    code, out, _ = run_command(capsys, "check-signature", export, "--key", tmp_path / "key.pub")
    assert code == 0 and "by Anna (examiner) with key" in out
