"""What is installed here, on which device things would run, and which models are at hand."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from fasr_video import __version__


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    state: str
    remedy: str
    """Empty when nothing is to be done."""


PACKAGES = {
    "av": "",
    "decord": "pip install 'fasr-video' on x86-64",
    "opencv-python": "",
    "torch": "",
    "numpy": "",
    "filterpy": "",
    "faiss-cpu": "pip install 'fasr-video[cpu]'",
    "insightface": "pip install 'fasr-video[insightface]'",
    "onnxruntime": "pip install 'fasr-video[insightface]'",
    "matplotlib": "pip install 'fasr-video[report]'",
    "weasyprint": "pip install 'fasr-video[report]'",
}


def examine() -> list[Finding]:
    import av
    import torch

    libraries = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in list(av.library_versions.items())[:2])
    findings = [
        Finding("fasr-video", __version__, ""),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""),
        Finding("cores", str(os.cpu_count()), ""),
        Finding("FFmpeg", libraries, ""),
        Finding("GPU", _gpu(torch.cuda.is_available()), ""),
        Finding("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB", ""),
    ]
    findings += [_package(name, remedy) for name, remedy in PACKAGES.items()]
    return [*findings, *_models()]


def _gpu(there: bool) -> str:
    import torch

    return torch.cuda.get_device_name(0) if there else "none: everything runs on the CPU"


def _package(name: str, remedy: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), "")
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", remedy or "pip install fasr-video")


def _models() -> list[Finding]:
    from fasr_video.hashes import sha256_file
    from fasr_video.pipeline.detect.builtin import DEFAULT_WEIGHTS, BuiltinDetector

    if not DEFAULT_WEIGHTS.is_file():
        return [Finding("detector in the box", "missing", "install fasr-video again")]
    state = f"sha256 {sha256_file(DEFAULT_WEIGHTS)[:16]}…, licence: {BuiltinDetector.licence}"
    return [
        Finding("detector in the box", state, ""),
        Finding("face recogniser", "none in this version: candidates are not ranked yet", ""),
    ]
