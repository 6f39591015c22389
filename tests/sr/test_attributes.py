"""The classifier of attributes under noise: SRDG's network, its files and ours, its trainer, its
measures.

The published network is held against a plain NumPy evaluation of the published layout, with weights
made from the parameters' names. With FASR_SRDG_GENDER=FILE, the path of SRDG's ckpt_gender, against
its own logits too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from fasr_video.cli import cli
from fasr_video.datasets.faces import Faces, degrade
from fasr_video.errors import FasrError, InputError, ModelError, UsageError
from fasr_video.evaluation.attributes import View, scores
from fasr_video.files import sha256_file
from fasr_video.sr import weights
from fasr_video.sr.attributes import NAMES, AttributeClassifier
from fasr_video.sr.checkpoints import load, load_attribute_classifier
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.networks.attributes import MEAN, STD, AttributeNet
from fasr_video.training.attributes import (
    class_weights,
    levels,
    make_loss,
    read_labels,
    small,
    train_attributes,
)
from fasr_video.training.loop import Plan, Progress
from tests.support.attribute_files import (
    Array,
    Tree,
    labelled_faces,
    published_file,
    published_tree,
    randomise,
)
from tests.support.checkpoint_files import as_safetensors, fasr_file, flax_file

CPU = torch.device("cpu")


# --- the published layout -------------------------------------------------------------------------


def batch_norm(x: Array, tree: Tree, *path: str) -> Array:
    """BatchNorm with running statistics, then ReLU."""
    p, s = tree["params"], tree["batch_stats"]
    for name in path:
        p, s = p[name], s[name]
    return np.asarray(
        np.maximum((x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"], 0)
    )


def conv(x: Array, kernel: Array) -> Array:
    h, w, _ = x.shape
    r = kernel.shape[0] // 2
    x = np.pad(x, ((r, r), (r, r), (0, 0)))
    taps = [
        x[i : i + h, j : j + w] @ kernel[i, j] for i in range(2 * r + 1) for j in range(2 * r + 1)
    ]
    return np.asarray(np.sum(taps, axis=0))


def plain_logits(tree: Tree, image: Array, sigma: float) -> Array:
    """Of one picture, 128×128×3."""
    p = tree["params"]
    x = (image.astype(np.float64) - MEAN) / STD
    x = (x - x.mean()) / max(x.std(), 1 / math.sqrt(x.size))
    angle = (
        (np.log(np.float32(sigma)) * p["GaussianFourierProjection_0"]["W"])
        * np.float32(2)
        * np.float32(np.pi)
    )

    def dense(v: Array, name: str) -> Array:
        return np.asarray(v @ p[name]["kernel"] + p[name]["bias"])

    def swish(v: Array) -> Array:
        return np.asarray(v / (1 + np.exp(-v)))

    time = dense(swish(dense(np.concatenate((np.sin(angle), np.cos(angle))), "Dense_0")), "Dense_1")
    time = dense(swish(time), "Dense_2")
    x = conv(x, p["Conv_0"]["kernel"]) + p["Conv_0"]["bias"]
    x = np.concatenate((x, np.broadcast_to(time, (*x.shape[:2], 32))), axis=2)
    for b in range(4):
        for k in range(6):
            names = (f"DenseBlock_{b}", f"DenseLayer_{k}")
            kernels = p[names[0]][names[1]]
            h = conv(batch_norm(x, tree, *names, "BatchNorm_0"), kernels["Conv_0"]["kernel"])
            h = conv(batch_norm(h, tree, *names, "BatchNorm_1"), kernels["Conv_1"]["kernel"])
            x = np.concatenate((x, h), axis=2)
        if b < 3:
            name = f"TransitionLayer_{b}"
            x = conv(batch_norm(x, tree, name, "BatchNorm_0"), p[name]["Conv_0"]["kernel"])
            x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    return dense(batch_norm(x, tree, "BatchNorm_0").reshape(-1), "Dense_3")


def test_a_published_classifier_is_the_function_of_its_layout(tmp_path: Path) -> None:
    """The fixture names all 270 arrays with their shapes; the file has to give each of them, and no
    other loads.
    """
    tree, classifier = (
        published_tree(),
        load_attribute_classifier(published_file(tmp_path), attribute="male"),
    )
    assert (classifier.names, classifier.side) == (("male",), 128)
    assert (classifier.sigma_min, classifier.sigma_max) == (0.01, 348.0)
    assert not classifier.training
    image = np.random.default_rng(0).random((128, 128, 3), np.float32)
    for sigma in (0.01, 0.5, 5.0):
        given = torch.from_numpy(image).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = classifier(given, torch.tensor([sigma]))
        np.testing.assert_allclose(
            logits[0].numpy(), plain_logits(tree, image, sigma), rtol=1e-4, atol=1e-5
        )


@pytest.mark.skipif("FASR_SRDG_GENDER" not in os.environ, reason="needs SRDG's ckpt_gender")
def test_srdgs_gender_classifier_gives_its_own_logits() -> None:
    classifier = load_attribute_classifier(os.environ["FASR_SRDG_GENDER"])
    images = torch.from_numpy(
        np.random.default_rng(21).random((3, 128, 128, 3), np.float32)
    ).permute(0, 3, 1, 2)
    golden = {
        0.01: [[-1.1048323, 1.1018128], [-1.1197052, 1.1160350], [-0.7423028, 0.7337585]],
        0.5: [[-0.9253992, 0.9192905], [-1.0660965, 1.0615206], [-0.6874982, 0.6792551]],
        5.0: [[-4.9902759, 4.9934473], [-3.1879120, 3.1916981], [-1.5101658, 1.5163367]],
    }
    for sigma, expected in golden.items():
        with torch.no_grad():
            logits = classifier(images, torch.full((3,), sigma))
        torch.testing.assert_close(logits, torch.tensor(expected), rtol=2e-6, atol=2e-6)


# --- the function ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["published", "compact"])
def net(request: pytest.FixtureRequest) -> AttributeNet:
    torch.manual_seed(0)
    return randomise(AttributeNet() if request.param == "published" else AttributeNet(3, 4))


def add_noise(n: int, sigma: float) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return enlarge(torch.rand(n, 3, 8, 8, generator=g), 128) + sigma * torch.randn(
        n, 3, 128, 128, generator=g
    )


@pytest.mark.parametrize("sigma", [0.002, 30.0])
def test_gradients_are_finite_at_every_noise_level(net: AttributeNet, sigma: float) -> None:
    black = torch.zeros(1, 3, 128, 128)
    grey = torch.tensor(MEAN)[None, :, None, None].expand_as(
        black
    )  # the same number everywhere once normalised
    images = torch.cat((add_noise(1, sigma), black, grey)).requires_grad_()
    names = tuple(f"a{i}" for i in range(net.attributes))
    classifier = AttributeClassifier(net, names, 0.002, 30.0)
    log = classifier.logs(images, torch.full((3,), sigma))[:, :, 1].sum(1)
    (slope,) = torch.autograd.grad(log.sum(), images)
    assert log.shape == (3,) and bool(slope.isfinite().all()) and bool(slope[0].any())


def test_a_picture_does_not_depend_on_its_neighbours(net: AttributeNet) -> None:
    images, sigma = add_noise(3, 0.1), torch.tensor([0.01, 0.5, 5.0])
    with torch.no_grad():
        together = net(images, sigma)
        alone = torch.cat([net(images[i : i + 1], sigma[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.shape == (3, 2 * net.attributes)


def test_the_output_ignores_contrast_and_brightness(net: AttributeNet) -> None:
    images, sigma = add_noise(2, 0.1), torch.tensor([0.1, 0.1])
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        expected = net(images, sigma)
        torch.testing.assert_close(
            net(mean + 40 * (images - mean) + 3 * std, sigma), expected, rtol=1e-3, atol=1e-4
        )
        assert not torch.allclose(net(images.flip(3), sigma), expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(net(images, 10 * sigma), expected, rtol=1e-3, atol=1e-4)


def compact(names: tuple[str, ...] = NAMES) -> AttributeClassifier:
    torch.manual_seed(0)
    return AttributeClassifier(randomise(AttributeNet(len(names), 4)), names, 0.002, 30.0).eval()


@torch.no_grad()
def test_class_probabilities_of_each_attribute_sum_to_one() -> None:
    classifier, images, sigma = compact(), add_noise(2, 0.1), torch.full((2,), 0.1)
    logs, logits = classifier.logs(images, sigma), classifier(images, sigma)
    assert logs.shape == (2, 3, 2)
    torch.testing.assert_close(logs.exp().sum(2), torch.ones(2, 3))
    torch.testing.assert_close(logs[:, 1, 1] - logs[:, 1, 0], logits[:, 3] - logits[:, 2])


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match="N×3×128×128"):
        compact()(torch.rand(1, 3, 64, 64), torch.ones(1))


# --- our files ------------------------------------------------------------------------------------


def own_file(folder: Path) -> Path:
    weights.save_attributes(compact(), folder / "attributes.safetensors")
    return folder / "attributes.safetensors"


def test_a_classifier_survives_saving_and_loading(tmp_path: Path) -> None:
    path, original = own_file(tmp_path), compact()
    classifier = load_attribute_classifier(path)
    assert (classifier.names, classifier.side, classifier.network.block) == (NAMES, 128, 4)
    assert (classifier.sigma_min, classifier.sigma_max) == (0.002, 30.0)
    own, loaded = original.state_dict(), classifier.state_dict()
    frequencies = "network.GaussianFourierProjection_0.W"
    assert torch.equal(own[frequencies], loaded[frequencies])
    halves = [k for k, v in own.items() if v.is_floating_point() and k != frequencies]
    assert all(torch.equal(own[k].half().float(), loaded[k]) for k in halves)
    with torch.no_grad():
        expected = original(add_noise(2, 0.1), torch.full((2,), 0.1))
        torch.testing.assert_close(
            classifier(add_noise(2, 0.1), torch.full((2,), 0.1)), expected, rtol=0.02, atol=0.02
        )


def test_our_files_are_small_and_reproducible(tmp_path: Path) -> None:
    first = own_file(tmp_path).read_bytes()
    assert own_file(tmp_path).read_bytes() == first and len(first) < 1_500_000
    with safe_open(own_file(tmp_path), "pt") as file:
        assert list(file.metadata()) == ["fasr-video/attributes/1"]


# --- mistakes -------------------------------------------------------------------------------------


def write_weights(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def write_header(folder: Path, **changes: object) -> Path:
    """Our file with another header."""
    fields = {
        "names": NAMES,
        "block": 4,
        "side": 128,
        "sigma_min": 0.002,
        "sigma_max": 30.0,
    } | changes
    weights._save(
        compact().network.state_dict(), weights.ATTRIBUTES_FORMAT, fields, folder / "a.safetensors"
    )
    return folder / "a.safetensors"


def write_nan(tree: Tree) -> None:
    tree["batch_stats"]["BatchNorm_0"]["mean"] = np.full(184, np.nan, np.float32)


MISTAKES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda d: d / "none", "no such file; check the path"),
    "text": (lambda d: write_weights(d / "a", b"no model\n" * 9), "not a readable Flax file"),
    "truncated": (
        lambda d: write_weights(d / "a", published_file(d).read_bytes()[:-999]),
        "not a readable Flax file",
    ),
    "torch": (fasr_file, "not a readable Flax file"),
    "a score network": (
        flax_file,
        "lacks params or batch_stats, it has step, optimizer, lr; give a classifier as SRDG",
    ),
    "lacking": (
        lambda d: published_file(d, lambda t: t["params"].pop("Dense_3")),
        r"lacks 2 of 270 tensors: Dense_3.weight, Dense_3.bias; give a classifier as SRDG",
    ),
    "unknown": (
        lambda d: published_file(d, lambda t: t["params"].update(a=np.ones(1))),
        "unknown 1 of 270 tensors: .a",
    ),
    "another shape": (
        lambda d: published_file(
            d, lambda t: t["params"]["Dense_3"].update(kernel=np.ones((2944, 2)))
        ),
        "another shape of 1 of 270 tensors: Dense_3.weight",
    ),
    "NaN": (lambda d: published_file(d, write_nan), "NaN or infinity in BatchNorm_0.running_mean"),
    "no file of ours": (
        as_safetensors,
        "does not name a fasr-video attribute classifier; give weights that `train attr",
    ),
    "broken safetensors": (
        lambda d: write_weights(d / "a.safetensors", b"x" * 99),
        "not a readable safetensors file",
    ),
    "a header with more": (lambda d: write_header(d, hats=1), "its header is damaged"),
    "a header without sense": (lambda d: write_header(d, block="four"), "its header is damaged"),
    "no names": (lambda d: write_header(d, names=None), "its header is damaged"),
    "other names": (lambda d: write_header(d, names=["male"]), "another shape of 2 of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_files_that_are_no_classifier_give_a_one_line_error(mistake: str, tmp_path: Path) -> None:
    prepare, message = MISTAKES[mistake]
    path = prepare(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_attribute_classifier(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_classifier_is_no_denoiser(tmp_path: Path) -> None:
    for path, message in (
        (own_file(tmp_path), "its header names the contract fasr-video/attributes/1"),
        (published_file(tmp_path), "no published score network"),
    ):
        with pytest.raises(ModelError, match=message):
            load(path)


# --- training -------------------------------------------------------------------------------------


def labels_file(folder: Path, faces: Faces, labels: Tensor) -> Path:
    lines = [
        ",".join((path, *map(str, row)))
        for path, row in zip(faces.paths, labels.tolist(), strict=True)
    ]
    text = "\n".join(("path,male,glasses,no_beard", *reversed(lines)))
    return write_weights(folder / "labels.csv", text.encode())


def check_loss(progress: Progress) -> None:
    assert math.isfinite(progress.terms["loss"])


@pytest.fixture(scope="module")
def train_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    faces, labels = labelled_faces()
    out = tmp_path_factory.mktemp("run")
    plan = Plan(steps=30, lr=3e-3, warmup=5, ema=0.9, log_every=10, channels_last=False)
    assert train_attributes(faces, labels, out, plan, batch=16, device=CPU, report=check_loss) == 30
    return out


@pytest.mark.slow
def test_the_trainer_learns_visible_attributes(train_classifier: Path) -> None:
    faces, labels = labelled_faces()
    classifier = load_attribute_classifier(train_classifier / "attributes.safetensors")
    results = scores(classifier, faces, labels, (View(0.01), View(0.3), View(0.01, 16)))
    assert [s.attribute for s in results] == list(NAMES) * 3
    assert min(s.accuracy for s in results) > 0.9
    manifest = json.loads((train_classifier / "manifest.json").read_text())
    assert (
        manifest["share_of_class_1"] == {name: 0.5 for name in NAMES} and manifest["people"] == 48
    )
    assert (
        (train_classifier / "log.csv")
        .read_text()
        .startswith("step,loss,accuracy,male,glasses,no_beard,")
    )


def test_the_command_trains_and_resumes(tmp_path: Path) -> None:
    faces, labels = labelled_faces(8)
    for path, picture in zip(faces.paths, faces.pictures, strict=True):
        (tmp_path / "faces" / path).parent.mkdir(parents=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "faces" / path)
    table = labels_file(tmp_path, faces, labels)
    command = [
        "train",
        "attributes",
        str(tmp_path / "faces"),
        "--labels",
        str(table),
        "--out",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(cli, [*command, "--steps", "2", "--batch", "4"])
    assert done.exit_code == 0 and "8 faces of 8 people" in done.output, done.output
    assert load_attribute_classifier(tmp_path / "run" / "attributes.safetensors").names == NAMES
    other = CliRunner().invoke(cli, [*command, "--steps", "2", "--batch", "2"])
    assert "batch 4, not 2" in str(other.exception)


def tune_classifier(out: Path, begin: str | None = None, **more: float) -> AttributeClassifier:
    faces, labels = labelled_faces(16)
    plan = Plan(steps=1, lr=1e-9, warmup=1, ema=0.0, channels_last=False)
    train_attributes(
        faces, labels, out, plan, batch=4, device=CPU, report=check_loss, begin=begin, **more
    )
    return load_attribute_classifier(out / "attributes.safetensors")


def test_a_run_can_start_from_our_or_a_published_classifier(tmp_path: Path) -> None:
    ours, published = own_file(tmp_path), published_file(tmp_path)
    for begin, original in (
        (str(ours), load_attribute_classifier(ours)),
        (f"beard={published}", load_attribute_classifier(published, attribute="no_beard")),
    ):
        out = tmp_path / original.names[0]
        after = tune_classifier(out, begin)
        assert after.names == original.names and after.network.block == original.network.block
        for name, weight in original.network.named_parameters():
            torch.testing.assert_close(
                after.network.get_parameter(name), weight, rtol=1e-3, atol=1e-3
            )
        file = Path(begin.removeprefix("beard="))
        assert json.loads((out / "manifest.json").read_text())["begun with"] == sha256_file(file)
        with pytest.raises(UsageError, match="begun with"):
            tune_classifier(out)


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ("none", "no such file"),
        ("hat=none", "no attribute hat"),
        ("strange", "it knows hat, but there are no labels of that"),
    ],
)
def test_unsuitable_weights_to_start_from_are_refused(
    begin: str, message: str, tmp_path: Path
) -> None:
    if begin == "strange":
        begin = str(tmp_path / "strange.safetensors")
        weights.save_attributes(compact(("hat",)), Path(begin))
    with pytest.raises(FasrError, match=message):
        tune_classifier(tmp_path, begin)


def test_a_share_of_the_batches_is_degraded_as_by_cameras(tmp_path: Path) -> None:
    clean = enlarge(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), 128)

    def degrade_by_camera(share: float, seed: int) -> bool:
        g, same = (torch.Generator().manual_seed(seed) for _ in range(2))
        torch.rand((), generator=same)
        return not torch.equal(small(clean, share, g), degrade(clean, same))

    assert [degrade_by_camera(share, 0) for share in (0.0, 1.0)] == [False, True]
    assert 5 < sum(degrade_by_camera(0.5, seed) for seed in range(24)) < 19
    tune_classifier(tmp_path, surveillance=0.5)
    with pytest.raises(UsageError, match=r"surveillance 0\.5, not 0\.0"):
        tune_classifier(tmp_path)


def test_labels_follow_the_faces(tmp_path: Path) -> None:
    faces, labels = labelled_faces(8)
    table = labels_file(tmp_path, faces, labels)
    assert torch.equal(read_labels(table, faces), labels)
    turned = Faces(faces.pictures, faces.paths[::-1])
    assert torch.equal(read_labels(table, turned), labels.flip(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,male,glasses\n0/a.png,0,1\n", "no column no_beard"),
        ("", "no column path"),
        (
            "path,male,glasses,no_beard\n1/a.png,0,1,1\n",
            r"no row for 1 of 1 faces \(0/a.png is the first\)",
        ),
        (
            "path,male,glasses,no_beard\n0/a.png,-1,1,1\n",
            "labels of 0/a.png are -1, 1, 1; write 0 or 1",
        ),
        ("path,male,glasses,no_beard\n0/a.png,0,1\n", "labels of 0/a.png are 0, 1, nothing"),
        ("\xff", "not a readable CSV file"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(text: str, message: str, tmp_path: Path) -> None:
    faces, _ = labelled_faces(1)
    with pytest.raises(InputError, match=message):
        read_labels(write_weights(tmp_path / "labels.csv", text.encode("latin-1")), faces)


def test_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    faces, labels = labelled_faces(4)  # all dark below
    with pytest.raises(InputError, match="all faces are alike in no_beard"):
        train_attributes(
            faces, labels, tmp_path, Plan(steps=1, lr=1e-3), batch=2, device=CPU, report=check_loss
        )


def test_both_classes_have_equal_weight_even_if_one_is_rare() -> None:
    labels = (torch.arange(100)[:, None] < torch.tensor([50, 6, 83])).long()
    weight = class_weights(labels)
    for column, truth in zip(weight.T, labels.T, strict=True):
        assert (
            float(column[truth == 1].sum()) == pytest.approx(50) == float(column[truth == 0].sum())
        )


def test_most_noise_levels_leave_the_face_visible() -> None:
    sigma = levels(20_000, torch.Generator().manual_seed(0))
    assert float(sigma.min()) == pytest.approx(0.002) and float(sigma.max()) == pytest.approx(30)
    assert 0.8 < float((sigma < 1).float().mean()) < 0.9


class Watcher(nn.Module):
    """Keeps what it is shown."""

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        self.images, self.sigma = images, sigma
        return torch.zeros(len(images), 6)


def test_half_of_the_faces_are_shrunk_before_the_noise() -> None:
    pictures = torch.randint(
        0, 256, (8, 3, 144, 144), generator=torch.Generator().manual_seed(0)
    ).byte()
    watcher = Watcher()
    make_loss(pictures, labelled_faces(8)[1], 64, 128)(watcher, torch.Generator().manual_seed(0))
    fine = (watcher.images - enlarge(shrink(watcher.images, 32), 128)).flatten(1).std(1)
    clear = watcher.sigma < 0.02
    sharp = fine > 0.2
    assert (
        bool(sharp[:32].all())
        and int(clear[32:].sum()) > 3
        and not bool(sharp[32:][clear[32:]].any())
    )


# --- measures -------------------------------------------------------------------------------------


def test_a_constant_classifier_has_a_balanced_accuracy_of_one_half() -> None:
    faces, labels = labelled_faces(16)
    labels[:, 1] = (torch.arange(16) == 0).long()
    classifier = compact()
    nn.init.zeros_(classifier.network.Dense_3.weight)
    classifier.network.Dense_3.bias.data = torch.tensor([1.0, 0.0] * 3)
    results = {s.attribute: s for s in scores(classifier, faces, labels, (View(0.1),))}
    assert [results[n].balanced for n in NAMES] == [0.5] * 3
    assert results["glasses"].accuracy == pytest.approx(15 / 16) and results["male"].accuracy == 0.5


def test_scores_are_the_same_in_any_batch(train_classifier: Path) -> None:
    faces, labels = labelled_faces(16)
    classifier = load_attribute_classifier(train_classifier / "attributes.safetensors")
    conditions = (View(3.0), View(0.1, 12))
    assert scores(classifier, faces, labels, conditions, batch=5) == scores(
        classifier, faces, labels, conditions, batch=64
    )


def test_scores_need_labels_of_both_classes() -> None:
    faces, labels = labelled_faces(8)
    with pytest.raises(FasrError, match="attribute hat: there are no labels"):
        scores(compact(("hat",)), faces, labels)
    with pytest.raises(FasrError, match="all faces are alike in glasses"):
        scores(compact(), faces, labels * torch.tensor([1, 0, 1]))


def test_a_classifier_of_one_attribute_is_scored_on_its_own_labels() -> None:
    faces, labels = labelled_faces(16)
    results = {name: scores(compact((name,)), faces, labels, (View(0.1),))[0] for name in NAMES}
    same_function = {
        name: scores(compact((name,)), faces, labels.roll(1, 1), (View(0.1),))[0] for name in NAMES
    }
    for i, name in enumerate(NAMES):
        assert same_function[name].accuracy == results[NAMES[i - 1]].accuracy
