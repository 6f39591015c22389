"""Encrypted cases: same results, no face on the disk, and one line without the right key."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from fasr_video.case import document
from fasr_video.case.case import Case
from fasr_video.case.results import features
from fasr_video.case.store import DATABASE
from fasr_video.configs import settings as configs
from fasr_video.custody.keys import write_secret
from fasr_video.encryption import VARIABLE, fingerprint, new_key, read_key
from fasr_video.errors import CaseError, IntegrityError, UsageError
from fasr_video.gallery import traces
from fasr_video.pipeline.run import run
from fasr_video.pipeline.segments import resume_gate
from fasr_video.report.write import refresh, write_report
from fasr_video.review.server import by_id
from tests.conftest import CORRIDOR_QUICK
from tests.support.checks import problems_in
from tests.support.commands import run_command
from tests.support.denoisers import NOTHING_DRAWN
from tests.support.paths import PORTRAITS


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "cases.key"
    write_secret(path, new_key())
    return path


@pytest.fixture(scope="module")
def sealed_case(key: Path, corridor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same case as `corridor_case`, stopped once and continued."""
    out = tmp_path_factory.mktemp("sealed") / "case"
    settings = configs.load("cpu", (*CORRIDOR_QUICK, "case.segment_frames=5"))

    def stop(progress: Any) -> None:
        if progress.frames == 12:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(key))
        with pytest.raises(KeyboardInterrupt):
            run([corridor], out, settings, listen=stop)
        run([corridor], out, settings)
    return out


@pytest.fixture
def sealed_copy(sealed_case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed_case, tmp_path / "case"))


@pytest.fixture
def with_key(key: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, str(key))
    yield


