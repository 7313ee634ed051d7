"""Distilling: what the student learns is what its teacher does, runs resume, a student ships as one file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.bundle import read_bundle
from model.engine import Engine
from model.params import GenerationParams
from model.training.distill_trainer import (
    DistillConfig,
    open_pool,
    read_prompts,
    split_prompts,
    train_distill,
)
from model.training.student_bundle import write_student_bundle
from model.training.trajectories import Teacher, follow, one_forward, segments
from model.weights import load_bundle
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.trainer_runs import StopAfter, be_quiet, losses_of


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny teacher and the captions of a dataset; distilling looks at no picture."""
    folder = tmp_path_factory.mktemp("distill")
    write_tiny_bundle(folder / "teacher", default_steps=7, stages=(1, 1, 1))
    parts = folder / "world" / "captions.parts"
    parts.mkdir(parents=True)
    scene = {"kind": "single_object", "objects": [], "background": "red", "relation": None, "is_held_out": False}
    captions = [f"a photo of {count} apples" for count in ("one", "two", "three", "four", "four", "five")]
    lines = [json.dumps({"caption": caption, **scene}) for caption in captions]
    (parts / "000000.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def config(home, tmp_path):
    return DistillConfig(
        home / "teacher",
        home / "world",
        tmp_path / "out",
        num_substeps=2,
        chunk_rows=2,
        window=2,
        uses=1,
        num_compared=1,
        batch_size=3,
        max_steps=5,
        warmup_steps=1,
        num_threads=1,
        report_every=1,
        checkpoint_every=100,
        device="cpu",
    )


def errors_of(lines):
    return [float(line.split("latent error ")[1].split(",")[0]) for line in lines if "latent error" in line]


def teacher_of(home, guidance, num_substeps):
    model = load_bundle(read_bundle(home / "teacher"))
    return Teacher(model.transformer, model.text.encode([""])[0], guidance, num_substeps), model


def test_the_students_segments_are_the_services_steps_without_the_last_of_several():
    assert [round(start, 3) for start, _ in segments(4)] == [1.0, 0.667, 0.334]
    assert segments(4)[-1][1] == pytest.approx(0.001)
    assert segments(1) == ((1.0, 0.0),)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_a_teacher_that_follows_its_average_velocity_draws_what_the_service_draws(home, guidance):
    teacher, model = teacher_of(home, guidance, num_substeps=2)
    engine = Engine(model, torch.device("cpu"), torch.float32)
    samples = engine.begin(
        [GenerationParams("two apples", 64, 64, 7, guidance, seed, exact_schedule=True) for seed in (1, 2)]
    )
    noise = torch.stack([sample.latents for sample in samples])
    for _ in range(6):
        engine.step(samples)
    states, _ = follow(teacher.average_velocity, noise, model.text.encode(["two apples"] * 2), segments(4))
    torch.testing.assert_close(states[-1], torch.stack([sample.latents for sample in samples]), rtol=1e-4, atol=1e-4)


def test_later_chunks_begin_where_the_student_arrives_and_hold_what_the_teacher_does_from_there(config):
    bundle = read_bundle(config.teacher)
    model = load_bundle(bundle)
    pool = open_pool(config, bundle, model, read_prompts(model, config.dataset))
    student = load_bundle(bundle).transformer
    with torch.no_grad():
        student.proj_out.weight.mul_(2)
    pool.ensure(0, student)
    states, targets = torch.from_numpy(np.load(config.out_dir / "trajectories" / "000000.npy")).float()
    embeddings = model.text.encode([pool.prompts[row] for row in pool._choice(0)])
    own, _ = follow(one_forward(student), states[:, 0], embeddings, pool.route)
    torch.testing.assert_close(states, torch.stack(own[:-1], 1), rtol=1e-2, atol=1e-2)
    for k, (start, end) in enumerate(pool.route):
        sigmas = torch.full((2,), start), torch.full((2,), end)
        with torch.no_grad():
            expected = pool.teacher.average_velocity(states[:, k], embeddings, *sigmas)
        torch.testing.assert_close(targets[:, k], expected, rtol=1e-2, atol=2e-2)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(config, tmp_path):
    whole, parts = [], []
    assert train_distill(replace(config, out_dir=tmp_path / "whole"), report=whole.append) is not None
    stopped = replace(config, out_dir=tmp_path / "parts")
    assert train_distill(stopped, report=parts.append, should_stop=StopAfter(3)) is None
    assert train_distill(stopped, report=parts.append) is not None
    assert losses_of(parts) == losses_of(whole)
    assert len(losses_of(whole)) == config.max_steps
    chunks = sorted(path.name for path in (stopped.out_dir / "trajectories").glob("*.npy"))
    assert chunks == [f"{index:06d}.npy" for index in range(4)]  # two of the teacher's, two of its own


@pytest.mark.slow
def test_a_run_can_be_stopped_while_the_teacher_is_still_drawing_and_draws_no_chunk_twice(config):
    config, lines = replace(config, max_steps=1), []
    assert train_distill(config, report=lines.append, should_stop=lambda: len(lines) == 2) is None
    first = config.out_dir / "trajectories" / "000000.npy"
    drawn_at = first.stat().st_mtime_ns
    assert not (config.out_dir / "trajectories" / "000001.npy").exists()
    assert train_distill(config, report=be_quiet) is not None
    assert first.stat().st_mtime_ns == drawn_at


def test_distilling_brings_the_student_nearer_to_its_teacher(config):
    lines = []
    longer = replace(
        config, chunk_rows=4, batch_size=6, max_steps=16, learning_rate=3e-3, guidance=4.0, checkpoint_every=8
    )
    train_distill(longer, report=lines.append)
    losses = losses_of(lines)
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:2])
    assert errors_of(lines)[-1] < errors_of(lines)[0]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_student_of_one_or_two_steps_has_one_segment_to_learn(config, num_steps):
    lines = []
    train_distill(replace(config, num_steps=num_steps, max_steps=1), report=lines.append)
    assert len(losses_of(lines)) == 1


