"""All settings, their types and bounds. The presets beside this file list every one of them once, with a comment."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fasr_video.errors import SettingsError

Share = Field(ge=0, le=1)


class _Group(BaseModel):
    # JSON knows no infinity: what is stored of it would not be what was asked for.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MediaSettings(_Group):
    backend: Literal["pyav", "decord"]
    assumed_fps: float = Field(gt=0, le=1000)
    use_damaged: bool


class SamplingSettings(_Group):
    every: int = Field(ge=1)
    fps: float | None = Field(gt=0)
    start: float | None = Field(ge=0)
    end: float | None = Field(gt=0)


class DetectSettings(_Group):
    backend: Literal["builtin", "haar", "retinaface", "insightface"]
    weights: Path | None
    device: str
    engine: Literal["torch", "openvino"]
    every: int = Field(ge=1, le=1000)
    gate: Literal["none", "motion"]
    min_score: float = Share
    tile: int = Field(ge=0)
    tile_overlap: int = Field(ge=0)
    max_side: int = Field(ge=64)
    batch: int | None = Field(ge=1, le=256)


class TrackSettings(_Group):
    method: Literal["sort", "bytetrack", "ocsort"]
    max_gap: float = Field(gt=0)
    min_sightings: int = Field(ge=1)
    start_score: float = Share
    high_score: float = Share
    min_overlap: float = Share
    reach: float = Field(ge=0)


class SelectSettings(_Group):
    auxiliaries: int = Field(ge=0, le=64)
    min_score: float = Share
    min_eye_px: float = Field(ge=0)
    max_turn: float = Share
    min_sharpness: float = Share
    min_exposure: float = Share
    max_exposure: float = Share
    min_inside: float = Share
    min_clear: float = Share
    duplicate: float = Share
    sure_score: float = Share
    """The mean detector score from which a track is a face whatever the embedder says of it."""
    min_norm: float = Field(ge=0)
    """The embedder's norm from which a track of a small face is one however unsure the detector was. It belongs to
    the bundled embedder: `benchmarks/not_faces.py` measures it anew, and writes it into the presets with --set."""
    min_norm_large: float = Field(ge=0)
    """The same for faces of 20 px or more between the eyes."""


class RecogniseSettings(_Group):
    embedder: Literal["builtin", "adaface", "insightface", "dlib"]
    weights: Path | None
    device: str
    flip: bool


class RestoreSettings(_Group):
    method: str
    samples: int | None = Field(ge=1, le=64)
    sampler: str | None
    seed: int = Field(ge=0, le=2**31)
    attributes: Literal["none", "read"]
    guidance: float = Field(ge=0, le=10_000)
    weights: Path | None
    subjects: dict[str, str]
    device: str
    precision: Literal["float32", "bfloat16"]
    batch: int | None = Field(ge=1, le=1024)


class SearchSettings(_Group):
    mode: Literal["investigation", "identification"]
    candidates: int = Field(ge=1, le=1000)
    fpir: float = Field(gt=0, lt=1)
    calibration: Path | None
    several_faces: Literal["refuse", "largest"]


class LinkSettings(_Group):
    max_gap: float = Field(ge=0)
    min_score: float = Share
    min_similarity: float = Share


class CaseSettings(_Group):
    segment_frames: int = Field(ge=1)
    retention_days: int | None = Field(ge=0, le=36500)


class Settings(_Group):
    media: MediaSettings
    sampling: SamplingSettings
    detect: DetectSettings
    track: TrackSettings
    select: SelectSettings
    recognise: RecogniseSettings
    restore: RestoreSettings
    search: SearchSettings
    link: LinkSettings
    case: CaseSettings


def presets() -> list[str]:
    return sorted(
        p.name.removesuffix(".yaml")
        for p in files(__package__).iterdir()
        if p.name.endswith(".yaml")
    )


def load(preset: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a preset, or of a YAML file in its form, changed by `key=value` overrides."""
    values = _read(preset)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}", "no value", "write it as group.key=value")
        try:
            parsed = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SettingsError(
                f"--set {override}", "the value cannot be read", "put quotes around it"
            ) from error
        _set(values, key.strip(), parsed)
    return _check(preset, values)


def _read(preset: str) -> dict[str, Any]:
    if preset in presets():
        text = (files(__package__) / f"{preset}.yaml").read_text(encoding="utf-8")
    elif preset.endswith((".yaml", ".yml")) and Path(preset).is_file():
        try:
            text = Path(preset).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                preset, "not a text file that can be read", "save it as UTF-8"
            ) from error
    else:
        near = _nearest(preset, presets())
        raise SettingsError(
            preset,
            f"no such preset{near}",
            f"choose from {', '.join(presets())} or give a YAML file",
        )
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(
            preset, f"not YAML ({' '.join(str(error).split())})", "mend the file"
        ) from error
    if not isinstance(values, dict):
        raise SettingsError(preset, "holds no settings", "start from a copy of a preset")
    return values


def _fields_of(group: str) -> list[str]:
    """Return the names of a group's settings."""
    annotation = Settings.model_fields[group].annotation
    assert annotation is not None
    return list(annotation.model_fields)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    group, _, name = key.partition(".")
    known = [
        f"{name_of_group}.{field}"
        for name_of_group in Settings.model_fields
        for field in _fields_of(name_of_group)
    ]
    if key not in known:
        raise SettingsError(
            key, f"no such setting{_nearest(key, known)}", "the presets list every setting"
        )
    if not isinstance(values.get(group), dict):
        values[group] = {}
    values[group][name] = value


def _check(preset: str, values: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            group = str(first["loc"][0])
            if len(first["loc"]) > 1 and group in Settings.model_fields:
                fields = _fields_of(group)
            else:
                fields = list(Settings.model_fields)
            reason = f"no such setting{_nearest(str(first['loc'][-1]), fields)}"
            raise SettingsError(
                f"{preset}: {where}", reason, "the presets list every setting"
            ) from error
        if first["type"] == "missing":
            raise SettingsError(
                f"{preset}: {where}", "missing", "start from a copy of a preset"
            ) from error
        given = reprlib.repr(first["input"])[:80]  # what aliases of YAML unfold to may have no end
        raise SettingsError(
            f"{preset}: {where}", f"{first['msg']}, not {given}", "change it"
        ) from error


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.4)
    return f" (did you mean {near[0]}?)" if near else ""


def as_yaml(settings: Settings) -> str:
    """The settings in force, for people to read."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def fraction(value: float | None) -> Fraction | None:
    """A setting as an exact number: 29.97 is 2997/100, not its nearest binary float."""
    return None if value is None else Fraction(str(value))


# Pixels between the eyes from which on a face is large. A small face has a small norm because it
# shows little; a large one with a small norm is none, so it has a limit of its own.
LARGE = 20


def least_norm(eye_px: float, min_norm: float, min_norm_large: float) -> float:
    """Return which of the two limits of the norm holds for a face of this size."""
    return min_norm_large if eye_px >= LARGE else min_norm
