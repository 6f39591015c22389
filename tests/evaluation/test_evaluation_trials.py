"""Whom an evaluation compares: photographs, roles, protocols and pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from fasr_video.datasets.faces import plain_name
from fasr_video.detection import open_detector
from fasr_video.errors import InputError, UsageError
from fasr_video.evaluation import protocols
from fasr_video.evaluation.photos import LANDMARK_COLUMNS, Photo, read_photos, without
from tests.support.drawn import (
    EACH,
    PEOPLE,
    draw_face,
    make_photo,
    make_photos,
    save_picture,
    write_people,
)
from tests.support.paths import PORTRAITS


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("faces"))


# -------------------------------------------------------------------------------------- photographs


def test_unusable_files_are_listed_with_a_reason(faces: Path, tmp_path: Path) -> None:
    save_picture(draw_face(0, 0), tmp_path / "twin" / "0.png")
    save_picture(draw_face(7, 0, 64), tmp_path / "small" / "0.png")
    save_picture(draw_face(7, 0)[:, :100], tmp_path / "narrow" / "0.png")
    (tmp_path / "twin" / "notes.txt").write_text("of somebody")
    photos, left_out = read_photos([faces, tmp_path])
    assert len(photos) == PEOPLE * EACH + 1
    reasons = {line.what: line.reason for line in left_out}
    assert reasons["twin/notes.txt"] == "its name does not end as a picture's does (.txt)"
    assert reasons["p0/broken.png"] == "not a readable picture"
    assert reasons["twin/0.png"] == "the same picture as p0/0.png"
    assert reasons["small/0.png"].startswith("64×64 px") and reasons["narrow/0.png"].startswith(
        "100×128 px"
    )


def test_a_larger_picture_is_not_cropped_to_its_middle(tmp_path: Path) -> None:
    """A rim is cut off; of 256 px the middle would be a nose."""
    save_picture(draw_face(7, 0, 144), tmp_path / "rim" / "0.png")
    save_picture(draw_face(8, 0, 256), tmp_path / "large" / "0.png")
    photos, left_out = read_photos([tmp_path])
    assert [p.person for p in photos] == ["rim"] and (
        photos[0].picture == draw_face(7, 0, 144)[8:136, 8:136]
    ).all()
    assert (
        str(left_out[0]).startswith("large/0.png: 256×256 px") and "--align" in left_out[0].reason
    )


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    lying = Pictures.fromarray(np.rot90(draw_face(0, 0)).copy())
    exif = lying.getexif()
    exif[0x0112] = 6  # turn by 90° to show
    lying.save(tmp_path / "a" / "0.png", exif=exif)
    photos, _ = read_photos([tmp_path])
    assert (photos[0].picture == draw_face(0, 0)).all()


def test_small_faces_keep_their_own_pixels(tmp_path: Path) -> None:
    save_picture(draw_face(7, 0, 20), tmp_path / "a" / "0.png")
    save_picture(draw_face(7, 1, 300), tmp_path / "a" / "1.png")
    photos, _ = read_photos([tmp_path], small=True)
    assert [p.picture.shape[0] for p in photos] == [20, 128]
    assert [p.labels["size"] for p in photos] == ["20", "128"]


def test_a_manifest_names_people_roles_and_labels(faces: Path, tmp_path: Path) -> None:
    rows = [
        "path,identity,role,camera",
        f"{faces}/p0/0.png,anna,gallery,",
        f"{faces}/p0/1.png,anna,probe,north",
    ]
    (tmp_path / "list.csv").write_text("\n".join([*rows, "gone.png,anna,,"]))
    photos, left_out = read_photos([tmp_path / "list.csv"])
    assert [(p.person, p.role, p.labels["camera"]) for p in photos] == [
        ("anna", "gallery", ""),
        ("anna", "probe", "north"),
    ]
    assert [str(line) for line in left_out] == ["gone.png: not a readable picture"]
    for text, message in (
        ("path,who\na,b", "no column identity"),
        ("path,identity,role\na,b,judge", "line 2"),
    ):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_photos([tmp_path / "list.csv"])


def test_faces_are_found_in_photographs_that_are_not_aligned(tmp_path: Path) -> None:
    save_picture(draw_face(0, 0, 200), tmp_path / "nobody" / "0.png")
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.5)
    photos, left_out = read_photos([PORTRAITS / "mugshots", tmp_path], detector=detector)
    assert [p.person for p in photos] == ["eileen_collins", "grace_hopper"]
    assert all(p.picture.shape == (128, 128, 3) for p in photos)
    assert [line.what for line in left_out] == ["nobody/0.png"] and "no face found" in left_out[
        0
    ].reason


def test_plain_names_do_not_lead_out_of_a_folder() -> None:
    """A manifest may name photographs anywhere; what is written for them stays in the folder that
    was given.
    """
    assert plain_name("p0/1.png") == "p0/1"
    assert plain_name("/photos/p0/1.png") == "photos/p0/1"
    assert plain_name("../../p0/1.v2.png") == "p0/1.v2"


def test_landmarks_give_the_pose(faces: Path, tmp_path: Path) -> None:
    """The nose over the middle of the face, and far to one side of it."""
    frontal = [52, 70, 93, 70, 72.5, 92, 55, 110, 90, 110]
    turned = [52, 70, 93, 70, 90.0, 92, 55, 110, 90, 110]
    lines = [",".join(["path", *LANDMARK_COLUMNS])]
    lines += [
        ",".join([name, *map(str, landmarks)])
        for name, landmarks in (("p0/0.png", frontal), ("p0/1.png", turned))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    photos, _ = read_photos([faces], tmp_path / "labels.csv")
    pose = {p.path: p.labels.get("pose") for p in photos}
    assert float(pose["p0/0.png"] or 1) < 0.1 < 0.5 < float(pose["p0/1.png"] or 0)
    assert pose["p1/0.png"] is None


# ---------------------------------------------------------------------------------------- protocols


def test_celeba_takes_a_gallery_photograph_a_probe_and_auxiliaries() -> None:
    trial = protocols.celeba(make_photos([4, 3, 5, 2, 1]), seed=1)
    assert [str(s) for s in sorted(trial.skipped, key=str)] == [
        "p3: 2 photographs, 3 needed",
        "p4: 1 photograph, 3 needed",
    ]
    assert trial.own == [0, 1, 2] and len(trial.gallery) == 3
    for item, enrolled in zip(trial.items, trial.gallery, strict=True):
        used = [enrolled, item.probe, *item.auxiliaries]
        assert (
            len({p.digest for p in used}) == len(used) == {"p0": 4, "p1": 3, "p2": 5}[item.person]
        )


def test_the_seed_sets_the_choice_and_fewer_people_are_a_subset() -> None:
    photos = make_photos([3] * 12)
    trial = protocols.celeba(photos, seed=3)
    assert protocols.celeba(photos[::-1], seed=3).provenance() == trial.provenance()
    assert protocols.celeba(photos, seed=4).provenance()["sha256"] != trial.provenance()["sha256"]
    few = protocols.celeba(photos, seed=3, people=5)
    assert few.items == trial.items[:5] and few.gallery == trial.gallery[:5]


def test_roles_of_a_manifest_take_precedence_over_chance() -> None:
    photos = [
        make_photo(f"p{i}", str(k), 10 * i + k, r)
        for i in (1, 2)
        for k, r in enumerate(("auxiliary", "probe", "gallery"))
    ]
    for seed in range(5):
        trial = protocols.celeba(photos, seed)
        assert {p.path[-1] for p in trial.gallery} == {"2"} and {
            i.name[-1] for i in trial.items
        } == {"1"}


def test_no_photograph_has_two_roles() -> None:
    def of(person: str, *roles: str) -> list[Photo]:
        return [
            make_photo(person, str(k), 20 * int(person[1:]) + k, role)
            for k, role in enumerate(roles)
        ]

    photos = [
        *of("p1", "gallery", "gallery", "probe", "auxiliary"),
        *of("p2", "probe", "auxiliary", "auxiliary", "auxiliary"),
        *of("p3", "gallery", "probe", "probe"),
        *of("p4", "gallery", "gallery", "probe"),
        *of("p5", "", "", "gallery"),
    ]
    for seed in range(5):
        trial = protocols.celeba(photos, seed)
        assert {p.role for p in trial.gallery} == {"gallery"}
        assert {i.person: i.probe.role for i in trial.items} == {
            "p1": "probe",
            "p3": "probe",
            "p5": "",
        }
        assert all(a.role != "gallery" for i in trial.items for a in i.auxiliaries)
        assert {str(s) for s in trial.skipped} == {
            "p2: by their roles no photograph is the gallery's, or none the probe",
            "p4: 2 photographs, 3 needed",
        }
        assert [line.reason.partition(" ")[2] for line in trial.left_out] == ["is enrolled already"]


def test_quis_campi_keeps_roles_of_one_list_for_both() -> None:
    photos = [
        make_photo("p1", "g", 1, "gallery"),
        make_photo("p2", "g", 2, "gallery"),
        make_photo("p1", "a", 3, "auxiliary"),
    ]
    photos += [make_photo(f"p{i}", str(k), 20 * i + k, "probe") for i in (1, 2) for k in range(2)]
    trial = protocols.quis_campi(photos, photos, each=2)
    assert {p.path for p in trial.gallery} == {"p1/g", "p2/g"} and not trial.left_out
    assert {i.probe.role for i in trial.items} == {"probe"}
    auxiliaries_by_probe = {i.name: {a.path for a in i.auxiliaries} for i in trial.items}
    assert auxiliaries_by_probe["p1/0"] == {"p1/1", "p1/a"} and auxiliaries_by_probe["p2/0"] == {
        "p2/1"
    }


def test_an_enrolled_photograph_is_no_probe_in_any_crop(tmp_path: Path) -> None:
    """At 144 px its rim is cut off as a gallery's, and it is scaled as a probe."""
    save_picture(draw_face(0, 0, 144), tmp_path / "gallery" / "p0" / "0.png")
    save_picture(draw_face(0, 0, 144), tmp_path / "probes" / "p0" / "copy.png")
    save_picture(draw_face(0, 1, 20), tmp_path / "probes" / "p0" / "1.png")
    gallery, _ = read_photos([tmp_path / "gallery"])
    probes, left_out = without(read_photos([tmp_path / "probes"], small=True)[0], gallery)
    assert [p.path for p in probes] == ["p0/1.png"]
    assert [str(line) for line in left_out] == ["p0/copy.png: the same picture as p0/0.png"]


