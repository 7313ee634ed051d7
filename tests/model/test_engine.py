from dataclasses import replace

import numpy as np
import pytest
import torch

from model.engine import Engine, choose_device, choose_dtype
from model.params import MAX_SEED, GenerationParams
from model.sampler import initial_noise
from tests.support.tiny_bundle import write_tiny_bundle

# Alone or in company, a picture is the same to one level of 255: batched float32 products add in another order.
MAX_LEVEL_DIFFERENCE = 1
# The same promise in bfloat16, whose velocities carry three digits: what is stated in docs/scheduling.md.
MIN_BFLOAT16_PSNR_DB = 35


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("tiny"), sizes=("64x64", "96x64"), pos_embed_max_size=16)
    return Engine.load(bundle, "cpu")


def recipe(prompt="a red apple", *, steps=3, guidance=2.0, seed=1, size=(64, 64)):
    return GenerationParams(prompt, *size, num_inference_steps=steps, guidance_scale=guidance, seed=seed)


def draw(engine, *recipes):
    samples = engine.begin(recipes)
    while active := [sample for sample in samples if not sample.is_finished]:
        engine.step(active)
    return engine.decode(samples)


def psnr(one, other):
    mean_square = float(np.square(one.astype(float) - other).mean())
    return 10 * np.log10(255**2 / mean_square) if mean_square else np.inf


def level_difference(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_a_seed_draws_the_same_picture_alone_and_in_company(engine):
    mine = recipe(seed=7)
    company = [recipe("a blue car", steps=5, guidance=0.0, seed=8), recipe("", steps=1, guidance=7.5, seed=9)]
    alone = draw(engine, mine)[0]
    together = draw(engine, company[0], mine, company[1])[1]
    assert level_difference(alone, together) <= MAX_LEVEL_DIFFERENCE


def test_a_picture_that_joins_a_batch_in_mid_flight_is_the_same_picture(engine):
    mine, other = recipe(seed=7, steps=4), recipe("a blue car", seed=8, steps=6, guidance=0.0)
    alone = draw(engine, mine)[0]
    first = engine.begin([other])
    engine.step(first)
    engine.step(first)
    late = engine.begin([mine])
    while active := [sample for sample in (*first, *late) if not sample.is_finished]:
        engine.step(active)
    assert level_difference(alone, engine.decode(late)[0]) <= MAX_LEVEL_DIFFERENCE


def test_another_seed_prompt_or_guidance_draws_another_picture(engine):
    base = draw(engine, recipe())[0]
    for changed in (recipe(seed=2), recipe("a blue car"), recipe(guidance=6.0), recipe(steps=2)):
        assert level_difference(base, draw(engine, changed)[0]) > MAX_LEVEL_DIFFERENCE


def test_rows_keep_their_own_step_counts(engine):
    short, long = engine.begin([recipe(steps=2), recipe(steps=4)])
    engine.step([short, long])
    assert short.is_finished
    assert not long.is_finished
    assert (short.step, long.step, long.num_steps) == (1, 1, 3)


def test_pictures_have_the_size_that_was_asked_for(engine):
    (picture,) = draw(engine, recipe(size=(96, 64)))
    assert picture.shape == (64, 96, 3)
    assert picture.dtype == np.uint8


def test_guidance_of_one_or_less_takes_a_single_forward_row(engine):
    free, guided = engine.begin([recipe(guidance=1.0), recipe(guidance=1.5)])
    assert free.negative_embedding is None
    assert guided.negative_embedding is not None


def test_prompts_of_one_batch_are_encoded_once_each(engine):
    before = engine.cache_counts
    engine.begin([recipe("a green clock", seed=seed, guidance=0.0) for seed in range(3)])
    hits, misses = (now - then for now, then in zip(engine.cache_counts, before, strict=True))
    assert (hits, misses) == (0, 1)


def test_more_pictures_than_one_decoder_call_takes_come_back_in_order(engine):
    recipes = [recipe(seed=seed, steps=1) for seed in range(6)]
    calls = []
    samples = engine.begin(recipes)
    engine.step(samples)
    together = engine.decode(samples, lambda: calls.append(1))
    assert len(calls) == 2
    for one, picture in zip(recipes, together, strict=True):
        assert level_difference(draw(engine, one)[0], picture) <= MAX_LEVEL_DIFFERENCE


def test_a_sample_that_is_not_finite_is_an_error_and_never_a_picture(engine):
    samples = engine.begin([recipe(steps=1)])
    engine.step(samples)
    samples[0].latents = samples[0].latents * torch.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        engine.decode(samples)


def test_a_device_that_is_not_there_is_refused_with_what_is():
    with pytest.raises(ValueError, match=r"'cuda:9' is not there.*sees 0 GPU"):
        choose_device("cuda:9")


def test_number_formats_follow_the_device():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("float16", torch.device("cpu")) == torch.float16


def test_every_allowed_seed_is_a_picture_of_its_own_and_larger_ones_are_refused():
    noises = [initial_noise(seed, (1, 2, 2)) for seed in (0, 1, MAX_SEED - 1, MAX_SEED)]
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == len(noises)
    with pytest.raises(ValueError, match=r"seed must be 0\.\.4294967295, got 4294967296"):
        recipe(seed=MAX_SEED + 1)


def test_the_merged_last_step_is_within_a_few_levels_of_the_published_schedule(engine):
    merged, exact = recipe(steps=20, guidance=4.5), replace(recipe(steps=20, guidance=4.5), exact_schedule=True)
    (short,), (long,) = engine.begin([merged]), engine.begin([exact])
    assert (short.num_steps, long.num_steps) == (merged.num_forwards, exact.num_forwards) == (19, 20)
    assert level_difference(draw(engine, merged)[0], draw(engine, exact)[0]) <= 3


@pytest.fixture(scope="module")
def exact_engine(tmp_path_factory):
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("exact"), sizes=("64x64", "96x64"), pos_embed_max_size=16)
    return Engine.load(bundle, "cpu", exact_rows=6)


