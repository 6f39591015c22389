"""The contract of all sources of frames: right frames at right times, losses, or one clear
error.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from fasr_video.errors import MediaError, UsageError
from fasr_video.media import BACKENDS, Frame, Losses, MediaInfo, Sampling, open_video
from tests.support import videos
from tests.support.paths import FIXTURES

ALL = Sampling()
SEEDS = [0, 1, 2, 3, 4, 5, 12, 16]  # the last two make PyAV stumble over damaged MPEG-TS tables


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with every test video."""
    folder = tmp_path_factory.mktemp("clips")
    for name, recipe in videos.GOOD.items():
        videos.encode(folder / name, recipe)
    videos.rotate(folder / "h264.mp4", folder / "rotated.mp4")
    videos.add_edit_list(folder / "h264.mp4", folder / "edit_list.mp4", Fraction(10, 25))
    for kind in videos.DAMAGEABLE:
        videos.truncate(FIXTURES / kind, folder / f"cut_{kind}")
        for seed in SEEDS:
            videos.flip_bits(FIXTURES / kind, folder / f"flipped{seed}_{kind}", seed)
    videos.write_audio(folder / "audio.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(videos.FRAMES):
        PilImage.fromarray(videos.draw_frame(i)).save(pictures / f"frame{i}.png")
    (pictures / "frame7.png").write_bytes(b"\x89PNG but not really")
    (pictures / "notes.txt").write_text("ignored")
    return folder


@dataclass
class ReadResult:
    info: MediaInfo
    frames: list[Frame]
    losses: Losses


def read_all(path: Path, backend: str, sampling: Sampling = ALL) -> ReadResult | MediaError:
    try:
        reader = open_video(path, backend)
        frames = list(reader.frames(sampling))
    except MediaError as error:
        return error
    return ReadResult(reader.info, frames, reader.losses)


def assert_right(
    result: ReadResult,
    times: list[Fraction],
    upright: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> None:
    """Every frame that is not marked damaged shows the right picture at the right time."""
    for frame in result.frames:
        if frame.damaged:
            continue
        image = upright(frame.image)
        shown = videos.read_number(image)
        seconds = (frame.ref.pts - result.info.first_pts) * frame.ref.time_base
        assert abs(seconds - times[shown]) <= Fraction(1, 1000), (
            f"picture {shown} at {float(seconds):.3f} s"
        )
        error = np.abs(image.astype(int) - videos.draw_frame(shown).astype(int)).mean()
        assert error < 12, f"picture {shown} is wrong by {error:.1f} levels"


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", videos.GOOD)
def test_a_good_file_is_read_completely_or_refused(clips: Path, backend: str, name: str) -> None:
    result = read_all(clips / name, backend)
    if isinstance(result, MediaError):
        assert backend == "decord" and "media.backend: pyav" in str(result)
        return
    assert len(result.frames) == videos.FRAMES
    assert not result.losses
    assert [f.ref.index for f in result.frames] == list(range(videos.FRAMES))
    assert [videos.read_number(f.image) for f in result.frames] == list(range(videos.FRAMES))
    assert_right(result, videos.expected_times(name))


def test_without_decord_the_error_names_the_other_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UsageError, match=r"decord is not installed.*use media\.backend: pyav"):
        open_video(tmp_path / "any.mp4", "decord")


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vfr.mkv", "full_range.mp4"])
def test_decord_reads_well_formed_files(clips: Path, name: str) -> None:
    assert isinstance(read_all(clips / name, "decord"), ReadResult)


@pytest.mark.parametrize("name", ["h264.mp4", "full_range.mp4", "bt709.mp4", "hevc10.mp4"])
def test_colours_come_back_whatever_matrix_range_and_depth(clips: Path, name: str) -> None:
    result = read_all(clips / name, "pyav")
    assert isinstance(result, ReadResult)
    assert np.abs(videos.patch_colours(result.frames[40].image) - videos.COLOURS).max() < 8
    assert "declared" in result.info.colour


@pytest.mark.parametrize(
    ("name", "source"),
    [("h264.mp4", "pts"), ("b_frames.avi", "container"), ("nopts.h264", "assumed_fps")],
)
def test_the_time_source_is_reported(clips: Path, name: str, source: str) -> None:
    assert open_video(clips / name).info.time_source == source


def test_assumed_rate_is_the_setting(clips: Path) -> None:
    reader = open_video(clips / "nopts.h264", assumed_fps=Fraction(10))
    assert [f.ref.seconds for f in reader.frames(ALL)][:3] == [0, Fraction(1, 10), Fraction(2, 10)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rotation_is_applied_once(clips: Path, backend: str) -> None:
    result = read_all(clips / "rotated.mp4", backend)
    if isinstance(result, MediaError):
        assert backend == "decord"
        return
    assert (result.info.width, result.info.height) == (videos.HEIGHT, videos.WIDTH)
    assert result.info.orientation == "rotated 90"
    assert len(result.frames) == videos.FRAMES
    assert_right(
        result, videos.expected_times("h264.mp4"), upright=lambda image: np.rot90(image, 1)
    )


def test_interlaced_footage_is_reported(clips: Path) -> None:
    assert open_video(clips / "interlaced.mp4").info.interlaced
    assert not open_video(clips / "h264.mp4").info.interlaced


@pytest.mark.parametrize("backend", BACKENDS)
def test_edit_list_is_honoured_or_refused(clips: Path, backend: str) -> None:
    result = read_all(clips / "edit_list.mp4", backend)
    if isinstance(result, MediaError):
        assert backend == "decord"
        return
    assert videos.read_number(result.frames[0].image) == 10
    times = [Fraction(i - 10, 25) for i in range(videos.FRAMES)]
    assert_right(result, times)
    assert not result.losses, "what an edit list hides is not lost"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", videos.DAMAGEABLE)
def test_a_truncated_file_gives_its_frames_and_a_loss(clips: Path, backend: str, kind: str) -> None:
    result = read_all(clips / f"cut_{kind}", backend)
    if isinstance(result, MediaError):
        return
    assert 30 <= len(result.frames) < videos.FRAMES
    assert_right(result, videos.expected_times("h264.mp4"))
    if (
        kind == "h264.mkv"
    ):  # MPEG-TS declares no length: cut between two packets, it cannot be told from a whole one
        assert result.losses.missing_frames == videos.FRAMES - len(result.frames)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", videos.DAMAGEABLE)
def test_flipped_bits_are_counted_as_losses(
    clips: Path, backend: str, seed: int, kind: str
) -> None:
    result = read_all(clips / f"flipped{seed}_{kind}", backend)
    if isinstance(result, MediaError):
        return
    assert result.losses.corrupt_packets > 0 or len(result.frames) == videos.FRAMES
    assert_right(result, videos.expected_times("h264.mp4"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("audio.mp4", "no video stream"),
        ("empty.mp4", "0 bytes"),
        ("text.mp4", "not a video (FFmpeg: Invalid data"),
        ("pictures/frame1.png", "a picture, not a video; put pictures into a folder"),
        ("cut_h264.mp4", "not a video"),
        ("missing.mp4", "no such file"),
    ],
)
def test_a_file_that_is_no_footage_is_one_clear_error(
    clips: Path, backend: str, name: str, reason: str
) -> None:
    result = read_all(clips / name, backend)
    assert isinstance(result, MediaError)
    assert name in str(result) and reason in str(result) and "\n" not in str(result)
    assert result.exit_code == 2


def test_a_playlist_cannot_open_other_files(clips: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    assert isinstance(read_all(playlist, "pyav"), MediaError)


@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile h264.mp4\n", "#EXTM3U\n#EXTINF:4,\nts.ts\n#EXT-X-ENDLIST\n"],
)
def test_text_that_names_other_files_is_no_footage(text: str, clips: Path) -> None:
    for suffix in ("mp4", "m3u8", "txt"):
        (clips / f"list.{suffix}").write_text(text)
        assert isinstance(read_all(clips / f"list.{suffix}", "pyav"), MediaError)


def test_pattern_in_a_name_reads_no_other_pictures(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "s%d.png").write_bytes((clips / "pictures" / "frame0.png").read_bytes())
    (tmp_path / "s1.png").write_bytes((clips / "pictures" / "frame1.png").read_bytes())
    assert isinstance(read_all(tmp_path / "s%d.png", "pyav"), MediaError)


def test_one_wiped_packet_costs_its_group_of_pictures_and_no_more(
    clips: Path, tmp_path: Path
) -> None:
    """A bad sector: 512 zero bytes in the middle of the pictures."""
    data = bytearray((FIXTURES / "h264.mp4").read_bytes())
    at = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 3
    data[at : at + 512] = bytes(512)
    (tmp_path / "sector.mp4").write_bytes(data)
    result = read_all(tmp_path / "sector.mp4", "pyav")
    assert isinstance(result, ReadResult)
    assert sum(not f.damaged for f in result.frames) >= videos.FRAMES - 2 * 25 - 8
    assert_right(result, videos.expected_times("h264.mp4"))


_X265 = "log-level=none:keyint=25:min-keyint=25:"
# Footage that is made to begin ten packets after a keyframe, fifteen before the next.
MID_GROUP = {
    "h264.ts": videos.Recipe("H.264", format="mpegts"),
    "h264.mp4": videos.Recipe("H.264 in MP4, which declares all its frames"),
    "raw.h264": videos.Recipe("H.264 without times", format="h264"),
    "h264.avi": videos.Recipe("H.264 in AVI, which has no presentation times"),
    "open.ts": videos.GOOD["open_gop.ts"],
    "refresh.ts": videos.Recipe(
        "no keyframes", format="mpegts", options={"x264-params": "intra-refresh=1"}
    ),
    "rasl.mp4": videos.Recipe(
        "HEVC", codec="libx265", options={"x265-params": _X265 + "open-gop=1"}
    ),
    "radl.mp4": videos.Recipe(
        "HEVC", codec="libx265", options={"x265-params": _X265 + "open-gop=0:radl=2"}
    ),
    "mpeg2.ts": videos.Recipe("MPEG-2", codec="mpeg2video", format="mpegts", options={"bf": "2"}),
    "mpeg4.mp4": videos.Recipe("MPEG-4, drawn onto grey", codec="mpeg4"),
    "mjpeg.mkv": videos.Recipe(
        "keyframes alone", codec="mjpeg", pixels="yuvj420p", full_range=True
    ),
}


@pytest.fixture(scope="module")
def mid_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mid_group")
    for name, recipe in MID_GROUP.items():
        complete = videos.encode(folder / f"whole_{name}", recipe)
        videos.drop_first_packets(complete, folder / name, format=recipe.format)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MID_GROUP)
def test_frames_missing_at_the_beginning_are_counted(mid_group: Path, name: str) -> None:
    result = read_all(mid_group / name, "pyav")
    assert isinstance(result, ReadResult)
    # An AVI and a Matroska declare the ten that were cut off, too.
    there = videos.FRAMES - (0 if name in {"h264.avi", "mjpeg.mkv"} else 10)
    assert len(result.frames) + result.losses.missing_frames == there
    assert bool(result.losses)
    shown = [f for f in result.frames if not f.damaged]
    assert [videos.read_number(f.image) for f in shown] == sorted(
        videos.read_number(f.image) for f in shown
    )
    wrong = [
        f
        for f in shown
        if np.abs(f.image.astype(int) - videos.draw_frame(videos.read_number(f.image))).mean() > 12
    ]
    assert not wrong


@pytest.mark.parametrize("name", MID_GROUP)
def test_a_complete_file_of_the_same_kind_loses_nothing(mid_group: Path, name: str) -> None:
    result = read_all(mid_group / f"whole_{name}", "pyav")
    assert isinstance(result, ReadResult)
    assert len(result.frames) == videos.FRAMES and not result.losses


@pytest.mark.parametrize("prefix", ["", "whole_"])
@pytest.mark.parametrize("name", MID_GROUP)
def test_indexes_after_a_later_start_equal_those_of_a_full_run(
    mid_group: Path, name: str, prefix: str
) -> None:
    reader = open_video(mid_group / f"{prefix}{name}")
    every = [f.ref for f in reader.frames(ALL)]
    first = reader.info.first_pts
    for start in (Fraction(1, 5), Fraction(4, 5), Fraction(7, 5), Fraction(5, 2)):
        later = [f.ref for f in reader.frames(Sampling(start=start))]
        assert later == [ref for ref in every if (ref.pts - first) * ref.time_base >= start]


def test_frames_before_the_start_are_no_loss(mid_group: Path) -> None:
    result = read_all(mid_group / "h264.ts", "pyav", Sampling(start=Fraction(7, 5)))
    assert isinstance(result, ReadResult)
    assert result.frames and not result.losses


@pytest.mark.parametrize("name", ["h264.ts", "h264.mp4"])
def test_a_missing_beginning_is_counted_once_in_a_resumed_run(mid_group: Path, name: str) -> None:
    reader = open_video(mid_group / name)
    frames = reader.frames(ALL)
    for _ in range(30):
        last = next(frames).ref
    before = replace(reader.losses)
    frames.close()
    assert before.missing_frames == 15, "counted as soon as it is known"
    list(reader.frames(ALL, after=last))
    assert before + reader.losses == Losses(missing_frames=15)


def test_a_transport_stream_cut_at_a_packet_is_read_from_its_next_key_frame(
    clips: Path, tmp_path: Path
) -> None:
    data = (clips / "ts.ts").read_bytes()
    edge = len(data) // 12 // 188 * 188
    (tmp_path / "cut.ts").write_bytes(data[edge:])
    reader = open_video(tmp_path / "cut.ts")
    shown = [videos.read_number(f.image) for f in reader.frames(ALL)]
    assert shown == list(range(25, 100))
    assert 0 < reader.losses.missing_frames < 25


def test_avi_frames_keep_their_times_when_the_beginning_is_missing(mid_group: Path) -> None:
    result = read_all(mid_group / "h264.avi", "pyav")
    assert isinstance(result, ReadResult)
    assert_right(result, [Fraction(i, 25) for i in range(videos.FRAMES)])


def test_times_that_start_again_are_counted_and_resumed(tmp_path: Path) -> None:
    """Two recordings in one file, as recorders write them."""
    twice = tmp_path / "twice.ts"
    twice.write_bytes((FIXTURES / "ts.ts").read_bytes() * 2)
    reader = open_video(twice)
    complete = list(reader.frames(ALL))
    assert len(complete) == 2 * videos.FRAMES and reader.losses.time_jumps >= 1
    for at in (30, 99, 100, 130):
        second_reader = open_video(twice)
        rest = list(second_reader.frames(ALL, after=complete[at].ref))
        assert [(f.ref, f.damaged) for f in rest] == [
            (f.ref, f.damaged) for f in complete[at + 1 :]
        ]


@pytest.mark.parametrize("kind", videos.DAMAGEABLE)
def test_resuming_in_damaged_footage_gives_the_same_frames_and_losses(
    clips: Path, kind: str
) -> None:
    for seed in SEEDS[:3]:
        path = clips / f"flipped{seed}_{kind}"
        reader = open_video(path)
        complete, before = [], []
        for frame in reader.frames(ALL):
            complete.append(frame)
            before.append(replace(reader.losses))
        for at in (len(complete) // 3, len(complete) // 2):
            second_reader = open_video(path)
            rest = list(second_reader.frames(ALL, after=complete[at].ref))
            assert [(f.ref, f.damaged) for f in rest] == [
                (f.ref, f.damaged) for f in complete[at + 1 :]
            ]
            assert (
                before[at].damaged_frames + second_reader.losses.damaged_frames
                == reader.losses.damaged_frames
            )
            assert (
                before[at].time_jumps + second_reader.losses.time_jumps == reader.losses.time_jumps
            )


def test_a_folder_of_pictures_is_read_in_the_order_of_its_names(clips: Path) -> None:
    result = read_all(clips / "pictures", "pyav")
    assert isinstance(result, ReadResult)
    assert [videos.read_number(f.image) for f in result.frames] == [
        i for i in range(videos.FRAMES) if i != 7
    ]
    assert result.losses == Losses(corrupt_packets=1, other_files=1)
    assert result.info.time_source == "assumed_fps"


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    assert "no pictures in the folder" in str(read_all(tmp_path, "pyav"))
    (tmp_path / "door.mp4").touch()
    error = str(read_all(tmp_path, "pyav"))
    assert f"videos (1); give the files (fasr-video run {tmp_path}/*.mp4), or make a case" in error


SOURCES = [
    "h264.mp4",
    "vfr.mkv",
    "ts.ts",
    "open_gop.ts",
    "b_frames.avi",
    "nopts.h264",
    "hevc10.mp4",
    "pictures",
]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("at", [0, 24, 25, 26, 61, 98])
def test_resuming_after_a_frame_gives_the_remaining_frames(clips: Path, name: str, at: int) -> None:
    complete = list(open_video(clips / name).frames(ALL))
    at = min(at, len(complete) - 2)
    rest = list(open_video(clips / name).frames(ALL, after=complete[at].ref))
    assert [f.ref for f in rest] == [f.ref for f in complete[at + 1 :]]
    assert all(
        np.array_equal(a.image, b.image) for a, b in zip(rest, complete[at + 1 :], strict=True)
    )


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(every=7),
        Sampling(fps=Fraction(5)),
        Sampling(start=Fraction(2), end=Fraction(3)),
        Sampling(fps=Fraction(3), start=Fraction(1, 2)),
        Sampling(start=Fraction(3, 2), every=2),
    ],
    ids=str,
)
def test_sampling_is_by_time_and_keeps_indexes(clips: Path, name: str, sampling: Sampling) -> None:
    reader = open_video(clips / name)
    first = reader.info.first_pts * reader.info.time_base
    complete = list(reader.frames(ALL))
    some = list(open_video(clips / name).frames(sampling))
    by_index = {f.ref.index: f for f in complete}
    assert some and all(by_index[f.ref.index].ref == f.ref for f in some)
    assert all(np.array_equal(by_index[f.ref.index].image, f.image) for f in some)
    seconds = [f.ref.seconds - first for f in some]
    if sampling.start is not None:
        assert min(seconds) >= sampling.start
    if sampling.end is not None:
        assert max(seconds) < sampling.end and sampling.start is not None
        assert len(some) == sum(
            sampling.start <= f.ref.seconds - first < sampling.end for f in complete
        )
    if sampling.fps is not None:
        slots = [s * sampling.fps // 1 for s in seconds]
        assert len(set(slots)) == len(slots), "at most one frame in each 1/fps"
    if sampling.every > 1:
        assert all(f.ref.index % sampling.every == 0 for f in some)


@pytest.mark.parametrize(
    "bad",
    [
        {"every": 0},
        {"fps": Fraction(-1)},
        {"every": 2, "fps": Fraction(1)},
        {"start": Fraction(3), "end": Fraction(2)},
    ],
)
def test_contradictory_sampling_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampling(**bad)


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://127.0.0.1/stream",
        "RTSPS://camera.invalid/1",
        "http://camera.invalid/live.m3u8",
        "udp://0.0.0.0:5000",
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_address_is_refused_because_there_is_no_live_mode(address: str, backend: str) -> None:
    with pytest.raises(
        MediaError, match="an address, not a recording: there is no live mode, by design"
    ):
        open_video(Path(address), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_camera_a_pipe_and_a_device_are_refused_without_waiting_for_them(
    tmp_path: Path, backend: str
) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/video0"), Path("/dev/zero")):
        with pytest.raises(MediaError, match="no live mode, by design; give recorded files"):
            open_video(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_with_a_colon_in_its_name_is_a_file(
    clips: Path, tmp_path: Path, backend: str
) -> None:
    clip = tmp_path / "cam:" / "h264.mp4"
    clip.parent.mkdir()
    shutil.copy(clips / "h264.mp4", clip)
    assert open_video(clip, backend).info.sha256


def test_every_picture_of_a_folder_is_read_or_counted(tmp_path: Path) -> None:
    for ending, kind in {
        "avif": "AVIF",
        "gif": "GIF",
        "jfif": "JPEG",
        "jp2": "JPEG2000",
        "webp": "WEBP",
    }.items():
        PilImage.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / f"1.{ending}", kind)
    shutil.copy(os.fsencode(tmp_path / "1.gif"), os.fsencode(tmp_path) + b"/\xf6.gif")
    (tmp_path / "1.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "Thumbs.db").write_bytes(b"of Windows")
    reader = open_video(tmp_path)
    assert sum(1 for _ in reader.frames(Sampling())) == 6
    assert reader.losses == Losses(corrupt_packets=1, other_files=1)


def test_a_folder_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xf6r"))
    folder.mkdir()
    PilImage.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(folder / "1.png")
    with pytest.raises(MediaError, match="its name is not UTF-8"):
        open_video(folder)
