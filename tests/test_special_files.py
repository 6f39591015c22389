"""Pipes and devices in place of files: they are named at once, and neither waited for nor read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fasr_video.case.case import Case
from fasr_video.case.store import SETTINGS, TOMBSTONE
from fasr_video.case.verify import SUMS, verify
from fasr_video.custody.purge import retained_cases
from fasr_video.errors import InputError, IntegrityError
from fasr_video.files import MAX_READ_BYTES, open_regular, read_file, sha256_file
from fasr_video.gallery import index
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.inspect import check as check_gallery
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.sqlite import check_side_files
from tests.support.reviewed import make_case

pytestmark = pytest.mark.timeout(60)  # each of these was waited for without an end


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return make_case(tmp_path / "case")


def pipe(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def checks(case: Path) -> dict[str, str]:
    """All that `verify` says, by check."""
    with Case.open(case, read_only=True) as opened:
        return {c.what: " ".join((*c.problems, *c.unchecked, *c.notes)) for c in verify(opened)}


@pytest.mark.parametrize("reader", [open_regular, read_file, sha256_file])
@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder"])
def test_only_regular_files_are_opened(
    what: str, reader: Callable[[Path], object], tmp_path: Path
) -> None:
    paths = {"a pipe": tmp_path / "pipe", "a device": Path("/dev/zero"), "a folder": tmp_path}
    if what == "a pipe":
        pipe(paths[what])
    with pytest.raises(OSError, match="not a regular file"):
        reader(paths[what])


@pytest.mark.parametrize("device", [True, False])
def test_verify_does_not_wait_for_footage_that_is_a_pipe_or_a_device(
    device: bool, case: Path, tmp_path: Path
) -> None:
    footage = Path("/dev/zero") if device else pipe(tmp_path / "door.mp4")
    with Case.open(case) as opened:
        opened.db.execute("UPDATE source SET path = ? WHERE id = 1", (str(footage),))
    assert f"{footage} cannot be read (not a regular file)" in checks(case)["sources"]


def test_verify_does_not_wait_for_settings_that_are_a_pipe(case: Path) -> None:
    pipe(case / SETTINGS)
    assert "differs from the settings in the database" in checks(case)["settings"]


def test_verify_does_not_wait_for_a_report_that_is_a_pipe(case: Path) -> None:
    pipe(case / "report" / "report.json")
    assert "report.json names no head of the log" in checks(case)["noted log heads"]


def test_a_gallery_whose_stamp_is_a_pipe_is_still_searched(case: Path) -> None:
    pipe(case / "gallery" / index.INDEX_STAMP)
    with Gallery.open(case / "gallery", read_only=True) as gallery:
        (note,) = check_gallery(gallery)[-1].notes
        assert "stamp" in note
        assert len(index.Index.open(gallery)) == gallery.count()


def test_a_calibration_or_a_picture_that_is_a_pipe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a regular file"):
        Calibration.load(pipe(tmp_path / "calibration.json"))
    with pytest.raises(UNREADABLE, match="not a regular file"):
        read_picture(pipe(tmp_path / "face.png"))


def test_a_report_with_a_pipe_for_its_list_is_no_report(case: Path) -> None:
    pipe(case / "report" / SUMS)
    assert checks(case)["report"] == ""


@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("reading", [True, False])
def test_only_regular_files_are_accepted_beside_a_database(
    reading: bool, end: str, case: Path
) -> None:
    pipe(case / f"case.sqlite{end}")
    with pytest.raises(IntegrityError, match="not a regular file"):
        Case.open(case, read_only=reading)
    pipe(case / "gallery" / f"gallery.sqlite{end}")
    with pytest.raises(IntegrityError, match="not a regular file"):
        Gallery.open(case / "gallery", read_only=reading)


def test_a_tombstone_that_is_a_pipe_is_not_waited_for(case: Path) -> None:
    pipe(case / TOMBSTONE)
    (due,) = retained_cases([case])
    assert "a damaged tombstone" in due.problem


def test_a_file_that_claims_more_than_any_of_ours_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(MAX_READ_BYTES + 1)
    with pytest.raises(OSError, match="larger than 1024 MiB"):
        read_file(tmp_path / "holes")


def test_a_log_that_disappears_while_it_is_opened_counts_as_missing(tmp_path: Path) -> None:
    """Whoever closes a database last removes what lies beside it, at any moment."""
    database, ended = tmp_path / "case.sqlite", threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for end in ("-journal", "-wal"):
                database.with_name(database.name + end).touch()
                database.with_name(database.name + end).unlink()

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        for _ in range(5_000):
            check_side_files(database)
    finally:
        ended.set()
        writer.join()
