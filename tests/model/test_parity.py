"""The published implementation's own numbers, recorded once: tests/data/parity (see its README)."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.config import NITRO_E_512, NITRO_E_1024, ModelConfig
from model.sampler import euler_update, guide
from model.schedule import NUM_TRAIN_TIMESTEPS, flow_sigmas
from model.transformer import EMMDiT, position_table
from model.weights import load_transformer

PARITY = Path(__file__).parents[1] / "data" / "parity"
NAMES = ("asa16", "full32")


def config_of(name):
    values = json.loads((PARITY / f"{name}.json").read_text())
    values["num_text_tokens"] = values.pop("text_tokens")
    return ModelConfig.from_dict(values)


def load(name, adapter=None):
    return load_transformer(PARITY / f"{name}.weights.safetensors", config_of(name), adapter=adapter)


def relative_error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def velocity_of(network, recorded):
    with torch.inference_mode():
        return network(recorded["latents"], recorded["prompt_embeds"], recorded["timestep"])


@pytest.mark.parametrize("name", NAMES)
def test_velocity_is_the_published_models(name):
    recorded = load_file(PARITY / f"{name}.io.safetensors")
    assert relative_error(velocity_of(load(name), recorded), recorded["velocity"]) < 1e-5


def test_merged_grpo_adapters_give_the_published_velocity():
    recorded = load_file(PARITY / "asa16.io.safetensors")
    merged = load_file(PARITY / "asa16.grpo_lora" / "merged.io.safetensors")["velocity"]
    assert relative_error(velocity_of(load("asa16", PARITY / "asa16.grpo_lora"), recorded), merged) < 1e-5
    assert relative_error(recorded["velocity"], merged) > 1e-3, "the adapter must make a difference"


@pytest.mark.parametrize(("name", "steps", "guidance"), [("asa16", 20, 4.5), ("asa16", 4, 0.0), ("full32", 4, 4.5)])
def test_a_sampled_trajectory_ends_where_the_published_one_does(name, steps, guidance):
    recorded = load_file(PARITY / f"{name}.io.safetensors")
    sigmas = torch.tensor(flow_sigmas(steps))
    torch.testing.assert_close(sigmas, recorded[f"sigmas.steps{steps}"], rtol=0, atol=1e-7)
    torch.testing.assert_close(
        NUM_TRAIN_TIMESTEPS * sigmas[:-1], recorded[f"timesteps.steps{steps}"], rtol=1e-6, atol=0
    )
    latents = recorded["latents"]
    scale = torch.full((len(latents),), guidance)
    network = load(name)
    with torch.inference_mode():
        for now, then in pairwise(sigmas):
            sigma, next_sigma = now.expand(len(latents)), then.expand(len(latents))
            velocity = network(latents, recorded["prompt_embeds"], sigma * NUM_TRAIN_TIMESTEPS)
            if guidance > 1:
                without = network(latents, recorded["negative_prompt_embeds"], sigma * NUM_TRAIN_TIMESTEPS)
                velocity = guide(without, velocity, scale)
            latents = euler_update(latents, velocity, sigma, next_sigma)
    assert relative_error(latents, recorded[f"sampled.steps{steps}.guidance{guidance}"]) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_position_table_is_the_stored_one(name):
    stored = load_file(PARITY / f"{name}.weights.safetensors")["pos_embed.pos_embed"][0]
    torch.testing.assert_close(position_table(config_of(name)), stored, rtol=0, atol=0)


@pytest.mark.parametrize("config", [NITRO_E_512, NITRO_E_1024])
def test_the_published_sizes_have_the_published_parameters_and_tensors(config):
    with torch.device("meta"):
        network = EMMDiT(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == 302_449_952
    assert len(network.state_dict()) == 889


def test_rows_at_different_timesteps_do_not_touch_one_another():
    recorded = load_file(PARITY / "asa16.io.safetensors")
    network = load("asa16")
    with torch.inference_mode():
        alone = network(recorded["latents"][:1], recorded["prompt_embeds"][:1], recorded["timestep"][:1])
        together = velocity_of(network, recorded)[:1]
    assert relative_error(together, alone) < 1e-5


def test_latents_larger_than_the_position_table_are_refused():
    config = ModelConfig(sample_size=8, num_attention_heads=1, use_sub_attn=False, pos_embed_max_size=8)
    with pytest.raises(ValueError, match="12x12 exceed the position table of 8x8"):
        EMMDiT(config).pos_embed.positions(12, 12)


def test_token_counts_that_subregions_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="compressed tokens in multiples of 16, got 20"):
        ModelConfig(sample_size=8)
