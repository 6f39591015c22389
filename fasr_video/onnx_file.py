"""ONNX files that hold their own weights, so that the hash of the file identifies the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasr_video.errors import ModelError
from fasr_video.files import read_file

if TYPE_CHECKING:
    import onnx

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def read_onnx(file: Path) -> tuple[bytes, onnx.GraphProto]:
    """Return the bytes of the file and its graph; raise if its weights are in other files."""
    import onnx

    try:
        data = read_file(file)
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises exceptions of its own
        raise ModelError(file, "not a readable ONNX file", "copy or download it again") from error
    if _has_external_tensors(model):
        reason = "its weights lie in other files, which could change while its own hash does not"
        raise ModelError(file, reason, "save it as one file: onnx.save(onnx.load(FILE), ONE_FILE)")
    return data, model.graph


def _has_external_tensors(message: Any) -> bool:
    """Return whether any tensor in the message (of constants, nodes, functions) lies elsewhere."""
    for field, value in message.ListFields():
        if field.name in {"external_data", "data_location"} and value:
            return True
        if field.message_type is not None:
            submessages = [value] if hasattr(value, "ListFields") else value
            if any(_has_external_tensors(submessage) for submessage in submessages):
                return True
    return False
