"""The queue's transitions as Lua, one file each, and the loader that puts the shared prelude before them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

NAMES = (
    "submit",
    "peek",
    "claim",
    "heartbeat",
    "report",
    "watch",
    "finish",
    "retry",
    "release",
    "cancel",
    "due",
    "reap",
)


@dataclass(frozen=True, slots=True)
class Script:
    """One script's full text and the SHA-1 under which a server remembers it."""

    text: str
    sha1: str


def load_scripts() -> dict[str, Script]:
    """Every script by name."""
    folder = resources.files(__package__)
    prelude = folder.joinpath("prelude.lua").read_text(encoding="utf-8")
    scripts = {}
    for name in NAMES:
        text = prelude + folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
        scripts[name] = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts
