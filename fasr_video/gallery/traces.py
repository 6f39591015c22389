"""Search files for data that was removed, to prove that it is gone."""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Long enough that equal pieces are no coincidence, short enough to find parts of a torn record.
PIECE_BYTES = 32
STRIDE = 512  # bytes from one piece of a secret to the next
MIN_DISTINCT = 8  # least different byte values in a piece: runs of zeros are everywhere
WORDS_PER_BLOCK = 2**20  # words of a file that are compared together
HASH_BITS = 22
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Traces:
    files: int
    size: int
    """Bytes that were searched."""
    pieces: tuple[bytes, ...]
    """Pieces of the secrets that were found, one entry for each occurrence."""
    paths: tuple[Path, ...]
    """The file of each occurrence."""


def find_traces(files: Sequence[Path], secrets: Sequence[bytes]) -> Traces:
    """Return every occurrence of a piece of a secret in these files, at any offset.

    Wherever a piece lies in a file, it covers a word of eight bytes that is aligned to eight bytes.
    So each piece has eight keys, its words at eight offsets, and only the aligned words of a file
    are looked up. The cost is that of reading the file, however many secrets there are.
    """
    pieces = {piece for secret in secrets for piece in pieces_of(secret)}
    keys: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for piece in pieces:
        for shift in range(8):
            keys[int.from_bytes(piece[shift : shift + 8], "little")].append((piece, shift))
    words = np.fromiter(keys, np.uint64, len(keys))
    size = 0
    pieces_found: list[bytes] = []
    paths: list[Path] = []
    for file in files:
        size += file.stat().st_size
        if pieces and file.stat().st_size >= PIECE_BYTES:
            with (
                file.open("rb") as handle,
                mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                for offset in _word_offsets(data, words):
                    word = int.from_bytes(data[offset : offset + 8], "little")
                    for piece, shift in keys[word]:
                        start = offset - shift
                        if start >= 0 and data[start : start + len(piece)] == piece:
                            pieces_found.append(piece)
                            paths.append(file)
    return Traces(len(files), size, tuple(pieces_found), tuple(paths))


def pieces_of(secret: bytes) -> list[bytes]:
    """Return the pieces of a secret to search for."""
    pieces = [secret[i : i + PIECE_BYTES] for i in range(0, len(secret) - PIECE_BYTES + 1, STRIDE)]
    # A secret without any distinctive piece is searched for as a whole.
    return [piece for piece in pieces if len(set(piece)) >= MIN_DISTINCT] or [secret]


def _word_offsets(data: mmap.mmap, wanted: NDArray[np.uint64]) -> Iterator[int]:
    """Yield the offsets, multiples of eight, of the wanted words."""
    maybe = np.zeros(2**HASH_BITS, np.bool_)
    maybe[_hash(wanted)] = True
    for start in range(0, len(data) // 8, WORDS_PER_BLOCK):
        count = min(WORDS_PER_BLOCK, len(data) // 8 - start)
        words = np.frombuffer(data[8 * start : 8 * (start + count)], "<u8")
        likely = np.flatnonzero(maybe[_hash(words)])
        for row in likely[np.isin(words[likely], wanted)].tolist():
            yield 8 * (start + row)


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (words * HASH_FACTOR) >> np.uint64(64 - HASH_BITS)
