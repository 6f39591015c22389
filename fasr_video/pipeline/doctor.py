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


IN_THE_BOX = {
    "detector in the box": "detector.safetensors",
    "embedder in the box": "embedder.safetensors",
    "Feature Combiner in the box": "combiner.safetensors",
    "super-resolution in the box": "sr.safetensors",
    "calibration in the box": "calibration.json",
}


def _models() -> list[Finding]:
    from fasr_video.files import sha256_file
    from fasr_video.pipeline.detect.builtin import DEFAULT_WEIGHTS, BuiltinDetector

    findings = []
    for what, name in IN_THE_BOX.items():
        file = DEFAULT_WEIGHTS.with_name(name)
        if file.is_file():
            # All of them were trained on the same faces, under the same terms.
            findings.append(Finding(what, f"sha256 {sha256_file(file)[:16]}…, licence: {BuiltinDetector.licence}", ""))
        else:
            findings.append(Finding(what, "missing", "install fasr-video again"))
    return findings
