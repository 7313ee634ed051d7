"""Pictures under way: estimates of where a picture is going, tiny previews of them, and whole decodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.bundle import name_preview, read_bundle
from model.engine import Engine
from model.errors import MisshapedTensors, MissingFiles, MissingTensors, UnsafeFile
from model.loading import load_engines
from model.params import GenerationParams
from model.preview import PREVIEW_NAME, Previews, Projection, expected_shapes
from model.preview_fit import MAX_PICTURES_SHOWN, PREVIEW_SCALE, RidgeFit
from model.registry import add_bundle
from model.weights import verify_bundle
from tests.support.tiny_bundle import write_tiny_bundle, write_tiny_relative

NUM_CHANNELS = 4
SIZES = {"sizes": ("64x64", "96x64"), "pos_embed_max_size": 16}


def recipe(prompt="a red apple", *, steps=4, guidance=2.0, seed=1, size=(64, 64)):
    return GenerationParams(prompt, *size, num_inference_steps=steps, guidance_scale=guidance, seed=seed)


def random_projection(num_channels=NUM_CHANNELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(num_channels)
    weight = torch.randn(shapes["weight"], generator=generator) / 40
    return Projection(weight, 0.5 + torch.randn(shapes["bias"], generator=generator) / 20)


def write_bundle_with_preview(folder, **overrides):
    bundle = write_tiny_bundle(folder, **overrides)
    random_projection().save(folder / PREVIEW_NAME)
    return name_preview(bundle, PREVIEW_NAME)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle_with_preview(tmp_path_factory.mktemp("tiny"), **SIZES)


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine.load(bundle, "cpu")


@pytest.fixture(scope="module")
def exact_engine(bundle):
    return Engine.load(bundle, "cpu", exact_rows=6)


def level_difference(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def states(engine, mine, *company):
    """After each step of `mine`: its preview and its decoded estimate, drawn together with the others'."""
    samples = engine.begin([mine, *company])
    while not samples[0].is_finished:
        active = [sample for sample in samples if not sample.is_finished]
        engine.step(active)
        yield engine.preview(active)[0], engine.decode_estimates(active)[0]


@pytest.mark.parametrize("exact_schedule", [False, True])
def test_where_the_velocity_is_exact_every_step_shows_the_finished_picture(engine, monkeypatch, exact_schedule):
    clean = torch.randn(NUM_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(5))

    def exact_velocity(latents, text, timestep):
        return (latents - clean) / (timestep / 1000).view(-1, 1, 1, 1)  # x = (1 - sigma) x0 + sigma noise

    monkeypatch.setattr(engine, "_compiled", {})
    engine.adopt(engine.compile_targets()[0], exact_velocity)
    samples = engine.begin(
        [replace(recipe(steps=20, guidance=guidance), exact_schedule=exact_schedule) for guidance in (4.5, 0.0)]
    )
    goal = engine._autoencoder.decode(clean[None])[0]
    tiny_goal = engine._autoencoder.previews.draw(clean)
    while not samples[0].is_finished:
        engine.step(samples)
        for picture in engine.decode_estimates(samples):
            assert level_difference(picture, goal) <= 1
        for picture in engine.preview(samples):
            assert level_difference(picture, tiny_goal) <= 1


def test_looking_on_changes_no_bit_of_what_is_drawn(engine):
    watched, unwatched = engine.begin([recipe()]), engine.begin([recipe()])
    while not watched[0].is_finished:
        engine.step(watched)
        engine.step(unwatched)
        engine.preview(watched)
        engine.decode_estimates(watched)
        assert torch.equal(watched[0].latents, unwatched[0].latents)


def test_a_preview_of_the_same_state_is_the_same_alone_and_in_company(engine):
    samples = engine.begin([recipe(seed=seed, guidance=seed / 2) for seed in range(6)])
    engine.step(samples)
    together = engine.preview(samples)
    engine.step(samples[3:])
    assert all(np.array_equal(engine.preview([one])[0], seen) for one, seen in zip(samples[:3], together, strict=False))
    assert not any(
        np.array_equal(one, seen) for one, seen in zip(engine.preview(samples[3:]), together[3:], strict=True)
    )


