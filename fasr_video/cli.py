"""The command line. Each command reads its arguments, calls one function of the library, and shows what came back."""

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
from fasr_video.console import say
from fasr_video.errors import ExitCode, FasrError, exhausted

# Errors of the system that are about the machine; others are about a file.
GAVE_UP = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE}


def main() -> None:
    """Run the command line: errors are one line, never a traceback."""
    # Before torch is loaded: its threads would wait by spinning, and two busy programs on one machine would all but
    # stop each other (measured: 21 s in place of 4.5 s for two runs side by side on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = cli(standalone_mode=False)
    except FasrError as error:
        say(f"fasr-video: {error}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        error.show()
        code = ExitCode.USAGE
    except click.ClickException as error:
        say(f"fasr-video: {error.format_message()}", err=True)
        code = ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        say("fasr-video: stopped; the same command goes on where it was", err=True)
        code = ExitCode.STOPPED
    except sqlite3.DatabaseError as error:
        say(
            f"fasr-video: the case's database is damaged ({error}); restore it from a copy",
            err=True,
        )
        code = ExitCode.INTEGRITY
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(
            f"fasr-video: {what}; change its permissions, or look after the disk that it is on",
            err=True,
        )
        code = ExitCode.FAILED if error.errno in GAVE_UP else ExitCode.USAGE
    except Exception as error:
        reason = exhausted(error)
        if reason is None:
            raise
        say(
            f"fasr-video: {reason}; what was finished is safe: the same command goes on where it was",
            err=True,
        )
        code = ExitCode.FAILED
    sys.exit(int(code or 0))


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is not imported yet."""

    module: str
    name: str
    help: str
    """Its own first sentence: the list of commands is shown without importing any of them."""


COMMANDS = {
    "batch": Lazy(
        "archive",
        "batch_command",
        "Make a case of every file below ARCHIVE, once for each content.",
    ),
    "calibrate": Lazy(
        "calibrate",
        "calibrate_command",
        "Find out what scores mean, on labelled FACES (folders or tar shards of IDENTITY/PHOTO, aligned) or tracks.",
    ),
    "check-signature": Lazy(
        "signing",
        "check_signature_command",
        "Check that FILE_OR_FOLDER is what was signed with that key: "
        "no file altered, missing or added; 4 if it is not.",
    ),
    "decide": Lazy(
        "review", "decide_command", "Record what a reviewer says of TRACK (as `show` names it)."
    ),
    "doctor": Lazy(
        "doctor",
        "doctor_command",
        "Show what is installed, which device would be used, and which models are at hand.",
    ),
    "eval": Lazy("evaluate", "eval_group", "Compare methods on the same faces and seeds."),
    "export": Lazy(
        "case",
        "export_command",
        "Write CASE as CSV (a line a track, or a line a face seen) or JSON.",
    ),
    "fit": Lazy(
        "restore",
        "fit_command",
        "Fit one vector of IDFSR to a person's photographs, for `fasr-video sr --method idfsr --identity`.",
    ),
    "gallery": Lazy(
        "gallery",
        "gallery_group",
        "The people one looks for: photographs, templates, and the proof of what was removed.",
    ),
    "keygen": Lazy(
        "signing",
        "keygen_command",
        "Make a pair of Ed25519 keys, FILE to sign with and FILE.pub for those who check; or a key for cases.",
    ),
    "licences": Lazy(
        "models",
        "licences_command",
        "Show the licences of fasr-video, of the packages that it needs "
        "as they are installed here, and of its weights.",
    ),
    "link": Lazy(
        "review",
        "link_command",
        "Accept, refuse or reopen a proposed LINK between two tracks of CASE.",
    ),
    "models": Lazy(
        "models",
        "models_command",
        "Show the bundled models: contract, data, licence, hash, and whether each file is what it should be.",
    ),
    "pictures": Lazy(
        "custody",
        "pictures_command",
        "Write the pictures of TRACKS of CASE, or of all, as files that say where they are from.",
    ),
    "purge": Lazy(
        "custody",
        "purge_command",
        "Remove those CASES whose time (case.retention_days) is over, and leave a tombstone that proves it.",
    ),
    "report": Lazy(
        "case",
        "report_command",
        "Write what CASE has to tell: pages, JSON, tables, PDF, or a folder of pictures to import elsewhere.",
    ),
    "run": Lazy("run", "run_command", "Find the people in FOOTAGE: files, or folders of pictures."),
    "search": Lazy(
        "archive",
        "search_command",
        "Search finished CASES (or folders of them) again, without their footage, and tell what changed.",
    ),
    "serve": Lazy(
        "review",
        "serve_command",
        "Review cases, or all in folders of them, in a browser on this machine, by the address that it prints.",
    ),
    "show": Lazy(
        "case",
        "show_command",
        "Show what is in CASE: sources, losses, tracks, proposed links, gallery.",
    ),
    "sign": Lazy(
        "signing",
        "sign_command",
        "Sign an export: a manifest of SHA-256 and its signature are written beside FILE_OR_FOLDER.",
    ),
    "sr": Lazy("restore", "sr_command", "Super-resolve face stills."),
    "train": Lazy("train", "train_group", "Train the models."),
    "undo": Lazy("review", "undo_command", "Take a DECISION on a track back."),
    "verify": Lazy(
        "case",
        "verify_command",
        "Check that CASE is what the run left: footage, pictures, findings and log against their hashes.",
    ),
    "watch": Lazy(
        "archive",
        "watch_command",
        "Make cases of the files that come into FOLDER, until it is stopped by Ctrl-C or SIGTERM.",
    ),
}


class Commands(click.Group):
    """Imports a command when it is asked for: what most of them need takes seconds to load.

    `sr fit` is `fit`: who looks for it among what restores faces finds it there. A still named fit is `./fit`.
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
    """Camera footage in; a case of face tracklets out.

    What it shows are leads for people to examine, never proof of who somebody is.
    """
