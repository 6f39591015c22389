"""Trackers (SORT, ByteTrack and OC-SORT), all driven by elapsed seconds; linking of tracklets."""

from __future__ import annotations

from fasr_video.trackers.base import Ended, Step, Tracker, TrackerSettings
from fasr_video.trackers.bytetrack import ByteTrack
from fasr_video.trackers.ocsort import OcSort
from fasr_video.trackers.sort import Sort

TRACKERS: dict[str, type[Tracker]] = {t.name: t for t in (Sort, ByteTrack, OcSort)}

__all__ = ["TRACKERS", "ByteTrack", "Ended", "OcSort", "Sort", "Step", "Tracker", "TrackerSettings"]
