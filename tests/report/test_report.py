"""The files of a report. test_report_pages.py tests its pages in a browser."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import shutil
import sqlite3
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from fasr_video.case.case import Case
from fasr_video.case.entries import RestorationEntry, certainty_note, picture_name
from fasr_video.case.links import decide as decide_link
from fasr_video.case.recording import Recording, StatedClock
from fasr_video.case.sources import set_recording
from fasr_video.case.store import DATABASE
from fasr_video.custody.keys import make_signing_keys
from fasr_video.custody.signing import check_signature, sign
from fasr_video.errors import CaseError, IntegrityError, MissingExtra, UsageError
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.provenance import NOTE, is_synthetic
from fasr_video.recognition.combiner import FeatureCombiner, mean, shares
from fasr_video.report.write import refresh, write_report
from fasr_video.types import AlignedFace
from tests.support.cases import LEAD, LOOKED_THROUGH, decide, make_synthetic_case, propose_link
from tests.support.commands import run_command
from tests.support.paths import ROOT

PAGES = {
    "lead": "T1",
    "unknown": "T2",
    "insufficient": "T3",
    "only sr": "S2-T1",
    "conditioned": "S2-T2",
    "not searched": "S2-T3",
}
CLAIMS = ("match", "identified", "recovered", "enhanced likeness")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_synthetic_case(tmp_path_factory.mktemp("report") / "case")
    decide(folder, 1, "accepted", LEAD, by="R. Viewer")
    decide(folder, 1, "rejected", LEAD, by="S. Second", undone_by="S. Second")
    return folder


@pytest.fixture(scope="module")
def written(case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(
        case, tmp_path_factory.mktemp("written") / "report", ("html", "json", "csv", "folder")
    )


@pytest.fixture
def copy(case: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(case, tmp_path / "case"))


class Page(HTMLParser):
    """Text, headings and pictures of a page, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.headings, self.alts, self.order = "", list[str](), list[str](), list[str]()
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._open = tag
        if tag == "img":
            self.alts.append(attributes["alt"] or "")
            self.order.append(f"picture: {attributes['alt']}")
        if tag == "p" and attributes.get("class") == "banner":
            self.order.append("banner")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "style":
            return
        self.text += data
        if self._open == "h2":
            self.headings[-1] += data
            self.order.append(f"heading: {data}")


def page(folder: Path, name: str) -> Page:
    return Page((folder / f"{name}.html").read_text(encoding="utf-8"))


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_every_track_has_a_page_with_its_verdict_in_words_and_why(written: Path) -> None:
    says = {
        "lead": (
            "Candidates: 1 lead",
            "threshold of 1.70, set so that 1 % of strangers' searches pass it",
        ),
        "unknown": ("Unknown", "Nobody in the gallery passes the threshold of 1.70"),
        "insufficient": (
            "Insufficient quality",
            "4 of 4 detections: fewer pixels between the eyes",
        ),
        "only sr": ("Candidates: 1 lead", "Only the reconstruction supports this"),
        "conditioned": ("Unknown", "is conditioned on subject"),
        "not searched": ("Not searched", "no gallery was searched"),
    }
    for kind, name in PAGES.items():
        text = " ".join(page(written, name).text.split())
        headline, why = says[kind]
        assert f"Track {name} {headline}" in text
        assert why in text


def test_sections_go_from_the_original_to_the_decisions(written: Path) -> None:
    assert page(written, PAGES["lead"]).headings == [
        "Times",
        "LR0: the best face, as the camera recorded it",
        "Classical enhancement",
        "Reconstruction",
        "Auxiliary faces",
        "Candidates",
        "How the results were made",
        "Decisions of reviewers",
        "Review by two people",
    ]


def test_every_reconstruction_stands_under_the_banner_and_none_outside(written: Path) -> None:
    for name in PAGES.values():
        order = page(written, name).order
        drawn = [
            i
            for i, part in enumerate(order)
            if "econstruction of track" in part or "disagree" in part
        ]
        if name == PAGES["insufficient"]:
            assert not drawn and "banner" not in order
            continue
        assert len(drawn) == 4  # mean, two samples, where they disagree
        assert order[drawn[0] - 2 : drawn[0]] == ["banner", "heading: Reconstruction"]
        assert drawn == list(range(drawn[0], drawn[0] + 4))
    assert not any("econstruction" in alt for alt in page(written, "index").alts)


