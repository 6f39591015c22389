"""All settings, with types and bounds. The presets beside this file list each with a comment."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fasr_video.errors import SettingsError

Share = Field(ge=0, le=1)


class _Group(BaseModel):
    # JSON has no infinity: it could not be stored with the case.
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
    """Mean detector score from which a track is a face, whatever the norm."""
    min_norm: float = Field(ge=0)
    """The embedder's norm from which a track of a small face is a face, whatever the score. It is
    for the bundled embedder: `benchmarks/not_faces.py` measures it, and writes it into the presets
    with --set."""
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
    """Return the settings of a preset or a YAML file, changed by `key=value` overrides."""
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
    return _check(preset, values, overrides)


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
        raise SettingsError(
            preset,
            f"no such preset{_suggestion(preset, presets())}",
            f"choose one of {', '.join(presets())}, or give a YAML file",
        )
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(
            preset, f"not YAML ({' '.join(str(error).split())})", "correct the file"
        ) from error
    if not isinstance(values, dict):
        raise SettingsError(preset, "there are no settings in it", "start from a copy of a preset")
    return values


def _fields_of(group: str) -> list[str]:
    """Return the names of a group's settings."""
    annotation = Settings.model_fields[group].annotation
    assert annotation is not None
    return list(annotation.model_fields)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one value by its key, as detect.backend; raise if there is no such setting."""
    group, _, name = key.partition(".")
    if group not in Settings.model_fields:
        reason = f"no such setting{_suggestion(group, list(Settings.model_fields))}"
        raise SettingsError(key, reason, _see_presets())
    fields = _fields_of(group)
    if name not in fields:
        similar = _suggestion(name, fields, f"{group}.")
        remedy = _see_presets() if similar else f"the settings of {group}: {', '.join(fields)}"
        raise SettingsError(key, f"no such setting{similar}", remedy)
    if not isinstance(values.get(group), dict):
        values[group] = {}
    values[group][name] = value


def _see_presets() -> str:
    return f"{files(__package__) / 'cpu.yaml'} lists every setting"


def _check(preset: str, values: dict[str, Any], overrides: Sequence[str]) -> Settings:
    """Return the settings; raise for the first one that is unknown, missing or out of bounds."""
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
            reason = f"no such setting{_suggestion(str(first['loc'][-1]), fields)}"
            raise SettingsError(f"{preset}: {where}", reason, _see_presets()) from error
        if first["type"] == "missing":
            raise SettingsError(
                f"{preset}: {where}", "missing", "start from a copy of a preset"
            ) from error
        value = reprlib.repr(first["input"])[:80]  # YAML aliases can nest without end
        given = [o for o in overrides if o.partition("=")[0].strip() == where]
        subject = given[-1] if given else f"{preset}: {where}"
        raise SettingsError(subject, f"it cannot be {value}", _what_fits(first["loc"])) from error


# Pydantic's names of bounds, in words.
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def _what_fits(place: Sequence[int | str]) -> str:
    """Return what the setting at this place takes, as a remedy."""
    if len(place) != 2:
        return _see_presets()
    group = Settings.model_fields[str(place[0])].annotation
    assert group is not None
    field = group.model_fields[place[1]]
    if get_origin(field.annotation) is Literal:
        return f"give one of {', '.join(get_args(field.annotation))}"
    parts = get_args(field.annotation)
    choices = parts if NoneType in parts else (field.annotation,)
    kind = next((text for kind, text in _KINDS.items() if kind in choices), None)
    if kind is None:
        return _see_presets()
    bounds = [
        f"{word} {getattr(bound, name)}"
        for bound in field.metadata
        for name, word in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    limits = f", {' and '.join(bounds)}" if bounds else ""
    return f"give {kind}{limits}{' or null' if NoneType in choices else ''}"


def _suggestion(word: str, words: Sequence[str], before: str = "") -> str:
    """Return a question about the most similar of the words, empty if none is similar."""
    similar = difflib.get_close_matches(word, words, 1, 0.6)
    return f" (did you mean {before}{similar[0]}?)" if similar else ""


def as_yaml(settings: Settings) -> str:
    """Return the settings as a YAML file for people."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def fraction(value: float | None) -> Fraction | None:
    """Return a setting as an exact number: 29.97 is 2997/100, not the nearest binary float."""
    return None if value is None else Fraction(str(value))


# Pixels between the eyes from which a face is large. A small face has a small norm because it shows
# little. A large picture with a small norm is no face, so large ones have a limit of their own.
LARGE = 20


def min_norm_for(eye_px: float, min_norm: float, min_norm_large: float) -> float:
    """Return which of the two limits of the norm holds for a face of this size."""
    return min_norm_large if eye_px >= LARGE else min_norm
