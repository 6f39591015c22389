"""Small runs, and the exported JSON of their cases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fasr_video.case import document as export
from fasr_video.case.case import Case


def document(folder: Path) -> dict[str, Any]:
    with Case.open(folder, read_only=True) as case:
        return asdict(export.as_document(case))
