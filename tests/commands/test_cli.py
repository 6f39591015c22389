"""The command line: documentation, one-line errors, and exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import click
import make_cli_page
import pytest

from fasr_video import cli
from fasr_video.commands import screen
from fasr_video.configs import settings as configs
from fasr_video.console import count
from fasr_video.pipeline.run import run
from tests.support import videos
from tests.support.commands import run_command
from tests.support.paths import ROOT


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    """Return all commands by full name, those of groups as `train sr`."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = (
            commands(command, f"{prefix}{name} ")
            if isinstance(command, click.Group)
            else {prefix + name: command}
        )
        found |= inner
    return found


COMMANDS = commands(cli.cli)


def test_the_list_of_commands_has_a_short_sentence_for_each() -> None:
    context = click.Context(cli.cli)
    for name, lazy in cli.COMMANDS.items():
        command = cli.cli.get_command(context, name)
        assert command is not None and command.name == name
        assert len(lazy.help) < 45 and lazy.help.endswith(".")


def test_the_list_of_commands_fits_a_terminal_and_has_its_groups_in_order() -> None:
    text = cli.cli.get_help(click.Context(cli.cli, terminal_width=80))
    assert "..." not in text.partition("Footage:")[2] and "…" not in text
    places = [text.index(f"\n{group}:") for group in cli.GROUPS]
    assert places == sorted(places)
    assert all(f"  {name} " in text for name in cli.COMMANDS)


def run_in_shell(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fasr_video", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=100)


@pytest.fixture(scope="module")
def case(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "case"
    run([entrance], out, configs.load("cpu", ("sampling.fps=3", "track.min_sightings=2")))
    return out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_section_in_the_documentation(name: str) -> None:
    assert f"## fasr-video {name}\n" in (ROOT / "docs" / "cli.md").read_text()


def test_the_option_tables_of_the_documentation_are_those_of_the_commands() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert make_cli_page.with_tables(page).rstrip("\n") == page.rstrip("\n"), (
        "run: python scripts/make_cli_page.py"
    )


@pytest.mark.slow
def test_run_works_from_a_shell(entrance: Path, tmp_path: Path) -> None:
    result = run_in_shell(
        "run", entrance, "--fps", 3, "--set", "track.min_sightings=2", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["event"] == "done" and last["tracks"] == 1
    assert (tmp_path / last["case"] / "case.sqlite").is_file()
    assert Path(last["case"]).parts[0] == "cases"


def test_lost_footage_ends_with_exit_code_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intact = videos.encode(tmp_path / "whole.mkv", videos.Recipe("H.264"))
    broken = videos.flip_bits(intact, tmp_path / "broken.mkv", seed=1)
    code, out, _ = run_command(capsys, "run", broken, "--out", tmp_path / "case")
    assert code == 3
    assert "lost:" in out


def test_footage_without_faces_is_reported_and_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    footage = videos.encode(tmp_path / "street.mp4", videos.Recipe("no faces"), frames=10)
    code, out, _ = run_command(capsys, "run", footage, "--out", tmp_path / "case")
    assert code == 0
    assert "no face" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.mp4"], "no such file"),
        (["run", "{text}"], "not a video"),
        (["run", "{empty}"], "0 bytes"),
        (["run", "{clip}", "--every", "0"], "sampling.every"),
        (["run", "{clip}", "--start", "noon"], "not a time"),
        (["run", "{clip}", "--start", "3", "--end", "2"], "--end"),
        (["run", "{clip}", "--start", "99"], "after the end of entrance.mp4"),
        (
            [
                "run",
                "{clip}",
                "--set",
                "detect.backend=retinaface",
                "--set",
                "detect.weights={text}",
            ],
            "text.mp4",
        ),
        (["run", "{clip}", "--preset", "gpuu"], "did you mean gpu"),
        (["run", "{clip}", "--set", "detect.min_scor=0.5"], "did you mean detect.min_score"),
        (["run", "{clip}", "--set", "detect.min_score=2"], "detect.min_score"),
        (["run", "{clip}", "--set", "detect.min_score"], "group.key=value"),
        (["run", "{clip}", "--set", "detect.backend=retinaface"], "detect.weights"),
        (["run", "{clip}", "--set", "media.backend=vlc"], "media.backend"),
        (["run", "{clip}", "--out", "{text}"], "text.mp4: a file, not a folder; give another"),
        (["run", "{clip}", "--set", "restore.method=esrgan"], "restore.method=esrgan: no such"),
        (["show", "{text}"], "text.mp4: a file; give the folder of a case"),
        (["show", "{folder}"], "no case here"),
        (["verify", "{folder}"], "no case here"),
        (["export", "{folder}", "--format", "csv"], "no case here"),
        (["link", "{case}", "99", "accept"], "no such proposal"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    says: str,
    case: Path,
    entrance: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty.mp4").touch()
    paths = {
        "text": tmp_path / "text.mp4",
        "empty": tmp_path / "empty.mp4",
        "clip": entrance,
        "folder": tmp_path,
        "case": case,
    }
    out = ["--out", tmp_path / "out"] if arguments[0] == "run" and "--out" not in arguments else []
    code, _, err = run_command(capsys, *(a.format(**paths) for a in arguments), *out)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(capsys, "run", "--frobnicate")
    assert code == 2 and "--frobnicate" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["run", "--galery", "x"], "No such option '--galery'. Did you mean '--gallery'?"),
        (["decide", "case", "T1", "rejected"], "Missing option '--reason'. The reason;"),
    ],
)
def test_an_error_of_the_command_line_says_what_was_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, *arguments)
    assert code == 2 and says in err


