"""scripts/audit.py: what it makes of an index's answers, and of none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import audit
import pytest

from tests.support.paths import ROOT

WEAK = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "",
    "details": "A picture\nof doom.",
    "fixed_in": ["1.9.3", "2.0.10", "2.1.0"],
    "withdrawn": None,
}
KNOWN: dict[str, Any] = {
    "/pypi/sound/1.0/json": {"vulnerabilities": []},
    "/pypi/weak/2.0.9/json": {"vulnerabilities": [WEAK]},
    "/pypi/hopeless/1.0/json": {"vulnerabilities": [WEAK | {"fixed_in": []}]},
    "/pypi/cleared/1.0/json": {"vulnerabilities": [WEAK | {"withdrawn": "2026-01-01T00:00:00Z"}]},
    "/pypi/silent/1.0/json": {"info": {}},
    "/pypi/torn/1.0/json": "{",
}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = KNOWN.get(self.path)
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    server.server_close()


def run_audit(folder: Path, index: str, *pins: str) -> tuple[int, list[str]]:
    file = folder / "pins.txt"
    file.write_text("\n".join(["# what it is made of", *pins, ""]))
    environment = os.environ | {"PIP_INDEX_URL": index, "no_proxy": "127.0.0.1"}
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "audit.py", file]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert not finished.stderr, finished.stderr
    return finished.returncode, finished.stdout.splitlines()


def test_a_known_weakness_is_printed_with_the_version_that_fixes_it(
    index: str, tmp_path: Path
) -> None:
    code, (line, total) = run_audit(tmp_path, index, "sound==1.0", "weak==2.0.9")
    assert code == 1
    assert line == (
        "audit: weak 2.0.9: PYSEC-2026-1, CVE-2026-1: A picture of doom.; raise the pin to 2.0.10, "
        "then `make lock`"
    )
    assert total == "audit: 2 of 2 pins asked for, 1 known weaknesses"


def test_an_unfixed_weakness_is_printed_and_a_withdrawn_one_is_not(
    index: str, tmp_path: Path
) -> None:
    code, lines = run_audit(tmp_path, index, "hopeless==1.0", "cleared==1.0  # judged")
    assert code == 1 and len(lines) == 2 and lines[0].endswith("no version mends it yet")


def test_packages_that_the_index_does_not_know_are_named(index: str, tmp_path: Path) -> None:
    code, lines = run_audit(tmp_path, index, "sound==1.0", "ours==1.0", "silent==1.0")
    assert code == 0
    assert lines == [
        "audit: 1 of 3 pins asked for, 0 known weaknesses; the index does not know ours, silent"
    ]


@pytest.mark.parametrize(
    ("pin", "address", "why"),
    [
        ("sound==1.0", "http://127.0.0.1:9/simple", "refused"),
        ("ours==1.0", "", "lists no weaknesses"),
        ("torn==1.0", "", "Expecting"),
        ("sound==1.0", "file:///mirror/simple", "no web address"),
    ],
)
def test_without_an_index_one_line_says_so(
    index: str, tmp_path: Path, pin: str, address: str, why: str
) -> None:
    code, (line,) = run_audit(tmp_path, address or index, pin)
    assert code == 0 and "could not ask" in line and why in line and "nothing was checked" in line


def test_every_pin_of_the_project_is_read() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert len(audit.read_pins(audit.PINS)) == len(lines) > 50
