"""The review pages: access, content, refused requests, and what each form changes in the case."""

from __future__ import annotations

import hashlib
import html
import http.client
import json
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from fasr_video.archive.search_again import cases_in
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide, decisions, standing_decisions
from fasr_video.case.links import clusters
from fasr_video.case.recording import Recording, StatedClock
from fasr_video.case.sources import set_recording
from fasr_video.case.store import DATABASE
from fasr_video.case.verify import SIGNED_OFF
from fasr_video.console import clock
from fasr_video.errors import CaseError, IntegrityError, MissingExtra, UsageError
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.store import GalleryStore
from fasr_video.review import serve
from fasr_video.review.app import make_app
from fasr_video.review.server import MOST_CONNECTIONS, by_id, listen, make_server
from fasr_video.review.signoff import sign_off
from fasr_video.review.times import Clock, parse
from tests.support.browser import HOST, PORT, TOKEN, Browser
from tests.support.checks import problems_in
from tests.support.commands import run_command
from tests.support.reviewed import Names, make_case

HOSTILE = "<script>alert('x')</script>\"onerror=alert(1) {{ 7*7 }}"
ESCAPED = html.escape(HOSTILE, quote=True).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def standing_on(folder: Path, track: int) -> list[tuple[str, str | None, str]]:
    with Case.open(folder, read_only=True) as case:
        return [(d.verdict, d.subject, d.by) for d in standing_decisions(case, track)]


def track_names(page: TestResponse) -> list[str]:
    """Return the tracks of an overview, in its order."""
    return re.findall(r"<h2><a [^>]+>([^<]+)</a>", page.text)


def paths(app: Flask) -> Iterator[tuple[str, str]]:
    """Yield method and path of everything that the app serves, except its static files."""
    (case,) = app.config["CASES"]
    values = {
        "case_id": case,
        "name": "T1",
        "decision": 1,
        "link": 1,
        "what": "accept",
        "sha256": "0" * 64,
    }
    with app.test_request_context(base_url=HOST):
        for rule in app.url_map.iter_rules():
            if rule.endpoint != "static":
                url = app.url_for(
                    rule.endpoint, **{k: values[k] for k in rule.arguments}, _external=False
                )
                for method in (rule.methods or set()) & {"GET", "POST"}:
                    yield method, url


# Access.


def test_nothing_is_shown_or_changed_without_the_token(app: Flask, folder: Path) -> None:
    requests = list(paths(app))
    assert {m for m, _ in requests} == {"GET", "POST"} and len(requests) >= 13
    for method, path in requests:
        answer = app.test_client().open(path, method=method, base_url=HOST)
        assert answer.status_code == 403, path
        assert "anna" not in answer.text and "Set-Cookie" not in answer.headers
    assert app.test_client().get("/?token=another", base_url=HOST).status_code == 403
    assert problems_in(folder) == []


def test_the_token_moves_from_the_address_into_a_protected_cookie(
    app: Flask,
) -> None:
    answer = app.test_client().get(f"/?token={TOKEN}", base_url=HOST)
    assert answer.status_code == 302 and TOKEN not in answer.headers["Location"]
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and f"fasr-video-{PORT}=" in cookie


def test_a_forged_cookie_opens_nothing(app: Flask) -> None:
    other = Flask("other")
    other.secret_key = b"guessed"
    serializer = other.session_interface.get_signing_serializer(other)  # type: ignore[attr-defined]
    client = app.test_client()
    client.set_cookie(
        f"fasr-video-{PORT}", serializer.dumps({"open": True, "csrf": "x"}), domain="127.0.0.1"
    )
    assert client.get("/", base_url=HOST).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:4711"]
)
def test_another_host_name_is_refused_also_with_the_token(browser: Browser, host: str) -> None:
    assert browser.client.get("/", base_url=HOST, headers={"Host": host}).status_code == 421
    assert (
        browser.client.get(f"/?token={TOKEN}", base_url=HOST, headers={"Host": host}).status_code
        == 421
    )


@pytest.mark.parametrize("csrf", ["", "wrong", "ümlaut"])
def test_a_form_from_elsewhere_changes_nothing(browser: Browser, folder: Path, csrf: str) -> None:
    fields = {"verdict": "rejected", "reason": "x", "by": "Anna", "csrf": csrf}
    assert browser.post("/track/T1/decide", **fields).status_code == 403
    assert browser.post("/join", track=[1, 3], by="Anna", csrf=csrf).status_code == 403
    assert standing_on(folder, 1) == []


