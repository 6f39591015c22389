"""The box: the models that come with fasr-video, each held against its manifest before it is used.

`python -m fasr_video.weights.manifest` writes the manifest's hashes anew after files of the box were replaced.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

from fasr_video.errors import FasrError, ModelError
from fasr_video.files import atomic_write_text, sha256_file
from fasr_video.sqlite import explain_errors

BOX = Path(__file__).parent
MANIFEST = "manifest.json"
REMEDY = "install fasr-video again, or bring the file back with git checkout"


class State(StrEnum):
    OK = "ok"
    MISSING = "missing"
    ALTERED = "altered"


@dataclass(frozen=True, slots=True)
class Entry:
    file: str
    sha256: str
    what: str
    contract: str
    """What it takes and gives, after a name that changes with that: `embedder/1: …`."""
    needs: tuple[str, ...]
    """Files of the box that it was made with, and means nothing without."""
    data: str
    """What it was trained on."""
    training: str
    """By which command, and for how long."""
    licence: str
    card: str
    """Where the documentation tells more of it."""

    @property
    def path(self) -> Path:
        return BOX / self.file

    @property
    def state(self) -> State:
        found = _found(self.path)
        if found is None:
            return State.MISSING
        return State.OK if found == self.sha256 else State.ALTERED


def read_manifest() -> dict[str, Entry]:
    """What the box should hold, by the files' names."""
    path = BOX / MANIFEST
    try:
        entries = [
            Entry(**{**row, "needs": tuple(row["needs"])})
            for row in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(path, f"not a whole manifest ({error})", REMEDY) from error
    return {entry.file: entry for entry in entries}


def bundled(name: str) -> Path:
    """The path of that file of the box, which is there and is what the manifest says it is."""
    entry = read_manifest().get(name)
    if entry is None:
        raise ModelError(BOX / MANIFEST, f"it does not name {name}", REMEDY)
    found = _found(entry.path)
    if found != entry.sha256:
        state = (
            "it is missing" if found is None else f"it was altered, its SHA-256 is {found[:12]}…"
        )
        raise ModelError(entry.path, f"{state}; the manifest's is {entry.sha256[:12]}…", REMEDY)
    return entry.path


def refresh() -> list[str]:
    """Write the manifest's hashes anew from the files; a line for each that changed."""
    entries = read_manifest()
    unknown = {p.name for p in BOX.iterdir() if p.suffix in {".safetensors", ".json"}} - {
        MANIFEST,
        *entries,
    }
    if unknown:
        reason = f"no entry for {', '.join(sorted(unknown))}"
        raise ModelError(
            BOX / MANIFEST, reason, "write one beside the others, with an empty sha256"
        )
    lines, fresh = [], []
    for entry in entries.values():
        found = _found(entry.path)
        if found is None:
            raise ModelError(
                entry.path, "it is missing", "put it there, or take its entry out of the manifest"
            )
        if found != entry.sha256:
            needed_by = ", ".join(e.file for e in entries.values() if entry.file in e.needs)
            told = f"; see that these were made with it: {needed_by}" if needed_by else ""
            lines.append(f"{entry.file}: {entry.sha256[:12]}… is now {found[:12]}…{told}")
        fresh.append(asdict(replace(entry, sha256=found)))
    text = json.dumps(fresh, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(BOX / MANIFEST, text)
    return lines


def _found(path: Path) -> str | None:
    """The SHA-256 of the file that is there, None where there is none."""
    try:
        if not path.is_file():
            return None
        now = path.stat()
        return _sha256(path, now.st_size, now.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            path, f"cannot be read ({error.strerror})", "change its permissions"
        ) from error


@cache
def _sha256(path: Path, size: int, modified: int) -> str:
    """Once a process, unless size or time of change tell that the file is another one."""
    return sha256_file(path)


def main() -> None:
    try:
        with explain_errors(BOX):
            lines = refresh()
    except FasrError as error:
        sys.exit(f"fasr-video: {error}")
    print("\n".join(lines) or "nothing changed")


if __name__ == "__main__":
    main()
