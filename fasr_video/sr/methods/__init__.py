"""The super-resolution methods by name. To add one: write a module here and add it to METHODS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fasr_video.errors import UsageError
from fasr_video.sr.methods.bicubic import BICUBIC
from fasr_video.sr.methods.diffusion import FAMILY, unguided
from fasr_video.sr.methods.idfsr import IDFSR
from fasr_video.sr.methods.mean import MEAN
from fasr_video.sr.methods.method import Defaults, Method, ModelFiles, Need, Options, Supports
from fasr_video.sr.methods.pmrf import PMRF
from fasr_video.sr.methods.spandrel import SPANDREL
from fasr_video.sr.restoration import Restorer

__all__ = [
    "METHODS",
    "NAMES",
    "Defaults",
    "Method",
    "ModelFiles",
    "Need",
    "Options",
    "Supports",
    "find_method",
    "open_restorer",
]

_ALL = (*FAMILY, IDFSR, MEAN, PMRF, BICUBIC, SPANDREL)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
NAMES = tuple(f"{name}FILE" if name.endswith(":") else name for name in METHODS)


def find_method(name: str) -> Method:
    """Return the method of that name; for PREFIX:FILE, method `PREFIX:` renamed to PREFIX:FILE."""
    prefix, colon, file = name.partition(":")
    method = METHODS.get(prefix + colon)
    if method is None or (colon and not file):
        raise UsageError(f"method {name}", "no such method", f"use one of: {', '.join(NAMES)}")
    return replace(method, name=name)


def open_restorer(method: Method, options: Options) -> Restorer:
    """Return the restorer of a method; raise UsageError for options that it does not support."""
    name, supports = method.name, method.supports
    if options.sampler is not None and not supports.sampler:
        raise UsageError(
            f"sampler {options.sampler}", f"method {name} does not sample", "leave --sampler out"
        )
    if options.guidance is not None and not supports.attributes:
        raise UsageError(
            "attributes",
            f"method {name} cannot be guided by any",
            "leave them out, or use fasr++",
        )
    if options.files.identity is not None and not supports.identity:
        raise UsageError(f"method {name}", "it takes no fitted identity", "use --method idfsr")
    if options.guidance is None and Need.ATTRIBUTES in method.needs:
        raise unguided(name)
    return method.open(method, options)