def test_each_page_says_how_to_check_its_log_head(
    case: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = report_of(written)["log_head"]
    for path in written.glob("*.html"):
        assert (
            f"fasr-video verify CASE --head {head}" in Page(path.read_text(encoding="utf-8")).text
        )
    assert run_command(capsys, "verify", case, "--head", head)[0] == 0


def test_no_word_claims_too_much(written: Path) -> None:
    for path in (*written.glob("*.html"), written / "README.txt", ROOT / "docs" / "report.md"):
        text = Page(path.read_text(encoding="utf-8")).text.lower()
        assert [word for word in CLAIMS if word in text] == []


def test_names_are_escaped(written: Path) -> None:
    for path in written.glob("*.html"):
        assert "<script" not in path.read_text(encoding="utf-8")
    assert LEAD in page(written, PAGES["lead"]).text
    assert "/footage/<script>alert(1).mp4" in page(written, "index").text


def test_names_below_the_threshold_appear_only_on_the_tracks_own_page(
    written: Path,
) -> None:
    text = page(written, PAGES["lead"]).text
    assert text.index("Below the threshold: for information, no leads") < text.index(LOOKED_THROUGH)
    assert LOOKED_THROUGH not in page(written, "index").text
    rows = list(csv.DictReader(io.StringIO((written / "tracks.csv").read_text(encoding="utf-8"))))
    assert [r["name"] for r in rows if r["candidate"]] == [PAGES["lead"], PAGES["only sr"]]
    assert LOOKED_THROUGH not in {r["candidate"] for r in rows}
    for track in report_of(written)["tracks"]:
        for c in track["answer"]["joined"] if track["answer"] else ():
            assert c["passes"] == (c["subject"] == LEAD and track["state"] == "candidates")


def test_lead_of_the_reconstruction_alone_is_marked(written: Path) -> None:
    assert "only the reconstruction" in page(written, PAGES["only sr"]).text
    assert "only the reconstruction" not in page(written, PAGES["lead"]).text
    assert (written / "index.html").read_text(encoding="utf-8").count('class="chip synthetic"') == 1


def test_conditioned_reconstruction_names_its_subject(written: Path) -> None:
    text = page(written, PAGES["conditioned"]).text
    assert f"Conditioned on subject {LEAD}" in text and "was not used in the search" in text
    assert "Conditioned on" not in page(written, PAGES["lead"]).text


def test_without_a_calibration_nobody_passes_and_the_report_says_so(copy: Path) -> None:
    with Case.open(copy) as case:
        case.db.execute("UPDATE answer SET threshold = NULL, verdict = 'unknown' WHERE track = 1")
        case.db.execute("UPDATE candidate SET ratio = NULL, passes = 0 WHERE track = 1")
    text = page(write_report(copy), PAGES["lead"]).text
    assert "Its scores are not calibrated, so nobody can pass a threshold." in text
    assert "There is no threshold, because scores are raw: for information, no leads" in text
    assert "●" not in text and "Above the threshold" not in text


def test_times_of_day_carry_their_uncertainty(written: Path) -> None:
    text = " ".join(page(written, PAGES["unknown"]).text.split())
    assert "2026-03-01 14:03:00.480+01:00 to 2026-03-01 14:03:00.720+01:00" in text
    assert "± 2.5 s; the clock is from the file's path" in text and "Gate <1>" in text
    assert "no clock was given for this source" in page(written, PAGES["only sr"]).text
    first, *_, last = csv.DictReader(
        io.StringIO((written / "tracks.csv").read_text(encoding="utf-8"))
    )
    assert (
        first["wall_start"] == "2026-03-01 14:03:00.000+01:00"
        and first["wall_uncertainty_seconds"] == "2.5"
    )
    assert (last["wall_start"], last["camera"]) == ("", "")


def test_decisions_are_shown_separately_and_undone_ones_are_marked(written: Path) -> None:
    text = " ".join(page(written, PAGES["lead"]).text.split())
    assert f"R. Viewer: accepted {LEAD}" in text
    assert "by S. Second, 20" in text and "ears & chin" in text
    assert "No decisions yet." in page(written, PAGES["unknown"]).text
    rows = list(csv.DictReader(io.StringIO((written / "tracks.csv").read_text(encoding="utf-8"))))
    assert [r["decisions"] for r in rows] == [f"accepted {LEAD} by R. Viewer", "", "", "", "", ""]


def test_an_accepted_name_below_the_threshold_is_marked_everywhere(
    copy: Path,
) -> None:
    assert not json.loads(write_report(copy).joinpath("report.json").read_text())["tracks"][0][
        "decisions"
    ][0]["below_threshold"]
    decide(copy, 2, "accepted", LOOKED_THROUGH, by="R. Viewer")
    out = write_report(copy)
    words = f"{LOOKED_THROUGH} (below the threshold)"
    lines = list(csv.DictReader((out / "tracks.csv").open(newline="")))
    assert lines[1]["decisions"] == f"accepted {words} by R. Viewer"
    assert lines[0]["decisions"] == f"accepted {LEAD} by R. Viewer"
    for page in ("T2.html", "index.html"):
        assert html.escape(words) in (out / page).read_text()


def test_block_for_two_reviewers_is_blank(written: Path) -> None:
    html = (written / f"{PAGES['lead']}.html").read_text(encoding="utf-8")
    block = html[html.index('<section class="review"') :]
    assert (
        "Reviewer 1" in block and "Reviewer 2" in block and "Ears" in block and "Signature" in block
    )
    assert set(re.findall(r"<td>(.*?)</td>", block)) == {""}


def test_case_page_shows_sources_reasons_models_settings_and_log(written: Path) -> None:
    text, report = page(written, "index").text, report_of(written)
    for source in report["sources"]:
        assert source["sha256"] in text
    assert "fewer pixels between the eyes than the setting asks for" in text
    assert "research use" in text and "unknown here: ask whoever gave you the file" in text
    assert "min_eye_px" in text
    assert all(line["hash"] in text for line in report["log"])


def test_track_page_counts_its_faces_by_reason(written: Path) -> None:
    assert (
        "3\xa0auxiliary faces; 1\xa0best and most frontal face" in page(written, PAGES["lead"]).text
    )
    assert "4\xa0fewer pixels between the eyes" in page(written, PAGES["insufficient"]).text


def test_clusters_link_to_their_tracks(copy: Path) -> None:
    with Case.open(copy) as case:
        decide_link(case, propose_link(case, 1, 4), "accepted", "R. Viewer")
    html = (write_report(copy) / "index.html").read_text(encoding="utf-8")
    joined = html[html.index("Joined by reviewers") : html.index("Proposed, undecided")]
    assert (
        'href="T1.html"' in joined
        and 'href="S2-T1.html"' in joined
        and "accepted: 1 of 1" in joined
    )


def test_a_redacted_report_shows_nobody_but_the_tracks_own_faces(
    copy: Path, tmp_path: Path
) -> None:
    with Case.open(copy) as case:
        own = case.db.execute(
            "SELECT * FROM face WHERE id = (SELECT shown_face FROM track WHERE id = 1)"
        ).fetchone()
        crop = case.read_picture(own["native"])
        corner = (own["native_x"], own["native_y"])
        beside = {**dict(own), "id": 10**6, "track": None, "aligned": None, "native": None}
        beside |= {"x1": corner[0], "y1": corner[1], "x2": own["x1"], "y2": own["y1"]}
        names = ", ".join(f":{name}" for name in beside)
        case.db.execute(f"INSERT INTO face ({', '.join(beside)}) VALUES ({names})", beside)
    formats = ("html", "json", "folder")
    plain, redacted = (
        write_report(copy, tmp_path / str(r), formats, redact=r) for r in (False, True)
    )
    assert (report_of(plain)["redacted"], report_of(redacted)["redacted"]) == (False, True)
    for name in ("lr0_native", "lr0_canonical", "bicubic", "average"):
        one, other = (
            np.asarray(PilImage.open(f / "pictures" / f"T1_{name}.png")) for f in (plain, redacted)
        )
        assert one.shape == other.shape and not np.array_equal(one, other), name
        if name == "lr0_native":
            x1, y1 = int(own["x1"]) - corner[0], int(own["y1"]) - corner[1]
            assert np.array_equal(one, crop) and np.array_equal(one[y1:, x1:], other[y1:, x1:])
    images = [_webps((folder / "T1.html").read_text()) for folder in (plain, redacted)]
    assert len(images[0]) == len(images[1]) and not images[0] & images[1], (
        "thumbnails and photographs"
    )
    assert "The photographs are pixelated." in (redacted / "T1.html").read_text()
    with pytest.raises(UsageError, match="--redact"):
        write_report(copy, redact=True)


def test_every_picture_that_is_exported_says_what_it_is(written: Path) -> None:
    pictures = sorted((written / "pictures").iterdir())
    for path in pictures:
        with PilImage.open(path) as picture:
            metadata = json.loads(picture.info[NOTE])
            synthetic = "SYNTHETIC" in path.name
            assert metadata["what"].startswith("SYNTHETIC" if synthetic else "CAMERA PICTURE"), (
                path.name
            )
            assert is_synthetic(path.read_bytes()) == synthetic
            if path.stem.endswith("_native"):
                assert (
                    metadata["source"]["sha256"]
                    and metadata["frame"] >= 0
                    and metadata["case"]["log_head"]
                )
            elif not synthetic:
                assert metadata["processing"] and metadata["made_of"][0]["source"]["sha256"]
    assert len(pictures) > 20
    thumbnails = _webps((written / "index.html").read_text())
    for uri in thumbnails:
        with PilImage.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
            assert b"algorithmicallyEnhanced" in picture.info["xmp"]
    assert thumbnails


def _webps(html: str) -> set[str]:
    return set(re.findall(r"data:image/webp;base64,[^\"]+", html))


def test_json_holds_the_documented_fields_and_no_other(written: Path) -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    documented = {
        heading: set(re.findall(r"^\| `(\w+)`", part, re.MULTILINE))
        for heading, part in re.findall(
            r"^### (.+?)\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL
        )
    }
    report = report_of(written)
    assert report["schema"] == "fasr-video/report/1" and "`fasr-video/report/1`" in text
    assert set(report) == documented["The document"]
    faces = [f for t in report["tracks"] for f in (t["shown"], *t["auxiliaries"])]
    for heading, found in {
        "A track": report["tracks"],
        "A kept face": faces,
        "A reconstruction": [t["restoration"] for t in report["tracks"] if t["restoration"]],
        "An answer": [t["answer"] for t in report["tracks"] if t["answer"]],
        "A candidate of the joined list": [
            c for t in report["tracks"] if t["answer"] for c in t["answer"]["joined"]
        ],
        "A decision": [d for t in report["tracks"] for d in t["decisions"]],
        "A source": report["sources"],
        "A model": report["models"],
    }.items():
        assert found and all(set(x) == documented[heading] for x in found), heading


def test_weights_are_those_of_the_merged_feature() -> None:
    """Add a small own direction to each of several equal features; find it in the pooled one."""
    for merge, paired in ((FeatureCombiner(eta=0).combine, True), (mean, False)):
        for count in (1, 2, 4, 9):
            features = torch.zeros(count, 512)
            features[:, -1] = 1
            features[range(count), range(count)] = 1e-3
            merged = merge(features)
            assert (merged[:count] / 1e-3).tolist() == pytest.approx(
                shares(count, paired), rel=1e-3
            )
            assert sum(shares(count, paired)) == pytest.approx(1)


def test_track_page_shows_the_weights_of_the_pooled_feature(written: Path) -> None:
    track = report_of(written)["tracks"][0]
    assert [f["weight"] for f in (track["shown"], *track["auxiliaries"])] == [0.25] * 4
    assert page(written, PAGES["lead"]).text.count("25 %") == 4


def test_original_pictures_are_in_the_page_byte_for_byte(written: Path, case: Path) -> None:
    import base64

    html = (written / f"{PAGES['lead']}.html").read_text(encoding="utf-8")
    best_face = report_of(written)["tracks"][0]["shown"]
    original = base64.b64encode((case / best_face["native"]).read_bytes()).decode()
    assert html.count(original) == 2  # magnified, and 1:1
    assert hashlib.sha256((case / best_face["native"]).read_bytes()).hexdigest() in html


def test_photographs_can_be_left_out(case: Path, written: Path, tmp_path: Path) -> None:
    name = PAGES["lead"]
    assert sum(alt.startswith("Gallery photograph") for alt in page(written, name).alts) == 3
    plain = write_report(case, tmp_path / "plain", ("html",), with_photographs=False)
    assert not any(alt.startswith("Gallery photograph") for alt in page(plain, name).alts)
    assert "Photographs were left out of this report." in page(plain, name).text


def test_report_is_made_without_the_gallery(copy: Path) -> None:
    shutil.rmtree(copy / "gallery")
    parsed = page(write_report(copy), PAGES["lead"])
    assert "the gallery is not available" in parsed.text and LEAD in parsed.text
    assert not any(alt.startswith("Gallery photograph") for alt in parsed.alts)


def test_photographs_are_those_of_when_the_case_was_searched(copy: Path) -> None:
    def count_photographs() -> int:
        return sum(
            alt == f"Gallery photograph of candidate {LEAD}"
            for alt in page(write_report(copy), "T1").alts
        )

    assert count_photographs() == 1 and "has changed since" not in page(copy / "report", "T1").text
    face = AlignedFace(np.full((128, 128, 3), 99, np.uint8), None)
    with Gallery.open(copy / "gallery") as gallery:
        feature = np.eye(512, dtype=np.float32)[0]
        gallery.add(LEAD, EnrolledPhoto("9" * 64, "later.jpg", feature, 20.0, 50.0, 0.9, face))
    assert count_photographs() == 1, "the new one stands behind no answer"
    parsed = page(copy / "report", "T1").text
    assert (
        "later.jpg" not in parsed
        and "The gallery has changed since the case was searched." in parsed
    )


def test_folder_can_be_checked_and_its_pictures_told_apart(written: Path) -> None:
    lines = (written / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: sha256 for sha256, name in (line.split("  ", 1) for line in lines)}
    present = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()} - {
        "SHA256SUMS"
    }
    assert set(listed) == present
    for name, digest in listed.items():
        assert hashlib.sha256((written / name).read_bytes()).hexdigest() == digest
    pictures = {p.name for p in (written / "pictures").iterdir()}
    drawn = {"SYNTHETIC_mean", "SYNTHETIC_sample1", "SYNTHETIC_sample2", "SYNTHETIC_spread"}
    own = {
        "lr0_native",
        "lr0_canonical",
        "aux01_native",
        "aux02_native",
        "aux03_native",
        "bicubic",
        "average",
    }
    assert {p for p in pictures if p.startswith("T1_")} == {
        f"T1_{kind}.png" for kind in drawn | own
    }
    assert {p for p in pictures if p.startswith("T3_")} == {
        f"T3_{k}.png" for k in ("lr0_native", "lr0_canonical", "bicubic")
    }
    for kind in drawn:
        with PilImage.open(written / "pictures" / f"T1_{kind}.png") as picture:
            assert NOTE in picture.info


