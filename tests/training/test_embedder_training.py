"""The embedder's trainer and its teacher: what is read, drawn and learned, and runs that
resume.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from torch.nn import functional as F

from fasr_video.datasets.faces import Faces, read_faces
from fasr_video.errors import ModelError, UsageError
from fasr_video.recognition.align import eyes_and_mouth, to_canonical
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.recognition.network import LENGTH
from fasr_video.recognition.openvino_ir import IrNet
from fasr_video.training import embedder as training
from fasr_video.training.embedder import (
    Material,
    gather,
    lift,
    make_batch,
    train_embedder,
    with_rim,
)
from fasr_video.training.loop import Plan, Progress
from fasr_video.training.scene_faces import cut_scenes
from fasr_video.training.teacher import MAPS, Teacher, merged
from tests.support.ir_files import IrWriter, write_teacher
from tests.support.scenes import ASTRONAUT, write_scenes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def xml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.xml")


@pytest.fixture(scope="module")
def teacher(xml: Path) -> Teacher:
    return Teacher(xml, CPU)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """Six people, two smooth pictures each."""
    root = tmp_path_factory.mktemp("faces")
    generator = torch.Generator().manual_seed(0)
    for person in range(6):
        (root / f"p{person}").mkdir()
        for photo in range(2):
            soft = F.interpolate(
                torch.rand(1, 3, 6, 6, generator=generator), 144, mode="bicubic"
            ).clamp(0, 1)
            picture = (soft[0].permute(1, 2, 0) * 255).numpy().astype(np.uint8)
            Image.fromarray(picture).save(root / f"p{person}" / f"{photo}.png")
    return read_faces([root])[0]


@pytest.fixture(scope="module")
def material(faces: Faces, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Material:
    gathered = gather(
        faces,
        None,
        None,
        teacher,
        out=tmp_path_factory.mktemp("run"),
        report_progress=lambda *_: None,
    )
    empty = torch.randint(0, 256, (3, 3, 144, 144), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    return replace(gathered, empty=empty)


# -------------------------------------------------------------------------------------- the teacher


def test_a_network_in_the_old_format_computes_its_layers(tmp_path: Path) -> None:
    ir = IrWriter(3)
    given = ir.add("Input", [], (1, 3, 8, 8))
    ir.prelu(ir.convolution(given, 4, 3, 2))
    net = IrNet(ir.write(tmp_path / "net.xml"))
    x = torch.randn(2, 3, 8, 8)
    weights, biases = net.get_buffer("weights_1").view(4, 3, 3, 3), net.get_buffer("biases_1")
    expected = F.prelu(F.conv2d(x, weights, biases, 2, 1), torch.full((4,), 0.25))
    assert torch.allclose(net(x)[0], expected, atol=1e-6)


def test_gradients_pass_through_it(xml: Path) -> None:
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    IrNet(xml)(x * 255)[0].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_torch_and_openvino_compute_the_same_teacher(xml: Path, teacher: Teacher) -> None:
    pytest.importorskip("openvino")
    faces = torch.rand(3, 3, 128, 128)
    plain = Teacher(xml, CPU)
    plain._compiled = None
    (vectors, maps), (expected, wanted) = teacher(faces), plain(faces)
    assert torch.allclose(vectors, expected, atol=1e-3 * float(expected.abs().max()))
    assert tuple(m.shape[1:] for m in maps) == MAPS
    for a, b in zip(maps, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-3 * float(b.abs().max()))


def test_a_face_and_its_mirror_image_have_one_vector(teacher: Teacher) -> None:
    faces = torch.rand(2, 3, 128, 128)
    assert torch.allclose(teacher.vectors(faces), teacher.vectors(faces.flip(3)), atol=1e-4)
    assert torch.allclose(merged(torch.eye(2), torch.eye(2)), torch.eye(2))


@pytest.mark.parametrize("damage", ["no bin", "cut bin", "no xml", "other layer", "other length"])
def test_a_file_that_is_no_teacher_gives_a_clear_error(
    damage: str, xml: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "teacher.xml"
    if damage == "other length":
        write_teacher(copy, vectors=64)
    else:
        shutil.copy(xml, copy)
        shutil.copy(xml.with_suffix(".bin"), copy.with_suffix(".bin"))
    if damage == "no bin":
        copy.with_suffix(".bin").unlink()
    elif damage == "cut bin":
        copy.with_suffix(".bin").write_bytes(b"short")
    elif damage == "no xml":
        copy.write_text("<net")
    elif damage == "other layer":
        copy.write_text(copy.read_text().replace("PReLU", "Magic"))
    with pytest.raises(ModelError):
        Teacher(copy, CPU)


# ------------------------------------------------------------------------------------ what is drawn


def test_longer_vectors_keep_the_teachers_cosines() -> None:
    turn = lift()
    assert turn.shape == (LENGTH, 256)
    assert torch.allclose(turn.T @ turn, torch.eye(256), atol=1e-5)


def test_a_missing_rim_is_repeated_from_the_edge() -> None:
    bare = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    framed = with_rim(bare)
    assert torch.equal(framed[..., 8:136, 8:136], bare)
    assert torch.equal(framed[..., 0, 8:136], bare[..., 0, :])
    assert with_rim(framed) is framed
    with pytest.raises(UsageError, match="100 px"):
        with_rim(bare[..., :100, :100])


def test_the_target_of_a_poor_face_is_the_clean_faces_vector(
    material: Material, teacher: Teacher
) -> None:
    batch = make_batch(material, teacher, 6, torch.Generator().manual_seed(0), blocks=False)
    assert batch.clean == 12 and batch.poor == 12 * training.POOR
    assert len(batch.pictures) == batch.clean + batch.poor + training.EMPTY
    poor = batch.targets[batch.clean : batch.clean + batch.poor]
    distance = (poor[:, None] - material.vectors[None]).square().sum(2).min(1)
    assert float(distance.values.max()) < 1e-6
    rows = material.person[distance.indices]
    assert torch.equal(batch.person[batch.clean : batch.clean + batch.poor], rows)
    assert (
        not batch.targets[-training.EMPTY :].any() and (batch.person[-training.EMPTY :] == -1).all()
    )


def test_mixed_faces_have_the_teachers_vectors_and_no_person(
    material: Material, teacher: Teacher
) -> None:
    batch = make_batch(material, teacher, 6, torch.Generator().manual_seed(0), blocks=False)
    mixed = round(training.MIXED * 6)
    assert mixed == 2 and (batch.person[:mixed] == -1).all() and (batch.person[mixed:6] >= 0).all()
    assert torch.equal(batch.pictures[:6].flip(3), batch.pictures[6:12])
    vectors, maps = teacher(batch.pictures[:12])
    assert torch.allclose(batch.targets[:6], merged(vectors[:6], vectors[6:]) @ lift().T, atol=1e-4)
    expected = material.scales.standard(maps, training.STAGE_ENDS)
    for actual, wanted in zip(batch.maps, expected, strict=True):
        assert torch.allclose(actual, wanted, atol=1e-3)


def test_maps_have_a_mean_of_zero_and_a_variance_of_one_where_a_stage_ends(
    material: Material, teacher: Teacher
) -> None:
    pictures = material.pictures[:, :, 8:136, 8:136].float() / 255
    for values in material.scales.standard(teacher(pictures)[1], training.STAGE_ENDS):
        assert torch.allclose(values.mean((0, 2, 3)), torch.zeros(values.shape[1]), atol=1e-3)
        assert torch.allclose(values.var((0, 2, 3)), torch.ones(values.shape[1]), atol=1e-3)


def test_each_block_learns_the_teachers_map_from_the_one_before(
    material: Material, teacher: Teacher
) -> None:
    batch = make_batch(material, teacher, 4, torch.Generator().manual_seed(0), blocks=True)
    assert batch.clean == 8 and batch.poor == 0 and len(batch.maps) == len(MAPS)
    trainee = training.Trainee()
    _, own = trainee(batch.pictures, batch.maps)
    block = trainee.embedder.blocks[3]
    assert torch.allclose(own[3], block(batch.maps[2]), atol=1e-5)


def test_each_kind_of_face_has_its_share_and_a_missing_kind_is_replaced(
    material: Material,
) -> None:
    pictures = material.pictures[:1].expand(10, -1, -1, -1)
    person = torch.tensor([0] * 4 + [1] * 3 + [-1] * 3)
    none = torch.zeros(10, LENGTH)
    uneven = replace(
        material, pictures=pictures, person=person, vectors=none, centres=none[:2], ends=(4, 7)
    )
    rows = training.draw_rows(uneven, 4000, torch.Generator().manual_seed(0))
    shares = [
        float(((rows >= low) & (rows < high)).float().mean())
        for low, high in ((0, 4), (4, 7), (7, 10))
    ]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    alone = training.draw_rows(material, 200, torch.Generator().manual_seed(0))
    assert set(alone.tolist()) == set(range(12))


def test_faces_of_scenes_are_in_the_canonical_frame(tmp_path: Path) -> None:
    faces, empty = cut_scenes(write_scenes(tmp_path) / "scenes")
    assert faces.shape == (1, 3, 144, 144) and len(empty) >= 3
    ours = faces[0, :, 8:136, 8:136].permute(1, 2, 0).numpy().astype(float)
    expected = to_canonical(astronaut(), eyes_and_mouth(ASTRONAUT)).astype(float)
    assert np.abs(ours - expected).mean() < 6


# ----------------------------------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [True, False])
def test_a_run_lowers_its_loss_resumes_and_writes_weights_that_load(
    blocks: bool, material: Material, teacher: Teacher, tmp_path: Path
) -> None:
    progress: list[Progress] = []

    def run(seconds: float) -> int:
        plan = Plan(
            steps=12,
            lr=5e-3,
            warmup=2,
            ema=0.5,
            log_every=4,
            seconds=seconds,
            bf16=False,
            muon=True,
        )
        return train_embedder(
            material, teacher, tmp_path, plan, batch=3, report=progress.append, blocks=blocks
        )

    assert run(0) == 0
    assert run(1e9) == 12
    assert progress[-1].terms["loss"] < progress[0].terms["loss"]
    assert (
        {"early", "late"} <= progress[0].terms.keys()
        if blocks
        else {"clean", "poor"} <= progress[0].terms.keys()
    )
    unit, norms = BuiltinEmbedder(tmp_path / "embedder.safetensors").embed(
        torch.rand(2, 3, 128, 128)
    )
    assert unit.shape == (2, LENGTH) and norms.isfinite().all()


def test_the_teachers_vectors_are_computed_once(
    faces: Faces, teacher: Teacher, tmp_path: Path
) -> None:
    calls: list[int] = []
    first = gather(
        faces, None, None, teacher, out=tmp_path, report_progress=lambda done, _: calls.append(done)
    )
    second = gather(
        faces, None, None, teacher, out=tmp_path, report_progress=lambda done, _: calls.append(done)
    )
    assert calls == [12] and torch.equal(first.vectors, second.vectors)
    assert first.person.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    few = Faces(faces.pictures[:4], faces.paths[:4])
    with pytest.raises(UsageError, match="made of other faces"):
        gather(few, None, None, teacher, out=tmp_path, report_progress=lambda *_: None)


def test_people_with_one_photograph_are_people_of_their_own(
    faces: Faces, teacher: Teacher, tmp_path: Path
) -> None:
    few = Faces(faces.pictures[:4], faces.paths[:4])
    single = Faces(faces.pictures[4:6], ("x/4.png", "x/5.png"))
    material = gather(few, single, None, teacher, out=tmp_path, report_progress=lambda *_: None)
    assert material.person.tolist() == [0, 0, 1, 1, 2, 3] and material.ends == (4, 6)
    assert torch.allclose(material.centres[2:], material.vectors[4:], atol=1e-6)
