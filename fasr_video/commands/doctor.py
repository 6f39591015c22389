"""`fasr-video doctor`: what is installed here, on which device things would run, and which models are at hand."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import click
import torch
from rich.console import Console
from rich.table import Table

from fasr_video import __version__
from fasr_video.console import cell
from fasr_video.errors import ModelError
from fasr_video.weights import manifest


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
    "distributed": "pip install 'fasr-video[dist]'",
    "insightface": "pip install 'fasr-video[insightface]'",
    "onnxruntime": "pip install 'fasr-video[insightface]'",
    "dlib-bin": "pip install 'fasr-video[dlib]'",
    "face_recognition_models": "pip install 'fasr-video[dlib]'",
    "openvino": "pip install 'fasr-video[fast]'",
    "matplotlib": "pip install 'fasr-video[report]'",
    "weasyprint": "pip install 'fasr-video[report]'",
    "flask": "pip install 'fasr-video[serve]'",
    "waitress": "pip install 'fasr-video[serve]'",
    "cryptography": "pip install 'fasr-video[custody]'",
}


def examine() -> list[Finding]:
    libraries = ", ".join(
        f"{k} {'.'.join(map(str, v))}" for k, v in list(av.library_versions.items())[:2]
    )
    findings = [
        Finding("fasr-video", __version__, ""),
        Finding(
            "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""
        ),
        Finding("cores", str(os.cpu_count()), ""),
        Finding("FFmpeg", libraries, ""),
        Finding("GPU", _gpu(torch.cuda.is_available()), ""),
        Finding("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB", ""),
    ]
    findings += [_package(name, remedy) for name, remedy in PACKAGES.items()]
    return [*findings, *_models()]


def _gpu(there: bool) -> str:
    return torch.cuda.get_device_name(0) if there else "none: everything runs on the CPU"


def _package(name: str, remedy: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), "")
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", remedy or "pip install fasr-video")


def _models() -> list[Finding]:
    try:
        states = {entry: entry.state for entry in manifest.read_manifest().values()}
    except ModelError as error:
        return [Finding("the box", error.reason, error.remedy)]
    findings = []
    for entry, state in states.items():
        whole = state is manifest.State.OK
        told = f"sha256 {entry.sha256[:16]}…, licence: {entry.licence}" if whole else str(state)
        findings.append(Finding(f"{entry.what} in the box", told, "" if whole else manifest.REMEDY))
    bad = sum(state is not manifest.State.OK for state in states.values())
    summary = f"whole: {len(states)} files, each as the manifest says"
    if bad:
        summary = f"not whole: {bad} of {len(states)} files missing or altered"
    return [*findings, Finding("the box", summary, manifest.REMEDY if bad else "")]


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show what is installed, which device would be used, and which models are at hand."""
    findings = examine()
    if as_json:
        click.echo(
            json.dumps(
                [{"what": f.what, "state": f.state, "remedy": f.remedy} for f in findings], indent=2
            )
        )
        return
    table = Table(box=None, show_header=False)
    for f in findings:
        table.add_row(f.what, cell(f.state), f"[yellow]{cell(f.remedy)}[/]")
    Console().print(table)
