"""From tracklets to leads: a case's probes, reconstructions, candidate lists and clusters, and what
undoes them.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from fasr_video import cli
from fasr_video.case import document as export
from fasr_video.case.case import Case
from fasr_video.case.links import clusters, decide
from fasr_video.case.results import features
from fasr_video.case.store import DATABASE
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.configs.settings import SearchSettings
from fasr_video.errors import CaseError, InputError, UsageError
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import WrongEmbedder
from fasr_video.pipeline import restore
from fasr_video.pipeline.restore import open_encoder
from fasr_video.pipeline.run import Stage, redo, run
from fasr_video.pipeline.search import usable_calibration
from fasr_video.provenance import BANNER, NOTE
from tests.conftest import CORRIDOR_QUICK as QUICK
from tests.conftest import PORTRAITS
from tests.support import vectors
from tests.support.cases import propose_link
from tests.support.denoisers import NOTHING_DRAWN
from tests.support.documents import document
from tests.support.paths import MUGSHOTS

CPU = configs.load("cpu", QUICK)


@pytest.fixture(scope="module")
def searched(corridor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people of whom both are in the gallery."""
    out = tmp_path_factory.mktemp("searched") / "case"
    run([corridor], out, CPU, MUGSHOTS)
    return out


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "case"))


def test_every_usable_track_has_a_reconstruction_three_lists_and_an_answer(searched: Path) -> None:
    tracks = [t for t in document(searched)["tracks"] if t["verdict"] == "usable"]
    assert len(tracks) >= 2
    for t in tracks:
        assert t["restoration"]["method"] == "fasr++" and len(t["restoration"]["samples"]) == 2
        assert set(t["answer"]["lists"]) == {"best", "pooled", "sr"}
        assert t["answer"]["verdict"] in {"candidates", "unknown"}
        assert {c["subject"] for c in t["answer"]["joined"]} == {"eileen_collins", "grace_hopper"}
        assert all(set(c["cosines"]) == {"best", "pooled", "sr"} for c in t["answer"]["joined"])


def test_insufficient_tracks_are_neither_reconstructed_nor_searched(searched: Path) -> None:
    for t in document(searched)["tracks"]:
        if t["verdict"] == "insufficient":
            assert t["restoration"] is None and t["answer"] is None


def test_right_person_is_ranked_first(searched: Path) -> None:
    truth = json.loads((PORTRAITS / "ground_truth.json").read_text())["corridor.mp4"]["frames"]
    count_searches = 0
    for t in document(searched)["tracks"]:
        people = truth.get(str(t["shown"]["frame"]), {})
        x1, y1, x2, y2 = t["shown"]["box"]
        for name, face in people.items():
            bx1, by1, bx2, by2 = face["box"]
            inside = bx1 < (x1 + x2) / 2 < bx2 and by1 < (y1 + y2) / 2 < by2
            if inside and t["answer"] is not None and face["occluded"] < 0.2:
                assert t["answer"]["joined"][0]["subject"] == name
                count_searches += 1
    assert count_searches >= 2


def test_person_of_the_gallery_is_a_candidate_and_a_stranger_unknown(
    copy: Path, corridor: Path, tmp_path: Path
) -> None:
    """With the bundled calibration; each of the two is a stranger to a gallery of the other."""
    first = {
        t["id"]: t["answer"]["joined"][0]["subject"]
        for t in document(copy)["tracks"]
        if t["answer"]
    }
    assert set(first.values()) == {"eileen_collins", "grace_hopper"}
    only = tmp_path / "mugshots"
    only.mkdir()
    shutil.copy(MUGSHOTS / "eileen_collins.jpg", only)
    run([corridor], copy, CPU, only)
    for t in document(copy)["tracks"]:
        if t["answer"] is not None:
            expected = "candidates" if first[t["id"]] == "eileen_collins" else "unknown"
            assert t["answer"]["verdict"] == expected
    lines = list(csv.DictReader(export_csv(copy).splitlines()))
    assert {x["candidate"] for x in lines if x["answer"] == "unknown"} == {""}


def export_csv(folder: Path) -> str:
    with Case.open(folder, read_only=True) as case:
        return export.as_csv(case, "tracks")


