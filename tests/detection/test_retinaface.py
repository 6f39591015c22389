"""RetinaFace: the published names and shapes, anchors and decoding."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from fasr_video.detection import retinaface


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return names and shapes in the state dict of retinaface-pytorch (Resnet50)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def conv_norm(name: str, norm_name: str, cout: int, cin: int, *, kernel: int) -> None:
        shapes[f"{name}.weight"] = (cout, cin, kernel, kernel)
        norm(norm_name, cout)

    conv_norm("body.conv1", "body.bn1", 64, 3, kernel=7)
    cin = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            at = f"body.layer{layer}.{block}"
            conv_norm(f"{at}.conv1", f"{at}.bn1", width, cin, kernel=1)
            conv_norm(f"{at}.conv2", f"{at}.bn2", width, width, kernel=3)
            conv_norm(f"{at}.conv3", f"{at}.bn3", 4 * width, width, kernel=1)
            if block == 0:
                conv_norm(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, cin, kernel=1)
            cin = 4 * width
    for i, channels in enumerate((512, 1024, 2048), 1):
        conv_norm(f"fpn.output{i}.0", f"fpn.output{i}.1", 256, channels, kernel=1)
    for i in (1, 2):
        conv_norm(f"fpn.merge{i}.0", f"fpn.merge{i}.1", 256, 256, kernel=3)
    views = (
        ("conv3X3", 128, 256),
        ("conv5X5_1", 64, 256),
        ("conv5X5_2", 64, 64),
        ("conv7X7_2", 64, 64),
    )
    for i, (view, cout, cin) in product((1, 2, 3), (*views, ("conv7x7_3", 64, 64))):
        conv_norm(f"ssh{i}.{view}.0", f"ssh{i}.{view}.1", cout, cin, kernel=3)
    for (head, values), i in product(
        (("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)), range(3)
    ):
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
def test_retinaface_has_one_prediction_for_each_anchor(height: int, width: int) -> None:
    with torch.inference_mode():
        outputs = retinaface.RetinaFaceNet().eval()(torch.zeros(1, 3, height, width))
    anchors = len(retinaface.make_anchors(height, width))
    assert [tuple(part.shape) for part in outputs] == [
        (1, anchors, 4),
        (1, anchors, 2),
        (1, anchors, 10),
    ]


def test_decoding_undoes_the_encoding_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    anchors = retinaface.make_anchors(64, 64).numpy()
    centre, side = anchors[:, :2], anchors[:, 2:]
    middle = centre + rng.normal(0, 5, centre.shape)
    size = side * rng.uniform(0.5, 2, centre.shape)
    points = middle[:, None] + rng.normal(0, 5, (len(anchors), 5, 2))
    offsets = np.concatenate(((middle - centre) / side / 0.1, np.log(size / side) / 0.2), 1)
    landmarks = ((points - centre[:, None]) / side[:, None] / 0.1).reshape(-1, 10)
    boxes, points_found = retinaface.decode(
        torch.from_numpy(offsets), torch.from_numpy(landmarks), torch.from_numpy(anchors)
    )
    assert boxes.numpy() == pytest.approx(np.concatenate((middle - size / 2, middle + size / 2), 1))
    assert points_found.numpy() == pytest.approx(points)
