"""decord as a source of frames, for well-formed MP4 and MKV.

decord (2021) repeats frames in MPEG-TS, returns none of a truncated MP4, and hides damage. So PyAV
decodes the file first (without converting pictures), and the file is refused if decord would return
wrong frames. The times come from that pass.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from fasr_video.errors import MediaError, UsageError
from fasr_video.media.pyav import PyAvReader
from fasr_video.media.reader import Frame, Losses, MediaInfo, Reader, Sampling
from fasr_video.types import FrameRef

CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
CODECS = {"h264", "hevc", "mpeg4", "vp8", "vp9"}


class DecordReader(Reader):
    def __init__(self, path: Path, assumed_fps: Fraction) -> None:
        super().__init__()
        try:
            import decord
        except ImportError as error:
            reason = "decord is not installed; it exists for x86-64 only"
            raise UsageError("media.backend: decord", reason, "use media.backend: pyav") from error
        reader = PyAvReader(path, assumed_fps)
        info = reader.info
        times, sizes, losses = reader.scan()
        self._pts = [t for t in times if t is not None]
        problem = _problem(info, self._pts, losses)
        if problem is None and len(sizes) > 1:
            problem = "the size of its pictures changes"
        if problem is None:
            try:
                self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0))
            except (decord.DECORDError, RuntimeError):
                problem = "decord cannot open it"
            else:
                count = len(self._reader)
                if count != len(self._pts):
                    problem = f"decord counts {count} frames, the file has {len(self._pts)}"
        if problem is not None:
            reason = f"decord would read this file wrongly: {problem}"
            raise MediaError(path, reason, "use `media.backend: pyav`")
        self._info = replace(info, backend=f"decord {decord.__version__}")
        self._decord_error = decord.DECORDError

    def frames(self, sampling: Sampling, after: FrameRef | None = None) -> Generator[Frame]:
        self._losses = Losses()
        info = self._info
        before: Fraction | None = None
        for index, pts in enumerate(self._pts):
            seconds = (pts - info.first_pts) * info.time_base
            if sampling.is_past(seconds):
                return
            if (after is None or index > after.index) and sampling.wants(index, seconds, before):
                try:
                    image = self._reader[index].asnumpy()
                except self._decord_error as error:
                    reason = f"decord failed at frame {index}"
                    raise MediaError(info.path, reason, "use `media.backend: pyav`") from error
                yield Frame(FrameRef(info.sha256, index, pts, info.time_base), image, damaged=False)
            before = seconds


def _problem(info: MediaInfo, times: list[int], losses: Losses) -> str | None:
    """Return why decord would read the file wrongly; None if it would not."""
    checks = {
        f"its container is {info.container}": info.container not in CONTAINERS,
        f"its codec is {info.codec}": info.codec not in CODECS,
        "parts of it are damaged": bool(losses),
        "its frames have no times": info.time_source != "pts",
        "its times do not always increase": any(b <= a for a, b in pairwise(times)),
        "its first frame is not at time 0 (maybe by an edit list)": info.first_pts != 0,
        "it has not as many frames as it declares": info.declared_frames not in (None, len(times)),
        f"its picture has to be turned ({info.orientation})": info.orientation != "none",
        f"its pixels are {info.pixel_format}, not 8-bit 4:2:0": info.pixel_format
        not in {"yuv420p", "yuvj420p"},
        f"its colours are {info.colour}": not info.colour.startswith("bt601"),
        "it is interlaced": info.interlaced,
    }
    return next((problem for problem, applies in checks.items() if applies), None)
