"""Attacks on the installed program: what somebody plants in the files that it reads, and the
result.

    python benchmarks/attacks.py [--only WORDS]

Each attack gets an empty folder, prepares it, and returns a line about what the program did.
`before` is the result of the same function on commit 9badc4b. Each command runs in a process of its
own with a time limit, forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from attacks_files import ATTACKS as BY_FILES
from attacks_files import Attack
from footage import REPO
from results import Table, command_line

sys.path.insert(0, str(REPO))
from fasr_video import cli
from fasr_video.archive.tasks import Task
from fasr_video.archive.worker import run_task
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording
from fasr_video.case.sources import digest as source_digest
from fasr_video.case.store import chain_hash
from fasr_video.commands import custody
from fasr_video.configs import settings as configs
from fasr_video.files import sha256_file
from fasr_video.pipeline import restore
from tests.support.cases import write_hot_journal
from tests.support.reviewed import make_case

# Seconds that a command may take.
TIME_LIMIT = 60.0


def run_command(
    *arguments: object, time_limit: float = TIME_LIMIT, at: datetime | None = None
) -> tuple[str, str]:
    """Run `fasr-video` in a forked process; return how it ended, and its output.

    With `at`, its clock shows that time.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            _run_and_exit(arguments, output.fileno(), at)
        until = time.monotonic() + time_limit
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"`{arguments[0]}` hangs ({time_limit:g} s)", ""
            time.sleep(0.05)
        output.seek(0)
        text = output.read()
    ending = f"`{arguments[0]}` ends with {os.waitstatus_to_exitcode(ended[1])}"
    return f"{ending} and a traceback" if "Traceback" in text else ending, text


def _run_and_exit(arguments: Sequence[object], output: int, at: datetime | None) -> NoReturn:
    """Run the command line in the child process and exit."""
    code: object = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        sys.argv = ["fasr-video", *map(str, arguments)]
        if at is not None:
            clock = type("Clock", (datetime,), {"now": classmethod(lambda cls, tz=None: at)})
            setattr(custody, "datetime", clock)  # noqa: B010
        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0)


