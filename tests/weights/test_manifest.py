"""The bundled weights are what the manifest says, and each loads for its own contract alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fasr_video.checkpoint import contract_of, read_metadata
from fasr_video.detection import network as detection
from fasr_video.detection import open_detector
from fasr_video.detection.builtin import BuiltinDetector
from fasr_video.errors import ModelError
from fasr_video.files import sha256_file
from fasr_video.gallery.calibration import FORMAT as CALIBRATION
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.encoder import make_encoder
from fasr_video.recognition import combiner as merging
from fasr_video.recognition import network as recognition
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr import checkpoints
from fasr_video.sr.guidance import STRENGTH, open_guidance
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import load_models
from fasr_video.sr.weights import ATTRIBUTES_FORMAT
from fasr_video.sr.weights import FORMAT as DENOISER
from fasr_video.training.detector import save_detector
from fasr_video.training.embedder import save_embedder
from fasr_video.weights import manifest
from tests.support.commands import run_command
from tests.support.paths import PORTRAITS, ROOT

ENTRIES = manifest.read_manifest()
NAMES = sorted(ENTRIES)
EMBEDDER, DETECTOR = "embedder.safetensors", "detector.safetensors"

Capture = pytest.CaptureFixture[str]


# --- what is bundled ---------------------------------------------------------------------------


def test_the_manifest_names_every_bundled_file_and_no_other() -> None:
    files = {path.name for path in manifest.BUNDLED.iterdir() if path.is_file()}
    assert files - {manifest.MANIFEST, "__init__.py", "manifest.py"} == set(ENTRIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_file_has_its_hash_and_is_small(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.sha256 == sha256_file(entry.path)
    assert entry.path.stat().st_size < 25e6
    assert manifest.bundled(name) == entry.path


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete_and_refers_to_a_section_of_the_docs(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.what and entry.data and entry.training
    assert re.fullmatch(r"[a-z]+/\d+: .+ -> .+", entry.contract)
    assert entry.licence.startswith("research use: ")
    assert set(entry.needs) <= set(ENTRIES) - {name}
    page, anchor = entry.card.split("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(".safetensors")])
def test_a_header_names_the_contract_of_the_manifest(name: str) -> None:
    assert (
        contract_of(manifest.bundled(name)) == f"fasr-video/{ENTRIES[name].contract.split(': ')[0]}"
    )


def test_contracts_are_those_of_the_code() -> None:
    contracts = {name: f"fasr-video/{entry.contract}" for name, entry in ENTRIES.items()}
    assert contracts[DETECTOR] == f"{detection.FORMAT}: {detection.CONTRACT}"
    assert contracts[EMBEDDER] == f"{recognition.FORMAT}: {recognition.CONTRACT}"
    assert contracts["combiner.safetensors"].startswith(f"{merging.FORMAT}: ")
    assert contracts["sr.safetensors"].startswith(f"{DENOISER}: ")
    assert contracts["calibration.json"].startswith(f"{CALIBRATION}: ")


def test_files_were_made_with_those_that_they_need() -> None:
    sha256 = {name: e.sha256 for name, e in ENTRIES.items()}
    combiner = merging.load_combiner(manifest.bundled("combiner.safetensors"))
    assert ENTRIES["combiner.safetensors"].needs == (EMBEDDER,)
    assert combiner.source.sha256 == sha256[EMBEDDER]
    assert set(ENTRIES["sr.safetensors"].needs) == {
        EMBEDDER,
        "combiner.safetensors",
        "mean.safetensors",
    }
    assert checkpoints.load(manifest.bundled("sr.safetensors")).embedder == sha256[EMBEDDER]
    assert ENTRIES["calibration.json"].needs == (EMBEDDER, "combiner.safetensors")
    facts = Calibration.load(manifest.bundled("calibration.json")).provenance
    assert facts["embedder"] == sha256[EMBEDDER] and facts["restorer"] is None
    assert facts["pooled_by"] == merging.fingerprint(combiner)


# --- damage ------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundled weights of the test's own, in place of those in the package."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in (*NAMES, manifest.MANIFEST):
        (folder / name).symlink_to(manifest.BUNDLED / name)
    monkeypatch.setattr(manifest, "BUNDLED", folder)
    return folder


def alter(file: Path) -> None:
    """Flip one bit of the last byte, in a copy of the file that is linked."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


