"""`emmdit models`: what is here, what is missing, how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

models_app = typer.Typer(help="List, fetch, add, check and fake models.", invoke_without_command=True)

NameArgument = Annotated[str, typer.Argument(help="Name of a published model, e.g. nitro-e-512.")]


@models_app.callback()
def list_all(context: typer.Context) -> None:
    """List every model: its settings, what is present, what is missing, the command that fetches it."""
    if context.invoked_subcommand is not None:
        return
    from model.catalog import describe_models, list_models

    typer.echo(describe_models(list_models(_models_dir())))


@models_app.command()
def fetch(
    name: NameArgument,
    revision: Annotated[
        str | None, typer.Option(help="Full 40-digit commit of the model's repository, where none is known here.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that the network's file must have.")] = None,
    text_encoder: Annotated[
        Path | None, typer.Option(help="Folder of a Llama-3.2-1B that you have, instead of the gated download.")
    ] = None,
) -> None:
    """Download a published model at a pinned commit, and write its bundle.json."""
    from model.hub import fetch_model

    fetch_model(name, _models_dir(), revision=revision, sha256=sha256, text_encoder=text_encoder, report=typer.echo)


@models_app.command()
def add(
    folder: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    link: Annotated[bool, typer.Option("--link", help="Link to the folder instead of copying it.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of a model of the same name.")
    ] = False,
) -> None:
    """Check a bundle of yours and put it into the models folder, so that its name is enough to serve it."""
    from model.registry import add_bundle

    models_dir = _models_dir()
    bundle = add_bundle(folder, models_dir, is_linked=link, is_replacing=replace, report=typer.echo)
    typer.echo(f"{'linked' if link else 'copied'} to {models_dir / bundle.card.name}")
    typer.echo(f"serve it: emmdit serve --model {bundle.card.name}")


@models_app.command()
def verify(model: Annotated[str, typer.Argument(help="Name of a model, or the folder of a bundle.")]) -> None:
    """Check a bundle without loading it: every file there, no code in it, every tensor as it should be."""
    from model.catalog import resolve_bundle
    from model.weights import verify_bundle

    verify_bundle(resolve_bundle(model, _models_dir()), typer.echo)
    typer.echo("sound")


@models_app.command()
def make_random(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Where to write the bundle.")],
    seed: Annotated[int, typer.Option(help="The random values' seed.")] = 0,
    small: Annotated[bool, typer.Option(help="A smaller text encoder and autoencoder.")] = False,
) -> None:
    """Write a stand-in with seeded random values in exactly the published layout: draws noise, at full cost."""
    from model.random_bundle import make_random_bundle

    make_random_bundle(name, folder, seed=seed, is_small=small, report=typer.echo)
    typer.echo(f"try it: emmdit serve --model {folder}")


def _models_dir() -> Path:
    from service.settings import load_settings

    return load_settings().models_dir
