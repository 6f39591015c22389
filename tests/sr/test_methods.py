"""Restorers: the papers' methods behind one contract, and `fasr-video sr` on real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from fasr_video.cli import main
from fasr_video.errors import FasrError, MissingExtra
from fasr_video.files import sha256_file
from fasr_video.recognition.combiner import FeatureCombiner
from fasr_video.recognition.combiner import save as save_combiner
from fasr_video.recognition.embedder import BuiltinEmbedder, as_tensor
from fasr_video.sr.checkpoints import Published
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.denoiser import ScoreDenoiser
from fasr_video.sr.flow import RectifiedFlow
from fasr_video.sr.methods import METHODS, ModelFiles, Need, Options, find_method, open_restorer
from fasr_video.sr.methods.band import outside
from fasr_video.sr.methods.bicubic import Bicubic
from fasr_video.sr.methods.diffusion import FAMILY, Diffusion, Models
from fasr_video.sr.methods.features import FeatureModels
from fasr_video.sr.methods.mean import Mean
from fasr_video.sr.methods.pmrf import Pmrf
from fasr_video.sr.networks.flow import FlowNet
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.networks.ncsnpp import NCSNpp
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.restoration import FaceInput, Restorer, as_image, restore, square_face
from fasr_video.sr.sampling import parse, sample_seed
from fasr_video.sr.weights import save_denoiser, save_flow, save_mean
from fasr_video.types import Image
from fasr_video.weights.manifest import bundled
from tests.support.commands import run_command
from tests.support.idfsr_faces import restorer as idfsr
from tests.support.paths import PORTRAITS
from tests.support.restorers import (
    CPU,
    LENGTH,
    PROBE,
    FixedEmbedder,
    diffusion,
    face,
    feature_models,
    network,
    three_steps,
)


def mean_network() -> PosteriorMean:
    torch.manual_seed(2)
    net = MeanNet(width=16, blocks=1, feature_length=LENGTH, condition=32)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    mean = PosteriorMean(net)
    mean.band = (8, 64)
    return mean.eval()


def mean(precision: str = "float32") -> Mean:
    return Mean(
        METHODS["mean"],
        mean_network(),
        "mm",
        feature_models(),
        options=Options(CPU, precision=precision),
    )


def flow() -> RectifiedFlow:
    torch.manual_seed(3)
    net = FlowNet((16, 32), head=8)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    network = RectifiedFlow(net)
    network.band = (8, 64)
    return network.eval()


def pmrf(sampler: str = "euler-3", precision: str = "float32") -> Pmrf:
    method, options = METHODS["pmrf"], Options(CPU, sampler=sampler, precision=precision)
    return Pmrf(
        method,
        Mean(method, mean_network(), "mm", feature_models(), options=options),
        flow(),
        "ff",
        options=options,
    )


# Those that need no attributes; with them, all are tried in test_guidance.py.
UNGUIDED = {m.name: m for m in FAMILY if Need.ATTRIBUTES not in m.needs}
OTHERS: dict[str, Callable[[], Restorer]] = {
    "idfsr": idfsr,
    "mean": mean,
    "pmrf": pmrf,
    "bicubic": Bicubic,
}
ALL = pytest.mark.parametrize("name", [*UNGUIDED, *OTHERS])


def make_restorer(name: str) -> Restorer:
    return OTHERS[name]() if name in OTHERS else three_steps(name)


def test_every_registered_method_has_a_contract_test() -> None:
    """All but those that need attributes, and networks of other people."""
    free = {name for name, method in METHODS.items() if Need.ATTRIBUTES not in method.needs}
    assert free - {"spandrel:"} == {*UNGUIDED, *OTHERS}


@ALL
def test_a_restorer_returns_pictures_and_their_spread(name: str) -> None:
    answer, supports = restore(make_restorer(name), PROBE, 2, seed=3), METHODS[name].supports
    assert answer.picture.shape == (128, 128, 3) and answer.picture.dtype == np.uint8
    assert answer.spread.shape == (128, 128) and np.isfinite(answer.spread).all()
    assert (
        answer.method == name
        and answer.seed == 3
        and find_method(make_restorer(name).name).name == name
    )
    mean_of_samples = np.stack(answer.samples).astype(float).mean(0)
    assert np.abs(mean_of_samples - answer.picture).max() <= 1
    assert (
        len(answer.samples) == (2 if supports.samples else 1)
        and (answer.spread.max() > 0) == supports.samples
    )
    assert bool(answer.sampler) == supports.sampler
    if supports.sampler:
        for_the_mean = 2 if name == "pmrf" else 0
        assert answer.calls == 2 * parse(answer.sampler).calls + for_the_mean
    if not supports.references:
        assert answer.feature == (METHODS[name].merge or "none")


@ALL
def test_provenance_and_restoration_name_the_same_weights(name: str) -> None:
    restorer = make_restorer(name)
    facts, answer = restorer.provenance(), restore(restorer, PROBE, 1, seed=3)
    assert facts["method"] == name and facts.get("network", "") == answer.model
    assert json.loads(json.dumps(facts)) == facts


@ALL
def test_a_picture_depends_on_its_own_seed_and_not_on_its_neighbours(name: str) -> None:
    restorer = make_restorer(name)
    others = [FaceInput(face(7, 12)), PROBE, FaceInput(face(8, 16))]
    together = restorer.restore_all(others, 2, [1, 3, 2])[1]
    alone = restore(restorer, PROBE, 2, seed=3)
    assert np.abs(together.picture.astype(int) - alone.picture).max() <= 1
    if METHODS[name].supports.samples:
        assert np.abs(restore(restorer, PROBE, 2, 4).picture.astype(int) - alone.picture).max() > 1


@pytest.mark.parametrize("name", [*UNGUIDED, "idfsr", "pmrf"])
def test_drawing_more_samples_does_not_change_the_first_ones(name: str) -> None:
    two, three = (restore(make_restorer(name), PROBE, k, 3).samples for k in (2, 3))
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(two, three, strict=False))


@pytest.mark.parametrize("name", [*UNGUIDED, "mean", "pmrf", "bicubic"])
def test_the_feature_changes_the_picture_if_the_method_takes_one(name: str) -> None:
    stranger = FaceInput(PROBE.lr0, (255 - face(1, 16),))
    a, b = (restore(make_restorer(name), p, 1, 0).picture.astype(int) for p in (PROBE, stranger))
    assert (np.abs(a - b).max() > 0) == METHODS[name].supports.feature


def classical(probe: FaceInput) -> Image:
    return as_image(enlarge(as_tensor([probe.lr0]), 128)[0])


BANDS = {**dict.fromkeys(UNGUIDED, (12, 32)), "mean": (8, 64), "pmrf": (8, 64), "idfsr": (4, 16)}


@pytest.mark.parametrize("name", BANDS)
def test_faces_outside_the_trained_sizes_are_not_drawn(name: str) -> None:
    low, high = BANDS[name]
    sides = (high + 1, low, low - 1, high)
    probes = [FaceInput(face(k, side), PROBE.auxiliaries) for k, side in enumerate(sides)]
    large, first, small, last = make_restorer(name).restore_all(probes, 2, [1, 2, 3, 4])
    for answer, seed in ((first, 2), (last, 4)):
        assert answer.calls > 0 and answer.method == name and answer.seed == seed
    for answer, probe in ((large, probes[0]), (small, probes[2])):
        assert np.array_equal(answer.picture, classical(probe)) and len(answer.samples) == 1
        assert (answer.method, answer.sampler, answer.calls, answer.model) == ("bicubic", "", 0, "")
    trained = f"and the network was trained on {low} to {high} px"
    assert large.warnings == (f"nothing is reconstructed: the face has {high + 1} px, {trained}",)
    assert small.warnings == (f"nothing is reconstructed: the face has {low - 1} px, {trained}",)


def test_without_a_face_inside_the_band_the_network_is_not_called() -> None:
    answers = three_steps("fasr++").restore_all(
        [FaceInput(face(0, 90)), FaceInput(face(1, 8))], 2, [0, 1]
    )
    assert [a.calls for a in answers] == [0, 0]


@pytest.mark.parametrize("side", [16, 24])
def test_a_published_network_without_sizes_draws_all_faces_with_a_warning(side: int) -> None:
    torch.manual_seed(0)
    net = NCSNpp(128, 16, (1, 1, 1, 1), attention_at=16, feature=False)
    published = Models(Published(net, "ema", 0.01, 348.0), "aa", FeatureModels())
    restorer = Diffusion(METHODS["sde-sr-ve"], published, Options(CPU, sampler="ddim-1"))
    answer = restore(restorer, FaceInput(face(0, side)), 1, 0)
    assert answer.calls == 1
    assert any("24 px" in w and "trained on 16 px" in w for w in answer.warnings) == (side == 24)


def test_the_band_does_not_apply_to_drawing_from_the_feature_alone() -> None:
    probe = FaceInput(face(0, 90), PROBE.auxiliaries, lr_known=False)
    assert outside((12, 32), probe) is None
    assert restore(three_steps("fasr++"), probe, 1, 0).calls > 0


def test_feature_only_does_not_use_the_lr_face() -> None:
    a, b = (FaceInput(face(s, 16), PROBE.auxiliaries, lr_known=False) for s in (0, 9))
    assert np.array_equal(
        restore(three_steps("fasr++"), a, 1, 0).picture,
        restore(three_steps("fasr++"), b, 1, 0).picture,
    )


def test_a_given_feature_takes_precedence_over_the_auxiliaries() -> None:
    feature = np.zeros(LENGTH, np.float32)
    feature[3] = 1
    answer = restore(three_steps("fasr++"), FaceInput(PROBE.lr0, PROBE.auxiliaries, feature), 1, 0)
    assert answer.feature == "given"
    with pytest.raises(FasrError, match=r"length 100.*512"):
        restore(three_steps("fasr++"), FaceInput(PROBE.lr0, (), feature[:100]), 1, 0)


def test_without_auxiliaries_a_warning_says_whose_feature_is_used() -> None:
    assert any(
        "no auxiliary faces" in w
        for w in restore(three_steps("fasr++"), FaceInput(PROBE.lr0), 1, 0).warnings
    )


def test_a_warning_names_inputs_that_a_method_does_not_use() -> None:
    assert any(
        "were not used" in w for w in restore(three_steps("sde-sr-vp"), PROBE, 1, 0).warnings
    )
    assert any(
        "not known" in w for w in restore(three_steps("fasr"), PROBE, 1, 0).warnings
    )  # the network names no embedder


def test_provenance_names_all_that_the_picture_depends_on() -> None:
    assert three_steps("fasr++").provenance() == {
        "method": "fasr++",
        "sampler": "dpmpp-sde-3",
        "network": "aa",
        "precision": "float32",
        "embedder": "bb",
        "combiner": "cc",
    }
    assert three_steps("sde-sr-ve").provenance() == {
        "method": "sde-sr-ve",
        "sampler": "ve-3",
        "network": "aa",
        "precision": "float32",
    }


@pytest.mark.parametrize("size", [(7, 7), (16, 24), (100, 40), (6, 30)])
def test_a_picture_that_is_no_face_crop_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(FasrError, match=r"still\.png"):
        square_face("still.png", np.zeros((*size, 3), np.uint8))


def test_a_nearly_square_crop_is_cropped_to_the_middle() -> None:
    image = face(0, 20)[:18]
    square, warnings = square_face("still.png", image)
    assert np.array_equal(square, image[:, 1:19]) and "20×18" in warnings[0]
    assert square_face("x", face(0, 16))[1] == ()


def test_samples_have_different_seeds() -> None:
    assert len({sample_seed(s, k) for s in range(100) for k in range(64)}) == 6400


def test_unknown_methods_and_missing_packages_are_named() -> None:
    with pytest.raises(FasrError, match=r"fasr\+\+"):
        find_method("gan")
    for name in ("spandrel", "spandrel:", "fasr++:x", ""):
        with pytest.raises(FasrError, match="no such method"):
            find_method(name)
    with pytest.raises(MissingExtra, match=r"fasr-video\[sr-zoo\]"):
        open_restorer(find_method("spandrel:model.pth"), Options(CPU))


def test_a_method_names_the_part_that_it_lacks() -> None:
    denoiser, options = network(), Options(CPU, sampler="dpmpp-3")
    features = FeatureModels(FixedEmbedder())
    with pytest.raises(FasrError, match="Feature Combiner"):
        Diffusion(METHODS["fasr++"], Models(denoiser, "", features), options)
    with pytest.raises(FasrError, match="embedder"):
        restore(
            Diffusion(METHODS["fasr"], Models(denoiser, "", FeatureModels()), options), PROBE, 1, 0
        )
    bare = ScoreDenoiser(NCSNpp(16, 16, (1, 1), attention_at=8, feature=False), 0.01, 348.0)
    with pytest.raises(FasrError, match="no feature path"):
        Diffusion(METHODS["fasr"], Models(bare, "", features), options)


# --------------------------------------------------------------------------------------------- mean


def test_the_mean_takes_two_calls_and_names_its_models() -> None:
    without_feature = restore(mean(), PROBE, 2, seed=3)
    assert (
        without_feature.method,
        without_feature.sampler,
        without_feature.calls,
        without_feature.model,
    ) == ("mean", "", 2, "mm")
    assert without_feature.feature == "combiner" and len(without_feature.samples) == 1
    assert mean().provenance() == {
        "method": "mean",
        "network": "mm",
        "precision": "float32",
        "embedder": "bb",
        "combiner": "cc",
    }
    assert restore(mean(), FaceInput(PROBE.lr0), 1, 0).warnings[0].startswith("no auxiliary faces")
    with_feature = restore(
        mean(), FaceInput(PROBE.lr0, feature=np.eye(1, LENGTH, 3, dtype=np.float32)[0]), 1, 0
    )
    assert with_feature.feature == "given" and not np.array_equal(
        with_feature.picture, without_feature.picture
    )


def test_the_mean_method_draws_the_average_of_the_face_and_its_mirror_image() -> None:
    feature = np.eye(1, LENGTH, 3, dtype=np.float32)[0]
    probes = [FaceInput(face(k, side), feature=feature) for k, side in enumerate((8, 16, 24, 64))]
    for probe, answer in zip(probes, mean().restore_all(probes, 1, range(4)), strict=True):
        lr = enlarge(as_tensor([probe.lr0]), 128)
        side = torch.tensor([float(len(probe.lr0))])
        network, given = mean_network(), torch.from_numpy(feature)[None]
        mirrored = network(lr.flip(3), side, given).flip(3)
        output = (network(lr, side, given) + mirrored) / 2
        assert np.abs(as_image(output[0]).astype(int) - answer.picture).max() <= 1


def test_the_mean_computes_in_half_precision_on_request_only() -> None:
    full, half = (
        restore(mean(p), PROBE, 1, 0).picture.astype(int) for p in ("float32", "bfloat16")
    )
    assert 0 < np.abs(full - half).max() < 40
    assert mean("bfloat16").provenance()["precision"] == "bfloat16"


def test_the_mean_is_refused_with_another_embedder(tmp_path: Path) -> None:
    strange = mean_network()
    strange.embedder = "0" * 64
    save_mean(strange, tmp_path / "mean.safetensors")
    with pytest.raises(FasrError, match="made with the embedder 000000000000…"):
        open_restorer(
            METHODS["mean"], Options(CPU, ModelFiles(network=tmp_path / "mean.safetensors"))
        )


def test_the_bundled_flow_starts_from_the_bundled_mean() -> None:
    provenance = open_restorer(METHODS["pmrf"], Options(CPU)).provenance()
    assert provenance["mean"] == sha256_file(bundled("mean.safetensors"))
    assert provenance["network"] == sha256_file(bundled("flow.safetensors"))


# --------------------------------------------------------------------------------------------- pmrf


def test_the_flow_starts_from_the_mean_and_takes_the_given_steps() -> None:
    answer = restore(pmrf("euler-5"), PROBE, 1, seed=3)
    assert (answer.method, answer.sampler, answer.calls, answer.model) == (
        "pmrf",
        "euler-5",
        7,
        "ff",
    )
    assert pmrf().provenance() == mean().provenance() | {
        "method": "pmrf",
        "sampler": "euler-3",
        "network": "ff",
        "mean": "mm",
    }
    begun = enlarge(as_tensor([PROBE.lr0]), 128)
    feature, _ = FixedEmbedder().embed(begun)
    middle = mean_network().symmetric(begun, torch.tensor([16.0]), feature)
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(sample_seed(3, 0)))
    sharp = flow().draw(middle.detach(), torch.tensor([16.0]), noise, 5)
    drawn = restore(pmrf("euler-5"), FaceInput(PROBE.lr0, feature=feature[0].numpy()), 1, seed=3)
    assert np.abs(as_image(sharp[0]).astype(int) - drawn.picture).max() <= 1
    assert np.abs(drawn.picture.astype(int) - as_image(middle[0])).max() > 1


def test_only_the_flow_takes_the_flows_sampler() -> None:
    with pytest.raises(FasrError, match="KIND is one of euler; for instance euler-10"):
        pmrf("dpmpp-4")
    with pytest.raises(FasrError, match="sampler euler-8: not KIND-STEPS"):
        diffusion("fasr", "euler-8")


def test_a_flow_is_opened_with_the_mean_in_its_folder(tmp_path: Path) -> None:
    file, network = tmp_path / "flow.safetensors", flow()
    options = Options(CPU, ModelFiles(network=file))
    save_mean(mean_network(), tmp_path / "mean.safetensors")
    network.mean = sha256_file(tmp_path / "mean.safetensors")
    save_flow(network, file)
    opened = open_restorer(METHODS["pmrf"], options)
    assert opened.provenance()["mean"] == network.mean and opened.provenance()[
        "network"
    ] == sha256_file(file)
    assert opened.provenance()["sampler"] == "euler-8"
    network.mean = "0" * 64
    save_flow(network, file)
    with pytest.raises(FasrError, match="starts from the mean 000000000000…"):
        open_restorer(METHODS["pmrf"], options)


# ------------------------------------------------------------------------------------- command line


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sr(
    weights: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fasr-video", "sr", *weights, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def write_still(tmp_path: Path) -> Path:
    path = tmp_path / "still.png"
    Pictures.fromarray(face(0, 16)).save(path)
    return path


def test_a_still_becomes_pictures_a_sheet_and_provenance(
    sr: Run, write_still: Path, tmp_path: Path
) -> None:
    aux = tmp_path / "aux"
    aux.mkdir()
    for k in range(3):
        Pictures.fromarray(face(k + 1, 16)).save(aux / f"{k}.png")
    (aux / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    code, out_text, err = sr(write_still, "--aux", aux, "--out", out, "--seed", 5)
    assert code == 0 and ".sheet.png" in out_text and "auxiliary left out" in err
    kinds = ("mean.png", "sample1.png", "sample2.png", "sheet.png", "json")
    assert sorted(p.name.partition(".")[2] for p in out.iterdir()) == sorted(kinds)
    mean, one, two, sheet, facts_file = (next(out.glob(f"still-????????.{kind}")) for kind in kinds)
    facts = json.loads(facts_file.read_text())
    assert (
        "SYNTHETIC" in facts["what"]
        and facts["request"]["seed"] == 5
        and len(facts["request"]["auxiliaries"]) == 3
    )
    assert (
        facts["feature"] == "combiner" and facts["network_calls"] == 4 and facts["disagreement"] > 0
    )
    assert set(facts["files"]) == {p.name for p in (mean, one, two, sheet)}
    with Pictures.open(mean) as picture:
        assert picture.size == (128, 128) and "SYNTHETIC" in picture.text["Description"]  # type: ignore[attr-defined]
    with Pictures.open(sheet) as page:
        assert page.width > 5 * 128  # original, bicubic, mean, two samples, disagreement
    assert "it is a reconstruction" in sr(mean, "--out", out)[2]


def test_a_still_that_is_too_large_is_enlarged_or_refused(
    sr: Run, write_still: Path, tmp_path: Path
) -> None:
    Pictures.fromarray(face(0, 90)).save(write_still)
    assert (
        "sheet written without a reconstruction, " in sr(write_still, "--out", tmp_path / "out")[1]
    )
    Pictures.fromarray(face(0, 130)).save(write_still)
    err = sr(write_still, "--out", tmp_path / "out")[2]
    assert "larger than the 128 px that sr produces; sr is for faces of 8 to 64 px; to cut" in err


def test_a_second_call_draws_no_existing_picture(
    sr: Run, write_still: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "drawn" in sr(write_still, "--out", out)[1]
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    assert "there already" in sr(write_still, "--out", out)[1]
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    assert (
        "drawn" in sr(write_still, "--out", out, "--seed", 1)[1]
    )  # beside the first, which stays as it is
    assert (
        all(p.stat().st_mtime_ns == t for p, t in before.items()) and len(list(out.iterdir())) == 10
    )


@pytest.mark.parametrize(
    "damage", ["picture gone", "picture changed", "facts cut", "facts of another kind"]
)
def test_an_incomplete_result_is_drawn_again(
    sr: Run, write_still: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    sr(write_still, "--out", out)
    picture, facts = next(out.glob("*.mean.png")), next(out.glob("*.json"))
    good = picture.read_bytes()
    if damage == "picture gone":
        picture.unlink()
    elif damage == "picture changed":
        picture.write_bytes(good + b"x")
    else:
        facts.write_text(facts.read_text()[:50] if damage == "facts cut" else "[]")
    assert "drawn" in sr(write_still, "--out", out)[1]
    assert picture.read_bytes() == good


def test_evidence_is_never_overwritten(
    sr: Run, write_still: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    twin = tmp_path / "other" / "still.png"
    twin.parent.mkdir()
    Pictures.fromarray(face(5, 16)).save(twin)
    before = write_still.read_bytes()
    assert sr(write_still.name, twin, "--out", ".")[0] == 0
    assert write_still.read_bytes() == before
    assert len(list(tmp_path.glob("still-*.json"))) == 2


def test_one_bad_still_does_not_stop_the_others(sr: Run, write_still: Path, tmp_path: Path) -> None:
    bad, thin, flat = tmp_path / "bad.png", tmp_path / "thin.png", tmp_path / "flat.png"
    Pictures.new("RGB", (20, 20)).save(flat)
    bad.write_bytes(b"no picture")
    Pictures.fromarray(face(0, 30)[:10]).save(thin)
    code, out_text, err = sr(
        bad,
        thin,
        write_still,
        tmp_path / "none.png",
        tmp_path,
        flat,
        "--out",
        tmp_path / "out",
        "--json",
    )
    lines = [json.loads(line) for line in out_text.splitlines()]
    assert code == 3 and [line["state"] for line in lines] == [
        "refused",
        "refused",
        "drawn",
        "refused",
        "refused",
        "refused",
    ]
    assert "not a picture" in lines[0]["problem"] and "shape of a face" in lines[1]["problem"]
    assert "a folder" in lines[4]["problem"] and "flat" in lines[5]["problem"]
    assert "Traceback" not in err


def write_damaged(tmp_path: Path, how: str) -> Path:
    """A weights file that is not what it should be."""
    path = tmp_path / "damaged.safetensors"
    denoiser = network()
    if how == "nan":
        next(denoiser.network.parameters()).data[0] = float("nan")
    save_denoiser(denoiser, path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    if how == "strange":
        denoiser.embedder = "0" * 64
        save_denoiser(denoiser, path)
    if how == "other":
        save_combiner(FeatureCombiner(), path)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "NaN"),
        ("cut", "damaged.safetensors"),
        ("other", "names the contract fasr-video/combiner"),
        ("strange", "embedder 000000000000…"),
    ],
)
def test_damaged_weights_give_a_one_line_error(
    sr: Run, write_still: Path, tmp_path: Path, how: str, message: str
) -> None:
    code, _, err = sr(
        write_still,
        "--out",
        tmp_path / "out",
        "--method",
        "fasr",
        "--model",
        write_damaged(tmp_path, how),
    )
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "gan"), "use one of"),
        (("--method", "spandrel:x.pth"), "does not sample"),
        (("--samples", "0"), "1 to 64"),
        (("--aux", "/nowhere"), "no such folder"),
        (("--sampler", "dpmpp-4@inf"), "outside"),
        (("--sampler", "dpmpp-sde-4@0.001"), "outside"),
        (("--feature-only", "--sampler", "dpmpp-4@2"), "without the LR face"),
        (("--feature-only", "--method", "sde-sr-ve", "--sampler", "ve-2"), "without the LR face"),
        (("--method", "bicubic", "--sampler", "dpmpp-4"), "does not sample"),
        (
            ("--method", "bicubic", "--feature-only"),
            "--feature-only: method bicubic draws no samples",
        ),
        (("--method", "bicubic", "--samples", "8"), "--samples 8: method bicubic draws no samples"),
        (
            ("--method", "spandrel:x.pth", "--samples", "2"),
            "method spandrel:x.pth draws no samples",
        ),
        (
            ("--method", "mean", "--model", "/nowhere.safetensors", "--sampler", "dpmpp-4"),
            "does not sample",
        ),
        (("--device", "cuda:77"), "device"),
        (("--embedder", "/nowhere.safetensors"), "no such file"),
    ],
)
def test_a_wrong_option_gives_a_one_line_error(
    sr: Run, write_still: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = sr(write_still, "--out", tmp_path / "out", *arguments)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_method_without_a_feature_warns_of_unused_auxiliaries(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write_still: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "aux").mkdir()
    Pictures.fromarray(face(1, 16)).save(tmp_path / "aux" / "1.png")
    options = (
        "--method",
        "bicubic",
        "--samples",
        "1",
        "--aux",
        str(tmp_path / "aux"),
        "--out",
        str(tmp_path / "out"),
    )
    monkeypatch.setattr("sys.argv", ["fasr-video", "sr", str(write_still), *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert (
        "method bicubic takes no feature: the auxiliary faces were not used"
        in capsys.readouterr().err
    )
    (facts,) = (tmp_path / "out").glob("*.json")
    assert json.loads(facts.read_text())["request"]["samples"] == 1


def test_the_mean_of_a_still_is_one_picture_with_provenance(
    write_still: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_mean(mean_network(), tmp_path / "mean.safetensors")
    drawing = (
        "sr",
        write_still,
        "--method",
        "mean",
        "--out",
        tmp_path / "out",
        "--model",
        tmp_path / "mean.safetensors",
    )
    assert run_command(capsys, *drawing)[0] == 0
    (file,) = (tmp_path / "out").glob("*.json")
    facts = json.loads(file.read_text())
    assert facts["request"]["restorer"]["method"] == "mean" and facts["network_calls"] == 2
    for wrong, message in (
        ((*drawing, "--samples", 2), "--samples 2: method mean draws no samples"),
        ((*drawing, "--feature-only"), "feature-only: method mean needs the LR face"),
        ((*drawing, "--attr", "glasses=yes"), "method mean cannot be guided by any"),
    ):
        code, _, err = run_command(capsys, *wrong)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1


def test_align_finds_the_face_of_a_larger_picture(sr: Run, tmp_path: Path) -> None:
    photo = PORTRAITS / "mugshots"
    picture = sorted(p for p in photo.rglob("*") if p.suffix.lower() in {".jpg", ".png", ".webp"})[
        0
    ]
    code, out_text, err = sr(picture, "--align", "--out", tmp_path / "out", "--method", "fasr")
    assert code == 0, err
    assert "sheet written without a reconstruction" in out_text  # the face has 128 px
    code, _, err = sr(picture, "--out", tmp_path / "other")
    assert code == 2 and "--align" in err


def test_a_folder_is_refused_with_the_files_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (tmp_path, "--method", "bicubic", "--out", tmp_path / "out")
    code, _, err = run_command(capsys, "sr", *given)
    assert code == 2 and f"a folder; give its files: fasr-video sr {tmp_path}/*.jpg" in err


def test_one_of_several_faces_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = Pictures.new("RGB", (600, 300), "grey")
    sheet.paste(
        Pictures.open(PORTRAITS / "mugshots" / "eileen_collins.jpg").resize((200, 200)), (0, 0)
    )
    sheet.paste(
        Pictures.open(PORTRAITS / "mugshots" / "grace_hopper.jpg").resize((300, 300)), (300, 0)
    )
    sheet.save(tmp_path / "two.png")
    plain = ("--method", "bicubic", "--out", tmp_path / "out")
    code, _, err = run_command(capsys, "sr", tmp_path / "two.png", "--align", *plain)
    assert code == 2 and "2 faces: 1 at the top left, " in err and "--face largest" in err
    code, _, err = run_command(capsys, "sr", tmp_path / "two.png", *plain, "--face", 1)
    assert code == 2 and "give --align" in err
    code, _, err = run_command(
        capsys, "sr", tmp_path / "two.png", tmp_path / "two.png", "--align", *plain, "--face", 1
    )
    assert code == 2 and "give that picture alone" in err
    for number in (1, 2):
        assert (
            run_command(capsys, "sr", tmp_path / "two.png", "--align", *plain, "--face", number)[0]
            == 0
        )
    facts = [json.loads(file.read_text())["request"] for file in (tmp_path / "out").glob("*.json")]
    assert sorted(f["face"] for f in facts) == [1, 2]


def test_the_bundled_embedder_returns_unit_vectors() -> None:
    features, norms = BuiltinEmbedder().embed(torch.rand(3, 3, 128, 128))
    assert features.shape == (3, 512) and norms.shape == (3,)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_r_sets_the_length_of_langevin_steps() -> None:
    """The papers' r; where it is not named it is theirs, 0.16."""
    pictures = [
        restore(diffusion("sde-sr-ve", f"ve-3{r}"), PROBE, 1, 3) for r in ("", ",r=0.16", ",r=0.4")
    ]
    assert (pictures[0].picture == pictures[1].picture).all()
    assert (pictures[0].picture != pictures[2].picture).any()
    assert [p.sampler for p in pictures] == ["ve-3", "ve-3", "ve-3,r=0.4"]
    for text in ("dpmpp-3,r=0.4", "vp-3,r=0.4", "ve-3,r=0", "ve-3,r=2", "ve-3,r=much"):
        with pytest.raises(FasrError, match=text):
            parse(text)
