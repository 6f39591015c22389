"""Settings: every option listed once with a comment, nothing unknown, nothing silently changed."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import cast

import pytest
import yaml
from pydantic import BaseModel

from fasr_video.configs import settings as configs
from fasr_video.errors import SettingsError
from fasr_video.trackers import TrackerSettings

OPTIONS = {
    (g, n)
    for g, f in configs.Settings.model_fields.items()
    for n in cast(type[BaseModel], f.annotation).model_fields
}


@pytest.mark.parametrize("preset", configs.presets())
def test_preset_lists_every_option_once_with_a_comment(preset: str) -> None:
    text = (files("fasr_video.configs") / f"{preset}.yaml").read_text()
    values = yaml.safe_load(text)
    assert {(g, n) for g in values for n in values[g]} == OPTIONS
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(lines) == len(OPTIONS), "an option stands twice"
    uncommented = [line for line in lines if "#" not in line]
    # A pair of limits may share the comment of the first.
    assert uncommented == ["  max_exposure: 0.95"]


def test_override_changes_one_setting_and_keeps_its_type() -> None:
    changed = configs.load(
        "cpu", ("detect.min_score=0.7", "sampling.fps=2.5", "media.use_damaged=true")
    )
    assert (
        changed.detect.min_score == 0.7
        and changed.sampling.fps == 2.5
        and changed.media.use_damaged is True
    )
    assert configs.load("cpu").detect.min_score != 0.7


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("detect.min_scroe=1", r"did you mean detect.min_score\?\); /.*/configs/cpu.yaml lists"),
        ("nothing.like.it=1", "no such setting"),
        ("track.method=kalman", "^track.method=kalman: .*; give one of sort, bytetrack, ocsort$"),
        ("select.auxiliaries=-1", "; give a whole number, at least 0 and at most 64$"),
        ("select.max_turn=1.5", "^select.max_turn=1.5: it cannot be 1.5; give a number, at least"),
        ("detect.batch=many", "it cannot be 'many'; give a whole number, .* or null$"),
        ("media.use_damaged=perhaps", "; give true or false$"),
        ("restore.subjects=none", "lists every setting"),
        (
            "track.appearance_weight=0.3",
            "no such setting",
        ),  # a run has no embeddings when it tracks
    ],
)
def test_a_value_out_of_bounds_is_refused_and_not_clamped(override: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        configs.load("cpu", (override,))


def test_preset_file_with_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    values = yaml.safe_load(configs.as_yaml(configs.load("cpu")))
    values["detect"]["min_size"] = 3
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SettingsError, match=r"did you mean (max_side|min_score)"):
        configs.load(str(path))


def test_stored_settings_can_be_used_as_a_preset(tmp_path: Path) -> None:
    chosen = configs.load("cpu", ("track.method=ocsort", "sampling.start=2"))
    path = tmp_path / "effective.yaml"
    path.write_text(configs.as_yaml(chosen))
    assert configs.load(str(path)) == chosen


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1", ""])
def test_a_damaged_preset_file_is_reported_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        configs.load(str(path))
    assert "\n" not in str(caught.value)


def test_track_settings_are_those_of_the_trackers_with_the_same_defaults() -> None:
    of_trackers = dataclasses.asdict(TrackerSettings())
    del of_trackers["appearance_weight"]  # of embeddings, which a run does not have when it tracks
    assert configs.load("cpu").track.model_dump(exclude={"method"}) == of_trackers


def _numbers() -> list[str]:
    values = configs.load("cpu").model_dump()
    return [f"{g}.{n}" for g, n in sorted(OPTIONS) if isinstance(values[g][n], float)]


@pytest.mark.parametrize("name", [*_numbers(), "sampling.fps", "sampling.start", "sampling.end"])
@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_infinity_and_nan_are_refused(name: str, value: str) -> None:
    """JSON has no such numbers, so a case could not store them."""
    with pytest.raises(SettingsError, match=name):
        configs.load("cpu", (f"{name}={value}",))