def test_a_calibration_is_checked_before_the_run_even_without_a_gallery(
    entrance: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "case"
    given = ("--set", "search.calibration=nofile.json", "--out", out)
    code, _, err = run_command(capsys, "run", entrance, *given)
    assert code == 2 and "nofile.json: no such file" in err and not out.exists()


def test_a_count_has_the_noun_in_its_number() -> None:
    assert count(1, "file") == "1 file"
    assert count(0, "file") == "0 files"
    assert count(2, "person", "people") == "2 people"


def test_show_and_export_agree(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, printed, _ = run_command(capsys, "show", case, "--json")
    _, exported, _ = run_command(capsys, "export", case, "--format", "json")
    assert json.loads(printed) == json.loads(exported)
    document = json.loads(printed)
    assert document["schema"] == "fasr-video/case/3"
    _, text, _ = run_command(capsys, "export", case, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["name"] for r in rows] == [t["name"] for t in document["tracks"]]
    assert all(r["source"] and r["source_sha256"] and r["start_seconds"] for r in rows)
    _, text, _ = run_command(capsys, "export", case, "--format", "csv", "--rows", "faces")
    faces = list(csv.DictReader(io.StringIO(text)))
    assert len(faces) == sum(sum(s["faces_by_reason"].values()) for s in document["sources"])
    assert all(f["reason"] and f["seconds"] for f in faces)


def test_the_other_sources_of_a_case_are_named(
    case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen.summary(case, False, 0, False, report=None, footage=[Path("night.mp4")])
    assert "the case holds 1 other source: entrance.mp4\n" in capsys.readouterr().out
    screen.summary(case, False, 0, False, report=None, footage=[Path("entrance.mp4")])
    assert "other source" not in capsys.readouterr().out


def test_show_prints_sources_tracks_and_reasons(
    case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_command(capsys, "show", case)
    assert code == 0
    assert "entrance.mp4" in out and "T1" in out and "best and most frontal face" in out


def test_export_to_a_full_disk_is_one_line(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(capsys, "export", case, "--format", "json", "--out", "/dev/full")
    assert code == 1 and "disk is full" in err


def test_help_and_documentation_use_no_word_that_claims_too_much() -> None:
    """A tool that gives leads does not say "match" or "identified"."""
    texts = [(ROOT / "docs" / "cli.md").read_text()] + [c.help or "" for c in COMMANDS.values()]
    for text in texts:
        for word in ("match", "identified", "recovered", "enhanced likeness"):
            assert word not in text.lower()


def test_doctor_names_versions_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "doctor", "--json")
    found = {f["what"]: f for f in json.loads(out)}
    assert code == 0
    assert found["torch"]["state"].startswith("2.")
    assert found.pop("bundled weights")["state"].startswith("complete")
    bundled = [f for what, f in found.items() if what.startswith("bundled ")]
    assert len(bundled) >= 5 and all(
        "sha256" in f["state"] and "research use" in f["state"] for f in bundled
    )
    assert run_command(capsys, "doctor")[0] == 0
