"""The contract of every face detector, and what is particular to each.

The learned detectors run with weights made here: all zero but for one path, so that a red dot of one pixel is a face
of 16 px at a known place. What the published or trained weights find is measured elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.boxes import iou_matrix, nms, shrink
from fasr_video.checkpoint import load_state, read_state
from fasr_video.errors import FasrError, MissingExtra, ModelError, SettingsError, UsageError
from fasr_video.pipeline.detect import BACKENDS, Detector, TiledDetector, open_detector, retinaface
from fasr_video.pipeline.detect.builtin import decode_frames, fuse_batch_norms, looked_up, pad
from fasr_video.pipeline.detect.network import BASE, STRIDES, DetectorNet, LevelOutput, decode_level
from fasr_video.pipeline.detect.tiling import EDGE
from fasr_video.pipeline.media import Sampling, open_video
from fasr_video.types import Detections, Image

LEARNED = ("builtin", "retinaface", "insightface")
MARKS = np.array([(-4, -4), (4, -4), (0, 0), (-2, 4), (2, 4)], np.float32)  # px, from the face's centre
RED = (255, 0, 0)
SAMPLES = Path(__file__).parents[1] / "sample_videos"
ASTRONAUT: Image = skimage.data.astronaut()  # type: ignore[no-untyped-call]


# --- weights that see red dots -----------------------------------------------------------------------------------


def _silent(net: nn.Module) -> dict[str, Tensor]:
    """The net's tensors with every convolution at zero and batch norms that change nothing."""
    return {k: torch.zeros_like(v) if v.ndim > 1 or k.endswith("bias") else v for k, v in net.state_dict().items()}


def builtin_weights(path: Path) -> Path:
    """Red at (4j, 4i) → a face of 16 px at (4j + 2, 4i + 2), from the finest level."""
    state = _silent(DetectorNet())
    state["stem.0.weight"][0, 0, 1, 1] = 1
    for name in ("stage4.0", "stage4.1", "smooth.0.0", "tower.0.0"):
        state[f"{name}.0.weight"][0, 0, 1, 1] = 1
    for name in ("lateral.0", "smooth.0.1", "tower.0.1"):
        state[f"{name}.0.weight"][0, 0, 0, 0] = 1
    for level, bias in enumerate((-10.0, -20.0, -20.0)):
        state[f"head.{level}.bias"][0] = bias
    state["head.0.weight"][0, 0] = 20
    state["head.0.bias"][5:] = torch.from_numpy(MARKS.ravel() / (BASE * STRIDES[0]))
    save_file({k: v.half() for k, v in state.items()}, path)
    return path


def retinaface_weights(path: Path) -> Path:
    """Red at (8j, 8i) → a face of 16 px at (8j + 4, 8i + 4), from the smaller anchor of the finest level."""
    state = _silent(retinaface.RetinaFaceNet())
    state["body.conv1.weight"][0, 0, 3, 3] = 1
    for name in ("body.layer1.0.downsample", "body.layer2.0.downsample", "fpn.output1"):
        state[f"{name}.0.weight"][0, 0, 0, 0] = 1
    for name in ("fpn.merge1", "ssh1.conv3X3"):
        state[f"{name}.0.weight"][0, 0, 1, 1] = 1
    for level in range(3):
        state[f"ClassHead.{level}.conv1x1.bias"][:] = torch.tensor([20.0, 0.0, 20.0, 0.0])
    state["ClassHead.0.conv1x1.weight"][1, 0] = 8
    state["ClassHead.0.conv1x1.bias"][0] = 10
    state["LandmarkHead.0.conv1x1.bias"][:10] = torch.from_numpy(MARKS.ravel() / (0.1 * 16))
    save_file(state, path)
    return path