def execute_sql(database: Path, *statements: str) -> None:
    """Execute statements on a database, as anybody can who may write to it."""
    connection = sqlite3.connect(database, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


# Decisions.


def verdict_changed_before_the_next_decision(folder: Path) -> str:
    case = make_case(folder / "case")
    decide = (
        "decide",
        case,
        "T1",
        "rejected",
        "--subject",
        "anna",
        "--reason",
        "other ear",
        "--by",
        "Anna",
    )
    run_command(*decide)
    execute_sql(case / "case.sqlite", "UPDATE decision SET verdict = 'accepted'")
    decided, _ = run_command(
        "decide", case, "T2", "rejected", "--reason", "other nose", "--by", "Ben"
    )
    verified, _ = run_command("verify", case)
    return f"{decided}, {verified}"


def decision_cut_off_with_its_line(folder: Path) -> str:
    case = make_case(folder / "case")
    decide = (
        "decide",
        case,
        "T1",
        "rejected",
        "--subject",
        "anna",
        "--reason",
        "other ear",
        "--by",
        "Anna",
    )
    run_command(*decide)
    execute_sql(
        case / "case.sqlite", "DELETE FROM decision", "DELETE FROM log WHERE event = 'decided'"
    )
    decided, _ = run_command(
        "decide", case, "T2", "rejected", "--reason", "other nose", "--by", "Ben"
    )
    verified, _ = run_command("verify", case)
    return f"{decided}, {verified}"


# Databases of somebody else.

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def trigger_in_a_case(folder: Path) -> str:
    case = make_case(folder / "case")
    update = "UPDATE decision SET verdict = 'accepted', subject = 'anna' WHERE id = new.id"
    execute_sql(
        case / "case.sqlite", f"CREATE TRIGGER kind AFTER INSERT ON decision BEGIN {update}; END"
    )
    arguments = ("T1", "rejected", "--subject", "anna", "--reason", "other ear", "--by", "Anna")
    decided, _ = run_command("decide", case, *arguments)
    _, shown = run_command("export", case, "--format", "json")
    is_accepted = '"verdict": "accepted"' in shown
    return f"{decided}, the export says {'accepted' if is_accepted else 'nothing of it'}"


def endless_view(folder: Path) -> str:
    case = make_case(folder / "case")
    view = (
        f"CREATE VIEW track AS {ENDLESS} SELECT x AS id, 1 AS source, x AS number, 'done' AS state "
        "FROM n"
    )
    execute_sql(case / "case.sqlite", "ALTER TABLE track RENAME TO old", view)
    return ", ".join(
        run_command(command, case, time_limit=30)[0] for command in ("show", "verify", "purge")
    )


def values_that_nobody_writes(folder: Path) -> str:
    changes = {
        "time base 1/0": "UPDATE source SET info = json_set(info, '$.time_base', '1/0')",
        "landmarks [": "UPDATE face SET landmarks = '['",
        "facts []": "UPDATE restoration SET facts = '[]'",
        "a path for a track's number": "UPDATE track SET number = '../x' WHERE id = 1",
    }
    results = []
    for number, (what, statement) in enumerate(changes.items()):
        case = make_case(folder / str(number))
        execute_sql(case / "case.sqlite", statement)
        recompute_hashes(case)
        results.append(f"{what}: {run_command('export', case, '--format', 'json')[0]}")
    return "; ".join(results)


def recompute_hashes(case: Path) -> None:
    """Make all hashes of the log valid again, also those of faces, tracks and probes."""
    database = sqlite3.connect(case / "case.sqlite", isolation_level=None)
    database.row_factory = sqlite3.Row
    with Case(case, database) as opened, opened.transaction():
        previous = ""
        for row in opened.db.execute("SELECT * FROM log ORDER BY id").fetchall():
            details = json.loads(row["details"])
            if row["event"] == "source done":
                details["digest"] = source_digest(opened, details["source"])
            if row["event"] == "source added":
                info = opened.db.execute(
                    "SELECT info FROM source WHERE id = ?", (details["source"],)
                ).fetchone()
                details["info"] = json.loads(info["info"])
            if row["event"] == "encoded":
                details["digests"] = {t: restore.digest(opened, int(t)) for t in details["digests"]}
            text = json.dumps(details, sort_keys=True)
            new_hash = chain_hash(previous, row["at"], row["event"], text)
            update = "UPDATE log SET details = ?, previous = ?, hash = ? WHERE id = ?"
            opened.db.execute(update, (text, previous, new_hash, row["id"]))
            previous = new_hash
        opened.set_meta("log_head", previous)


# The end of a case.


def planted_tombstone(folder: Path) -> str:
    case = make_case(folder / "cases" / "case")
    (case / "notes.txt").write_text("of an examiner")
    tombstone = {
        "state": "removing",
        "made_at": "2020",
        "begun_at": "2020",
        "why": "its time is over",
        "log_head": "0",
    }
    (case / "purged.json").write_text(
        json.dumps(tombstone | {"copies": {"found": []}, "removed": {}})
    )
    purged, _ = run_command("purge", case, "--yes")
    return f"{purged}, {describe_case(case)}"


def footage_under_a_planted_tombstone(folder: Path) -> str:
    evidence = folder / "evidence"
    evidence.mkdir()
    (evidence / "film.mp4").write_text("footage")
    tombstone = {
        "state": "removing",
        "made_at": "2020",
        "begun_at": "2020",
        "why": "its time is over",
    }
    (evidence / "purged.json").write_text(
        json.dumps(tombstone | {"copies": {"found": []}, "removed": {}})
    )
    purged, _ = run_command("purge", folder, "--yes")
    return f"{purged}, the footage is {'there' if (evidence / 'film.mp4').exists() else 'gone'}"


def nested_case(folder: Path) -> str:
    case = make_case(folder / "cases" / "case", overrides=("case.retention_days=1",))
    make_ten_days_older(case)
    inner = make_case(case / "inner")
    (case / "film.mp4").write_text("footage")
    purged, _ = run_command("purge", case, "--yes")
    found = {"the inner case": inner / "case.sqlite", "the footage": case / "film.mp4"}
    return f"{purged}, " + ", ".join(
        f"{what} is {'there' if p.exists() else 'gone'}" for what, p in found.items()
    )


def make_ten_days_older(case: Path) -> None:
    """Date the whole log ten days back."""
    ago = (datetime.now(UTC) - timedelta(days=10)).isoformat(timespec="milliseconds")
    execute_sql(case / "case.sqlite", f"UPDATE log SET at = '{ago}'")
    recompute_hashes(case)


def clock_of_2037(folder: Path) -> str:
    case = make_case(folder / "case", overrides=("case.retention_days=90",))
    purged, _ = run_command("purge", case, "--yes", at=datetime(2037, 1, 1, tzinfo=UTC))
    return f"{purged}, {describe_case(case)}"


def describe_case(case: Path) -> str:
    """Return in words whether the case still exists."""
    return f"the case is {'there' if (case / 'case.sqlite').exists() else 'gone'}"


# Batches.


def touched_footage(folder: Path) -> str:
    film, case = folder / "film.mp4", decided_case(folder)
    task = task_for(film, case)
    os.utime(film, (1, 1))
    run_task(task, lambda share: None)
    return cases_left(folder)


def changed_footage(folder: Path) -> str:
    film, case = folder / "film.mp4", decided_case(folder)
    task = task_for(film, case)
    film.write_bytes(b"another film")
    message = run_task(task, lambda share: None).message
    return f"{cases_left(folder)}; said: {message.partition('; ')[2]}"


def decided_case(folder: Path) -> Path:
    """Make a case of a batch with a reviewer's decision in it."""
    case = make_case(folder / "cases" / "film")
    run_command("decide", case, "T1", "rejected", "--reason", "other ear", "--by", "Anna")
    return case


def task_for(film: Path, case: Path) -> Task:
    """Return the task of making this case of a file that is no film: only the case matters."""
    film.write_bytes(b"film")
    facts, settings = film.stat(), configs.load("cpu").model_dump_json()
    identity = (1, film, sha256_file(film), facts.st_size, facts.st_mtime_ns)
    return Task(*identity, case, settings, None, Recording())


def cases_left(folder: Path) -> str:
    found = [p.parent.name for p in (folder / "cases").glob("*/case.sqlite")]
    return f"cases that are left: {', '.join(found) or 'none'}"


# Galleries.


def reader_that_holds_what_was_removed(folder: Path) -> str:
    gallery = make_case(folder / "case") / "gallery"
    connection = sqlite3.connect(gallery / "gallery.sqlite")
    (vector,) = connection.execute("SELECT vector FROM template WHERE subject = 'anna'").fetchone()
    connection.close()
    script = (
        "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "db.execute('BEGIN');db.execute('SELECT * FROM template').fetchone(); print('held', "
        "flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(gallery / "gallery.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        removed, _ = run_command("gallery", "remove", gallery, "anna", "--why", "order")
        reader.kill()
    checked, _ = run_command("gallery", "check", gallery)
    finished, _ = run_command("gallery", "check", gallery, "--finish")
    is_left = any(vector[:64] in path.read_bytes() for path in gallery.iterdir())
    endings = f"remove: {removed}, check: {checked}, then with --finish: {finished}"
    return f"{endings}; the vector is {'there' if is_left else 'gone'}"


def journal_that_names_a_file(folder: Path) -> str:
    case, mine = make_case(folder / "case"), folder / "mine.txt"
    mine.write_text("mine")
    write_hot_journal(mine, case / "case.sqlite")
    decided, _ = run_command(
        "decide", case, "T1", "rejected", "--reason", "other ear", "--by", "Anna"
    )
    return f"{decided}, a file of the user is {'there' if mine.exists() else 'gone'}"


def pipe_beside_a_database(folder: Path) -> str:
    case = make_case(folder / "case")
    os.mkfifo(case / "case.sqlite-journal")
    return run_command("show", case, time_limit=30)[0]


ATTACKS = [
    Attack(
        "a decision's verdict is changed by SQL, then somebody decides on another track",
        "`decide` ends with 4, `verify` ends with 4",
        verdict_changed_before_the_next_decision,
        "`decide` ends with 0, `verify` ends with 0",
    ),
    Attack(
        "a decision and its line are cut off the end of the log, then somebody decides on another "
        "track",
        "`decide` ends with 4, `verify` ends with 4",
        decision_cut_off_with_its_line,
        "`decide` ends with 0, `verify` ends with 0",
    ),
    Attack(
        "a journal beside the database names a file of the user",
        "`decide` ends with 4, a file of the user is there",
        journal_that_names_a_file,
        "`decide` ends with 0, a file of the user is gone",
    ),
    Attack(
        "a pipe in place of the database's journal",
        "`show` ends with 4",
        pipe_beside_a_database,
        "`show` hangs (30 s)",
    ),
    Attack(
        "a trigger in a case turns each verdict into accepted",
        "`decide` ends with 4, the export says nothing of it",
        trigger_in_a_case,
        "`decide` ends with 0, the export says accepted",
    ),
    Attack(
        "a view without end stands in place of the table of tracks",
        "`show` ends with 4, `verify` ends with 4, `purge` ends with 3",
        endless_view,
        "`show` hangs (30 s), `verify` ends with 4, `purge` ends with 0",
    ),
    Attack(
        "values that no version writes, with all hashes recomputed",
        "each `export` ends with 4",
        values_that_nobody_writes,
        "time base 1/0: `export` ends with 1 and a traceback; landmarks [: `export` ends with 1 "
        "and a traceback; facts []: `export` ends with 1 and a traceback; a path for a track's "
        "number: `export` ends with 0",
    ),
    Attack(
        "a tombstone that was planted in a case whose time is not over",
        "`purge` ends with 3, the case is there",
        planted_tombstone,
        "`purge` ends with 0, the case is gone",
    ),
    Attack(
        "a tombstone that was planted beside footage",
        "`purge` ends with 3, the footage is there",
        footage_under_a_planted_tombstone,
        "`purge` ends with 0, the footage is gone",
    ),
    Attack(
        "a case and footage lie in a case that is purged",
        "`purge` ends with 3, the inner case is there, the footage is there",
        nested_case,
        "`purge` ends with 0, the inner case is gone, the footage is gone",
    ),
    Attack(
        "a clock of 2037, and a case that is kept for 90 days",
        "`purge` ends with 3, the case is there",
        clock_of_2037,
        "`purge` ends with 0, the case is gone",
    ),
    Attack(
        "footage of a batch is touched, and its case holds a decision",
        "cases that are left: film",
        touched_footage,
        "cases that are left: none",
    ),
    Attack(
        "footage of a batch changes, and its case holds a decision",
        "one that is left under another name, and that is said",
        changed_footage,
        "cases that are left: none; said: it is read again",
    ),
    Attack(
        "a reader holds the gallery while somebody is removed, and is killed",
        "remove: `gallery` ends with 1, check: `gallery` ends with 4, then with --finish: "
        "`gallery` ends with 0; the vector is gone",
        reader_that_holds_what_was_removed,
        "remove: `gallery` ends with 1, check: `gallery` ends with 0, then with --finish (there "
        "was none): `gallery` ends with 2; the vector is there",
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="attacks with these words in their names; writes no page"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result of each, and write no page"
    )
    args = parser.parse_args()
    columns = ("attack", "expected", "before", "after")
    table = Table("reliability_attacks", "Attacks on what is read", command_line(), columns)
    for attack in (a for a in (*ATTACKS, *BY_FILES) if args.only in a.name):
        with tempfile.TemporaryDirectory() as folder:
            result = attack.attempt(Path(folder))
        if args.json:
            print(
                json.dumps({"name": attack.name, "expected": attack.expected, "result": result}),
                flush=True,
            )
        else:
            table.add_row((attack.name, attack.expected, attack.before, result))
    table.add_note(
        "Before: the same functions on commit 9badc4b. Exit codes: 0 done, 3 something had to "
        "stay, 4 damage."
    )
    if not (args.json or args.only):
        table.write()


if __name__ == "__main__":
    main()
