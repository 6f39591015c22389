"""Calibrating on tracks of one's own footage whose people are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fasr_video.calibration.labelled import from_tracks, read_labels
from fasr_video.case.case import Case
from fasr_video.configs import settings as configs
from fasr_video.errors import InputError, UsageError
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import EnrolledPhoto
from tests.support.vectors import normalise, vector_near

LENGTH = 64
MODELS = json.dumps({"embedder": "e", "pooled_by": "mean", "restorer": None})
PEOPLE = 30
INFO = {
    **{
        "path": "a.mp4",
        "backend": "pyav",
        "width": 640,
        "height": 480,
        "time_base": "1/1000",
        "first_pts": 0,
        "time_source": "pts",
    },
    **{"codec": "h264", "container": "mp4", "colour": "bt709", "orientation": "none"},
    **{"declared_frames": 300, "duration": None},
}
DETECTOR = {
    "name": "made",
    "model_sha256": "0" * 64,
    "licence": "none",
    "landmarks": True,
    "embedder": None,
}


def centre(person: int) -> np.ndarray:
    return normalise(np.random.default_rng(1000 + person).standard_normal(LENGTH))


def make_case(folder: Path, people: range, models: str = MODELS) -> None:
    """A finished case with a track a person; even ones are in the gallery."""
    settings = configs.load("cpu")
    with Case.create(folder, json.loads(settings.model_dump_json()), "") as case:
        case.db.execute(
            "INSERT INTO source (id, path, sha256, info, detector, state, losses)"
            " VALUES (1, 'a.mp4', ?, ?, ?, 'done', '{}')",
            ("a" * 64, json.dumps(INFO), json.dumps(DETECTOR)),
        )
        for i in people:
            case.db.execute(
                "INSERT INTO track (id, source, tracker_id, number, state, verdict)"
                " VALUES (?, 1, ?, ?, 'done', 'usable')",
                (i + 1, i, i + 1),
            )
            case.db.execute(
                "INSERT INTO face (source, track, frame_index, pts, x1, y1, x2, y2, score, "
                "eye_px, sharpness, exposure, contrast, inside, clear, total, reason) VALUES (1, "
                "?, 0, 0, 0, 0, 9, 9, 1, 9, 1, 1, 1, 1, 1, 1, 'lr0')",
                (i + 1,),
            )
            case.db.execute("INSERT INTO encoding VALUES (?, ?, ?)", (i + 1, models, 16 + i))
            for k, kind in enumerate((Kind.BEST, Kind.POOLED)):
                feature = vector_near(centre(i), 0.6 + 0.2 * k, 10 * i + k)
                case.db.execute(
                    "INSERT INTO probe VALUES (?, ?, ?)", (i + 1, kind, feature.tobytes())
                )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    make_case(folder / "one", range(0, 40))
    make_case(folder / "two", range(40, 2 * PEOPLE))
    with Gallery.create(folder / "gallery", "test", "e", LENGTH) as gallery, gallery.transaction():
        for i in range(0, 2 * PEOPLE, 2):
            for k in range(2):
                photo = vector_near(centre(i), 0.9, 7000 + 2 * i + k)
                gallery.add(
                    f"p{i}",
                    EnrolledPhoto(
                        f"{2 * i + k:064x}", f"{i}-{k}.jpg", photo, 20.0, 60.0, 0.9, None
                    ),
                )
    return folder


def write_labels(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    file = folder / f"labels{len(list(folder.glob('*.csv')))}.csv"
    file.write_text("case,track,person\n" + "".join(f"{c},{t},{p}\n" for c, t, p in rows))
    return file


def everybody() -> list[tuple[str, str, str]]:
    folder = {i: "one" if i < 40 else "two" for i in range(2 * PEOPLE)}
    return [(folder[i], f"T{i + 1}", f"p{i}" if i % 2 == 0 else "") for i in range(2 * PEOPLE)]


def test_labelled_tracks_make_a_calibration_for_the_models_of_their_cases(folder: Path) -> None:
    with Gallery.open(folder / "gallery", read_only=True) as gallery:
        calibration = from_tracks(write_labels(folder, everybody()), gallery, seed=0)
    assert calibration.mismatch(json.loads(MODELS)) is None
    assert (calibration.enrolled, calibration.searches) == (PEOPLE, 2 * PEOPLE)
    (band,) = calibration.bands
    assert (band.low, band.high) == (16, 16 + 2 * PEOPLE - 1)
    assert calibration.size_warning(
        40
    ) is None and "outside the sizes that scores were calibrated for (16-75 px)" in str(
        calibration.size_warning(100)
    )
    assert list(band.scales) == ["best", "pooled", "best+pooled"]
    # TrackFeatures lie at 0.6 and 0.8 of their person, strangers near 0: the order of what they are
    # worth is known.
    assert band.score(Kind.POOLED, 0.75) > 0 > band.score(Kind.POOLED, 0.0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("one", "T99", "p0")], "no track T99"),
        ([("one", "", "p0")], "line 2.*case or track is missing"),
        ([], "it contains no labels"),
    ],
)
def test_invalid_labels_give_a_one_line_error(
    folder: Path, rows: list[tuple[str, str, str]], says: str
) -> None:
    file = write_labels(folder, rows)
    with (
        Gallery.open(folder / "gallery", read_only=True) as gallery,
        pytest.raises(UsageError, match=says),
    ):
        from_tracks(file, gallery, seed=0)


def test_cases_of_other_models_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    other = json.dumps({"embedder": "e", "pooled_by": "combiner", "restorer": None})
    make_case(tmp_path / "three", range(2), other)
    file = write_labels(folder, [("one", "T1", "p0"), (str(tmp_path / "three"), "T1", "p0")])
    with (
        Gallery.open(folder / "gallery", read_only=True) as gallery,
        pytest.raises(UsageError, match="2 sets of models"),
    ):
        from_tracks(file, gallery, seed=0)


def test_gallery_of_another_embedder_is_refused(folder: Path, tmp_path: Path) -> None:
    with (
        Gallery.create(tmp_path / "other", "test", "f", LENGTH) as gallery,
        pytest.raises(UsageError, match="another embedder"),
    ):
        from_tracks(write_labels(folder, everybody()), gallery, seed=0)


def test_an_invalid_csv_file_gives_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="columns case, track, person"):
        read_labels(tmp_path / "labels.csv")