def test_viewing_pages_changes_nothing(app: Flask, browser: Browser, folder: Path) -> None:
    before = (folder / DATABASE).read_bytes()
    for _, path in paths(app):
        browser.open(path)
    assert (folder / DATABASE).read_bytes() == before


def test_every_response_has_the_security_headers(browser: Browser) -> None:
    for answer in (browser.open("/"), browser.open("/nowhere"), browser.open("/static/review.css")):
        policy = answer.headers["Content-Security-Policy"]
        assert (
            policy.startswith("default-src 'none'")
            and "unsafe" not in policy
            and "http" not in policy
        )
        assert (
            answer.headers["Cache-Control"] == "no-store"
            and answer.headers["X-Frame-Options"] == "DENY"
        )
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_no_page_loads_foreign_content_or_inline_scripts(
    browser: Browser,
) -> None:
    for path in (
        "/",
        *(f"/case/{browser.case}/{p}" for p in ("track/T1", "subjects", "log", "sign-off")),
    ):
        text = browser.open(path).text
        assert re.findall(r'(?:src|href|action)="(?!/[^/]|/"|#|\?)[^"]*"', text) == []
        assert (
            re.findall(r"<script(?![^>]* src=)", text) == []
            and " style=" not in text
            and " onclick" not in text
        )


@pytest.mark.parametrize("name", ["..%2f..%2fcase.sqlite", "a" * 64, "..", "A" * 64])
def test_only_pictures_of_the_case_can_be_requested(browser: Browser, name: str) -> None:
    assert browser.get(f"/picture/{name}.png").status_code == 404
    assert browser.get(f"/photograph/{name}.png").status_code == 404


def test_hostile_names_and_reasons_are_escaped_everywhere(
    tmp_path: Path,
) -> None:
    odd = Names(
        HOSTILE, "bert", f"/footage/{HOSTILE.replace('/', '')}.mp4", camera=HOSTILE, remark=HOSTILE
    )
    folder = make_case(tmp_path / "case", odd)
    browser = Browser(make_app(by_id([folder]), TOKEN, PORT))
    answer = browser.post(
        "/track/T1/decide", verdict="accepted", subject=HOSTILE, reason=HOSTILE, by=HOSTILE
    )
    assert answer.status_code == 303
    browser.post("/join", track=[1, 3], by=HOSTILE)
    browser.post("/sign-off", by=HOSTILE, although="on")
    pages = [f"/case/{browser.case}/{page}" for page in ("track/T1", "subjects", "sign-off")]
    for path in ("/", "/?camera=" + HOSTILE, *pages):
        text = browser.open(path).text
        assert ESCAPED in text and "<script>alert" not in text, path
    assert "<script>" not in browser.get("/log").text
    (report,) = (folder / SIGNED_OFF).glob("*.html")
    assert "<script" not in report.read_text() and ESCAPED in report.read_text()
    assert problems_in(folder) == []


# What pages show.


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["T1", "T2", "S2-T1", "S2-T2", "S2-T3"]),
        ("camera=Yard", ["S2-T1", "S2-T2", "S2-T3"]),
        ("camera=door.mp4", ["T1", "T2"]),
        ("state=candidates", ["T1", "S2-T1", "S2-T2"]),
        ("state=unknown", ["T2"]),
        ("state=insufficient", ["S2-T3"]),
        ("since=0:00:05", ["T2", "S2-T2", "S2-T3"]),
        ("until=1", ["T1", "S2-T1"]),
        ("since=5&until=12", ["T2", "S2-T2"]),
        ("since=2026-03-01+14:00:05", ["S2-T2", "S2-T3"]),
        ("until=2026-03-01T13:00:12Z", ["S2-T1", "S2-T2"]),
        ("quality=0.7", ["S2-T1", "S2-T2", "S2-T3"]),
        ("score=2.7", ["T1"]),
        ("score=-5", ["T1", "S2-T1", "S2-T2"]),
        ("decided=undecided", ["T1", "S2-T2", "S2-T3"]),
        ("decided=decided", ["T2", "S2-T1"]),
        ("decided=one+reviewer", ["T2"]),
        ("decided=reviewers+disagree", ["S2-T1"]),
        ("camera=Yard&state=candidates&decided=undecided", ["S2-T2"]),
        ("camera=nowhere", []),
    ],
)
def test_tracks_are_filtered(folder: Path, query: str, expected: list[str]) -> None:
    with Case.open(folder) as case:
        decide(case, 2, "insufficient", "too blurred", by="Anna")
        decide(case, 3, "accepted", "same ear", by="Anna", subject="anna")
        decide(case, 3, "rejected", "other ear", by="Ben", subject="anna")
    assert (
        track_names(Browser(make_app(by_id([folder]), TOKEN, PORT)).open(f"/?{query}")) == expected
    )