def insightface_graph(path: Path) -> Path:
    """Red at (8j, 8i) → a face of 16 px at that place, from the first of two anchors of stride 8."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    outputs: list[onnx.ValueInfoProto] = []

    def output(kind: str, stride: int, values: int, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        name = f"{kind}{stride}"
        constants.append(numpy_helper.from_array(weight, f"{name}_weight"))
        constants.append(numpy_helper.from_array(bias, f"{name}_bias"))
        constants.append(numpy_helper.from_array(np.array([-1, values]), f"{name}_shape"))
        inputs = ["pixels", f"{name}_weight", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_map"], strides=[stride, stride]))
        nodes.append(helper.make_node("Relu" if kind == "score" else "Identity", [f"{name}_map"], [f"{name}_said"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_said"], [f"{name}_last"], perm=[0, 2, 3, 1]))
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
                bias[:] = np.tile(MARKS.ravel() / stride, 2)
            output(kind, stride, values, weight, bias)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, "height", "width"])
    _save_graph(path, helper.make_graph(nodes, "dots", [pixels], outputs, constants))
    return path.parent


def _save_graph(path: Path, graph: onnx.GraphProto) -> None:
    path.parent.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures this small are slower on several threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("models")
    large = retinaface_weights(folder / "retinaface.safetensors")
    yield {
        "builtin": builtin_weights(folder / "builtin.safetensors"),
        "retinaface": large,
        "insightface": insightface_graph(folder / "pack" / "det.onnx"),
    }
    large.unlink()  # 109 MB: pytest keeps the folders of the last runs


# --- the contract ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A detector, how to draw a face for it, and how exactly it finds the face."""

    detector: Detector
    draw: Callable[[Image, int, int, int], tuple[float, float]]
    """Draws at (x, y) with a brightness; returns the face's true centre."""
    tolerance: float


def draw_dot(shift: int) -> Callable[[Image, int, int, int], tuple[float, float]]:
    def draw(frame: Image, x: int, y: int, brightness: int) -> tuple[float, float]:
        frame[y, x] = (brightness, 0, 0)
        return x + shift, y + shift

    return draw


def draw_astronaut(frame: Image, x: int, y: int, brightness: int) -> tuple[float, float]:
    """Her face, about 32 px wide."""
    part = ASTRONAUT[40:190, 150:300]
    small = cv2.resize(part, (56, 56), interpolation=cv2.INTER_AREA).astype(np.float32) * brightness / 255
    frame[y - 28 : y + 28, x - 28 : x + 28] = small.astype(np.uint8)
    return x, y


@pytest.fixture(scope="module", params=[*((name, "torch") for name in BACKENDS), ("builtin", "openvino")])
def subject(request: pytest.FixtureRequest, models: dict[str, Path]) -> Subject:
    backend, engine = request.param
    detector = open_detector(backend, weights=models.get(backend), device="cpu", min_score=0.5, engine=engine)
    shifts = {"builtin": 2, "retinaface": 4, "insightface": 0}
    if backend in shifts:
        return Subject(detector, draw_dot(shifts[backend]), tolerance=1e-3)
    return Subject(detector, draw_astronaut, tolerance=5)


def blank(width: int, height: int) -> Image:
    return np.zeros((height, width, 3), np.uint8)


def centres(found: Detections) -> NDArray[np.float32]:
    return np.asarray((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, np.float32)


def assert_same(a: Detections, b: Detections) -> None:
    assert np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)
    assert (a.landmarks is None) == (b.landmarks is None)
    if a.landmarks is not None and b.landmarks is not None:
        assert np.array_equal(a.landmarks, b.landmarks)


@pytest.mark.parametrize("size", [(160, 128), (203, 135), (97, 251)])
def test_finds_each_face_where_it_is(subject: Subject, size: tuple[int, int]) -> None:
    frame = blank(*size)
    true = [subject.draw(frame, 48, 32, 255), subject.draw(frame, 56, 96, 255)]
    found = subject.detector.detect([frame])[0]
    at = centres(found)[np.argsort(centres(found)[:, 1])]
    assert at == pytest.approx(np.array(true), abs=subject.tolerance)


def test_no_frames_no_results(subject: Subject) -> None:
    assert subject.detector.detect([]) == []