def replace_link(file: Path) -> Path:
    """Put the file itself in place of the link to it."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_the_error_about_an_altered_file_names_both_hashes(name: str, copy: Path) -> None:
    alter(copy / name)
    with pytest.raises(ModelError) as caught:
        manifest.bundled(name)
    message = str(caught.value)
    assert message.startswith(f"{copy / name}: it was altered")
    assert "install fasr-video again" in message
    assert ENTRIES[name].sha256[:12] in message and sha256_file(copy / name)[:12] in message


@pytest.mark.parametrize("name", NAMES)
def test_the_error_about_a_missing_file_names_its_hash(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError) as caught:
        manifest.bundled(name)
    message = str(caught.value)
    assert message.startswith(f"{copy / name}: it is missing")
    assert "install fasr-video again" in message
    assert ENTRIES[name].sha256[:12] in message


def test_a_file_is_hashed_again_after_it_changed(copy: Path) -> None:
    manifest.bundled("calibration.json")
    alter(copy / "calibration.json")
    with pytest.raises(ModelError, match="altered"):
        manifest.bundled("calibration.json")


CPU = torch.device("cpu")
DEFAULTS: dict[str, tuple[str, Callable[[], object]]] = {
    "detector": (
        DETECTOR,
        lambda: open_detector("builtin", weights=None, device="cpu", min_score=0.5),
    ),
    "embedder": (EMBEDDER, BuiltinEmbedder),
    "combiner of fasr++": (
        "combiner.safetensors",
        lambda: load_models(METHODS["fasr++"], ModelFiles(), CPU),
    ),
    "combiner of a gallery": (
        "combiner.safetensors",
        lambda: make_encoder(BuiltinEmbedder(), None, 1),
    ),
    "super-resolution": (
        "sr.safetensors",
        lambda: load_models(METHODS["sde-sr-ve"], ModelFiles(), CPU),
    ),
    "attributes": ("attributes.safetensors", lambda: open_guidance((), STRENGTH, CPU)),
}


@pytest.mark.parametrize("which", DEFAULTS)
def test_an_altered_file_is_never_loaded_by_default(which: str, copy: Path) -> None:
    name, load = DEFAULTS[which]
    alter(copy / name)
    with pytest.raises(ModelError, match=f"{name}: it was altered"):
        load()


def test_an_altered_calibration_stops_a_search(
    copy: Path, entrance: Path, tmp_path: Path, capsys: Capture
) -> None:
    alter(copy / "calibration.json")
    gallery = PORTRAITS / "mugshots"
    code, _, err = run_command(
        capsys, "run", entrance, "--gallery", gallery, "--out", tmp_path / "case"
    )
    assert (
        code == 2
        and "calibration.json: it was altered" in err
        and len(err.strip().splitlines()) == 1
    )


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"file": "a"}]'])
def test_a_damaged_manifest_is_reported_in_one_line(content: str, copy: Path) -> None:
    replace_link(copy / manifest.MANIFEST).write_text(content)
    with pytest.raises(
        ModelError, match=rf"{manifest.MANIFEST}: (the manifest is damaged|it does not name)"
    ):
        manifest.bundled(EMBEDDER)


# --- the commands ------------------------------------------------------------------------------


def test_models_shows_the_bundled_weights(capsys: Capture) -> None:
    code, out, err = run_command(capsys, "models", columns=1000)
    assert (code, err) == (0, "")
    for e in ENTRIES.values():
        assert all(
            part in out for part in (e.file, e.what, e.contract, e.data, e.licence, e.sha256[:12])
        )
    assert out.count(" ok ") == len(ENTRIES) and "altered" not in out and "missing" not in out


def test_models_as_json_is_the_manifest_with_states(capsys: Capture) -> None:
    code, out, _ = run_command(capsys, "models", "--json")
    expected = json.loads((manifest.BUNDLED / manifest.MANIFEST).read_text(encoding="utf-8"))
    assert code == 0 and json.loads(out) == [entry | {"state": "ok"} for entry in expected]


def test_models_exits_with_four_if_bundled_files_are_damaged(copy: Path, capsys: Capture) -> None:
    alter(copy / "calibration.json")
    (copy / DETECTOR).unlink()
    code, out, err = run_command(capsys, "models")
    assert code == 4 and "altered" in out and "missing" in out
    assert "install fasr-video again" in err and len(err.splitlines()) == 1
    code, out, _ = run_command(capsys, "models", "--json")
    states = {e["file"]: e["state"] for e in json.loads(out)}
    assert code == 4 and states == dict.fromkeys(NAMES, "ok") | {
        "calibration.json": "altered",
        DETECTOR: "missing",
    }


def test_doctor_reports_damaged_bundled_files(copy: Path, capsys: Capture) -> None:
    alter(copy / "calibration.json")
    code, out, _ = run_command(capsys, "doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(out)}
    assert code == 0 and findings["bundled calibration of scores"]["state"] == "altered"
    summary = findings["bundled weights"]
    assert summary["state"].startswith(f"incomplete: 1 of {len(NAMES)} files")
    assert "install fasr-video again" in summary["remedy"]


# --- after training ----------------------------------------------------------------------------


def test_refresh_updates_the_hashes_and_reports_each_change(copy: Path) -> None:
    before = replace_link(copy / manifest.MANIFEST).read_bytes()
    assert manifest.refresh() == [] and (copy / manifest.MANIFEST).read_bytes() == before
    alter(copy / "combiner.safetensors")
    (line,) = manifest.refresh()
    old = ENTRIES["combiner.safetensors"].sha256[:12]
    new = sha256_file(copy / "combiner.safetensors")[:12]
    assert line.startswith(f"combiner.safetensors: {old}… is now {new}…")
    assert "calibration.json" in line
    assert manifest.bundled("combiner.safetensors") == copy / "combiner.safetensors"
    changed = {n for n, e in manifest.read_manifest().items() if e != ENTRIES[n]}
    assert changed == {"combiner.safetensors"}


def test_refresh_refuses_unknown_and_missing_files(copy: Path) -> None:
    before = replace_link(copy / manifest.MANIFEST).read_bytes()
    save_file({"a": torch.zeros(1)}, copy / "stray.safetensors")
    with pytest.raises(ModelError, match=r"no entry for stray\.safetensors"):
        manifest.refresh()
    (copy / "stray.safetensors").unlink()
    (copy / EMBEDDER).unlink()
    with pytest.raises(ModelError, match=f"{EMBEDDER}: it is missing"):
        manifest.refresh()
    assert (copy / manifest.MANIFEST).read_bytes() == before


def test_reading_the_manifest_does_not_load_torch() -> None:
    code = (
        "import sys, fasr_video.weights.manifest as b;"
        " b.bundled('calibration.json'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# --- contracts ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each of our contracts; the embedder as its trainer writes it."""
    embedder = tmp_path_factory.mktemp("contracts") / EMBEDDER
    save_embedder(recognition.EmbedderNet().state_dict(), embedder)
    return {
        detection.FORMAT: manifest.bundled(DETECTOR),
        recognition.FORMAT: embedder,
        merging.FORMAT: manifest.bundled("combiner.safetensors"),
        DENOISER: manifest.bundled("sr.safetensors"),
        ATTRIBUTES_FORMAT: manifest.bundled("attributes.safetensors"),
    }