def test_identification_lists_only_who_passes(copy: Path, corridor: Path) -> None:
    run([corridor], copy, configs.load("cpu", (*QUICK, "search.mode=identification")), MUGSHOTS)
    answers = [t["answer"] for t in document(copy)["tracks"] if t["answer"]]
    assert answers and all(len(a["joined"]) == 1 and a["joined"][0]["passes"] for a in answers)


def test_a_calibration_applies_to_the_probes_it_fits(tmp_path: Path) -> None:
    restorer: dict[str, object] = {"method": "bicubic", "samples": 1}
    changed = dataclasses.replace(
        vectors.make_calibration(), provenance={**vectors.FACTS, "restorer": restorer}
    )
    file = tmp_path / "calibration.json"
    changed.save(file)
    chosen = SearchSettings(
        mode="investigation", candidates=5, fpir=0.1, calibration=file, several_faces="refuse"
    )
    full = usable_calibration(chosen, changed.provenance)
    assert full.kinds == tuple(Kind) and full.remarks == ()
    other = usable_calibration(
        chosen, {**changed.provenance, "restorer": {"method": "bicubic", "samples": 2}}
    )
    assert other.kinds == (Kind.BEST, Kind.POOLED) and "another restorer" in other.remarks[0]
    with pytest.raises(UsageError, match="another embedder"):
        usable_calibration(chosen, {**changed.provenance, "embedder": "f"})


def test_the_bundled_calibration_is_for_the_bundled_models() -> None:
    settings = configs.load("cpu")
    usable = usable_calibration(settings.search, open_encoder(settings).provenance())
    assert usable.kinds == (Kind.BEST, Kind.POOLED)
    (remark,) = usable.remarks
    assert remark.startswith("reconstructions do not count in this search, because")
    assert "the calibration was measured without them" in remark


def test_models_without_a_calibration_get_raw_scores_and_a_note() -> None:
    reading = usable_calibration(configs.load("cpu").search, vectors.FACTS)
    assert reading.calibration is None and reading.remarks[0].startswith("scores are raw")


def test_a_reconstruction_is_labelled_wherever_it_is_stored(searched: Path) -> None:
    for t in document(searched)["tracks"]:
        if t["restoration"] is None:
            continue
        for name in (
            t["restoration"]["picture"],
            t["restoration"]["spread"],
            *t["restoration"]["samples"],
        ):
            with PilImage.open(searched / name) as picture:
                assert picture.info["Description"] == BANNER
                assert json.loads(picture.info[NOTE])["method"] == "fasr++"
        first, second = (
            np.asarray(PilImage.open(searched / s)) for s in t["restoration"]["samples"]
        )
        assert not np.array_equal(first, second) and t["restoration"]["disagreement"] > 0


def test_picture_of_a_track_does_not_depend_on_the_rest_of_the_case(
    searched: Path, corridor: Path, entrance: Path, tmp_path: Path
) -> None:
    run([entrance, corridor], tmp_path / "case", CPU)
    alone = {
        t["first_pts"]: t["restoration"]["samples"]
        for t in document(searched)["tracks"]
        if t["restoration"]
    }
    both = [
        t for t in document(tmp_path / "case")["tracks"] if t["source"].endswith("corridor.mp4")
    ]
    beside = {t["first_pts"]: t["restoration"]["samples"] for t in both if t["restoration"]}
    assert beside.keys() == alone.keys()
    for pts, names in alone.items():
        for a, b in zip(names, beside[pts], strict=True):
            one = np.asarray(PilImage.open(searched / a)).astype(int)
            other = np.asarray(PilImage.open(tmp_path / "case" / b)).astype(int)
            assert np.abs(one - other).max() <= 1  # sums come in another order in a larger batch


def test_verify_reports_changed_results(copy: Path) -> None:
    with Case.open(copy) as case:
        assert not any(c.problems for c in verify(case))
        case.db.execute("UPDATE candidate SET subject = 'somebody'")
        assert any("the candidates of track" in p for c in verify(case) for p in c.problems)
        case.db.execute("UPDATE restoration SET provenance = '{}'")
        assert any(
            "probes or reconstruction of track" in p for c in verify(case) for p in c.problems
        )


