"""Run the commands of the tutorial, in order, and put what they print into docs/tutorial.md.

    python scripts/make_tutorial.py [--check]

A block of the page is a command (`$ `, continued by `> `) with what it prints below. A line `…`
stands for lines that are left out: the text after it starts at the line of the real output that has
the same words as the first line there. With --check the page stays as it is, and the commands have
to print the same words as on the page; numbers, dates and hashes may differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
CHROMIUM = "/usr/bin/chromium"
INDENT = "    "
LEFT_OUT = "…"
HERE = "/home/anna/fasr-video"  # what the page shows in place of the folder of this run
# Commands that end with another exit code than 0, by their first words.
EXIT_CODES = {"fasr-video purge cases/demo --now": 4}
SIGNED = re.compile(r"\d{4}-\d\d-\d\dT\d{6}\.\d{3}Z")
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Block:
    """A command of the page, and the lines that it prints there."""

    command: tuple[str, ...]
    """Its lines, with the `$ ` and `> ` before them."""
    output: tuple[str, ...]

    @property
    def shell(self) -> str:
        """Return the command as a shell reads it."""
        return "\n".join(re.sub(r"^ *[$>] ", "", line) for line in self.command)


@dataclass
class Tutorial:
    """The folder in which the commands run, and what later commands need of earlier ones."""

    folder: Path
    browser: Page
    signed: str = ""
    """The name of the signed export, without its ending."""
    head: str = ""
    """The head of the log in the signed export."""
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self, block: Block) -> tuple[Block, list[str]]:
        """Run a block's command; return the block with this run's names, and what it printed."""
        lines = block.command
        if self.signed:
            lines = tuple(HASH.sub(self.head, SIGNED.sub(self.signed, line)) for line in lines)
        block = Block(lines, block.output)
        print(block.shell, flush=True)
        if block.shell.startswith("fasr-video serve"):
            return block, self.sign_off(block.shell)
        # As in a shell of a terminal, what a command says on standard error is seen, too.
        ended = subprocess.run(
            ["bash", "-c", block.shell],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        expected = next(
            (code for words, code in EXIT_CODES.items() if block.shell.startswith(words)), 0
        )
        if ended.returncode != expected:
            raise SystemExit(f"{block.shell}\nended with {ended.returncode}:\n{ended.stdout}")
        text = ended.stdout.replace(str(self.folder), HERE)
        return block, [line.rstrip() for line in text.splitlines()]

    def sign_off(self, command: str) -> list[str]:
        """Start the server, sign off as the page says, stop it, and return what it printed."""
        with subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            printed = server.stdout.readline().rstrip()
            self.browser.goto(printed.removeprefix("open ").strip())
            self.browser.get_by_role("link", name="Sign off").first.click()
            self.browser.get_by_label("Name").fill("anna")
            self.browser.get_by_label("Role").fill("examiner")
            self.browser.get_by_role("button", name="Export the signed-off report").click()
            server.send_signal(signal.SIGINT)
        (export,) = (self.folder / "cases" / "demo" / "signed-off").glob("*.json")
        self.signed = export.stem
        self.head = json.loads(export.read_text())["log_head"]
        return [re.sub("token=.*", f"token={LEFT_OUT}", printed)]


def words(line: str) -> str:
    """Return a line without its numbers, hashes and drawn lines, which may differ."""
    text = re.sub(r"[0-9a-f]{64}|[-+]?\d[\d:.,TZ-]*", "", line)
    return " ".join(re.sub("[│┃─━┏┓┗┛┡┩└┘┬┳┴┻┼╇]", " ", text).split())


def fill(block: Block, printed: list[str]) -> list[str]:
    """Return the output to show: the parts that the page shows, from what was printed."""
    if LEFT_OUT not in block.output:
        return printed
    shown: list[str] = []
    at = 0
    for part in _parts(block.output):
        if not part:
            shown.append(LEFT_OUT)
            continue
        starts = [i for i in range(at, len(printed)) if words(printed[i]) == words(part[0])]
        if not starts:
            raise SystemExit(f"{block.shell}\ndoes not print: {part[0]}\nbut:\n{_text(printed)}")
        at = starts[0] + len(part)
        shown += printed[starts[0] : at]
    return shown


def _parts(output: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the lines between those that stand for what is left out, and an empty list for each of
    these.
    """
    part: list[str] = []
    for line in output:
        if line.strip() != LEFT_OUT:
            part.append(line)
            continue
        if part:
            yield part
        yield []
        part = []
    if part:
        yield part


def _text(lines: list[str]) -> str:
    return "\n".join(lines)


def read_page(text: str) -> list[str | Block]:
    """Return the page's lines, with a block in place of each command and its output."""
    found: list[str | Block] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        if not lines[i].startswith(f"{INDENT}$ "):
            found.append(lines[i])
            i += 1
            continue
        start = i
        i += 1
        while lines[i - 1].endswith("\\") or lines[i].startswith(f"{INDENT}> "):
            i += 1
        command = tuple(lines[start:i])
        start = i
        while (
            i < len(lines)
            and lines[i].startswith(INDENT)
            and not lines[i].startswith(f"{INDENT}$ ")
        ):
            i += 1
        output = tuple(line.removeprefix(INDENT) for line in lines[start:i])
        found.append(Block(command, output))
    return found


def checkout(folder: Path) -> None:
    """Link the files that the tutorial uses into a folder of its own, deep enough for `../`."""
    shutil.copytree(ROOT / "sample_videos", folder / "sample_videos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    args = parser.parse_args()
    page = read_page(PAGE.read_text())
    with tempfile.TemporaryDirectory() as parent, sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        tutorial = Tutorial(Path(parent) / "fasr-video", browser.new_page())
        checkout(tutorial.folder)
        binaries = str(Path(sys.executable).parent)
        tutorial.environment |= {
            "PATH": os.pathsep.join((binaries, os.environ["PATH"])),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "96",
        }
        text: list[str] = []
        for item in page:
            if isinstance(item, str):
                text.append(item)
                continue
            block, printed = tutorial.run(item)
            shown = fill(block, printed)
            if args.check and [words(line) for line in shown] != [
                words(line) for line in item.output
            ]:
                raise SystemExit(
                    f"{block.shell}\nprints:\n{_text(shown)}\nnot:\n{_text([*item.output])}"
                )
            text += [*block.command, *(f"{INDENT}{line}".rstrip() for line in shown)]
        browser.close()
    if not args.check:
        PAGE.write_text(_text(text) + "\n")


if __name__ == "__main__":
    main()
