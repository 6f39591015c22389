"""Bad files: whatever is in them, one clear line or a result; a share of the thousands that
benchmarks/reliability.py tries, and the tricks that chance does not find.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as PilImage

from fasr_video import cli
from fasr_video.archive.cameras import read_cameras
from fasr_video.case.case import Case
from fasr_video.checkpoint import read_state
from fasr_video.configs import settings as configs
from fasr_video.datasets.faces import read_faces
from fasr_video.errors import (
    FasrError,
    IntegrityError,
    MediaError,
    ModelError,
    UsageError,
    exhausted_resource,
)
from fasr_video.evaluation.video import read_truth
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.photos import read_listing
from fasr_video.gallery.store import DATABASE
from fasr_video.media import UNREADABLE, Sampling, open_video, read_picture
from fasr_video.pictures import MOST_PIXELS
from fasr_video.pipeline.run import FRAMES_AHEAD, _frames_ahead
from fasr_video.weights.manifest import bundled
from tests.support import cases, videos
from tests.support.paths import FIXTURES, ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "readers", ["mp4 (,pictures,weights", "manifests,settings,gallery, bytes,ledger"]
)
def test_damaged_files_are_read_or_refused_in_one_line(readers: str) -> None:
    command = [sys.executable, "-m", "tests.support.fuzz", readers, "--tries", "6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        tally = json.loads(line)
        assert tally["wrong"] == [] and tally["read"] + tally["refused"] == tally["tries"] == 6
        if "cells" not in tally["reader"]:  # another number in a cell may make sense
            assert tally["refused"], "damage that nobody notices is no damage"


@pytest.mark.parametrize("name", ["h264.mkv", "h264.mp4"])
def test_an_unknown_codec_is_refused(tmp_path: Path, name: str) -> None:
    whole = (FIXTURES / name).read_bytes()
    (tmp_path / name).write_bytes(
        whole.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ").replace(b"avc1", b"qqqq")
    )
    with pytest.raises(MediaError):
        open_video(tmp_path / name)


def _laughs() -> str:
    """Nine to the eighth values in few bytes, where one word is wanted."""
    names = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    names += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    own = (Path(configs.__file__).parent / "cpu.yaml").read_text()
    return names + own.replace("backend: builtin", "backend: *a8", 1)


TEXTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "settings that unfold without end": (_laughs(), lambda p: configs.load(str(p))),
    "settings of a thousand brackets": ("[" * 1000, lambda p: configs.load(str(p))),
    "a calibration of brackets": ("[" * 100_000, Calibration.load),
    "a calibration of 1e999": (
        bundled("calibration.json").read_text().replace(": 0.", ": 1e999", 1),
        Calibration.load,
    ),
    "a ground truth of brackets": ('{"a":' * 100_000, read_truth),
    "a field without end": (f"path,subject\n{'a' * 300_000},b\n", read_listing),
    "cameras with a zero byte": (
        "glob,camera\n\0,b\n\0",
        lambda p: read_cameras(None, p, "Mars/Olympus"),
    ),
}


@pytest.mark.parametrize("what", TEXTS)
def test_malicious_texts_are_one_short_line(what: str, tmp_path: Path) -> None:
    text, read = TEXTS[what]
    path = tmp_path / ("a.yaml" if "settings" in what else "a.csv")
    path.write_text(text)
    with pytest.raises(FasrError) as error:
        read(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_manifest_rows_that_are_not_paths_are_listed(tmp_path: Path) -> None:
    (tmp_path / "who.csv").write_text(
        f"path,subject\n\0,a\n{'x' * 5000},b\n/proc/self/mem,c\n..,d\n"
    )
    listing = read_listing(tmp_path / "who.csv")
    reasons = [p.reason.rpartition(": ")[2] for p in listing.problems]
    assert (
        reasons[0] == "not a path"
        and reasons[1].startswith("cannot be reached")
        and reasons[2] == "not a file"
    )
    assert [e.subject for e in listing.entries] == ["c"], (
        "a file of the system is looked at as a picture, and is none"
    )


def _png(width: int, height: int, rows: int) -> bytes:
    """A PNG that states this size and holds a number of black rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (1 + 3 * width)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [(12_000, 12_000), (60_000, 60_000), (0x7FFFFFFF, 0x7FFFFFFF), (1, 0x7FFFFFFF), (100, 20_000)],
)
def test_huge_pictures_are_refused_before_they_are_decoded(
    size: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(*size, 1))
    with pytest.raises(UNREADABLE):
        read_picture(tmp_path / "bomb.png")


def test_a_picture_of_a_hundred_megapixels_is_shrunk_silently(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "large.png").write_bytes(_png(10_000, 10_000, 10_000))
    height, width, _ = read_picture(tmp_path / "large.png").shape
    assert height == width and 0.99 * MOST_PIXELS < height * width <= MOST_PIXELS
    assert not list(recwarn)


