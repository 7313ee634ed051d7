"""From a folder of pictures to a bundle that draws: prepared, trained by a recipe, stopped, gone on with, exported."""

import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.engine import Engine
from model.errors import TensorFileError
from model.params import GenerationParams
from model.tensor_file import read_header
from model.training.aligned_transformer import start_from
from model.training.batches import ReadAhead, RecipeBatches, deal
from model.training.devices import Place
from model.training.prepare import PrepareConfig, prepare
from model.training.prepared_data import PreparedData
from model.training.recipe import RecipeError, RepaValues, find_recipe, read_recipe
from model.training.recipe_export import export_recipe
from model.training.recipe_trainer import RecipeRun, RecipeTrainer, train_recipe
from model.transformer import EMMDiT
from model.weights import expected_tensors, verify_bundle
from tests.support.pictures import write_pictures
from tests.support.trainer_runs import StopAfter, be_quiet, losses_of


@pytest.fixture(scope="module")
def prepared(tiny_bundle, tiny_dinov2, tmp_path_factory):
    """Twelve pictures with text and features, in shards of five."""
    folder = tmp_path_factory.mktemp("prepared")
    config = PrepareConfig(
        write_pictures(folder / "pictures"),
        folder / "data",
        tiny_bundle.folder,
        features=tiny_dinov2,
        shard_samples=5,
        device="cpu",
    )
    prepare(config, report=be_quiet)
    prepare(replace(config, target=folder / "captions", is_text_encoded=False), report=be_quiet)
    return folder


@pytest.fixture(scope="module")
def recipe():
    """The smoke recipe, smaller: four rows a step, in two forwards."""
    smoke = read_recipe(find_recipe("smoke"))
    values = replace(
        smoke.training,
        max_steps=3,
        batch_size=4,
        rows_per_forward=2,
        warmup_steps=1,
        report_every=1,
        learning_rate=1e-2,
    )
    small = {"num_attention_heads": 2, "attention_head_dim": 16, "stages": (1, 1, 1), "use_sub_attn": False}
    return replace(smoke, architecture=small, training=values)


@pytest.fixture
def run(prepared, recipe, tmp_path):
    return RecipeRun(recipe, (prepared / "data",), tmp_path / "out", device="cpu")


@pytest.fixture(scope="module")
def trained(prepared, recipe, tmp_path_factory):
    """A finished run of three steps, its checkpoint and what it reported."""
    run, reports = RecipeRun(recipe, (prepared / "data",), tmp_path_factory.mktemp("trained"), device="cpu"), []
    return run, train_recipe(run, report=reports.append), reports


@pytest.fixture(scope="module")
def checkpoint(trained):
    return trained[1]


def with_values(run, **values):
    return replace(run, recipe=replace(run.recipe, training=replace(run.recipe.training, **values)))


