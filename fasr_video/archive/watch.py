"""A folder that keeps filling: a file is taken when nothing has changed in it for a while."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fasr_video.archive.scan import Found


class Still:
    """Which files have kept their size and their time of change for some seconds, as seen from here."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[str, tuple[Found, float]] = {}
        self._given: dict[str, Found] = {}

    def new(self, files: Iterable[Found], now: float | None = None) -> list[Found]:
        """Those that are still, and were not given out as they are now."""
        now = time.monotonic() if now is None else now
        there = {str(found.path): found for found in files}
        for key in self._seen.keys() - there.keys():  # gone: one that comes back is given out again
            del self._seen[key]
            self._given.pop(key, None)
        ready = []
        for key, found in there.items():
            before, since = self._seen.get(key, (None, now))
            if before != found:
                since = now
            self._seen[key] = found, since
            if now - since >= self._seconds and self._given.get(key) != found:
                self._given[key] = found
                ready.append(found)
        return ready

    @property
    def waiting(self) -> int:
        """Files that may still be growing."""
        return sum(self._given.get(key) != found for key, (found, _) in self._seen.items())