def test_in_exact_mode_all_that_is_shown_is_the_same_to_the_bit_in_any_company(exact_engine):
    company = [recipe("a blue car", steps=6, guidance=0.0, seed=8), recipe("", steps=7, guidance=7.5, seed=9)]
    alone, together = list(states(exact_engine, recipe())), list(states(exact_engine, recipe(), *company))
    assert len(alone) == len(together) == 3
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(mine, its) for mine, its in zip(one, other, strict=True))


def test_a_compiled_network_shows_what_the_network_itself_does(engine, monkeypatch):
    eager = list(states(engine, recipe()))
    monkeypatch.setattr(engine, "_compiled", {})
    # A package may hand out one buffer in another memory order than the network's.
    network = engine._network
    engine.adopt(
        engine.compile_targets()[0],
        lambda *inputs: network(*inputs).contiguous(memory_format=torch.channels_last),
    )
    for one, other in zip(eager, states(engine, recipe()), strict=True):
        assert all(level_difference(mine, its) <= 1 for mine, its in zip(one, other, strict=True))


def test_sizes_are_four_pixels_for_each_latent_and_the_pictures_own(engine):
    samples = engine.begin([recipe(size=(96, 64))])
    engine.step(samples)
    assert engine.preview(samples)[0].shape == (8 * PREVIEW_SCALE, 12 * PREVIEW_SCALE, 3)
    assert engine.decode_estimates(samples)[0].shape == (64, 96, 3)
    assert engine.preview(samples)[0].dtype == engine.decode_estimates(samples)[0].dtype == np.uint8


def test_more_estimates_than_one_decoder_call_takes_come_back_in_order(engine, exact_engine):
    for drawn_by, num_calls in ((engine, 2), (exact_engine, 6)):
        calls = []
        samples = drawn_by.begin([recipe(seed=seed, guidance=0.0) for seed in range(6)])
        drawn_by.step(samples)
        together = drawn_by.decode_estimates(samples, lambda calls=calls: calls.append(1))
        assert len(calls) == num_calls
        for sample, picture in zip(samples, together, strict=True):
            assert level_difference(drawn_by.decode_estimates([sample])[0], picture) <= 1


def test_before_its_first_step_there_is_nothing_to_show(engine):
    samples = engine.begin([recipe(), recipe(seed=2)])
    engine.step(samples[:1])
    for show in (engine.preview, engine.decode_estimates):
        with pytest.raises(ValueError, match="before its first step"):
            show(samples)
        assert show([]) == []


def test_of_a_finished_picture_the_estimate_is_the_picture(engine):
    samples = engine.begin([recipe(seed=7), recipe("a blue car", seed=8, guidance=0.0)])
    while not samples[0].is_finished:
        engine.step(samples)
    for estimate, picture in zip(engine.decode_estimates(samples), engine.decode(samples), strict=True):
        assert np.array_equal(estimate, picture)


def test_what_is_not_finite_is_not_shown(engine):
    samples = engine.begin([recipe()])
    engine.step(samples)
    samples[0].latents = samples[0].latents * torch.nan
    for show in (engine.preview, engine.decode_estimates):
        with pytest.raises(ArithmeticError, match="not finite"):
            show(samples)


