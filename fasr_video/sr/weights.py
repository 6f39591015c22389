"""Our own weights files: safetensors in float16, with a header that says which network they fill."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fasr_video.checkpoint import load_state, read_metadata, save_own
from fasr_video.errors import ModelError
from fasr_video.sr.denoiser import Denoiser, ResidualDenoiser, ScoreDenoiser
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.ncsnpp import NCSNpp

FORMAT = "fasr-video/denoiser/1"
CONSTANTS = {"frequencies", "all_modules.0.W", "sigmas"}
"""Stay as they are: Fourier angles reach 10³, and half precision would turn them."""


@dataclass(frozen=True, slots=True)
class Header:
    network: str
    """compact or ncsnpp."""
    side: int
    feature_length: int
    widths: tuple[int, ...]
    """compact: of its levels; ncsnpp: the first level's alone."""
    blocks: int
    condition: int
    sigma_min: float
    sigma_max: float
    band: tuple[int, int]
    """Smallest and largest side of the LR faces it was trained on."""
    embedder: str
    """SHA-256 of the embedder whose features it was trained with."""


def save_denoiser(denoiser: Denoiser, path: Path) -> None:
    state = denoiser.network.state_dict()
    tensors = {k: (v if k in CONSTANTS else v.half()).cpu().contiguous() for k, v in state.items()}
    save_own(tensors, path, FORMAT, json.dumps(asdict(_header(denoiser))))


def _header(denoiser: Denoiser) -> Header:
    net = denoiser.network
    common = (denoiser.sigma_min, denoiser.sigma_max, denoiser.band, denoiser.embedder)
    if isinstance(net, CompactNet):
        return Header("compact", denoiser.side, net.feature_length, net.widths, net.blocks, net.condition, *common)
    if isinstance(net, NCSNpp):
        return Header("ncsnpp", net.side, net.feature_length, (net.width,), 0, 0, *common)
    raise TypeError(f"no header for a {type(net).__name__}")


def is_own(path: Path) -> bool:
    return _read_header(path) is not None


def load_own(path: Path) -> Denoiser:
    """The denoiser of a file that `is_own`."""
    header = _read_header(path)
    if header is None:
        raise ModelError(path, "its header does not name a fasr-video denoiser", "give weights that `train sr` wrote")
    denoiser: Denoiser
    if header.network == "compact":
        net = CompactNet(header.widths, header.blocks, header.feature_length, header.condition)
        denoiser = ResidualDenoiser(net, header.side, header.sigma_min, header.sigma_max)
    else:
        published = NCSNpp(header.side, header.widths[0], feature=header.feature_length > 0)
        denoiser = ScoreDenoiser(published, header.sigma_min, header.sigma_max)
    denoiser.band, denoiser.embedder = header.band, header.embedder
    load_state(denoiser.network, path)
    return denoiser.float().eval()


def _read_header(path: Path) -> Header | None:
    if path.suffix != ".safetensors":
        return None
    metadata = read_metadata(path)
    if FORMAT not in metadata:
        return None
    try:
        fields = json.loads(metadata[FORMAT])
        return Header(**fields | {"widths": tuple(fields["widths"]), "band": tuple(fields["band"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(path, f"its header is damaged ({error})", "copy or download it again") from error