@pytest.mark.parametrize(
    "query", ["since=soon", "until=1:2:3:4", "quality=good", "score=nan", "state=x", "since=-1"]
)
def test_an_invalid_filter_is_reported_in_one_line(browser: Browser, query: str) -> None:
    answer = browser.open(f"/?{query}")
    assert (
        answer.status_code == 400
        and 'role="alert"' in answer.text
        and len(track_names(answer)) == 5
    )


def test_a_card_names_nobody_who_does_not_pass(browser: Browser) -> None:
    cards = browser.open("/").text.split('<li class="card">')[1:]
    assert (
        "anna" in cards[0]
        and "log10 LR +3.2" in re.sub(r"\s+", " ", cards[0])
        and "bert" not in cards[0]
    )
    assert "anna" not in cards[1] and "bert" not in cards[1] and "unknown" in cards[1]
    assert "only the reconstruction" in cards[3]


def test_several_cases_are_shown_together_and_one_can_be_chosen(
    folder: Path, tmp_path: Path
) -> None:
    other = make_case(tmp_path / "other")
    app = make_app(by_id([folder, other]), TOKEN, PORT)
    client = app.test_client()
    client.get(f"/?token={TOKEN}", base_url=HOST)
    assert len(track_names(client.get("/", base_url=HOST))) == 10
    second = list(app.config["CASES"])[1]
    page = client.get(f"/?case={second}", base_url=HOST)
    assert len(track_names(page)) == 5 and f"/case/{second}/track/T1" in page.text


def test_a_track_shows_the_camera_first_and_the_reconstruction_under_its_banner(
    browser: Browser,
) -> None:
    text = browser.get("/track/T1").text
    camera, banner, reconstruction, candidates = (
        text.index(s)
        for s in (
            "From the camera",
            "Synthetic reconstruction:</b> a lead, not for comparison",
            "Synthetic reconstruction: Mean of 2 samples",
            'id="candidates"',
        )
    )
    assert camera < banner < reconstruction < candidates


def test_the_photograph_is_compared_with_the_camera_picture_by_default(
    browser: Browser,
) -> None:
    default, chosen = browser.get("/track/T1").text, browser.get("/track/T1?probe=sr").text
    assert (
        "resampled" in default.split('id="compare"')[1]
        and "Synthetic" not in default.split('id="compare"')[1]
    )
    compared = chosen.split('id="compare"')[1]
    assert 'alt="Synthetic reconstruction of T1"' in compared and "not for comparison" in compared


def test_a_reconstruction_is_never_compared_with_the_photographs_it_was_drawn_from(
    browser: Browser,
) -> None:
    page = browser.get("/track/S2-T2?candidate=anna&probe=sr").text
    assert (
        "Synthetic" not in page.split('id="compare"')[1]
        and "was drawn from these photographs" in page
    )
    assert "It was drawn from the photographs of anna" in page


def test_without_a_lead_nobody_is_compared_until_chosen(browser: Browser) -> None:
    assert "Compared with" not in browser.get("/track/T2").text
    assert "Compared with anna" in browser.get("/track/T2?candidate=anna").text
    assert "Compared with" not in browser.get("/track/T2?candidate=somebody").text


def test_pictures_and_photographs_are_served(browser: Browser) -> None:
    pictures = re.findall(r'src="(/case/[^"]+)"', browser.get("/track/T1").text)
    assert len(pictures) > 8
    for path in pictures:
        answer = browser.open(path)
        assert answer.status_code == 200 and answer.data.startswith(b"\x89PNG")


def test_a_missing_gallery_is_reported_and_the_rest_is_shown(
    browser: Browser, folder: Path
) -> None:
    shutil.rmtree(folder / "gallery")
    answer = browser.get("/track/T1")
    assert answer.status_code == 200 and "The gallery is not available" in answer.text