def test_a_batch_must_hold_a_row_of_every_segment(config):
    with pytest.raises(ValueError, match="each of the 3 segments, got 2"):
        replace(config, batch_size=2)


def test_trajectories_of_another_teacher_or_guidance_are_refused(config):
    bundle = read_bundle(config.teacher)
    model = load_bundle(bundle)
    open_pool(config, bundle, model, ["a"])
    with pytest.raises(ValueError, match=r"other trajectories \(guidance differ\)"):
        open_pool(replace(config, guidance=9.0), bundle, model, ["a"])
    with pytest.raises(ValueError, match=r"other trajectories \(prompts differ\)"):
        open_pool(config, bundle, model, ["b"])


def test_captions_with_words_that_the_teacher_never_saw_are_left_out(home, tmp_path):
    words = ("a", "photo", "of", "two", "four", "apples")
    model = load_bundle(write_tiny_bundle(tmp_path / "teacher", vocabulary=words))
    prompts = read_prompts(model, home / "world")
    assert prompts == ["a photo of two apples", "a photo of four apples", "a photo of four apples"]
    assert split_prompts(prompts, 1) == (["a photo of two apples"], ["a photo of four apples"])
    with pytest.raises(ValueError, match="too few"):
        split_prompts(prompts, 2)
    stranger = load_bundle(write_tiny_bundle(tmp_path / "stranger", vocabulary=("boat",)))
    with pytest.raises(ValueError, match="none of 6 captions"):
        read_prompts(stranger, home / "world")


def test_a_student_is_shipped_as_one_file_beside_its_teachers_parts(home, tmp_path):
    teacher = read_bundle(home / "teacher")
    network = load_bundle(teacher).transformer
    folder = home / "student"
    student = write_student_bundle(teacher, network, folder, name="tiny-dist", version="3", num_steps=4)
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.json", "transformer.safetensors"]
    assert json.loads((folder / "bundle.json").read_text())["parts"]["autoencoder"] == "../teacher/autoencoder"
    assert student.parts.autoencoder == teacher.parts.autoencoder
    assert (student.card.name, student.card.version) == ("tiny-dist", "3")
    assert (student.card.default_steps, student.card.default_guidance) == (4, 0.0)
    engine = Engine.load(student, "cpu")
    samples = engine.begin([GenerationParams("two apples", 64, 64, 4, 0.0, seed=1)])
    while not samples[0].is_finished:
        engine.step(samples)
    assert engine.decode(samples)[0].shape == (64, 64, 3)
    with pytest.raises(ValueError, match="the teacher itself"):
        write_student_bundle(teacher, network, home / "teacher", name="x", version="1", num_steps=4)
