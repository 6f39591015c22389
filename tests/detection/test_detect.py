"""The contract of every face detector, and what is particular to each.

The learned detectors run with weights made here: all zero but for one path, so that a red dot of
one pixel is a face of 16 px at a known place. What the published or trained weights find is
measured elsewhere.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.boxes import best_first, iou_matrix
from fasr_video.checkpoint import load_state, read_state
from fasr_video.configs import settings
from fasr_video.detection import BACKENDS, Detector, TiledDetector, open_detector
from fasr_video.detection.builtin import (
    BuiltinDetector,
    Engine,
    decode_frames,
    fuse_batch_norms,
    pad,
    pixels_by_table,
)
from fasr_video.detection.network import BASE, STRIDES, DetectorNet, LevelOutput, decode_level
from fasr_video.errors import FasrError, MissingExtra, ModelError, SettingsError, UsageError
from fasr_video.media import Sampling, open_video
from fasr_video.pipeline.run import GATE_SETTINGS
from fasr_video.types import Detections, Image
from tests.support.bad_weights import FolderMaker, write_text_file
from tests.support.detectors import (
    LANDMARKS,
    RED,
    assert_same,
    blank_picture,
    builtin_weights,
    centres,
    insightface_graph,
    move_weights_to_file,
    retinaface_weights,
    save_graph,
    zero_tensors,
)
from tests.support.paths import SAMPLES

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNED = ("builtin", "retinaface", "insightface")
ASTRONAUT: Image = skimage.data.astronaut()


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


# --- the contract ------------------------------------------------------------------------------


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
    small = (
        cv2.resize(part, (56, 56), interpolation=cv2.INTER_AREA).astype(np.float32)
        * brightness
        / 255
    )
    frame[y - 28 : y + 28, x - 28 : x + 28] = small.astype(np.uint8)
    return x, y


@pytest.fixture(
    scope="module", params=[*((name, "torch") for name in BACKENDS), ("builtin", "openvino")]
)
def subject(request: pytest.FixtureRequest, models: dict[str, Path]) -> Subject:
    backend, engine = request.param
    detector = open_detector(
        backend, weights=models.get(backend), device="cpu", min_score=0.5, engine=engine
    )
    shifts = {"builtin": 2, "retinaface": 4, "insightface": 0}
    if backend in shifts:
        return Subject(detector, draw_dot(shifts[backend]), tolerance=1e-3)
    return Subject(detector, draw_astronaut, tolerance=5)


@pytest.mark.parametrize("size", [(160, 128), (203, 135), (97, 251)])
def test_each_face_is_found_at_its_position(subject: Subject, size: tuple[int, int]) -> None:
    frame = blank_picture(*size)
    true = [subject.draw(frame, 48, 32, 255), subject.draw(frame, 56, 96, 255)]
    detections = subject.detector.detect([frame])[0]
    positions = centres(detections)[np.argsort(centres(detections)[:, 1])]
    assert positions == pytest.approx(np.array(true), abs=subject.tolerance)


def test_no_frames_give_no_results(subject: Subject) -> None:
    assert subject.detector.detect([]) == []


@pytest.mark.parametrize("size", [(160, 128), (33, 65), (7, 5), (1, 1)])
def test_a_frame_without_faces_has_none(subject: Subject, size: tuple[int, int]) -> None:
    detections = subject.detector.detect([blank_picture(*size)])[0]
    assert_same(detections, Detections.empty(subject.detector.has_landmarks))


def test_detections_come_best_first(subject: Subject) -> None:
    frame = blank_picture(320, 64)
    true = {
        brightness: subject.draw(frame, x, 32, brightness)
        for x, brightness in ((48, 225), (152, 255), (256, 240))
    }
    detections = subject.detector.detect([frame])[0]
    assert len(detections) == 3
    assert detections.boxes.dtype == detections.scores.dtype == np.float32
    assert (
        (detections.scores >= 0.5).all()
        and (detections.scores <= 1).all()
        and (np.diff(detections.scores) <= 0).all()
    )
    if subject.detector.has_landmarks:  # these detectors answer to the dot's brightness
        expected = np.array([true[b] for b in (255, 240, 225)])
        assert centres(detections) == pytest.approx(expected, abs=subject.tolerance)


def test_result_does_not_depend_on_the_other_frames(subject: Subject) -> None:
    frames = [
        blank_picture(160, 128),
        blank_picture(160, 128),
        blank_picture(99, 77),
        blank_picture(160, 128),
    ]
    for frame, x in zip(frames[:3], (48, 64, 40), strict=True):
        subject.draw(frame, x, 32, 240)
    together = subject.detector.detect(frames)
    assert [len(detections) for detections in together] == [1, 1, 1, 0]
    for frame, detections in zip(frames, together, strict=True):
        assert_same(detections, subject.detector.detect([frame])[0])


def test_landmarks_come_with_each_face_or_not_at_all(subject: Subject) -> None:
    frame = blank_picture(160, 128)
    x, y = subject.draw(frame, 48, 32, 255)
    landmarks = subject.detector.detect([frame])[0].landmarks
    if not subject.detector.has_landmarks:
        assert landmarks is None
    else:
        assert landmarks is not None and landmarks.dtype == np.float32
        assert landmarks == pytest.approx(
            (LANDMARKS + np.array((x, y)))[None], abs=subject.tolerance
        )


def test_detection_does_not_change_the_frames(subject: Subject) -> None:
    frame = blank_picture(160, 128)
    subject.draw(frame, 48, 32, 255)
    before = frame.copy()
    subject.detector.detect([frame])
    assert np.array_equal(frame, before)


def test_a_detector_has_name_licence_and_fingerprint(subject: Subject) -> None:
    detector = subject.detector
    assert len(bytes.fromhex(detector.fingerprint)) == 32
    assert detector.name and detector.licence and "\n" not in detector.name + detector.licence


def test_tiles_change_nothing_but_the_name(subject: Subject) -> None:
    frame = blank_picture(400, 128)
    for x in (48, 136, 224, 320):
        subject.draw(frame, x, 40, 255)
    tiled = TiledDetector(subject.detector, 160, 96)
    detections, untiled = tiled.detect([frame])[0], subject.detector.detect([frame])[0]
    assert len(detections) == len(untiled) == 4
    assert iou_matrix(detections.boxes, untiled.boxes).max(1) == pytest.approx(
        1, abs=subject.tolerance / 20
    )
    assert tiled.fingerprint == subject.detector.fingerprint and "160" in tiled.name


@pytest.mark.parametrize("backend", LEARNED)
def test_colours_are_red_green_blue(backend: str, models: dict[str, Path]) -> None:
    detector = open_detector(backend, weights=models[backend], device="cpu", min_score=0.5)
    detections: list[int] = []
    for colour in (RED, (0, 255, 0), (0, 0, 255)):
        frame = blank_picture(64, 64)
        frame[32, 32] = colour
        detections.append(len(detector.detect([frame])[0]))
    assert detections == [1, 0, 0]


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
def test_results_in_shrunk_frames_are_in_pixels_of_the_frame(
    backend: str, shift: int, models: dict[str, Path]
) -> None:
    detector = open_detector(
        backend, weights=models[backend], device="cpu", min_score=0.5, max_side=128
    )
    frame = blank_picture(256, 192)
    frame[64:66, 80:82] = RED
    detections = detector.detect([frame])[0]
    x, y = 80 + shift, 64 + shift
    assert detections.boxes == pytest.approx(np.array([[x - 16, y - 16, x + 16, y + 16]]), abs=1e-3)
    assert detections.landmarks == pytest.approx((2 * LANDMARKS + np.array((x, y)))[None], abs=1e-3)


@pytest.mark.parametrize("backend", LEARNED)
def test_faces_below_min_score_are_left_out(backend: str, models: dict[str, Path]) -> None:
    frame = blank_picture(64, 64)
    frame[32, 32] = (225, 0, 0)
    counts = []
    for min_score in (0.5, 0.9999):
        detector = open_detector(
            backend, weights=models[backend], device="cpu", min_score=min_score
        )
        counts.append(len(detector.detect([frame])[0]))
    assert counts == [1, 0]


# --- haar --------------------------------------------------------------------------------------


def test_haar_finds_the_astronaut() -> None:
    detections = open_detector("haar", weights=None, device="cpu", min_score=0.7).detect(
        [ASTRONAUT]
    )[0]
    assert len(detections) == 1
    assert iou_matrix(detections.boxes, np.array([[180, 62, 270, 165]], np.float32))[0, 0] > 0.7


def test_haar_needs_no_torch() -> None:
    code = (
        "import sys; from fasr_video.detection import open_detector;open_detector('haar', "
        "weights=None, device='cpu', min_score=0.5); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("clip", ["corridor", "entrance", "night"])
def test_eight_bits_find_the_faces_of_the_sample_clips(clip: str) -> None:
    exact, coarse = (
        open_detector("builtin", weights=None, device="cpu", min_score=0.3, engine=e)
        for e in ("torch", "openvino")
    )
    assert "int8" in coarse.name and exact.fingerprint == coarse.fingerprint
    for frame in islice(open_video(SAMPLES / f"{clip}.mp4").frames(Sampling()), 10, 180, 60):
        a, b = (detector.detect([frame.image])[0] for detector in (exact, coarse))
        sure = a.take(a.scores >= 0.5)
        overlap = iou_matrix(sure.boxes, b.boxes)
        assert (overlap.max(1) > 0.8).all()
        assert sure.scores == pytest.approx(b.scores[overlap.argmax(1)], abs=0.1)


# --- builtin -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize(("batch", "taken"), [("3", [3, 2]), ("null", [1] * 5)])
def test_the_batch_size_is_that_of_the_setting(
    engine: str,
    batch: str,
    taken: list[int],
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = (
        f"detect.batch={batch}",
        f"detect.engine={engine}",
        f"detect.weights={models['builtin']}",
    )
    detector = open_detector(
        **settings.load("cpu", chosen).detect.model_dump(exclude=GATE_SETTINGS)
    )
    assert isinstance(detector, BuiltinDetector)
    batch_sizes: list[int] = []
    engine_of = type(detector._net)
    compute = engine_of.__call__

    def count_calls(net: Engine, frames: Sequence[Image]) -> list[LevelOutput]:
        batch_sizes.append(len(frames))
        return compute(net, frames)

    monkeypatch.setattr(engine_of, "__call__", count_calls)
    assert len(detector.detect([blank_picture(64, 64) for _ in range(5)])) == 5
    assert batch_sizes == taken


FACES = {
    4: (41.0, 30.5, 14.0, 18.0),
    8: (93.5, 40.0, 50.0, 62.0),
    16: (70.0, 110.0, 100.0, 120.0),
}  # cx, cy, w, h


def encode_level(stride: int, height: int, width: int) -> LevelOutput:
    """Return a level with the face of FACES with that stride, as `LevelOutput` describes it."""
    cx, cy, w, h = FACES[stride]
    shape = (height // stride, width // stride)
    out = LevelOutput(*(torch.zeros(1, channels, *shape) for channels in (1, 2, 2, 10)))
    column, row = int(cx // stride), int(cy // stride)
    middle = torch.tensor([column + 0.5, row + 0.5])
    out.logit[:] = -9
    out.logit[0, 0, row, column] = stride / 4
    out.offset[0, :, row, column] = torch.tensor([cx, cy]) / stride - middle
    out.log_size[0, :, row, column] = (torch.tensor([w, h]) / (BASE * stride)).log()
    landmarks = torch.from_numpy(LANDMARKS) + torch.tensor([cx, cy])
    out.landmarks[0, :, row, column] = ((landmarks / stride - middle) / BASE).ravel()
    return out


def test_builtin_decodes_one_face_of_each_stride_exactly() -> None:
    detections = decode_frames([encode_level(stride, 160, 192) for stride in STRIDES], 0.5)[0]
    expected = np.array([FACES[stride] for stride in (16, 8, 4)])  # the coarser, the surer
    half = expected[:, 2:] / 2
    assert detections.boxes == pytest.approx(
        np.concatenate((expected[:, :2] - half, expected[:, :2] + half), 1), abs=1e-3
    )
    assert detections.landmarks == pytest.approx(LANDMARKS + expected[:, None, :2], abs=1e-3)
    assert detections.scores == pytest.approx(1 / (1 + np.exp([-4.0, -2.0, -1.0])), abs=1e-5)


def test_builtin_merges_the_detections_of_two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACES, 8, FACES[16])
    detections = decode_frames([encode_level(stride, 160, 192) for stride in STRIDES], 0.5)[0]
    assert detections.scores == pytest.approx(1 / (1 + np.exp([-4.0, -1.0])), abs=1e-5)


def test_builtin_sees_a_face_at_the_padded_edges(models: dict[str, Path]) -> None:
    frame = blank_picture(101, 69)
    frame[68, 100] = RED
    detections = open_detector(
        "builtin", weights=models["builtin"], device="cpu", min_score=0.5
    ).detect([frame])[0]
    assert detections.boxes.tolist() == [[94, 62, 110, 78]]  # sticks out, and says so


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_of_pixel_values_equals_the_arithmetic(dtype: torch.dtype) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3)).astype(np.uint8)
    computed = pad((torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1).to(dtype))
    detections = pixels_by_table(list(frames), dtype)
    assert torch.equal(detections, computed) and detections.stride() == computed.stride()


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


# --- weights files -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed_state_dicts_load(tmp_path: Path, prefix: str, wrapped: bool) -> None:
    source, target = (
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    )
    state = {prefix + k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pth")
    load_state(target, tmp_path / "w.pth")
    assert torch.equal(target.state_dict()["0.weight"], source.state_dict()["0.weight"])


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"weight": FolderMaker(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="which is refused; if you trust the file, convert"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


def write_changed(path: Path, edit: Callable[[dict[str, Tensor]], None]) -> Path:
    state = zero_tensors(DetectorNet())
    edit(state)
    save_file(state, path)
    return path


def drop_head_biases(state: dict[str, Tensor]) -> None:
    for level in range(len(STRIDES)):
        del state[f"head.{level}.bias"]


def recognition_pack(folder: Path) -> Path:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 112, 112])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 3, 112, 112])
    node = helper.make_node("Identity", ["pixels"], ["result"])
    save_graph(folder / "w600k.onnx", helper.make_graph([node], "no detector", [pixels], [result]))
    return folder


def torch_list(path: Path) -> Path:
    torch.save([1, 2], path)
    return path


MISTAKES: dict[str, tuple[str, Callable[[Path], Path | None], type[FasrError], str]] = {
    "builtin, no file": (
        "builtin",
        lambda d: d / "none.safetensors",
        ModelError,
        "no such file; check the path",
    ),
    "builtin, a text file": (
        "builtin",
        lambda d: write_text_file(d / "a.safetensors"),
        ModelError,
        "download it again",
    ),
    "builtin, lacking": (
        "builtin",
        lambda d: write_changed(d / "a.safetensors", drop_head_biases),
        ModelError,
        "lacks 3 of .*head.0.bias, head.1.bias, head.2.bias; give weights made for DetectorNet",
    ),
    "builtin, unknown": (
        "builtin",
        lambda d: write_changed(d / "a.safetensors", lambda s: s.update(more=torch.zeros(1))),
        ModelError,
        "unknown 1 of .*more",
    ),
    "builtin, other shape": (
        "builtin",
        lambda d: write_changed(
            d / "a.safetensors", lambda s: s.update({"head.0.bias": torch.zeros(3)})
        ),
        ModelError,
        "another shape of 1 of .*head.0.bias",
    ),
    "retinaface, none given": ("retinaface", lambda d: None, UsageError, "give the path"),
    "retinaface, a text file": (
        "retinaface",
        lambda d: write_text_file(d / "a.pth"),
        ModelError,
        "run code.*, convert it",
    ),
    "retinaface, a list": (
        "retinaface",
        lambda d: torch_list(d / "a.pth"),
        ModelError,
        "give a file with a state",
    ),
    "retinaface, of another net": (
        "retinaface",
        lambda d: write_changed(d / "a.safetensors", lambda s: None),
        ModelError,
        "lacks .* body.conv1.weight, body.bn1.weight, body.bn1.bias, …; give weights made for "
        "RetinaFaceNet",
    ),
    "insightface, none given": ("insightface", lambda d: None, UsageError, "give a folder"),
    "insightface, no folder": (
        "insightface",
        lambda d: d / "none",
        ModelError,
        "no such folder.*; give a folder",
    ),
    "insightface, empty folder": (
        "insightface",
        lambda d: d,
        ModelError,
        "no .onnx file in it; give a folder",
    ),
    "insightface, a text file": (
        "insightface",
        lambda d: write_text_file(d / "p" / "a.onnx").parent,
        ModelError,
        "not a readable ONNX file; copy",
    ),
    "insightface, weights elsewhere": (
        "insightface",
        lambda d: move_weights_to_file(insightface_graph(d / "p" / "a.onnx") / "a.onnx").parent,
        ModelError,
        "weights lie in other files, .*; save it as one file",
    ),
    "insightface, no detector": (
        "insightface",
        lambda d: recognition_pack(d / "p"),
        ModelError,
        "no usable detector",
    ),
    "haar, with weights": ("haar", lambda d: d, UsageError, "leave it out"),
    "no such backend": ("yolo", lambda d: None, SettingsError, "use one of builtin, haar"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line_with_a_remedy(mistake: str, tmp_path: Path) -> None:
    backend, prepare, kind, expected = MISTAKES[mistake]
    weights = prepare(tmp_path)
    with pytest.raises(kind, match=expected) as caught:
        open_detector(backend, weights=weights, device="cpu", min_score=0.5)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if kind is ModelError:
        assert str(caught.value).startswith(str(weights))


@pytest.mark.parametrize("backend", BACKENDS)
def test_there_is_no_silent_fallback_to_another_device(
    backend: str, models: dict[str, Path]
) -> None:
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
    monkeypatch.delitem(sys.modules, "fasr_video.detection.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fasr-video\[fast\]'"):
        open_detector(
            "builtin", weights=models["builtin"], device="cpu", min_score=0.5, engine="openvino"
        )


def test_the_builtin_detector_needs_no_openvino() -> None:
    code = (
        "import sys; sys.modules['openvino'] = None; from fasr_video.detection import "
        "open_detector;open_detector('builtin', weights=None, device='cpu', min_score=0.5)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [("haar", "cpu", "haar backend"), ("builtin", "cuda", "CPU only")],
)
def test_openvino_is_refused_where_it_cannot_compute(
    backend: str, device: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_detector(backend, weights=None, device=device, min_score=0.5, engine="openvino")


@pytest.mark.parametrize("overlap", [-1, 100, 200])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(SettingsError, match="smaller than the tile"):
        open_detector(
            "haar", weights=None, device="cpu", min_score=0.5, tile=100, tile_overlap=overlap
        )


def test_a_box_within_a_better_one_is_a_part_of_that_face() -> None:
    face, cheek, other = (0, 0, 100, 120), (20, 60, 60, 100), (90, 100, 130, 150)
    boxes = np.array([face, cheek, other], np.float32)
    detections = best_first(boxes, np.array([0.9, 0.8, 0.7], np.float32), None)
    assert detections.boxes.tolist() == [list(face), list(other)]
    surer = best_first(boxes, np.array([0.7, 0.8, 0.9], np.float32), None)
    assert len(surer) == 3, "only a better box takes another one's part"