@pytest.mark.parametrize("path", ["/case/nowhere/log", "/nowhere"])
def test_an_unknown_page_is_a_404(browser: Browser, path: str) -> None:
    answer = browser.open(path)
    assert answer.status_code == 404 and "requested URL" not in answer.text
    assert browser.get("/track/T9").status_code == 404


def test_a_number_that_is_too_large_is_a_404(browser: Browser) -> None:
    assert browser.get(f"/log?page={10**30}").status_code == 404
    assert browser.post(f"/link/{10**30}/accept", by="Anna").status_code == 404
    assert browser.post("/join", track=[1, 10**30], by="Anna").status_code == 404


# Decisions.


def test_a_decision_is_recorded_and_the_name_remembered(browser: Browser, folder: Path) -> None:
    fields = {"verdict": "accepted", "subject": "anna", "reason": "same ear", "by": "Anna"}
    assert browser.post("/track/T1/decide", **fields).status_code == 303
    assert standing_on(folder, 1) == [("accepted", "anna", "Anna")] and problems_in(folder) == []
    page = browser.get("/track/T1").text
    assert "Recorded: accepted anna, by Anna." in page and "same ear" in page
    assert 'name="by" required maxlength="100" autocomplete="name" value="Anna"' in page
    assert "Recorded" not in browser.get("/track/T1").text


def test_two_reviewers_agree_or_disagree_and_it_is_shown(browser: Browser) -> None:
    browser.post("/track/T1/decide", verdict="accepted", subject="anna", reason="a", by="Anna")
    browser.post("/track/T1/decide", verdict="insufficient", subject="anna", reason="b", by="Ben")
    assert "reviewers disagree" in browser.get("/track/T1").text
    browser.post("/track/T1/decide", verdict="accepted", subject="anna", reason="c", by="ben")
    page = browser.get("/track/T1").text
    assert "reviewers agree" in page and "undone by ben" in page


def test_a_decision_is_undone_by_its_form(browser: Browser, folder: Path) -> None:
    browser.post("/track/T1/decide", verdict="rejected", reason="a", by="Anna")
    assert browser.post("/track/T1/undo/1", by="Ben").status_code == 303
    assert standing_on(folder, 1) == [] and "undone by Ben" in browser.get("/track/T1").text
    assert browser.post("/track/T1/undo/1", by="Ben").status_code == 400


def test_a_decision_is_undone_on_its_own_track_alone(browser: Browser, folder: Path) -> None:
    browser.post("/track/T1/decide", verdict="insufficient", reason="blurred", by="Ann")
    assert browser.post("/track/T2/undo/1", by="Ann").status_code == 400
    assert standing_on(folder, 1) == [("insufficient", None, "Ann")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"verdict": "rejected", "reason": " ", "by": "Anna"}, "a reason is missing"),
        ({"verdict": "rejected", "reason": "what I saw", "by": ""}, "your name is missing"),
        ({"verdict": "", "reason": "what I saw", "by": "Anna"}, "no such verdict"),
        ({"verdict": "accepted", "reason": "what I saw", "by": "Anna"}, "needs a candidate"),
    ],
)
def test_a_refused_decision_stays_in_the_form(
    browser: Browser, folder: Path, fields: dict[str, str], says: str
) -> None:
    answer = browser.post("/track/T1/decide", **fields)
    assert answer.status_code == 400 and says in html.unescape(answer.text)
    assert fields["reason"].strip() in answer.text and standing_on(folder, 1) == []


