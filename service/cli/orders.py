"""What `emmdit generate` was asked for, as values: prompts, seeds and the file of every picture. Pure but for one look.

Seeds that nobody chose are drawn here and not by the server: so every file's name is known before the first picture
is drawn, and none is drawn in vain because its file exists.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.client.types import Options

FIELDS = ("index", "seed", "slug")
DEFAULT_NAME = "{slug}-{seed}"
NUM_SEEDS = 2**32
MAX_SLUG_CHARS = 48
FORMAT_OF_SUFFIX = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SUFFIX_OF_FORMAT = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, slots=True)
class Order:
    """One request. `first_index` counts pictures from 1; `files` is None where the picture goes to stdout."""

    prompt: str
    first_index: int
    options: Options
    files: tuple[Path, ...] | None

    @property
    def num_pictures(self) -> int:
        """Pictures of this request."""
        return self.options.get("n") or 1


def read_prompts(lines: Iterable[str]) -> list[str]:
    """A prompt a line; empty lines are passed over."""
    return [line.strip() for line in lines if line.strip()]


def slug_of(prompt: str) -> str:
    """A prompt as part of a file's name: small letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_SLUG_CHARS].rstrip("-")
    return slug or "picture"


def choose_format(template: str | None, wanted: str | None) -> str | None:
    """The pictures' format: as wanted, else as the files' ending says. Raises ValueError where they disagree."""
    suffix = Path(template or "").suffix.lower()
    named = FORMAT_OF_SUFFIX.get(suffix)
    if wanted is not None and wanted not in SUFFIX_OF_FORMAT:
        raise ValueError(f"--format: {wanted!r} is not allowed; allowed: {', '.join(SUFFIX_OF_FORMAT)}")
    if wanted and named and wanted != named:
        raise ValueError(f"--format {wanted} and a file that ends in {suffix} contradict each other")
    return wanted or named


def full_template(template: str | None, format_name: str | None) -> str:
    """`template`, or a name of our own: in the current folder, or in the one that `template` is.

    Raises ValueError for a field that there is not.
    """
    own = DEFAULT_NAME + SUFFIX_OF_FORMAT[format_name or "png"]
    if template is None:
        return own
    if template.endswith("/") or Path(template).is_dir():
        return str(Path(template) / own)
    for field in _fields(template):
        if field not in FIELDS:
            shown = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"--out: {{{field}}} is not known; known: {shown}, with a format such as {{index:03}}")
    return template


def plan(prompts: Sequence[str], options: Options, template: str | None, dice: Callable[[int], int]) -> list[Order]:
    """An order for each prompt. `template` None: to stdout. `dice(n)` gives a number below n.

    Raises ValueError where two pictures would have one file.
    """
    num_each = options.get("n") or 1
    orders = []
    owners: dict[Path, int] = {}
    for number, prompt in enumerate(prompts):
        first = number * num_each + 1
        seed = options.get("seed")
        seed = dice(NUM_SEEDS - num_each + 1) if seed is None else seed
        files = None
        if template is not None:
            files = tuple(file_name(template, first + at, seed + at, slug_of(prompt)) for at in range(num_each))
        for at, file in enumerate(files or ()):
            if file in owners:
                raise ValueError(
                    f"--out: pictures {owners[file]} and {first + at} would both be {file}; tell them apart by "
                    "{index}, {seed} or {slug}"
                )
            owners[file] = first + at
        orders.append(Order(prompt, first, {**options, "seed": seed}, files))
    return orders


def existing_files(orders: Sequence[Order]) -> list[Path]:
    """Files of these orders that are there already."""
    return [file for order in orders for file in order.files or () if file.exists()]


def _fields(template: str) -> list[str]:
    try:
        return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"--out: {template!r} is no name: {error}; write {{{{ and }}}} for braces") from None


def file_name(template: str, index: int, seed: int, slug: str) -> Path:
    """One picture's file. Raises ValueError for a template with a format that its fields do not have."""
    try:
        return Path(template.format(index=index, seed=seed, slug=slug))
    except (ValueError, LookupError) as error:
        raise ValueError(f"--out: {template!r} is no name: {error}") from None
