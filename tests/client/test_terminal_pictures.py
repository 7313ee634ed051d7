"""Pictures in terminals, as bytes and as a terminal would show them."""

import base64
import io
import re

import pytest
from PIL import Image
from rich.console import Console

from service.cli.terminal_pictures import Preview, TerminalPicture, choose_preview, forget_live_picture


def picture(width=4, height=4, colour=(250, 10, 20), kind="png"):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, kind)
    return file.getvalue()


def printed(data, mode, num_columns=4, **options):
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=60)
    console.print(TerminalPicture(data, mode, num_columns, **options))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "blocks"),
        ({"TERM": "xterm"}, "none"),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, "none"),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, "none"),
    ],
)
def test_a_terminal_is_known_by_its_environment(environ, mode):
    assert choose_preview(Preview.AUTO, environ, is_terminal=True) == mode
    assert choose_preview(Preview.AUTO, environ, is_terminal=False) == "none"
    assert choose_preview(Preview.BLOCKS, environ, is_terminal=False) == "blocks"


def test_half_blocks_hold_two_pixels_each():
    text = printed(picture(), Preview.BLOCKS)
    assert text.count("▀") == 4 * 2
    assert "38;2;250;10;20;48;2;250;10;20" in text
    assert text.count("\n") == 2


def test_kitty_gets_a_png_in_pieces_that_it_takes():
    noise = Image.effect_noise((96, 96), 90).convert("RGB")
    file = io.BytesIO()
    noise.save(file, "jpeg")
    text = printed(file.getvalue(), Preview.KITTY, 20, is_live=True)
    commands = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", text)
    assert len(commands) > 2
    assert all(len(content) <= 4096 for _, content in commands)
    assert commands[0][0].startswith("a=T,f=100,q=2,C=1,c=20,r=10,i=")
    assert [options[-3:] for options, _ in commands] == ["m=1"] * (len(commands) - 1) + ["m=0"]
    sent = base64.b64decode("".join(content for _, content in commands))
    assert Image.open(io.BytesIO(sent)).size == (96, 96)
    assert text.count("\n") == 10
    assert "d=I" in forget_live_picture(Preview.KITTY)
    assert forget_live_picture(Preview.BLOCKS) == ""


def test_iterm_gets_the_file_as_it_came():
    data = picture(8, 4, kind="jpeg")
    text = printed(data, Preview.ITERM, 10)
    options, content = re.search("\x1b\\]1337;File=([^:]*):([^\x07]*)\x07", text).groups()
    assert "inline=1" in options
    assert "width=10;height=2" in options
    assert base64.b64decode(content) == data


def test_a_picture_that_is_none_ends_no_command():
    assert "cannot be read" in printed(b"no picture", Preview.BLOCKS)
