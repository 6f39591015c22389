"""Under which licences stands what is installed here: fasr-video, what it needs, and the bundled weights.

Not pip-licenses, which knows neither the weights nor what a package is needed for, and would be needed at run time.
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
    """Of a package; the first digits of the SHA-256 of weights."""
    licence: str
    needed_for: str
    """every run, the extras that ask for it, or what weights were trained on."""


def packages() -> list[Licence]:
    """What is installed of all that fasr-video asks for, at any depth."""
    asked: dict[str, set[str]] = {}
    for line in importlib.metadata.requires(PROJECT) or ():
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        for name in _tree(_name(line)):
            asked.setdefault(name, set()).add(extra[1] if extra else "")
    rows = [_package(PROJECT, "itself")]
    for name, extras in sorted(asked.items()):
        rows.append(
            _package(name, "every run" if "" in extras else f"extra {', '.join(sorted(extras))}")
        )
    return rows


def weights() -> list[Licence]:
    """As the manifest of the bundled weights has them."""
    return [
        Licence(e.file, e.sha256[:12], e.licence, f"trained on: {e.data}")
        for e in read_manifest().values()
    ]


def _tree(name: str) -> Iterable[str]:
    """The package and all that it needs, as far as it is installed."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        try:
            needs = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [_name(line) for line in needs if "extra" not in line.partition(";")[2]]
    return found


def _name(requirement: str) -> str:
    """Of a line such as `PyYAML>=6; python_version > '3'`, in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _package(name: str, needed_for: str) -> Licence:
    about = importlib.metadata.metadata(name)
    classifiers = [
        c.split(" :: ")[-1]
        for c in about.get_all("Classifier") or ()
        if c.startswith("License :: ")
    ]
    lines = [
        line.split("\n")[0].strip() for line in about.get_all("License") or ()
    ]  # some give the whole text
    stated = (
        about.get_all("License-Expression")
        or classifiers
        or [line for line in lines if line]
        or [UNKNOWN]
    )
    return Licence(about["Name"], about["Version"], ", ".join(stated), needed_for)