@pytest.mark.parametrize("size", [(160, 128), (33, 65), (7, 5), (1, 1)])
def test_a_frame_without_faces_has_none(subject: Subject, size: tuple[int, int]) -> None:
    found = subject.detector.detect([blank(*size)])[0]
    assert_same(found, Detections.empty(subject.detector.has_landmarks))


def test_best_first(subject: Subject) -> None:
    frame = blank(320, 64)
    true = {brightness: subject.draw(frame, x, 32, brightness) for x, brightness in ((48, 225), (152, 255), (256, 240))}
    found = subject.detector.detect([frame])[0]
    assert len(found) == 3
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert (found.scores >= 0.5).all() and (found.scores <= 1).all() and (np.diff(found.scores) <= 0).all()
    if subject.detector.has_landmarks:  # these detectors answer to the dot's brightness
        expected = np.array([true[b] for b in (255, 240, 225)])
        assert centres(found) == pytest.approx(expected, abs=subject.tolerance)


def test_result_does_not_depend_on_the_other_frames(subject: Subject) -> None:
    frames = [blank(160, 128), blank(160, 128), blank(99, 77), blank(160, 128)]
    for frame, x in zip(frames[:3], (48, 64, 40), strict=True):
        subject.draw(frame, x, 32, 240)
    together = subject.detector.detect(frames)
    assert [len(found) for found in together] == [1, 1, 1, 0]
    for frame, found in zip(frames, together, strict=True):
        assert_same(found, subject.detector.detect([frame])[0])


def test_landmarks_come_with_each_face_or_not_at_all(subject: Subject) -> None:
    frame = blank(160, 128)
    x, y = subject.draw(frame, 48, 32, 255)
    marks = subject.detector.detect([frame])[0].landmarks
    if not subject.detector.has_landmarks:
        assert marks is None
    else:
        assert marks is not None and marks.dtype == np.float32
        assert marks == pytest.approx((MARKS + np.array((x, y)))[None], abs=subject.tolerance)


def test_frames_are_left_as_they_were(subject: Subject) -> None:
    frame = blank(160, 128)
    subject.draw(frame, 48, 32, 255)
    before = frame.copy()
    subject.detector.detect([frame])
    assert np.array_equal(frame, before)


def test_says_what_it_is(subject: Subject) -> None:
    detector = subject.detector
    assert len(bytes.fromhex(detector.fingerprint)) == 32
    assert detector.name and detector.licence and "\n" not in detector.name + detector.licence


def test_tiles_change_nothing_but_the_name(subject: Subject) -> None:
    frame = blank(400, 128)
    for x in (48, 136, 224, 320):
        subject.draw(frame, x, 40, 255)
    tiled = TiledDetector(subject.detector, 160, 96)
    found, whole = tiled.detect([frame])[0], subject.detector.detect([frame])[0]
    assert len(found) == len(whole) == 4
    assert iou_matrix(found.boxes, whole.boxes).max(1) == pytest.approx(1, abs=subject.tolerance / 20)
    assert tiled.fingerprint == subject.detector.fingerprint and "160" in tiled.name


@pytest.mark.parametrize("backend", LEARNED)
def test_colours_are_red_green_blue(backend: str, models: dict[str, Path]) -> None:
    detector = open_detector(backend, weights=models[backend], device="cpu", min_score=0.5)
    found: list[int] = []
    for colour in (RED, (0, 255, 0), (0, 0, 255)):
        frame = blank(64, 64)
        frame[32, 32] = colour
        found.append(len(detector.detect([frame])[0]))
    assert found == [1, 0, 0]


@pytest.mark.parametrize("backend", LEARNED)
def test_the_fingerprint_is_that_of_the_file(backend: str, models: dict[str, Path]) -> None:
    detector = open_detector(backend, weights=models[backend], device="cpu", min_score=0.5)
    content = models[backend]
    if backend == "insightface":
        one = hashlib.sha256((content / "det.onnx").read_bytes()).hexdigest()
        assert detector.fingerprint == hashlib.sha256(f"{one}  det.onnx\n".encode()).hexdigest()
    else:
        assert detector.fingerprint == hashlib.sha256(content.read_bytes()).hexdigest()