def test_a_tiff_of_a_hundred_megapixels_is_read_silently(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    PilImage.new("L", (10_000, 10_000)).save(tmp_path / "large.tif", compression="tiff_lzw")
    assert read_picture(tmp_path / "large.tif").shape[2] == 3
    assert not list(recwarn)


def test_a_grey_picture_of_sixteen_bits_is_rounded(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    PilImage.fromarray(levels).save(tmp_path / "grey.png")
    assert np.array_equal(read_picture(tmp_path / "grey.png")[..., 1], (levels / 257.0).round())


def test_a_video_with_huge_frames_is_refused_before_memory_is_allocated(
    tmp_path: Path,
) -> None:
    film = videos.encode(tmp_path / "a.avi", videos.GOOD["mjpeg.avi"], 3)
    data = film.read_bytes()
    at = data.find(b"\xff\xc0")  # JPEG's own size, in each frame
    while at >= 0:
        data = data[: at + 5] + struct.pack(">HH", 65_500, 65_500) + data[at + 9 :]
        at = data.find(b"\xff\xc0", at + 2)
    film.write_bytes(data)
    with pytest.raises(MediaError):
        list(open_video(film).frames(Sampling()))


def test_a_checkpoint_whose_entry_unpacks_to_more_than_declared_is_refused(
    tmp_path: Path,
) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
        archive.writestr("../../escaped", "x")
    with pytest.raises(ModelError):
        read_state(tmp_path / "bomb.pth")
    assert not (tmp_path.parent.parent / "escaped").exists()


def test_a_safetensors_header_of_an_absurd_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(ModelError):
        read_state(tmp_path / "a.safetensors")


def test_names_in_a_tar_of_photographs_do_not_lead_out_of_it(tmp_path: Path) -> None:
    picture = io.BytesIO()
    PilImage.new("RGB", (8, 8)).save(picture, "PNG")
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for name in ("../../outside/1.png", "/absolute/1.png", "ann/1.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(picture.getvalue())
            tar.addfile(entry, io.BytesIO(picture.getvalue()))
        link = tarfile.TarInfo("ann/2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(
        UsageError, match="aligned face is square"
    ):  # each is looked at, and too small
        read_faces([tmp_path / "faces.tar"])
    assert sorted(p for p in tmp_path.rglob("*")) == before


ODD = (
    "line\nbreak",
    "'; DROP TABLE subject; --",
    "<script>alert(1)</script>",
    "../../up",
    "-rf",
    "\u202etxt.exe",
    "%s%n",
)


def test_names_of_people_and_files_are_stored_as_plain_text(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    with cases.make_gallery(tmp_path / "g", chance) as gallery:
        for number, name in enumerate(ODD):
            gallery.add(name, _photo(name, number, chance))
    with Gallery.open(tmp_path / "g", read_only=True) as gallery:
        assert {s.id for s in gallery.subjects()} >= set(ODD)
        assert all(gallery.images(name)[0].path == f"{name}.jpg" for name in ODD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]


def _photo(name: str, number: int, chance: np.random.Generator) -> cases.EnrolledPhoto:
    return cases.EnrolledPhoto(
        f"{number:064x}", f"{name}.jpg", cases.unit_vector(chance), 20.0, 50.0, 0.9, None
    )


def test_a_line_break_in_a_file_name_still_gives_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a\nTraceback b.mp4").write_text("no film")
    monkeypatch.setattr(sys, "argv", ["fasr-video", "run", str(tmp_path / "a\nTraceback b.mp4")])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.count("\n") == 1


CHANGES = {
    "a JSON that is none": "UPDATE source SET info = '{'",
    "another kind of value": "UPDATE restoration SET samples = '7'",
    "a log without what it should tell": (
        "UPDATE log SET details = '{}' WHERE event = 'source done'"
    ),
    "a text where a number belongs": "UPDATE face SET pts = 'soon'",
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_case_with_impossible_values_is_reported_as_damaged(what: str, copied_case: Path) -> None:
    with Case.open(copied_case) as case:
        case.db.execute(CHANGES[what])
    with pytest.raises(IntegrityError, match="damaged"), Case.open(copied_case, read_only=True):
        pass


def test_an_error_without_damage_is_raised_unchanged(copied_case: Path) -> None:
    with pytest.raises(KeyError), Case.open(copied_case, read_only=True):
        raise KeyError("of ours")


def test_a_gallery_with_impossible_values_is_reported_as_damaged(tmp_path: Path) -> None:
    with cases.make_gallery(tmp_path / "g", np.random.default_rng(0)) as gallery:
        gallery._db.execute("UPDATE template SET vector = x'00'")
    with pytest.raises(IntegrityError), Gallery.open(tmp_path / "g", read_only=True) as gallery:
        gallery.features_of([cases.LEAD])
    shutil.copy(tmp_path / "g" / DATABASE, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size > 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory",
        ),
        (RuntimeError("CUDA error: unspecified launch failure"), "the GPU was lost"),
        (RuntimeError("size mismatch"), None),
    ],
)
def test_exhausted_resources_are_told_apart_from_bugs(error: Exception, reason: str | None) -> None:
    assert exhausted_resource(error) == reason


def test_a_film_larger_than_8k_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "large.avi"), "w") as film:
        stream = film.add_stream("mjpeg", rate=1, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 8208, 4400, "yuvj420p"
        for packet in (*stream.encode(av.VideoFrame(8208, 4400, "yuvj420p")), *stream.encode()):
            film.mux(packet)
    with pytest.raises(MediaError, match="no frame in it could be decoded"):
        open_video(tmp_path / "large.avi")


def test_a_still_frame_larger_than_8k_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(_png(8208, 4400, 4400))
    with pytest.raises(MediaError, match="none of its pictures can be read"):
        open_video(tmp_path)


def test_only_few_large_frames_are_held_in_memory(corridor: Path) -> None:
    info = open_video(corridor).info
    waiting = [
        _frames_ahead(replace(info, width=w, height=h))
        for w, h in ((640, 480), (3840, 2160), (8192, 4320))
    ]
    assert waiting == [FRAMES_AHEAD, FRAMES_AHEAD, 2]
