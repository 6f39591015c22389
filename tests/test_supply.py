"""What it is made of, and that it calls nobody: licences, pinned hashes, a run without a network."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from packaging.version import Version

import lock
from fasr_video.box import read_manifest
from fasr_video.custody.licences import UNKNOWN, packages, weights
from tests.conftest import PORTRAITS
from tests.test_cli import called

ROOT = Path(__file__).parents[1]

NO_NETWORK = """
import socket, sys

def refuse(event, args):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"} and args[0].family != socket.AF_UNIX:
        raise RuntimeError(f"{event} {args[1]}")
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        raise RuntimeError(f"{event} {args[0]}")

sys.addaudithook(refuse)
"""


def without_network(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NO_NETWORK + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=100)


def test_a_whole_run_calls_nobody(entrance: Path, tmp_path: Path) -> None:
    """Detect, track, restore, enrol, search, verify: in a process in which every call out is an error."""
    quick = ("sampling.fps=2", "sampling.start=2", "sampling.end=5", "track.min_sightings=2", "restore.sampler=dpmpp-2")
    options = [part for o in quick for part in ("--set", o)]
    start = "from fasr_video.cli import main; main()"
    told = without_network(
        start, "run", entrance, "--gallery", PORTRAITS / "mugshots", "--out", "case", *options, "--json", cwd=tmp_path
    )
    assert told.returncode == 0, told.stderr
    done = json.loads(told.stdout.splitlines()[-1])
    assert done["event"] == "done" and done["tracks"] > 0
    checked = without_network(start, "verify", "case", "--rerun", 1, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'', ('::1', 9))",
        "import urllib.request; urllib.request.urlopen('http://a.invalid')",
    ],
)
def test_the_guard_of_that_test_sees_calls(call: str, tmp_path: Path) -> None:
    told = without_network(call, cwd=tmp_path)
    assert told.returncode == 1 and "RuntimeError: socket." in told.stderr


def test_every_package_and_model_has_a_licence_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "licences", "--json")
    told = json.loads(out)
    assert code == 0
    by_name = {row["name"].lower(): row for row in told["packages"]}
    assert by_name["numpy"]["needed_for"] == "every run" and "BSD" in by_name["numpy"]["licence"]
    assert by_name["werkzeug"]["needed_for"] == "extra serve", "what a package of an extra needs is of that extra"
    assert by_name["fasr-video"]["licence"] == "Apache-2.0"
    assert {row["name"] for row in told["weights"]} == set(read_manifest())


def test_a_licence_that_is_not_stated_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "nothing_said-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nothing-said\nVersion: 1.0\n")
    needs = importlib.metadata.requires
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context() as patch:
        asked = {"fasr-video": ["nothing-said>=1", "not-installed; extra == 'other'"]}
        patch.setattr(importlib.metadata, "requires", lambda name: asked.get(name) or needs(name))
        rows = {row.name: row for row in packages()}
    assert rows["nothing-said"].licence == UNKNOWN and "not-installed" not in rows


def test_weights_are_told_with_their_data() -> None:
    assert all(row.licence and row.needed_for != "trained on: " for row in weights())


def pins(name: str) -> dict[str, str]:
    lines = (line.split()[0] for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#")
    return dict(line.lower().replace("_", "-").replace("+cpu", "").split("==") for line in lines)


def test_the_lock_has_every_pin_with_hashes_and_no_address() -> None:
    text = (ROOT / "constraints.lock").read_text()
    assert pins("constraints.lock") == pins("constraints.txt"), "make lock"
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"\S+==\S+( ; [^:]+)?( --hash=sha256:[0-9a-f]{64})+", line)
    assert "://" not in text


def test_setup_takes_everything_by_these_hashes() -> None:
    made = (ROOT / "Makefile").read_text()
    assert (
        "--require-hashes --no-deps --no-build-isolation -r constraints.lock" in made
        and "--no-build-isolation -e" in made
    )
    built_with = re.search(r"requires = \[\"(\w+)", (ROOT / "pyproject.toml").read_text())
    assert built_with is not None and built_with[1] in pins("constraints.lock"), "what builds fasr-video is pinned too"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("some_thing-1.0-py3-none-any.whl", True),
        ("some_thing-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("some_thing-1.0-cp314-cp314t-musllinux_1_2_aarch64.whl", True),
        ("some_thing-1.0-cp38-abi3-manylinux_2_28_x86_64.whl", True),
        ("some_thing-1.0-cp310-cp310-manylinux_2_28_x86_64.whl", False),
        ("some_thing-1.0-cp311-cp311-win_amd64.whl", False),
        ("some_thing-1.0.1-py3-none-any.whl", False),
        ("some_thing-1.0.tar.gz", False),
        ("face_recognition_models-1.0.tar.gz", True),
        ("face_recognition_models-1.1.tar.gz", False),
    ],
)
def test_the_lock_takes_wheels_of_that_version_that_run_here_and_one_source_distribution(
    file: str, expected: bool
) -> None:
    assert lock.fits(file, Version("1.0")) is expected


@pytest.mark.parametrize("known", [True, False])
def test_a_file_of_torch_that_the_lock_does_not_know_ends_the_setup(known: bool, tmp_path: Path) -> None:
    hashes = re.findall(r"^torch==.*sha256:([0-9a-f]{64})", (ROOT / "constraints.lock").read_text(), re.MULTILINE)
    digest = hashes[0] if known else "ab" * 32
    taken = {"metadata": {"name": "torch"}, "download_info": {"archive_info": {"hashes": {"sha256": digest}}}}
    (tmp_path / "report.json").write_text(json.dumps({"install": [taken]}))
    with nullcontext() if known else pytest.raises(SystemExit, match=r"the file of torch is none that .* knows"):
        lock.main(["--check", str(tmp_path / "report.json")])