@pytest.mark.parametrize(("backend", "shift"), [("retinaface", 8), ("insightface", 0)])
def test_large_frames_are_shrunk_and_results_told_in_their_own_pixels(
    backend: str, shift: int, models: dict[str, Path]
) -> None:
    detector = open_detector(backend, weights=models[backend], device="cpu", min_score=0.5, max_side=128)
    frame = blank(256, 192)
    frame[64:66, 80:82] = RED
    found = detector.detect([frame])[0]
    x, y = 80 + shift, 64 + shift
    assert found.boxes == pytest.approx(np.array([[x - 16, y - 16, x + 16, y + 16]]), abs=1e-3)
    assert found.landmarks == pytest.approx((2 * MARKS + np.array((x, y)))[None], abs=1e-3)


@pytest.mark.parametrize("backend", LEARNED)
def test_faces_below_the_asked_score_stay_out(backend: str, models: dict[str, Path]) -> None:
    frame = blank(64, 64)
    frame[32, 32] = (225, 0, 0)
    counts = []
    for min_score in (0.5, 0.9999):
        detector = open_detector(backend, weights=models[backend], device="cpu", min_score=min_score)
        counts.append(len(detector.detect([frame])[0]))
    assert counts == [1, 0]


# --- haar --------------------------------------------------------------------------------------------------------


def test_haar_finds_the_astronaut() -> None:
    found = open_detector("haar", weights=None, device="cpu", min_score=0.7).detect([ASTRONAUT])[0]
    assert len(found) == 1
    assert iou_matrix(found.boxes, np.array([[180, 62, 270, 165]], np.float32))[0, 0] > 0.7


def test_haar_needs_no_torch() -> None:
    code = (
        "import sys; from fasr_video.pipeline.detect import open_detector;"
        "open_detector('haar', weights=None, device='cpu', min_score=0.5); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("clip", ["corridor", "entrance", "night"])
def test_eight_bits_find_the_faces_of_the_sample_clips(clip: str) -> None:
    exact, coarse = (
        open_detector("builtin", weights=None, device="cpu", min_score=0.3, engine=e) for e in ("torch", "openvino")
    )
    assert "int8" in coarse.name and exact.fingerprint == coarse.fingerprint
    for frame in islice(open_video(SAMPLES / f"{clip}.mp4").frames(Sampling()), 10, 180, 60):
        a, b = (detector.detect([frame.image])[0] for detector in (exact, coarse))
        sure = a.take(a.scores >= 0.5)
        overlap = iou_matrix(sure.boxes, b.boxes)
        assert (overlap.max(1) > 0.8).all()
        assert sure.scores == pytest.approx(b.scores[overlap.argmax(1)], abs=0.1)


# --- builtin -----------------------------------------------------------------------------------------------------

FACES = {4: (41.0, 30.5, 14.0, 18.0), 8: (93.5, 40.0, 50.0, 62.0), 16: (70.0, 110.0, 100.0, 120.0)}  # cx, cy, w, h


def encode(stride: int, height: int, width: int) -> LevelOutput:
    """A level that says exactly one thing: the face of FACES with that stride, as `LevelOutput` describes it."""
    cx, cy, w, h = FACES[stride]
    shape = (height // stride, width // stride)
    out = LevelOutput(*(torch.zeros(1, channels, *shape) for channels in (1, 2, 2, 10)))
    column, row = int(cx // stride), int(cy // stride)
    middle = torch.tensor([column + 0.5, row + 0.5])
    out.logit[:] = -9
    out.logit[0, 0, row, column] = stride / 4
    out.offset[0, :, row, column] = torch.tensor([cx, cy]) / stride - middle
    out.log_size[0, :, row, column] = (torch.tensor([w, h]) / (BASE * stride)).log()
    marks = torch.from_numpy(MARKS) + torch.tensor([cx, cy])
    out.landmarks[0, :, row, column] = ((marks / stride - middle) / BASE).ravel()
    return out


def test_builtin_decodes_one_face_of_each_stride_exactly() -> None:
    found = decode_frames([encode(stride, 160, 192) for stride in STRIDES], 0.5)[0]
    expected = np.array([FACES[stride] for stride in (16, 8, 4)])  # the coarser, the surer
    half = expected[:, 2:] / 2
    assert found.boxes == pytest.approx(np.concatenate((expected[:, :2] - half, expected[:, :2] + half), 1), abs=1e-3)
    assert found.landmarks == pytest.approx(MARKS + expected[:, None, :2], abs=1e-3)
    assert found.scores == pytest.approx(1 / (1 + np.exp([-4.0, -2.0, -1.0])), abs=1e-5)


def test_builtin_merges_what_two_levels_say_about_one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACES, 8, FACES[16])
    found = decode_frames([encode(stride, 160, 192) for stride in STRIDES], 0.5)[0]
    assert found.scores == pytest.approx(1 / (1 + np.exp([-4.0, -1.0])), abs=1e-5)


def test_builtin_sees_a_face_at_the_padded_edges(models: dict[str, Path]) -> None:
    frame = blank(101, 69)
    frame[68, 100] = RED
    found = open_detector("builtin", weights=models["builtin"], device="cpu", min_score=0.5).detect([frame])[0]
    assert found.boxes.tolist() == [[94, 62, 110, 78]]  # sticks out, and says so


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_of_pixel_values_gives_what_arithmetic_gives(dtype: torch.dtype) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3)).astype(np.uint8)
    computed = pad((torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1).to(dtype))
    found = looked_up(list(frames), dtype)
    assert torch.equal(found, computed) and found.stride() == computed.stride()


