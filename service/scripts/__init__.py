"""What happens on the server, as Lua, one file each; the queue's transitions get the prelude that they share.

Those about tenants and blobs stand alone: they have other keys.
"""

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
    "requeue",
)
BLOB_NAMES = ("blob_put", "blob_delete", "blob_sweep")
TENANT_NAMES = ("create_key", "find_key", "charge", "settle")


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
    for name in (*NAMES, *BLOB_NAMES, *TENANT_NAMES):
        text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
        if name in NAMES:
            text = prelude + text
        scripts[name] = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts
