"""OpenVINO without its telemetry: imported as it is, it posts to an analytics host and writes into the home folder."""

from __future__ import annotations

import sys
from typing import Any

from fasr_video.errors import MissingExtra


def load_openvino(needed_for: str) -> Any:
    """Return the module openvino; its telemetry is shut out before it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO works without
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "fast", needed_for) from error
    return openvino
