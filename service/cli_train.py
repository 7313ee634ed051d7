"""`emmdit train`: the emoji world, its autoencoder, its denoiser, and the bundle they make.

Ctrl-C saves a checkpoint; the same command goes on from it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

train_app = typer.Typer(
    help="Train the demo: world, then autoencoder, then latents, then denoiser, then bundle.", no_args_is_help=True
)

DatasetOption = Annotated[Path, typer.Option(help="Folder of rendered scenes.")]
OutOption = Annotated[Path, typer.Option(help="Folder for checkpoints and results.")]
MinutesOption = Annotated[float, typer.Option(help="Minutes of training after which the run ends.")]
ObjectsOption = Annotated[str, typer.Option(help="Comma-separated object names; empty for all eighty.")]
AutoencoderOption = Annotated[Path, typer.Option(help="Folder of a trained autoencoder.")]
LatentsOption = Annotated[Path, typer.Option(help="The .npy file of latents.")]


@train_app.command()
def world(
    dataset: DatasetOption = Path("runs/world"),
    num_scenes: Annotated[int, typer.Option(help="Scenes to render.")] = 60_000,
    objects: ObjectsOption = "",
    size: Annotated[int, typer.Option(help="Side of a picture, in pixels.")] = 128,
    num_workers: Annotated[int, typer.Option(help="Processes that render.")] = 2,
) -> None:
    """Render captioned scenes of the emoji world. Continues where it was stopped."""
    from model.training.dataset import render_dataset
    from model.training.sprites import object_names
    from model.training.world import EmojiWorld

    names = _names(objects) or object_names()
    render_dataset(EmojiWorld(names, size), num_scenes, dataset, num_workers=num_workers, report=_report)


@train_app.command()
def autoencoder(
    dataset: DatasetOption = Path("runs/world"),
    out: OutOption = Path("runs/autoencoder"),
    minutes: MinutesOption = 15.0,
    keep_encoder: Annotated[
        Path | None, typer.Option(help="A finished autoencoder: train only a new decoder, so that latents stay valid.")
    ] = None,
) -> None:
    """Train the small DC-AE."""
    from model.training.autoencoder_trainer import AutoencoderTrainConfig, train_autoencoder

    config = AutoencoderTrainConfig(dataset, out, max_minutes=minutes, frozen_encoder=keep_encoder)
    train_autoencoder(config, report=_report, should_stop=_stop_on_signal())


@train_app.command()
def latents(
    dataset: DatasetOption = Path("runs/world"),
    autoencoder: AutoencoderOption = Path("runs/autoencoder/autoencoder"),
    target: LatentsOption = Path("runs/world/latents.npy"),
) -> None:
    """Encode every scene once, so that the denoiser trains on stored latents."""
    from model.training.autoencoder_trainer import encode_dataset

    encode_dataset(autoencoder, dataset, target, report=_report)


@train_app.command()
def denoiser(
    dataset: DatasetOption = Path("runs/world"),
    latents: LatentsOption = Path("runs/world/latents.npy"),
    out: OutOption = Path("runs/denoiser"),
    minutes: MinutesOption = 60.0,
    objects: ObjectsOption = "",
    batch_size: Annotated[int, typer.Option(help="Scenes per step.")] = 64,
    start_from: Annotated[Path | None, typer.Option(help="A bundle whose weights a new run begins with.")] = None,
    compile: Annotated[bool, typer.Option(help="Compile the network: minutes at the start, faster on a GPU.")] = False,
) -> None:
    """Train E-MMDiT and its text encoder together. Continues from the checkpoint in --out if there is one."""
    from model.training.denoiser_trainer import DenoiserTrainConfig, train_denoiser

    config = DenoiserTrainConfig(
        dataset,
        latents,
        out,
        objects=_names(objects),
        start_from=start_from,
        max_minutes=minutes,
        batch_size=batch_size,
        is_compiled=compile,
    )
    train_denoiser(config, report=_report, should_stop=_stop_on_signal())


@train_app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="Folder to write the bundle to.")],
    checkpoint: Annotated[Path, typer.Option(help="The denoiser's checkpoint.")] = Path(
        "runs/denoiser/denoiser.checkpoint.safetensors"
    ),
    autoencoder: AutoencoderOption = Path("runs/autoencoder/autoencoder"),
    name: Annotated[str, typer.Option(help="The model's name.")] = "demo",
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    steps: Annotated[int, typer.Option(help="Default number of steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Default guidance scale.")] = 3.0,
) -> None:
    """Write a trained model as a bundle that `emmdit serve --model` loads."""
    from model.training.export import export_bundle

    export_bundle(
        checkpoint, autoencoder, bundle, name=name, version=version, default_steps=steps, default_guidance=guidance
    )
    typer.echo(f"written: {bundle}")


@train_app.command()
def sheet(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    target: Annotated[Path, typer.Argument(help="PNG to write.")],
    seed: Annotated[int, typer.Option(help="The first picture's seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps; the bundle's own if not given.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; the bundle's own if not given.")] = None,
) -> None:
    """Draw a contact sheet, to look at what a bundle has learnt."""
    from model.training.sheet import write_sheet

    write_sheet(bundle, target, seed=seed, steps=steps, guidance=guidance)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _report(line: str) -> None:
    typer.echo(line)


def _stop_on_signal() -> Callable[[], bool]:
    """True once SIGINT or SIGTERM came: the trainer then saves and returns."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    return lambda: bool(received)