def test_same_run_again_does_nothing(copy: Path, corridor: Path) -> None:
    before = document(copy)
    assert run([corridor], copy, CPU, MUGSHOTS)[1] is False
    assert document(copy) == before


def test_other_search_options_need_no_other_work_again(copy: Path, corridor: Path) -> None:
    stages: list[Stage] = []
    other = configs.load("cpu", (*QUICK, "search.candidates=1"))
    _, worked = run(
        [corridor],
        copy,
        other,
        MUGSHOTS,
        listen=lambda p: stages.append(p) if isinstance(p, Stage) else None,
    )
    assert worked and not [s for s in stages if s.what == "super-resolving"]
    for t in document(copy)["tracks"]:
        if t["answer"] is not None:
            assert len(t["answer"]["joined"]) == 1 and all(
                len(hits) == 1 for hits in t["answer"]["lists"].values()
            )
    with Case.open(copy, read_only=True) as case:
        assert not any(c.problems for c in verify(case))


def test_a_removed_person_is_no_longer_a_candidate(
    copy: Path, corridor: Path, tmp_path: Path
) -> None:
    fewer = tmp_path / "mugshots"
    fewer.mkdir()
    shutil.copy(MUGSHOTS / "grace_hopper.jpg", fewer)
    assert run([corridor], copy, CPU, fewer)[1] is True
    text = json.dumps([t["answer"] for t in document(copy)["tracks"]])
    assert "grace_hopper" in text and "eileen_collins" not in text


def test_an_existing_gallery_is_used_unchanged(copy: Path, corridor: Path, tmp_path: Path) -> None:
    own_gallery = tmp_path / "gallery"
    shutil.copytree(copy / "gallery", own_gallery)
    with Gallery.open(own_gallery) as gallery:
        gallery.remove([i.sha256 for i in gallery.images("eileen_collins")], "a test")
        facts = {
            "id": gallery.id,
            "folder": str(own_gallery),
            "generation": gallery.generation,
            "people": 1,
            "templates": 1,
        }
    run([corridor], copy, CPU, own_gallery)
    assert facts.items() <= document(copy)["searched"]["gallery"].items()


def test_gallery_of_another_embedder_is_refused(corridor: Path, copy: Path, tmp_path: Path) -> None:
    Gallery.create(tmp_path / "other", "another", "f" * 64, 512).close()
    with pytest.raises(WrongEmbedder, match="gallery migrate"):
        run([corridor], copy, CPU, tmp_path / "other")


