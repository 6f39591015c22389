"""Each database has its own room: nobody else says SQL to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fasr_video

PACKAGE = Path(fasr_video.__file__).parent
STORES = {
    *(
        f"case/{name}.py"
        for name in ("store", "log", "sources", "tracks", "results", "links", "decisions", "find")
    ),
    "case/values.py",
    "gallery/store.py",
    "gallery/values.py",
    "archive/ledger.py",
    "archive/chunks.py",  # the detections of a long file's chunks
    "evaluation/store.py",
    "schema.py",
    "sqlite.py",
}
CALLS = {"execute", "executemany", "executescript"}
WORDS = ("SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "PRAGMA ")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_only_the_stores_contain_sql(path: Path) -> None:
    found = list(sql_in(path.read_text(encoding="utf-8")))
    is_store = path.relative_to(PACKAGE).as_posix() in STORES
    assert bool(found) == is_store, f"SQL at lines {found}: give the store a function that does it"


@pytest.mark.parametrize("line", ["case.db.execute(query)", "gallery.query('SELECT 1 FROM image')"])
def test_sql_is_detected(line: str) -> None:
    assert list(sql_in(f"def ask(case, gallery, query):\n    return {line}\n")) == [2]


def sql_in(code: str) -> Iterator[int]:
    """Give the lines that execute SQL, or have some as text."""
    for node in ast.walk(ast.parse(code)):
        called = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CALLS
        )
        text = (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.lstrip().startswith(WORDS)
        )
        if isinstance(node, ast.expr) and (called or text):
            yield node.lineno
