"""OpenVINO without its telemetry.

With it, importing OpenVINO posts to an analytics host and writes into the home folder.
"""

from __future__ import annotations

import sys
from typing import Any

from fasr_video.errors import MissingExtra


def load_openvino(needed_for: str) -> Any:
    """Import openvino with its telemetry blocked, and return the module."""
    # OpenVINO works without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "fast", needed_for) from error
    return openvino