def test_a_missing_gallery_is_reported_before_footage_is_read(
    corridor: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        run([corridor], tmp_path / "case", CPU, tmp_path / "nowhere")
    assert not (tmp_path / "case").exists()


def test_without_super_resolution_there_are_two_probes(entrance: Path, tmp_path: Path) -> None:
    run([entrance], tmp_path / "case", configs.load("cpu", (*QUICK, *NOTHING_DRAWN)), MUGSHOTS)
    (track,) = [t for t in document(tmp_path / "case")["tracks"] if t["verdict"] == "usable"]
    assert track["restoration"] is None and set(track["answer"]["lists"]) == {"best", "pooled"}


def test_a_run_killed_in_super_resolution_continues_to_the_same_result(
    searched: Path, corridor: Path, tmp_path: Path
) -> None:
    out = tmp_path / "case"
    overrides = [part for o in QUICK for part in ("--set", o)]
    command = [
        sys.executable,
        "-m",
        "fasr_video",
        "run",
        str(corridor),
        "--out",
        str(out),
        *overrides,
    ]
    command += ["--gallery", str(MUGSHOTS)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not _all_tracks_done(out):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run([corridor], out, CPU, MUGSHOTS)
    own, other = document(out), document(searched)
    assert [t["restoration"] for t in own["tracks"]] == [t["restoration"] for t in other["tracks"]]
    assert [t["answer"] for t in own["tracks"]] == [t["answer"] for t in other["tracks"]]
    with Case.open(out, read_only=True) as case:
        assert not any(c.problems for c in verify(case))
        assert {p.stem for p in (out / "crops").glob("*/*")} == set(case.picture_names())


def _all_tracks_done(out: Path) -> bool:
    if not (out / DATABASE).exists():
        return False
    with sqlite3.connect(out / DATABASE) as db:
        return bool(db.execute("SELECT count(*) FROM source WHERE state = 'done'").fetchone()[0])


@pytest.fixture(scope="module")
def person_on_two_cameras(
    corridor: Path, entrance: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Grace Hopper on two cameras."""
    out = tmp_path_factory.mktemp("twice") / "case"
    run(
        [corridor, entrance],
        out,
        configs.load("cpu", (*QUICK, *NOTHING_DRAWN, "link.min_similarity=0.1")),
    )
    return out


def test_same_person_on_two_cameras_is_proposed_with_a_score(person_on_two_cameras: Path) -> None:
    result = document(person_on_two_cameras)
    source = {t["id"]: Path(t["source"]).name for t in result["tracks"]}
    across = [
        x
        for x in result["links"]
        if {source[x["a"]], source[x["b"]]} == {"corridor.mp4", "entrance.mp4"}
    ]
    assert across and all(
        x["state"] == "proposed" and "face recognition" in x["evidence"] for x in across
    )


def test_two_tracks_in_one_frame_are_never_in_one_cluster(person_on_two_cameras: Path) -> None:
    with Case.open(person_on_two_cameras, read_only=True) as case:
        for cluster in clusters(case, ["proposed", "accepted"]):
            frames: list[tuple[int, int]] = []
            for track in cluster:
                query = "SELECT source, frame_index FROM face WHERE track = ?"
                frames += [tuple(r) for r in case.db.execute(query, (track,)).fetchall()]
            assert len(frames) == len(set(frames))


def test_a_link_between_two_tracks_in_one_frame_is_refused(
    person_on_two_cameras: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(person_on_two_cameras, tmp_path / "case"))
    with Case.open(copied) as case:
        pair = case.db.execute(
            "SELECT DISTINCT one.track AS a, other.track AS b FROM face one JOIN face other ON "
            "one.source = other.source AND one.frame_index = other.frame_index WHERE one.track < "
            "other.track"
        ).fetchone()
        case.db.execute("DELETE FROM link")
        link = propose_link(case, *pair)
        with pytest.raises(CaseError, match="appear in one frame"):
            decide(case, link, "accepted", "somebody")


def test_accepted_links_make_a_cluster(person_on_two_cameras: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(person_on_two_cameras, tmp_path / "case"))
    with Case.open(copied) as case:
        link = case.db.execute("SELECT * FROM link ORDER BY score DESC").fetchone()
        assert clusters(case, ["accepted"]) == []
        decide(case, link["id"], "accepted", "somebody")
        assert clusters(case, ["accepted"]) == [sorted((link["a"], link["b"]))]


def test_tables_hold_tracks_of_every_state(
    copy: Path, corridor: Path, entrance: Path, tmp_path: Path
) -> None:
    """Searched; usable but not searched yet; insufficient; without super-resolution: a line each,
    and no name for any but the first.
    """
    lines = list(csv.DictReader(export_csv(copy).splitlines()))
    assert {x["answer"] for x in lines if x["verdict"] == "usable"} == {"candidates"}
    assert all(
        x["candidate"] and x["threshold"] and x["sr_picture"]
        for x in lines
        if x["answer"] == "candidates"
    )
    run([corridor, entrance], copy, CPU)
    added = [
        x
        for x in csv.DictReader(export_csv(copy).splitlines())
        if x["source"].endswith("entrance.mp4")
    ]
    assert {x["answer"] for x in added if x["verdict"] == "usable"} == {"not searched"}
    poor = configs.load("cpu", (*QUICK, "select.min_eye_px=25", *NOTHING_DRAWN))
    run([corridor], tmp_path / "poor", poor, MUGSHOTS)
    lines = list(csv.DictReader(export_csv(tmp_path / "poor").splitlines()))
    assert {(x["answer"], x["sr_picture"]) for x in lines} == {
        ("insufficient", ""),
        ("candidates", ""),
    }


def test_stopped_between_two_groups_of_tracks_the_case_is_intact(
    corridor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "TOGETHER", 1)

    def stop(progress: object) -> None:
        if isinstance(progress, Stage) and progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([corridor], tmp_path / "case", CPU, listen=stop)
    for _ in range(2):
        with Case.open(tmp_path / "case", read_only=True) as case:
            assert case.db.execute("SELECT count(*) FROM encoding").fetchone()[0] >= 1
            assert not any(c.problems for c in verify(case))
        run([corridor], tmp_path / "case", CPU)


def test_a_gallery_restored_from_a_copy_is_searched_again(
    copy: Path, corridor: Path, tmp_path: Path
) -> None:
    """Two diverged copies have the same number of changes, but other people."""
    one, other = (Path(shutil.copytree(copy / "gallery", tmp_path / n)) for n in ("one", "other"))
    for folder, name in ((one, "grace_hopper"), (other, "eileen_collins")):
        with Gallery.open(folder) as gallery:
            gallery.remove([i.sha256 for i in gallery.images(name)], "a test")
    run([corridor], copy, CPU, one)
    shutil.rmtree(one)
    other.rename(one)
    assert run([corridor], copy, CPU, one)[1] is True
    assert "eileen_collins" not in json.dumps([t["answer"] for t in document(copy)["tracks"]])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("search.calibration=nowhere.json",), "no such file"),
        (("recognise.flip=true", "search.mode=identification"), "needs a calibration"),
    ],
)
def test_invalid_search_options_are_reported_before_footage_is_read(
    overrides: tuple[str, ...], says: str, corridor: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        run([corridor], tmp_path / "case", configs.load("cpu", (*QUICK, *overrides)), MUGSHOTS)
    assert not (tmp_path / "case").exists()


def test_a_damaged_index_is_rebuilt_with_a_message(
    copy: Path, corridor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "gallery" / "vectors.faiss").write_bytes(b"no index")
    overrides = [part for o in (*QUICK, "search.candidates=2") for part in ("--set", o)]
    arguments = ["run", str(corridor), "--out", str(copy), "--gallery", str(MUGSHOTS), *overrides]
    assert cli.cli(arguments, standalone_mode=False) == 0
    assert "index was rebuilt from the store: its file is damaged" in capsys.readouterr().out


def test_a_forged_list_of_photographs_is_detected(copy: Path) -> None:
    with Case.open(copy) as case:
        case.db.execute("UPDATE gallery_photo SET subject = 'somebody', problem = 'no face found'")
        assert any("list of photographs" in p for c in verify(case) for p in c.problems)


def test_a_forged_gallery_in_the_case_is_detected(copy: Path) -> None:
    with sqlite3.connect(copy / "gallery" / "gallery.sqlite") as db:
        db.execute("UPDATE template SET vector = zeroblob(2048)")
    with Case.open(copy, read_only=True) as case:
        assert any(p.startswith("gallery: ") for c in verify(case) for p in c.problems)


def test_each_kind_has_one_unit_vector_as_probe(searched: Path) -> None:
    with Case.open(searched, read_only=True) as case:
        tracks = [r[0] for r in case.db.execute("SELECT track FROM encoding").fetchall()]
        assert tracks
        for track in tracks:
            result = features(case, track)
            assert list(result) == list(Kind)
            assert all(np.linalg.norm(f) == pytest.approx(1, abs=1e-5) for f in result.values())


# --- one stage again, without the footage ---------------------------------------------------------


def settings_of(folder: Path, *overrides: str) -> configs.Settings:
    """The case's own settings, some of them changed."""
    return configs.load(str(folder / "settings.yaml"), overrides)


def test_a_stage_is_redone_with_other_settings_without_footage(copy: Path) -> None:
    before = document(copy)
    for source in before["sources"]:
        assert Path(
            source["path"]
        ).is_file()  # that it is not read is seen by its path, which goes now
    with sqlite3.connect(copy / DATABASE) as db:
        db.execute("UPDATE source SET path = '/nowhere/gone.mp4'")
    assert redo(copy, "restore", settings_of(copy, "restore.samples=3"))
    after = document(copy)
    drawn = [t["restoration"] for t in after["tracks"] if t["restoration"]]
    assert drawn and all(len(r["samples"]) == 3 for r in drawn)
    assert (
        after["searched"]["models"]["restorer"]["samples"] == 3
    )  # and the people it was asked about were asked again
    assert after["settings"]["restore"]["samples"] == 3
    assert settings_of(copy).restore.samples == 3
    redone = [json.loads(x["details"]) for x in after["log"] if x["event"] == "stage redone"]
    assert redone == [
        {"stage": "restore", "changed": ["restore.samples"], "settings": after["settings"]}
    ]
    assert [t["shown"] for t in after["tracks"]] == [t["shown"] for t in before["tracks"]]


def test_a_redone_case_is_intact_and_repeating_the_stage_does_nothing(copy: Path) -> None:
    assert redo(copy, "search", settings_of(copy, "search.candidates=1"))
    assert all(len(t["answer"]["joined"]) == 1 for t in document(copy)["tracks"] if t["answer"])
    assert not redo(copy, "search", settings_of(copy))
    assert not redo(copy, "restore", settings_of(copy))
    with Case.open(copy, read_only=True) as case:
        assert not any(check.problems for check in verify(case))


def test_another_seed_draws_other_reconstructions(copy: Path) -> None:
    before = [t["restoration"]["picture"] for t in document(copy)["tracks"] if t["restoration"]]
    assert redo(copy, "restore", settings_of(copy, "restore.seed=5"))
    after = [t["restoration"]["picture"] for t in document(copy)["tracks"] if t["restoration"]]
    assert not set(before) & set(after)
    assert all((copy / picture).is_file() for picture in after)
    assert not any((copy / picture).is_file() for picture in before)


def test_links_are_proposed_again(copy: Path) -> None:
    assert redo(copy, "link", settings_of(copy, "link.min_similarity=0"))
    assert not redo(copy, "link", settings_of(copy))
    assert document(copy)["settings"]["link"]["min_similarity"] == 0


@pytest.mark.parametrize(
    ("stage", "override", "says"),
    [
        ("search", "restore.samples=3", "stage search does not depend on restore.samples"),
        ("restore", "detect.min_score=0.9", "stage restore does not depend on detect.min_score"),
        ("link", "search.fpir=0.1", "stage link does not depend on search.fpir"),
        (
            "search",
            "restore.subjects={T1: grace_hopper}",
            "stage search does not depend on restore.subjects",
        ),
    ],
)
def test_a_stage_accepts_only_its_own_settings(
    copy: Path, stage: Any, override: str, says: str
) -> None:
    before = document(copy)
    with pytest.raises(CaseError, match=says):
        redo(copy, stage, settings_of(copy, override))
    assert document(copy) == before


def test_a_refused_stage_leaves_the_case_as_it_was(copy: Path) -> None:
    other_models(copy)
    before, settings_text = document(copy), (copy / "settings.yaml").read_text()
    with pytest.raises(CaseError, match=r"tracks have no features.*give --stage restore"):
        redo(copy, "search", settings_of(copy, "search.fpir=0.05"))
    assert document(copy) == before and (copy / "settings.yaml").read_text() == settings_text


def test_a_stage_of_unfinished_footage_is_refused(copy: Path) -> None:
    with sqlite3.connect(copy / DATABASE) as db:
        db.execute("UPDATE source SET state = 'running'")
    with pytest.raises(CaseError, match="its footage is not finished"):
        redo(copy, "restore", settings_of(copy))


def test_a_case_that_was_never_searched_needs_a_gallery(corridor: Path, tmp_path: Path) -> None:
    out = tmp_path / "case"
    run([corridor], out, configs.load("cpu", (*QUICK, *NOTHING_DRAWN)))
    with pytest.raises(UsageError, match="never searched"):
        redo(out, "search", settings_of(out))
    assert redo(out, "search", settings_of(out), MUGSHOTS)
    assert all(t["answer"] for t in document(out)["tracks"] if t["verdict"] == "usable")


def run_by_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fasr-video", "run", *arguments, "--no-report"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_stage_uses_the_options_of_the_last_search(
    copy: Path, corridor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        [corridor],
        copy,
        configs.load("cpu", (*QUICK, "search.fpir=0.2", "search.candidates=1")),
        MUGSHOTS,
    )
    stage = ("--stage", "restore", "--out", str(copy), "--set", "restore.seed=5")
    assert run_by_command(monkeypatch, *stage, "--set", "search.candidates=2") == 0
    after = document(copy)
    for options in (after["searched"]["settings"], after["settings"]["search"]):
        assert options["fpir"] == 0.2, "as last"
        assert options["candidates"] == 2, "but for what this command says"
    assert run_by_command(monkeypatch, "--stage", "link", "--out", str(copy)) == 0
    with Case.open(copy, read_only=True) as case:
        assert not [problem for check in verify(case) for problem in check.problems]


def test_new_reconstructions_are_searched_again(copy: Path) -> None:
    def count_searches() -> list[str]:
        return [line["details"] for line in document(copy)["log"] if line["event"] == "searched"]

    assert len(count_searches()) == 1
    assert redo(copy, "restore", settings_of(copy, "restore.seed=5"))
    assert len(count_searches()) == 2, "the same query, with other probes"
    assert not redo(copy, "restore", settings_of(copy))


def other_models(folder: Path) -> None:
    """The case as one whose tracks were probed with models that are not at hand any more."""
    with Case.open(folder) as case, case.transaction():
        case.db.execute("UPDATE encoding SET models = json_set(models, '$.pooled_by', 'another')")


def test_new_probes_are_searched_in_the_last_gallery_without_option(
    copy: Path, corridor: Path
) -> None:
    loose = configs.load("cpu", (*QUICK, "search.fpir=0.2"))
    run([corridor], copy, loose, MUGSHOTS)
    other_models(copy)
    before = document(copy)
    assert run([corridor], copy, CPU)[1] is True
    after = document(copy)
    assert [x["event"] for x in after["log"]].count("searched") == 3
    assert after["searched"]["settings"] == before["searched"]["settings"]
    assert [t["answer"] for t in after["tracks"]] == [t["answer"] for t in before["tracks"]]
    assert run([corridor], copy, CPU)[1] is False


@pytest.mark.parametrize("what", ["gone", "another"])
def test_answers_for_old_probes_are_deleted_without_the_gallery(
    what: str,
    copy: Path,
    corridor: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other_models(copy)
    shutil.move(copy / "gallery", copy / "moved")
    with Gallery.open(copy / "moved", read_only=True) as gallery_:
        if what == "another":
            Gallery.create(
                copy / "gallery", "builtin", gallery_.embedder.sha256, gallery_.length
            ).close()
    quick = [part for setting in QUICK for part in ("--set", setting)]
    assert run_by_command(monkeypatch, str(corridor), "--out", str(copy), *quick) == 0
    text = capsys.readouterr().out
    assert (
        "were taken out" in text
        and ("no gallery here" if what == "gone" else "another gallery than") in text
    )
    after = document(copy)
    assert all(t["answer"] is None for t in after["tracks"])
    assert [x["event"] for x in after["log"]].count("answers taken out") == 1
    with Case.open(copy, read_only=True) as case:
        assert not [problem for check in verify(case) for problem in check.problems]
    shutil.rmtree(copy / "gallery", ignore_errors=True)
    shutil.move(copy / "moved", copy / "gallery")
    run([corridor], copy, CPU, MUGSHOTS)
    assert all(t["answer"] for t in document(copy)["tracks"] if t["verdict"] == "usable"), (
        "the same question again"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stage", "search"], "give --out CASE and no footage"),
        (["--stage", "search", "x.mp4", "--out", "case"], "give --out CASE and no footage"),
        (["--stage", "search", "--out", "no/case"], "no/case: no case here"),
        (
            ["--stage", "search", "--out", "no/case", "--camera", "door"],
            "it is not for camera and clock",
        ),
        ([], "FOOTAGE"),
    ],
)
def test_a_stage_reports_what_it_needs(arguments: list[str], says: str, tmp_path: Path) -> None:
    call = [sys.executable, "-c", "from fasr_video.cli import main; main()", "run", *arguments]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
