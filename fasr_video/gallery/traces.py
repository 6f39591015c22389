"""Looking for bytes that should be gone: the proof that what was removed from a gallery is in none of its files."""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PIECE = 32  # bytes: long enough that equal pieces are no chance, short enough to find what is left of a torn record
STRIDE = 512  # from one piece of a secret to the next
DISTINCT = 8  # different byte values that a piece needs: runs of zeros are everywhere
BLOCK = 2**20  # words of a file at a time
BITS = 22
MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Traces:
    files: int
    size: int
    """Bytes that were looked through."""
    found: tuple[bytes, ...]
    """Pieces of the secrets, once for each place where they stand."""
    places: tuple[Path, ...]
    """The file of each."""


def search(files: Sequence[Path], secrets: Sequence[bytes]) -> Traces:
    """Every place in these files where a piece of a secret stands, at any offset.

    A piece anywhere in a file covers one whole word at a multiple of eight bytes. So each piece gives eight keys, its
    words at eight offsets, and of a file only the words at multiples of eight are looked up: the cost is that of
    reading it, however many secrets there are.
    """
    pieces = {p for secret in secrets for p in pieces_of(secret)}
    keys: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for piece in pieces:
        for shift in range(8):
            keys[int.from_bytes(piece[shift : shift + 8], "little")].append((piece, shift))
    wanted = np.fromiter(keys, np.uint64, len(keys))
    size = 0
    found: list[bytes] = []
    where: list[Path] = []
    for file in files:
        size += file.stat().st_size
        if pieces and file.stat().st_size >= PIECE:
            with (
                file.open("rb") as handle,
                mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                for at in _words(data, wanted):
                    word = int.from_bytes(data[at : at + 8], "little")
                    places = ((piece, at - shift) for piece, shift in keys[word])
                    here = [
                        piece for piece, i in places if i >= 0 and data[i : i + len(piece)] == piece
                    ]
                    found += here
                    where += [file] * len(here)
    return Traces(len(files), size, tuple(found), tuple(where))


def pieces_of(secret: bytes) -> list[bytes]:
    cut = [secret[i : i + PIECE] for i in range(0, len(secret) - PIECE + 1, STRIDE)]
    # A secret without any telling piece is looked for whole.
    return [p for p in cut if len(set(p)) >= DISTINCT] or [secret]


def _words(data: mmap.mmap, wanted: NDArray[np.uint64]) -> Iterator[int]:
    """Offsets, multiples of eight, at which one of the wanted words stands."""
    maybe = np.zeros(2**BITS, np.bool_)
    maybe[_hash(wanted)] = True
    for start in range(0, len(data) // 8, BLOCK):
        count = min(BLOCK, len(data) // 8 - start)
        words = np.frombuffer(data[8 * start : 8 * (start + count)], "<u8")
        likely = np.flatnonzero(maybe[_hash(words)])
        for row in likely[np.isin(words[likely], wanted)].tolist():
            yield 8 * (start + row)


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (words * MIX) >> np.uint64(64 - BITS)
