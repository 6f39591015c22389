"""The contract of every embedder, and what is particular to each.

AdaFace runs with weights made from the parameters' names, InsightFace's ArcFace as a small graph
made here, the builtin embedder and dlib with their own.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from fasr_video.detection import open_detector
from fasr_video.errors import FasrError, MissingExtra, ModelError, SettingsError, UsageError
from fasr_video.pipeline.stills import read_still
from fasr_video.recognition.adaface import AdaFaceNet
from fasr_video.recognition.align import (
    DEFAULT_LANDMARKS,
    canonical_to_arcface,
    canonical_to_dlib,
    mirror_landmarks,
)
from fasr_video.recognition.dlib_resnet import DATA_PACKAGE, MEAN
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.recognition.embedders import EMBEDDERS, open_embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.weights.manifest import bundled
from tests.support.bad_weights import write_text_file
from tests.support.detectors import move_weights_to_file
from tests.support.embedder_files import (
    DLIB_FILE,
    GRAPH_LENGTH,
    arcface_graph,
    other_graph,
    pack,
    seeded_state,
)
from tests.support.paths import PORTRAITS

pytestmark = pytest.mark.usefixtures("one_thread")


# --- weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("models")
    large = folder / "adaface_ir18.ckpt"
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in seeded_state().items()}}, large
    )
    yield {
        "builtin": bundled("embedder.safetensors"),
        "adaface": large,
        "insightface": pack(folder / "pack"),
        "dlib": DLIB_FILE,
    }
    large.unlink()  # 96 MB: pytest keeps the folders of the last runs


# --- the contract ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    name: str
    length: int
    licence: str
    uses_landmarks: bool


FACTS = {
    "builtin": Facts(
        "builtin", 512, "research use: trained on CelebA, FairFace and web scenes", False
    ),
    "adaface": Facts("adaface ir_18", 512, "AdaFace's code: MIT", True),
    "insightface": Facts(
        "insightface w600k_r50", GRAPH_LENGTH, "InsightFace's published models", True
    ),
    "dlib": Facts("dlib resnet_v1", 128, "public domain (CC0), by its author", True),
}


def test_every_embedder_is_tested_against_the_contract() -> None:
    assert EMBEDDERS.keys() == FACTS.keys()


@pytest.fixture(
    scope="module", params=[(name, flip) for name in FACTS for flip in (False, True)], ids=str
)
def open_by_facts(
    request: pytest.FixtureRequest, models: dict[str, Path]
) -> tuple[Facts, Embedder, bool]:
    name, flip = request.param
    return FACTS[name], open_embedder(name, models[name], "cpu", flip), flip


def some_faces(count: int) -> tuple[Tensor, Tensor]:
    """Soft patches of colour, and landmarks of usual faces; those of the third are unknown."""
    generator = torch.Generator().manual_seed(0)
    faces = F.interpolate(
        torch.rand(count, 3, 9, 9, generator=generator), (128, 128), mode="bicubic"
    ).clamp(0, 1)
    landmarks = torch.from_numpy(DEFAULT_LANDMARKS).float() + 3 * torch.randn(
        count, 5, 2, generator=generator
    )
    landmarks[2:3] = torch.nan
    return faces, landmarks


Opened = tuple[Facts, Embedder, bool]


def test_features_are_unit_vectors_with_positive_norms(open_by_facts: Opened) -> None:
    facts, embedder, _ = open_by_facts
    faces, landmarks = some_faces(8)
    features, norms = embedder.embed(faces, landmarks)
    assert embedder.length == facts.length
    assert features.shape == (8, facts.length) and norms.shape == (8,)
    assert features.dtype == norms.dtype == torch.float32
    assert features.isfinite().all() and norms.isfinite().all() and (norms > 0).all()
    assert torch.allclose(features.norm(dim=1), torch.ones(8), atol=1e-5)
    others = features @ features.T - 2 * torch.eye(8)
    assert others.max() < 0.9999, "different faces have different features"


def test_an_embedder_has_name_licence_and_hash(open_by_facts: Opened) -> None:
    facts, embedder, flip = open_by_facts
    assert embedder.name == facts.name + " + flip" * flip
    assert embedder.licence.startswith(facts.licence)
    assert embedder.device == torch.device("cpu")


def test_a_feature_does_not_depend_on_the_other_faces(open_by_facts: Opened) -> None:
    _, embedder, _ = open_by_facts
    faces, landmarks = some_faces(8)
    features, norms = embedder.embed(faces, landmarks)
    for i in (0, 2, 7):
        alone, norm = embedder.embed(faces[i : i + 1], landmarks[i : i + 1])
        assert (alone[0] - features[i]).norm() < 1e-5
        assert float(norm) == pytest.approx(float(norms[i]), rel=1e-5)


def test_the_same_face_has_the_same_feature(open_by_facts: Opened) -> None:
    _, embedder, _ = open_by_facts
    faces, landmarks = some_faces(3)
    for first, second in zip(
        embedder.embed(faces, landmarks),
        embedder.embed(faces.clone(), landmarks.clone()),
        strict=True,
    ):
        assert torch.equal(first, second)


def test_no_faces_have_no_features(open_by_facts: Opened) -> None:
    facts, embedder, _ = open_by_facts
    for landmarks in (None, torch.zeros(0, 5, 2)):
        features, norms = embedder.embed(torch.zeros(0, 3, 128, 128), landmarks)
        assert features.shape == (0, facts.length) and norms.shape == (0,)


@pytest.mark.slow
def test_unknown_landmarks_are_those_of_a_usual_face(open_by_facts: Opened) -> None:
    facts, embedder, _ = open_by_facts
    faces, landmarks = some_faces(3)
    unknown, _ = embedder.embed(faces, None)
    for other in (
        torch.full((3, 5, 2), torch.nan),
        torch.from_numpy(DEFAULT_LANDMARKS).float().expand(3, -1, -1),
    ):
        assert torch.allclose(embedder.embed(faces, other)[0], unknown, atol=1e-5)
    moved = (embedder.embed(faces, landmarks)[0] - unknown).norm(dim=1) > 1e-3
    assert moved.tolist() == [facts.uses_landmarks, facts.uses_landmarks, False]


def test_with_flip_a_face_and_its_mirror_image_have_one_feature(open_by_facts: Opened) -> None:
    _, embedder, flip = open_by_facts
    faces, landmarks = some_faces(2)
    one, norm = embedder.embed(faces, landmarks)
    other, other_norm = embedder.embed(faces.flip(3), mirror_landmarks(landmarks))
    assert ((one - other).norm(dim=1) < 1e-5).all() == flip
    assert torch.allclose(norm, other_norm, rtol=1e-5) == flip


@pytest.mark.parametrize("backend", EMBEDDERS)
def test_flip_is_the_mean_of_both_features_under_a_hash_of_its_own(
    backend: str, models: dict[str, Path]
) -> None:
    plain, flipped = (
        open_embedder(backend, models[backend], "cpu", flip) for flip in (False, True)
    )
    faces, landmarks = some_faces(2)
    (one, norm), (two, other) = (
        plain.embed(faces, landmarks),
        plain.embed(faces.flip(3), mirror_landmarks(landmarks)),
    )
    mean = (one * norm[:, None] + two * other[:, None]) / 2
    features, norms = flipped.embed(faces, landmarks)
    assert torch.allclose(features * norms[:, None], mean, atol=1e-5 * float(mean.norm()))
    assert flipped.sha256 == hashlib.sha256(f"{plain.sha256} flip".encode()).hexdigest()


@pytest.mark.parametrize("backend", EMBEDDERS)
def test_its_hash_is_that_of_the_weights(backend: str, models: dict[str, Path]) -> None:
    file = models[backend] / "w600k_r50.onnx" if backend == "insightface" else models[backend]
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert open_embedder(backend, models[backend], "cpu").sha256 == expected


# --- particulars -------------------------------------------------------------------------------


def test_the_builtin_embedder_has_bundled_weights() -> None:
    expected = hashlib.sha256(bundled("embedder.safetensors").read_bytes()).hexdigest()
    assert open_embedder("builtin", None, "cpu").sha256 == expected


def test_dlib_finds_its_weights_without_importing_the_package_that_has_them() -> None:
    embedder = open_embedder("dlib", None, "cpu")
    assert embedder.sha256 == hashlib.sha256(DLIB_FILE.read_bytes()).hexdigest()
    assert DATA_PACKAGE not in sys.modules, "it needs pkg_resources, which setuptools has no more"


def test_dlib_features_are_dlibs_own_minus_the_mean() -> None:
    """As dlib is fed: pictures of 150×150, RGB, of whole numbers."""
    import dlib

    faces, landmarks = some_faces(3)
    chips = (canonical_to_dlib(faces, landmarks) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    network = dlib.face_recognition_model_v1(str(DLIB_FILE))
    expected = (
        np.array([network.compute_face_descriptor(np.ascontiguousarray(chip)) for chip in chips])
        - MEAN
    )
    features, norms = open_embedder("dlib", None, "cpu").embed(faces, landmarks)
    assert np.allclose((features * norms[:, None]).numpy(), expected, atol=1e-5)


def test_dlib_separates_the_same_person_from_strangers() -> None:
    """Portraits in the public domain, in two sizes; without the mean, strangers have about 0.8."""
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.5)
    stills = [
        read_still(photo, detector) for photo in sorted((PORTRAITS / "mugshots").glob("*.jpg"))
    ]
    faces = torch.cat(
        [enlarge(shrink(as_tensor([s.face]), side), 128) for side in (128, 48) for s in stills]
    )
    features, _ = open_embedder("dlib", None, "cpu").embed(faces)
    cosines = features[: len(stills)] @ features[len(stills) :].T
    own = torch.eye(len(stills), dtype=torch.bool)
    assert cosines[own].min() > 0.6 and cosines[~own].max() < 0.5


def test_adaface_sees_bgr_from_minus_one_to_one(models: dict[str, Path]) -> None:
    """As its authors feed it: an OpenCV picture of the aligned face."""
    faces, landmarks = some_faces(2)
    aligned = (canonical_to_arcface(faces, landmarks) * 255).permute(0, 2, 3, 1).numpy()
    bgr = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in aligned])
    net = AdaFaceNet(18).eval()
    net.load_state_dict(seeded_state())
    with torch.no_grad():
        expected, norms = net(torch.from_numpy((bgr / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float())
    features, lengths = open_embedder("adaface", models["adaface"], "cpu").embed(faces, landmarks)
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.allclose(lengths, norms[:, 0], rtol=1e-5)


def test_insightface_features_equal_those_of_its_package(models: dict[str, Path]) -> None:
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    faces, landmarks = some_faces(4)
    faces = (faces * 255).round() / 255
    pictures = (canonical_to_arcface(faces, landmarks) * 255).permute(0, 2, 3, 1).numpy()
    peer = ArcFaceONNX(str(models["insightface"] / "w600k_r50.onnx"))
    expected = torch.from_numpy(
        peer.get_feat([np.ascontiguousarray(p[..., ::-1]) for p in pictures])
    )
    features, norms = open_embedder("insightface", models["insightface"], "cpu").embed(
        faces, landmarks
    )
    assert torch.allclose(features, F.normalize(expected), atol=1e-5)
    assert torch.allclose(norms, expected.norm(dim=1), rtol=1e-5)


def old_graph(path: Path) -> Path:
    """Files of the first years list their weights among the inputs."""
    model = onnx.load(arcface_graph(path))
    for constant in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(constant.name, TensorProto.FLOAT, list(constant.dims))
        )
    onnx.save(model, path)
    return path


VARIANTS: dict[str, Callable[[Path], Path]] = {
    "by the file": lambda d: arcface_graph(d / "w600k_r50.onnx"),
    "for one face at a time": lambda d: arcface_graph(d / "w600k_r50.onnx", batch=1),
    "weights among its inputs": lambda d: old_graph(d / "w600k_r50.onnx"),
    "normalising by itself": lambda d: arcface_graph(d / "w600k_r50.onnx", normalises=True),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_graphs_of_all_kinds_give_the_same_features(
    variant: str, models: dict[str, Path], tmp_path: Path
) -> None:
    faces, landmarks = some_faces(5)
    expected, norms = open_embedder("insightface", models["insightface"], "cpu").embed(
        faces, landmarks
    )
    features, lengths = open_embedder("insightface", VARIANTS[variant](tmp_path), "cpu").embed(
        faces, landmarks
    )
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.allclose(lengths, norms, rtol=1e-4)


def test_more_faces_than_one_batch_are_embedded(models: dict[str, Path]) -> None:
    embedder = open_embedder("insightface", models["insightface"], "cpu")
    faces, landmarks = some_faces(70)
    features, _ = embedder.embed(faces, landmarks)
    assert torch.allclose(embedder.embed(faces[64:], landmarks[64:])[0], features[64:], atol=1e-5)


# --- mistakes ----------------------------------------------------------------------------------


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def write_not_finite(path: Path) -> Path:
    model = onnx.load(arcface_graph(path))
    dense = next(c for c in model.graph.initializer if c.name == "dense")
    dense.CopyFrom(
        numpy_helper.from_array(np.full((196, GRAPH_LENGTH), np.nan, np.float32), "dense")
    )
    onnx.save(model, path)
    return path


def two_networks(folder: Path) -> Path:
    arcface_graph(folder / "r50.onnx")
    return arcface_graph(folder / "r100.onnx").parent


MISTAKES: dict[str, tuple[str, Callable[[Path], Path | None], type[FasrError], str]] = {
    "no such embedder": (
        "facenet",
        lambda d: None,
        SettingsError,
        "use one of builtin, adaface, insightface, dlib",
    ),
    "builtin, no file": (
        "builtin",
        lambda d: d / "none.safetensors",
        ModelError,
        "no such file; check the path",
    ),
    "adaface, none given": (
        "adaface",
        lambda d: None,
        UsageError,
        "no bundled ones; give the path of one of AdaFace's",
    ),
    "adaface, no file": (
        "adaface",
        lambda d: d / "none.ckpt",
        ModelError,
        "no such file; check the path",
    ),
    "adaface, builtin's": (
        "adaface",
        lambda d: bundled("embedder.safetensors"),
        ModelError,
        "it has 0 residual units",
    ),
    "dlib, no file": (
        "dlib",
        lambda d: d / "none.dat",
        ModelError,
        "no such file; give dlib_face_recognition_resnet",
    ),
    "dlib, another file": (
        "dlib",
        lambda d: write_text_file(d / "a.dat"),
        ModelError,
        "SHA-256 .*; copy or install it",
    ),
    "insightface, none given": (
        "insightface",
        lambda d: None,
        UsageError,
        "no bundled ones; give InsightFace's ArcFace .onnx",
    ),
    "insightface, no folder": (
        "insightface",
        lambda d: d / "none",
        ModelError,
        "no such file.*; give an ArcFace",
    ),
    "insightface, empty folder": (
        "insightface",
        lambda d: d,
        ModelError,
        "no .onnx file in the folder; give an ArcF",
    ),
    "insightface, a text file": (
        "insightface",
        lambda d: write_text_file(d / "a.onnx"),
        ModelError,
        "not a readable ONNX file; copy or download it again",
    ),
    "insightface, weights elsewhere": (
        "insightface",
        lambda d: move_weights_to_file(arcface_graph(d / "a.onnx")),
        ModelError,
        "weights lie in other files, .*; save it as one file",
    ),
    "insightface, truncated": (
        "insightface",
        lambda d: truncate(arcface_graph(d / "a.onnx")),
        ModelError,
        "not a readable ONNX file; copy or download it again",
    ),
    "insightface, NaN": (
        "insightface",
        lambda d: write_not_finite(d / "a.onnx"),
        ModelError,
        "not finite; check",
    ),
    "insightface, a detector": (
        "insightface",
        lambda d: other_graph(d / "a.onnx", 112, 9),
        ModelError,
        "0 ArcFace networks.*; give the path",
    ),
    "insightface, no features": (
        "insightface",
        lambda d: other_graph(d / "a.onnx", 112, 1),
        ModelError,
        "cannot use it",
    ),
    "insightface, larger pictures": (
        "insightface",
        lambda d: arcface_graph(d / "a.onnx", side=128),
        ModelError,
        "0 ArcFace networks .*N×3×112×112",
    ),
    "insightface, two networks": (
        "insightface",
        two_networks,
        ModelError,
        "2 ArcFace networks.*; give the path of the",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line_with_a_remedy(mistake: str, tmp_path: Path) -> None:
    backend, prepare, kind, expected = MISTAKES[mistake]
    weights = prepare(tmp_path)
    with pytest.raises(kind, match=expected) as caught:
        open_embedder(backend, weights, "cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if kind is ModelError:
        assert str(caught.value).startswith(str(weights))


@pytest.mark.parametrize("backend", EMBEDDERS)
def test_there_is_no_silent_fallback_to_another_device(
    backend: str, models: dict[str, Path]
) -> None:
    with pytest.raises(UsageError, match="use device cpu"):
        open_embedder(backend, models[backend], "warp")


@pytest.mark.parametrize(
    ("backend", "package"),
    [("insightface", "onnxruntime"), ("dlib", "dlib"), ("dlib", DATA_PACKAGE)],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    backend: str, package: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    weights = models[backend] if backend == "insightface" else None
    with pytest.raises(MissingExtra, match=rf"{package}.*pip install 'fasr-video\[{backend}\]'"):
        open_embedder(backend, weights, "cpu")


def test_dlib_refuses_a_gpu() -> None:
    with pytest.raises(
        UsageError, match="device cuda: the embedder dlib computes on the CPU only; use device cpu"
    ):
        open_embedder("dlib", None, "cuda")
