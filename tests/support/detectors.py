"""Weights of detectors for which a red dot of one pixel is a face of 16 px; all others are zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from fasr_video.detection import retinaface
from fasr_video.detection.network import BASE, STRIDES, DetectorNet
from fasr_video.types import Detections, Image

LANDMARKS = np.array(
    [(-4, -4), (4, -4), (0, 0), (-2, 4), (2, 4)], np.float32
)  # px, from the face's centre
RED = (255, 0, 0)


def zero_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Return the net's tensors, with convolutions at zero and batch norms without effect."""
    return {
        k: torch.zeros_like(v) if v.ndim > 1 or k.endswith("bias") else v
        for k, v in net.state_dict().items()
    }


def builtin_weights(path: Path) -> Path:
    """Write weights for which red at (4j, 4i) is a face of 16 px at (4j + 2, 4i + 2)."""
    state = zero_tensors(DetectorNet())
    state["stem.0.weight"][0, 0, 1, 1] = 1
    for name in ("stage4.0", "stage4.1", "smooth.0.0", "tower.0.0"):
        state[f"{name}.0.weight"][0, 0, 1, 1] = 1
    for name in ("lateral.0", "smooth.0.1", "tower.0.1"):
        state[f"{name}.0.weight"][0, 0, 0, 0] = 1
    for level, bias in enumerate((-10.0, -20.0, -20.0)):
        state[f"head.{level}.bias"][0] = bias
    state["head.0.weight"][0, 0] = 20
    state["head.0.bias"][5:] = torch.from_numpy(LANDMARKS.ravel() / (BASE * STRIDES[0]))
    save_file({k: v.half() for k, v in state.items()}, path)
    return path


def retinaface_weights(path: Path) -> Path:
    """Write weights for which red at (8j, 8i) is a face of 16 px at (8j + 4, 8i + 4)."""
    state = zero_tensors(retinaface.RetinaFaceNet())
    state["body.conv1.weight"][0, 0, 3, 3] = 1
    for name in ("body.layer1.0.downsample", "body.layer2.0.downsample", "fpn.output1"):
        state[f"{name}.0.weight"][0, 0, 0, 0] = 1
    for name in ("fpn.merge1", "ssh1.conv3X3"):
        state[f"{name}.0.weight"][0, 0, 1, 1] = 1
    for level in range(3):
        state[f"ClassHead.{level}.conv1x1.bias"][:] = torch.tensor([20.0, 0.0, 20.0, 0.0])
    state["ClassHead.0.conv1x1.weight"][1, 0] = 8
    state["ClassHead.0.conv1x1.bias"][0] = 10
    state["LandmarkHead.0.conv1x1.bias"][:10] = torch.from_numpy(LANDMARKS.ravel() / (0.1 * 16))
    save_file(state, path)
    return path


def move_weights_to_file(path: Path) -> Path:
    """Store the network's weights in another file beside it."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def insightface_graph(path: Path) -> Path:
    """Write a graph for which red at (8j, 8i) is a face of 16 px there.

    It comes from the first of two anchors of stride 8.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    outputs: list[onnx.ValueInfoProto] = []

    def output(
        kind: str,
        stride: int,
        values: int,
        weight: NDArray[np.float32],
        *,
        bias: NDArray[np.float32],
    ) -> None:
        name = f"{kind}{stride}"
        constants.append(numpy_helper.from_array(weight, f"{name}_weight"))
        constants.append(numpy_helper.from_array(bias, f"{name}_bias"))
        constants.append(numpy_helper.from_array(np.array([-1, values]), f"{name}_shape"))
        inputs = ["pixels", f"{name}_weight", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_map"], strides=[stride, stride]))
        nodes.append(
            helper.make_node(
                "Relu" if kind == "score" else "Identity", [f"{name}_map"], [f"{name}_said"]
            )
        )
        nodes.append(
            helper.make_node("Transpose", [f"{name}_said"], [f"{name}_last"], perm=[0, 2, 3, 1])
        )
        nodes.append(helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", values]))

    for kind, values in (("score", 1), ("box", 4), ("marks", 10)):
        for stride in (8, 16, 32):
            weight = np.zeros((2 * values, 3, 1, 1), np.float32)
            bias = np.zeros(2 * values, np.float32)
            if kind == "score" and stride == 8:
                weight[0, 0] = 1
            if kind == "box":
                bias[:] = 8 / stride
            if kind == "marks":
                bias[:] = np.tile(LANDMARKS.ravel() / stride, 2)
            output(kind, stride, values, weight, bias=bias)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, "height", "width"])
    save_graph(path, helper.make_graph(nodes, "dots", [pixels], outputs, constants))
    return path.parent


def save_graph(path: Path, graph: onnx.GraphProto) -> None:
    path.parent.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


def blank_picture(width: int, height: int) -> Image:
    return np.zeros((height, width, 3), np.uint8)


def centres(detections: Detections) -> NDArray[np.float32]:
    return np.asarray((detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2, np.float32)


def assert_same(a: Detections, b: Detections) -> None:
    assert np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)
    assert (a.landmarks is None) == (b.landmarks is None)
    if a.landmarks is not None and b.landmarks is not None:
        assert np.array_equal(a.landmarks, b.landmarks)