def test_quis_campi_searches_with_each_probe_in_turn() -> None:
    gallery = [make_photo(f"p{i}", "g", 200 + i) for i in range(4)]
    probes = make_photos([5, 6, 3, 0]) + [make_photo("p0", "copy", 200)]
    trial = protocols.quis_campi(gallery, probes, seed=2)
    assert (
        trial.native
        and len(trial.items) == 10
        and {p.person for p in trial.gallery} == {"p0", "p1"}
    )
    for item in trial.items:
        assert len(item.auxiliaries) == 4 and item.probe not in item.auxiliaries
        assert {p.person for p in item.auxiliaries} == {item.person}
    assert {str(s) for s in trial.skipped} == {"p2: 3 probes, 5 needed", "p3: no probes"}
    assert [str(s) for s in trial.left_out] == ["p0/copy: the same picture as p0/g"]


def test_an_open_set_searches_for_people_who_are_not_enrolled() -> None:
    trial = protocols.celeba(make_photos([3] * 10))
    open_one = protocols.leave_some_out(trial, 0.3)
    assert (
        len(open_one.gallery) == 7 and open_one.own.count(-1) == 3 and open_one.items == trial.items
    )
    assert protocols.leave_some_out(trial, 0).gallery == trial.gallery
    few = protocols.first_searches(open_one, 2)
    assert few.items == open_one.items[:2] and few.gallery == open_one.gallery
    assert protocols.first_searches(trial, None) == trial
    with pytest.raises(UsageError):
        protocols.leave_some_out(trial, 1.0)


