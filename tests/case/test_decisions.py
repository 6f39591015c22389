"""What reviewers say of tracks, and who is one person: recorded, undone, and never changed
unnoticed.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasr_video.actors import login_name
from fasr_video.case import links, replay
from fasr_video.case.case import Case
from fasr_video.case.decisions import (
    QUERY,
    Agreement,
    agreement,
    decide,
    standing_by_track,
    standing_decisions,
    undo,
)
from fasr_video.case.decisions import decisions as decisions_on
from fasr_video.case.document import as_document
from fasr_video.errors import CaseError, EnvironmentFailure, FasrError, IntegrityError, UsageError
from fasr_video.pipeline.links import BY_FACE
from fasr_video.review.signoff import sign_off
from tests.support.checks import problems_of
from tests.support.commands import run_command


@pytest.fixture
def folder(reviewed_case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reviewed_case, tmp_path / "case"))


@pytest.fixture
def case(folder: Path) -> Iterator[Case]:
    with Case.open(folder) as opened:
        yield opened


def test_a_decision_is_stored_with_its_reason_and_its_reviewer(case: Case) -> None:
    decision = decide(
        case, 1, "accepted", "same scar\nover the left eye", by="Anna  Huber ", subject="anna"
    )
    assert decisions_on(case, 1) == [decision]
    assert (decision.verdict, decision.subject, decision.by) == ("accepted", "anna", "Anna Huber")
    assert decision.reason == "same scar\nover the left eye" and decision.at and decision.stands
    (line,) = case.db.execute("SELECT details FROM log WHERE event = 'decided'").fetchall()
    assert json.loads(line["details"])["reason"] == decision.reason
    assert problems_of(case) == []


def test_an_undone_decision_stays_and_names_who_undid_it(case: Case) -> None:
    decision = decide(case, 1, "rejected", "other ear", by="Anna")
    undo(case, decision.id, "Ben")
    (stored,) = decisions_on(case, 1)
    assert (stored.undone_by, stored.reason) == ("Ben", "other ear") and standing_decisions(
        case, 1
    ) == []
    with pytest.raises(CaseError, match="Ben has undone it already"):
        undo(case, decision.id, "Anna")
    assert problems_of(case) == []


def test_two_reviewers_stand_beside_each_other_and_agree_or_not(case: Case) -> None:
    assert agreement(standing_decisions(case, 1)) is Agreement.UNDECIDED
    decide(case, 1, "accepted", "a", by="Anna", subject="anna")
    assert agreement(standing_decisions(case, 1)) is Agreement.ONE
    decide(case, 1, "rejected", "b", by="Ben", subject="anna")
    assert agreement(standing_decisions(case, 1)) is Agreement.CONFLICT
    decide(case, 1, "accepted", "b, looked again", by="Ben", subject="anna")
    assert agreement(standing_decisions(case, 1)) is Agreement.AGREED
    decide(case, 1, "accepted", "b, a third time", by="Ben", subject="bert")
    assert agreement(standing_decisions(case, 1)) is Agreement.CONFLICT


def test_a_reviewer_is_recognised_however_the_name_is_written(case: Case) -> None:
    first = decide(case, 1, "accepted", "a", by="Anna Huber", subject="anna")
    second = decide(case, 1, "insufficient", "too blurred after all", by=" anna  huber")
    former, latter = decisions_on(case, 1)
    assert (former.id, former.undone_by) == (first.id, "anna huber") and latter == second
    assert agreement(standing_decisions(case, 1)) is Agreement.ONE and problems_of(case) == []


@pytest.mark.parametrize(
    ("track", "verdict", "reason", "by", "subject", "says"),
    [
        (1, "accepted", " ", "Anna", "anna", "a reason is missing"),
        (1, "accepted", "x", " \n", "anna", "your name is missing; enter it"),
        (1, "accepted", "x", "Anna", None, r"needs a candidate; give --subject NAME \(one of anna"),
        (1, "accepted", "x", "Anna", "nobody", "nobody is not among its candidates"),
        (1, "insufficient", "x", "Anna", "anna", "is about the track"),
        (1, "perhaps", "x", "Anna", None, "no such verdict"),
        (99, "rejected", "x", "Anna", None, "no finished track of this number"),
        (1, "rejected", "x" * 4001, "Anna", None, "of 4001 characters"),
    ],
)
def test_an_incomplete_decision_is_refused_and_not_stored(
    case: Case, track: int, verdict: str, reason: str, by: str, subject: str | None, says: str
) -> None:
    with pytest.raises(FasrError, match=says) as caught:
        decide(case, track, verdict, reason, by=by, subject=subject)
    assert "\n" not in str(caught.value)
    assert case.db.execute("SELECT count(*) FROM decision").fetchone()[0] == 0


# Behind the log's back, and what `verify` says of each.
CHANGES = {
    "UPDATE decision SET verdict = 'rejected' WHERE id = 1": (
        "decision 1 differs from the log (verdict)"
    ),
    "UPDATE decision SET reason = 'another' WHERE id = 1": (
        "decision 1 differs from the log (reason)"
    ),
    "UPDATE decision SET undone_by = 'Anna', undone_at = 'now' WHERE id = 1": (
        "decision 1 differs from the log (undone_by, undone_at)"
    ),
    "UPDATE decision SET undone_by = NULL, undone_at = NULL WHERE id = 2": (
        "decision 2 differs from the log (undone_by, undone_at)"
    ),
    "DELETE FROM decision WHERE id = 2": "decision 2 is in the log and not in the case",
    (
        "INSERT INTO decision (track, verdict, reason, by, at) VALUES (2, 'rejected', 'x', 'Carl', "
        "'2026-01-01T09Z')"
    ): ("decision 3 is not in the log"),
    "UPDATE link SET state = 'accepted', decided_by = 'Anna', decided_at = 'now'": (
        "link 1 differs from the log (state, decided_by, decided_at)"
    ),
    "UPDATE link SET score = 0.99": "link 1 differs from the log (score)",
    "DELETE FROM link": "link 1 is in the log and not in the case",
    "UPDATE candidate SET score = 9 WHERE track = 2 AND list = 'joined' AND rank = 1": (
        "the candidates of track 2 differ from the log"
    ),
    "UPDATE answer SET verdict = 'unknown' WHERE track = 1": (
        "the candidates of track 1 differ from the log"
    ),
    "UPDATE gallery_photo SET subject = 'carl' WHERE id = 1": (
        "the list of photographs differs from the log"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_without_a_log_line_is_named_and_blocks_decisions(case: Case, change: str) -> None:
    decide(case, 1, "accepted", "a", by="Anna", subject="anna")
    undo(case, decide(case, 1, "rejected", "b", by="Ben").id, "Ben")
    assert problems_of(case) == []
    assert case.db.execute(change).rowcount >= 1
    assert problems_of(case) == [CHANGES[change]]
    lines = case.db.execute("SELECT count(*) FROM log").fetchone()[0]
    for entry in (
        lambda: decide(case, 3, "rejected", "c", by="Carl"),
        lambda: undo(case, 1, "Anna"),
        lambda: links.decide(case, 1, "refused", "Carl"),
        lambda: links.join(case, [1, 3], "Carl"),
        lambda: sign_off(case, "Carl", although_undecided=True),
    ):
        with pytest.raises(IntegrityError, match=re.escape(CHANGES[change])):
            entry()
    assert case.db.execute("SELECT count(*) FROM log").fetchone()[0] == lines
    assert problems_of(case) == [CHANGES[change]]


def test_a_change_before_a_later_log_line_is_still_named(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(case, 1, "rejected", "other ear", by="Anna", subject="anna")
    case.db.execute("UPDATE decision SET verdict = 'accepted' WHERE id = 1")
    with monkeypatch.context() as patch:
        patch.setattr(
            "fasr_video.case.decisions.require_unchanged", lambda case: None
        )  # as a program without this check
        decide(case, 2, "rejected", "b", by="Ben")
    assert problems_of(case) == ["decision 1 differs from the log (verdict)"]


def test_no_line_is_added_to_a_truncated_or_changed_log(case: Case) -> None:
    """Otherwise the new log head would hide that a decision and its line were deleted."""
    decide(case, 1, "rejected", "other ear", by="Anna", subject="anna")
    with case.transaction():
        case.db.execute("DELETE FROM decision")
        case.db.execute("DELETE FROM log WHERE event = 'decided'")
    with pytest.raises(IntegrityError, match="the end of the log is missing"):
        decide(case, 2, "rejected", "b", by="Ben")
    with pytest.raises(IntegrityError, match="the end of its log is missing"), case.transaction():
        case.log("resumed", {})
    assert problems_of(case) == ["the end of the log is missing"]


def test_a_changed_log_line_blocks_decisions(case: Case) -> None:
    decide(case, 1, "rejected", "other ear", by="Anna", subject="anna")
    case.db.execute("UPDATE decision SET reason = 'other nose'")
    case.db.execute(
        "UPDATE log SET details = replace(details, 'ear', 'nose') WHERE event = 'decided'"
    )
    with pytest.raises(IntegrityError, match=r"log line \d+ \(decided\) was changed"):
        decide(case, 2, "rejected", "b", by="Ben")


def test_roles_are_read_in_a_single_pass_over_the_log(case: Case) -> None:
    for n in range(8):
        decide(case, 1 + n % 4, "rejected", "r", by=f"Person {n}", role="examiner" if n % 2 else "")
    with case.transaction():
        for _ in range(300):
            case.log("resumed", {})
    steps = {count: _steps(case, count) for count in (1, 8)}
    assert steps[8] < 2 * steps[1]
    assert [
        d.role
        for _, track_decisions in sorted(standing_by_track(case).items())
        for d in track_decisions
    ].count("examiner") == 4


def _steps(case: Case, most: int) -> int:
    """Return SQLite's steps for reading this many decisions."""
    taken = [0]

    def count() -> int:
        taken[0] += 1
        return 0

    case.db.set_progress_handler(count, 1)
    rows = sqlite3.Connection.execute(case.db, f"{QUERY} WHERE id <= ?", (most,)).fetchall()
    assert len(rows) == most
    case.db.set_progress_handler(None, 0)
    return taken[0]


