import pytest
import torch

from model.config import ModelConfig
from model.fused import FusedEMMDiT
from model.transformer import EMMDiT

SMALL = {"attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": 48, "in_channels": 8, "mlp_ratio": 3}


def network(**changes):
    config = ModelConfig(**SMALL | changes)
    net = EMMDiT(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return net, config


def inputs(config, num_rows, height, width):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(num_rows, config.in_channels, height, width, generator=generator)
    text = torch.randn(num_rows, config.num_text_tokens, config.caption_channels, generator=generator)
    return latents, text, torch.linspace(1000, 1, num_rows)


@pytest.mark.parametrize("use_sub_attn", [True, False])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 32)])
def test_the_fused_network_gives_the_published_networks_numbers(use_sub_attn, height, width):
    net, config = network(
        stages=(2, 3, 2), num_text_tokens=32, sample_size=16, pos_embed_max_size=32, use_sub_attn=use_sub_attn
    )
    given = inputs(config, 3, height, width)
    with torch.inference_mode():
        expected, found = net(*given), FusedEMMDiT(net)(*given)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_fusing_leaves_nothing_that_could_be_trained():
    net, _ = network(stages=(1, 1, 1), num_text_tokens=32, sample_size=16, pos_embed_max_size=16, use_sub_attn=True)
    assert not any(parameter.requires_grad for parameter in FusedEMMDiT(net).parameters())
