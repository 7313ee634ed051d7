"""How `emmdit generate` shows what it does: bars and pictures on a terminal, lines elsewhere, JSON for scripts.

Everything for people goes to stderr, so that stdout is free for JSON or for the picture itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli.draw import Display, Drawing, Drawn
from service.cli.terminal_pictures import Preview, TerminalPicture, forget_live_picture
from service.client.types import Job, content_type_of
from service.errors import EmmditError

PICTURE_COLUMNS = 32
MAX_ROWS_SHOWN = 8
BAR_COLUMNS = 24
PROMPT_COLUMNS = 36


class JsonLines:
    """A line of JSON on stdout for every picture, drawn or not."""

    def begin(self, drawing: Drawing) -> None:
        """Nothing to say yet."""

    def drew(self, drawn: Drawn) -> None:
        """A picture's line."""
        job, picture = drawn.drawing.job, drawn.picture
        values: dict[str, object] = {
            "index": drawn.index,
            "state": "done",
            "prompt": drawn.drawing.order.prompt,
            "file": None if drawn.file is None else str(drawn.file),
            "seed": picture.seed,
            "content_type": content_type_of(drawn.data),
            "num_bytes": len(drawn.data),
            "job_id": picture.job_id,
        }
        if job is not None:
            values |= {"model": job.model, "size": job.size, "num_inference_steps": job.num_inference_steps}
            values["guidance_scale"] = job.guidance_scale
        typer.echo(json.dumps(values, ensure_ascii=False))

    def end(self, drawing: Drawing, failure: EmmditError | None) -> None:
        """A line for each picture that will never be."""
        order = drawing.order
        if failure is None:
            return
        for at in range(drawing.num_drawn, order.num_pictures):
            error = {"code": failure.code, "message": failure.message}
            values = {"index": order.first_index + at, "state": "failed", "prompt": order.prompt, "error": error}
            typer.echo(json.dumps(values, ensure_ascii=False))

    def tick(self) -> None:
        """Nothing moves."""


class Lines:
    """A line on stderr for every picture, only for those that fail if `is_quiet`; the picture too where asked for."""

    def __init__(self, console: Console, num_pictures: int, preview: Preview, *, is_quiet: bool = False) -> None:
        self._console = console
        self._num_pictures = num_pictures
        self._preview = preview
        self._is_quiet = is_quiet

    def begin(self, drawing: Drawing) -> None:
        """Nothing to say yet."""

    def drew(self, drawn: Drawn) -> None:
        """What was drawn, and where it is."""
        if self._is_quiet:
            return
        if self._preview is not Preview.NONE:
            self._console.print(TerminalPicture(drawn.data, self._preview, PICTURE_COLUMNS))
        self._say(Text(f"{self._place(drawn.index)}{drawn.file or 'stdout'}  {_recipe(drawn)}"))

    def end(self, drawing: Drawing, failure: EmmditError | None) -> None:
        """What went wrong, if anything did."""
        if failure is not None:
            prompt = _short(drawing.order.prompt, 60)
            self._say(Text(f"{self._place(drawing.order.first_index)}failed: {prompt}: {_sentence(failure)}", "red"))

    def tick(self) -> None:
        """Nothing moves."""

    def _place(self, index: int) -> str:
        return f"{index}/{self._num_pictures}  " if self._num_pictures > 1 else ""

    def _say(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


class Bars(Lines):
    """Lines, and under them a moving part: a bar for each order under way, and what is being drawn. A context."""

    def __init__(self, console: Console, num_pictures: int, preview: Preview) -> None:
        super().__init__(console, num_pictures, preview)
        self._active: list[Drawing] = []
        self._num_over = 0
        self._began_s = time.monotonic()
        # What goes to stdout is for a program to read, and must not come out on stderr.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Bars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if forget := forget_live_picture(self._preview):
            self._console.file.write(forget)
            self._console.file.flush()

    def begin(self, drawing: Drawing) -> None:
        """One more bar."""
        self._active.append(drawing)

    def end(self, drawing: Drawing, failure: EmmditError | None) -> None:
        """One bar less."""
        super().end(drawing, failure)
        self._num_over += drawing.order.num_pictures
        if drawing in self._active:  # one that was given up before it began has none
            self._active.remove(drawing)

    def tick(self) -> None:
        """Draw the moving part anew."""
        self._live.update(self._moving_part(), refresh=True)

    def _moving_part(self) -> RenderableType:
        parts: list[RenderableType] = []
        looks = [drawing.preview for drawing in self._active if drawing.preview is not None]
        if looks and self._preview is Preview.BLOCKS:
            num_fitting = max(1, self._console.width // (PICTURE_COLUMNS + 2))
            row = Table.grid(padding=(0, 2))
            row.add_row(*(TerminalPicture(look, self._preview, PICTURE_COLUMNS) for look in looks[:num_fitting]))
            parts.append(row)
        elif looks and self._preview is not Preview.NONE:
            parts.append(TerminalPicture(looks[0], self._preview, PICTURE_COLUMNS, is_live=True))
        table = Table.grid(padding=(0, 1))
        for drawing in self._active[:MAX_ROWS_SHOWN]:
            table.add_row(*_row(drawing))
        parts.append(table)
        if self._num_pictures > 1:
            num_over = self._num_over + sum(drawing.num_drawn for drawing in self._active)
            done_s = time.monotonic() - self._began_s
            parts.append(Text(f"{num_over} of {self._num_pictures} pictures, {done_s:.0f} s", "dim"))
        return Group(*parts)


class Several:
    """Displays beside one another."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays

    def begin(self, drawing: Drawing) -> None:
        """For all."""
        for display in self._displays:
            display.begin(drawing)

    def drew(self, drawn: Drawn) -> None:
        """For all."""
        for display in self._displays:
            display.drew(drawn)

    def end(self, drawing: Drawing, failure: EmmditError | None) -> None:
        """For all."""
        for display in self._displays:
            display.end(drawing, failure)

    def tick(self) -> None:
        """For all."""
        for display in self._displays:
            display.tick()


def _row(drawing: Drawing) -> tuple[RenderableType, ...]:
    job = drawing.job
    prompt = Text(_short(drawing.order.prompt, PROMPT_COLUMNS))
    if job is None:
        return prompt, ProgressBar(total=1, completed=0, width=BAR_COLUMNS), Text("asking", "dim")
    if job.state == "queued":
        place = "next in the queue" if not job.position else f"{job.position} before it"
        return prompt, ProgressBar(total=1, completed=0, width=BAR_COLUMNS), Text(place + _left(job), "dim")
    bar = ProgressBar(total=job.num_steps, completed=job.step, width=BAR_COLUMNS)
    return prompt, bar, Text(f"step {job.step} of {job.num_steps}" + _left(job), "dim")


def _left(job: Job) -> str:
    return "" if job.estimated_seconds_left is None else f", {job.estimated_seconds_left:.0f} s left"


def _recipe(drawn: Drawn) -> str:
    job = drawn.drawing.job
    if job is None:
        return f"seed {drawn.picture.seed}"
    return (
        f"{job.model}  {job.size}  {job.num_inference_steps} steps  guidance {job.guidance_scale:g}  "
        f"seed {drawn.picture.seed}"
    )


def _sentence(failure: EmmditError) -> str:
    again = failure.retry_after_s
    return f"{failure.message} ({failure.code}{f'; try again in {again:.0f} s' if again else ''})"


def _short(text: str, max_chars: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"