def test_a_projection_is_the_same_from_its_file_but_for_half_precision(tmp_path, bundle):
    kept = Projection.load(bundle.parts.preview, NUM_CHANNELS)
    latents = torch.randn(NUM_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    assert level_difference(kept.draw(latents), random_projection().draw(latents)) <= 1
    kept.save(tmp_path / PREVIEW_NAME)
    assert (tmp_path / PREVIEW_NAME).read_bytes() == bundle.parts.preview.read_bytes()


def test_an_engine_draws_with_its_bundles_projection_whatever_it_decodes(engine, bundle):
    given = Projection.load(bundle.parts.preview, NUM_CHANNELS)
    samples = engine.begin([recipe(steps=2)])
    engine.step(samples)
    for _ in range(2):
        assert np.array_equal(engine.preview(samples)[0], given.draw(samples[0].latents))
        engine.decode(samples)


def test_a_preview_is_checked_before_it_is_read_and_copied_along(tmp_path):
    bundle = write_bundle_with_preview(tmp_path / "mine", name="mine")
    lines = []
    added = add_bundle(bundle.folder, tmp_path / "models", report=lines.append)
    assert [line.split()[0] for line in lines] == ["transformer", "preview", "text", "autoencoder"]
    assert added.parts.preview == tmp_path / "models" / "mine" / PREVIEW_NAME
    random_projection(num_channels=5).save(added.parts.preview)
    for read in (lambda: verify_bundle(added, lines.append), lambda: Engine.load(added, "cpu")):
        with pytest.raises(MisshapedTensors, match=r"weight is \[48, 5, 3, 3\], not \[48, 4, 3, 3\]"):
            read()
    added.parts.preview.write_bytes(added.parts.transformer.read_bytes())
    with pytest.raises(MissingTensors, match="weight, bias"):
        Engine.load(added, "cpu")
    added.parts.preview.unlink()
    with pytest.raises(MissingFiles, match=PREVIEW_NAME):
        Engine.load(added, "cpu")
    with pytest.raises(UnsafeFile, match=r"preview must be a \.safetensors file"):
        name_preview(bundle, "preview.pt").refuse_unsafe_files()


def test_models_that_share_an_autoencoder_share_its_colours(tmp_path):
    plain = write_tiny_bundle(tmp_path / "plain", name="plain")
    random_projection().save(tmp_path / PREVIEW_NAME)
    coloured = name_preview(write_tiny_relative(tmp_path / "coloured", plain, name="coloured"), f"../{PREVIEW_NAME}")
    for order in ((plain, coloured), (coloured, plain)):
        engines = load_engines(order, "cpu").engines.values()
        shown = []
        for engine in engines:
            assert engine._autoencoder.previews.given is not None
            samples = engine.begin([recipe(steps=1)])
            engine.step(samples)
            shown.append(engine.preview(samples)[0].shape)
        assert shown == [(32, 32, 3)] * 2
    assert read_bundle(plain.folder).parts.preview is None


def test_without_a_projection_previews_are_grey_until_the_decoder_has_shown_its_colours(tmp_path):
    engine = Engine.load(write_tiny_bundle(tmp_path), "cpu")
    samples = engine.begin([recipe(steps=2), recipe(seed=2, steps=2)])
    engine.step(samples)
    grey = engine.preview(samples)[0]
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey.min(), grey.max()) == (0, 255)
    picture = engine.decode(samples)[0]
    learnt = engine.preview(samples)[0]
    small = picture.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.square(learnt - small).mean() < np.square(grey - small).mean() / 4
    assert (learnt[..., 0] != learnt[..., 1]).any()


def test_random_latents_prime_the_colours_once(tmp_path, monkeypatch):
    autoencoder = Engine.load(write_tiny_bundle(tmp_path), "cpu")._autoencoder
    autoencoder.prime_previews()
    assert not autoencoder.previews.is_blank
    monkeypatch.setattr(autoencoder, "decode", None)
    autoencoder.prime_previews()


def test_a_decoder_that_is_a_projection_is_found_out():
    decoder, generator = random_projection(), torch.Generator().manual_seed(1)
    fit = RidgeFit(NUM_CHANNELS)
    for _ in range(20):
        latents = torch.randn(4, NUM_CHANNELS, 8, 8, generator=generator)
        fit.add(latents, np.stack([decoder.draw(one) for one in latents]).repeat(2, 1).repeat(2, 2))
    weight, bias = fit.solve()
    assert torch.allclose(weight, decoder.weight, atol=2e-3)
    assert torch.allclose(bias, decoder.bias, atol=2e-3)


def test_learning_ends():
    previews = Previews(NUM_CHANNELS)
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    for _ in range(MAX_PICTURES_SHOWN):
        previews.learn(torch.zeros(1, NUM_CHANNELS, 8, 8), picture)
    black = previews.draw(torch.zeros(NUM_CHANNELS, 8, 8))
    previews.learn(torch.zeros(1, NUM_CHANNELS, 8, 8), picture + 255)
    assert np.array_equal(previews.draw(torch.zeros(NUM_CHANNELS, 8, 8)), black)
    assert black.max() == 0
