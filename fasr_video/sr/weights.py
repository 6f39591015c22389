"""Our own weights files: safetensors in float16, with a header that describes the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fasr_video.checkpoint import check_contract, load_state, read_metadata, save_own
from fasr_video.errors import ModelError
from fasr_video.sr.attributes import AttributeClassifier
from fasr_video.sr.denoiser import Denoiser, ResidualDenoiser, ScoreDenoiser
from fasr_video.sr.flow import RectifiedFlow
from fasr_video.sr.idfsr import IdentityDenoiser, identity_denoiser
from fasr_video.sr.networks.attributes import AttributeNet
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.flow import FlowNet
from fasr_video.sr.networks.idfsr import IdfsrNet, Size
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.networks.ncsnpp import NCSNpp
from fasr_video.sr.posterior_mean import PosteriorMean

FORMAT, ATTRIBUTES_FORMAT = "fasr-video/denoiser/1", "fasr-video/attributes/1"
IDFSR_FORMAT = "fasr-video/idfsr/2"
MEAN_FORMAT = "fasr-video/mean/1"
FLOW_FORMAT = "fasr-video/flow/1"
# Tensors stored in full precision: Fourier angles reach 10³, where half precision is too coarse.
CONSTANTS = {
    "frequencies",
    "waves.frequencies",
    "all_modules.0.W",
    "sigmas",
    "GaussianFourierProjection_0.W",
}


@dataclass(frozen=True, slots=True)
class Header:
    network: str
    """compact or ncsnpp."""
    side: int
    feature_length: int
    widths: tuple[int, ...]
    """compact: the width of each level; ncsnpp: of the first level alone."""
    blocks: int
    condition: int
    sigma_min: float
    sigma_max: float
    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    embedder: str
    """SHA-256 of the embedder whose features it was trained with."""
    spread: float = ResidualDenoiser.WITH_LR
    """compact: of what the LR face, or the posterior mean, lacks."""
    mean: str = ""
    """SHA-256 of the posterior mean that it draws around; empty where that is the LR face."""


@dataclass(frozen=True, slots=True)
class AttributesHeader:
    names: tuple[str, ...]
    block: int
    side: int
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True, slots=True)
class IdfsrHeader:
    size: Size
    band: tuple[int, int]
    embedder: str
    """SHA-256 of the embedder whose features are its identities."""


@dataclass(frozen=True, slots=True)
class MeanHeader:
    width: int
    blocks: int
    feature_length: int
    condition: int
    side: int
    band: tuple[int, int]
    embedder: str
    """SHA-256 of the embedder whose features it was trained with."""


@dataclass(frozen=True, slots=True)
class FlowHeader:
    widths: tuple[int, ...]
    blocks: int
    side: int
    head: int
    """Channels of the head at full resolution."""
    noise: float
    band: tuple[int, int]
    mean: str
    """SHA-256 of the posterior mean that it was trained to start from."""


def save_denoiser(denoiser: Denoiser, path: Path) -> None:
    """Write the weights of a denoiser."""
    _save(denoiser.network.state_dict(), FORMAT, asdict(_header(denoiser)), path)


def _save(state: Mapping[str, Tensor], form: str, fields: Mapping[str, object], path: Path) -> None:
    tensors = {k: (v if k in CONSTANTS else v.half()).cpu().contiguous() for k, v in state.items()}
    save_own(tensors, path, form, json.dumps(fields))


def _header(denoiser: Denoiser) -> Header:
    net = denoiser.network
    common = (denoiser.sigma_min, denoiser.sigma_max, denoiser.band, denoiser.embedder)
    if isinstance(net, CompactNet):
        assert isinstance(denoiser, ResidualDenoiser)
        return Header(
            "compact",
            denoiser.side,
            net.feature_length,
            net.widths,
            net.blocks,
            net.condition,
            *common,
            spread=denoiser.spread,
            mean=denoiser.mean,
        )
    if isinstance(net, NCSNpp):
        return Header("ncsnpp", net.side, net.feature_length, (net.width,), 0, 0, *common)
    raise TypeError(f"no header for a {type(net).__name__}")


def is_own(path: Path) -> bool:
    """Return whether a file holds a denoiser in our own format."""
    return _read_header(path) is not None


def load_own(path: Path) -> Denoiser:
    """Return the denoiser of a file for which `is_own` is true."""
    header = _read_header(path)
    if header is None:
        raise ModelError(
            path,
            "its header does not name a fasr-video denoiser",
            "give weights that `train sr` wrote",
        )
    denoiser: Denoiser
    if header.network == "compact":
        net = CompactNet(
            header.widths, header.blocks, header.feature_length, header.condition, side=header.side
        )
        denoiser = ResidualDenoiser(net, header.sigma_min, header.sigma_max, header.spread)
    else:
        published = NCSNpp(header.side, header.widths[0], feature=header.feature_length > 0)
        denoiser = ScoreDenoiser(published, header.sigma_min, header.sigma_max)
    denoiser.band, denoiser.embedder = header.band, header.embedder
    denoiser.mean = header.mean
    load_state(denoiser.network, path)
    return denoiser.float().eval()


def save_attributes(classifier: AttributeClassifier, path: Path) -> None:
    """Write the weights of an attribute classifier."""
    net = classifier.network
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    header = AttributesHeader(
        classifier.names, net.block, net.side, classifier.sigma_min, classifier.sigma_max
    )
    _save(state, ATTRIBUTES_FORMAT, asdict(header), path)


def load_attributes(path: Path) -> AttributeClassifier:
    """Return the classifier that `save_attributes` wrote."""
    check_contract(path, ATTRIBUTES_FORMAT)
    fields = _header_of(
        path, ATTRIBUTES_FORMAT, "a fasr-video attribute classifier", "train attributes"
    )
    try:
        header = AttributesHeader(**fields | {"names": tuple(fields["names"])})
        net = AttributeNet(len(header.names), header.block, header.side)
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    load_state(net, path)
    return AttributeClassifier(net, header.names, header.sigma_min, header.sigma_max).float().eval()


def save_idfsr(denoiser: IdentityDenoiser, path: Path) -> None:
    """Write the weights of an IDFSR denoiser."""
    header = IdfsrHeader(denoiser.network.size, denoiser.band, denoiser.embedder)
    _save(denoiser.network.state_dict(), IDFSR_FORMAT, asdict(header), path)


def load_idfsr(path: Path) -> IdentityDenoiser:
    """Return the denoiser that `save_idfsr` wrote."""
    fields = _header_of(path, IDFSR_FORMAT, "an IDFSR network", "train idfsr")
    try:
        widths = {name: tuple(fields["size"][name]) for name in ("widths", "style_widths")}
        size = Size(**fields["size"] | widths)
        header = IdfsrHeader(**fields | {"size": size, "band": tuple(fields["band"])})
        denoiser = identity_denoiser(IdfsrNet(size))
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    denoiser.band, denoiser.embedder = header.band, header.embedder
    load_state(denoiser.network, path)
    return denoiser.float().eval()


def save_mean(mean: PosteriorMean, path: Path) -> None:
    """Write the weights of a posterior mean."""
    net = mean.network
    header = MeanHeader(
        width=net.width,
        blocks=len(net.blocks),
        feature_length=net.feature_length,
        condition=net.condition,
        side=net.side,
        band=mean.band,
        embedder=mean.embedder,
    )
    _save(net.state_dict(), MEAN_FORMAT, asdict(header), path)


def load_mean(path: Path) -> PosteriorMean:
    """Return the posterior mean that `save_mean` wrote."""
    fields = _header_of(path, MEAN_FORMAT, "a posterior-mean network", "train mean")
    try:
        header = MeanHeader(**fields | {"band": tuple(fields["band"])})
        net = MeanNet(
            width=header.width,
            blocks=header.blocks,
            feature_length=header.feature_length,
            condition=header.condition,
            side=header.side,
        )
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    mean = PosteriorMean(net)
    mean.band, mean.embedder = header.band, header.embedder
    load_state(mean.network, path)
    return mean.float().eval()


def save_flow(flow: RectifiedFlow, path: Path) -> None:
    """Write the weights of a rectified flow."""
    net = flow.network
    header = FlowHeader(
        net.widths, net.blocks, net.side, net.head_width, flow.noise, flow.band, flow.mean
    )
    _save(net.state_dict(), FLOW_FORMAT, asdict(header), path)


def load_flow(path: Path) -> RectifiedFlow:
    """Return the rectified flow that `save_flow` wrote."""
    fields = _header_of(path, FLOW_FORMAT, "a rectified flow", "train flow")
    try:
        lists = {name: tuple(fields[name]) for name in ("widths", "band")}
        header = FlowHeader(**fields | lists)
        net = FlowNet(header.widths, header.blocks, header.side, header.head)
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    flow = RectifiedFlow(net, header.noise)
    flow.band, flow.mean = header.band, header.mean
    load_state(net, path)
    return flow.float().eval()


def _read_header(path: Path) -> Header | None:
    fields = _fields(path, FORMAT)
    if fields is None:
        return None
    try:
        return Header(**fields | {"widths": tuple(fields["widths"]), "band": tuple(fields["band"])})
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _header_of(path: Path, form: str, what: str, command: str) -> dict[str, Any]:
    """Return the header's fields for a format; raise ModelError where it has none.

    `command` is the one that writes such files.
    """
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    fields = _fields(path, form)
    if fields is None:
        raise ModelError(
            path, f"its header does not name {what}", f"give weights that `{command}` wrote"
        )
    return fields


def _fields(path: Path, form: str) -> dict[str, Any] | None:
    """Return the header's fields for a format; None where the header does not name that format."""
    if path.suffix != ".safetensors":
        return None
    metadata = read_metadata(path)
    if form not in metadata:
        return None
    try:
        fields = json.loads(metadata[form])
        return dict(fields)
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(path, f"its header is damaged ({error})", "copy or download it again")
