"""`make lock`: constraints.lock, the pins of constraints.txt with the SHA-256 of each file that pip chose here.

    python lock.py REPORT.json… > constraints.lock

REPORT.json is what `pip install --dry-run --report` writes. Hashes are of one file a package: that of this platform.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAD = """\
# Every file that `make setup` installs on {platform}, by its SHA-256; `make lock` writes this anew.
# Elsewhere pip chooses other files, and refuses these hashes.
#   pip install --require-hashes --no-deps -r constraints.lock && pip install --no-deps -e .
"""


def main() -> None:
    reports = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:]]
    here = reports[0]["environment"]
    machine = (
        f"{here['implementation_name']} {here['python_version']}, {here['sys_platform']} {here['platform_machine']}"
    )
    lines = sorted((line for report in reports for line in map(locked, report["install"])), key=str.lower)
    print(HEAD.format(platform=machine) + "\n".join(lines))


def locked(chosen: dict) -> str:
    about, digest = chosen["metadata"], chosen["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{about['name']}=={about['version']} --hash=sha256:{digest}"


if __name__ == "__main__":
    main()
