"""The command line: `main` and the table of commands."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from dataclasses import dataclass
from difflib import get_close_matches
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
        _with_help(error).show()
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


def _with_help(error: click.UsageError) -> click.UsageError:
    """Return the error with the help text of a missing option, or only the most similar option."""
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        return click.NoSuchOption(
            error.option_name, possibilities=error.possibilities[:1], ctx=error.ctx
        )
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Option):
        return click.MissingParameter(error.param.help, ctx=error.ctx, param=error.param)
    return error


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command whose module is imported when it is called."""

    module: str
    name: str
    help: str
    """Its line in the list of commands, which imports none of them."""


# In the order of a case's life.
GROUPS = {
    "Footage": {
        "run": LazyCommand("run", "run_command", "Find the people in footage."),
    },
    "Gallery": {
        "gallery": LazyCommand("gallery", "gallery_group", "Manage the people to search for."),
    },
    "Review": {
        "show": LazyCommand("case", "show_command", "Show what a case holds."),
        "serve": LazyCommand("review", "serve_command", "Review cases in a browser."),
        "decide": LazyCommand("review", "decide_command", "Record a decision on a track."),
        "undo": LazyCommand("review", "undo_command", "Undo a decision."),
        "link": LazyCommand("review", "link_command", "Decide on a link between two tracks."),
    },
    "Archive": {
        "batch": LazyCommand("archive", "batch_command", "Make a case of each file of an archive."),
        "watch": LazyCommand("archive", "watch_command", "Make cases of files as they come in."),
        "search": LazyCommand("archive", "search_command", "Search finished cases again."),
    },
    "Evidence": {
        "report": LazyCommand("case", "report_command", "Write the report of a case."),
        "export": LazyCommand("case", "export_command", "Export a case as CSV or JSON."),
        "pictures": LazyCommand(
            "custody", "pictures_command", "Write pictures with their provenance."
        ),
        "verify": LazyCommand("case", "verify_command", "Check a case against its hashes."),
        "keygen": LazyCommand(
            "signing", "keygen_command", "Create keys to sign or to encrypt with."
        ),
        "sign": LazyCommand("signing", "sign_command", "Sign a file or folder."),
        "check-signature": LazyCommand(
            "signing", "check_signature_command", "Check a signed file or folder."
        ),
        "purge": LazyCommand("custody", "purge_command", "Remove cases, and leave proof of it."),
    },
    "Models": {
        "sr": LazyCommand("restore", "sr_command", "Super-resolve face stills."),
        "fit": LazyCommand("restore", "fit_command", "Fit a vector to a person's photographs."),
        "models": LazyCommand("models", "models_command", "Show the bundled models."),
        "licences": LazyCommand("models", "licences_command", "Show all licences."),
        "doctor": LazyCommand("doctor", "doctor_command", "Show what is installed."),
    },
    "Research": {
        "calibrate": LazyCommand(
            "calibrate", "calibrate_command", "Make a calibration from labelled faces."
        ),
        "eval": LazyCommand("evaluate", "eval_group", "Compare methods on the same faces."),
        "train": LazyCommand("train", "train_group", "Train the models."),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


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
        longest = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(longest), c.help) for name, c in group.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        words = args[1:] if args[:2] == ["sr", "fit"] else args
        if words[0] not in COMMANDS:
            near = get_close_matches(words[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {words[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, words)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(__version__, prog_name="fasr-video")
def cli() -> None:
    """Turn camera footage into a case: a track for every person, with its best faces.

    Its results are leads for people to examine, never proof of who somebody is.
    """
