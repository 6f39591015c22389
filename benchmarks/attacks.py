"""Attacks on the program as it is installed: what somebody plants in what it reads, and what comes of it.

    python benchmarks/attacks.py [--only WORDS]

Each attack gets an empty folder, makes what it needs there, and says in a line what the program did. `before` is what
the same function said of commit 9badc4b. Commands are run as processes, each with a limit of time.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from footage import REPO
from results import Table, command_line

sys.path.insert(0, str(REPO))
from tests.reviewed import made_case

PATIENCE = 60.0
"""Seconds that a command may take."""


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    expected: str
    attempt: Callable[[Path], str]
    """Makes the attack in an empty folder, and says what happened."""
    before: str = "not tried"
    """What it said of commit 9badc4b."""


def program(*arguments: object, patience: float = PATIENCE) -> tuple[str, str]:
    """How `fasr-video` with these arguments ended, and all that it printed."""
    command = [sys.executable, "-m", "fasr_video", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "200"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, cwd="/", env=environment)
    except subprocess.TimeoutExpired:
        return f"`{arguments[0]}` hangs ({patience:g} s)", ""
    said = done.stdout + done.stderr
    how = f"`{arguments[0]}` ends with {done.returncode}"
    return f"{how} and a traceback" if "Traceback" in said else how, said


def change(database: Path, *statements: str) -> None:
    """Run these on a database, as anybody can who may write it."""
    opened = sqlite3.connect(database, isolation_level=None)
    for statement in statements:
        opened.execute(statement)
    opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.close()


# Decisions.


def verdict_covered_by_the_next_decision(folder: Path) -> str:
    case = made_case(folder / "case")
    decide = ("decide", case, "T1", "rejected", "--subject", "anna", "--reason", "other ear", "--by", "Anna")
    program(*decide)
    change(case / "case.sqlite", "UPDATE decision SET verdict = 'accepted'")
    decided, _ = program("decide", case, "T2", "rejected", "--reason", "other nose", "--by", "Ben")
    verified, _ = program("verify", case)
    return f"{decided}, {verified}"


ATTACKS = [
    Attack(
        "a decision's verdict is changed by SQL, then somebody decides on another track",
        "`decide` ends with 4, `verify` ends with 4",
        verdict_covered_by_the_next_decision,
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="attacks with these words in their names; writes no page")
    parser.add_argument("--json", action="store_true", help="print what each said, and write no page")
    given = parser.parse_args()
    columns = ("attack", "expected", "before", "after")
    table = Table("reliability_attacks", "Attacks on what is read", command_line(), columns)
    for attack in (a for a in ATTACKS if given.only in a.name):
        with tempfile.TemporaryDirectory() as place:
            after = attack.attempt(Path(place))
        if given.json:
            print(json.dumps({"name": attack.name, "expected": attack.expected, "said": after}), flush=True)
        else:
            table.row((attack.name, attack.expected, attack.before, after))
    if not (given.json or given.only):
        table.write()


if __name__ == "__main__":
    main()
