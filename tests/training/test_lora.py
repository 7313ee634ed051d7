"""LoRA while it is trained, and the PEFT files and bundle that it becomes."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from model.adapters import PROJECTIONS, read_adapter_config
from model.bundle import read_bundle
from model.engine import Engine
from model.params import GenerationParams
from model.training.adapted_bundle import write_adapted_bundle
from model.training.lora import LowRankAdapter, save_adapter, velocity
from model.weights import load_transformer
from tests.support.tiny_bundle import TINY_CONFIG


@pytest.fixture(scope="module")
def network(tiny_bundle):
    return load_transformer(tiny_bundle.parts.transformer, TINY_CONFIG)


@pytest.fixture
def trained(network):
    """An adapter that changes something: B is no longer zero."""
    adapter = LowRankAdapter(network, rank=4, alpha=8)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for up in adapter.ups:
            up.copy_(torch.randn(up.shape, generator=source) * 0.05)
    return adapter


@pytest.fixture
def base(tiny_bundle, tmp_path):
    """A copy of one's own, to be moved."""
    return read_bundle(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny"))


def some_velocity(network, weights):
    source = torch.Generator().manual_seed(2)
    latents, text = torch.randn(3, 4, 8, 8, generator=source), torch.randn(3, 16, 32, generator=source)
    return velocity(network, weights, latents, text, torch.tensor([0.1, 0.5, 1.0]))


def test_an_adapter_covers_every_attention_projection_and_changes_nothing_at_first(network):
    adapter = LowRankAdapter(network, rank=4, alpha=8)
    # Four blocks of eight projections; the last one owns no to_add_out.
    assert len(adapter.weight_names) == 4 * len(PROJECTIONS) - 1
    assert torch.equal(some_velocity(network, adapter.merged(network)), some_velocity(network, {}))


def test_the_saved_adapter_merges_to_the_velocity_it_was_trained_with(tiny_bundle, network, trained, tmp_path):
    save_adapter(trained, tmp_path / "adapter")
    assert read_adapter_config(tmp_path / "adapter").scaling == 2.0
    merged = load_transformer(tiny_bundle.parts.transformer, TINY_CONFIG, adapter=tmp_path / "adapter")
    expected = some_velocity(network, trained.merged(network))
    assert not torch.allclose(expected, some_velocity(network, {}), atol=1e-2)
    # The file is float16.
    torch.testing.assert_close(some_velocity(merged, {}), expected, rtol=5e-3, atol=5e-3)


def test_the_layout_is_what_peft_writes(trained, tmp_path):
    save_adapter(trained, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.block_groups.1.0.attn.to_out.0"
    assert tensors[f"{name}.lora_A.weight"].shape == (4, 32)
    assert tensors[f"{name}.lora_B.weight"].shape == (32, 4)
    assert len(tensors) == 2 * len(trained.weight_names)


def test_gradients_reach_the_adapter_and_not_the_network(network, trained):
    some_velocity(network, trained.merged(network)).square().mean().backward()
    # Nothing reads the text that the last block's queries ask for.
    moved = {name for name, up in zip(trained.weight_names, trained.ups, strict=True) if up.grad.any()}
    assert set(trained.weight_names) - moved == {"block_groups.2.0.attn.add_q_proj.weight"}
    assert all(parameter.grad is None for parameter in network.parameters())


def test_adapters_of_one_seed_begin_alike(network):
    first, again, other = (LowRankAdapter(network, 4, 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.downs[0], again.downs[0])
    assert not torch.equal(first.downs[0], other.downs[0])


def test_a_rank_below_one_is_refused(network):
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LowRankAdapter(network, 0, 1)


def draw(bundle):
    engine = Engine.load(bundle, "cpu")
    samples = engine.begin([GenerationParams("a red apple", 64, 64, 2, 2.0, seed=1)])
    while not samples[0].is_finished:
        engine.step(samples)
    return samples[0].latents


def adapted(base, trained, folder, **changes):
    save_adapter(trained, folder.parent / "trained")
    card = {"name": "tiny-grpo", "version": "2", "guidance": 1.5}
    return write_adapted_bundle(base, folder.parent / "trained", folder, **{**card, **changes})


def test_an_adapted_bundle_shares_its_base_by_relative_paths_and_draws_differently(base, trained, tmp_path):
    (base.folder / "NOTICE").write_text("whose the parts are")
    bundle = adapted(base, trained, tmp_path / "tiny-grpo")
    assert '"../tiny/transformer.safetensors"' in (bundle.folder / "bundle.json").read_text()
    assert bundle.parts.transformer == base.parts.transformer
    assert (bundle.card.name, bundle.card.default_guidance, bundle.card.sizes) == ("tiny-grpo", 1.5, base.card.sizes)
    assert (bundle.folder / "NOTICE").is_file()
    assert not torch.equal(draw(bundle), draw(base))


def test_base_and_adapted_bundle_can_be_moved_together(base, trained, tmp_path):
    folder = adapted(base, trained, tmp_path / "tiny-grpo").folder
    (tmp_path / "elsewhere").mkdir()
    for moved in (base.folder, folder):
        shutil.move(moved, tmp_path / "elsewhere")
    assert read_bundle(tmp_path / "elsewhere" / "tiny-grpo").missing_files() == ()


def test_an_adapted_bundle_weighs_no_more_than_its_adapter(base, trained, tmp_path):
    folder = adapted(base, trained, tmp_path / "tiny-grpo").folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {os.path.relpath(path, folder) for path in files} == {
        "bundle.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }


def test_a_bundle_takes_one_adapter_and_a_folder_of_its_own(base, trained, tmp_path):
    once = adapted(base, trained, tmp_path / "tiny-grpo")
    with pytest.raises(ValueError, match="has an adapter already"):
        adapted(once, trained, tmp_path / "twice")
    with pytest.raises(ValueError, match="is the base itself"):
        adapted(base, trained, base.folder)
