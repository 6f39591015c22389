"""Trials, comparisons and their tables, on drawn people whose faces differ in form and colour."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from fasr_video import cli
from fasr_video.box import boxed
from fasr_video.checkpoint import save_own
from fasr_video.errors import FasrError, InputError, IntegrityError, UsageError
from fasr_video.evaluation import degradations, open_set, plots, protocols, systems, verification
from fasr_video.evaluation.compare import Plan, _baselines, compare
from fasr_video.evaluation.perceptual import Inception, InceptionNet
from fasr_video.evaluation.photos import MARKS, LeftOut, Photo, digest_of, plain_name, read_photos, without
from fasr_video.evaluation.pictures import psnr
from fasr_video.evaluation.presets import PRESETS
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.report import Shows, gain_table, split_table
from fasr_video.evaluation.scoring import Judges, Scored, recognition
from fasr_video.evaluation.store import Store
from fasr_video.evaluation.systems import Axes, System, Tools, labels, suits
from fasr_video.evaluation.tables import Cell, Column, Row, Table
from fasr_video.pipeline.detect import open_detector
from fasr_video.recognition.embedder import BuiltinEmbedder, as_tensor
from fasr_video.recognition.network import FORMAT, EmbedderNet
from fasr_video.sr.checkpoints import load_attribute_classifier
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import ResidualDenoiser
from fasr_video.sr.idfsr import identity_denoiser
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.idfsr import IdfsrNet, Size
from fasr_video.sr.weights import save_attributes, save_denoiser, save_idfsr
from fasr_video.types import Image
from tests.conftest import PORTRAITS

PEOPLE, EACH = 6, 4


def drawn(person: int, photo: int, side: int = 128) -> Image:
    """Coarse random forms that are the person's, with a little of the photograph's own."""
    forms = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(person))
    own = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1000 * person + photo))
    picture = 0.85 * enlarge(forms, side) + 0.15 * enlarge(own, side)
    return (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()


def save(picture: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.fromarray(picture).save(path)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people with four photographs, one with a single one, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("faces")
    for person in range(PEOPLE):
        for photo in range(EACH):
            save(drawn(person, photo), folder / f"p{person}" / f"{photo}.png")
    save(drawn(90, 0), folder / "alone" / "0.png")
    (folder / "p0" / "broken.png").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny super-resolution network; it does not say which embedder it knows."""
    torch.manual_seed(0)
    net = CompactNet((32, 64), 1, 512, 64)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    file = tmp_path_factory.mktemp("network") / "sr.safetensors"
    save_denoiser(ResidualDenoiser(net), file)
    return file


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser that conditioned nothing."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("scorer") / "other.safetensors"
    save_own(EmbedderNet().state_dict(), file, FORMAT, "{}")
    return file


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["fasr-video", "eval", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        cli.main()
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def photo(person: str, name: str, value: int, role: str = "") -> Photo:
    picture = np.full((128, 128, 3), value, np.uint8)
    return Photo(f"{person}/{name}", person, picture, digest_of(picture), {"size": "128"}, role)


def crowd(counts: Sequence[int]) -> list[Photo]:
    return [photo(f"p{i}", str(k), 10 * i + k) for i, n in enumerate(counts) for k in range(n)]


# --------------------------------------------------------------------------------------------------------- photographs


def test_what_cannot_be_used_is_listed_with_its_reason(faces: Path, tmp_path: Path) -> None:
    save(drawn(0, 0), tmp_path / "twin" / "0.png")
    save(drawn(7, 0, 64), tmp_path / "small" / "0.png")
    save(drawn(7, 0)[:, :100], tmp_path / "narrow" / "0.png")
    photos, left_out = read_photos([faces, tmp_path])
    assert len(photos) == PEOPLE * EACH + 1
    told = {line.what: line.reason for line in left_out}
    assert told["p0/broken.png"] == "not a readable picture"
    assert told["twin/0.png"] == "the same picture as p0/0.png"
    assert told["small/0.png"].startswith("64×64 px") and told["narrow/0.png"].startswith("100×128 px")


def test_a_face_is_not_cut_out_of_the_middle_of_a_larger_picture(tmp_path: Path) -> None:
    """A rim is cut off; of 256 px the middle would be a nose."""
    save(drawn(7, 0, 144), tmp_path / "rim" / "0.png")
    save(drawn(8, 0, 256), tmp_path / "large" / "0.png")
    photos, left_out = read_photos([tmp_path])
    assert [p.person for p in photos] == ["rim"] and (photos[0].picture == drawn(7, 0, 144)[8:136, 8:136]).all()
    assert str(left_out[0]).startswith("large/0.png: 256×256 px") and "--align" in left_out[0].reason


def test_photographs_are_upright(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    lying = Pictures.fromarray(np.rot90(drawn(0, 0)).copy())
    exif = lying.getexif()
    exif[0x0112] = 6  # turn by 90° to show
    lying.save(tmp_path / "a" / "0.png", exif=exif)
    photos, _ = read_photos([tmp_path])
    assert (photos[0].picture == drawn(0, 0)).all()


def test_small_faces_keep_their_own_pixels(tmp_path: Path) -> None:
    save(drawn(7, 0, 20), tmp_path / "a" / "0.png")
    save(drawn(7, 1, 300), tmp_path / "a" / "1.png")
    photos, _ = read_photos([tmp_path], small=True)
    assert [p.picture.shape[0] for p in photos] == [20, 128]
    assert [p.labels["size"] for p in photos] == ["20", "128"]


def test_a_manifest_names_people_roles_and_labels(faces: Path, tmp_path: Path) -> None:
    rows = ["path,identity,role,camera", f"{faces}/p0/0.png,anna,gallery,", f"{faces}/p0/1.png,anna,probe,north"]
    (tmp_path / "list.csv").write_text("\n".join([*rows, "gone.png,anna,,"]))
    photos, left_out = read_photos([tmp_path / "list.csv"])
    assert [(p.person, p.role, p.labels["camera"]) for p in photos] == [
        ("anna", "gallery", ""),
        ("anna", "probe", "north"),
    ]
    assert [str(line) for line in left_out] == ["gone.png: not a readable picture"]
    for text, says in (("path,who\na,b", "no column identity"), ("path,identity,role\na,b,judge", "line 2")):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(InputError, match=says):
            read_photos([tmp_path / "list.csv"])


def test_faces_are_found_in_photographs_that_are_not_aligned(tmp_path: Path) -> None:
    save(drawn(0, 0, 200), tmp_path / "nobody" / "0.png")
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.5)
    photos, left_out = read_photos([PORTRAITS / "mugshots", tmp_path], detector=detector)
    assert [p.person for p in photos] == ["eileen_collins", "grace_hopper"]
    assert all(p.picture.shape == (128, 128, 3) for p in photos)
    assert [line.what for line in left_out] == ["nobody/0.png"] and "faces found" in left_out[0].reason


def test_names_lead_nowhere_else() -> None:
    """A manifest may name photographs anywhere; what is written for them stays in the folder that was given."""
    assert plain_name("p0/1.png") == "p0/1"
    assert plain_name("/photos/p0/1.png") == "photos/p0/1"
    assert plain_name("../../p0/1.v2.png") == "p0/1.v2"


def test_landmarks_tell_the_pose(faces: Path, tmp_path: Path) -> None:
    """The nose over the middle of the face, and far to one side of it."""
    frontal = [52, 70, 93, 70, 72.5, 92, 55, 110, 90, 110]
    turned = [52, 70, 93, 70, 90.0, 92, 55, 110, 90, 110]
    lines = [",".join(["path", *MARKS])]
    lines += [",".join([name, *map(str, marks)]) for name, marks in (("p0/0.png", frontal), ("p0/1.png", turned))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    photos, _ = read_photos([faces], tmp_path / "labels.csv")
    pose = {p.path: p.labels.get("pose") for p in photos}
    assert float(pose["p0/0.png"] or 1) < 0.1 < 0.5 < float(pose["p0/1.png"] or 0)
    assert pose["p1/0.png"] is None


# ----------------------------------------------------------------------------------------------------------- protocols


def test_celeba_takes_one_photograph_to_enrol_one_to_search_and_the_rest_beside_it() -> None:
    trial = protocols.celeba(crowd([4, 3, 5, 2, 1]), seed=1)
    assert [str(s) for s in sorted(trial.skipped, key=str)] == [
        "p3: 2 photographs, 3 needed",
        "p4: 1 photographs, 3 needed",
    ]
    assert trial.own == [0, 1, 2] and len(trial.gallery) == 3
    for item, enrolled in zip(trial.items, trial.gallery, strict=True):
        used = [enrolled, item.probe, *item.auxiliaries]
        assert len({p.digest for p in used}) == len(used) == {"p0": 4, "p1": 3, "p2": 5}[item.person]


def test_what_is_drawn_follows_from_the_seed_and_few_people_are_among_many() -> None:
    photos = crowd([3] * 12)
    trial = protocols.celeba(photos, seed=3)
    assert protocols.celeba(photos[::-1], seed=3).facts() == trial.facts()
    assert protocols.celeba(photos, seed=4).facts()["sha256"] != trial.facts()["sha256"]
    few = protocols.celeba(photos, seed=3, people=5)
    assert few.items == trial.items[:5] and few.gallery == trial.gallery[:5]


def test_roles_of_a_manifest_stand_before_what_is_drawn() -> None:
    photos = [
        photo(f"p{i}", str(k), 10 * i + k, r) for i in (1, 2) for k, r in enumerate(("auxiliary", "probe", "gallery"))
    ]
    for seed in range(5):
        trial = protocols.celeba(photos, seed)
        assert {p.path[-1] for p in trial.gallery} == {"2"} and {i.name[-1] for i in trial.items} == {"1"}


def test_no_photograph_takes_anothers_role() -> None:
    def of(person: str, *roles: str) -> list[Photo]:
        return [photo(person, str(k), 20 * int(person[1:]) + k, role) for k, role in enumerate(roles)]

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
        assert {i.person: i.probe.role for i in trial.items} == {"p1": "probe", "p3": "probe", "p5": ""}
        assert all(a.role != "gallery" for i in trial.items for a in i.auxiliaries)
        assert {str(s) for s in trial.skipped} == {
            "p2: by their roles no photograph is the gallery's, or none the probe",
            "p4: 2 photographs, 3 needed",
        }
        assert [line.reason.partition(" ")[2] for line in trial.left_out] == ["is enrolled already"]


def test_quis_campi_keeps_roles_of_one_list_for_both() -> None:
    photos = [photo("p1", "g", 1, "gallery"), photo("p2", "g", 2, "gallery"), photo("p1", "a", 3, "auxiliary")]
    photos += [photo(f"p{i}", str(k), 20 * i + k, "probe") for i in (1, 2) for k in range(2)]
    trial = protocols.quis_campi(photos, photos, each=2)
    assert {p.path for p in trial.gallery} == {"p1/g", "p2/g"} and not trial.left_out
    assert {i.probe.role for i in trial.items} == {"probe"}
    told = {i.name: {a.path for a in i.auxiliaries} for i in trial.items}
    assert told["p1/0"] == {"p1/1", "p1/a"} and told["p2/0"] == {"p2/1"}


def test_an_enrolled_photograph_is_none_of_the_probes_however_it_is_cut(tmp_path: Path) -> None:
    """At 144 px its rim is cut off as a gallery's, and it is scaled as a probe."""
    save(drawn(0, 0, 144), tmp_path / "gallery" / "p0" / "0.png")
    save(drawn(0, 0, 144), tmp_path / "probes" / "p0" / "copy.png")
    save(drawn(0, 1, 20), tmp_path / "probes" / "p0" / "1.png")
    gallery, _ = read_photos([tmp_path / "gallery"])
    probes, left_out = without(read_photos([tmp_path / "probes"], small=True)[0], gallery)
    assert [p.path for p in probes] == ["p0/1.png"]
    assert [str(line) for line in left_out] == ["p0/copy.png: the same picture as p0/0.png"]


def test_quis_campi_searches_with_each_probe_in_turn() -> None:
    gallery = [photo(f"p{i}", "g", 200 + i) for i in range(4)]
    probes = crowd([5, 6, 3, 0]) + [photo("p0", "copy", 200)]
    trial = protocols.quis_campi(gallery, probes, seed=2)
    assert trial.native and len(trial.items) == 10 and {p.person for p in trial.gallery} == {"p0", "p1"}
    for item in trial.items:
        assert len(item.auxiliaries) == 4 and item.probe not in item.auxiliaries
        assert {p.person for p in item.auxiliaries} == {item.person}
    assert {str(s) for s in trial.skipped} == {"p2: 3 probes, 5 needed", "p3: no probes"}
    assert [str(s) for s in trial.left_out] == ["p0/copy: the same picture as p0/g"]


def test_an_open_set_searches_for_people_who_are_not_enrolled() -> None:
    trial = protocols.celeba(crowd([3] * 10))
    open_one = protocols.leave_some_out(trial, 0.3)
    assert len(open_one.gallery) == 7 and open_one.own.count(-1) == 3 and open_one.items == trial.items
    assert protocols.leave_some_out(trial, 0).gallery == trial.gallery
    few = protocols.first_searches(open_one, 2)
    assert few.items == open_one.items[:2] and few.gallery == open_one.gallery
    assert protocols.first_searches(trial, None) == trial
    with pytest.raises(UsageError):
        protocols.leave_some_out(trial, 1.0)


def test_pairs_of_lfws_list_and_of_a_csv_are_the_same(tmp_path: Path) -> None:
    photos = [photo(name, f"{name}_{k:04d}.jpg", 20 * i + k) for i, name in enumerate(("A_B", "C")) for k in (1, 2)]
    (tmp_path / "pairs.txt").write_text("2\t1\nA_B\t1\t2\nA_B\t1\tC\t2\nC\t1\t2\nC\t1\tA_B\t9\n")
    lines = ["a,b,same,fold", "A_B/A_B_0001.jpg,A_B/A_B_0002.jpg,1,0", "A_B/A_B_0001.jpg,C/C_0002.jpg,0,0"]
    lines += ["C/C_0001.jpg,C/C_0002.jpg,1,1", "C/C_0001.jpg,A_B/A_B_0009.jpg,0,1"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    first, second = (protocols.pairs(photos, tmp_path / name) for name in ("pairs.txt", "pairs.csv"))
    assert first.pairs == second.pairs and first.items == second.items
    assert [(p.same, p.fold) for p in first.pairs] == [(True, 0), (False, 0), (True, 1)]
    assert [str(s) for s in first.left_out] == ["pairs.txt line 5: no usable photograph A_B/A_B_0009"]
    shown = [(first.gallery[p.gallery].path, first.items[p.item].name) for p in first.pairs]
    assert shown[1] == ("A_B/A_B_0001.jpg", "C/C_0002.jpg")


def test_a_list_shorter_than_it_says_and_pairs_in_one_fold_are_refused(tmp_path: Path) -> None:
    """LFW's pairsDevTest.txt has one number, and one fold: there are no other folds to take a threshold from."""
    photos = [photo(name, f"{name}_{k:04d}.jpg", 20 * i + k) for i, name in enumerate(("A_B", "C")) for k in (1, 2)]
    for text, says in (
        ("2\t1\nA_B\t1\t2\nA_B\t1\tC\t2\nC\t1\t2\n", "says 4 pairs, there are 3"),
        ("1\nA_B\t1\t2\nA_B\t1\tC\t2\n", "in one fold"),
    ):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(InputError, match=says):
            protocols.pairs(photos, tmp_path / "pairs.txt")


@pytest.mark.parametrize("text", ["", "10\n", "2 1\nA one\n", "2 1\nA 1 2 3 4\n", "2 0\nA 1 2\n", "2 1\nA 1 2\n"])
def test_a_list_that_is_none_is_one_clear_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=r"pairs\.txt: .*; give"):
        protocols.pairs(crowd([2, 2]), tmp_path / "pairs.txt")


# -------------------------------------------------------------------------------------------- degradations and systems


@pytest.mark.parametrize("text", ["16", "8", "12:camera", "16:jpeg-30", "16:h264-35"])
def test_a_degradation_makes_small_faces_by_their_own_seeds(text: str) -> None:
    degradation = degradations.parse(text)
    assert str(degradation) == text
    first, second = drawn(1, 0), drawn(2, 0)
    both = degradation([first, second], [7, 8])
    assert [face.shape for face in both] == [(degradation.side, degradation.side, 3)] * 2
    assert (degradation([second], [8])[0] == both[1]).all()


def test_the_plain_degradation_is_the_papers() -> None:
    small = degradations.parse("16")([drawn(1, 0)], [0])[0]
    wanted = shrink(as_tensor([drawn(1, 0)]), 16)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(small - wanted).max() <= 0.5 + 1e-4
    assert (degradations.repeated(small)[::8, ::8] == small).all()


@pytest.mark.parametrize("text", ["", "x", "2", "128", "16:fog", "16:jpeg", "16:jpeg-99", "16:h264-60", "12:h264-30"])
def test_a_degradation_that_is_none_is_one_clear_line(text: str) -> None:
    with pytest.raises(UsageError):
        degradations.parse(text)


def test_axes_are_crossed_where_a_method_knows_them() -> None:
    sides = [degradations.parse(s) for s in ("8", "16")]
    axes = Axes(["hr", "bicubic", "fasr", "fasr++"], sides, ["dpmpp-2"], eta=[0.0, 1.0], references=[2])
    found = axes.systems()
    assert [s.method for s in found] == ["hr"] * 2 + ["bicubic"] * 2 + ["fasr"] * 2 + ["fasr++"] * 4
    assert all(s.sampler is None and s.eta is None and s.references is None for s in found[:4])
    assert all(s.eta is None and s.merge == "mean" and s.references == 2 for s in found[4:6])
    assert labels(found)[-4:] == ["fasr++ 8 px eta=0", "fasr++ 8 px eta=1", "fasr++ 16 px eta=0", "fasr++ 16 px eta=1"]
    assert labels([System("bicubic"), System("fasr", sampler="dpmpp-2")]) == ["bicubic", "fasr"]
    twins = [System("fasr", model=Path(folder) / "sr.safetensors") for folder in "ab"]
    assert labels(twins) == ["fasr model=sr", "fasr model=sr (2)"]
    with pytest.raises(UsageError, match="no such method"):
        Axes(["magic"]).systems()


def test_a_sampler_draws_only_methods_of_its_process() -> None:
    """Otherwise rows of four kinds of SDE would be one picture under four names."""
    sdes = ["sde-sr-ve", "sde-sr-vecs", "sde-sr-vp", "sde-sr-subvp", "srdg", "sr3", "fasr", "bicubic"]
    axes = Axes(sdes, sampler=["dpmpp-sde-2"])
    found = {s.method: s.sampler for s in axes.systems()}
    assert {m for m, sampler in found.items() if sampler} == {"sde-sr-ve", "srdg", "fasr"} and len(found) == 8
    assert axes.unsuited() == ["sde-sr-vecs", "sde-sr-vp", "sde-sr-subvp", "sr3", "bicubic"]
    both = Axes(["sde-sr-ve", "sde-sr-vp"], sampler=["ve-2", "vp-3"]).systems()
    assert [(s.method, s.sampler) for s in both] == [("sde-sr-ve", "ve-2"), ("sde-sr-vp", "vp-3")]
    assert suits("fasr++", "pc-2000") and not suits("idfsr", "pc-2000") and suits("idfsr", "ddim-2")
    with pytest.raises(UsageError, match="sampler ve-2: none of sr3, bicubic"):
        Axes(["sr3", "bicubic"], sampler=["ve-2"]).systems()


def test_rows_differ_in_what_their_method_knows() -> None:
    """IDFSR has its own weights; a search that joins the pooled feature knows how that is merged."""
    models = [Path("a.safetensors"), Path("b.safetensors")]
    assert [s.method for s in Axes(["idfsr", "fasr"], model=models).systems()] == ["idfsr", "fasr", "fasr"]
    joined = Axes(["sde-sr-ve"], merge=["mean", "median"], fuse=["sr", "pooled+sr"]).systems()
    assert [(s.fuse, s.merge) for s in joined] == [("sr", None), ("pooled+sr", "mean"), ("pooled+sr", "median")]


def test_a_row_that_says_more_references_than_there_are_is_told() -> None:
    trial = protocols.celeba(crowd([4, 6, 12]))
    told = systems._few_references([System("fasr", references=k) for k in (1, 8)], trial.items)
    assert told == ["references=8: 2 of 3 searches have fewer auxiliaries, 2 the least; all of theirs were taken"]


def test_gains_are_over_the_same_faces() -> None:
    """A face of 24 px is easier than one of 12: each system is held against its own size's baseline."""
    sides = [degradations.parse(s) for s in ("12", "24")]
    found = Axes(["hr", "bicubic", "fasr"], sides).systems()
    names = labels(found)
    over = _baselines(found, names, None)
    assert over["fasr 12 px"] == "bicubic 12 px" and over["fasr 24 px"] == "bicubic 24 px"
    assert _baselines(found, names, "fasr")["bicubic 24 px"] == "fasr 24 px"
    assert _baselines(found[2:4], ["a", "b"], "b") == {"a": "a", "b": "b"}
    with pytest.raises(UsageError, match="no such system"):
        _baselines(found, names, "gfpgan")


def test_every_preset_is_a_comparison_of_known_systems() -> None:
    for preset in PRESETS.values():
        axes = dict(preset.axes)
        sides = [degradations.parse(d) for d in axes.pop("degrade")]
        numbers = {
            "eta": [float(e) for e in axes.pop("eta", ())],
            "references": [int(r) for r in axes.pop("references", ())],
        }
        found = Axes(degradation=sides, **axes, **numbers).systems()  # type: ignore[arg-type]
        assert found and len(set(labels(found))) == len(found)


# -------------------------------------------------------------------------------------------------------------- tables

TABLE = Table(
    "Two of three",
    "system",
    (Column("up", 2, "up"), Column("down", 1, "down"), Column("note")),
    (
        Row("hr", (Cell(9.0), Cell(0.0), Cell(1.0)), compared=False),
        Row("a_b", (Cell(1.001, "± 0.10"), Cell(3.0), Cell(2.0))),
        Row("c", (Cell(1.0, "± 0.20"), Cell(2.0), Cell(3.0))),
        Row("d", (Cell(0.5), Cell(), Cell(4.0))),
    ),
)


def test_best_and_second_are_marked_as_they_are_shown() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[2] == "| system | up ↑ | down ↓ | note |"
    assert lines[4:] == [
        "| hr | 9.00 | 0.0 | 1.000 |",
        "| a_b | **1.00** ± 0.10 | _3.0_ | 2.000 |",
        "| c | **1.00** ± 0.20 | **2.0** | 3.000 |",
        "| d | _0.50_ | – | 4.000 |",
    ]


def test_larger_faces_are_no_better_method() -> None:
    rows = tuple(
        Row(n, (Cell(v),), among=a) for n, v, a in (("a", 1, "8"), ("b", 2, "8"), ("a", 5, "16"), ("b", 4, "16"))
    )
    table = Table("Sizes", "system", (Column("up", 0, "up"),), rows).known()
    assert [table.place(k, 0) for k in range(4)] == [2, 1, 1, 2]


def scored_alike(trial: Trial, seed: int, right: float) -> Scored:
    """Random scores, those of the own subject higher by `right`."""
    scores = np.random.default_rng(seed).normal(size=(len(trial.items), len(trial.gallery)))
    own = np.array(trial.own)
    enrolled = np.flatnonzero(own >= 0)
    scores[enrolled, own[enrolled]] += right
    found = open_set.searches(scores, own, trial.people)
    hit = np.where(found.mated, found.rank == 1, np.nan)
    items = {"own": found.right, "hit": hit}
    values = recognition(found.right[enrolled], scores.ravel(), found, len(trial.gallery))
    return Scored(items, found.right[enrolled], scores.ravel(), found, None, values, len(trial.gallery))


def test_an_open_set_is_told_by_group_and_against_another_system() -> None:
    photos = [replace(p, labels={"camp": "north" if k % 2 else "south"}) for k, p in enumerate(crowd([3] * 25))]
    photos = [replace(p, labels={"camp": "north" if int(p.person[1:]) % 2 else "south"}) for p in photos]
    trial = protocols.leave_some_out(protocols.celeba(photos), 0.5)
    found = {
        "weak": scored_alike(trial, 0, 0.5),
        "strong": scored_alike(trial, 1, 4.0),
        "copy": scored_alike(trial, 1, 4),
    }
    shows = {name: Shows("16", True, [16 if name == "weak" else 8] * len(trial.items)) for name in found}
    table = split_table(found, trial, shows, "camp", "judge")
    heads = [c.title for c in table.columns]
    assert heads == ["probes", "AUC", "Rank-1", "FNIR at FPIR 0.1", "FPIR where all's is 0.1"]
    cells = {row.name: row.cells for row in table.rows}
    assert set(cells) == {f"{camp}: {name}" for camp in ("north", "south") for name in found}
    assert all(c.around.startswith("(") for row in table.rows for c in row.cells[1:])
    assert cells["north: strong"][3].value < cells["north: weak"][3].value
    threshold = open_set.threshold_at(found["weak"].searches, 0.1)  # type: ignore[arg-type]
    strangers = [i for i, k in enumerate(trial.own) if k < 0 and trial.items[i].probe.labels["camp"] == "north"]
    passed = np.mean([found["weak"].searches.wrong[i] >= threshold for i in strangers])  # type: ignore[union-attr]
    assert cells["north: weak"][4].value == pytest.approx(passed)
    assert [r.name for r in split_table(found, trial, shows, "size", "judge").rows] == [
        "16: weak",
        "8: strong",
        "8: copy",
    ]

    gains = gain_table(found, trial, {"weak": "weak", "strong": "weak", "copy": "strong"}, "judge")
    more = {r.name: dict(zip([c.title for c in gains.columns], r.cells, strict=True)) for r in gains.rows}
    assert set(more["strong over weak"]) == {"own score", "Rank-1", "FNIR at FPIR 0.1"}
    assert more["strong over weak"]["Rank-1"].value > 0 > more["strong over weak"]["FNIR at FPIR 0.1"].value
    assert more["copy over strong"]["FNIR at FPIR 0.1"] == Cell(0.0, "(+0.000 to +0.000)")


def test_bounds_of_the_equal_error_rate_hold_it() -> None:
    generator = np.random.default_rng(0)
    own, others = generator.normal(1.5, 1, 80), generator.normal(0, 1, 4000)
    low, high = verification.eer_bounds(own, others, [str(k // 2) for k in range(80)])
    assert low < verification.eer(own, others) < high and high - low < 0.2
    assert verification.eer_bounds([2, 3], [0, 1], ["a", "b"]) == (0, 0)


def test_csv_has_the_numbers_in_full_and_latex_the_marks() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[1] == {"system": "a_b", "up": "1.001", "up around": "± 0.10", "down": "3.0", "note": "2.0"}
    assert rows[3]["down"] == ""
    latex = TABLE.latex()
    assert r"a\_b & \textbf{1.00} $\pm$ 0.10 & \underline{3.0} & 2.000 \\" in latex
    assert latex.count(r"\\") == 5 and r"\begin{tabular}{lrrr}" in latex


def test_columns_without_any_value_are_left_out() -> None:
    silent = replace(TABLE, rows=tuple(replace(r, cells=(Cell(), *r.cells[1:])) for r in TABLE.rows))
    assert [c.title for c in silent.known().columns] == ["down", "note"]


# --------------------------------------------------------------------------------------------------------- comparisons


def test_a_comparison_from_the_command_line(
    faces: Path, network: Path, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    common = (faces, "--out", out, "--people", 5, "--leave-out", 0.4, "--method", "hr", "--method", "bicubic")
    tiny = ("--method", "pooled", "--method", "fasr", "--merge", "mean", "--model", network, "--sampler", "dpmpp-2")
    circular = ("--scorer", boxed("embedder.safetensors"))
    ask = (*common, *tiny, "--fuse", "sr", "--fuse", "pooled+sr", "--by", "size")
    code, _, err = called(capsys, "celeba", *ask, *circular)
    assert code == 3, err  # a photograph was left out
    assert "skipped: alone: 1 photographs, 3 needed" in err and "left out: p0/broken.png" in err
    assert "5 searches for 5 people, 2 of them not enrolled, gallery of 3" in err
    assert "warning: fasr: builtin" in err and "circular" in err
    report = (out / "report.md").read_text()
    for text in (
        "## Pictures",
        "PSNR ↑",
        "LPIPS: not measured",
        "FID: not measured",
        "## By size",
        "pooled over bicubic",
    ):
        assert text in report
    assert "fasr pooled+sr" in report and "5 items" in report and "2 strangers" in report and "1 left out" in report
    pictures_and_numbers = {(p.name.partition("-")[0], p.suffix) for p in (out / "plots").glob("*-*")}
    assert pictures_and_numbers == {
        ("scores", ".png"),
        *((k, e) for k in ("cmc", "roc", "det") for e in (".png", ".csv")),
    }
    assert len(list((out / "tables").iterdir())) == 8

    with (out / "tables" / "1-pictures.csv").open() as stream:
        pictures = {r["system"]: r for r in csv.DictReader(stream)}
    trial = json.loads((out / "trial.json").read_text())
    truths = [np.asarray(Pictures.open(faces / i["probe"])) for i in trial["items"]]
    small = degradations.parse("16")(truths, [0] * 5)
    wanted = psnr(as_tensor(degradations.enlarged(small)), as_tensor(truths)).mean()
    assert float(pictures["bicubic"]["PSNR"]) == pytest.approx(float(wanted), abs=1e-3)

    with sqlite3.connect(out / "eval.sqlite") as db:
        before = db.execute("SELECT count(*) FROM drawn").fetchone()[0]
    assert before == 3 * 5  # fusing draws nothing anew
    code, _, err = called(capsys, "celeba", *common, *tiny, "--scorer", stranger)
    assert code == 3 and "circular" not in err
    with sqlite3.connect(out / "eval.sqlite") as db:
        assert db.execute("SELECT count(*) FROM drawn").fetchone()[0] == before
    assert len((out / "report.md").read_text().split("scored by builtin")) > 2

    code, _, err = called(capsys, "celeba", *common, "--seed", 9)
    assert code == 2 and "another trial (seed" in err


def test_what_a_run_cannot_show_is_not_shown(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One person enrolled: no threshold of two people, no fifth rank. Plots of another comparison are gone."""
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "plots" / "cmc-old.png").write_bytes(b"")
    merges = [word for rule in ("mean", "weighted", "median") for word in ("--merge", rule)]
    references = [word for k in (1, 2, 3) for word in ("--references", k)]
    chosen = ("--people", 2, "--leave-out", 0.5, "--method", "bicubic", "--method", "pooled", *merges, *references)
    code, _, err = called(capsys, "celeba", faces, *chosen, "--by", "size", "--out", tmp_path / "run")
    assert code == 3 and "histograms of the first 9 of 10 systems" in err
    assert "references=3: 2 of 2 searches have fewer auxiliaries" in err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Rank-1" in report and "Rank-5" not in report and "verified ↑" not in report
    assert "| 16: bicubic | 2 |" in report and "cmc-old" not in report and "![roc-" in report


def test_one_picture_has_no_spread_for_fid(tmp_path: Path) -> None:
    torch.save(InceptionNet().state_dict() | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "inception.pth")
    trial = protocols.first_searches(protocols.celeba(crowd([3, 3])), 1)
    plan = Plan(
        [System("bicubic", degradations.parse("16"))], [], Judges(inception=Inception(tmp_path / "inception.pth"))
    )
    with Store(tmp_path / "run") as store, pytest.raises(UsageError, match="--fid: one picture"):
        compare(trial, plan, Tools(store, BuiltinEmbedder(), torch.device("cpu")), lambda *_: None)


def test_a_combiner_is_not_used_on_another_recognisers_features(
    faces: Path, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--method", "pooled", "--scorer", stranger, "--people", 3, "--out", tmp_path / "run")
    code, _, err = called(capsys, "celeba", faces, *chosen)
    assert code == 3 and "with the mean: trained on features of the embedder" in err


def test_outputs_made_elsewhere_are_scored_beside_ours(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that enlarges as we do gets our numbers; inputs come from --inputs."""
    trial = (faces, "--people", 4, "--out", tmp_path / "run")
    assert called(capsys, "celeba", *trial, "--inputs", tmp_path / "lr")[0] == 3
    save(drawn(5, 9), tmp_path / "twins" / "p0" / "0.png")
    save(drawn(5, 8), tmp_path / "twins" / "p0" / "0.bmp")
    lists = ["path,identity,role", "twins/p0/0.png,a,probe", "twins/p0/0.bmp,b,probe"]
    lists += [f"{faces}/p{i}/0.png,{who},gallery" for i, who in enumerate("ab")]
    (tmp_path / "list.csv").write_text("\n".join(lists))
    two = (tmp_path / "list.csv", "--fewest", 2, "--out", tmp_path / "run", "--inputs", tmp_path / "no")
    code, _, err = called(capsys, "celeba", *two)
    assert code == 2 and "would be one file, twins/p0/0.png" in err
    inputs = sorted((tmp_path / "lr" / "16").rglob("*.png"))
    assert len(inputs) == 4 and not (tmp_path / "run").exists()
    outputs = tmp_path / "theirs"
    for file in inputs:
        larger = enlarge(as_tensor([np.asarray(Pictures.open(file))]), 128)[0]
        save((larger * 255).round().byte().permute(1, 2, 0).numpy(), outputs / file.relative_to(tmp_path / "lr" / "16"))
    methods = ("--method", "bicubic", "--method", f"images:{outputs}")
    assert called(capsys, "celeba", *trial, *methods)[0] == 3
    with (tmp_path / "run" / "tables" / "1-pictures.csv").open() as stream:
        ours, theirs = ({k: v for k, v in r.items() if k != "system"} for r in csv.DictReader(stream))
    assert ours == theirs

    for side in ("16", "32"):  # a folder for each size, where there are several
        for file in outputs.rglob("p*/*.png"):
            save(
                np.asarray(Pictures.open(file)) // (1 if side == "16" else 2),
                tmp_path / "both" / side / file.relative_to(outputs),
            )
    sides = ("--degrade", 16, "--degrade", 32, "--method", f"images:{tmp_path / 'both'}")
    assert called(capsys, "celeba", *trial, *sides)[0] == 3
    with (tmp_path / "run" / "tables" / "1-pictures.csv").open() as stream:
        small, large = csv.DictReader(stream)
    assert small["PSNR"] == ours["PSNR"] and float(large["PSNR"]) < float(small["PSNR"])

    one = outputs / inputs[0].relative_to(tmp_path / "lr" / "16")
    save(drawn(1, 1, 64), one)
    code, _, err = called(capsys, "celeba", *trial, *methods)
    assert code == 2 and "64×64 px, but all that is compared is 128×128" in err
    one.unlink()
    code, _, err = called(capsys, "celeba", *trial, *methods)
    assert code == 2 and "lacks 1 of 4 pictures" in err


def test_faces_as_the_camera_saw_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for person in range(3):
        save(drawn(person, 0), tmp_path / "gallery" / f"p{person}" / "0.png")
        for k in range(1, 4):
            save(drawn(person, k, 12 + 4 * k), tmp_path / "probes" / f"p{person}" / f"{k}.png")
    chosen = ("--gallery", tmp_path / "gallery", "--each", 3, "--by", "size", "--out", tmp_path / "run")
    code, _, err = called(
        capsys, "quis-campi", tmp_path / "probes", *chosen, "--method", "bicubic", "--method", "pooled"
    )
    assert code == 0, err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "9 items, 3 people, 3 gallery" in report and "no true picture" in report
    assert "consistency" in report and "PSNR" not in report and "16: bicubic" in report
    code, _, err = called(capsys, "quis-campi", tmp_path / "probes", *chosen, "--method", "hr")
    assert code == 2 and "method hr: the probes are as the camera saw them" in err
    preset = ("--preset", "paper-table1", "--inputs", tmp_path / "lr")
    code, _, err = called(capsys, "quis-campi", tmp_path / "probes", *chosen, *preset)
    assert code == 0 and "Row hr was left out" in err
    code, _, err = called(capsys, "quis-campi", tmp_path / "probes", *chosen, "--degrade", "16")
    assert code == 2 and "as the camera saw them" in err


def test_pairs_from_the_command_line(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People who differ in all of their colours are told apart in every fold."""
    lines = ["a,b,same,fold"]
    for k in range(PEOPLE):
        lines += [f"p{k}/0.png,p{k}/1.png,1,{k % 2}", f"p{k}/0.png,p{(k + 1) % PEOPLE}/1.png,0,{k % 2}"]
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "p0/0.png,p9/0.png,0,1"]))
    chosen = ("--pairs", tmp_path / "pairs.csv", "--method", "bicubic", "--out", tmp_path / "run")
    code, _, err = called(capsys, "pairs", faces, *chosen)
    assert code == 3 and "pairs.csv line 14: no usable photograph p9/0.png" in err and "12 pairs" in err
    (table,) = (tmp_path / "run" / "tables").glob("2-recognition-*.csv")
    with table.open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["AUC"]) > 0.9 and float(row["accuracy"]) > 0.7 and row["accuracy around"].startswith("±")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "magic"], "no such method"),
        (["--merge", "sum"], "--merge sum"),
        (["--fuse", "all"], "--fuse all"),
        (["--degrade", "16:fog"], "16:fog"),
        (["--by", "mood"], "no such label; there are size"),
        (["--baseline", "gfpgan", "--method", "bicubic"], "no such system here"),
        (["--fewest", "9"], "0 people can be tested"),
        (["--method", "images:nowhere"], "it lacks 6 of 6"),
        (["--method", "idfsr", "--idfsr", str(boxed("sr.safetensors"))], "does not name an IDFSR network"),
        (["--sampler", "dpmpp"], "not KIND-STEPS"),
        (["--scorer", "{text}"], "text.bin"),
        (["--labels", "{labels}"], "labels.csv: its column path names none of the photographs"),
        (
            ["--preset", "paper-table4"],
            "--preset paper-table4: it compares a network as it was and fine-tuned; give --model",
        ),
        (["--preset", "paper-fig6", "--combiner", str(boxed("combiner.safetensors"))], "give --combiner several times"),
        (["--method", "srdg", "--labelled"], "--labelled: no probe has 1, 0 or -1 in a column male"),
        (["--method", "sr3", "--sampler", "ve-2"], "sampler ve-2: none of sr3"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], says: str, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.bin").write_text("no weights")
    (tmp_path / "labels.csv").write_text("path,male\nfaces/p0/0.png,1")
    given = [a.format(text=tmp_path / "text.bin", labels=tmp_path / "labels.csv") for a in arguments]
    code, _, err = called(capsys, "celeba", faces, "--out", tmp_path / "run", *given)
    assert code == 2 and says in err and "Traceback" not in err


def test_a_preset_stands_where_nothing_is_said(
    faces: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--people", 2, "--out", tmp_path / "run", "--model", network, "--merge", "mean", "--sampler", "dpmpp-1")
    code, _, err = called(capsys, "celeba", faces, *chosen, "--preset", "paper-fig9", "--references", 1)
    assert code == 3 and "Row idfsr-fitted was left out: fits take a minute or more" in err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Preset paper-fig9: number of references" in report
    assert "bicubic 8 px" in report and "fasr++ 16 px" in report


def test_attributes_and_references_reach_their_methods(
    faces: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SRDG draws towards the labels; IDFSR says where it could fit nothing, as drawn forms have no landmarks."""
    torch.manual_seed(0)
    size = Size(128, 8, (16, 32), blocks=1, condition=32, attention=0, style_widths=(16, 32), residual=True)
    save_idfsr(identity_denoiser(IdfsrNet(size)), tmp_path / "idfsr.safetensors")
    names = [f"p{i}/{k}.png" for i in range(PEOPLE) for k in range(EACH)]
    chosen = ("--people", 2, "--out", tmp_path / "run", "--labels", tmp_path / "labels.csv", "--labelled")
    methods = ("--method", "srdg", "--method", "idfsr", "--method", "idfsr-fitted", "--sampler", "ddim-2")
    drawn_by = []
    for male in (-1, 1):
        lines = ["path,male", *(f"{name},{male}" for name in names)]
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        weights = ("--model", network, "--idfsr", tmp_path / "idfsr.safetensors")
        code, _, err = called(capsys, "celeba", faces, *chosen, *methods, *weights)
        assert code == 3 and "2 of 2 pictures: drawn without fitting (0 references with landmarks, 2 needed)" in err, (
            err
        )
        with sqlite3.connect(tmp_path / "run" / "eval.sqlite") as db:
            drawn_by.append(dict(db.execute("SELECT system, count(*) FROM drawn GROUP BY system").fetchall()))
        assert "one classifier draws the pictures towards attributes and judges them" in err
    with sqlite3.connect(tmp_path / "run" / "eval.sqlite") as db:
        db.execute("DROP TABLE told")  # as earlier versions left it
    fewer = ("--method", "srdg", "--method", "bicubic", "--sampler", "ddim-2", "--model", network)
    other = load_attribute_classifier(boxed("attributes.safetensors"))
    next(other.parameters()).data *= 1.01
    save_attributes(other, tmp_path / "other.safetensors")
    code, _, err = called(capsys, "celeba", faces, *chosen, *fewer, "--attributes", tmp_path / "other.safetensors")
    assert code == 3 and "drawn, in part or whole, before warnings were kept: srdg" in err and "circular" not in err
    assert drawn_by == [{"srdg": 2, "idfsr": 2, "idfsr-fitted": 2}, {"srdg": 4, "idfsr": 2, "idfsr-fitted": 2}]


def test_what_is_missing_for_the_last_method_is_told_before_the_first_is_drawn(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("--method", "bicubic", "--method", "idfsr", "--idfsr", boxed("sr.safetensors"))
    code, _, err = called(capsys, "celeba", faces, *methods, "--out", tmp_path / "run")
    assert code == 2 and "does not name an IDFSR network" in err
    with sqlite3.connect(tmp_path / "run" / "eval.sqlite") as db:
        assert db.execute("SELECT count(*) FROM drawn").fetchone()[0] == 0


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fasr_video.evaluation.photos import read_photos
from fasr_video.evaluation.protocols import celeba
from fasr_video.evaluation.compare import Plan, compare
from fasr_video.evaluation.degradations import parse
from fasr_video.evaluation.scoring import Judges
from fasr_video.evaluation.store import Store
from fasr_video.evaluation.systems import System, Tools
from fasr_video.recognition.embedder import BuiltinEmbedder

def tell(name, done, total):
    if len(sys.argv) > 3 and (name, done) == ("bicubic", 3):
        os.kill(os.getpid(), signal.SIGKILL)

trial = celeba(read_photos([Path(sys.argv[1])])[0])
embedder = BuiltinEmbedder()
plan = Plan([System(m, parse("16")) for m in ("lr", "bicubic")], [embedder], Judges(), batch=1)
with Store(Path(sys.argv[2])) as store:
    compare(trial, plan, Tools(store, embedder, torch.device("cpu")), tell)
"""


def test_killed_it_goes_on_with_what_was_drawn(faces: Path, tmp_path: Path) -> None:
    def run(folder: str, *more: str) -> int:
        command = [sys.executable, "-c", KILLED, faces, tmp_path / folder, *more]
        return subprocess.run(command, capture_output=True, timeout=100).returncode

    def rows(folder: str) -> dict[str, bytes]:
        with sqlite3.connect(tmp_path / folder / "eval.sqlite") as db:
            return dict(db.execute("SELECT key, picture FROM drawn").fetchall())

    assert run("broken", "kill") == -signal.SIGKILL
    before = rows("broken")
    assert len(before) == PEOPLE + 3 and not (tmp_path / "broken" / "report.md").exists()
    with sqlite3.connect(tmp_path / "broken" / "eval.sqlite") as db:
        # A mark: what is there already is not drawn again.
        db.execute("UPDATE drawn SET system = 'kept'")
    assert run("broken") == 0 and run("whole") == 0
    assert rows("broken") == rows("whole") and len(rows("whole")) == 2 * PEOPLE
    with sqlite3.connect(tmp_path / "broken" / "eval.sqlite") as db:
        assert db.execute("SELECT count(*) FROM drawn WHERE system = 'kept'").fetchone()[0] == len(before)
    first, second = ((tmp_path / f / "report.md").read_text() for f in ("broken", "whole"))
    assert first == second


def test_a_folder_goes_on_when_a_file_that_cannot_be_used_is_added(tmp_path: Path) -> None:
    trial = protocols.celeba(crowd([3, 3]))
    more = replace(trial, left_out=(LeftOut("notes.png", "not a readable picture"),))
    with Store(tmp_path) as store:
        store.bind(trial)
        store.bind(more)
        with pytest.raises(UsageError, match="seed"):
            store.bind(replace(trial, seed=1))
        for text in ("{", "{}", '{"facts": 3}', "[]"):
            (tmp_path / "trial.json").write_text(text)
            with pytest.raises(IntegrityError, match=r"trial\.json: it is damaged"):
                store.bind(trial)


def test_a_feature_is_computed_once(tmp_path: Path) -> None:
    class Counted(BuiltinEmbedder):
        asked = 0

        def embed(self, faces: torch.Tensor, marks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            self.asked += len(faces)
            return super().embed(faces, marks)

    embedder = Counted()
    pictures = {digest_of(p): p for p in (drawn(0, 0), drawn(1, 0))}
    with Store(tmp_path) as store:
        first = store.features(embedder, pictures)
    with Store(tmp_path) as store:
        again = store.features(embedder, pictures)
    assert embedder.asked == 2
    unit, norms = embedder.embed(as_tensor(list(pictures.values())))
    for k, digest in enumerate(pictures):
        assert torch.equal(first[digest], again[digest])
        assert torch.allclose(first[digest], unit[k] * norms[k], atol=1e-5)


def test_a_grid_has_a_head_for_each_picture(tmp_path: Path) -> None:
    plots.grid([[drawn(0, 0), drawn(0, 1)]] * 3, ["one", "a very long name of a system indeed"], tmp_path / "grid.png")
    with Pictures.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (2 * 132 + 4, 18 + 3 * 132 + 4)
        assert "SYNTHETIC" in sheet.info["Description"]
    with pytest.raises(FasrError):
        plots.grid([[drawn(0, 0)]], ["one", "two"], tmp_path / "grid.png")


def test_the_command_line_starts_without_torch() -> None:
    """It takes seconds to load, and has to be told first how its threads shall wait."""
    code = "import sys, fasr_video.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_methods_that_the_command_names_are_known() -> None:
    assert {"hr", "lr", "bicubic", "pooled", "fasr++", "srdg", "sr3", "idfsr", "idfsr-fitted"} <= set(systems.NAMES)
