"""Files of embedders as they are published, with seeded weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from fasr_video.recognition.adaface import AdaFaceNet
from fasr_video.recognition.dlib_resnet import DATA_PACKAGE, FILE

State = dict[str, Tensor]


def golden_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of that name with which the golden features were computed."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if len(shape) > 1:
        return torch.from_numpy(normal / math.sqrt(math.prod(shape[1:])))
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.1 * np.abs(normal))
    return torch.from_numpy(0.1 * normal + (1 if name.endswith("weight") else 0))


def shapes(depth: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in AdaFaceNet(depth).state_dict().items()}


def seeded_state() -> State:
    """Of an IR-18."""
    return {name: golden_tensor(name, shape) for name, shape in shapes(18).items()}


GRAPH_LENGTH = 40


DLIB_FILE = Path(
    str(importlib.metadata.distribution(DATA_PACKAGE).locate_file(f"{DATA_PACKAGE}/models/{FILE}"))
)


def arcface_graph(
    path: Path, side: int = 112, batch: int | str = "None", normalises: bool = False
) -> Path:
    """A conv, a ReLU and a dense layer; with `normalises` the graph scales pixels of 0-255."""
    rng = np.random.default_rng(0)
    cells = (side // 16) ** 2 * 4
    constants: dict[str, NDArray[np.generic] | np.generic] = {
        "mean": np.float32(127.5),
        "gain": np.float32(1 / 127.5),
        "conv": rng.normal(0, 0.05, (4, 3, 16, 16)),
        "dense": rng.normal(0, 0.1, (cells, GRAPH_LENGTH)),
    }
    start = [
        helper.make_node("Sub", ["data", "mean"], ["centred"], name="Sub_0"),
        helper.make_node("Mul", ["centred", "gain"], ["scaled"], name="Mul_1"),
    ]
    nodes = (start if normalises else []) + [
        helper.make_node(
            "Conv", ["scaled" if normalises else "data", "conv"], ["map"], strides=[16, 16]
        ),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["feature"]),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, side, side])
    # As published: one row is declared, whatever the batch.
    feature = helper.make_tensor_value_info("feature", TensorProto.FLOAT, [1, GRAPH_LENGTH])
    return graph_file(path, nodes, data, [feature], constants=constants)


def other_graph(path: Path, side: int, outputs: int) -> Path:
    """What lies beside ArcFace in a pack: a detector, a landmark network."""
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["None", 3, side, side])
    names = [f"said_{i}" for i in range(outputs)]
    nodes = [helper.make_node("Identity", ["data"], [name]) for name in names]
    graph_outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    return graph_file(path, nodes, data, graph_outputs, constants={})


def graph_file(
    path: Path,
    nodes: list[onnx.NodeProto],
    data: onnx.ValueInfoProto,
    outputs: list[onnx.ValueInfoProto],
    *,
    constants: dict[str, NDArray[np.generic] | np.generic],
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "graph", [data], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def pack(folder: Path) -> Path:
    """As buffalo_l is laid out."""
    other_graph(folder / "det_10g.onnx", 640, 9)
    other_graph(folder / "2d106det.onnx", 192, 1)
    other_graph(folder / "genderage.onnx", 96, 1)
    return arcface_graph(folder / "w600k_r50.onnx").parent
