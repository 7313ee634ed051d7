"""Recipe files: the published values, and what is said of a file that is wrong."""

from types import SimpleNamespace

import pytest

from model.config import NITRO_E_512, NITRO_E_1024
from model.training.recipe import RECIPES_FOLDER, RecipeError, RepaValues, find_recipe, read_recipe

SHAPES_512 = {"latent_shape": (32, 16, 16), "text_shape": (128, 2048), "feature_shape": (256, 768)}
SHAPES_1024 = SHAPES_512 | {"latent_shape": (32, 32, 32)}


def data_of(**shapes):
    return SimpleNamespace(manifest=SimpleNamespace(**shapes))


@pytest.mark.parametrize(
    ("size", "config", "shapes"), [(512, NITRO_E_512, SHAPES_512), (1024, NITRO_E_1024, SHAPES_1024)]
)
def test_the_shipped_recipes_hold_the_published_values(size, config, shapes):
    first, second = (read_recipe(find_recipe(f"emmdit-{size}-stage-{stage}")) for stage in (1, 2))
    for recipe in (first, second):
        values = recipe.training
        assert recipe.model_config(data_of(**shapes)) == config
        assert (values.batch_size, values.precision, values.warmup_steps) == (2048, "bf16", 500)
        assert (values.weight_decay, values.adam_eps, values.adam_betas) == (0.03, 1e-10, (0.9, 0.999))
        assert (values.timestep_mean, values.timestep_std, values.timestep_shift) == (0, 1, 1)
        assert values.caption_dropout == 0.1
    one, two = first.training, second.training
    assert (one.max_steps, one.learning_rate, one.max_grad_norm, one.ema_decay) == (100_000, 3e-4, 0.5, 0)
    assert (two.max_steps, two.learning_rate, two.max_grad_norm, two.ema_decay) == (50_000, 1e-4, 1.0, 0.9999)
    assert first.repa == RepaValues(weight=0.5, hidden_size=2048, feature_channels=768)
    assert second.repa is None


def test_every_shipped_recipe_is_sound_and_named_as_its_file():
    paths = sorted(RECIPES_FOLDER.glob("*.toml"))
    assert len(paths) == 5
    assert [read_recipe(path).name for path in paths] == [path.stem for path in paths]


def test_every_published_value_says_where_it_comes_from():
    for path in RECIPES_FOLDER.glob("emmdit-*.toml"):
        lines = [line for line in path.read_text().splitlines() if " = " in line and not line.startswith("name")]
        assert all(" # " in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "learning_rate = 1e-3",
            "learning_rat = 1e-3",
            r"training\.learning_rat: unknown key; known: max_steps, b",
        ),
        ("learning_rate = 1e-3", "", r"training\.learning_rate: missing"),
        ("learning_rate = 1e-3", 'learning_rate = "fast"', r"training\.learning_rate: must be float, got 'fast'"),
        ("learning_rate = 1e-3", "learning_rate = 0", r"training\.learning_rate is 0\.0; it must be above 0"),
        ("batch_size = 32", "batch_size = true", r"training\.batch_size: must be int, got True"),
        ("batch_size = 32", "batch_size = 0", r"training\.batch_size is 0; it must be at least 1"),
        ("ema_decay = 0.9", "ema_decay = 1", r"training\.ema_decay is 1\.0; it must be from 0 to below 1"),
        ("[0.9, 0.999]", "[0.9]", r"training\.adam_betas: must be 2 values, got \[0\.9\]"),
        ("[0.9, 0.999]", "[0.9, 1.5]", r"training\.adam_betas is \(0\.9, 1\.5\); it must be from 0"),
        ('"fp32"', '"fp8"', r"training\.precision is 'fp8'; it must be bf16 or fp32"),
        ("[training]", "[trainings]", r"trainings: unknown key; known: name, architecture, training, repa"),
        ('name = "smoke"', 'name = "smoke"\nrepa = 1', r"repa: must be a table, got 1"),
        ("[training]", "[repa]\nweight = 0.5\n[training]", r"repa\.hidden_size: missing"),
        ("stages = [1, 2, 1]", "steps = 3", r"architecture\.steps: unknown key; known: sample_size"),
        ('name = "smoke"', "name = ", r"unreadable: Invalid value"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(tmp_path, old, new, message):
    text = (RECIPES_FOLDER / "smoke.toml").read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(RecipeError, match=rf"mine\.toml: {message}"):
        read_recipe(tmp_path / "mine.toml")


def test_a_recipe_is_found_by_name_or_path(tmp_path):
    (tmp_path / "mine.toml").write_text("")
    assert find_recipe("smoke") == RECIPES_FOLDER / "smoke.toml"
    assert find_recipe(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match="no such file; shipped recipes: emmdit-1024-stage-1, emmdit-1024-stage-2"):
        find_recipe("emmdit-256")


def test_a_recipe_that_does_not_fit_the_data_says_where():
    published = read_recipe(find_recipe("emmdit-512-stage-1"))
    with pytest.raises(RecipeError, match=r"architecture\.sample_size is 16 in the recipe .*, but 32 in the data"):
        published.model_config(data_of(**SHAPES_1024))
    with pytest.raises(RecipeError, match=r"table \[repa\], but the data holds no features"):
        published.model_config(data_of(**SHAPES_512 | {"feature_shape": None}))
    with pytest.raises(RecipeError, match=r"repa\.feature_channels is 768, but 1024 in the data"):
        published.model_config(data_of(**SHAPES_512 | {"feature_shape": (256, 1024)}))
    smoke = read_recipe(find_recipe("smoke"))
    with pytest.raises(RecipeError, match="architecture: sample_size must be a multiple of 4"):
        smoke.model_config(data_of(**SHAPES_512 | {"latent_shape": (32, 6, 6)}))


def test_what_a_recipe_leaves_out_is_taken_from_the_data():
    smoke = read_recipe(find_recipe("smoke"))
    config = smoke.model_config(data_of(latent_shape=(4, 8, 8), text_shape=(10, 128), feature_shape=None))
    assert (config.in_channels, config.sample_size, config.num_text_tokens, config.caption_channels) == (4, 8, 10, 128)
