"""`emmdit train prepare`, `recipe`, `recipe-export` and `preview`: E-MMDiT as published, from pictures of one's own.

Part of `emmdit train`; docs/recipe.md walks through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from model.bundle import MANIFEST_NAME
from model.catalog import resolve_bundle
from service.errors import ConfigurationError

recipe_app = typer.Typer()

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N (also for ROCm).")]


@recipe_app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Pictures with captions: a folder, a .tar file or a folder of them.")],
    target: Annotated[Path, typer.Argument(help="Folder for the prepared data.")],
    bundle: Annotated[str, typer.Option(help="Model whose autoencoder and text encoder are used: name or folder.")],
    text: Annotated[
        str, typer.Option(help="Store text as 'embeddings', or as 'captions' that training encodes.")
    ] = "embeddings",
    features: Annotated[Path | None, typer.Option(help="Folder of a DINOv2, for recipes with REPA.")] = None,
    shard_samples: Annotated[int, typer.Option(help="Pictures per shard, where the source has no shards.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Pictures encoded at once.")] = 32,
    num_workers: Annotated[int, typer.Option(help="Processes; several GPUs are dealt out to them.")] = 1,
    shard_of: Annotated[str, typer.Option(help="i/n: this is machine i of n, and does every n-th shard.")] = "1/1",
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "auto",
) -> None:
    """Compute latents, text embeddings and features of pictures once, for `emmdit train recipe`. Resumable."""
    from model.training.prepare import PrepareConfig
    from model.training.prepare import prepare as prepare_data

    machine, _, num_machines = shard_of.partition("/")
    if not (machine.isdecimal() and num_machines.isdecimal() and 1 <= int(machine) <= int(num_machines)):
        raise ConfigurationError(f"--shard-of {shard_of!r}: must be i/n with i from 1 to n, as in 2/4")
    _require_one_of("--text", text, "embeddings", "captions")
    _require_one_of("--dtype", dtype, "auto", "float32", "bfloat16", "float16")
    _require_device(device)
    config = PrepareConfig(
        source,
        target,
        _bundle_folder(bundle),
        is_text_encoded=text == "embeddings",
        features=features,
        shard_samples=shard_samples,
        batch_size=batch_size,
        num_workers=num_workers,
        machine=int(machine) - 1,
        num_machines=int(num_machines),
        device=device,
        dtype=dtype,
    )
    with _explained():
        prepare_data(config, report=typer.echo)


@recipe_app.command()
def recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one such as smoke.")],
    data: Annotated[list[Path], typer.Option(help="Folder of `emmdit train prepare`; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = Path("runs/recipe"),
    start_from: Annotated[
        Path | None,
        typer.Option(help="Weights that a new run begins with: a bundle, a transformer file, a checkpoint."),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Model with the text encoder, where the data has captions only: name or folder.")
    ] = None,
    rows_per_forward: Annotated[
        int | None, typer.Option(help="Samples that a device takes at once, instead of the recipe's number.")
    ] = None,
    device: DeviceOption = "auto",
    shard: Annotated[bool, typer.Option("--shard", help="FSDP: spread the weights over torchrun's processes.")] = False,
    compile: Annotated[bool, typer.Option(help="Compile the network: minutes at the start, faster on a GPU.")] = False,
    sample_every: Annotated[
        float, typer.Option(help="Minutes between sample grids, drawn with the parts of the data's bundle; 0: none.")
    ] = 0.0,
) -> None:
    """Train E-MMDiT by a recipe file, on prepared data. Continues from the checkpoint in --out if there is one."""
    from model.training.recipe import find_recipe, read_recipe
    from model.training.recipe_trainer import RecipeRun, train_recipe
    from service.cli.train import stop_on_signal

    _require_device(device)
    with _explained():
        run = RecipeRun(
            read_recipe(find_recipe(recipe)),
            tuple(data),
            out,
            start_from=start_from,
            bundle=None if bundle is None else _bundle_folder(bundle),
            rows_per_forward=rows_per_forward,
            device=device,
            is_sharded=shard,
            is_compiled=compile,
            sample_every_min=sample_every,
        )
        train_recipe(run, report=typer.echo, should_stop=stop_on_signal())


@recipe_app.command()
def preview(
    bundle: Annotated[str, typer.Argument(help="Model whose previews are to be fitted: name or folder.")],
    pictures: Annotated[Path, typer.Argument(help="Pictures: a folder, a .tar file, a folder of them, a dataset.")],
    num_pictures: Annotated[int, typer.Option(min=20, help="Pictures to take; every tenth is held out.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures encoded at once.")] = 8,
    device: DeviceOption = "auto",
) -> None:
    """Fit the previews of a model's autoencoder (seconds; no training), and write them into its bundle.

    Captions are not needed. Tells how close previews of held-out pictures come to them, in decibels.
    """
    from model.training.preview_trainer import PreviewConfig, fit_preview

    _require_device(device)
    with _explained():
        config = PreviewConfig(_bundle_folder(bundle), pictures, num_pictures, batch_size, device)
        fit_preview(config, report=typer.echo)


@recipe_app.command()
def recipe_export(
    bundle: Annotated[Path, typer.Argument(help="Folder to write the bundle to.")],
    name: Annotated[str, typer.Option(help="The model's name.")],
    checkpoint: Annotated[Path, typer.Option(help="The recipe's checkpoint.")] = Path(
        "runs/recipe/recipe.checkpoint.safetensors"
    ),
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "bf16",
    steps: Annotated[int, typer.Option(help="Default number of steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Default guidance scale.")] = 4.5,
    license: Annotated[str, typer.Option(help="What may be done with the model.")] = "unknown",
) -> None:
    """Write a model trained by a recipe as a bundle; text encoder and autoencoder stay where they are."""
    from model.training.recipe_export import export_recipe

    with _explained():
        export_recipe(
            checkpoint,
            bundle,
            name=name,
            version=version,
            dtype=dtype,
            default_steps=steps,
            default_guidance=guidance,
            license_note=license,
        )
    typer.echo(f"written: {bundle}; try it: emmdit serve --model {bundle}, or emmdit models add {bundle}")


def _bundle_folder(model: str) -> Path:
    """A bundle's folder, by path or name. One given by path needs no transformer: that is to be trained."""
    folder = Path(model).expanduser()
    from service.settings import load_settings

    return folder if (folder / MANIFEST_NAME).is_file() else resolve_bundle(model, load_settings().models_dir).folder


def _require_one_of(option: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{option} {value!r}: must be {', '.join(allowed[:-1])} or {allowed[-1]}")


def _require_device(name: str) -> None:
    from model.engine import choose_device

    try:
        choose_device(name)
    except (ValueError, RuntimeError) as error:  # torch has its own word for names that it does not know
        raise ConfigurationError(f"--device: {error}") from error


@contextmanager
def _explained() -> Iterator[None]:
    """What is wrong with files and values ends the command with a sentence, not with a traceback."""
    from model.training.recipe import RecipeError
    from model.training.shards import ShardError
    from model.training.sources import SourceError

    try:
        yield
    except (RecipeError, ShardError, SourceError) as error:
        raise ConfigurationError(str(error)) from error
