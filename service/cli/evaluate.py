"""`emmdit evaluate`: draw EmojiGenEval's prompts with a model and score the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigurationError


def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a known model, or the folder of a bundle.")],
    prompts: Annotated[
        str, typer.Option(help="test, tuning, or a file of GenEval's format (its evaluation_metadata.jsonl).")
    ] = "test",
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; the model's own if not given.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance; the model's own if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures of the same prompts.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N (also for ROCm).")] = None,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Pictures that share a forward.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="For evaluation.json and sheet.png; runs/evaluation/NAME/PROMPTS if not given."),
    ] = None,
    images_out: Annotated[
        Path | None, typer.Option(help="Keep the pictures, in the folders that GenEval's public scorer reads.")
    ] = None,
    no_judge: Annotated[bool, typer.Option("--no-judge", help="Only draw, into --images-out.")] = False,
) -> None:
    """Score a model with EmojiGenEval: six tasks of the emoji world, each picture looked at by a judge.

    This is not GenEval: see docs/evaluation.md, also for running the real one with --images-out.
    """
    from service.settings import load_settings

    settings = load_settings(device=device)
    from model.catalog import resolve_bundle
    from model.evaluation.errors import EvaluationError
    from model.evaluation.evaluate import draw_images, score_bundle
    from model.evaluation.jury import why_not_judged
    from model.evaluation.prompt_sets import find_prompts
    from model.evaluation.report import table, write_report
    from model.evaluation.run import Options, open_run

    options = Options(steps, guidance, seed, images_per_prompt, batch_rows, settings.device, settings.dtype)
    bundle = resolve_bundle(model, settings.models_dir)
    try:
        chosen = find_prompts(prompts, bundle.card.vocabulary)
        reason = "--no-judge" if no_judge else why_not_judged(bundle.card, chosen)
        if reason is None:
            evaluation = score_bundle(bundle, chosen, options, images_out=images_out, report=typer.echo)
        elif images_out is None:
            raise EvaluationError(f"nothing would be judged ({reason}): add --images-out DIR to keep the pictures")
        else:
            typer.echo(f"not judged ({reason})")
            draw_images(*open_run(bundle, chosen, options), images_out, report=typer.echo)
            typer.echo(f"written: {images_out}")
            return
    except EvaluationError as error:
        raise ConfigurationError(str(error)) from error
    folder = out or Path("runs/evaluation") / bundle.card.name / Path(chosen.name).stem
    write_report(evaluation, folder)
    typer.echo(f"\n{table(evaluation)}\nwritten: {folder}")
