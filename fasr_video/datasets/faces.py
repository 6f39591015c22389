"""Aligned faces with identities, read from folders or tar shards into one uint8 tensor."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from fasr_video.csv_file import read_csv
from fasr_video.errors import InputError, UsageError
from fasr_video.files import MAX_READ_BYTES, PICTURES, is_utf8, read_file, readable_name
from fasr_video.pictures import UNREADABLE, decoded
from fasr_video.sr.degradation import enlarge, shrink

# Largest side in pixels of an aligned face with its rim; of a larger picture, training would see
# parts at random.
LARGEST_SIDE = 160
CELEBA = (218, 178)
# Rows and columns of CelebA's pictures; the middle 128×128 of them is the canonical frame.
CELEBA_FACE = (slice(42, 186), slice(17, 161))


@dataclass(frozen=True, slots=True)
class Faces:
    """N aligned faces; `paths` are IDENTITY/PHOTO, as in the tar or below the folder."""

    pictures: Tensor
    """N×3×S×S uint8 RGB: the canonical frame, perhaps with a rim around it."""
    paths: tuple[str, ...]
    given: tuple[str, ...] | None = None
    """The person in each picture; None where the folders name them."""

    @property
    def identities(self) -> list[str]:
        if self.given is not None:
            return list(self.given)
        return [identity_of(p) for p in self.paths]

    @property
    def people(self) -> dict[str, list[int]]:
        """The rows of each person, by identity."""
        rows: dict[str, list[int]] = {}
        for i, identity in enumerate(self.identities):
            rows.setdefault(identity, []).append(i)
        return rows

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a folder or a tar file."""

    name: str
    """IDENTITY/PHOTO."""
    data: bytes = b""
    problem: str = ""
    """Why it was not read."""


def identity_of(path: str) -> str:
    """Return the name of the photo's folder; a photo without a folder is a person of its own."""
    parts = PurePosixPath(path).parts
    return parts[-2] if len(parts) > 1 else PurePosixPath(path).stem


def plain_name(path: str) -> str:
    """Return a photograph's path without its ending and parts that lead out of a folder."""
    parts = PurePosixPath(path).with_suffix("").parts
    return "/".join(part for part in parts if part not in ("/", ".."))


def read_faces(sources: Sequence[Path], side: int = 128) -> tuple[Faces, list[str]]:
    """Return all faces of the folders and tar files, and why each of the other files was left out.

    The first readable picture sets the size; it must be square and at least `side`. CelebA's own
    aligned pictures are cropped to the canonical frame and a rim.
    """
    pictures: list[np.ndarray] = []
    paths: list[str] = []
    left_out: list[str] = []
    for member in members(sources):
        name = member.name
        if member.problem:
            left_out.append(f"{name}: {member.problem}")
            continue
        try:
            array = decoded(member.data)
        except UNREADABLE:
            left_out.append(f"{name}: not a readable picture")
            continue
        if array.shape[:2] == CELEBA:
            array = array[CELEBA_FACE]
        height, width = array.shape[:2]
        if height != width or height < side:
            left_out.append(
                f"{name}: {width}×{height}, but an aligned face is square and at least {side} px"
            )
        elif height > LARGEST_SIDE:
            left_out.append(
                f"{name}: {width}×{height}, but an aligned face with its rim has at most "
                f"{LARGEST_SIDE} px: run `train align` first"
            )
        elif pictures and array.shape != pictures[0].shape:
            left_out.append(
                f"{name}: {width}×{height}, but the first face was {pictures[0].shape[0]} px"
            )
        else:
            pictures.append(array)
            paths.append(name)
    _check_paths(sources, paths, left_out)
    block = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Faces(block, tuple(paths)), left_out


def _check_paths(sources: Sequence[Path], paths: Sequence[str], left_out: Sequence[str]) -> None:
    """Raise where no face was read, or two have the same path."""
    names = ", ".join(map(str, sources))
    if not paths:
        problem = left_out[0] if left_out else f"no picture ({', '.join(sorted(PICTURES))}) in it"
        raise UsageError(names, f"no aligned face in it ({problem})", "give folders or tar shards")
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        reason = f"{repeated[0]} is in it more than once: two people would become one"
        raise UsageError(names, reason, "give sources whose IDENTITY/PHOTO paths differ")


def name_people(faces: Faces, identities: str) -> Faces:
    """Return the faces with their people named as `identities` says.

    That is "folders" (each folder is a person), "none" (each picture is a person of its own, as in
    FFHQ, whose folders are not people), or a CSV file with the columns path and identity.
    """
    if identities == "folders":
        return faces
    if identities == "none":
        return replace(faces, given=faces.paths)
    rows = csv_rows_of(Path(identities), faces, ("identity",))
    unnamed = [row["path"] for row in rows if not row["identity"]]
    if unnamed:
        raise InputError(Path(identities), f"{unnamed[0]} has no identity", "name the person")
    return replace(faces, given=tuple(row["identity"] for row in rows))


def members(sources: Sequence[Path]) -> Iterator[Member]:
    """Yield all files of folders and tar files, and the subfolders that cannot be read."""
    for source in sources:
        yield from _folder_members(source) if source.is_dir() else _tar_members(source)


