"""What an API key looks like: `emmdit_ID.SECRET`, 256 random bits in the secret. Pure, but for the dice.

Only the secret's SHA-256 is ever stored: of 256 random bits it gives nothing away, so no slow hash is needed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "emmdit_"
NUM_SECRET_BYTES = 32
TENANT_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ID = "[0-9a-f]{16}"
_SECRET = "[A-Za-z0-9_-]{43}"  # 256 bits in base64url
_KEY = re.compile(f"{PREFIX}({_ID})\\.({_SECRET})")
# What might be a piece of one, cut short or with more behind it: of such a text nothing after the dot is shown.
_LIKE_A_KEY = re.compile(f"({PREFIX}[0-9A-Za-z]{{1,64}}\\.)[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. Its `repr` keeps the secret."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What its owner sends."""
        return f"{PREFIX}{self.id}.{self.secret}"

    @property
    def digest(self) -> str:
        """What is stored of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


def new_key() -> ApiKey:
    """A key that nobody has."""
    return ApiKey(secrets.token_hex(8), secrets.token_urlsafe(NUM_SECRET_BYTES))


def parse_key(text: str) -> ApiKey | None:
    """The key that is written here; None for anything else."""
    match = _KEY.fullmatch(text)
    return ApiKey(match[1], match[2]) if match else None


def id_in(text: str) -> str | None:
    """The id in an id, an id with its prefix, or a whole key; None for anything else."""
    given = text.removeprefix(PREFIX).partition(".")[0]
    return given if re.fullmatch(_ID, given) else None


def without_keys(text: str) -> str:
    """The text without the secrets of keys that a client may have put into it by mistake."""
    return _LIKE_A_KEY.sub(r"\1***", text) if PREFIX in text else text
