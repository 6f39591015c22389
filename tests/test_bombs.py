"""Small files that hold enormous pictures: their size is looked at before a pixel of them is
decoded.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

import fasr_video
from fasr_video.case.case import Case
from fasr_video.case.verify import verify
from fasr_video.datasets.faces import read_faces
from fasr_video.errors import IntegrityError, UsageError
from fasr_video.gallery.gallery import Gallery
from fasr_video.media import read_picture
from fasr_video.pictures import FORMATS, UNREADABLE, decoded
from fasr_video.report.write import write_report
from tests.support.reviewed import make_case

SIDE = 16_000


def make_bomb(side: int = SIDE) -> bytes:
    """A whole RGB picture of side × side px, all black: some hundred kilobytes."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


BOMB = make_bomb()


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """One whose first track is shown by the bomb."""
    folder = make_case(tmp_path / "case")
    name = hashlib.sha256(BOMB).hexdigest()
    with Case.open(folder) as opened:
        path = opened.picture_path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(BOMB)
        opened.db.execute("UPDATE face SET aligned = ?, native = ? WHERE id = 100", (name, name))
        opened.db.execute(
            """
            UPDATE encoding
            SET models = '{"pooled_by": "mean", "restorer": null, "embedder": "e"}'
            """
        )
    return folder


def read(case: Path) -> object:
    with Case.open(case, read_only=True) as opened:
        return opened.read_picture(hashlib.sha256(BOMB).hexdigest())


@pytest.mark.parametrize("use", [read, write_report])
def test_a_bomb_among_the_pictures_of_a_case_is_an_error_and_costs_nothing(
    use: Callable[[Path], object], case: Path
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(
            IntegrityError, match=f"not a picture of a case .{SIDE}×{SIDE} px are more than"
        ):
            use(case)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_verify_names_a_bomb(case: Path) -> None:
    with Case.open(case, read_only=True) as opened:
        problems = {c.what: c.problems for c in verify(opened)}
    assert [p for p in problems["pictures"] if p.endswith(".png was changed")]


def test_a_bomb_in_a_gallery_is_an_error(case: Path) -> None:
    with Gallery.open(case / "gallery") as gallery:
        digest = hashlib.sha256(BOMB).digest()
        with gallery.transaction():
            gallery._db.execute("UPDATE image SET picture = ?, picture_sha256 = ?", (BOMB, digest))
        with pytest.raises(IntegrityError, match=f"{SIDE}×{SIDE} px are more than"):
            gallery.face(gallery.images()[0])


def test_a_bomb_among_faces_to_train_on_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "1.png").write_bytes(BOMB)
    with pytest.raises(UsageError, match="not a readable picture"):
        read_faces([tmp_path])


def test_formats_whose_head_may_lie_are_not_read(tmp_path: Path) -> None:
    """An icon's head tells the size of an entry, not that of the picture in it."""
    PilImage.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.ico")
    (tmp_path / "a.ico").rename(tmp_path / "a.png")
    with pytest.raises(UNREADABLE):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_is_read_is_decoded(kind: str) -> None:
    grey = np.full((64, 48, 3), 90, np.uint8)
    file = io.BytesIO()
    PilImage.fromarray(grey).save(file, kind)
    assert np.abs(decoded(file.getvalue()).astype(int) - grey).max() <= 3


def test_only_the_module_that_checks_the_size_opens_pictures() -> None:
    root = Path(fasr_video.__file__).parent
    opens = re.compile(r"\b(PilImage|Pictures|Image)\.open\(|cv2\.im(read|decode)\(")
    found = {
        p.relative_to(root).as_posix() for p in root.rglob("*.py") if opens.search(p.read_text())
    }
    assert found == {"pictures.py"}