def plain(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """Return the decrypted pictures and vectors of a case."""
    with Case.open(folder, read_only=True) as case:
        pictures = [case.picture_bytes(name) for name in sorted(case.picture_names())]
        tracks = [r["id"] for r in case.db.execute("SELECT id FROM track ORDER BY id")]
        return pictures, [v.tobytes() for t in tracks for v in features(case, t).values()]


@pytest.mark.slow
def test_an_encrypted_case_has_the_results_of_a_plain_one(
    sealed_case: Path, corridor_case: Path, key: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expected = plain(corridor_case)
        patch.setenv(VARIABLE, str(key))
        assert plain(sealed_case) == expected
    with (
        Case.open(sealed_case, read_only=True) as sealed,
        Case.open(corridor_case, read_only=True) as case,
    ):
        assert document.as_csv(sealed, "faces").replace(".aes", ".png") == document.as_csv(
            case, "faces"
        )


def test_no_piece_of_a_picture_or_vector_is_on_the_disk(
    sealed_case: Path, corridor_case: Path
) -> None:
    pictures, vectors = plain(corridor_case)
    secrets = [p[len(p) // 2 :] for p in pictures] + vectors
    files = [p for p in sealed_case.rglob("*") if p.is_file()]
    assert traces.find_traces(files, secrets).pieces == ()
    plain_files = [p for p in corridor_case.rglob("*") if p.is_file()]
    assert len(set(traces.find_traces(plain_files, secrets).pieces)) > len(secrets), (
        "the same search finds them in a plain one"
    )
    assert not [f for f in files if f.read_bytes()[:4] == b"\x89PNG"]


def test_without_the_key_the_rest_can_be_read(
    sealed_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(capsys, "show", sealed_case)[0] == 0
    assert run_command(capsys, "export", sealed_case, "--format", "json")[0] == 0
    code, out, _ = run_command(capsys, "verify", sealed_case)
    assert code == 0 and "pictures are encrypted, and no key was given" in out


@pytest.mark.parametrize("command", [("pictures", "--out", "out"), ("verify", "--rerun", 1)])
def test_a_missing_wrong_or_broken_key_is_one_line(
    command: tuple[Any, ...],
    sealed_case: Path,
    key: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *options = command
    options = [tmp_path / "out" if o == "out" else o for o in options]
    other, broken = tmp_path / "other.key", tmp_path / "broken.key"
    write_secret(other, new_key())
    broken.write_text("fasr-video-key/1 abc")
    for more, says in (
        ([], "no key was given"),
        (["--key-file", other], f"key {fingerprint(read_key(other))} is not that of"),
        (["--key-file", broken], "not a key for cases"),
        (["--key-file", tmp_path / "gone"], "cannot be read"),
    ):
        code, _, err = run_command(capsys, name, sealed_case, *options, *more)
        assert code == 2 and says in err and err.count("\n") == 1
    assert run_command(capsys, name, sealed_case, *options, "--key-file", key)[0] == 0


def test_with_the_key_everything_is_checked_and_exported(
    sealed_case: Path,
    corridor_case: Path,
    key: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run_command(
        capsys, "verify", sealed_case, "--rerun", 2, "--key-file", key, "--json"
    )
    checks = {c["check"]: c for c in json.loads(out)["checks"]}
    assert (
        code == 0
        and checks["pictures"]["checked"] > 0
        and checks["tracks done again"]["checked"] == 2
    )
    assert (
        run_command(capsys, "pictures", sealed_case, "--out", tmp_path / "a", "--key-file", key)[0]
        == 0
    )
    assert run_command(capsys, "pictures", corridor_case, "--out", tmp_path / "b")[0] == 0
    names = sorted(p.name for p in (tmp_path / "a").glob("*.png"))
    assert names == sorted(p.name for p in (tmp_path / "b").glob("*.png"))
    for name in names:
        one, other = (np.asarray(Pictures.open(tmp_path / side / name)) for side in "ab")
        assert np.array_equal(one, other)


@pytest.mark.usefixtures("with_key")
def test_changed_or_swapped_sealed_data_is_detected(sealed_copy: Path) -> None:
    assert problems_in(sealed_copy) == []
    first, second, third = sorted((sealed_copy / "crops").glob("*/*.aes"))[:3]
    first.write_bytes(first.read_bytes()[:-1] + bytes([first.read_bytes()[-1] ^ 1]))
    shutil.copy(third, second)
    third.write_bytes(b"")
    assert sorted(problems_in(sealed_copy)) == sorted(
        f"{p} was changed" for p in (first, second, third)
    )
    with Case.open(sealed_copy) as case, case.transaction():
        case.db.execute(
            "UPDATE probe SET feature = (SELECT feature FROM probe WHERE track = 2 AND kind = "
            "probe.kind)"
        )
    with Case.open(sealed_copy) as case, pytest.raises(IntegrityError, match="it was changed"):
        features(case, 1)


def test_a_case_cannot_be_changed_to_look_unencrypted(sealed_copy: Path) -> None:
    with sqlite3.connect(sealed_copy / DATABASE) as db:
        db.execute("DELETE FROM meta WHERE key = 'encryption'")
    assert "the entry about encryption differs from the one in the log" in problems_in(sealed_copy)


def test_a_run_continues_only_with_the_cases_own_key(
    sealed_case: Path,
    corridor_case: Path,
    corridor: Path,
    key: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = configs.load("cpu", (*CORRIDOR_QUICK, "case.segment_frames=5"))
    with pytest.raises(UsageError, match="no key was given"):
        run([corridor], sealed_case, settings)
    monkeypatch.setenv(VARIABLE, str(key))
    assert run([corridor], sealed_case, settings) == (sealed_case, False)
    with pytest.raises(CaseError, match="this case has no key"):
        run([corridor], corridor_case, configs.load("cpu", CORRIDOR_QUICK))


@pytest.mark.usefixtures("with_key")
def test_the_gates_memory_of_a_frame_is_sealed(corridor: Path, tmp_path: Path) -> None:
    chosen = (
        *CORRIDOR_QUICK,
        "case.segment_frames=5",
        *NOTHING_DRAWN,
        "detect.every=8",
        "detect.gate=motion",
    )

    def stop(progress: Any) -> None:
        if progress.frames == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([corridor], tmp_path / "case", configs.load("cpu", chosen), listen=stop)
    with Case.open(tmp_path / "case") as case:
        state = json.loads(case.db.execute("SELECT tracker FROM source").fetchone()["tracker"])
        background = resume_gate(case, 1).cells
    assert (
        background is not None
        and background.shape == tuple(state["cells"])
        and background.std() > 5
    )
    assert background.tobytes()[:32] not in base64.b64decode(state["seen"])
    assert run([corridor], tmp_path / "case", configs.load("cpu", chosen))[1]


@pytest.mark.usefixtures("with_key")
def test_photographs_are_not_enrolled_into_an_encrypted_case(
    corridor: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="a gallery is never encrypted"):
        run([corridor], tmp_path / "case", configs.load("cpu"), PORTRAITS / "mugshots")
    assert not (tmp_path / "case").exists()


def test_purge_finds_plain_copies_when_it_has_the_key(
    sealed_copy: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_command(
            capsys, "pictures", sealed_copy, "T1", "--out", tmp_path / "out", "--key-file", key
        )[0]
        == 0
    )
    code, out, _ = run_command(
        capsys,
        "purge",
        sealed_copy,
        "--now",
        "--why",
        "a test",
        "--yes",
        "--key-file",
        key,
        "--json",
    )
    (tombstone,) = json.loads(out)
    assert code == 4 and tombstone["plain_pictures_searched_for"]
    assert len(tombstone["copies"]["found"]) == len(list((tmp_path / "out").glob("*.png")))


def test_the_key_option_leaves_no_key_in_the_environment(
    sealed_case: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(capsys, "verify", sealed_case, "--key-file", key)[0] == 0
    assert run_command(capsys, "pictures", sealed_case, "--out", tmp_path)[0] == 2


def test_the_report_of_an_encrypted_case_is_written_only_outside_it(
    sealed_copy: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(key))
    assert refresh(sealed_copy) is None
    with pytest.raises(UsageError, match="the case is encrypted, and a report is not"):
        write_report(sealed_copy)
    assert not (sealed_copy / "report").exists()
    assert (write_report(sealed_copy, tmp_path / "report") / "T1.html").is_file()


def test_review_asks_for_the_key_before_it_begins(
    sealed_copy: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UsageError):
        by_id([sealed_copy])
    monkeypatch.setenv(VARIABLE, str(key))
    assert list(by_id([sealed_copy]).values()) == [sealed_copy]
