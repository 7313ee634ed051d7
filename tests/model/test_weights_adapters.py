"""LoRA adapters: merged as PEFT merges them, and refused where they ask for more than that."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.adapters import merge_adapter, read_adapter_config
from model.errors import AdapterError, MisshapedTensors, MissingTensors, UnknownTensors
from model.weights import load_transformer
from tests.support.tiny_bundle import TINY_CONFIG, write_tiny_bundle

PUBLISHED_KIND = Path(__file__).parents[1] / "data" / "parity" / "asa16.grpo_lora"


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path, adapter_name="lora")


def change_config(bundle, **changes):
    path = bundle.parts.adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(bundle, change):
    path = bundle.parts.adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def merge(bundle):
    return merge_adapter(load_file(bundle.parts.transformer), bundle.parts.adapter)


def test_every_covered_weight_moves_by_scaled_b_a_and_no_other(bundle):
    before, adapter = load_file(bundle.parts.transformer), load_file(bundle.parts.adapter / "adapter_model.safetensors")
    after = merge(bundle)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {f"base_model.model.{name.removesuffix('weight')}lora_A.weight" for name in changed} == {
        name for name in adapter if "lora_A" in name
    }
    name = "block_groups.1.0.attn.to_out.0"
    expected = before[f"{name}.weight"] + 2.0 * (
        adapter[f"base_model.model.{name}.lora_B.weight"] @ adapter[f"base_model.model.{name}.lora_A.weight"]
    )
    torch.testing.assert_close(after[f"{name}.weight"], expected)


def test_loading_leaves_the_file_alone(bundle):
    before = bundle.parts.transformer.read_bytes()
    load_transformer(bundle.parts.transformer, TINY_CONFIG, adapter=bundle.parts.adapter)
    assert bundle.parts.transformer.read_bytes() == before


def test_the_difference_is_added_before_the_cast(bundle):
    path, adapter = bundle.parts.transformer, bundle.parts.adapter
    cast = load_transformer(path, TINY_CONFIG, adapter=adapter, dtype=torch.bfloat16).state_dict()
    merged = merge(bundle)
    assert all(torch.equal(tensor, merged[name].bfloat16()) for name, tensor in cast.items())


def test_the_published_kind_of_configuration_is_read():
    config = read_adapter_config(PUBLISHED_KIND)
    assert (config.rank, config.scaling, len(config.targets)) == (4, 2.0, 8)


def test_rank_stabilised_scaling_is_honoured(bundle):
    change_config(bundle, use_rslora=True)
    assert read_adapter_config(bundle.parts.adapter).scaling == pytest.approx(64 / 32**0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"to_q": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"to_q": 8}}, "alpha_pattern"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": 0}, "r = 0"),
        ({"r": "4"}, "r = '4'"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"target_modules": ["attn.to_q", "ff.net.2"]}, r"ff\.net\.2"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
    ],
)
def test_adapters_that_can_not_be_merged_are_refused(bundle, changes, said):
    change_config(bundle, **changes)
    with pytest.raises(AdapterError, match=said):
        merge(bundle)


def test_an_unreadable_configuration_is_refused(bundle):
    (bundle.parts.adapter / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="unreadable"):
        merge(bundle)


def test_missing_adapter_tensors_are_named(bundle):
    change_tensors(bundle, lambda tensors: tensors.pop("base_model.model.block_groups.0.0.attn.to_q.lora_A.weight"))
    with pytest.raises(MissingTensors, match=r"block_groups\.0\.0\.attn\.to_q\.lora_A"):
        merge(bundle)


def test_unknown_adapter_tensors_are_named(bundle):
    change_tensors(bundle, lambda tensors: tensors.update({"base_model.model.proj_out.lora_A.weight": torch.zeros(1)}))
    with pytest.raises(UnknownTensors, match="proj_out"):
        merge(bundle)


def test_adapters_of_another_rank_are_named_by_shape(bundle):
    change_config(bundle, r=8)
    with pytest.raises(MisshapedTensors, match=r"is \[32, 32\], not \[8, 32\]"):
        merge(bundle)
