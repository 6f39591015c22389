"""What readers make of good and of damaged footage: ours (pyav, decord) beside OpenCV's
VideoCapture.

    python benchmarks/media_contract.py [--seeds 30]

Every frame of the test videos carries its own number, so that a wrong frame is seen as wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from results import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from fasr_video.errors import MediaError
from fasr_video.media import Losses, Sampling, open_video
from tests.support import videos

Picture = NDArray[np.uint8]
# Time in seconds as the reader gives it, picture, marked damaged.
ReadFrame = tuple[float, Picture, bool]

TOLERANCE = 0.001 + 1e-6  # seconds
MAX_DIFFERENCE = 12.0  # grey levels, mean over the picture
DAMAGED = ("h264.mp4", "h264.mkv", "ts.ts")
READERS = ("pyav", "decord", "cv2.VideoCapture")


class Refused(Exception):
    """The reader refused the file clearly."""


@dataclass(frozen=True)
class Case:
    """A row of the table: files to be read, and what they show."""

    name: str
    files: list[Path]
    truth: dict[int, float] = field(default_factory=dict)
    """Number of the picture → seconds after the first."""
    upright: Callable[[Picture], Picture] = lambda image: image
    original: Path | None = None
    """The file before it was damaged: time 0 is its first frame, which the damaged one may have
    lost.
    """


@dataclass
class Outcome:
    files: int = 0
    right: int = 0
    damaged: int = 0
    """Marked damaged."""
    damaged_but_right: int = 0
    wrong_picture: int = 0
    wrong_time: int = 0
    repeated: int = 0
    absent: int = 0
    """Frames fewer than the whole video has, repeated ones not counted."""
    refused: int = 0
    crashed: int = 0
    """Files that ended in an exception that is no clear refusal."""
    silent_files: int = 0
    """Files in which pictures are absent and nothing was counted."""
    losses: Losses = field(default_factory=Losses)
    reason: str = ""

    @property
    def wrong(self) -> int:
        return self.wrong_picture + self.wrong_time + self.repeated

    def __add__(self, other: Outcome) -> Outcome:
        summed = {
            f.name: getattr(self, f.name) + getattr(other, f.name)
            for f in fields(self)
            if f.name != "reason"
        }
        return Outcome(**summed, reason=self.reason or other.reason)


def make_cases(folder: Path, seeds: int) -> list[Case]:
    cases = []
    for name, recipe in videos.GOOD.items():
        file = videos.encode(folder / name, recipe)
        cases.append(Case(f"{recipe.name} ({name})", [file], _true_times(name)))
    steady_times = _true_times("h264.mp4")
    original = folder / "h264.mp4"
    turned = videos.rotate(original, folder / "rotated.mp4")
    cases.append(
        Case("rotated by 90° (mp4)", [turned], steady_times, lambda image: np.rot90(image, 1))
    )
    shifted = videos.add_edit_list(original, folder / "edit_list.mp4", Fraction(10, 25))
    cases.append(
        Case("edit list starts at frame 10 (mp4)", [shifted], _times_from(steady_times, 10))
    )
    for kind in DAMAGED:
        file = videos.truncate(folder / kind, folder / f"cut_{kind}")
        cases.append(
            Case(
                f"cut at 60 % ({Path(kind).suffix[1:]})",
                [file],
                steady_times,
                original=folder / kind,
            )
        )
    for kind in DAMAGED:
        files = [
            videos.flip_bits(folder / kind, folder / f"flipped{s}_{kind}", s) for s in range(seeds)
        ]
        name = f"8 flipped bits, {seeds} files ({Path(kind).suffix[1:]})"
        cases.append(Case(name, files, steady_times, original=folder / kind))
    cases.append(Case("audio only (mp4)", [videos.write_audio(folder / "audio.mp4")]))
    (folder / "empty.mp4").touch()
    cases.append(Case("zero bytes (mp4)", [folder / "empty.mp4"]))
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    cases.append(Case("text named .mp4", [folder / "text.mp4"]))
    cases.append(
        Case("folder of pictures, one unreadable", [_pictures(folder / "pictures")], steady_times)
    )
    return cases


def _true_times(name: str) -> dict[int, float]:
    return {i: float(t) for i, t in enumerate(videos.expected_times(name))}


def _times_from(truth: dict[int, float], first: int) -> dict[int, float]:
    return {i: t - truth[first] for i, t in truth.items() if i >= first}


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    for i in range(videos.FRAMES):
        PilImage.fromarray(videos.draw_frame(i)).save(folder / f"frame{i}.png")
    (folder / "frame7.png").write_bytes(b"\x89PNG but not really")
    return folder


def read_ours(path: Path, backend: str, losses: Losses) -> Iterator[ReadFrame]:
    """Yield the frames of one of our readers; `losses` is filled at the end."""
    try:
        reader = open_video(path, backend)
        for frame in reader.frames(Sampling()):
            yield float(frame.ref.seconds), frame.image, frame.damaged
    except MediaError as error:
        raise Refused(error.reason) from error
    for kind in Losses.__slots__:
        setattr(losses, kind, getattr(reader.losses, kind))


def read_opencv(path: Path) -> Iterator[ReadFrame]:
    """Yield the frames of cv2.VideoCapture as most programs read it; a folder is a pattern."""
    capture = cv2.VideoCapture(str(path / "frame%d.png" if path.is_dir() else path))
    if not capture.isOpened():
        raise Refused("isOpened() is false")
    while True:
        has_frame, image = capture.read()
        if not has_frame:
            break
        yield (
            capture.get(cv2.CAP_PROP_POS_MSEC) / 1000,
            np.ascontiguousarray(image[..., ::-1]),
            False,
        )
    capture.release()


def read_frames(path: Path, reader: str, losses: Losses) -> Iterator[ReadFrame]:
    """Yield the frames that a reader gives."""
    return read_opencv(path) if reader == "cv2.VideoCapture" else read_ours(path, reader, losses)


@cache
def _first_time(original: Path, reader: str) -> float | None:
    """Return the time of the first frame of an undamaged file; None if the reader refuses it."""
    try:
        return next(at for at, _, _ in read_frames(original, reader, Losses()))
    except Refused:
        return None


def check_file(case: Case, path: Path, reader: str) -> Outcome:
    """Read a file and compare each frame with the truth."""
    outcome = Outcome(files=1)
    first_time = _first_time(case.original, reader) if case.original else None
    shown: set[int] = set()
    try:
        for at, image, damaged in read_frames(path, reader, outcome.losses):
            first_time = at if first_time is None else first_time
            number, kind = _compare_frame(case, at - first_time, case.upright(image), shown)
            if damaged:
                outcome.damaged += 1
                outcome.damaged_but_right += kind == "right"
            else:
                setattr(outcome, kind, getattr(outcome, kind) + 1)
                shown.add(number)
    except Refused as refused:
        return Outcome(files=1, refused=1, reason=str(refused))
    except (
        Exception
    ) as error:  # what no caller could foresee: a finding, not the end of the benchmark
        outcome.crashed, outcome.reason = 1, f"{type(error).__name__}: {error}"
        print(f"{reader} on {path.name}: {outcome.reason}", file=sys.stderr)
    delivered = outcome.right + outcome.damaged + outcome.wrong_picture + outcome.wrong_time
    outcome.absent = max(0, len(case.truth) - delivered)
    outcome.silent_files = int(outcome.absent > 0 and not outcome.losses and not outcome.crashed)
    return outcome


def _compare_frame(case: Case, seconds: float, image: Picture, shown: set[int]) -> tuple[int, str]:
    """Return the number of the picture, and the field of Outcome that it counts for."""
    if image.shape != (videos.HEIGHT, videos.WIDTH, 3):
        return -1, "wrong_picture"
    number = videos.read_number(image)
    if number not in case.truth:
        return number, "wrong_picture"
    if np.abs(image.astype(int) - videos.draw_frame(number).astype(int)).mean() >= MAX_DIFFERENCE:
        return number, "wrong_picture"
    if number in shown:
        return number, "repeated"
    return number, "right" if abs(seconds - case.truth[number]) <= TOLERANCE else "wrong_time"


def describe(outcome: Outcome, ours: bool) -> str:
    """Return an outcome in words."""
    if outcome.refused == outcome.files:
        return f"refused: {_shorten(outcome.reason)}"
    parts = [f"{outcome.right} right"]
    if outcome.damaged:
        parts.append(
            f"{outcome.damaged} marked damaged ({outcome.damaged_but_right} of them right)"
        )
    if outcome.wrong:
        kinds = {
            "picture": outcome.wrong_picture,
            "time": outcome.wrong_time,
            "repeated": outcome.repeated,
        }
        parts.append(
            f"**{outcome.wrong} WRONG** ({', '.join(f'{v} {k}' for k, v in kinds.items() if v)})"
        )
    elif outcome.files > 1:
        parts.append("0 wrong")
    if outcome.absent:
        parts.append(f"{outcome.absent} absent")
    if outcome.refused:
        parts.append(f"{outcome.refused} files refused ({_shorten(outcome.reason)})")
    counted = [f"{getattr(outcome.losses, k)} {k.replace('_', ' ')}" for k in Losses.__slots__]
    counted = [text for text in counted if not text.startswith("0 ")]
    if outcome.crashed:
        parts.append(f"**{outcome.crashed} ended in an exception** ({outcome.reason})")
    if ours and counted:
        parts.append(f"counted: {', '.join(counted)}")
    if outcome.silent_files:
        parts.append(
            "not reported"
            if outcome.files == 1
            else f"{outcome.silent_files} files with silent losses"
        )
    return "; ".join(parts)


def _shorten(reason: str) -> str:
    return re.sub(r"^decord would read this file wrongly: ", "", reason).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=30, help="files with flipped bits of each kind"
    )
    args = parser.parse_args()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read at the first VideoCapture
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    table = Table(
        "media_contract",
        "What readers make of good and of damaged footage",
        f"`python benchmarks/media_contract.py --seeds {args.seeds}`",
        ["footage", "pyav (default)", "decord", f"peer: cv2.VideoCapture {cv2.__version__}"],
    )
    sums = {reader: Outcome() for reader in READERS}
    with tempfile.TemporaryDirectory() as folder:
        for case in make_cases(Path(folder), args.seeds):
            cells = []
            for reader in READERS:
                outcome = sum((check_file(case, file, reader) for file in case.files), Outcome())
                sums[reader] += outcome
                cells.append(describe(outcome, reader != "cv2.VideoCapture"))
            table.add_row([case.name, *cells])
    table.add_row(["**wrong and not marked, in all**", *(f"**{sums[r].wrong}**" for r in READERS)])
    table.add_row(
        [
            "**files that ended in an exception, in all**",
            *(f"**{sums[r].crashed}**" for r in READERS),
        ]
    )
    table.add_row(
        ["**files with silent losses, in all**", *(f"**{sums[r].silent_files}**" for r in READERS)]
    )
    table.add_note(
        f"Each video has {videos.FRAMES} frames of {videos.WIDTH}×{videos.HEIGHT}, and each frame "
        "shows its own number. A frame is *right* when its picture differs from the one that was "
        f"encoded by less than {MAX_DIFFERENCE:.0f} grey levels on average, its time after the "
        "first frame (of the file before it was damaged) is right to 1 ms, and it was not shown "
        "before. *Absent* counts the frames that are missing in comparison with the whole video; "
        "a loss is *silent* when frames are absent and the reader counted nothing. Frames that "
        "our readers mark as damaged are not used for faces unless `media.use_damaged` says so; "
        "some of them are right, but that is known only because the original is."
    )
    table.add_note(
        "The encoder does not give the same bytes twice, so the flipped bits hit different parts "
        "in each run of this benchmark: the three rows vary. Each flip is one bit, anywhere from "
        "10 % to 90 % of the file."
    )
    table.add_note(
        "A file without times (no pts) and the folder of pictures are right at the assumed 25 "
        "frames a second. cv2.VideoCapture is used as in most programs: `read()`, then "
        "`CAP_PROP_POS_MSEC`; it has no way to mark a frame or to count a loss. On the interlaced "
        "file its converter fails with a line on stderr, and `read()` returns true with a picture "
        "of whatever was in memory. The folder is given to it as `frame%d.png`; our folder reader "
        "is the same for both backends."
    )
    table.write()


if __name__ == "__main__":
    main()
