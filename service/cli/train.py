"""`emmdit train`: the emoji world, its autoencoder, its denoiser, and the bundle they make.

Ctrl-C saves a checkpoint; the same command goes on from it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from service.cli.recipe import recipe_app

train_app = typer.Typer(
    help="Train the demo: world, then autoencoder, then latents, then denoiser, then bundle.", no_args_is_help=True
)
train_app.add_typer(recipe_app)

DatasetOption = Annotated[Path, typer.Option(help="Folder of rendered scenes.")]
OutOption = Annotated[Path, typer.Option(help="Folder for checkpoints and results.")]
MinutesOption = Annotated[float, typer.Option(help="Minutes of training after which the run ends.")]
ObjectsOption = Annotated[str, typer.Option(help="Comma-separated object names; empty for all eighty.")]
AutoencoderOption = Annotated[Path, typer.Option(help="Folder of a trained autoencoder.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU if there is one.")]
DtypeOption = Annotated[str, typer.Option(help="float32 or bfloat16 (autocast); auto is bfloat16 on a GPU.")]
ShardOption = Annotated[bool, typer.Option(help="Under torchrun: FSDP instead of DDP.")]
LatentsOption = Annotated[Path, typer.Option(help="The .npy file of latents.")]


@train_app.command()
def world(
    dataset: DatasetOption = Path("runs/world"),
    num_scenes: Annotated[int, typer.Option(help="Scenes to render.")] = 60_000,
    objects: ObjectsOption = "",
    size: Annotated[int, typer.Option(help="Side of a picture, in pixels.")] = 128,
    cell_px: Annotated[
        int | None, typer.Option(help="Stand objects on a grid of such cells: a small model learns them faster.")
    ] = None,
    num_workers: Annotated[int, typer.Option(help="Processes that render.")] = 2,
) -> None:
    """Render captioned scenes of the emoji world. Continues where it was stopped."""
    from model.training.dataset import render_dataset
    from model.training.sprites import object_names
    from model.training.world import EmojiWorld

    names = _names(objects) or object_names()
    render_dataset(
        EmojiWorld(names, size, cell_px=cell_px), num_scenes, dataset, num_workers=num_workers, report=_report
    )


@train_app.command()
def autoencoder(
    dataset: DatasetOption = Path("runs/world"),
    out: OutOption = Path("runs/autoencoder"),
    minutes: MinutesOption = 15.0,
    keep_encoder: Annotated[
        Path | None, typer.Option(help="A finished autoencoder: train only a new decoder, so that latents stay valid.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    shard: ShardOption = False,
) -> None:
    """Train the small DC-AE. Several devices: as for the denoiser."""
    from model.training.autoencoder_trainer import AutoencoderTrainConfig, train_autoencoder

    config = AutoencoderTrainConfig(
        dataset, out, max_minutes=minutes, frozen_encoder=keep_encoder, device=device, dtype=dtype, is_sharded=shard
    )
    train_autoencoder(config, report=_report, should_stop=stop_on_signal())


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
def features(
    dataset: DatasetOption = Path("runs/world"),
    target: Annotated[Path, typer.Option(help="The .npy file to write.")] = Path("runs/world/features.npy"),
    source: Annotated[
        str, typer.Option("--from", help="'labels', or a local folder of DINOv2 in transformers' layout.")
    ] = "labels",
    grid: Annotated[int, typer.Option(help="Side of the latent grid, in cells.")] = 8,
) -> None:
    """Write what every scene shows, cell by cell, for the denoiser's --features (REPA)."""
    from model.training.features import load_encoder, write_label_features, write_network_features

    if source == "labels":
        write_label_features(dataset, target, grid=grid, report=_report)
    else:
        write_network_features(dataset, load_encoder(Path(source)), target, grid=grid, report=_report)


