"""Recipes: training runs of E-MMDiT alone as TOML files. An unknown or missing key is an error that names it.

`recipes/` holds the published two stages for 512 and 1024 px, and one for a laptop.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.training.prepared_data import PreparedData

RECIPES_FOLDER = Path(__file__).parent / "recipes"
PRECISIONS = ("bf16", "fp32")


class RecipeError(ValueError):
    """A recipe that can't be read, or does not fit the data. The message names the key, the value, what is allowed."""


@dataclass(frozen=True, slots=True)
class TrainingValues:
    """Table [training]. `batch_size` counts samples of a step over all devices; one takes `rows_per_forward` at once.

    `ema_decay` 0 keeps no average. Timesteps: sigmoid(mean + std * normal), then shifted (1: not at all).
    """

    max_steps: int
    batch_size: int
    rows_per_forward: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    adam_betas: tuple[float, float]
    adam_eps: float
    max_grad_norm: float
    ema_decay: float
    caption_dropout: float
    timestep_mean: float
    timestep_std: float
    timestep_shift: float
    precision: str
    seed: int
    report_every: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        for key in ("max_steps", "batch_size", "rows_per_forward", "warmup_steps", "report_every", "checkpoint_every"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("learning_rate", "adam_eps", "max_grad_norm", "timestep_std", "timestep_shift"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")
        for key in ("ema_decay", "caption_dropout"):
            _require(0 <= getattr(self, key) < 1, key, getattr(self, key), "from 0 to below 1")
        _require(all(0 <= beta < 1 for beta in self.adam_betas), "adam_betas", self.adam_betas, "from 0 to below 1")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "of 32 bits")
        _require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))


@dataclass(frozen=True, slots=True)
class RepaValues:
    """Table [repa]: early tokens learn to say what DINOv2 says of the picture, through a head of three layers."""

    weight: float
    hidden_size: int
    feature_channels: int

    def __post_init__(self) -> None:
        for key in ("weight", "hidden_size", "feature_channels"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "above 0")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One stage. `architecture` holds the keys of ModelConfig that the file gives; the data decides the rest."""

    name: str
    architecture: Mapping[str, Any]
    training: TrainingValues
    repa: RepaValues | None

    def model_config(self, data: PreparedData) -> ModelConfig:
        """The network for this data. Raises RecipeError where the two do not fit."""
        latent, text = data.manifest.latent_shape, data.manifest.text_shape
        of_data = {
            "in_channels": latent[0],
            "sample_size": latent[1],
            "num_text_tokens": text[0],
            "caption_channels": text[1],
        }
        for key, value in of_data.items():
            if (wanted := self.architecture.get(key, value)) != value:
                raise RecipeError(f"architecture.{key} is {wanted} in the recipe {self.name}, but {value} in the data")
        if self.repa is not None:
            found = data.manifest.feature_shape
            if found is None:
                raise RecipeError(
                    f"the recipe {self.name} has a table [repa], but the data holds no features: "
                    "prepare it with --features (a DINOv2 folder), or remove the table"
                )
            if found[1] != self.repa.feature_channels:
                raise RecipeError(f"repa.feature_channels is {self.repa.feature_channels}, but {found[1]} in the data")
        try:
            return ModelConfig.from_dict({**of_data, **self.architecture})
        except (ValueError, TypeError) as error:
            raise RecipeError(f"architecture: {error}") from error


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped one. Raises RecipeError."""
    shipped = RECIPES_FOLDER / f"{name}.toml"
    path = Path(name)
    if path.is_file():
        return path
    if path.name == name and shipped.is_file():
        return shipped
    known = ", ".join(sorted(path.stem for path in RECIPES_FOLDER.glob("*.toml")))
    raise RecipeError(f"{name}: no such file; shipped recipes: {known}")


def read_recipe(path: Path) -> Recipe:
    """Read and judge a recipe file. Raises RecipeError."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: unreadable: {error}") from error
    try:
        recipe = typing.cast(Recipe, _build(Recipe, values, ""))
        unknown = sorted(set(recipe.architecture) - set(ModelConfig.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"architecture.{unknown[0]}: unknown key; known: {', '.join(ModelConfig.__dataclass_fields__)}"
            )
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    return recipe


def _require(is_met: bool, key: str, value: object, allowed: str) -> None:
    if not is_met:
        raise ValueError(f"{key} is {value!r}; it must be {allowed}")


def _build(kind: type[Any], values: Mapping[str, Any], prefix: str) -> object:
    """A dataclass from a TOML table, each value of exactly the annotated type (whole numbers pass as floats)."""
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"{prefix}{unknown[0]}: unknown key; known: {', '.join(hints)}")
    taken: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name in values:
            taken[field.name] = _convert(hint, values[field.name], f"{prefix}{field.name}")
        elif isinstance(hint, types.UnionType):  # a table that may be left out
            taken[field.name] = None
        else:
            raise ValueError(f"{prefix}{field.name}: missing")
    try:
        return kind(**taken)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def _convert(hint: Any, value: object, key: str) -> object:  # noqa: ANN401 (an annotation has no common type)
    if isinstance(hint, types.UnionType):
        hint = next(part for part in hint.__args__ if part is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{key}: must be a table, got {value!r}")
        return _build(typing.cast(type, hint), value, f"{key}.")
    if hint is float and type(value) is int:
        return float(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        kinds = typing.get_args(hint)
        if len(value) != len(kinds):
            raise ValueError(f"{key}: must be {len(kinds)} values, got {value!r}")
        return tuple(_convert(kind, item, key) for kind, item in zip(kinds, value, strict=True))
    wanted = dict if typing.get_origin(hint) is not None else hint
    if type(value) is not wanted:
        raise ValueError(f"{key}: must be {wanted.__name__}, got {value!r}")
    return value
