"""What may not be drawn here: a filter says no to a prompt before anything is queued. Off unless the operator says so.

A filter is asked once for each request, in `Validator.to_job`, in the event loop: it has to be quick and may not wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from service.errors import ConfigurationError
from service.gateway.readings import readings_of, words_of
from service.settings import Settings

CONTENT_FILTER_HEADER = "X-Content-Filter"
OFF = "off"

MAX_PHRASE_CHARS = 200  # of a line: the longest that a prompt's words are compared with
MIN_SPELLED_LETTERS = 3  # "o k" is no way to write ok

_Branch = dict[str, "_Branch"]
_END = ""  # no word is empty


class ContentFilter(Protocol):
    """Decides about prompts. Pure: the same prompt has the same answer."""

    @property
    def name(self) -> str:
        """What clients see in `X-Content-Filter`."""
        ...

    def refuses(self, prompt: str, negative_prompt: str) -> bool:
        """Whether this may not be drawn."""
        ...


class WordList:
    """Refuses prompts in which a listed word or phrase stands, in any of their readings.

    Negative prompts are not looked at: who writes "gore" there wants none of it.
    """

    name = "word-list"

    def __init__(self, phrases: Iterable[str]) -> None:
        self._root: _Branch = {}
        for phrase in phrases:
            words = words_of(phrase)
            self._add(words)
            letters = "".join(words)
            if len(letters) >= MIN_SPELLED_LETTERS:
                self._add(letters)  # s p e l l e d

    def refuses(self, prompt: str, negative_prompt: str) -> bool:
        """Whether a listed phrase stands in the prompt."""
        return any(self._is_in(words) for words in readings_of(prompt))

    def _add(self, words: Iterable[str]) -> None:
        branch = self._root
        for word in words:
            branch = branch.setdefault(word, {})
        branch[_END] = {}

    def _is_in(self, words: tuple[str, ...]) -> bool:
        """From each word on as far as the list goes along: the list's length plays no part."""
        for start in range(len(words)):
            branch = self._root
            for place in range(start, len(words)):
                if words[place] not in branch:
                    break
                branch = branch[words[place]]
                if _END in branch:
                    return True
        return False


def content_filter_of(settings: Settings) -> ContentFilter | None:
    """The filter that the operator wants. Raises ConfigurationError where its words cannot be had."""
    path = settings.blocked_words_file
    return None if path is None else WordList(read_phrases(path))


def read_phrases(path: Path) -> list[str]:
    """The words and phrases of a list: one a line, `#` begins a comment. Raises ConfigurationError."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(f"blocked_words_file: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"blocked_words_file: {path} is not UTF-8: byte {error.start}") from error
    phrases = []
    for number, line in enumerate(lines, 1):
        phrase = line.partition("#")[0].strip()
        if not phrase:
            continue
        if len(phrase) > MAX_PHRASE_CHARS or not words_of(phrase):
            allowed = f"a word or phrase of up to {MAX_PHRASE_CHARS} characters with a letter, a digit or an emoji"
            raise ConfigurationError(f"blocked_words_file: {path}, line {number} is not allowed; allowed: {allowed}")
        phrases.append(phrase)
    if not phrases:
        raise ConfigurationError(f"blocked_words_file: {path} lists nothing; leave the setting out for no filter")
    return phrases
