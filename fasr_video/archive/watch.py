"""Find the complete files of a folder that keeps filling: they have not changed for a while."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fasr_video.archive.scan import FoundFile


class StableFiles:
    """The files whose size and time of change have stayed the same for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[str, tuple[FoundFile, float]] = {}
        """Each file as of the last call, and since when it has been like that."""
        self._returned: dict[str, FoundFile] = {}

    def new(self, files: Iterable[FoundFile], now: float | None = None) -> list[FoundFile]:
        """Return the files that are stable and were not returned as they are now."""
        now = time.monotonic() if now is None else now
        present = {str(file.path): file for file in files}
        # Forget those that are gone: a file that comes back is returned again.
        for key in self._last.keys() - present.keys():
            del self._last[key]
            self._returned.pop(key, None)
        stable = []
        for key, file in present.items():
            before, since = self._last.get(key, (None, now))
            if before != file:
                since = now
            self._last[key] = file, since
            if now - since >= self._seconds and self._returned.get(key) != file:
                self._returned[key] = file
                stable.append(file)
        return stable
