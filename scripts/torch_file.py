"""`make setup`: the file of torch that pip would take, as a requirement with its hash, before
anything is installed.

    python scripts/torch_file.py [--any] REPORT.json > torch.lock

REPORT.json is what `pip install --dry-run --report` writes. A file that constraints.lock does not
know is refused; with `--any` (of an index that was chosen) it is pinned to the hash that the index
tells. This needs no package: one that is installed may run code in each Python that starts beside
it, also in the one that checks it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "constraints.lock"


def main(arguments: list[str]) -> None:
    for entry in read_entries([path for path in arguments if path != "--any"]):
        name, digest = entry_name(entry), entry_hash(entry)
        if "--any" not in arguments and digest not in locked_hashes(name):
            remedy = (
                "find out where pip takes it from; `make setup TORCH_INDEX=URL` trusts that index"
            )
            raise SystemExit(f"setup: the file of {name} is none that {LOCK.name} knows; {remedy}")
        print(f"{name} @ {entry['download_info']['url']} --hash=sha256:{digest}")


def read_entries(reports: list[str]) -> list[dict[str, Any]]:
    """Return the entries of pip's reports: the files that it would take."""
    return [
        entry
        for path in reports
        for entry in json.loads(Path(path).read_text(encoding="utf-8"))["install"]
    ]


def entry_name(entry: dict[str, Any]) -> str:
    """Return the normalised name of the package."""
    return re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower()


def entry_hash(entry: dict[str, Any]) -> str:
    """Return the SHA-256 of a file that pip would take."""
    return str(entry["download_info"]["archive_info"]["hashes"]["sha256"])


def locked_hashes(name: str) -> set[str]:
    """Return the hashes of the files of a package that constraints.lock has."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    ours = [
        line for line in lines if re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() == name
    ]
    return {digest for line in ours for digest in re.findall("--hash=sha256:([0-9a-f]{64})", line)}


if __name__ == "__main__":
    main(sys.argv[1:])
