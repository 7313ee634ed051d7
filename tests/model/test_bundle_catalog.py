"""The named models: published settings, where they are found, what is said when they are not."""

import json

import pytest

from model import catalog
from model.bundle import MANIFEST_NAME, write_bundle
from model.catalog import VARIANTS, describe_models, find_card, list_models, resolve_bundle
from model.config import NITRO_E_512, NITRO_E_1024
from model.errors import MissingFiles, UnknownModel, UnsafeFile
from tests.support.tiny_bundle import TINY_CARD, TINY_CONFIG, write_tiny_bundle


def test_the_six_published_models_have_their_published_settings():
    settings = {
        name: (v.card.sizes, v.card.default_steps, v.card.default_guidance, v.config) for name, v in VARIANTS.items()
    }
    assert settings == {
        "nitro-e-512": (("512x512",), 20, 4.5, NITRO_E_512),
        "nitro-e-512-grpo": (("512x512",), 20, 4.5, NITRO_E_512),
        "nitro-e-512-dist": (("512x512",), 4, 0.0, NITRO_E_512),
        "nitro-e-1024": (("1024x1024",), 20, 4.5, NITRO_E_1024),
        "nitro-e-1024-grpo": (("1024x1024",), 20, 4.5, NITRO_E_1024),
        "nitro-e-1024-dist": (("1024x1024",), 4, 0.0, NITRO_E_1024),
    }


def test_a_published_models_card_needs_no_weights(tmp_path):
    assert find_card("nitro-e-512-dist", tmp_path).default_steps == 4


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UnknownModel, match=r"'nitro-x'.*demo, demo-dist, demo-grpo, nitro-e-512, "):
        find_card("nitro-x", tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../b", ""])
def test_a_name_does_not_lead_out_of_the_models_folder(tmp_path, name):
    (tmp_path / "models").mkdir()
    with pytest.raises(UnknownModel):
        find_card(name, tmp_path / "models")


def test_a_folder_without_a_manifest_is_called_that(tmp_path):
    with pytest.raises(UnknownModel, match="not a bundle"):
        find_card(str(tmp_path), tmp_path)


def test_bundles_are_found_by_path_and_by_name(tmp_path):
    write_tiny_bundle(tmp_path / "mine", name="mine")
    by_path = resolve_bundle(str(tmp_path / "mine"), tmp_path / "none")
    by_name = resolve_bundle("mine", tmp_path)
    assert by_path == by_name
    assert find_card("mine", tmp_path) == by_name.card


def test_a_published_model_that_is_not_here_says_how_to_get_it(tmp_path):
    with pytest.raises(MissingFiles) as caught:
        resolve_bundle("nitro-e-512", tmp_path)
    text = str(caught.value)
    assert "emmdit models fetch nitro-e-512" in text
    assert "gated" in text
    assert "HF_TOKEN" in text
    assert "--text-encoder DIR" in text
    assert "Nitro-E-512px.safetensors" in text


def test_an_incomplete_bundle_names_its_missing_files(tmp_path):
    write_tiny_bundle(tmp_path / "mine")
    (tmp_path / "mine" / "transformer.safetensors").unlink()
    with pytest.raises(MissingFiles, match=r"transformer\.safetensors"):
        resolve_bundle("mine", tmp_path)


def test_resolving_refuses_code(tmp_path):
    write_tiny_bundle(tmp_path / "mine")
    (tmp_path / "mine" / "autoencoder" / "model.bin").touch()
    with pytest.raises(UnsafeFile):
        resolve_bundle("mine", tmp_path)


def test_a_command_names_the_commit_where_it_is_not_known(tmp_path):
    commands = {status.card.name: status.remedy for status in list_models(tmp_path)}
    assert commands["nitro-e-512"] == "emmdit models fetch nitro-e-512"
    assert "fetch nitro-e-1024-dist --revision COMMIT" in commands["nitro-e-1024-dist"]
    assert "ckpt_grpo_1024px" in commands["nitro-e-1024-grpo"]


def test_the_list_shows_settings_and_what_is_missing(tmp_path):
    write_tiny_bundle(tmp_path / "mine", name="mine")
    write_tiny_bundle(tmp_path / "nitro-e-512", name="nitro-e-512")
    write_bundle(
        tmp_path / "half",
        TINY_CARD,
        TINY_CONFIG,
        {key: key for key in ("transformer", "text_encoder", "tokenizer", "autoencoder")},
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / MANIFEST_NAME).write_text(json.dumps({"format_version": 1}))
    statuses = {status.folder.name if status.folder else status.card.name: status for status in list_models(tmp_path)}
    assert {name for name, status in statuses.items() if status.is_ready} >= {"mine", "nitro-e-512"}
    assert not statuses["half"].is_ready
    assert "bundle.json" in statuses["broken"].missing[0]
    text = describe_models(list_models(tmp_path))
    assert "nitro-e-1024           not here  1024x1024, 20 steps, guidance 4.5" in text
    assert text.count("HF_TOKEN") == 1


def test_parts_fetched_for_another_model_count_as_present(tmp_path):
    folder = catalog.AUTOENCODER.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.safetensors").touch()
    status = next(status for status in list_models(tmp_path) if status.card.name == "nitro-e-512")
    assert len(status.present) == 1
    assert "dc-ae" in status.present[0]
    assert len(status.missing) == 2
