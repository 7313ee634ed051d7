"""What one field of a request may be. A rule checks values, says itself in a sentence and as JSON Schema, so that the
check, the error and the documentation cannot drift apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

# Regular expressions as both Python and JSON Schema (ECMA 262) read them. Tab and line breaks are not refused: prompts
# get pasted in several lines, and cleaning turns these into spaces.
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_BLANKS = r"\s\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # takes no ink
TEXT_PATTERN = f"^[^{_CONTROLS}]*$"
VISIBLE_PATTERN = f"^[^{_CONTROLS}]*[^{_CONTROLS}{_BLANKS}][^{_CONTROLS}]*$"

_REFUSED = re.compile(rf"[{_CONTROLS}\ud800-\udfff]")  # no valid document holds half a surrogate, a pattern neither
_VISIBLE = re.compile(f"[^{_BLANKS}]")
TEXT_SENTENCE = "no control characters but tab and line breaks, no half surrogates"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is allowed, in words and as JSON Schema; `allows` is asked about values of the right type only.

    `default` is what counts where the field is not given; None where that is nothing, or made up anew each time.
    """

    sentence: str
    schema: dict[str, Any]
    allows: Callable[[Any], bool]
    default: Any = None

    def or_else(self, default: object) -> Rule:
        """The same with a default."""
        return replace(self, default=default)


def integer(least: int, most: int) -> Rule:
    """A whole number of this range."""
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Rule(f"an integer from {least} to {most}", schema, lambda value: least <= value <= most)


def number(most: float) -> Rule:
    """A number from 0."""
    schema = {"type": "number", "minimum": 0, "maximum": most}
    return Rule(f"a number from 0 to {most:g}", schema, lambda value: math.isfinite(value) and 0 <= value <= most)


def positive_number(most: float) -> Rule:
    """A number above 0."""
    schema = {"type": "number", "exclusiveMinimum": 0, "maximum": most}
    return Rule(f"a number above 0, up to {most:g}", schema, lambda value: math.isfinite(value) and 0 < value <= most)


def choice(values: Iterable[str], note: str = "") -> Rule:
    """One of these words. The note follows them in the sentence."""
    known = [str(value) for value in values]
    sentence = ", ".join(known) + note
    return Rule(sentence, {"type": "string", "enum": known}, lambda value: value in known)


def flag() -> Rule:
    """True or false."""
    return Rule("true, false", {"type": "boolean"}, lambda value: isinstance(value, bool))


def anything() -> Rule:
    """Text that nobody reads."""
    return Rule("text", {"type": "string"}, lambda value: isinstance(value, str))


def nothing(reason: str) -> Rule:
    """No value but null."""
    return Rule(f"leave it out: {reason}", {"type": "null"}, lambda value: value is None)


def prose(least: int, most: int) -> Rule:
    """Text that is drawn, of so many characters. From 1 character on some of it has to be visible."""
    pattern = VISIBLE_PATTERN if least else TEXT_PATTERN
    return Rule(
        f"text of {least} to {most} characters, {TEXT_SENTENCE}",
        {"type": "string", "minLength": least, "maxLength": most, "pattern": pattern},
        lambda text: len(text) <= most and fault_in(text) is None and (least == 0 or is_visible(text)),
    )


def fault_in(text: str) -> str | None:
    """Which character of it may not stand in text, None where all may."""
    if text.isprintable():
        return None  # nearly every prompt is
    found = _REFUSED.search(text)
    return None if found is None else f"character {found.start()} is U+{ord(found.group()):04X}"


def is_visible(text: str) -> bool:
    """Whether there is anything in it to see."""
    return _VISIBLE.search(text) is not None
