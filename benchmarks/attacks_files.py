"""Attacks by files, names, pictures, models, connections and sizes; `attacks.py` makes the page.

    python benchmarks/attacks_files.py [--only WORDS]

Prints the result of each attack in a line. Commands run in this process, each with a time limit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import io
import json
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from footage import REPO
from PIL import Image as PilImage

sys.path.insert(0, str(REPO))
from fasr_video import cli
from fasr_video.case.case import Case
from fasr_video.case.store import chain_hash
from fasr_video.datasets.faces import read_faces
from fasr_video.detection import open_detector
from fasr_video.errors import FasrError
from fasr_video.gallery import index
from fasr_video.gallery.enrol import enrol
from fasr_video.gallery.gallery import Gallery
from fasr_video.media import Sampling, open_video
from fasr_video.recognition.embedders import open_embedder
from tests.support.cases import make_synthetic_case
from tests.support.paths import PORTRAITS
from tests.support.reviewed import make_case

# Seconds that a command may take.
TIME_LIMIT = 30
MIB = 1 << 20
GRACE = PORTRAITS / "mugshots" / "grace_hopper.jpg"


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    expected: str
    attempt: Callable[[Path], str]
    """Attacks in an empty folder, and returns what happened."""
    before: str = "not tried"
    """Its result on commit 9badc4b."""


class TimeLimitError(BaseException):
    """A command took too long; no attacked code catches this."""


def run_command(*arguments: object, time_limit: int = TIME_LIMIT) -> tuple[str, str]:
    """Run the command line in this process; return how it ended, and its output."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeLimitError

    output, argv = io.StringIO(), sys.argv
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(time_limit)
    try:
        sys.argv = ["fasr-video", *map(str, arguments)]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            cli.main()
    except SystemExit as ended:
        return f"`{arguments[0]}` ends with {ended.code}", output.getvalue()
    except TimeLimitError:
        return f"`{arguments[0]}` hangs ({time_limit} s)", output.getvalue()
    except Exception as error:
        return f"`{arguments[0]}` ends with a traceback ({type(error).__name__})", output.getvalue()
    finally:
        signal.alarm(0)
        sys.argv = argv
    return f"`{arguments[0]}` ends with 0", output.getvalue()


def execute_sql(case: Path, statement: str, *values: object) -> None:
    with Case.open(case) as opened:
        opened.db.execute("PRAGMA foreign_keys = OFF")
        opened.db.execute(statement, values)


# Pipes and devices.


def make_pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def pipe_as_footage(folder: Path) -> str:
    case = make_case(folder / "case")
    execute_sql(
        case, "UPDATE source SET path = ? WHERE id = 1", str(make_pipe(folder / "door.mp4"))
    )
    return run_command("verify", case)[0]


def device_as_footage(folder: Path) -> str:
    case = make_case(folder / "case")
    execute_sql(case, "UPDATE source SET path = '/dev/zero' WHERE id = 1")
    return run_command("verify", case)[0]


def pipe_as_settings(folder: Path) -> str:
    case = make_case(folder / "case")
    make_pipe(case / "settings.yaml")
    return run_command("verify", case)[0]


def pipe_as_stamp(folder: Path) -> str:
    case = make_case(folder / "case")
    make_pipe(case / "gallery" / "vectors.json")
    return run_command("verify", case)[0]


# Names and paths.


def path_as_number(folder: Path) -> str:
    case, mine = make_synthetic_case(folder / "case", tracks=2), folder / "mine.html"
    mine.write_text("mine")
    (case / "report" / "T").mkdir(parents=True)
    (case / "report" / "SHA256SUMS").touch()
    execute_sql(case, "UPDATE track SET number = '/../../../mine' WHERE id = 1")
    ending, _ = run_command("report", case)
    return (
        f"{ending}, a file of the user is "
        f"{'as it was' if mine.read_text() == 'mine' else 'overwritten'}"
    )