def _folder_members(source: Path) -> Iterator[Member]:
    errors: list[OSError] = []
    paths: list[Path] = []
    for folder, below, names in os.walk(source, onerror=errors.append):
        links = [name for name in below if Path(folder, name).is_symlink()]
        paths += [Path(folder, name) for name in (*names, *links)]
    for error in errors:
        name = readable_name(Path(error.filename).relative_to(source).as_posix())
        yield Member(name, problem=f"a folder that cannot be read ({error.strerror})")
    for path in sorted(paths):
        name = path.relative_to(source).as_posix()
        problem = "a link to a folder, which is not followed" if path.is_dir() else _unwanted(name)
        try:
            yield Member(readable_name(name), b"" if problem else read_file(path), problem)
        except OSError as error:
            yield Member(readable_name(name), problem=f"cannot be read ({error.strerror})")


def _tar_members(source: Path) -> Iterator[Member]:
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                problem = _unwanted(member.name)
                if not member.isfile():
                    problem = "not a file: links are not followed"
                elif member.size > MAX_READ_BYTES:
                    problem = f"cannot be read (larger than {MAX_READ_BYTES >> 20} MiB)"
                file = None if problem else tar.extractfile(member)
                if not member.isdir():
                    yield Member(
                        readable_name(member.name), b"" if file is None else file.read(), problem
                    )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            source, f"not a readable folder or tar file ({error})", "check the path, copy it again"
        ) from error


def _unwanted(name: str) -> str:
    """Return why a file of this name is not read; empty if it is."""
    if not is_utf8(name):
        return "its name is not UTF-8: rename it"
    ending = PurePosixPath(name).suffix
    if ending.lower() in PICTURES:
        return ""
    return f"its name does not end as a picture's does ({ending or 'no ending'})"


def rows_of(file: Path, faces: Faces, names: Sequence[str]) -> dict[str, Tensor]:
    """Return arrays of an .npz file in the order of `faces`, by its array `path`."""
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ("path", *names)}
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = f"not an .npz file with the arrays {', '.join(('path', *names))} ({error})"
        raise InputError(file, reason, "make it from the same faces") from error
    if any(
        len(a) != len(arrays["path"]) or a.dtype.kind != "f" or not np.isfinite(a).all()
        for a in (arrays[n] for n in names)
    ):
        raise InputError(
            file,
            f"{', '.join(names)}: not one row of finite numbers for each path",
            "make it again",
        )
    row = {path: i for i, path in enumerate(arrays["path"].tolist())}
    order = [row[path] for path in _all_known(file, faces, row, "make it from the same faces")]
    return {name: torch.from_numpy(np.asarray(arrays[name], np.float32)[order]) for name in names}


def csv_rows_of(file: Path, faces: Faces, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the row of a CSV file with these columns for each face, found by its `path`."""
    remedy = f"give a CSV file with the columns path, {', '.join(names)}"
    rows = {row["path"]: row for row in read_csv(file, ("path", *names), remedy).rows.values()}
    return [rows[path] for path in _all_known(file, faces, rows, remedy)]


def _all_known(file: Path, faces: Faces, rows: Collection[str], remedy: str) -> tuple[str, ...]:
    """Return the paths of the faces; raise InputError if one has no row."""
    missing = [path for path in faces.paths if path not in rows]
    if missing:
        reason = (
            f"it has no row for {len(missing)} of {len(faces)} faces ({missing[0]} is the first)"
        )
        raise InputError(file, reason, remedy)
    return faces.paths


def views(pictures: Tensor, side: int, jitter: bool, generator: torch.Generator) -> Tensor:
    """Return uint8 faces as N×3×side×side in [0, 1].

    Without `jitter` this is their middle; with it, they move by up to the rim and are mirrored at
    random.
    """
    rim = pictures.shape[-1] - side
    if not jitter:
        low = rim // 2
        return pictures[..., low : low + side, low : low + side].float() / 255
    return cut(pictures, side, *draw_moves(len(pictures), rim, generator))


def draw_moves(n: int, rim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random moves of n faces, and which are mirrored (n×1).

    Moves (2×n×1) are the rows and columns to skip, up to the rim.
    """
    moves = torch.randint(0, rim + 1, (2, n, 1), generator=generator, device=generator.device)
    return moves, torch.rand(n, 1, generator=generator, device=generator.device) < 0.5


def cut(pictures: Tensor, side: int, moves: Tensor, mirrored: Tensor) -> Tensor:
    """Return uint8 faces as N×3×side×side in [0, 1], moved and mirrored."""
    n, device = len(pictures), pictures.device
    line = torch.arange(side, device=device)
    rows, columns = moves[0] + line, moves[1] + torch.where(mirrored, side - 1 - line, line)
    item = torch.arange(n, device=device)[:, None, None]
    taken = pictures.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).float() / 255


def degrade(x: Tensor, generator: torch.Generator, groups: int = 4) -> Tensor:
    """Return faces shrunk to 12-32 pixels (half of the groups to 16) and enlarged again."""
    sides = [
        16
        if i % 2
        else int(torch.randint(12, 33, (), generator=generator, device=generator.device))
        for i in range(groups)
    ]
    parts = [
        enlarge(shrink(part, side), x.shape[-1])
        for part, side in zip(x.chunk(groups), sides, strict=False)
    ]
    return torch.cat(parts)
