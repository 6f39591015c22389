"""The bundled weights: the models that come with fasr-video, and the manifest that lists them.

A bundled file is used only if its SHA-256 is the one in the manifest.
`python -m fasr_video.weights.manifest` updates the hashes after a file was replaced.
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

BUNDLED = Path(__file__).parent
MANIFEST = "manifest.json"
REMEDY = "install fasr-video again, or restore the file with git checkout"


class State(StrEnum):
    OK = "ok"
    MISSING = "missing"
    ALTERED = "altered"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one bundled file."""

    file: str
    sha256: str
    what: str
    contract: str
    """What the model takes and gives, after a name that changes with it: `embedder/1: …`."""
    needs: tuple[str, ...]
    """Bundled files that it was made with, and is useless without."""
    data: str
    """What it was trained on."""
    training: str
    """The command that trained it, and how long that took."""
    licence: str
    card: str
    """The section of the documentation about it."""

    @property
    def path(self) -> Path:
        return BUNDLED / self.file

    @property
    def state(self) -> State:
        sha256 = _sha256_if_there(self.path)
        if sha256 is None:
            return State.MISSING
        return State.OK if sha256 == self.sha256 else State.ALTERED


def read_manifest() -> dict[str, Entry]:
    """Return the entries of the manifest by file name."""
    path = BUNDLED / MANIFEST
    try:
        rows = json.loads(path.read_text("utf-8"))
        entries = [Entry(**{**row, "needs": tuple(row["needs"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(path, f"the manifest is damaged ({error})", REMEDY) from error
    return {entry.file: entry for entry in entries}


def bundled(name: str) -> Path:
    """Return the path of a bundled file; raise if it is missing or not what the manifest says."""
    entry = read_manifest().get(name)
    if entry is None:
        raise ModelError(BUNDLED / MANIFEST, f"it does not name {name}", REMEDY)
    sha256 = _sha256_if_there(entry.path)
    if sha256 == entry.sha256:
        return entry.path
    if sha256 is None:
        state = "it is missing"
    else:
        state = f"it was altered, its SHA-256 is {sha256[:12]}…"
    raise ModelError(entry.path, f"{state}; the manifest's is {entry.sha256[:12]}…", REMEDY)


def refresh() -> list[str]:
    """Update the hashes in the manifest; return a line for each that changed."""
    entries = read_manifest()
    _refuse_unknown_files(entries)
    lines = []
    updated = []
    for entry in entries.values():
        sha256 = _sha256_if_there(entry.path)
        if sha256 is None:
            remedy = "put it there, or take its entry out of the manifest"
            raise ModelError(entry.path, "it is missing", remedy)
        if sha256 != entry.sha256:
            lines.append(_change(entry, sha256, entries))
        updated.append(asdict(replace(entry, sha256=sha256)))
    text = json.dumps(updated, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(BUNDLED / MANIFEST, text)
    return lines


def _refuse_unknown_files(entries: dict[str, Entry]) -> None:
    """Raise if there is a file of weights that the manifest does not name."""
    files = {path.name for path in BUNDLED.iterdir() if path.suffix in {".safetensors", ".json"}}
    unknown = files - {MANIFEST, *entries}
    if unknown:
        reason = f"no entry for {', '.join(sorted(unknown))}"
        remedy = "add one beside the others, with an empty sha256"
        raise ModelError(BUNDLED / MANIFEST, reason, remedy)


def _change(entry: Entry, sha256: str, entries: dict[str, Entry]) -> str:
    """Return a line about a hash that changed, with the files that were made with the old one."""
    line = f"{entry.file}: {entry.sha256[:12]}… is now {sha256[:12]}…"
    needed_by = ", ".join(other.file for other in entries.values() if entry.file in other.needs)
    if needed_by:
        line += f"; check whether these were made with it: {needed_by}"
    return line


def _sha256_if_there(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if there is no such file."""
    try:
        if not path.is_file():
            return None
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise ModelError(path, reason, "change its permissions") from error


@cache
def _sha256(path: Path, size: int, modified: int) -> str:
    """Compute a hash once a process, unless size or time of change show that the file changed."""
    return sha256_file(path)


def main() -> None:
    try:
        with explain_errors(BUNDLED):
            lines = refresh()
    except FasrError as error:
        sys.exit(f"fasr-video: {error}")
    print("\n".join(lines) or "nothing changed")


if __name__ == "__main__":
    main()