def test_a_forged_first_decision_is_detected(case: Case) -> None:
    case.db.execute(
        "INSERT INTO decision (track, verdict, reason, by, at) VALUES (1, 'rejected', 'x', 'C', "
        "'2026-01-01T09Z')"
    )
    assert problems_of(case) == ["decision 1 is not in the log"]


def test_decisions_stay_when_the_case_is_searched_again(case: Case) -> None:
    decision = decide(case, 1, "accepted", "a", by="Anna", subject="anna")
    with case.transaction():
        case.db.execute("DELETE FROM candidate WHERE subject = 'anna'")
        searched = json.loads(case.meta("searched"))
        case.log(
            "searched",
            {**searched, "index_rebuilt": None, "answers": replay.answer_digests(case)},
        )
    assert standing_decisions(case, 1) == [decision] and decision.subject == "anna"
    with pytest.raises(UsageError, match="not among its candidates"):
        decide(case, 1, "accepted", "b", by="Ben", subject="anna")
    assert as_document(case).tracks[0].decisions[0].subject == "anna"


def test_a_decision_while_another_process_writes_fails_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasr_video.sqlite.BUSY_SECONDS", 0.1)
    with Case.open(folder) as run, Case.open(folder) as reviewer:
        with run.transaction():
            run.log("noted", {})
            with pytest.raises(EnvironmentFailure, match="another process is writing"):
                decide(reviewer, 1, "rejected", "a", by="Anna")
            assert standing_decisions(reviewer, 1) == []
        decide(reviewer, 1, "rejected", "a", by="Anna")
        assert len(standing_decisions(run, 1)) == 1 and problems_of(run) == []