def test_a_peak_is_the_highest_of_its_neighbourhood() -> None:
    torch.manual_seed(0)
    logit = torch.randn(1, 1, 40, 60)
    logit[0, 0, 0, 0] = 9  # in a corner
    logit[0, 0, 20, 20:22] = 9  # of two that are equally high, both
    rest = [torch.zeros(1, channels, 40, 60) for channels in (2, 2, 10)]
    _, scores, _ = decode_level(LevelOutput(logit, *rest), 4, 0.3)[0]
    score = logit.sigmoid()
    peaks = (score == F.max_pool2d(score, 3, 1, 1)) & (score >= 0.3)
    assert scores.tolist() == score[peaks].tolist()


def test_fusing_batch_norms_changes_nothing_but_the_number_of_steps() -> None:
    torch.manual_seed(0)
    net = DetectorNet().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    x = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.inference_mode():
        before = net(x)
        fuse_batch_norms(net)
        after = net(x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(torch.cat(one, 1), torch.cat(other, 1), rtol=1e-4, atol=1e-4)


# --- retinaface --------------------------------------------------------------------------------------------------


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the state dict of retinaface-pytorch (Resnet50), written down from its description."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def conv_norm(name: str, norm_name: str, cout: int, cin: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (cout, cin, kernel, kernel)
        norm(norm_name, cout)

    conv_norm("body.conv1", "body.bn1", 64, 3, 7)
    cin = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            at = f"body.layer{layer}.{block}"
            conv_norm(f"{at}.conv1", f"{at}.bn1", width, cin, 1)
            conv_norm(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            conv_norm(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
            if block == 0:
                conv_norm(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, cin, 1)
            cin = 4 * width
    for i, channels in enumerate((512, 1024, 2048), 1):
        conv_norm(f"fpn.output{i}.0", f"fpn.output{i}.1", 256, channels, 1)
    for i in (1, 2):
        conv_norm(f"fpn.merge{i}.0", f"fpn.merge{i}.1", 256, 256, 3)
    views = (("conv3X3", 128, 256), ("conv5X5_1", 64, 256), ("conv5X5_2", 64, 64), ("conv7X7_2", 64, 64))
    for i, (view, cout, cin) in product((1, 2, 3), (*views, ("conv7x7_3", 64, 64))):
        conv_norm(f"ssh{i}.{view}.0", f"ssh{i}.{view}.1", cout, cin, 3)
    for (head, values), i in product((("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)), range(3)):
        shapes[f"{head}.{i}.conv1x1.weight"] = (2 * values, 256, 1, 1)
        shapes[f"{head}.{i}.conv1x1.bias"] = (2 * values,)
    return shapes


def test_retinaface_has_the_published_names_and_shapes() -> None:
    net = retinaface.RetinaFaceNet()
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == published_shapes()
    assert sum(p.numel() for p in net.parameters()) == 27_293_600


@pytest.mark.parametrize(("height", "width"), [(64, 96), (135, 203), (5, 7)])
def test_anchors_agree_with_counting_them_one_by_one(height: int, width: int) -> None:
    expected = []
    for stride, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                expected += [[x + stride / 2, y + stride / 2, size] for size in sizes]
    assert retinaface.make_anchors(height, width).tolist() == expected


@pytest.mark.parametrize(("height", "width"), [(64, 96), (71, 37)])
def test_retinaface_says_one_thing_for_each_anchor(height: int, width: int) -> None:
    with torch.inference_mode():
        said = retinaface.RetinaFaceNet().eval()(torch.zeros(1, 3, height, width))
    anchors = len(retinaface.make_anchors(height, width))
    assert [tuple(part.shape) for part in said] == [(1, anchors, 4), (1, anchors, 2), (1, anchors, 10)]


def test_decoding_undoes_the_encoding_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    anchors = retinaface.make_anchors(64, 64).numpy()
    centre, side = anchors[:, :2], anchors[:, 2:]
    middle = centre + rng.normal(0, 5, centre.shape)
    size = side * rng.uniform(0.5, 2, centre.shape)
    points = middle[:, None] + rng.normal(0, 5, (len(anchors), 5, 2))
    offsets = np.concatenate(((middle - centre) / side / 0.1, np.log(size / side) / 0.2), 1)
    marks = ((points - centre[:, None]) / side[:, None] / 0.1).reshape(-1, 10)
    boxes, found = retinaface.decode(torch.from_numpy(offsets), torch.from_numpy(marks), torch.from_numpy(anchors))
    assert boxes.numpy() == pytest.approx(np.concatenate((middle - size / 2, middle + size / 2), 1))
    assert found.numpy() == pytest.approx(points)


# --- boxes -------------------------------------------------------------------------------------------------------


def test_overlap_agrees_with_counting_pixels() -> None:
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate((corners, corners + rng.integers(0, 12, (12, 2))), 1).astype(np.float32)
    masks = np.zeros((12, 32, 32), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    both = (masks[:, None] & masks[None]).sum((2, 3))
    either = (masks[:, None] | masks[None]).sum((2, 3))
    assert iou_matrix(boxes, boxes) == pytest.approx(both / np.maximum(either, 1), abs=1e-6)


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10], [5, 0, 15, 10]], np.float32)
    scores = np.array([0.7, 0.9, 0.8, 0.6], np.float32)
    assert nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes[:0], scores[:0], 0.4).tolist() == []


@pytest.mark.parametrize(
    ("size", "expected"), [((1920, 1080), (960, 540)), ((640, 480), (640, 480)), ((2000, 1), (960, 1))]
)
def test_shrinking_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    small, scale = shrink(blank(*size), 960)
    assert small.shape == (expected[1], expected[0], 3)
    assert scale == pytest.approx(np.array(size) / expected)


# --- tiles -------------------------------------------------------------------------------------------------------


class SquareDetector:
    """Finds bright squares exactly, whatever part of them it is shown."""

    name, has_landmarks, fingerprint, licence = "squares", True, "00" * 32, "none"

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Image) -> Detections:
        _, _, stats, _ = cv2.connectedComponentsWithStats((frame[..., 0] > 0).astype(np.uint8))
        boxes = stats[1:, :4].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([frame[int(y), int(x), 0] / 255 for x, y in boxes[:, :2]], np.float32)
        order = np.argsort(-scores, kind="stable")
        centre = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
        marks = np.repeat(centre[:, None], 5, axis=1)
        return Detections(boxes, scores, marks).take(order)


TILES = TiledDetector(SquareDetector(), tile=100, overlap=30)


@pytest.mark.parametrize("x", range(60, 106))
def test_a_square_on_a_seam_is_found_once_and_whole(x: int) -> None:
    """Tiles span 0-100, 70-170 and 120-220: the square is seen whole by one or two, and cut by others."""
    frame = blank(220, 90)
    frame[40:60, x : x + 20] = 200
    found = TILES.detect([frame])[0]
    assert found.boxes.tolist() == [[x, 40, x + 20, 60]]
    assert found.landmarks is not None and found.landmarks[0, 0].tolist() == [x + 10, 50]


@pytest.mark.parametrize("seed", range(20))
def test_tiles_find_what_the_whole_frame_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = blank(*rng.integers(101, 300, 2))
    largest = 30 - 2 * int(EDGE)
    for y, x in product(range(0, frame.shape[0], 32), range(0, frame.shape[1], 32)):
        side = rng.integers(6, largest + 1)
        frame[y : y + side, x : x + side] = rng.integers(50, 256)
    found, whole = TILES.detect([frame])[0], SquareDetector().detect([frame])[0]
    assert sorted(found.boxes.tolist()) == sorted(whole.boxes.tolist())
    assert found.scores.tolist() == whole.scores.tolist()


def test_what_the_detector_keeps_side_by_side_stays() -> None:
    """Two faces of one tile are two faces, however much they overlap: the detector has decided."""

    class Overlapping(SquareDetector):
        def _one(self, frame: Image) -> Detections:
            boxes = np.array([[20, 20, 60, 60], [20, 20, 60, 42]], np.float32)
            return Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros((2, 5, 2), np.float32))

    frame = blank(100, 180)
    assert len(TiledDetector(Overlapping(), tile=100, overlap=20).detect([frame])[0]) == 4


def test_a_face_larger_than_the_overlap_is_not_lost() -> None:
    frame = blank(220, 90)
    frame[10:80, 60:140] = 200
    found = TILES.detect([frame])[0]
    truth = np.array([[60, 10, 140, 80]], np.float32)
    assert len(found) >= 1 and iou_matrix(found.boxes, truth).max() > 0.8


def test_a_frame_no_larger_than_a_tile_is_searched_whole() -> None:
    frame = blank(100, 100)
    frame[5:95, 5:95] = 200
    assert_same(TILES.detect([frame])[0], SquareDetector().detect([frame])[0])


def test_tiles_without_faces() -> None:
    assert_same(TILES.detect([blank(250, 250)])[0], Detections.empty(landmarks=True))


# --- weights files -----------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str, int], None], tuple[str, int]]:
        return os.mkdir, (str(self.target), 0o700)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_of_all_habits_load(tmp_path: Path, prefix: str, wrapped: bool) -> None:
    source, target = (
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    )
    state = {prefix + k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pth")
    load_state(target, tmp_path / "w.pth")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"weight": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="never do; convert"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


def change(path: Path, edit: Callable[[dict[str, Tensor]], None]) -> Path:
    state = _silent(DetectorNet())
    edit(state)
    save_file(state, path)
    return path


def drop_head_biases(state: dict[str, Tensor]) -> None:
    for level in range(len(STRIDES)):
        del state[f"head.{level}.bias"]


def text_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("no model\n" * 100)
    return path


def recognition_pack(folder: Path) -> Path:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 112, 112])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 3, 112, 112])
    node = helper.make_node("Identity", ["pixels"], ["result"])
    _save_graph(folder / "w600k.onnx", helper.make_graph([node], "no detector", [pixels], [result]))
    return folder