def test_in_exact_mode_a_picture_is_the_same_to_the_bit_in_any_company(exact_engine):
    mine = recipe(seed=7)
    company = [recipe("a blue car", steps=5, guidance=0.0, seed=8), recipe("", steps=4, guidance=7.5, seed=9)]
    (alone,) = exact_engine.begin([mine])
    while not alone.is_finished:
        exact_engine.step([alone])
    for place in range(3):
        samples = exact_engine.begin([*company[:place], mine, *company[place:]])
        while active := [sample for sample in samples if not sample.is_finished]:
            exact_engine.step(active)
        assert torch.equal(samples[place].latents, alone.latents)
        assert np.array_equal(exact_engine.decode(samples)[place], exact_engine.decode([alone])[0])


def test_in_exact_mode_joining_in_mid_flight_changes_no_bit(exact_engine):
    mine, other = recipe(seed=7, steps=4), recipe("a blue car", seed=8, steps=6, guidance=0.0)
    (alone,) = exact_engine.begin([mine])
    while not alone.is_finished:
        exact_engine.step([alone])
    first = exact_engine.begin([other])
    exact_engine.step(first)
    late = exact_engine.begin([mine])
    while active := [sample for sample in (*first, *late) if not sample.is_finished]:
        exact_engine.step(active)
    assert torch.equal(late[0].latents, alone.latents)


def test_exact_mode_has_no_more_rows_than_it_says_and_nothing_to_compile(exact_engine, engine):
    samples = exact_engine.begin([recipe(seed=seed) for seed in range(4)])
    with pytest.raises(ValueError, match="a forward has 6 rows, not 8"):
        exact_engine.step(samples)
    assert exact_engine.compile_targets() == []
    assert [(t.height, t.width, t.dtype) for t in engine.compile_targets()] == [(8, 8, "float32"), (8, 12, "float32")]


def test_in_bfloat16_company_changes_a_picture_no_more_than_the_number_format_does(tmp_path):
    bundle = write_tiny_bundle(tmp_path)
    rounded, precise = Engine.load(bundle, "cpu", "bfloat16"), Engine.load(bundle, "cpu", "float32")
    mine = recipe(seed=7, steps=6)
    company = [recipe("a blue car", steps=8, guidance=0.0, seed=8), recipe("", steps=7, guidance=7.5, seed=9)]
    alone, reference = draw(rounded, mine)[0], draw(precise, mine)[0]
    together = draw(rounded, company[0], mine, company[1])[1]
    assert psnr(alone, together) >= MIN_BFLOAT16_PSNR_DB
    assert psnr(alone, together) >= psnr(alone, reference) - 3


def test_an_adopted_forward_takes_the_steps_of_its_size_only(engine, monkeypatch):
    sizes = []

    def compiled(latents, text, timestep):
        sizes.append(tuple(latents.shape[2:]))
        return network(latents, text, timestep)

    network = engine._network
    monkeypatch.setattr(engine, "_compiled", {})
    engine.adopt(engine.compile_targets()[1], compiled)
    before = draw(engine, recipe())[0]
    draw(engine, recipe(size=(96, 64), steps=3))
    assert sizes == [(8, 12)] * 2
    assert np.array_equal(before, draw(engine, recipe())[0])