def clusters(case: Case) -> list[list[int]]:
    return links.clusters(case, ["accepted"])


def test_a_reviewer_can_join_tracks_without_a_proposed_link(case: Case) -> None:
    (link,) = links.join(case, [3, 1], "Anna")
    row = case.db.execute("SELECT * FROM link WHERE id = ?", (link,)).fetchone()
    assert (row["evidence"], row["state"], row["decided_by"]) == ("person", "accepted", "Anna")
    assert 0.8 < row["score"] < 1  # the cosine of the two, although the link was not proposed
    assert clusters(case) == [[1, 3]] and problems_of(case) == []


def test_joining_tracks_accepts_their_proposed_link(case: Case) -> None:
    assert links.join(case, [2, 4], "Anna") == [1]
    assert case.db.execute("SELECT evidence FROM link WHERE id = 1").fetchone()[0] == BY_FACE


def test_several_tracks_become_one_subject_and_are_split_again(case: Case) -> None:
    links.join(case, [1, 3, 4], "Anna")
    assert clusters(case) == [[1, 3, 4]]
    refused = links.split(case, [4], "Ben")
    assert clusters(case) == [[1, 3]] and len(refused) == 1
    links.decide(case, refused[0], "proposed", "Ben")
    links.join(case, [1, 4], "Ben")
    assert clusters(case) == [[1, 3, 4]] and problems_of(case) == []
    events = [
        r[0]
        for r in case.db.execute("SELECT event FROM log WHERE event = 'link decided'").fetchall()
    ]
    assert events == ["link decided"] * 5


