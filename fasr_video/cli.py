"""The command line: `main` and the table of commands."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import textwrap
from dataclasses import dataclass
from importlib import import_module

import click

from fasr_video import __version__
from fasr_video.console import print_lines
from fasr_video.errors import ExitCode, FasrError, exhausted_resource

# System errors about the machine, such as a full disk. All others are about a file.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE}


def main() -> None:
    """Run the command line. Every expected error is one line, never a traceback."""
    # This must be set before torch is loaded. Its threads would otherwise spin while they wait, and
    # two busy programs on one machine would nearly stop each other (measured: 21 s instead of 4.5 s
    # for two runs side by side on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = cli(standalone_mode=False)
    except FasrError as error:
        print_lines(f"fasr-video: {error}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        error.show()
        code = ExitCode.USAGE
    except click.ClickException as error:
        print_lines(f"fasr-video: {error.format_message()}", err=True)
        code = ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        print_lines("fasr-video: stopped; the same command continues where it stopped", err=True)
        code = ExitCode.STOPPED
    except sqlite3.DatabaseError as error:
        print_lines(
            f"fasr-video: the case's database is damaged ({error}); restore it from a copy",
            err=True,
        )
        code = ExitCode.INTEGRITY
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print_lines(
            f"fasr-video: {what}; check its permissions and the disk that it is on",
            err=True,
        )
        code = ExitCode.FAILED if error.errno in MACHINE_ERRORS else ExitCode.USAGE
    except Exception as error:
        reason = exhausted_resource(error)
        if reason is None:
            raise
        print_lines(
            f"fasr-video: {reason}; finished work is safe: the same command continues where it "
            "stopped",
            err=True,
        )
        code = ExitCode.FAILED
    sys.exit(int(code or 0))


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command whose module is imported when it is called."""

    module: str
    name: str
    help: str
    """The first sentence of its own help, so that the list of commands imports none of them."""


COMMANDS = {
    "batch": LazyCommand("archive", "batch_command", "Make a case of every file below ARCHIVE."),
    "calibrate": LazyCommand(
        "calibrate",
        "calibrate_command",
        "Measure what scores mean, on labelled FACES (aligned; folders or tar shards of "
        "IDENTITY/PHOTO) or tracks.",
    ),
    "check-signature": LazyCommand(
        "signing",
        "check_signature_command",
        "Check a signed FILE_OR_FOLDER: no file altered, missing or added.",
    ),
    "decide": LazyCommand(
        "review", "decide_command", "Record a reviewer's decision on TRACK (named as in `show`)."
    ),
    "doctor": LazyCommand(
        "doctor",
        "doctor_command",
        "Show what is installed, which device would be used, and which models are there.",
    ),
    "eval": LazyCommand("evaluate", "eval_group", "Compare methods on the same faces and seeds."),
    "export": LazyCommand(
        "case",
        "export_command",
        "Write CASE as CSV (a line per track or per detected face) or JSON.",
    ),
    "fit": LazyCommand(
        "restore",
        "fit_command",
        "Fit a vector of IDFSR to a person's photographs, for `sr --method idfsr --identity`.",
    ),
    "gallery": LazyCommand(
        "gallery",
        "gallery_group",
        "Manage galleries: photographs of people to search for, and their removal.",
    ),
    "keygen": LazyCommand(
        "signing",
        "keygen_command",
        "Create a pair of Ed25519 keys (FILE to sign with, FILE.pub to check with), or a "
        "key that encrypts cases.",
    ),
    "licences": LazyCommand(
        "models",
        "licences_command",
        "Show the licences of fasr-video, of the packages that it needs, as installed "
        "here, and of its weights.",
    ),
    "link": LazyCommand(
        "review",
        "link_command",
        "Accept, refuse or reopen a proposed LINK between two tracks of CASE.",
    ),
    "models": LazyCommand(
        "models",
        "models_command",
        "Show the bundled models: contract, training data, licence, hash, and whether "
        "each file is intact.",
    ),
    "pictures": LazyCommand(
        "custody",
        "pictures_command",
        "Write the pictures of TRACKS of CASE, or of all tracks, as files that say where "
        "they come from.",
    ),
    "purge": LazyCommand(
        "custody",
        "purge_command",
        "Remove the CASES whose time (case.retention_days) is over, and leave a tombstone"
        " as proof.",
    ),
    "report": LazyCommand(
        "case",
        "report_command",
        "Write the report of CASE: pages, JSON, tables, PDF, or a folder of pictures to "
        "import elsewhere.",
    ),
    "run": LazyCommand(
        "run", "run_command", "Find the people in FOOTAGE: files, or folders of pictures."
    ),
    "search": LazyCommand(
        "archive",
        "search_command",
        "Search finished CASES (or folders of them) again, without their footage, and "
        "show changes.",
    ),
    "serve": LazyCommand(
        "review",
        "serve_command",
        "Review cases, or all cases in folders, in a browser on this machine.",
    ),
    "show": LazyCommand(
        "case",
        "show_command",
        "Show the contents of CASE: sources, losses, tracks, proposed links, gallery.",
    ),
    "sign": LazyCommand(
        "signing",
        "sign_command",
        "Sign an export: write a SHA-256 manifest and its signature beside FILE_OR_FOLDER.",
    ),
    "sr": LazyCommand("restore", "sr_command", "Super-resolve face stills."),
    "train": LazyCommand("train", "train_group", "Train the models."),
    "undo": LazyCommand("review", "undo_command", "Take a DECISION on a track back."),
    "verify": LazyCommand(
        "case",
        "verify_command",
        "Check CASE against its hashes: footage, pictures, results and log.",
    ),
    "watch": LazyCommand(
        "archive",
        "watch_command",
        "Make cases of the files that come into FOLDER, until stopped by Ctrl-C or SIGTERM.",
    ),
}


class Commands(click.Group):
    """The group of all commands. It imports a command when it is called: most take seconds to load.

    `sr fit` is another name for `fit`. To restore a still named fit, write `./fit`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command: click.Command = getattr(
            import_module(f"fasr_video.commands.{lazy.module}"), lazy.name
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            lines = [
                (name, textwrap.shorten(COMMANDS[name].help, limit, placeholder="..."))
                for name in sorted(COMMANDS)
            ]
            formatter.write_dl(lines)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args[1:] if args[:2] == ["sr", "fit"] else args)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(__version__, prog_name="fasr-video")
def cli() -> None:
    """Turn camera footage into a case of face tracklets.

    Its results are leads for people to examine, never proof of who somebody is.
    """
