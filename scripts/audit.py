"""`make lint`: what is publicly known against the packages that constraints.txt pins, asked of the
index that pip uses.

    python scripts/audit.py [CONSTRAINTS]

Ends with 1 where something is known, and says which version mends it. Without a network, or with an
index that tells nothing of weaknesses, it says so in one line and ends with 0. Part of no
installation: nothing asks at run time. Not pip-audit, which without a network ends in a traceback
and with 1, as where something is known, and which asks pypi.org whatever index pip uses.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

# For one answer.
SECONDS = 5.0
AT_ONCE = 8
PINS = Path(__file__).parents[1] / "constraints.txt"


@dataclass(frozen=True)
class Weakness:
    """A published weakness of a pinned package."""

    name: str
    version: str
    ids: str
    what: str
    fixed_in: str

    def __str__(self) -> str:
        remedy = (
            f"raise the pin to {self.fixed_in}, then `make lock`"
            if self.fixed_in
            else "no version mends it yet"
        )
        return f"audit: {self.name} {self.version}: {self.ids}: {self.what}; {remedy}"


class IndexUnavailableError(Exception):
    """The index cannot be asked, or has no list of weaknesses."""

    pass


def main(arguments: list[str]) -> int:
    pins = read_pins(Path(arguments[0]) if arguments else PINS)
    try:
        interface = json_address(index_address())
        found, unknown = query_all(interface, pins)
    except IndexUnavailableError as why:
        print(f"audit: could not ask what is known against the pins ({why}); nothing was checked")
        return 0
    for line in found:
        print(line)
    left = f"; the index does not know {', '.join(unknown)}" if unknown else ""
    print(
        f"audit: {len(pins) - len(unknown)} of {len(pins)} pins asked for, {len(found)} known "
        f"weaknesses{left}"
    )
    return int(bool(found))


def read_pins(path: Path) -> list[tuple[str, str]]:
    """Return the name and version of each pin in the file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [
        (name, version) for name, _, version in (line.partition("==") for line in lines) if version
    ]


def index_address() -> str:
    """Return the index that pip would take packages from: of its settings, or its own."""
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        capture_output=True,
        text=True,
    )
    settings = dict(line.partition("=")[::2] for line in result.stdout.splitlines())
    for key in (":env:.index-url", "install.index-url", "global.index-url"):
        if key in settings:
            return settings[key].strip("'\"")
    try:
        from pip._internal.models.index import PyPI
    except ImportError as error:
        raise IndexUnavailableError("pip names no index") from error
    return str(PyPI.simple_url)


def json_address(index_address: str) -> str:
    """Return the address that answers for NAME/VERSION/json: `…/pypi` beside `…/simple`."""
    parts = urlsplit(index_address)
    if parts.scheme not in {"http", "https"}:
        raise IndexUnavailableError("pip's index is no web address")
    path = parts.path.rstrip("/").removesuffix("/simple")
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/pypi", "", ""))


def query_all(interface: str, pins: Iterable[tuple[str, str]]) -> tuple[list[Weakness], list[str]]:
    """Return what is known, and the names that the index does not know.

    Raise if it knows nothing of any.
    """
    first, *others = pins
    answers = [query_index(interface, *first)]  # alone: without a network it is said after one wait
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers += pool.map(lambda pin: query_index(interface, *pin), others)
    unknown = [
        pin[0] for pin, answer in zip((first, *others), answers, strict=True) if answer is None
    ]
    if len(unknown) == len(answers):
        raise IndexUnavailableError("the index that pip uses lists no weaknesses")
    return [weakness for answer in answers if answer is not None for weakness in answer], unknown


def query_index(interface: str, name: str, version: str) -> list[Weakness] | None:
    """Return what is known about a package; None if the index does not know it."""
    address = f"{interface}/{quote(name)}/{quote(version)}/json"
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            return weaknesses(name, version, json.load(answer))
    except urllib.error.HTTPError as error:
        if error.code in {404, 410}:
            return None
        raise IndexUnavailableError(f"it answers {error.code}") from error
    except (OSError, ValueError) as error:
        raise IndexUnavailableError(str(getattr(error, "reason", error))) from error


def weaknesses(name: str, version: str, answer: Any) -> list[Weakness] | None:
    """Return the weaknesses in an answer, without withdrawn ones; None if it has no such list."""
    if not isinstance(answer, dict) or not isinstance(answer.get("vulnerabilities"), list):
        return None
    found = []
    for entry in answer["vulnerabilities"]:
        if entry.get("withdrawn"):
            continue
        ids = ", ".join(dict.fromkeys([entry["id"], *entry.get("aliases", ())]))
        summary = " ".join(
            (entry.get("summary") or entry.get("details") or "no description").split()
        )
        found.append(
            Weakness(
                name,
                version,
                ids,
                summary[:200],
                fixed_version(version, entry.get("fixed_in") or []),
            )
        )
    return found


def fixed_version(version: str, versions: list[str]) -> str:
    """Return the lowest fixed version above ours; older branches have their own."""
    return min(
        (v for v in versions if version_numbers(v) > version_numbers(version)),
        key=version_numbers,
        default="",
    )


def version_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