@train_app.command()
def denoiser(
    dataset: DatasetOption = Path("runs/world"),
    latents: LatentsOption = Path("runs/world/latents.npy"),
    out: OutOption = Path("runs/denoiser"),
    minutes: MinutesOption = 60.0,
    objects: ObjectsOption = "",
    batch_size: Annotated[int, typer.Option(help="Scenes per step.")] = 64,
    start_from: Annotated[Path | None, typer.Option(help="A bundle whose weights a new run begins with.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="REPA: align early tokens with this file of `emmdit train features`.")
    ] = None,
    num_heads: Annotated[int, typer.Option(help="Attention heads of 32 channels: the network's width.")] = 6,
    stages: Annotated[str, typer.Option(help="Blocks before, in and after the compressed middle.")] = "1,6,1",
    num_threads: Annotated[int, typer.Option(help="Threads of the CPU.")] = 2,
    compile: Annotated[bool, typer.Option(help="Compile the network: minutes at the start, faster on a GPU.")] = False,
    autoencoder: Annotated[
        Path | None, typer.Option(help="A trained autoencoder: draw sample grids on the way, into OUT/samples.")
    ] = None,
    parts: Annotated[int, typer.Option(help="Forwards that make a step, where a whole batch is too large.")] = 1,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    shard: ShardOption = False,
) -> None:
    """Train E-MMDiT and its text encoder together. Continues from the checkpoint in --out if there is one.

    Several devices or machines: `torchrun --nproc-per-node 8 --no-python emmdit train denoiser ...`.
    """
    from model.training.denoiser_trainer import DenoiserTrainConfig, train_denoiser

    first, middle, last = (int(count) for count in stages.split(","))
    config = DenoiserTrainConfig(
        dataset,
        latents,
        out,
        objects=_names(objects),
        num_attention_heads=num_heads,
        stages=(first, middle, last),
        num_threads=num_threads,
        start_from=start_from,
        features=features,
        max_minutes=minutes,
        batch_size=batch_size,
        is_compiled=compile,
        autoencoder=autoencoder,
        num_parts=parts,
        device=device,
        dtype=dtype,
        is_sharded=shard,
    )
    train_denoiser(config, report=_report, should_stop=stop_on_signal())


@train_app.command()
def judge(
    dataset: DatasetOption = Path("runs/world80"),
    out: OutOption = Path("runs/judge"),
    autoencoder: AutoencoderOption = Path("model/bundles/demo/autoencoder"),
    steps: Annotated[int, typer.Option(help="Steps of 16 pictures.")] = 6_700,
    report_only: Annotated[bool, typer.Option(help="Train nothing: measure the shipped judge.")] = False,
) -> None:
    """Train the judge that scores, then measure it. Its report is written beside its weights."""
    from model.evaluation.judge import SHIPPED_WEIGHTS, load_judge
    from model.evaluation.judge_report import make_report, write_report
    from model.training.judge_trainer import JudgeTrainConfig, train_judge

    weights: Path | None = SHIPPED_WEIGHTS
    if not report_only:
        config = JudgeTrainConfig(dataset, out, autoencoder, max_steps=steps)
        weights = train_judge(config, report=_report, should_stop=stop_on_signal())
    if weights is not None:
        figures = make_report(load_judge(weights), weights, autoencoder)
        write_report(figures, weights.with_name("judge_report.json"))
        _report("\n".join(figures.lines()))


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
def distill(
    teacher: Annotated[Path, typer.Argument(help="Folder of the bundle to learn from.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write the student's bundle to.")],
    dataset: DatasetOption = Path("runs/world"),
    out: OutOption = Path("runs/distill"),
    minutes: MinutesOption = 20.0,
    steps: Annotated[int, typer.Option(help="The student's steps.")] = 4,
    guidance: Annotated[float | None, typer.Option(help="The teacher's guidance; its own if not given.")] = None,
    name: Annotated[str, typer.Option(help="The student's name.")] = "demo-dist",
    version: Annotated[str, typer.Option(help="The student's version.")] = "1",
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 5e-4,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes the first GPU.")] = "auto",
    num_threads: Annotated[int, typer.Option(help="Threads on a CPU.")] = 2,
) -> None:
    """Teach a copy of a bundle's network to need few steps and no guidance. Its other parts stay shared."""
    from model.bundle import read_bundle
    from model.training.distill_trainer import DistillConfig, train_distill
    from model.training.student_bundle import write_student_bundle

    config = DistillConfig(
        teacher,
        dataset,
        out,
        num_steps=steps,
        guidance=guidance,
        max_minutes=minutes,
        learning_rate=learning_rate,
        device=device,
        num_threads=num_threads,
    )
    student = train_distill(config, report=_report, should_stop=stop_on_signal())
    if student is not None:
        write_student_bundle(read_bundle(teacher), student, bundle, name=name, version=version, num_steps=steps)
        typer.echo(f"written: {bundle}")


@train_app.command()
def reward(
    base: Annotated[Path, typer.Argument(help="Folder of the bundle to tune.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write the tuned bundle to.")],
    out: OutOption = Path("runs/reward"),
    minutes: MinutesOption = 25.0,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance to tune for, and the new default; the base's own if not given.")
    ] = None,
    name: Annotated[str, typer.Option(help="The tuned model's name.")] = "demo-grpo",
    version: Annotated[str, typer.Option(help="The tuned model's version.")] = "1",
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    pull: Annotated[float, typer.Option(help="How firmly velocities are tied to the base's.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Another seed draws other prompts and pictures.")] = 0,
    device: DeviceOption = "auto",
    num_threads: Annotated[int, typer.Option(help="Threads of the CPU.")] = 2,
) -> None:
    """Tune a bundle by rewards: a LoRA adapter beside the base's own parts, judged by templates, never by the score."""
    from model.bundle import read_bundle
    from model.training.adapted_bundle import write_adapted_bundle
    from model.training.reward import TemplateReward
    from model.training.reward_prompts import known_objects
    from model.training.reward_trainer import train_rewards
    from model.training.reward_tuning import RewardTrainConfig

    source = read_bundle(base)
    config = RewardTrainConfig(
        base,
        out,
        guidance=guidance,
        max_minutes=minutes,
        learning_rate=learning_rate,
        pull_weight=pull,
        device=device,
        num_threads=num_threads,
        seed=seed,
    )
    judge = TemplateReward(known_objects(source.card.vocabulary or ()))
    adapter = train_rewards(config, judge.score_batch, report=_report, should_stop=stop_on_signal())
    if adapter is not None:
        write_adapted_bundle(source, adapter, bundle, name=name, version=version, guidance=guidance)
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


@train_app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their curve.jsonl files.")],
    target: Annotated[Path, typer.Argument(help="PNG to write.")],
    value: Annotated[str, typer.Option(help="What to plot: loss, grad_norm, samples_per_s, ...")] = "loss",
    axis: Annotated[str, typer.Option(help="Over what: step or minutes.")] = "step",
) -> None:
    """Draw the curves of training runs into one picture."""
    from model.training.plots import write_plot

    try:
        write_plot(runs, target, value=value, axis=axis)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"written: {target}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _report(line: str) -> None:
    typer.echo(line)


def stop_on_signal() -> Callable[[], bool]:
    """True once SIGINT or SIGTERM came: the trainer then saves and returns."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    return lambda: bool(received)
