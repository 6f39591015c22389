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
    for each in chosen([path for path in arguments if path != "--any"]):
        name, digest = name_of(each), hash_of(each)
        if "--any" not in arguments and digest not in known(name):
            remedy = (
                "find out where pip takes it from; `make setup TORCH_INDEX=URL` trusts that index"
            )
            raise SystemExit(f"setup: the file of {name} is none that {LOCK.name} knows; {remedy}")
        print(f"{name} @ {each['download_info']['url']} --hash=sha256:{digest}")


def chosen(reports: list[str]) -> list[dict[str, Any]]:
    """Return what pip would take."""
    return [
        each
        for path in reports
        for each in json.loads(Path(path).read_text(encoding="utf-8"))["install"]
    ]


def name_of(each: dict[str, Any]) -> str:
    return re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()


def hash_of(each: dict[str, Any]) -> str:
    """Return the SHA-256 of a file that pip would take."""
    return str(each["download_info"]["archive_info"]["hashes"]["sha256"])


def known(name: str) -> set[str]:
    """Return the hashes of the files of a package that constraints.lock has."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    ours = [
        line for line in lines if re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() == name
    ]
    return {digest for line in ours for digest in re.findall("--hash=sha256:([0-9a-f]{64})", line)}


if __name__ == "__main__":
    main(sys.argv[1:])