LOADERS: dict[str, Callable[[Path], object]] = {
    detection.FORMAT: lambda path: BuiltinDetector(path, 0.5, "cpu"),
    recognition.FORMAT: BuiltinEmbedder,
    merging.FORMAT: merging.load_combiner,
    DENOISER: checkpoints.load,
    ATTRIBUTES_FORMAT: checkpoints.load_attribute_classifier,
}


@pytest.mark.parametrize("given", LOADERS)
@pytest.mark.parametrize("wanted", LOADERS)
def test_a_model_loads_for_its_own_contract_alone(
    wanted: str, given: str, ours: dict[str, Path]
) -> None:
    if given == wanted:
        assert LOADERS[wanted](ours[given])
        return
    with pytest.raises(ModelError) as caught:
        LOADERS[wanted](ours[given])
    assert str(caught.value).startswith(
        f"{ours[given]}: its header names the contract {given}, but {wanted} is needed; "
    )


def test_a_later_version_of_a_contract_is_another_one(tmp_path: Path) -> None:
    tensors, file = load_file(manifest.bundled(DETECTOR)), tmp_path / "detector.safetensors"
    save_file(tensors, file, {"fasr-video/detector/2": "as above, but BGR"})
    with pytest.raises(
        ModelError, match="contract fasr-video/detector/2, but fasr-video/detector/1 is needed"
    ):
        BuiltinDetector(file, 0.5, "cpu")


def test_files_without_a_header_still_load(ours: dict[str, Path], tmp_path: Path) -> None:
    for contract in (detection.FORMAT, recognition.FORMAT):
        bare = tmp_path / "bare.safetensors"
        save_file(load_file(ours[contract]), bare)
        assert contract_of(bare) is None and LOADERS[contract](bare)


@pytest.mark.parametrize(
    ("save", "net", "room"),
    [
        (save_detector, detection.DetectorNet, detection),
        (save_embedder, recognition.EmbedderNet, recognition),
    ],
    ids=["detector", "embedder"],
)
def test_trainers_write_the_contract_and_equal_weights_give_equal_files(
    save: Callable[..., None], net: Callable[[], torch.nn.Module], room: object, tmp_path: Path
) -> None:
    state = net().state_dict()
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file in files:
        save(state, file)
    contract, text = room.FORMAT, room.CONTRACT  # type: ignore[attr-defined]
    assert read_metadata(files[0]) == {contract: text} and contract_of(files[0]) == contract
    assert files[0].read_bytes() == files[1].read_bytes()
    assert load_file(files[0]).keys() == state.keys()