def test_a_busy_case_is_shown_and_a_refused_decision_keeps_its_text(
    browser: Browser, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasr_video.sqlite.BUSY_SECONDS", 0.1)
    fields = {"verdict": "rejected", "reason": "what I saw at length", "by": "Anna"}
    with Case.open(folder) as run, run.transaction():
        run.log("noted", {})
        assert browser.open("/").status_code == browser.get("/track/T1").status_code == 200
        answer = browser.post("/track/T1/decide", **fields)
        assert answer.status_code == 503 and "another process is writing to it" in answer.text
        assert "what I saw at length" in answer.text and 'value="Anna"' in answer.text
    assert browser.post("/track/T1/decide", **fields).status_code == 303
    assert standing_on(folder, 1) == [("rejected", None, "Anna")] and problems_in(folder) == []


def test_only_finished_tracks_of_a_running_case_are_shown(browser: Browser, folder: Path) -> None:
    with sqlite3.connect(folder / DATABASE) as db:
        db.execute("UPDATE source SET state = 'running' WHERE id = 2")
        db.execute("UPDATE track SET state = 'live' WHERE id = 5")
    page = browser.open("/")
    assert "a run is working on yard.mp4" in page.text and "S2-T3" not in track_names(page)


# Subjects.


def test_forms_join_split_and_reopen_tracks(browser: Browser, folder: Path) -> None:
    assert browser.post("/join", track=[1, 3, 4], by="Anna").status_code == 303
    page = browser.get("/subjects").text
    assert "Subject 1" in page and "3 tracks" in page and "Joined, by 2 links." in page
    browser.post("/split", track=[4], by="Ben")
    browser.post("/link/1/accept", by="Ben")
    with Case.open(folder, read_only=True) as case:
        assert clusters(case, ["accepted"]) == [[1, 3], [2, 4]]
    browser.post("/link/1/reopen", by="Ben")
    with Case.open(folder, read_only=True) as case:
        assert clusters(case, ["accepted"]) == [[1, 3]]
    assert problems_in(folder) == [] and "link decided</b> by Ben" in browser.get("/log").text


def test_a_contradictory_join_is_refused_and_keeps_the_selection(browser: Browser) -> None:
    answer = browser.post("/join", track=[1, 2], by="Anna")
    assert answer.status_code == 400 and "appear in one frame" in answer.text
    assert re.findall(r'name="track" value="(\d)" checked', answer.text) == ["1", "2"]


# Signing off.


def test_undecided_tracks_block_the_sign_off_unless_overridden(folder: Path) -> None:
    with Case.open(folder) as case:
        decide(case, 1, "accepted", "same ear", by="Anna", subject="anna")
        with pytest.raises(
            CaseError, match=re.escape("4 tracks are undecided (T2, S2-T1, S2-T2, S2-T3)")
        ):
            sign_off(case, "Anna")
        assert not (folder / SIGNED_OFF).exists()
        assert sign_off(case, "Anna", although_undecided=True).undecided == (
            "T2",
            "S2-T1",
            "S2-T2",
            "S2-T3",
        )


def test_a_signed_off_report_holds_decisions_and_log_head(folder: Path) -> None:
    with Case.open(folder) as case:
        for track in range(1, 6):
            decide(case, track, "insufficient", "too blurred", by="Anna")
        decide(case, 1, "accepted", "same ear", by="Ben", subject="anna")
        head = case.meta("log_head")
        written = sign_off(case, "Ben")
    (name,) = (n for n in written.files if n.endswith(".json"))
    report = json.loads((folder / SIGNED_OFF / name).read_text())
    assert (report["log_head"], report["reviewers"], report["disagreements"]) == (
        head,
        ["Anna", "Ben"],
        ["T1"],
    )
    assert report["tracks"][0]["decisions"][1]["reason"] == "same ear" and report["undecided"] == []
    (page,) = (folder / SIGNED_OFF).glob("*.html")
    text = page.read_text()
    assert (
        "default-src &#39;none&#39;; style-src &#39;sha256-" in text
        and "Reviewers disagree: T1" in text
    )
    assert problems_in(folder) == []
    page.write_text(text.replace("same ear", "other ear"))
    assert problems_in(folder) == [f"{page} was changed"]


def test_altered_decisions_are_not_signed_off(browser: Browser, folder: Path) -> None:
    browser.post("/track/T1/decide", verdict="rejected", reason="a", by="Anna")
    with sqlite3.connect(folder / DATABASE) as db:
        db.execute("UPDATE decision SET verdict = 'insufficient'")
    answer = browser.post("/sign-off", by="Anna", although="on")
    assert answer.status_code == 500 and "decision 1 differs from the log (verdict)" in answer.text
    assert not list(folder.glob(f"{SIGNED_OFF}/*"))


def test_a_signed_report_holds_the_head_of_the_log(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    from fasr_video.custody.keys import make_signing_keys
    from fasr_video.custody.signing import check_signature

    key = tmp_path / "examiner.pem"
    public, _ = make_signing_keys(key)
    app = make_app(by_id([folder]), TOKEN, PORT, sign_key=key)
    signing = Browser(app)
    signing.post("/track/T1/decide", verdict="rejected", reason="a", by="Anna")
    with Case.open(folder, read_only=True) as case:
        head = case.meta("log_head")
    assert signing.post("/sign-off", by="Anna", role="examiner", although="on").status_code == 303
    (report,) = (folder / SIGNED_OFF).glob("*.json")
    signed = check_signature(report, public)
    assert signed.by == "Anna (examiner)" and json.loads(report.read_text())["log_head"] == head
    assert (
        problems_in(folder) == [] and run_command(capsys, "verify", folder, "--head", head)[0] == 0
    )
    signature = report.with_name(f"{report.name}.sha256.sig")
    signature.write_bytes(bytes(64))
    assert problems_in(folder) == [f"{signature} was changed"]
    with pytest.raises(IntegrityError, match="not signed with key"):
        check_signature(report, public)


def test_the_sign_off_page_names_undecided_tracks(browser: Browser, folder: Path) -> None:
    assert "5 tracks are undecided" in browser.post("/sign-off", by="Anna").text
    assert browser.post("/sign-off", by="Anna", although="on").status_code == 303
    page = browser.get("/sign-off").text
    assert "although 5 undecided" in page
    for file in (folder / SIGNED_OFF).iterdir():
        assert file.name in page


# The server.


def test_a_port_in_use_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen(0) as listening:
        port = listening.getsockname()[1]
        code, _, err = run_command(capsys, "serve", folder, "--port", port)
    line = (
        f"starting …\nfasr-video: --port {port}: another program listens there; give another, or 0 for a free "
        "one\n"
    )
    assert (code, err) == (2, line)


def test_all_cases_in_a_folder_are_served_at_any_depth(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(folder, archive / "2026" / "case")
    make_case(archive / "another")
    assert sorted(c.name for c in cases_in([archive])) == ["another", "case"]
    (archive / "gallery").mkdir()
    (archive / "ledger.sqlite").touch()
    assert len(cases_in(sorted(archive.glob("*/")))) == 2, (
        "a shell names the gallery of an archive, too"
    )
    with pytest.raises(CaseError, match="no case here"):
        cases_in([archive / "gallery"])


def test_it_listens_on_the_loopback_address_only() -> None:
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        with (
            pytest.raises(OSError),
            socket.create_connection(("127.0.0.2", listening.getsockname()[1]), 1),
        ):
            pass


@pytest.fixture
def address(app: Flask) -> Iterator[tuple[str, int]]:
    """Run the real server with its limits, and return its address."""
    with listen(0) as listening:
        server = make_server(app, listening)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield listening.getsockname()
        server.close()


@pytest.fixture
def no_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make every attempt to create a temporary file fail."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))


def fetch(address: tuple[str, int], path: str, **headers: str) -> tuple[int, bytes]:
    client = http.client.HTTPConnection(*address, timeout=60)
    client.request("GET", path, headers={"Host": f"127.0.0.1:{PORT}", **headers})
    answer = client.getresponse()
    return answer.status, answer.read()


@pytest.mark.usefixtures("no_temporary_files")
@pytest.mark.parametrize("how", [b"Content-Length: 314572800", b"Transfer-Encoding: chunked"])
def test_a_huge_request_body_is_refused_and_never_stored(
    how: bytes, address: tuple[str, int]
) -> None:
    with socket.create_connection(address, 60) as listening:
        listening.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + how + b"\r\n\r\n")
        piece = b"10000\r\n" + bytes(0x10000) + b"\r\n" if b"chunked" in how else bytes(0x10000)
        sent = 0
        with suppress(OSError):
            while sent < 64 << 20:
                listening.sendall(piece)
                sent += len(piece)
        with suppress(ConnectionError):
            assert b" 413 " in listening.recv(4096)
    assert sent < 64 << 20, "the server closes, and takes no more"


def test_idle_connections_keep_nobody_out(address: tuple[str, int]) -> None:
    idle = [socket.create_connection(address, 60) for _ in range(5 * MOST_CONNECTIONS)]
    try:
        status, _ = fetch(address, f"/?token={TOKEN}")
        assert status == 302
    finally:
        for each in idle:
            each.close()


@pytest.mark.usefixtures("no_temporary_files")
def test_a_picture_of_several_megabytes_goes_through_no_temporary_file(
    address: tuple[str, int], browser: Browser, folder: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    with Case.open(folder) as case:
        name = case.write_picture(noise)
    cookie = browser.client.get_cookie(f"fasr-video-{PORT}", domain="127.0.0.1")
    assert cookie is not None
    path = f"/case/{browser.case}/picture/{name}.png"
    status, data = fetch(address, path, Cookie=f"{cookie.key}={cookie.value}")
    assert status == 200 and hashlib.sha256(data).hexdigest() == name and len(data) > 2 << 20


def test_the_key_ends_with_its_time(folder: Path) -> None:
    app = make_app(by_id([folder]), TOKEN, PORT, hours=1)
    browser = Browser(app)
    assert browser.get("/track/T1").status_code == 200
    app.config["KEY"].until -= 3600
    for answer in (
        browser.get("/track/T1"),
        app.test_client().get(f"/?token={TOKEN}", base_url=HOST),
    ):
        assert answer.status_code == 403 and "has ended" in answer.text


def test_a_sign_off_can_end_the_key(browser: Browser) -> None:
    assert "sign-off: your name is missing; enter it" in browser.post("/sign-off", by="").text
    assert "its address stops working" in browser.get("/sign-off").text
    assert browser.post("/sign-off", by="Anna", end_key="on").status_code == 400, (
        "tracks are undecided"
    )
    assert browser.post("/sign-off", by="Anna", although="on").status_code == 303
    assert browser.get("/sign-off").status_code == 200
    done = browser.post("/sign-off", by="Anna", although="on", end_key="on")
    assert done.status_code == 200 and "has ended" in done.text
    assert browser.get("/sign-off").status_code == 403


def test_showing_a_photograph_reads_only_that_photograph(
    browser: Browser, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version read all photographs of the gallery for each one."""
    with Gallery.open(folder / "gallery", read_only=True) as gallery:
        image = gallery.images()[0]
        assert gallery.image(image.sha256) == image and gallery.image("f" * 64) is None
    monkeypatch.delattr(GalleryStore, "images")
    assert browser.get(f"/photograph/{image.sha256}.png").status_code == 200
    assert browser.get(f"/photograph/{'f' * 64}.png").status_code == 404


@pytest.mark.parametrize("package", ["flask", "waitress"])
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtra,
        match=re.escape(f"{package}: not installed, but `fasr-video serve` needs it; "),
    ):
        serve([folder], 0, print)


def test_a_case_given_twice_or_no_case_is_an_error(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    with pytest.raises(UsageError, match="the same case as"):
        by_id([folder, Path(copied)])
    with pytest.raises(CaseError, match="no case here"):
        by_id([tmp_path])


# Times.


def test_times_are_read_and_shown() -> None:
    assert [parse(t) for t in ("12.5", "1:30", " 01:02:03.250 ")] == [12.5, 90.0, 3723.25]
    assert parse("20240501T100000") == parse("2024-05-01 10:00")
    assert [clock(s) for s in (0, 59.9996, 3723.25)] == [
        "0:00:00.000",
        "0:01:00.000",
        "1:02:03.250",
    ]
    known = Clock.read(
        {"start": "2026-03-01T23:59:58+01:00", "uncertainty_seconds": 1.5, "from": "csv"}
    )
    assert known is not None and known.text(4.48) == "2026-03-02 00:00:02.480+01:00 ± 1.5 s"
    assert Clock.read(None) is None


def test_a_corrected_clock_is_shown_with_what_the_camera_showed(folder: Path) -> None:
    right: StatedClock = {
        "start": "2026-03-01T14:00:00+01:00",
        "uncertainty_seconds": 2.0,
        "from": "csv",
    }
    corrected = right.copy()
    corrected["shown"] = "2026-03-01T14:01:30+01:00"
    corrected["offset_seconds"] = 90
    corrected["drift_seconds_a_day"] = 0
    remark = "the camera showed 2026-03-01T14:01:30+01:00, 90 s ahead"
    for known, times in ((right, 0), (corrected, 1)):
        with Case.open(folder) as case:
            set_recording(case, 2, Recording("Yard", known))
        page = Browser(make_app(by_id([folder]), TOKEN, PORT)).get("/track/S2-T1").text
        assert html.unescape(page).count(remark) == times


def test_page_and_command_line_record_the_same_decisions(
    browser: Browser, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    browser.post("/track/T1/decide", verdict="rejected", reason="a", by="Anna")
    run_command(capsys, "decide", folder, "T1", "insufficient", "--reason", "b", "--by", "anna")
    with Case.open(folder, read_only=True) as case:
        assert [d.stands for d in decisions(case, 1)] == [False, True]
