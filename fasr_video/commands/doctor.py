"""`fasr-video doctor`: what is installed, which device would be used, which models are there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import click
import torch
from rich.console import Console
from rich.table import Table

from fasr_video import __version__
from fasr_video.console import table_cell
from fasr_video.errors import ModelError
from fasr_video.weights import manifest


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what `doctor` shows."""

    what: str
    state: str
    remedy: str
    """What to do about it; empty when all is well."""


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
    """Return what is installed, what the machine has, and the state of the bundled weights."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    free_disk = shutil.disk_usage(Path.cwd()).free
    machine = [
        Finding("fasr-video", __version__, ""),
        Finding("Python", python, ""),
        Finding("cores", str(os.cpu_count()), ""),
        Finding("FFmpeg", _ffmpeg_versions(), ""),
        Finding("GPU", _gpu_name(), ""),
        Finding("free disk here", f"{free_disk / 1e9:.0f} GB", ""),
    ]
    packages = [_package(name, remedy) for name, remedy in PACKAGES.items()]
    return [*machine, *packages, *_models()]


def _ffmpeg_versions() -> str:
    """Return the names and versions of the first two libraries of FFmpeg."""
    libraries = list(av.library_versions.items())[:2]
    return ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in libraries)


def _gpu_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "none: everything runs on the CPU"


def _package(name: str, remedy: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), "")
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", remedy or "pip install fasr-video")


def _models() -> list[Finding]:
    """Return the state of each bundled file, and a line for all of them."""
    try:
        states = {entry: entry.state for entry in manifest.read_manifest().values()}
    except ModelError as error:
        return [Finding("bundled weights", error.reason, error.remedy)]
    findings = []
    bad = 0
    for entry, state in states.items():
        name = f"bundled {entry.what}"
        if state is manifest.State.OK:
            facts = f"sha256 {entry.sha256[:16]}…, licence: {entry.licence}"
            findings.append(Finding(name, facts, ""))
        else:
            bad += 1
            findings.append(Finding(name, str(state), manifest.REMEDY))
    if bad:
        summary = f"incomplete: {bad} of {len(states)} files are missing or altered"
    else:
        summary = f"complete: {len(states)} files, each as the manifest says"
    return [*findings, Finding("bundled weights", summary, manifest.REMEDY if bad else "")]


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show what is installed, which device would be used, and which models are there."""
    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    table = Table(box=None, show_header=False)
    for finding in findings:
        remedy = f"[yellow]{table_cell(finding.remedy)}[/]"
        table.add_row(finding.what, table_cell(finding.state), remedy)
    Console().print(table)
