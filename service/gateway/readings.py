"""Text as its reader may take it: one prompt, several plain readings, so that a word cannot hide behind its spelling.

Pure. Every step is linear in the text's length. It knows what is simple to know (docs/content-and-provenance.md); it
is no judge of meaning.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Mapping
from urllib.parse import unquote_plus

# Takes no ink: format characters, fillers, variation selectors, tags.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]+"
)
# Accents of Latin, Greek and Cyrillic, points of Hebrew and Arabic. Other scripts' marks are letters of theirs.
_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f"
    "\u0670\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
_UNSPACED = (  # scripts that put no space between words, and emoji: each character stands for itself
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2600-\u27bf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U0001f000-\U0001faff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|(?:[^\W_{_UNSPACED}]|[\u0900-\u0963\u0966-\u0dff])+")
_STROKES = str.maketrans("øłđħŧı", "oldhti")  # no accent by Unicode's book

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_LOOKALIKES: Mapping[int, int | str] = str.maketrans(
    # Cyrillic, Greek, and Latin small capitals, by what they look like: capitals and small letters differ in that.
    "АВЕЅІЈКМНОРСТУХԌԚԜ" + "аеѕіјорсухһԁԛԝӏ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" + "αεικνορυωϲϳ" + "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɑɡ",
    "ABESIJKMHOPCTYXGQW" + "aesijopcyxhdqwl" + "ABEZHIKMNOPTYX" + "aeiknopuwcj" + "abcdefghijklmnoprstuvwyzag",
) | {
    start + place: letter
    for start in (0x1F150, 0x1F170, 0x1F1E6)  # letters in black circles and squares, and those that flags are made of
    for place, letter in enumerate(_LATIN)
}
_DIGITS_AS_LETTERS = tuple(str.maketrans("0134578@$!|€", f"o{one}eastbas{one}{one}e") for one in "il")

_INSIDE_A_WORD = re.compile(rf"(?<=\w)(?:[^\w\s]|_|[{_UNSPACED}])+(?=\w)")
_CHUNK = re.compile(r"\S+")
_TAG = re.compile(r"<[^<>]*>")
_MAX_DECODINGS = 3  # the models' own cleaning goes twice


def words_of(text: str) -> tuple[str, ...]:
    """A phrase as it is looked for: its words in their plainest form. Empty where there is no word in it."""
    return tuple(_WORD.findall(_fold(_UNSEEN.sub("", text))))


def readings_of(text: str) -> Iterator[tuple[str, ...]]:
    """The words of `text`, once for every way to read it that differs from the ones before."""
    seen = set()
    for reading in _readings(text):
        if reading not in seen:
            seen.add(reading)
            yield tuple(_WORD.findall(reading))


def _readings(text: str) -> Iterator[str]:
    for written in dict.fromkeys((text, _decoded(text))):
        for visible in dict.fromkeys((_UNSEEN.sub("", written), _UNSEEN.sub(" ", written))):
            yield from _joined(_fold(visible))
            latin = _fold(visible, _LOOKALIKES)
            yield from _joined(latin)
            for table in _DIGITS_AS_LETTERS:
                yield from _joined(_lettered(latin, table))


def _fold(text: str, lookalikes: Mapping[int, int | str] | None = None) -> str:
    """Without case, accents and typographic variants; Hangul and kana whole."""
    if text.isascii():
        return text.lower()
    text = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    if lookalikes is not None:
        text = text.translate(lookalikes)
    text = unicodedata.normalize("NFKD", text.casefold()).translate(_STROKES)
    return unicodedata.normalize("NFC", _MARKS.sub("", text))


def _joined(text: str) -> Iterator[str]:
    """As it stands, and without what stands inside words: sw-ord."""
    yield text
    yield _INSIDE_A_WORD.sub("", text)


def _lettered(text: str, table: Mapping[int, int]) -> str:
    """Digits and signs among letters as the letters that they resemble. A number alone stays one."""

    def lettered(chunk: re.Match[str]) -> str:
        core = chunk[0].rstrip("!|")  # an exclamation at the end is one
        return core.translate(table) + chunk[0][len(core) :] if any(map(str.isalpha, core)) else chunk[0]

    return _CHUNK.sub(lettered, text)


def _decoded(text: str) -> str:
    """As the models' cleaning of prompts makes it: escapes of addresses and of HTML resolved, tags gone."""
    for _ in range(_MAX_DECODINGS):
        decoded = html.unescape(unquote_plus(text))
        if decoded == text:
            break
        text = decoded
    return _TAG.sub("", text)
