"""Fetching: full commits only, safetensors and JSON only, parts shared, gates explained. No network here."""

import hashlib
import shutil

import pytest

from model import hub
from model.catalog import AUTOENCODER, TEXT_ENCODER, VARIANTS, list_models, resolve_bundle
from model.errors import DownloadError, MissingFiles, RevisionError, UnknownModel
from model.hub import fetch_model
from tests.support.tiny_bundle import write_tiny_bundle

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Stands in for snapshot_download: remembers what was asked for and lays out files of a tiny bundle."""

    def __init__(self, source):
        self.source = source
        self.calls = []

    def __call__(self, repo, *, revision, allow_patterns, local_dir):
        self.calls.append((repo, revision))
        if repo == TEXT_ENCODER.repo:
            shutil.copytree(self.source / "text_encoder", local_dir, dirs_exist_ok=True)
        elif repo == AUTOENCODER.repo:
            shutil.copytree(self.source / "autoencoder", local_dir, dirs_exist_ok=True)
        else:
            for name in allow_patterns:
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                is_adapter = "adapter" in name
                original = self.source / "lora" / name.rpartition("/")[2] if is_adapter else "transformer.safetensors"
                shutil.copy(self.source / original, local_dir / name)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    write_tiny_bundle(tmp_path / "source", adapter_name="lora")
    digest = hashlib.sha256((tmp_path / "source" / "transformer.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(hub, "KNOWN_SHA256", {"Nitro-E-512px.safetensors": digest})
    return FakeHub(tmp_path / "source")


def test_a_fetched_model_is_found_and_pinned(tmp_path, fake_hub):
    models = tmp_path / "models"
    bundle = fetch_model("nitro-e-512", models, download=fake_hub)
    assert resolve_bundle("nitro-e-512", models) == bundle
    assert bundle.card.version == VARIANTS["nitro-e-512"].revision[:12]
    assert dict(fake_hub.calls) == {
        "amd/Nitro-E": VARIANTS["nitro-e-512"].revision,
        TEXT_ENCODER.repo: TEXT_ENCODER.revision,
        AUTOENCODER.repo: AUTOENCODER.revision,
    }
    status = next(status for status in list_models(models) if status.card.name == "nitro-e-512")
    assert status.is_ready


def test_the_models_folder_can_be_moved(tmp_path, fake_hub):
    fetch_model("nitro-e-512-grpo", tmp_path / "models", download=fake_hub)
    (tmp_path / "models").rename(tmp_path / "moved")
    bundle = resolve_bundle("nitro-e-512-grpo", tmp_path / "moved")
    assert bundle.parts.adapter.name == "ckpt_grpo_512px"


def test_variants_share_their_parts(tmp_path, fake_hub):
    one = fetch_model("nitro-e-512", tmp_path / "models", download=fake_hub)
    two = fetch_model("nitro-e-512-grpo", tmp_path / "models", download=fake_hub)
    assert one.parts.transformer == two.parts.transformer
    assert one.parts.text_encoder == two.parts.text_encoder


@pytest.mark.parametrize("revision", ["main", "v1.0", "5d7b38c", COMMIT.upper(), COMMIT + "0"])
def test_anything_but_a_full_commit_is_refused(tmp_path, fake_hub, revision):
    with pytest.raises(RevisionError, match="full commit"):
        fetch_model("nitro-e-512", tmp_path, revision=revision, download=fake_hub)
    assert fake_hub.calls == []


def test_a_variant_without_a_known_commit_needs_one(tmp_path, fake_hub):
    with pytest.raises(RevisionError, match="--revision"):
        fetch_model("nitro-e-1024-dist", tmp_path, download=fake_hub)
    bundle = fetch_model("nitro-e-1024-dist", tmp_path, revision=COMMIT, download=fake_hub)
    assert bundle.card.version == COMMIT[:12]


def test_another_content_than_the_published_one_is_refused(tmp_path, fake_hub, monkeypatch):
    monkeypatch.setattr(hub, "KNOWN_SHA256", {"Nitro-E-512px.safetensors": "0" * 64})
    with pytest.raises(RevisionError, match="SHA-256"):
        fetch_model("nitro-e-512", tmp_path, download=fake_hub)


def test_the_operators_own_checksum_is_held_to_as_well(tmp_path, fake_hub):
    with pytest.raises(RevisionError, match="has to be 1111"):
        fetch_model("nitro-e-1024-dist", tmp_path, revision=COMMIT, sha256="1" * 64, download=fake_hub)
    assert not (tmp_path / "nitro-e-1024-dist").exists()  # what is not as expected never becomes a model


def test_a_local_text_encoder_replaces_the_gated_download(tmp_path, fake_hub):
    bundle = fetch_model(
        "nitro-e-512", tmp_path / "m", text_encoder=tmp_path / "source" / "text_encoder", download=fake_hub
    )
    assert TEXT_ENCODER.repo not in dict(fake_hub.calls)
    assert bundle.parts.tokenizer == tmp_path / "source" / "text_encoder"


def test_a_local_text_encoder_that_is_not_there_is_named(tmp_path, fake_hub):
    with pytest.raises(MissingFiles, match="nowhere"):
        fetch_model("nitro-e-512", tmp_path, text_encoder=tmp_path / "nowhere", download=fake_hub)


def test_a_closed_gate_is_explained(tmp_path, fake_hub):
    def gated(repo, **kwargs):
        if repo == TEXT_ENCODER.repo:
            raise OSError("403 Forbidden")
        fake_hub(repo, **kwargs)

    with pytest.raises(DownloadError, match="accept its licence") as caught:
        fetch_model("nitro-e-512", tmp_path, download=gated)
    assert "403 Forbidden" in str(caught.value)


def test_a_model_that_nobody_published_can_not_be_fetched(tmp_path, fake_hub):
    with pytest.raises(UnknownModel, match="published models"):
        fetch_model("demo", tmp_path, download=fake_hub)


def test_no_download_asks_for_anything_that_can_carry_code():
    for source in (TEXT_ENCODER, AUTOENCODER, *(variant.source for variant in VARIANTS.values())):
        assert all(name.endswith((".safetensors", ".json")) or name[:3] in ("LIC", "USE") for name in source.files)
