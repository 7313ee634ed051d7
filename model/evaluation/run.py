"""One run of an evaluation: which model draws which prompts, and how. All that its pictures depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from model.bundle import Bundle, read_bundle
from model.config import ModelCard
from model.engine import Engine
from model.evaluation.errors import EvaluationError
from model.evaluation.prompt_sets import PromptSet, find_prompts
from model.evaluation.shots import DrawSettings

BATCH_ROWS_CPU = 8  # two cores are no faster with more
BATCH_ROWS_GPU = 64


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of a run. None takes the model's own setting, or a batch that suits the device."""

    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    images_per_prompt: int = 1
    batch_rows: int | None = None
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Run:
    """What is drawn, with what. `weights_sha256`: see `weights_digest`; "" where the weights are in no file."""

    card: ModelCard
    weights_sha256: str
    device: str
    dtype: str
    prompts: PromptSet
    settings: DrawSettings

    def drawn_by(self) -> dict[str, object]:
        """What runs must share for their pictures to lie in one folder; one may draw more of a prompt than another."""
        return {
            "model": self.card.name,
            "version": self.card.version,
            "weights_sha256": self.weights_sha256,
            "prompts": self.prompts.name,
            "prompts_sha256": self.prompts.sha256,
            "stream": self.prompts.stream,
            "size": self.card.sizes[0],
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "seed": self.settings.seed,
            "dtype": self.dtype,
        }


def open_run(bundle: Bundle | Path, prompts: str | PromptSet, options: Options) -> tuple[Engine, Run]:
    """Load a bundle (or the bundle in a folder) and plan its run: see `plan_run`. Raises EvaluationError, BundleError.

    `prompts` is a set, or what `find_prompts` takes.
    """
    if isinstance(bundle, Path):
        bundle = read_bundle(bundle)
    if isinstance(prompts, str):
        prompts = find_prompts(prompts, bundle.card.vocabulary)
    try:
        engine = Engine.load(bundle, options.device, options.dtype)
    except ValueError as error:  # a device that is not there
        raise EvaluationError(str(error)) from error
    return engine, plan_run(engine, prompts, options, weights_digest(bundle))


def plan_run(engine: Engine, prompts: PromptSet, options: Options, weights_sha256: str = "") -> Run:
    """The run of a model that is loaded already, perhaps in the middle of its training."""
    card = engine.card
    rows = BATCH_ROWS_CPU if engine.device.type == "cpu" else BATCH_ROWS_GPU
    settings = DrawSettings(
        steps=card.default_steps if options.steps is None else options.steps,
        guidance=card.default_guidance if options.guidance is None else options.guidance,
        seed=options.seed,
        images_per_prompt=options.images_per_prompt,
        batch_rows=rows if options.batch_rows is None else options.batch_rows,
    )
    dtype = str(engine.dtype).removeprefix("torch.")
    return Run(card, weights_sha256, str(engine.device), dtype, prompts, settings)


def weights_digest(bundle: Bundle) -> str:
    """One SHA-256, in hex, over all tensor files of a bundle: two bundles of one name and version may differ."""
    parts = bundle.parts
    folders = [folder for folder in (parts.text_encoder, parts.autoencoder, parts.adapter) if folder is not None]
    digest = hashlib.sha256()
    for path in (parts.transformer, *(path for folder in folders for path in sorted(folder.glob("*.safetensors")))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