def test_two_tracks_in_one_frame_are_not_joined_and_no_link_remains(case: Case) -> None:
    before = case.db.execute("SELECT count(*) FROM link").fetchone()[0]
    with pytest.raises(CaseError, match="tracks T1, T2, which appear in one frame"):
        links.join(case, [1, 2], "Anna")
    assert (
        case.db.execute("SELECT count(*) FROM link").fetchone()[0] == before
        and clusters(case) == []
    )


def test_separated_tracks_are_not_joined_through_a_third_track(case: Case) -> None:
    links.join(case, [1, 4], "Anna")
    (apart,) = links.split(case, [4], "Anna")
    links.join(case, [1, 3], "Ben")
    with pytest.raises(CaseError, match=f"which Anna separated; first reopen link {apart}"):
        links.join(case, [3, 4], "Ben")


@pytest.mark.parametrize(
    ("tracks", "says"),
    [
        ([1], "1 chosen"),
        ([1, 99], "no finished track of this number"),
        ([1, 3], "one subject already"),
    ],
)
def test_joining_without_effect_is_an_error(case: Case, tracks: list[int], says: str) -> None:
    links.join(case, [1, 3], "Anna")
    with pytest.raises(CaseError, match=says):
        links.join(case, tracks, "Anna")


def test_splitting_without_effect_is_an_error(case: Case) -> None:
    with pytest.raises(CaseError, match="track T1: no accepted link joins them"):
        links.split(case, [1], "Anna")


def test_an_accepted_link_that_was_deleted_or_changed_is_detected(case: Case) -> None:
    (link,) = links.join(case, [1, 3], "Anna")
    case.db.execute("UPDATE link SET b = 4 WHERE id = ?", (link,))
    assert problems_of(case) == [f"link {link} differs from the log (b)"]
    case.db.execute("DELETE FROM link WHERE id = ?", (link,))
    assert problems_of(case) == [f"link {link} is in the log and not in the case"]


@pytest.mark.parametrize("name", ["Bob\x00", "Bob\u202e", "Bob\x1b[2J"])
def test_an_unreadable_reviewer_name_is_refused(case: Case, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be displayed"):
        decide(case, 1, "insufficient", "blurred", by=name)
    assert decisions_on(case, 1) == []


def test_without_a_name_the_decision_is_of_the_login_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("decide", folder, "T1", "insufficient", "--reason", "blurred")
    assert run_command(capsys, *given)[0] == 0
    with Case.open(folder, read_only=True) as case:
        assert [decision.by for decision in decisions_on(case, 1)] == [login_name()]


def test_the_command_line_decides_and_undoes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--subject", "anna", "--reason", "same ear", "--by", "Anna")
    assert run_command(capsys, "decide", folder, "T1", "accepted", *given)[:2] == (
        0,
        "decision 1: T1 accepted\n",
    )
    code, out, _ = run_command(capsys, "show", folder)
    assert code == 0 and "decided by people" in out and "same ear" in out
    code, _, err = run_command(capsys, "undo", folder, 1, "--by", " ")
    assert code == 2 and "--by: it is empty; give your name" in err
    taken_back = "decision 1 (T1 accepted anna, by Anna): undone by Ben\n"
    note = "note: it was a decision of Anna\n"
    assert run_command(capsys, "undo", folder, 1, "--by", "Ben")[:2] == (0, taken_back + note)
    code, _, err = run_command(
        capsys, "decide", folder, "T9", "rejected", "--reason", "x", "--by", "Anna"
    )
    assert code == 2 and err.startswith(
        "fasr-video: track T9: the case has no finished track of this name; "
    )
