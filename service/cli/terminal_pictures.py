"""Pictures in a terminal: kitty's graphics protocol, iTerm2's inline images, or half blocks in colour.

https://sw.kovidgoyal.net/kitty/graphics-protocol/ and https://iterm2.com/documentation-images.html. Surprising: the
lines under a picture are printed before it, and it is drawn from their end backwards. Text printed over an inline
image would erase it, and a picture that made the screen scroll would leave the cursor nobody knows where.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import ControlType, Segment
from rich.style import Style

LIVE_ID = 0x656D  # kitty replaces a picture by the next of the same number
_KITTY_CHUNK_CHARS = 4096
_UPPER_HALF = "\N{UPPER HALF BLOCK}"


class Preview(StrEnum):
    """How pictures are shown."""

    AUTO = "auto"
    KITTY = "kitty"
    ITERM = "iterm"
    BLOCKS = "blocks"
    NONE = "none"


def choose_preview(wanted: Preview, environ: Mapping[str, str], *, is_terminal: bool) -> Preview:
    """What "auto" means here. A terminal that says nothing of itself gets no pictures."""
    if wanted is not Preview.AUTO:
        return wanted
    if not is_terminal or environ.get("TERM") == "dumb" or environ.get("NO_COLOR"):
        return Preview.NONE
    program = environ.get("TERM_PROGRAM", "")
    is_wrapped = "TMUX" in environ or environ.get("TERM", "").startswith(("screen", "tmux"))  # they pass nothing on
    if not is_wrapped:
        if "KITTY_WINDOW_ID" in environ or "kitty" in environ.get("TERM", "") or program == "ghostty":
            return Preview.KITTY
        if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
            return Preview.ITERM
    has_colours = environ.get("COLORTERM") in ("truecolor", "24bit") or "256" in environ.get("TERM", "")
    return Preview.BLOCKS if has_colours else Preview.NONE


@dataclass(frozen=True, slots=True)
class TerminalPicture:
    """A picture as rich prints it, `num_columns` wide. `is_live`: it takes the place of the live one before it."""

    data: bytes
    mode: Preview
    num_columns: int
    is_live: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.data)) as opened:
                image = opened.convert("RGB")
        except (UnidentifiedImageError, OSError):
            yield Segment("(a picture that cannot be read)\n")
            return
        num_columns = max(2, min(self.num_columns, options.max_width))
        num_rows = max(1, round(num_columns * image.height / image.width / 2))
        if self.mode is Preview.BLOCKS:
            yield from _blocks(image.resize((num_columns, 2 * num_rows), Image.Resampling.BOX).tobytes(), num_columns)
            return
        for _ in range(num_rows):
            yield Segment(" " * num_columns)
            yield Segment.line()
        escape = self._kitty(_as_png(image), num_columns, num_rows)
        if self.mode is Preview.ITERM:
            escape = _iterm(self.data, num_columns, num_rows)
        text = f"\x1b7\x1b[{num_rows}A\r{escape}\x1b8"
        yield Segment(text, None, [(ControlType.CARRIAGE_RETURN,)])  # as a control it has no width

    def _kitty(self, png: bytes, num_columns: int, num_rows: int) -> str:
        number = f",i={LIVE_ID},p=1" if self.is_live else ""
        first = f"a=T,f=100,q=2,C=1,c={num_columns},r={num_rows}{number},"
        content = base64.b64encode(png).decode()
        chunks = [content[at : at + _KITTY_CHUNK_CHARS] for at in range(0, len(content), _KITTY_CHUNK_CHARS)]
        return "".join(
            f"\x1b_G{first if at == 0 else ''}m={int(at < len(chunks) - 1)};{chunk}\x1b\\"
            for at, chunk in enumerate(chunks)
        )


def forget_live_picture(mode: Preview) -> str:
    """What takes the live picture off the screen, where erasing its lines does not."""
    return f"\x1b_Ga=d,d=I,q=2,i={LIVE_ID}\x1b\\" if mode is Preview.KITTY else ""


def _blocks(rgb: bytes, num_columns: int) -> RenderResult:
    """Two pixels a cell: the upper one is the character's colour, the lower one its background's."""
    stride = 3 * num_columns
    for top in range(0, len(rgb), 2 * stride):
        for left in range(top, top + stride, 3):
            upper = Color.from_rgb(*rgb[left : left + 3])
            lower = Color.from_rgb(*rgb[left + stride : left + stride + 3])
            yield Segment(_UPPER_HALF, Style(color=upper, bgcolor=lower))
        yield Segment.line()


def _iterm(data: bytes, num_columns: int, num_rows: int) -> str:
    size = f"width={num_columns};height={num_rows};preserveAspectRatio=1;size={len(data)}"
    return f"\x1b]1337;File=inline=1;{size}:{base64.b64encode(data).decode()}\x07"


def _as_png(image: object) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    file = io.BytesIO()
    image.save(file, "png", compress_level=1)
    return file.getvalue()