def test_pairs_of_lfws_list_and_of_a_csv_are_the_same(tmp_path: Path) -> None:
    photos = [
        make_photo(name, f"{name}_{k:04d}.jpg", 20 * i + k)
        for i, name in enumerate(("A_B", "C"))
        for k in (1, 2)
    ]
    (tmp_path / "pairs.txt").write_text("2\t1\nA_B\t1\t2\nA_B\t1\tC\t2\nC\t1\t2\nC\t1\tA_B\t9\n")
    lines = [
        "a,b,same,fold",
        "A_B/A_B_0001.jpg,A_B/A_B_0002.jpg,1,0",
        "A_B/A_B_0001.jpg,C/C_0002.jpg,0,0",
    ]
    lines += ["C/C_0001.jpg,C/C_0002.jpg,1,1", "C/C_0001.jpg,A_B/A_B_0009.jpg,0,1"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    first, second = (
        protocols.pairs(photos, tmp_path / name) for name in ("pairs.txt", "pairs.csv")
    )
    assert first.pairs == second.pairs and first.items == second.items
    assert [(p.same, p.fold) for p in first.pairs] == [(True, 0), (False, 0), (True, 1)]
    assert [str(s) for s in first.left_out] == [
        "pairs.txt line 5: no usable photograph A_B/A_B_0009"
    ]
    listed = [(first.gallery[p.gallery].path, first.items[p.item].name) for p in first.pairs]
    assert listed[1] == ("A_B/A_B_0001.jpg", "C/C_0002.jpg")


def test_a_truncated_list_and_pairs_in_one_fold_are_refused(tmp_path: Path) -> None:
    """LFW's pairsDevTest.txt has one number, and one fold: there are no other folds to take a
    threshold from.
    """
    photos = [
        make_photo(name, f"{name}_{k:04d}.jpg", 20 * i + k)
        for i, name in enumerate(("A_B", "C"))
        for k in (1, 2)
    ]
    for text, message in (
        ("2\t1\nA_B\t1\t2\nA_B\t1\tC\t2\nC\t1\t2\n", "says 4 pairs, there are 3"),
        ("1\nA_B\t1\t2\nA_B\t1\tC\t2\n", "in one fold"),
    ):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            protocols.pairs(photos, tmp_path / "pairs.txt")


@pytest.mark.parametrize(
    "text", ["", "10\n", "2 1\nA one\n", "2 1\nA 1 2 3 4\n", "2 0\nA 1 2\n", "2 1\nA 1 2\n"]
)
def test_a_file_that_is_no_list_gives_a_clear_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=r"pairs\.txt: .*; give"):
        protocols.pairs(make_photos([2, 2]), tmp_path / "pairs.txt")