class ConstantEmbedder:
    """An embedder that gives every face the same feature, at no cost."""

    name, sha256, length, device = "toy", "ab", 4, torch.device("cpu")

    def embed(
        self, faces: torch.Tensor, landmarks: object = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.eye(4)[:1].repeat(len(faces), 1), torch.ones(len(faces))


def name_of_other_bytes(folder: Path) -> str:
    (folder / "photos").mkdir()
    shutil.copy(GRACE, folder / "photos" / "grace.jpg")
    shutil.copy(os.fsencode(GRACE), os.fsencode(folder) + b"/photos/h\xf6lder.jpg")
    return enrol_photos(folder)


def long_id(folder: Path) -> str:
    (folder / "photos").mkdir()
    shutil.copy(GRACE, folder / "photos" / "grace.jpg")
    (folder / "photos" / "list.csv").write_text(f"path,subject\ngrace.jpg,{'g' * 5000}\n")
    return enrol_photos(folder, "list.csv")


def enrol_photos(folder: Path, listing: str = "") -> str:
    embedder, detector = (
        ConstantEmbedder(),
        open_detector("haar", weights=None, device="cpu", min_score=0.5),
    )
    with Gallery.create(
        folder / "gallery", embedder.name, embedder.sha256, embedder.length
    ) as gallery:
        try:
            photos = folder / "photos" / listing
            report = enrol(gallery, photos, detector, embedder)  # type: ignore[arg-type]
        except Exception as error:
            return f"nobody is enrolled ({type(error).__name__})"
    return f"{report.added} enrolled, {len(report.problems)} listed as problems"


def files_to_train_on(folder: Path) -> str:
    (folder / "anna").mkdir()
    face = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    PilImage.fromarray(face).save(folder / "anna" / "1.png")
    (folder / "anna" / "1.raw").write_bytes(b"of a camera")
    (folder / "elsewhere").symlink_to(folder.parent)
    make_pipe(folder / "anna" / "2.png")
    faces, left_out = read_faces([folder])
    return f"of 4 {len(faces)} is read, {len(left_out)} are left out with a reason"


def pictures_of_all_kinds(folder: Path) -> str:
    grey = PilImage.fromarray(np.full((48, 64, 3), 90, np.uint8))
    kinds = {"png": "PNG", "avif": "AVIF", "gif": "GIF", "jfif": "JPEG", "jp2": "JPEG2000"}
    for ending, kind in kinds.items():
        grey.save(folder / f"1.{ending}", kind)
    (folder / "1.heic").write_bytes(b"\0\0\0\x18ftypheic")
    reader = open_video(folder)
    read = sum(1 for _ in reader.frames(Sampling()))
    lost = sum(getattr(reader.losses, kind) for kind in reader.losses.__slots__)
    return f"of {len(kinds) + 1} pictures {read} are read, {lost} counted as lost"


# Pictures.


def bomb_as_a_crop(folder: Path) -> str:
    side = 16_000
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(side)) + packer.flush()
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    png = b"\x89PNG\r\n\x1a\n" + body
    name, case = hashlib.sha256(png).hexdigest(), make_synthetic_case(folder / "case", tracks=2)
    with Case.open(case) as opened:
        opened.picture_path(name).parent.mkdir(exist_ok=True)
        opened.picture_path(name).write_bytes(png)
    execute_sql(case, "UPDATE face SET aligned = ?, native = ? WHERE id = 1", name, name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ending, _ = run_command("report", case, time_limit=600)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{ending}; {mib:.0f} MiB for a file of {len(png) / 1024:.0f} KiB"


# Models.


def weights_in_another_file(folder: Path) -> str:
    import onnx

    from tests.support.embedder_files import arcface_graph

    path = arcface_graph(folder / "a.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    try:
        first = open_embedder("insightface", path, "cpu").sha256
        weights = bytearray((folder / "weights.bin").read_bytes())
        weights[: len(weights) // 2] = bytes(len(weights) // 2)
        (folder / "weights.bin").write_bytes(weights)
        second = open_embedder("insightface", path, "cpu").sha256
    except FasrError as error:
        return f"refused: {error.reason}"
    return (
        f"other weights are used under {'the same' if first == second else 'another'} fingerprint"
    )


# The server.


@contextmanager
def running_server(case: Path) -> Iterator[tuple[int, str]]:
    """Yield port and token of a server that runs until this process ends."""
    from fasr_video.review import serve

    lines: list[str] = []
    threading.Thread(target=serve, args=([case], 0, lines.append), daemon=True).start()
    while not lines:
        time.sleep(0.05)
    address, _, token = lines[0].partition("/?token=")
    yield int(address.rpartition(":")[2]), token


def large_body(folder: Path) -> str:
    with (
        running_server(make_case(folder / "case")) as (port, _),
        socket.create_connection(("127.0.0.1", port), 60) as connection,
    ):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 314572800\r\n\r\n")
        sent = 0
        with suppress(OSError):
            while sent < 64 * MIB:
                connection.sendall(bytes(65536))
                sent += 65536
        time.sleep(1)
        sizes = [f.stat().st_size for f in Path("/proc/self/fd").iterdir() if is_removed_file(f)]
    answer = f"the first {sent >> 20} MiB were taken" if sent >= 64 * MIB else "refused"
    return f"{answer}, {sum(sizes) >> 20} MiB lie in a temporary file"


def is_removed_file(handle: Path) -> bool:
    try:
        return handle.readlink().name.endswith("(deleted)") and handle.stat().st_size > 0
    except OSError:
        return False


def idle_connections(folder: Path) -> str:
    with running_server(make_case(folder / "case")) as (port, token):
        idle = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(300)]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)
        try:
            client.request("GET", f"/?token={token}")
            return f"a reviewer is answered with {client.getresponse().status}"
        except OSError:
            return f"a reviewer is not answered ({TIME_LIMIT} s)"
        finally:
            for connection in idle:
                connection.close()
            client.close()


_TEMPORARY_FILES: list[str] = []


def _record_temporary_file(event: str, arguments: Any) -> None:
    if (
        event == "open"
        and isinstance(arguments[2], int)
        and arguments[2] & os.O_TMPFILE == os.O_TMPFILE
    ):
        _TEMPORARY_FILES.append(str(arguments[0]))


sys.addaudithook(_record_temporary_file)


def large_picture(folder: Path) -> str:
    case = make_case(folder / "case")
    with Case.open(case) as opened:
        name = opened.write_picture(
            np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
        )
        number = opened.meta("case_id")
    with running_server(case) as (port, token):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", f"/?token={token}")
        first_answer = client.getresponse()
        first_answer.read()
        cookie = (first_answer.getheader("Set-Cookie") or "").partition(";")[0]
        _TEMPORARY_FILES.clear()
        client.request("GET", f"/case/{number}/picture/{name}.png", headers={"Cookie": cookie})
        answer = client.getresponse()
        answer.read()
    return f"answered with {answer.status}, through {len(_TEMPORARY_FILES)} temporary files"


def one_of_many_photographs(folder: Path) -> str:
    from fasr_video.review.photographs import photograph_png

    case, count = make_case(folder / "case"), 50_000
    with Gallery.open(case / "gallery") as gallery, gallery.transaction():
        row = "INSERT INTO image SELECT NULL, 'anna', ?, 'p', '', '', 1, 1, 1, NULL, '', NULL, NULL"
        gallery._db.executemany(row, [(f"{n:064x}",) for n in range(10, count)])
    with Case.open(case, read_only=True) as opened:
        photograph_png(opened, f"{0:064x}")  # the first call checks all values of the gallery
        start = time.process_time()
        photograph_png(opened, f"{1:064x}")
        return (
            f"{1000 * (time.process_time() - start):.0f} ms of the processor, of {count} "
            "photographs"
        )


# The index.


def index_without_a_person(folder: Path) -> str:
    import faiss

    with Gallery.open(make_case(folder / "case") / "gallery") as gallery:
        index.Index.open(gallery)
        stored = gallery.vectors()
        smaller = faiss.IndexIDMap2(faiss.IndexFlatIP(gallery.length))
        smaller.add_with_ids(np.ascontiguousarray(stored.features[1:]), stored.ids[1:])
        faiss.write_index(smaller, str(gallery.folder / index.INDEX_FILE))
        digest = hashlib.sha256((gallery.folder / index.INDEX_FILE).read_bytes()).hexdigest()
        stamp = asdict(index.index_facts(gallery)) | {
            "kind": index.FLAT,
            "measured": [],
            "sha256": digest,
        }
        (gallery.folder / index.INDEX_STAMP).write_text(json.dumps(stamp))
        _, ids = index.Index.open(gallery).search(stored.features[:1], 1)
    return f"the person is {'found' if ids[0, 0] == stored.ids[0] else 'not found'}"


# The log.


def line_of_long_ago(folder: Path) -> str:
    case = make_case(folder / "case")
    with Case.open(case) as opened:
        previous = opened.meta("log_head")
        at, text = "2020-01-01T00:00:00.000+00:00", '{"by": "Anna"}'
        digest = chain_hash(previous, at, "exported", text)
        row = (at, "exported", text, previous, digest)
        opened.db.execute(
            "INSERT INTO log (at, event, details, previous, hash) VALUES (?, ?, ?, ?, ?)", row
        )
        opened.set_meta("log_head", digest)
    ending, output = run_command("verify", case)
    return f"{ending}, and {'names the line' if at in output else 'says nothing of it'}"


ATTACKS = [
    Attack(
        "a pipe in place of footage",
        "`verify` ends with 4",
        pipe_as_footage,
        "`verify` hangs (30 s)",
    ),
    Attack(
        "a device without end in place of footage",
        "`verify` ends with 4",
        device_as_footage,
        "`verify` hangs (30 s)",
    ),
    Attack(
        "a pipe in place of settings.yaml",
        "`verify` ends with 4",
        pipe_as_settings,
        "`verify` hangs (30 s)",
    ),
    Attack(
        "a pipe in place of an index's stamp",
        "`verify` ends with 0",
        pipe_as_stamp,
        "`verify` hangs (30 s)",
    ),
    Attack(
        "a path in place of a track's number",
        "`report` ends with 4, a file of the user is as it was",
        path_as_number,
        "`report` ends with 0, a file of the user is overwritten",
    ),
    Attack(
        "a PNG of 16,000×16,000 px in place of a crop",
        "`report` ends with 4, less than 100 MiB",
        bomb_as_a_crop,
        "`report` ends with 0; 2687 MiB for a file of 729 KiB",
    ),
    Attack(
        "a photograph whose name is no UTF-8",
        "1 enrolled, 1 listed as problems",
        name_of_other_bytes,
        "nobody is enrolled (UnicodeEncodeError)",
    ),
    Attack(
        "PNG, AVIF, GIF, JFIF, JPEG 2000 and a broken HEIC in one folder",
        "of 6 pictures 5 are read, 1 counted as lost",
        pictures_of_all_kinds,
        "of 6 pictures 1 are read, 0 counted as lost",
    ),
    Attack(
        "a picture, a raw file, a pipe and a link among faces to train on",
        "of 4 1 is read, 3 are left out with a reason",
        files_to_train_on,
        "of 4 1 is read, 0 are left out with a reason",
    ),
    Attack(
        "an ONNX file whose weights lie in another file, which is then changed",
        "refused",
        weights_in_another_file,
        "other weights are used under the same fingerprint",
    ),
    Attack(
        "a body of 300 MB from somebody without the key",
        "refused, 0 MiB lie in a temporary file",
        large_body,
        "the first 64 MiB were taken, 64 MiB lie in a temporary file",
    ),
    Attack(
        "300 idle connections",
        "a reviewer is answered with 302",
        idle_connections,
        "a reviewer is not answered (30 s)",
    ),
    Attack(
        "a picture of 2 MiB is looked at",
        "answered with 200, through 0 temporary files",
        large_picture,
        "answered with 200, through 1 temporary files",
    ),
    Attack(
        "another photograph of a large gallery is looked at",
        "a few ms",
        one_of_many_photographs,
        "176 ms of the processor, of 50000 photographs",
    ),
    Attack(
        "an index without a person, with a stamp that fits",
        "the person is found",
        index_without_a_person,
        "the person is not found",
    ),
    Attack(
        "a subject's id of 5,000 characters",
        "0 enrolled, 1 listed as problems",
        long_id,
        "1 enrolled, 0 listed as problems",
    ),
    Attack(
        "a line of 2020 at the end of the log, with its hash",
        "`verify` ends with 0, and names the line",
        line_of_long_ago,
        "`verify` ends with 0, and says nothing of it",
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="attacks with these words in their names")
    args = parser.parse_args()
    for attack in (a for a in ATTACKS if args.only in a.name):
        with tempfile.TemporaryDirectory() as folder:
            result = attack.attempt(Path(folder))
        print(
            json.dumps({"name": attack.name, "expected": attack.expected, "result": result}),
            flush=True,
        )


if __name__ == "__main__":
    main()