def torch_list(path: Path) -> Path:
    torch.save([1, 2], path)
    return path


MISTAKES: dict[str, tuple[str, Callable[[Path], Path | None], type[FasrError], str]] = {
    "builtin, no file": ("builtin", lambda d: d / "none.safetensors", ModelError, "no such file; check the path"),
    "builtin, a text file": ("builtin", lambda d: text_file(d / "a.safetensors"), ModelError, "download it again"),
    "builtin, lacking": (
        "builtin",
        lambda d: change(d / "a.safetensors", drop_head_biases),
        ModelError,
        "lacks 3 of .*head.0.bias, head.1.bias, head.2.bias; give weights made for DetectorNet",
    ),
    "builtin, unknown": (
        "builtin",
        lambda d: change(d / "a.safetensors", lambda s: s.update(more=torch.zeros(1))),
        ModelError,
        "unknown 1 of .*more",
    ),
    "builtin, other shape": (
        "builtin",
        lambda d: change(d / "a.safetensors", lambda s: s.update({"head.0.bias": torch.zeros(3)})),
        ModelError,
        "another shape of 1 of .*head.0.bias",
    ),
    "retinaface, none given": ("retinaface", lambda d: None, UsageError, "give the path"),
    "retinaface, a text file": ("retinaface", lambda d: text_file(d / "a.pth"), ModelError, "run code.*; convert it"),
    "retinaface, a list": ("retinaface", lambda d: torch_list(d / "a.pth"), ModelError, "give a file with a state"),
    "retinaface, of another net": (
        "retinaface",
        lambda d: change(d / "a.safetensors", lambda s: None),
        ModelError,
        "lacks .* body.conv1.weight, body.bn1.weight, body.bn1.bias, …; give weights made for RetinaFaceNet",
    ),
    "insightface, none given": ("insightface", lambda d: None, UsageError, "give a folder"),
    "insightface, no folder": ("insightface", lambda d: d / "none", ModelError, "no such folder.*; give a folder"),
    "insightface, empty folder": ("insightface", lambda d: d, ModelError, "no .onnx file in it; give a folder"),
    "insightface, a text file": (
        "insightface",
        lambda d: text_file(d / "p" / "a.onnx").parent,
        ModelError,
        "no usable detector.*; check",
    ),
    "insightface, no detector": ("insightface", lambda d: recognition_pack(d / "p"), ModelError, "no usable detector"),
    "haar, with weights": ("haar", lambda d: d, UsageError, "leave it out"),
    "no such backend": ("yolo", lambda d: None, SettingsError, "use one of builtin, haar"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_a_remedy(mistake: str, tmp_path: Path) -> None:
    backend, prepare, kind, expected = MISTAKES[mistake]
    weights = prepare(tmp_path)
    with pytest.raises(kind, match=expected) as caught:
        open_detector(backend, weights=weights, device="cpu", min_score=0.5)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if kind is ModelError:
        assert str(caught.value).startswith(str(weights))


@pytest.mark.parametrize("backend", BACKENDS)
def test_there_is_no_silent_fallback_to_another_device(backend: str, models: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="use device cpu"):
        open_detector(backend, weights=models.get(backend), device="warp", min_score=0.5)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "insightface"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fasr-video\[insightface\]'"):
        open_detector("insightface", weights=models["insightface"], device="cpu", min_score=0.5)


def test_without_openvino_its_engine_is_no_silent_torch(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fasr_video.pipeline.detect.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fasr-video\[fast\]'"):
        open_detector("builtin", weights=models["builtin"], device="cpu", min_score=0.5, engine="openvino")


@pytest.mark.parametrize(
    ("backend", "device", "said"), [("haar", "cpu", "haar backend"), ("builtin", "cuda", "CPU only")]
)
def test_openvino_is_refused_where_it_cannot_compute(backend: str, device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_detector(backend, weights=None, device=device, min_score=0.5, engine="openvino")


@pytest.mark.parametrize("overlap", [-1, 100, 200])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(SettingsError, match="smaller than the tile"):
        open_detector("haar", weights=None, device="cpu", min_score=0.5, tile=100, tile_overlap=overlap)