def refreshed(folder: Path) -> Path:
    index = refresh(folder)
    assert index is not None
    return index


def test_the_report_is_written_again_only_when_the_case_changed(copy: Path) -> None:
    first = refreshed(copy).stat().st_mtime_ns
    assert refreshed(copy).stat().st_mtime_ns == first
    decide(copy, 2, "insufficient", None, by="R. Viewer")
    assert refreshed(copy).stat().st_mtime_ns > first
    assert "insufficient" in page(copy / "report", PAGES["unknown"]).text


def test_an_interrupted_or_outdated_report_is_written_again(copy: Path) -> None:
    index = refreshed(copy)
    content = index.read_bytes()
    index.write_bytes(content[: len(content) // 2])
    assert refreshed(copy).read_bytes().endswith(b"</html>")
    decide(copy, 2, "insufficient", None, by="R. Viewer")
    write_report(copy, None, ("json",))
    refresh(copy)
    assert "R. Viewer: insufficient" in " ".join(
        page(copy / "report", PAGES["unknown"]).text.split()
    )


def test_pages_of_removed_tracks_are_deleted_and_other_files_are_kept(copy: Path) -> None:
    out = write_report(copy, None, ("html", "folder"))
    (out / "notes.txt").write_text("mine")
    with Case.open(copy) as case:
        case.db.execute("UPDATE track SET state = 'live' WHERE number = 3 AND source = 2")
    write_report(copy)
    assert not (out / "S2-T3.html").exists() and (out / "S2-T2.html").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "pictures" / "T1_lr0_native.png").exists()  # this format was not requested
    assert "S2-T3.html" not in (out / "SHA256SUMS").read_text(encoding="utf-8")


def test_folder_with_other_things_in_it_is_refused(case: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CaseError, match="it is not empty and holds no report"):
        write_report(case, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_a_signed_report_is_not_overwritten(case: Path, tmp_path: Path) -> None:
    make_signing_keys(tmp_path / "key")
    out = write_report(case, tmp_path / "handout", ["html"], redact=True)
    sign(out, tmp_path / "key")
    with pytest.raises(UsageError, match=r"signed \(handout.sha256 is beside it\)"):
        write_report(case, out)
    check_signature(out, tmp_path / "key.pub")


def test_altered_picture_is_not_shown(copy: Path) -> None:
    picture = report_of(write_report(copy))["tracks"][0]["shown"]["native"]
    PilImage.new("RGB", (48, 60)).save(copy / picture)
    with pytest.raises(IntegrityError, match="it was changed"):
        write_report(copy)
    (copy / picture).unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        write_report(copy)


@pytest.mark.slow
def test_pdf_holds_the_text_of_case_and_tracks(tmp_path: Path) -> None:
    pytest.importorskip(
        "weasyprint", reason="the extra `report` is not installed", exc_type=ImportError
    )
    small = make_synthetic_case(tmp_path / "case", tracks=1)
    text = pdf_text((write_report(small, tmp_path / "pdf", ("pdf",)) / "report.pdf").read_bytes())
    for sentence in (
        "Track T1",
        "Candidates: 1 lead",
        "Synthetic reconstruction: a lead",
        "Review by two people",
        LEAD,
    ):
        assert "".join(sentence.split()) in text
    assert [p.name for p in sorted((tmp_path / "pdf").iterdir())] == ["SHA256SUMS", "report.pdf"]


def pdf_text(data: bytes) -> str:
    """Return the letters on the pages, without spaces, by the glyph maps that PDF readers use."""
    streams = []
    for found in re.finditer(rb"stream\r?\n", data):
        try:
            streams.append(zlib.decompressobj().decompress(data[found.end() :]))
        except zlib.error:
            continue
    maps = [
        dict(re.findall(rb"<([0-9a-f]+)> <([0-9a-f]+)>", s)) for s in streams if b"beginbfchar" in s
    ]
    drawn = [
        b"".join(re.findall(rb"<([0-9a-f]+)>", s)) for s in streams if b" Tf" in s and b"BT" in s
    ]
    texts = []
    for glyphs in maps:  # one font at a time, without glyphs of others
        letters = {
            code: bytes.fromhex(to.decode()).decode("utf-16-be") for code, to in glyphs.items()
        }
        for line in drawn:
            codes = [line[i : i + 4] for i in range(0, len(line), 4)]
            texts.append("".join(letters.get(c, "") for c in codes))
    return "".join("\n".join(texts).split(" "))


def test_missing_weasyprint_is_one_line_and_nothing_is_written(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fasr-video\[report\]'"):
        write_report(case, tmp_path / "out", ("pdf",))
    assert not (tmp_path / "out").exists()


def test_command_writes_the_formats_asked_for(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        run_command(capsys, "report", case, "--out", out, "--format", "json", "--format", "csv")[0]
        == 0
    )
    assert {p.name for p in out.iterdir()} == {"report.json", "tracks.csv", "SHA256SUMS"}
    code, printed, error = run_command(capsys, "report", tmp_path)
    assert code == 2 and "no case here" in error
    assert len((printed + error).splitlines()) == 1


def test_run_ends_with_a_report(
    entrance: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--fps", 2, "--set", "track.min_sightings=2", "--set", "restore.method=bicubic"]
    folder = tmp_path / "case"
    assert run_command(capsys, "run", entrance, *quick, "--out", folder, "--no-report")[0] == 0
    assert not (folder / "report").exists()
    code, printed, _ = run_command(capsys, "run", entrance, *quick, "--out", folder)
    assert code == 0 and f"open it: {folder}/report/index.html" in printed
    assert "Track T1" in page(folder / "report", "T1").text
    written = (folder / "report" / "index.html").stat().st_mtime_ns
    _, printed, _ = run_command(capsys, "run", entrance, *quick, "--out", folder, "--json")
    assert json.loads(printed.splitlines()[-1])["report"] == str(folder / "report" / "index.html")
    assert (folder / "report" / "index.html").stat().st_mtime_ns == written


def test_a_track_without_a_reconstruction_says_so(copy: Path) -> None:
    with sqlite3.connect(copy / DATABASE) as db:
        db.execute("DELETE FROM restoration")
        db.execute("DELETE FROM probe WHERE kind = 'sr'")
        models = json.loads(db.execute("SELECT models FROM encoding").fetchone()[0]) | {
            "restorer": None
        }
        db.execute("UPDATE encoding SET models = ?", (json.dumps(models),))
    page = (write_report(copy) / "T1.html").read_text(encoding="utf-8")
    assert "no reconstruction" in Page(page).text and "Synthetic" not in Page(page).text


def test_a_folder_with_foreign_sha256sums_is_left_alone(case: Path, tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  disk.iso\n")
    with pytest.raises(CaseError, match="belongs to something else"):
        write_report(case, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["SHA256SUMS"] and "disk.iso" in sums.read_text()


def test_a_corrected_clock_is_shown_with_what_the_camera_showed(tmp_path: Path) -> None:
    folder = make_synthetic_case(tmp_path / "case")
    clock: StatedClock = {
        "start": "2026-03-01T14:00:00+01:00",
        "uncertainty_seconds": 2.0,
        "from": "csv",
        "shown": "2026-03-01T13:58:30+01:00",
        "offset_seconds": -90,
        "drift_seconds_a_day": 0,
    }
    with Case.open(folder) as case:
        set_recording(case, 1, Recording("Yard", clock))
    page = html.unescape((write_report(folder) / "index.html").read_text())
    assert page.count("; the camera showed 2026-03-01T13:58:30+01:00, 90 s behind") == 1


def test_a_report_with_a_missing_page_is_written_again(tmp_path: Path) -> None:
    folder = make_synthetic_case(tmp_path / "case")
    refresh(folder)
    (folder / "report" / "T2.html").unlink()
    refresh(folder)
    assert (folder / "report" / "T2.html").is_file()


@pytest.mark.parametrize(
    ("drawn", "name", "says"),
    [
        (("fasr++", "dpmpp-4", "f", 2), "Mean of 2 samples", "disagree by 4.0 %"),
        (("fasr", "dpmpp-4", "f", 1), "One sample", "cannot say how sure"),
        (("mean", "", "f", 1), "Posterior mean", "average of all faces"),
        (("bicubic", "", "", 1), "Enlarged by bicubic", "No network drew it"),
    ],
)
def test_a_picture_is_named_by_its_method(
    drawn: tuple[str, str, str, int], name: str, says: str
) -> None:
    method, sampler, model, count = drawn
    restoration = RestorationEntry(
        method=method,
        sampler=sampler,
        calls=0,
        seed=0,
        model=model,
        feature="own",
        warnings=(),
        attributes=(),
        conditioned_on="",
        what="",
        disagreement=0.04,
        picture="picture",
        spread=None,
        samples=["picture"] * count,
    )
    assert picture_name(restoration).startswith(name)
    assert says in certainty_note(restoration)