def rows_of(run, num_parts, rank=0, world_size=1, step=0, **values):
    values = replace(run.recipe.training, **values)
    dealt = deal(values.batch_size, values.batch_size // world_size // num_parts, rank, world_size)
    assert dealt.num_parts == num_parts
    batches = RecipeBatches(PreparedData(run.data), values, dealt, with_features=True)
    return [batches.rows(step, part) for part in range(num_parts)]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(trained, run):
    _, whole, expected = trained
    reports = []
    assert train_recipe(run, report=reports.append, should_stop=StopAfter(1)) is None
    assert train_recipe(run, report=reports.append) == run.out_dir / "recipe.checkpoint.safetensors"
    assert losses_of(reports) == losses_of(expected)
    assert len(losses_of(expected)) == 3
    with (
        safe_open(whole, framework="pt") as one,
        safe_open(run.out_dir / "recipe.checkpoint.safetensors", framework="pt") as other,
    ):
        assert sorted(one.keys()) == sorted(other.keys())
        for name in one.keys():  # noqa: SIM118 (not a mapping)
            assert torch.equal(one.get_tensor(name), other.get_tensor(name)), name


def test_what_is_trained_on_does_not_depend_on_how_the_rows_are_dealt_out(run):
    (whole,) = rows_of(run, 1, step=5)
    dealt = [rows for rank in (0, 1) for rows in rows_of(run, 2, rank, 2, step=5)]
    for name in ("clean", "noise", "normal", "text", "features"):
        assert torch.equal(torch.cat([getattr(rows, name) for rows in dealt]), getattr(whole, name)), name


def test_every_epoch_takes_every_sample_once_in_an_order_of_its_own(run):
    clean = [rows_of(run, 1, step=step, caption_dropout=0.0)[0].clean for step in range(6)]  # two epochs of twelve
    stored = torch.from_numpy(PreparedData(run.data).read(np.arange(12)).latents)
    orders = []
    for epoch in (torch.cat(clean[:3]), torch.cat(clean[3:])):
        order = [next(i for i, known in enumerate(stored) if torch.equal(known, latents)) for latents in epoch]
        assert sorted(order) == list(range(12))
        orders.append(order)
    assert orders[0] != orders[1]


def test_noise_and_timesteps_are_fresh_each_step_and_standard_normal(run):
    rows = rows_of(run, 1, batch_size=512)[0]
    assert rows.noise.mean().item() == pytest.approx(0, abs=0.02)
    assert rows.noise.std().item() == pytest.approx(1, abs=0.02)
    assert rows.normal.std().item() == pytest.approx(1, abs=0.1)
    assert len({round(value, 6) for value in rows.normal.tolist()}) == 512
    assert not torch.equal(rows_of(run, 1, step=1)[0].noise, rows_of(run, 1, step=2)[0].noise)


def test_dropped_captions_are_the_empty_one(run, prepared):
    rows = rows_of(run, 1, batch_size=400)[0]
    empty = torch.from_numpy(PreparedData(run.data).empty_text)
    is_dropped = (rows.text == empty).flatten(1).all(1)
    assert 20 <= is_dropped.sum() <= 65  # a tenth
    captions = rows_of(replace(run, data=(prepared / "captions",)), 1, batch_size=400)[0].captions
    assert [caption == "" for caption in captions] == is_dropped.tolist()


def test_captions_alone_train_as_stored_embeddings_do(trained, run, prepared):
    reports = []
    train_recipe(replace(run, data=(prepared / "captions",)), report=reports.append)
    assert losses_of(reports) == pytest.approx(losses_of(trained[2]), abs=2e-3)


def test_stage_1_aligns_and_stage_2_begins_with_its_weights(run, tmp_path):
    repa = RepaValues(weight=0.5, hidden_size=16, feature_channels=24)
    first = with_values(replace(run, recipe=replace(run.recipe, repa=repa)), ema_decay=0.0, max_steps=1)
    trainer = RecipeTrainer(first, Place(torch.device("cpu")))
    minimised, shown = trainer.objective(0)
    trainer.rows.close()
    assert 0 < abs(minimised.item() - shown.item()) <= 0.5
    checkpoint = train_recipe(first, report=be_quiet)
    with safe_open(checkpoint, framework="pt") as file:
        names = list(file.keys())
    assert any(name.startswith("model/projectors.") for name in names)
    assert not any(name.startswith("ema/") for name in names)
    second = RecipeTrainer(replace(run, start_from=checkpoint, out_dir=tmp_path / "2"), Place(torch.device("cpu")))
    second.rows.close()
    with safe_open(checkpoint, framework="pt") as file:
        for name, value in second.loop.model.transformer.state_dict().items():
            assert torch.equal(value, file.get_tensor(f"model/transformer.{name}")), name


def test_a_run_begins_with_a_bundle_or_a_transformer_file(tiny_bundle, tmp_path):
    for path in (tiny_bundle.folder, tiny_bundle.parts.transformer):
        network = EMMDiT(tiny_bundle.config)
        start_from(network, path)
        with safe_open(tiny_bundle.parts.transformer, framework="pt") as file:
            assert torch.equal(network.proj_out.weight, file.get_tensor("proj_out.weight"))
    with pytest.raises(TensorFileError, match="block_groups"):
        start_from(EMMDiT(replace(tiny_bundle.config, stages=(1, 1, 1))), tiny_bundle.folder)
    with pytest.raises(RecipeError, match="neither a bundle's folder nor a safetensors file"):
        start_from(network, tmp_path / "gone")


def test_another_recipe_or_other_data_does_not_go_on_from_a_checkpoint(trained, run, prepared):
    shutil.copytree(trained[0].out_dir, run.out_dir)
    with pytest.raises(RecipeError, match=r"another recipe \(training.learning_rate differ\)"):
        train_recipe(with_values(run, learning_rate=1e-4), report=be_quiet)
    with pytest.raises(RecipeError, match="was trained on other data"):
        train_recipe(replace(run, data=(prepared / "data", prepared / "data")), report=be_quiet)
    assert train_recipe(with_values(run, max_steps=4, rows_per_forward=4), report=be_quiet)


def test_samples_are_drawn_on_the_way(run):
    train_recipe(replace(with_values(run, checkpoint_every=1, max_steps=2), sample_every_min=1e-9), report=be_quiet)
    drawn = sorted(path.name for path in (run.out_dir / "samples").iterdir())
    assert drawn == ["step-000001.png", "step-000002.png"]


def test_a_batch_that_devices_cannot_share_is_refused():
    assert deal(2048, 256, 3, 8).num_parts == 1
    assert deal(2048, 100, 0, 8).rows_per_part == 64
    assert deal(6, 4, 0, 1).num_parts == 2
    with pytest.raises(RecipeError, match=r"batch_size 2048 can't be dealt out to 3 devices"):
        deal(2048, 256, 0, 3)


@pytest.mark.parametrize(("dtype", "stored"), [("fp32", "F32"), ("bf16", "BF16"), ("fp16", "F16")])
def test_an_exported_bundle_has_exactly_the_published_tensors(checkpoint, tmp_path, dtype, stored):
    exported = export_recipe(checkpoint, tmp_path / "bundle", name="mine", dtype=dtype)
    verify_bundle(exported, be_quiet)
    found = read_header(exported.parts.transformer)
    assert {name: info.shape for name, info in found.items()} == expected_tensors(exported.config)
    assert {info.dtype for info in found.values()} == {stored}
    with safe_open(exported.parts.transformer, framework="pt") as file:
        kept = file.get_tensor("proj_out.weight").float()
    with safe_open(checkpoint, framework="pt") as file:
        torch.testing.assert_close(kept, file.get_tensor("ema/transformer.proj_out.weight"), rtol=1e-2, atol=1e-4)


def test_an_exported_bundle_keeps_the_previews_of_the_datas_bundle(checkpoint, tiny_bundle, tmp_path, monkeypatch):
    preview = tmp_path / "preview.safetensors"
    parts = replace(tiny_bundle.parts, preview=preview)
    monkeypatch.setattr("model.training.recipe_export.read_bundle", lambda folder: replace(tiny_bundle, parts=parts))
    assert export_recipe(checkpoint, tmp_path / "bundle", name="mine").parts.preview == preview


def test_an_exported_bundle_draws(checkpoint, tiny_bundle, tmp_path):
    exported = export_recipe(checkpoint, tmp_path / "bundle", name="mine", default_steps=2)
    assert exported.parts.text_encoder == tiny_bundle.parts.text_encoder
    assert (exported.card.name, exported.card.sizes) == ("mine", ("64x64",))
    engine = Engine.load(exported, "cpu")
    samples = engine.begin([GenerationParams("a red square", 64, 64, 2, 4.5, seed=1)])
    while not samples[0].is_finished:
        engine.step(samples)
    assert engine.decode(samples)[0].shape == (64, 64, 3)


def test_checkpoints_of_other_trainers_and_unknown_types_are_refused(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="unknown type 'fp8'; known: fp32, bf16, fp16"):
        export_recipe(checkpoint, tmp_path / "bundle", name="mine", dtype="fp8")
    other = tmp_path / "other.safetensors"
    save_file({"model/x": torch.zeros(1)}, other, metadata={"meta": json.dumps({"config": {}})})
    with pytest.raises(RecipeError, match="not a checkpoint of emmdit train recipe"):
        export_recipe(other, tmp_path / "bundle", name="mine")


def test_reading_ahead_gives_the_same_values_in_any_order_and_hides_the_wait():
    made = []
    release = threading.Event()

    def square(number):
        release.wait(5)
        made.append(number)
        return number * number

    ahead = ReadAhead(square, num_ahead=2, num_threads=2)
    release.set()
    assert [ahead.get(number) for number in (0, 1, 2, 7, 3)] == [0, 1, 4, 49, 9]
    ahead.close()
    assert ahead.waited_s >= 0
    assert set(made) <= set(range(10))


def test_what_goes_wrong_while_reading_ahead_is_raised_where_it_is_asked_for():
    def fail_at_two(number):
        if number == 2:
            raise ValueError("damaged")
        return number

    ahead = ReadAhead(fail_at_two, num_ahead=3, num_threads=1)
    assert [ahead.get(0), ahead.get(1)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        ahead.get(2)
    assert ahead.get(3) == 3
    ahead.close()
