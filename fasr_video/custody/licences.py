"""The licences of fasr-video, of the packages that it needs, and of the bundled weights.

This does not use pip-licenses, which would be needed at run time and knows neither the weights nor
what a package is needed for.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fasr_video.weights.manifest import read_manifest

PROJECT = "fasr-video"
UNKNOWN = "not stated in its metadata"


@dataclass(frozen=True, slots=True)
class Licence:
    name: str
    version: str
    """The version of a package, or the first digits of the SHA-256 of weights."""
    licence: str
    needed_for: str
    """"every run", the extras that need it, or what weights were trained on."""


def packages() -> list[Licence]:
    """Return the installed packages that fasr-video requires, directly or not."""
    required: dict[str, set[str]] = {}
    for line in importlib.metadata.requires(PROJECT) or ():
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        for name in _with_dependencies(_name(line)):
            required.setdefault(name, set()).add(extra[1] if extra else "")
    rows = [_package(PROJECT, "itself")]
    for name, extras in sorted(required.items()):
        rows.append(
            _package(name, "every run" if "" in extras else f"extra {', '.join(sorted(extras))}")
        )
    return rows


def weights() -> list[Licence]:
    """Return the bundled weights, as their manifest lists them."""
    return [
        Licence(e.file, e.sha256[:12], e.licence, f"trained on: {e.data}")
        for e in read_manifest().values()
    ]


def _with_dependencies(name: str) -> Iterable[str]:
    """Return the package and its dependencies, as far as they are installed."""
    installed: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        try:
            requirements = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in installed:
            installed.add(name)
            needed = (line for line in requirements if "extra" not in line.partition(";")[2])
            waiting += [_name(line) for line in needed]
    return installed


def _name(requirement: str) -> str:
    """Return the normalised name in a line such as `PyYAML>=6; python_version > '3'`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _package(name: str, needed_for: str) -> Licence:
    metadata = importlib.metadata.metadata(name)
    classifiers = [
        c.split(" :: ")[-1]
        for c in metadata.get_all("Classifier") or ()
        if c.startswith("License :: ")
    ]
    # Some packages give the full text: the first line names the licence.
    texts = metadata.get_all("License") or ()
    first_lines = [text.split("\n")[0].strip() for text in texts]
    stated = (
        metadata.get_all("License-Expression")
        or classifiers
        or [line for line in first_lines if line]
        or [UNKNOWN]
    )
    return Licence(metadata["Name"], metadata["Version"], ", ".join(stated), needed_for)
