"""The Feature Combiner: its algebra, averages, and a training that is better than the mean."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from fasr_video.errors import InputError, MissingExtra, ModelError, SettingsError, UsageError
from fasr_video.recognition.combiner import (
    FeatureCombiner,
    Source,
    load_combiner,
    mean,
    robust_mean,
    save,
    weighted_mean,
)
from fasr_video.training import curves
from fasr_video.training.combiner import (
    CombinerFeatures,
    Part,
    distances,
    draw_triplets,
    margin_above,
    measured_gap,
    plain_mean,
    split,
    train_combiner,
)

LENGTH = 32
SOURCE = Source("builtin", "ab" * 32)


def random_features(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make_combiner(eta: float = 0.5) -> FeatureCombiner:
    """A combiner with a large correction, and running statistics unlike those of any batch here."""
    torch.manual_seed(1)
    combiner = FeatureCombiner(LENGTH, eta, SOURCE)
    for parameter in combiner.delta[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    combiner(random_features(200, LENGTH, seed=8), random_features(200, LENGTH, seed=9))
    return combiner.eval()


def is_close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-6)


# --- combiner ----------------------------------------------------------------------------------


def test_layers_are_those_of_the_paper() -> None:
    linear = [m for m in FeatureCombiner().modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        (1024, 1024),
        (1024, 512),
        (512, 512),
    ]
    assert [m.p for m in FeatureCombiner().modules() if isinstance(m, torch.nn.Dropout)] == [
        0.2,
        0.2,
    ]


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_pair_is_the_mean_and_eta_times_the_correction(eta: float) -> None:
    combiner = make_combiner(eta)
    first, second = random_features(4, LENGTH), random_features(4, LENGTH, seed=1)
    correction = combiner.delta(torch.cat((first, second), 1))
    assert correction.norm(dim=1).min() > 0.1
    expected = F.normalize((first + second) / 2 + eta * correction, dim=1)
    assert is_close(combiner.pair(first, second), expected)
    assert is_close(combiner(first, second), expected)


def test_without_correction_a_pair_is_its_mean() -> None:
    features = random_features(2, LENGTH)
    assert is_close(make_combiner(eta=0.0).combine(features), mean(features))


def test_an_untrained_combiner_is_the_mean() -> None:
    features = random_features(2, LENGTH)
    assert is_close(FeatureCombiner(LENGTH, 1.0).combine(features), mean(features))


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_ensemble_is_the_mean_of_disjoint_pairs_and_an_odd_last_one(k: int, eta: float) -> None:
    combiner, features = make_combiner(eta), random_features(k, LENGTH)
    pairs = [
        combiner.pair(features[i : i + 1], features[i + 1 : i + 2])[0] for i in range(0, k - 1, 2)
    ]
    members = pairs + [features[-1]] * (k % 2)
    assert is_close(combiner.combine(features), F.normalize(torch.stack(members).mean(0), dim=0))


def test_one_feature_is_itself_and_none_is_zero() -> None:
    combiner, feature = make_combiner(), random_features(1, LENGTH)
    assert is_close(combiner.combine(5 * feature), feature[0])
    assert torch.equal(combiner.combine(torch.zeros(0, LENGTH)), torch.zeros(LENGTH))


def test_the_result_depends_on_the_pairs_and_the_order_within_them() -> None:
    combiner, features = make_combiner(), random_features(4, LENGTH)
    combined = combiner.combine(features)
    assert is_close(combiner.combine(features[[2, 3, 0, 1]]), combined)
    for order in ([1, 0, 2, 3], [0, 2, 1, 3]):
        assert (combiner.combine(features[order]) - combined).norm() > 0.01


def test_a_pair_does_not_depend_on_the_batch_nor_combine_on_the_mode() -> None:
    combiner = make_combiner()
    first, second = random_features(6, LENGTH), random_features(6, LENGTH, seed=1)
    combined = combiner.combine(torch.stack((first[0], second[0])))
    assert is_close(combiner.pair(first, second)[0], combined)
    before = {k: v.clone() for k, v in combiner.state_dict().items()}
    assert torch.equal(combiner.train().combine(torch.stack((first[0], second[0]))), combined)
    assert combiner.training, "a training goes on as it was"
    assert all(torch.equal(v, before[k]) for k, v in combiner.state_dict().items())


def test_features_need_not_be_unit_vectors_or_float32() -> None:
    combiner, features = make_combiner(), random_features(3, LENGTH)
    scales = torch.tensor([[0.5], [3.0], [20.0]])
    assert is_close(combiner.combine(features * scales), combiner.combine(features))
    assert combiner.combine(features.half()).dtype == torch.float32


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_is_0_to_1(eta: float) -> None:
    with pytest.raises(SettingsError, match="0-1"):
        FeatureCombiner(LENGTH, eta)


def test_features_of_another_length_or_not_finite_are_refused() -> None:
    combiner = make_combiner()
    with pytest.raises(UsageError, match="K×32 needed, not 3×16"):
        combiner.combine(random_features(3, 16))
    with pytest.raises(UsageError, match="K×32 needed, not 32"):
        combiner.combine(random_features(LENGTH))
    with pytest.raises(UsageError, match="K×32"):
        combiner.pair(random_features(3, LENGTH), random_features(3, 16))
    for bad in (math.nan, math.inf):
        features = random_features(3, LENGTH)
        features[1, 4] = bad
        for merge in (
            combiner.combine,
            mean,
            robust_mean,
            lambda f: weighted_mean(f, torch.ones(3)),
        ):
            with pytest.raises(UsageError, match="1 of 3 are not finite, row 1"):
                merge(features)


# --- averages ----------------------------------------------------------------------------------

AVERAGES: list[Callable[[Tensor], Tensor]] = [
    mean,
    robust_mean,
    lambda f: weighted_mean(f, torch.rand(len(f)) + 0.1),
]


@pytest.mark.parametrize("average", AVERAGES, ids=["mean", "robust", "weighted"])
def test_averages_are_unit_vectors_for_any_lengths_and_order(
    average: Callable[[Tensor], Tensor],
) -> None:
    assert torch.equal(average(torch.zeros(0, LENGTH)), torch.zeros(LENGTH))
    feature = random_features(1, LENGTH)
    assert is_close(average(3 * feature), feature[0])
    assert is_close(average(feature.expand(5, -1)), feature[0])
    assert float(average(random_features(5, LENGTH)).norm()) == pytest.approx(1)


def test_the_order_does_not_matter_to_averages() -> None:
    features, order = random_features(5, LENGTH), [3, 1, 4, 0, 2]
    weights = torch.arange(5.0)
    assert is_close(mean(features), mean(features[order]))
    assert is_close(robust_mean(features), robust_mean(features[order]))
    assert is_close(
        weighted_mean(features, weights), weighted_mean(features[order], weights[order])
    )


def test_weighted_mean_follows_the_weights() -> None:
    features = random_features(3, LENGTH)
    assert is_close(weighted_mean(features, torch.tensor([0.0, 2.0, 0.0])), features[1])
    assert is_close(weighted_mean(features, torch.full((3,), 0.7)), mean(features))
    assert is_close(weighted_mean(features, torch.zeros(3)), mean(features))
    expected = F.normalize(1 * features[0] + 3 * features[2], dim=0)
    assert is_close(weighted_mean(features, torch.tensor([1e-20, 0, 3e-20])), expected)


@pytest.mark.parametrize("weights", [[1, -1, 1], [1, math.nan, 1], [1, math.inf, 1], [1, 1]])
def test_weights_are_one_a_feature_and_not_negative(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="3 numbers"):
        weighted_mean(random_features(3, LENGTH), torch.tensor(weights))


def test_one_stranger_among_five_moves_the_mean_but_hardly_the_robust_mean() -> None:
    own = F.normalize(random_features(LENGTH) + 0.2 * random_features(4, LENGTH, seed=1), dim=1)
    features = torch.cat((own, random_features(1, LENGTH, seed=5)))
    assert (mean(features) - mean(own)).norm() > 0.2
    assert (robust_mean(features) - mean(own)).norm() < 0.04
    assert float(robust_mean(features) @ mean(own)) > 0.999


def test_strangers_in_the_minority_cannot_move_features_that_agree() -> None:
    features = torch.cat(
        (random_features(1, LENGTH).expand(3, -1), random_features(2, LENGTH, seed=5))
    )
    assert torch.allclose(robust_mean(features), features[0], atol=1e-4)


def test_robust_mean_has_the_least_sum_of_distances() -> None:
    features = F.normalize(random_features(7, LENGTH) + random_features(LENGTH, seed=1), dim=1)

    def total_distance(centre: Tensor) -> float:
        return float((features.double() - centre.double()).norm(dim=1).sum())

    best = robust_mean(features)
    assert total_distance(best) < total_distance(mean(features)) - 1e-4
    for seed in range(20):
        assert total_distance(
            F.normalize(best + 0.02 * random_features(LENGTH, seed=seed), dim=0)
        ) > total_distance(best)


# --- files -------------------------------------------------------------------------------------


def test_weights_load_with_eta_length_source_and_margin(tmp_path: Path) -> None:
    combiner, file = make_combiner(0.25), tmp_path / "combiner.safetensors"
    combiner.margin = 0.495
    save(combiner, file)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    loaded = load_combiner(file)
    assert (loaded.eta, loaded.length, loaded.source, loaded.training) == (
        0.25,
        LENGTH,
        SOURCE,
        False,
    )
    assert loaded.margin == 0.495
    features = random_features(5, LENGTH)
    assert torch.allclose(loaded.combine(features), combiner.combine(features), atol=2e-3)
    assert not is_close(loaded.combine(features), FeatureCombiner(LENGTH).combine(features))


def test_files_that_are_no_combiner_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "combiner.safetensors"
    with pytest.raises(ModelError, match="no such file"):
        load_combiner(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_combiner(file)
    for metadata in (None, {"header": '{"format": "of somebody else"}'}, {"header": "[]"}):
        save_file({"a": torch.zeros(1)}, file, metadata)
        with pytest.raises(ModelError, match="does not name a Feature Combiner"):
            load_combiner(file)
    save_file({"a": torch.zeros(1)}, file, {"header": "{"})
    with pytest.raises(ModelError, match=file.name):
        load_combiner(file)


@pytest.mark.parametrize(
    "change",
    [
        *({"eta": 2}, {"eta": "much"}, {"length": -1}, {"length": 64}),
        *({"source": None}, {"source": {"a": 1}}, {"margin": "wide"}),
    ],
    ids=str,
)
def test_damaged_headers_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "combiner.safetensors"
    save(make_combiner(), file)
    with safe_open(file, "pt") as content:
        header = json.loads(content.metadata()["header"])
    save_file(load_file(file), file, {"header": json.dumps(header)})
    load_combiner(file)
    save_file(load_file(file), file, {"header": json.dumps(header | change)})
    with pytest.raises(ModelError, match=file.name):
        load_combiner(file)


# --- training ----------------------------------------------------------------------------------


def synthetic_pairs(people: int = 60, photos: int = 6, length: int = LENGTH) -> CombinerFeatures:
    """HR: the person and a little noise. LR: more noise, and a part that all LR faces share."""
    person = random_features(people, length).repeat_interleave(photos, 0)
    noise = [random_features(people * photos, length, seed=s) for s in (1, 2)]
    hr = F.normalize(person + 0.2 * noise[0], dim=1)
    lr = F.normalize(0.6 * person + 0.8 * random_features(length, seed=3) + 0.3 * noise[1], dim=1)
    return CombinerFeatures(
        hr, lr, tuple(f"p{i // photos}" for i in range(people * photos)), SOURCE
    )


def check_line(line: str) -> None:
    assert line


def train_small(out: Path, report: Callable[[str], None] = check_line, **options: float) -> object:
    return train_combiner(synthetic_pairs(), out, **{"batch": 32, **options}, report=report)  # type: ignore[arg-type]


def test_a_trained_combiner_beats_the_plain_mean_on_unseen_people(tmp_path: Path) -> None:
    lines: list[str] = []
    summary = train_combiner(synthetic_pairs(), tmp_path, batch=32, report=lines.append)
    assert (summary.train_people, summary.validation_people, summary.single) == (51, 9, 0)
    assert summary.best.cosine > summary.best.cosine_mean + 0.1
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(r["epoch"]) for r in rows] == list(range(summary.epochs + 1))
    assert float(rows[0]["cosine"]) == pytest.approx(float(rows[0]["cosine_mean"]), abs=1e-6)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[summary.best.epoch]["validation_loss"]) == min(
        float(r["validation_loss"]) for r in rows
    )
    assert len(lines) == summary.epochs + 1
    assert Image.open(tmp_path / "curves.png").size[0] > 100
    assert {p.name for p in tmp_path.iterdir()} == {
        "combiner.safetensors",
        "curves.png",
        "log.csv",
        "state.pt",
    }

    unseen = split(synthetic_pairs(), seed=0).validation
    triplets = draw_triplets(unseen, torch.Generator().manual_seed(7))
    combiner = load_combiner(tmp_path / "combiner.safetensors")
    assert (combiner.source, combiner.margin) == (SOURCE, summary.margin)
    with torch.no_grad():
        near, _ = distances(combiner, unseen, triplets)
    near_mean, _ = distances(plain_mean, unseen, triplets)
    assert near.mean() < near_mean.mean() - 0.1


def test_no_person_is_in_both_parts_of_the_split() -> None:
    features = synthetic_pairs(20, 3)
    alone = CombinerFeatures(
        torch.cat((features.hr, random_features(2, LENGTH))),
        torch.cat((features.lr, random_features(2, LENGTH))),
        (*features.identity, "alone", "lonely"),
    )
    parts = split(alone, seed=0)
    train_people, validation_people = (
        set(p.person.tolist()) for p in (parts.train, parts.validation)
    )
    assert not train_people & validation_people
    assert train_people | validation_people == set(range(20))
    assert (len(train_people), len(validation_people), parts.single) == (17, 3, 2)
    for part in (parts.train, parts.validation):
        rows = [3 * int(p) + i % 3 for i, p in enumerate(part.person)]
        assert is_close(part.hr, alone.hr[rows]) and is_close(part.lr, alone.lr[rows])
    assert set(split(alone, seed=1).validation.person.tolist()) != validation_people


def test_the_split_works_with_people_in_any_order() -> None:
    features = synthetic_pairs(12, 2)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    part = split(
        CombinerFeatures(
            features.hr[order], features.lr[order], tuple(i // 2 for i in order.tolist())
        ),
        0,
    ).train
    for p in part.person.unique():
        assert float(torch.pdist(part.hr[part.person == p])) < 0.6
    assert torch.equal(part.person.unique_consecutive().sort()[0], part.person.unique())


def test_triplets_are_disjoint_pairs_of_a_person_and_any_stranger() -> None:
    person = torch.tensor([4] * 5 + [0] * 2 + [7] * 4)
    part = Part(random_features(11, LENGTH), random_features(11, LENGTH), person)
    strangers: dict[int, set[int]] = {0: set(), 4: set(), 7: set()}
    for seed in range(200):
        first, second, other = draw_triplets(part, torch.Generator().manual_seed(seed)).unbind(1)
        assert sorted(person[first].tolist()) == [0, 4, 4, 7, 7]
        assert torch.equal(person[first], person[second])
        assert (person[first] != person[other]).all()
        assert len(set(torch.cat((first, second)).tolist())) == 10
        for p, row in zip(person[first].tolist(), other.tolist(), strict=True):
            strangers[p].add(row)
    assert {p: len(rows) for p, rows in strangers.items()} == {0: 9, 4: 6, 7: 7}, (
        "each stranger comes up"
    )


def test_the_margin_is_just_above_the_gap_of_the_plain_mean() -> None:
    hr = torch.tensor([[1.0, 0], [0.6, 0.8], [-1, 0], [-0.6, -0.8]])
    lr = torch.tensor([[1.0, 0]]).expand(4, -1)
    part, triplet = Part(hr, lr, torch.tensor([0, 0, 1, 1])), torch.tensor([[0, 1, 2]])
    positive = torch.tensor([2.0, 1.0]) / math.sqrt(5)
    gap = 2 - float((lr[0] - positive).norm())
    assert measured_gap(part, triplet) == pytest.approx(gap)
    margin = margin_above(gap)
    assert gap + 0.01 <= margin <= gap + 0.011
    assert round(margin, 3) == margin
    nearer = measured_gap(Part(hr, -lr, part.person), triplet)
    assert nearer < 0 and margin_above(nearer) == 0.01, "strangers nearer than the person: no gap"


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_training_reports_the_gap_the_margin_and_eta(eta: float, tmp_path: Path) -> None:
    lines: list[str] = []
    summary = train_combiner(
        synthetic_pairs(), tmp_path, epochs=1, batch=32, eta=eta, report=lines.append
    )
    line = re.search(r"gap (\S+), margin (\S+), eta (\S+)$", lines[0])
    assert line is not None
    gap, margin = float(line[1]), float(line[2])
    assert gap + 0.01 <= margin <= gap + 0.0111
    assert (margin, float(line[3])) == (summary.margin, eta)


def test_the_margin_can_be_given_and_training_stops_when_nothing_improves(tmp_path: Path) -> None:
    # With eta 0 nothing can be learned: each epoch's loss is that of the first.
    summary = train_combiner(
        synthetic_pairs(), tmp_path, margin=0.4, patience=2, batch=32, eta=0.0, report=check_line
    )
    assert summary.margin == 0.4
    assert (summary.epochs, summary.best.epoch) == (2, 0)
    assert summary.best.cosine == pytest.approx(summary.best.cosine_mean, abs=1e-6)


class Killed(Exception):
    pass


def test_a_resumed_training_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    def kill(line: str) -> None:
        if line.startswith("epoch 2"):
            raise Killed

    uninterrupted = train_small(tmp_path / "whole", epochs=4)
    with pytest.raises(Killed):
        train_small(tmp_path / "broken", kill, epochs=4)
    assert len((tmp_path / "broken" / "log.csv").read_text().splitlines()) == 4, (
        "a heading and epochs 0, 1, 2"
    )
    torch.rand(3)  # other random numbers drawn between change nothing
    lines_again: list[str] = []
    assert train_small(tmp_path / "broken", lines_again.append, epochs=4) == uninterrupted
    assert [line[:7] for line in lines_again[1:]] == ["epoch 3", "epoch 4"]
    for name in ("combiner.safetensors", "log.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    states = [
        torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("whole", "broken")
    ]
    for part in ("net", "best"):
        assert all(torch.equal(v, states[1][part][k]) for k, v in states[0][part].items())


def test_training_does_not_change_the_global_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_small(tmp_path, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_with_another_run_is_refused_and_unchanged(tmp_path: Path) -> None:
    train_small(tmp_path, epochs=1)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(UsageError, match=r"begun with eta 0\.1, not 0\.9"):
        train_small(tmp_path, epochs=1, eta=0.9)
    assert (tmp_path / "state.pt").read_bytes() == before
    (tmp_path / "state.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"state\.pt"):
        train_small(tmp_path, epochs=1)
    torch.save({"net": {}}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="not a checkpoint of this trainer"):
        train_small(tmp_path, epochs=1)


@pytest.mark.parametrize(
    "option", [{"epochs": 0}, {"patience": 0}, {"batch": 1}, {"margin": 0.0}, {"margin": math.nan}]
)
def test_options_out_of_bounds_are_refused(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        train_small(tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


def test_fewer_than_ten_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="9 people have two or more photos, but training needs at least 10"
    ):
        train_combiner(synthetic_pairs(9, 2), tmp_path, report=check_line)
    # Eight pairs in batches of seven: the one left over is no batch of its own.
    summary = train_combiner(synthetic_pairs(10, 2), tmp_path, epochs=1, batch=7, report=check_line)
    assert (summary.train_people, summary.validation_people, summary.epochs) == (8, 2, 1)


def test_features_are_read_from_an_npz(tmp_path: Path) -> None:
    original, file = synthetic_pairs(3, 2), tmp_path / "features.npz"
    arrays: dict[str, Any] = {
        "hr": original.hr.half().numpy(),
        "lr": original.lr.half().numpy(),
        "identity": np.array(original.identity),
    }
    np.savez(file, **arrays)
    loaded = CombinerFeatures.load(file)
    assert loaded.identity == original.identity and loaded.source == Source()
    assert loaded.hr.dtype == torch.float32
    assert torch.allclose(loaded.hr, original.hr, atol=1e-3) and torch.allclose(
        loaded.lr, original.lr, atol=1e-3
    )
    np.savez(file, **arrays, embedder="builtin", embedder_sha256=SOURCE.sha256)
    assert CombinerFeatures.load(file).source == SOURCE
    np.savez(file, **arrays | {"identity": np.arange(6)})
    assert CombinerFeatures.load(file).identity == (0, 1, 2, 3, 4, 5)


def test_files_without_features_are_refused(tmp_path: Path) -> None:
    original, file = synthetic_pairs(3, 2), tmp_path / "features.npz"
    hr, lr, identity = (
        original.hr.numpy(),
        original.lr.numpy(),
        np.array(original.identity),
    )
    with pytest.raises(InputError, match=r"features\.npz"):
        CombinerFeatures.load(file)
    for content in (b"", b"PK no", b"no"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"features\.npz"):
            CombinerFeatures.load(file)
    np.savez(file, hr=hr, identity=identity)
    with pytest.raises(InputError, match="lr"):
        CombinerFeatures.load(file)
    np.savez(file, hr=hr, lr=lr, identity=np.array([{}] * 6, object))
    with pytest.raises(InputError, match="pickle"):
        CombinerFeatures.load(file)
    with file.open("wb") as stream:
        np.save(stream, hr)
    with pytest.raises(InputError, match=r"features\.npz"):
        CombinerFeatures.load(file)
    for arrays in (
        {"hr": hr[:5], "lr": lr},
        {"hr": hr[0], "lr": lr[0]},
        {"hr": hr[:, :8], "lr": lr},
    ):
        np.savez(file, **arrays, identity=identity)
        with pytest.raises(UsageError, match="do not fit together"):
            CombinerFeatures.load(file)


# --- curves ------------------------------------------------------------------------------------


def test_curves_are_drawn_from_the_log(tmp_path: Path) -> None:
    log, png = tmp_path / "log.csv", tmp_path / "curves.png"
    curves.draw(log, png, ("loss",))
    assert not png.exists(), "no log, no picture"
    log.write_text("step,loss,other\n1,0.5,9\n2,0.4,9\n3,nan,9\n")
    curves.draw(log, png, ("loss",))
    one = np.asarray(Image.open(png))
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["curves.png", "log.csv"]
    curves.draw(log, png, ("loss", "other"))
    assert not np.array_equal(one, np.asarray(Image.open(png)))
    with pytest.raises(InputError, match="no column speed"):
        curves.draw(log, png, ("loss", "speed"))
    log.write_text("step,loss\n1,much\n")
    with pytest.raises(InputError, match="not a table of numbers"):
        curves.draw(log, png, ("loss",))


def test_without_matplotlib_weights_are_written_but_no_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"fasr-video\[report\]"):
        curves.draw(tmp_path / "log.csv", tmp_path / "curves.png", ("loss",))
    lines: list[str] = []
    train_small(tmp_path, lines.append, epochs=1)
    assert "no curves: matplotlib" in lines[-1]
    assert (tmp_path / "combiner.safetensors").exists() and not (tmp_path / "curves.png").exists()
