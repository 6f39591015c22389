"""Guidance by attributes: the exact answer where there is one, which attributes are stated and read, and
how both are reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from torch import Tensor

from fasr_video.case.case import Case
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.errors import CaseError, FasrError, SettingsError, UsageError
from fasr_video.files import sha256_file
from fasr_video.pipeline.restore import encode_all, open_encoder
from fasr_video.pipeline.run import open_case, run
from fasr_video.sr import sampling, sde
from fasr_video.sr.attributes import (
    CLEAR,
    NAMES,
    SURE,
    Attribute,
    AttributeClassifier,
    Classifiers,
    complete,
    parse,
    parse_all,
    read,
)
from fasr_video.sr.denoiser import Condition, Denoiser, ResidualDenoiser
from fasr_video.sr.guidance import Guidance, Guided, open_guidance, open_spread
from fasr_video.sr.methods import METHODS, Need, Options, open_restorer
from fasr_video.sr.methods.diffusion import FAMILY, Diffusion
from fasr_video.sr.networks.attributes import AttributeNet
from fasr_video.sr.restoration import FaceInput, Restorer, restore
from fasr_video.sr.samplers import generators
from fasr_video.sr.weights import save_attributes
from fasr_video.types import Image
from fasr_video.weights import manifest
from tests.conftest import CORRIDOR_QUICK as QUICK
from tests.support.attribute_files import labelled_faces, published_file, randomise
from tests.support.commands import run_command
from tests.support.documents import document
from tests.support.restorers import CPU, PROBE, diffusion, face, models, three_steps

GLASSES, NO_GLASSES, BEARD = (
    Attribute("glasses", True),
    Attribute("glasses", False),
    Attribute("beard", True),
)
SIDE = 32
Capture = pytest.CaptureFixture[str]


# --- the exact answer -----------------------------------------------------------------------------

MEAN, SPREAD, PULL, STRENGTH = 0.4, ResidualDenoiser.WITH_LR, 0.2, 30.0
MOVED = MEAN + STRENGTH * SPREAD**2 * PULL


class Gaussian(Denoiser):
    """D for pictures of which each number is N(mean, SPREAD²)."""

    def __init__(self, mean: float = MEAN, side: int = 8) -> None:
        super().__init__()
        self.centre, self.side, self.feature_length = mean, side, 0
        self.sigma_min, self.sigma_max, self.band = 0.002, 20.0, (1, 1)
        self.network = torch.nn.Identity()

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        v = sde.per_item(sigma, x) ** 2
        return (SPREAD**2 * x + v * self.centre) / (SPREAD**2 + v)


def pulling_classifier(x: Tensor, sigma: Tensor) -> Tensor:
    """log C(c | x, sigma) for C(c | clean) ∝ exp(PULL · Σ clean), but for what does not depend on
    x.
    """
    return PULL * Gaussian()(x, sigma, no_pull(len(x))).flatten(1).sum(1)


def no_pull(n: int, side: int = 8) -> Condition:
    return Condition(torch.full((n, 3, side, side), 0.5), torch.zeros(n, 0))


@pytest.mark.parametrize("bounded", [False, True])
def test_guidance_of_gaussian_data_is_the_denoiser_of_the_moved_gaussian(bounded: bool) -> None:
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.002, 0.05, 0.3, 2.0, 20.0])
    guided = Guided(Gaussian(), pulling_classifier, STRENGTH, bounded)
    torch.testing.assert_close(guided(x, sigma, no_pull(5)), Gaussian(MOVED)(x, sigma, no_pull(5)))


KINDS = {kind: 60 if sampling.KINDS[kind].warm else 120 for kind in sampling.DENOISERS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_draws_the_moved_gaussian(kind: str) -> None:
    """In all that they do: a corrector or a step that was not guided would draw back to the
    mean.
    """
    how, n = sampling.parse(f"{kind}-{KINDS[kind]}"), 24
    drawn = [
        sampling.draw(d, no_pull(n), how, generators(range(n)))
        for d in (
            Guided(Gaussian(), pulling_classifier, STRENGTH, bounded=how.in_few_steps),
            Gaussian(MOVED),
            Gaussian(),
        )
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=2e-4)
    shift = float((drawn[0] - drawn[2]).mean())
    assert shift == pytest.approx(MOVED - MEAN, rel=0.1)


@pytest.mark.parametrize("kind", ["pc", "dpmpp", "heun"])
def test_the_mean_of_the_pictures_is_the_moved_one(kind: str) -> None:
    how, n = sampling.parse(f"{kind}-{KINDS[kind]}"), 48
    guided = Guided(Gaussian(), pulling_classifier, STRENGTH, bounded=how.in_few_steps)
    assert float(
        sampling.draw(guided, no_pull(n), how, generators(range(n))).mean()
    ) == pytest.approx(MOVED, abs=4e-3)


# --- what keeps few steps within pictures ---------------------------------------------------------


def hard_classifier(x: Tensor, sigma: Tensor) -> Tensor:
    return 1e4 * pulling_classifier(x, sigma)


def test_in_few_steps_guidance_is_bounded_by_the_open_spread() -> None:
    x, sigma = torch.rand(3, 3, 8, 8), torch.tensor([0.01, 0.3, 20.0])
    condition = no_pull(3)
    condition.lr[2] = 0  # no LR face: more is open
    plain, bounded = (
        Guided(Gaussian(), hard_classifier, 1.0, b)(x, sigma, condition) for b in (False, True)
    )
    far, near = (d - Gaussian()(x, sigma, condition) for d in (plain, bounded))
    room = open_spread(sigma, condition)
    torch.testing.assert_close(near.square().mean((1, 2, 3)).sqrt(), room)
    assert bool((far.square().mean((1, 2, 3)).sqrt() > 10 * room).all())
    torch.testing.assert_close(
        torch.cosine_similarity(near.flatten(1), far.flatten(1)), torch.ones(3)
    )
    assert (
        room[0] < 0.01
        and room[1] < ResidualDenoiser.WITH_LR < room[2] < ResidualDenoiser.WITHOUT_LR
    )


def test_the_samplers_of_few_steps_are_bounded_and_the_papers_are_as_published() -> None:
    few = {kind for kind in sampling.KINDS if sampling.parse(f"{kind}-5").in_few_steps}
    assert few == {"dpmpp", "dpmpp-sde", "heun", "ddim"}


# --- attributes -----------------------------------------------------------------------------------


def test_attributes_are_parsed_as_people_write_them() -> None:
    assert parse("glasses=yes") == GLASSES
    assert parse("beard=no:0.7") == Attribute("beard", False, 0.7, "examiner")
    assert parse_all(["read", "male=no", "beard=yes"]) == ((BEARD, Attribute("male", False)), True)
    assert parse_all([]) == ((), False)
    assert str(parse("beard=no:0.7")) == "beard=no:0.7 (examiner)"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["hat=yes"], "attribute hat: known are male, glasses, beard"),
        (["no_beard=yes"], "known are male, glasses, beard"),
        (["glasses"], "not NAME=yes|no"),
        (["glasses=maybe"], "not NAME=yes|no"),
        (["glasses=yes:0"], "no confidence"),
        (["glasses=yes:1.1"], "no confidence"),
        (["glasses=yes:nan"], "no confidence"),
        (["glasses=yes:"], "no confidence"),
        (["glasses=yes", "glasses=no"], "attribute glasses: given twice"),
        ([""], "known are"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_all(texts)
    assert message in str(caught.value)


def classifier(names: tuple[str, ...] = NAMES, side: int = 128) -> AttributeClassifier:
    torch.manual_seed(0)
    return AttributeClassifier(
        randomise(AttributeNet(len(names), 4, side)), names, 0.002, 30.0
    ).eval()


def certain_classifier(odds: float, names: tuple[str, ...] = NAMES) -> AttributeClassifier:
    """Says class 1 of everything, with these log odds."""
    always = classifier(names)
    torch.nn.init.zeros_(always.network.Dense_3.weight)
    always.network.Dense_3.bias.data = torch.tensor([0.0, odds] * len(names))
    return always


def all_of(*parts: AttributeClassifier) -> Classifiers:
    return Classifiers(parts, tuple(f"{i}" * 64 for i in range(len(parts))))


def test_our_and_published_classifiers_use_the_same_attribute_names(
    tmp_path: Path,
) -> None:
    save_attributes(classifier(), tmp_path / "a.safetensors")
    ours, published = str(tmp_path / "a.safetensors"), published_file(tmp_path)
    sha256 = sha256_file(Path(ours))
    assert open_guidance([ours], 50, CPU).provenance() == {
        "guidance": 50,
        "classifier": {"male": sha256, "glasses": sha256, "beard": sha256},
    }
    two = open_guidance([f"male={published}", f"beard={published}"], 50, CPU).classifiers
    assert [p.names for p in two.parts] == [("male",), ("no_beard",)]
    assert two.provenance == dict.fromkeys(("male", "beard"), sha256_file(published))
    for files, message in (
        ([str(published)], "does not name its attribute"),
        ([f"hat={published}"], "no attribute hat: known are male, glasses, beard"),
        ([f"male={ours}"], "the file names its own attributes: male, glasses, no_beard"),
        ([ours, f"beard={published}"], "classifier of beard: there are two"),
        ([str(tmp_path / "none")], "no such file"),
    ):
        with pytest.raises(FasrError) as caught:
            open_guidance(files, 50, CPU)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="attribute beard: the classifiers here read male; "):
        all_of(classifier(("male",))).check([BEARD])


@pytest.mark.parametrize("strength", [-1.0, 1e9, float("nan")])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Guidance(all_of(classifier()), strength)


# --- the denoiser, drawn to each row's own --------------------------------------------------------


def guided(*rows: tuple[Attribute, ...], strength: float = 50.0, bounded: bool = False) -> Denoiser:
    return Guidance(all_of(classifier(side=SIDE)), strength).guided(
        Gaussian(side=SIDE), rows, bounded
    )


def make_pictures(n: int) -> tuple[Tensor, Tensor, Condition]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, SIDE, SIDE, generator=g), torch.full((n,), 0.3), no_pull(n, SIDE)


def test_without_a_target_nothing_changes() -> None:
    x, sigma, condition = make_pictures(3)
    plain = Gaussian(side=SIDE)(x, sigma, condition)
    for same in (guided((), (), ()), guided((GLASSES,), (), (), strength=0)):
        assert torch.equal(same(x, sigma, condition), plain)
    beside = guided((), (GLASSES,), ())(x, sigma, condition)
    assert torch.equal(beside[[0, 2]], plain[[0, 2]]) and not torch.equal(beside[1], plain[1])


def test_a_face_does_not_depend_on_the_others_nor_on_their_attributes() -> None:
    x, sigma, condition = make_pictures(3)
    alone = guided((BEARD,), strength=5000)(x[:1], sigma[:1], condition[:1])
    assert float((alone - Gaussian(side=SIDE)(x, sigma, condition)[:1]).detach().abs().max()) > 0.01
    for others in (((), ()), ((GLASSES,), (NO_GLASSES, Attribute("male", True)))):
        together = guided((BEARD,), *others, strength=5000)(x, sigma, condition)
        torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_each_attribute_guides_by_its_own_gradient_and_confidence() -> None:
    x, sigma, condition = make_pictures(1)
    plain = Gaussian(side=SIDE)(x, sigma, condition)
    x.requires_grad_()
    log = classifier(side=SIDE).logs(x, sigma)[:, NAMES.index("no_beard"), 0]
    (slope,) = torch.autograd.grad(log.sum(), x)

    def move(*attributes: Attribute) -> Tensor:
        return guided(attributes)(x, sigma, condition) - plain

    torch.testing.assert_close(move(BEARD), 50 * 0.3**2 * slope, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        move(replace(BEARD, confidence=0.25)), move(BEARD) / 4, rtol=1e-3, atol=1e-6
    )
    torch.testing.assert_close(
        move(BEARD, GLASSES), move(BEARD) + move(GLASSES), rtol=1e-3, atol=1e-6
    )
    assert bool((move(GLASSES) * move(NO_GLASSES)).sum() < 0)


def test_a_classifier_is_called_within_its_trained_noise_levels() -> None:
    levels: list[Tensor] = []

    class RecordingNet(AttributeClassifier):
        def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
            levels.append(sigma)
            return super().forward(images, sigma)

    part = classifier(side=SIDE)
    listening = RecordingNet(part.network, part.names, 0.01, 30.0)
    x, _, condition = make_pictures(3)
    sigma = torch.tensor([0.002, 0.3, 348.0])
    out = Guidance(all_of(listening)).guided(Gaussian(side=SIDE), [(BEARD,)] * 3, False)(
        x, sigma, condition
    )
    assert bool(out.isfinite().all())
    torch.testing.assert_close(levels[0], torch.tensor([0.01, 0.3, 30.0]))


# --- reading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shape_classifier() -> AttributeClassifier:
    """Sees the shapes of `made`: its last layer is fitted to them in closed form."""
    faces, labels = labelled_faces(64)
    seen = classifier()
    torch.nn.init.zeros_(
        seen.network.Dense_2.weight
    )  # goes by the picture alone, whatever the noise level
    shown = faces.pictures[..., 8:136, 8:136].float() / 255
    inputs: list[Tensor] = []
    hook = seen.network.Dense_3.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        seen(shown, torch.full((len(shown),), 0.002))
        hook.remove()
        mean = inputs[0].mean(0)
        centred = inputs[0] - mean
        wanted = 8.0 * (2 * labels.float() - 1)
        weight = centred.T @ torch.linalg.solve(
            centred @ centred.T + 1e-3 * torch.eye(len(shown)), wanted
        )
        last = seen.network.Dense_3
        last.weight.zero_()
        last.bias.zero_()
        last.weight[1::2], last.bias[1::2] = weight.T, -mean @ weight
    return seen


def to_face(k: int) -> Image:
    return np.ascontiguousarray(
        labelled_faces(64)[0].pictures[k, :, 8:136, 8:136].permute(1, 2, 0).numpy()
    )


def test_attributes_are_read_by_the_mean_log_odds_of_all_faces(
    shape_classifier: AttributeClassifier,
) -> None:
    classifiers = all_of(shape_classifier)
    dark, light = read(classifiers, [to_face(0)]), read(classifiers, [to_face(7)])
    assert [(a.name, a.value) for a in dark] == [
        ("male", False),
        ("glasses", False),
        ("beard", True),
    ]
    assert [(a.name, a.value) for a in light] == [
        ("male", True),
        ("glasses", True),
        ("beard", False),
    ]
    assert all(a.source == "read" and CLEAR < a.confidence <= 1 for a in (*dark, *light))
    balanced = read(classifiers, [to_face(0), to_face(7)])
    twice = read(classifiers, [to_face(0), to_face(0), to_face(7)])
    assert all(
        a.confidence < b.confidence < c.confidence
        for a, b, c in zip(balanced, twice, dark, strict=True)
    )


def test_faces_of_any_size_are_read(shape_classifier: AttributeClassifier) -> None:
    small = np.asarray(Pictures.fromarray(to_face(7)).resize((24, 24), Pictures.Resampling.BOX))
    assert [a.value for a in read(all_of(shape_classifier), [small, to_face(7)])] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("odds", [0.0, 1.0, -3.0])
def test_certainty_is_how_far_the_probability_is_from_even(odds: float) -> None:
    probability = 1 / (1 + np.exp(-abs(odds)))
    glasses = read(all_of(certain_classifier(odds)), [face(0, 16)])[1]
    assert glasses.confidence == pytest.approx(max(2 * probability - 1, 0.001), abs=6e-4)
    assert glasses.value == (odds > 0)


def test_attributes_of_the_examiner_take_precedence_over_readings() -> None:
    held = complete((NO_GLASSES,), all_of(certain_classifier(3.0)), [face(0, 16)])
    assert [(a.name, a.value, a.source) for a in held] == [
        ("glasses", False, "examiner"),
        ("male", True, "read"),
        ("beard", False, "read"),
    ]


@pytest.mark.parametrize("kind", ["dpmpp-6", "ve-8"])
def test_guidance_moves_a_picture_to_where_the_classifier_agrees(
    kind: str, shape_classifier: AttributeClassifier
) -> None:
    how, rows, condition = sampling.parse(kind), ((BEARD,), (NO_GLASSES,)), no_pull(2, 128)
    towards, plain = (
        sampling.draw(
            Guidance(all_of(shape_classifier), strength).guided(
                Gaussian(side=128), rows, how.in_few_steps
            ),
            condition,
            how,
            generators([1, 2]),
        )
        for strength in (50.0, 0.0)
    )
    with torch.no_grad():
        after, before = (
            shape_classifier.logs(picture, torch.full((2,), 0.002)) for picture in (towards, plain)
        )
    assert after[0, 2, 0] > before[0, 2, 0] and after[1, 1, 0] > before[1, 1, 0]


# --- restorers ------------------------------------------------------------------------------------


def restorer(
    name: str, part: AttributeClassifier | None = None, strength: float = 50.0
) -> Restorer:
    kind = METHODS[name].defaults.sampler.rpartition("-")[0]
    guidance = Guidance(all_of(part or classifier()), strength)
    return Diffusion(METHODS[name], models(), Options(CPU, sampler=f"{kind}-3", guidance=guidance))


def test_all_methods_that_support_attributes_are_tested_here() -> None:
    assert {name for name, method in METHODS.items() if method.supports.attributes} == {
        m.name for m in FAMILY
    }


@pytest.mark.parametrize("name", [m.name for m in FAMILY])
def test_guidance_changes_the_picture_with_every_method(name: str) -> None:
    drawn = {
        attribute: restore(restorer(name), replace(PROBE, attributes=(attribute,)), 1, 0)
        for attribute in (GLASSES, NO_GLASSES)
    }
    assert not np.array_equal(drawn[GLASSES].picture, drawn[NO_GLASSES].picture)
    assert all(answer.attributes == (attribute,) for attribute, answer in drawn.items())


@pytest.mark.parametrize("name", [m.name for m in FAMILY if Need.ATTRIBUTES not in m.needs])
def test_without_attributes_or_strength_the_picture_is_bit_for_bit_the_unguided_one(
    name: str,
) -> None:
    plain = restore(three_steps(name), PROBE, 1, 0).picture
    for same in (
        restore(restorer(name), PROBE, 1, 0),
        restore(restorer(name, strength=0), replace(PROBE, attributes=(GLASSES,)), 1, 0),
    ):
        assert np.array_equal(same.picture, plain)


def test_pictures_do_not_depend_on_their_neighbours_attributes() -> None:
    ours = replace(PROBE, attributes=(GLASSES,))
    others = [FaceInput(face(7, 24), attributes=(NO_GLASSES, BEARD)), ours, FaceInput(face(8, 16))]
    together = restorer("fasr++").restore_all(others, 2, [1, 3, 2])
    alone = [restore(restorer("fasr++"), p, 2, s) for p, s in zip(others, (1, 3, 2), strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a.picture.astype(int) - b.picture).max() <= 1 and a.attributes == b.attributes


def test_srdg_is_sde_sr_that_is_guided() -> None:
    with pytest.raises(
        UsageError, match="method srdg: it is guided by attributes, and there are none"
    ):
        open_restorer(METHODS["srdg"], Options(CPU))
    with pytest.raises(
        UsageError, match="method srdg: it is guided by attributes, and there are none"
    ):
        restore(restorer("srdg"), PROBE, 1, 0)
    probe = replace(PROBE, attributes=(GLASSES,))
    srdg, sde_sr = (restore(restorer(name), probe, 1, 0) for name in ("srdg", "sde-sr-ve"))
    assert np.array_equal(srdg.picture, sde_sr.picture) and srdg.feature == "none"


def test_attributes_need_a_classifier_that_reads_them() -> None:
    probe = replace(PROBE, attributes=(BEARD,))
    with pytest.raises(UsageError, match="attribute beard: the classifiers here read none"):
        restore(diffusion("fasr", "dpmpp-2"), probe, 1, 0)
    with pytest.raises(UsageError, match="attribute beard: the classifiers here read male"):
        restore(restorer("fasr", classifier(("male",))), probe, 1, 0)
    with pytest.raises(UsageError, match="method bicubic cannot be guided by any"):
        open_restorer(METHODS["bicubic"], Options(CPU, guidance=Guidance(all_of(classifier()))))


def test_provenance_names_the_classifier_and_the_strength() -> None:
    plain = diffusion("fasr++", "dpmpp-sde-3").provenance()
    more = {"guidance": 50.0, "classifier": dict.fromkeys(("male", "glasses", "beard"), "0" * 64)}
    assert restorer("fasr++").provenance() == plain | more


def warnings(part: AttributeClassifier, *attributes: Attribute) -> list[str]:
    answer = restore(restorer("fasr", part), replace(PROBE, attributes=attributes), 1, 0)
    return [w for w in answer.warnings if any(name in w for name in ("attribute", "guessed"))]


def test_an_uncertain_reading_is_not_used_with_a_warning() -> None:
    unsure, sure = (
        Attribute(n, True, c, "read") for n, c in (("male", SURE / 2), ("glasses", SURE))
    )
    answer = restore(restorer("fasr"), replace(PROBE, attributes=(unsure, sure)), 1, 0)
    only = restore(restorer("fasr"), replace(PROBE, attributes=(sure,)), 1, 0)
    assert answer.attributes == (sure,) and np.array_equal(answer.picture, only.picture)
    assert any(
        w.startswith("attribute male: read with certainty 0.1, too little") for w in answer.warnings
    )
    lines = warnings(classifier(), unsure)
    assert any("drawn without guidance" in w for w in lines)


def test_a_warning_calls_a_reading_a_guess() -> None:
    (line,) = warnings(classifier(), Attribute("glasses", True, 0.9, "read"))
    assert (
        line == "glasses: guessed by a network (LR face of 16 px), which can be certain and wrong"
    )


def test_an_attribute_that_contradicts_the_picture_gives_a_warning() -> None:
    (line,) = warnings(certain_classifier(5.0), NO_GLASSES)
    assert line == (
        "attribute glasses=no (examiner): the LR face of 16 px reads as the opposite, with "
        "certainty 0.987"
    )
    (line,) = warnings(certain_classifier(5.0), BEARD)
    assert line.startswith("attribute beard=yes (examiner): ")
    assert warnings(certain_classifier(5.0), GLASSES) == []
    assert warnings(certain_classifier(1.0), NO_GLASSES) == [], "it is not clearly seen"


# --- fasr-video sr --------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sr(weights: list[str], tmp_path: Path, capsys: Capture) -> Run:
    save_attributes(certain_classifier(5.0), tmp_path / "attributes.safetensors")
    Pictures.fromarray(face(0, 16)).save(tmp_path / "still.png")

    def call(*arguments: object) -> tuple[int, str, str]:
        return run_command(
            capsys, "sr", tmp_path / "still.png", *weights, "--out", tmp_path / "out", *arguments
        )

    return call


def facts_in(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    return [json.loads(p.read_text()) for p in files]


def test_a_guided_still_names_its_attributes_everywhere(sr: Run, tmp_path: Path) -> None:
    file = tmp_path / "attributes.safetensors"
    code, _, err = sr(
        "--classifier", file, "--attr", "glasses=no:0.7", "--attr", "read", "--guidance", 20
    )
    assert (
        code == 0
        and "attribute glasses=no:0.7 (examiner): the LR face of 16 px reads as the opposite" in err
    )
    (facts,) = facts_in(tmp_path / "out")
    given = {"name": "glasses", "value": False, "confidence": 0.7, "source": "examiner"}
    options, attributes = facts["request"], facts["attributes"]
    assert isinstance(options, dict) and isinstance(attributes, list)
    assert options["attributes"] == {"stated": [given], "read": True}
    assert options["restorer"]["guidance"] == 20 and options["restorer"]["classifier"][
        "beard"
    ] == sha256_file(file)
    assert [(a["name"], a["source"]) for a in attributes] == [
        ("glasses", "examiner"),
        ("male", "read"),
        ("beard", "read"),
    ]
    assert any("reads as the opposite" in w for w in facts["warnings"])  # type: ignore[attr-defined]
    pages = []
    for path in (tmp_path / "out").glob("*.png"):
        with Pictures.open(path) as picture:
            assert json.loads(picture.text["fasr-video"])["attributes"] == attributes  # type: ignore[attr-defined]
            pages.append(picture.height)
    assert max(pages) > 128 + 16 + 18, "the sheet has lines about them"


def test_a_still_is_drawn_again_only_if_the_options_change(sr: Run, tmp_path: Path) -> None:
    file, other = tmp_path / "attributes.safetensors", tmp_path / "other.safetensors"
    save_attributes(certain_classifier(4.0), other)
    questions: list[tuple[object, ...]] = [
        (),
        ("--attr", "glasses=yes", "--attr", "beard=no", "--classifier", file),
        ("--attr", "glasses=yes:0.5", "--attr", "beard=no", "--classifier", file),
        ("--attr", "glasses=yes", "--attr", "beard=no", "--classifier", file, "--guidance", 10),
        ("--attr", "glasses=yes", "--attr", "beard=no", "--classifier", other),
        ("--attr", "read", "--classifier", file),
    ]
    assert all(": drawn " in sr(*q)[1] for q in questions)
    assert all(": there already " in sr(*q)[1] for q in questions)
    assert (
        ": there already "
        in sr("--attr", "beard=no", "--attr", "glasses=yes", "--classifier", file)[1]
    )
    assert "attributes" not in facts_in(tmp_path / "out")[0]["request"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attr", "hat=yes"), "attribute hat: known are male, glasses, beard"),
        (("--attr", "male=yes", "--attr", "male=no"), "given twice"),
        (("--attr", "male=yes", "--guidance", "-1"), "out of range"),
        (("--method", "srdg"), "it is guided by attributes, and there are none"),
        (("--attr", "male=yes", "--classifier", "/nowhere"), "no such file"),
    ],
)
def test_wrong_options_give_a_one_line_error(
    sr: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ours = ("--classifier", tmp_path / "attributes.safetensors")
    needed = "--attr" in arguments and "--classifier" not in arguments
    code, _, err = sr(*arguments, *(ours if needed else ()))
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--guidance", "20"), ("--classifier", "a.safetensors")])
def test_an_option_without_attributes_is_refused(sr: Run, option: tuple[str, str]) -> None:
    code, _, err = sr(*option)
    assert code == 2 and f"{option[0]}: there are no attributes" in err


# --- fasr-video run -------------------------------------------------------------------------------

READING = (*QUICK, "restore.attributes=read", "restore.guidance=20")


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box whose classifier always reads glasses and a beard's absence; the classifier's file."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in manifest.BUNDLED.iterdir():
        if path.name not in {manifest.MANIFEST, "attributes.safetensors"}:
            (folder / path.name).symlink_to(path)
    save_attributes(certain_classifier(5.0), folder / "attributes.safetensors")
    entries = [
        e
        for e in json.loads((manifest.BUNDLED / manifest.MANIFEST).read_text())
        if e["file"] != "attributes.safetensors"
    ]
    ours = entries[0] | {"file": "attributes.safetensors", "needs": []}
    (folder / manifest.MANIFEST).write_text(json.dumps([*entries, ours]))
    monkeypatch.setattr(manifest, "BUNDLED", folder)
    manifest.refresh()
    return folder / "attributes.safetensors"


def test_a_run_reads_attributes_off_the_faces_and_the_case_records_them(
    bundled: Path, entrance: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, settings = tmp_path / "case", configs.load("cpu", READING)
    run([entrance], out, settings)
    (track,) = [t for t in document(out)["tracks"] if t["restoration"]]
    restoration = track["restoration"]
    assert [(a["name"], a["value"], a["source"]) for a in restoration["attributes"]] == [
        ("male", True, "read"),
        ("glasses", True, "read"),
        ("beard", False, "read"),
    ]
    assert any("guessed by a network" in w for w in restoration["warnings"])
    screen = " ".join(run_command(capsys, "show", out)[1].split())
    assert "drawn" in screen and "(read)" in screen
    with Pictures.open(out / restoration["picture"]) as picture:
        assert json.loads(picture.info["fasr-video"])["attributes"] == restoration["attributes"]
    with Case.open(out, read_only=True) as case:
        (models,) = (
            json.loads(row["models"]) for row in case.db.execute("SELECT models FROM encoding")
        )
        assert not any(c.problems for c in verify(case))
    sha256 = sha256_file(bundled)
    assert models["restorer"]["guidance"] == 20 and set(
        models["restorer"]["classifier"].values()
    ) == {sha256}
    assert run([entrance], out, settings)[1] is False

    with pytest.raises(CaseError, match=r"restore\.attributes, restore\.guidance"):
        open_case(out, configs.load("cpu", QUICK))
    save_attributes(certain_classifier(-5.0), bundled)
    manifest.refresh()
    assert run([entrance], out, settings)[1] is True, "another classifier is another question"
    (track,) = [t for t in document(out)["tracks"] if t["restoration"]]
    assert [a["value"] for a in track["restoration"]["attributes"]] == [False, False, True]


def test_older_probes_are_drawn_again_with_guidance(
    bundled: Path, entrance: Path, tmp_path: Path
) -> None:
    out = tmp_path / "case"
    run([entrance], out, configs.load("cpu", QUICK))
    (before,) = [t["restoration"] for t in document(out)["tracks"] if t["restoration"]]
    assert before["attributes"] == []
    with Case.open(out) as case:
        assert (
            encode_all(case, open_encoder(configs.load("cpu", QUICK)), 0, lambda *_: None) is False
        )
        assert (
            encode_all(case, open_encoder(configs.load("cpu", READING)), 0, lambda *_: None) is True
        )
    (after,) = [t["restoration"] for t in document(out)["tracks"] if t["restoration"]]
    assert after["attributes"] and after["picture"] != before["picture"]


def test_a_case_without_these_settings_has_no_guidance(entrance: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "case", configs.load("cpu", QUICK)
    with open_case(out, settings) as case:
        stored = json.loads(case.meta("settings"))
        del stored["restore"]["attributes"], stored["restore"]["guidance"]
        case.db.execute("UPDATE meta SET value = ? WHERE key = 'settings'", (json.dumps(stored),))
    with open_case(out, settings):
        pass
    with pytest.raises(CaseError, match=r"restore\.attributes"):
        open_case(out, configs.load("cpu", READING))


def test_no_attribute_is_read_for_a_method_that_draws_nothing() -> None:
    with pytest.raises(
        SettingsError, match=r"restore\.attributes=read: restore\.method none draws nothing"
    ):
        open_encoder(configs.load("cpu", (*READING, "restore.method=none")))
    assert "guidance" not in str(open_encoder(configs.load("cpu", QUICK)).provenance())
