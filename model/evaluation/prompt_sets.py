"""Which prompts a model is asked: the fixed files, or somebody's own in GenEval's format.

"test" is for the published score and for nothing else. "tuning" is for everything else: choosing steps and guidance,
looking at how a training run gets on. Either exists for all eighty objects and for the twelve of the small world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.evaluation.errors import EvaluationError
from model.evaluation.prompts import PromptEntry, read_entries

DATA = Path(__file__).parent / "data"
TEST = "test"
TUNING = "tuning"
_FILES = {TEST: ("emoji_80.jsonl", "emoji_12.jsonl"), TUNING: ("tuning_80.jsonl", "tuning_12.jsonl")}


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one file. `sha256` is of the file, in hex; the two streams, TEST and TUNING, draw from other noise."""

    name: str
    stream: str
    sha256: str
    entries: tuple[PromptEntry, ...]

    @property
    def words(self) -> frozenset[str]:
        """Every word of every prompt, in lower case."""
        return frozenset(word for entry in self.entries for word in entry.prompt.lower().split())

    @property
    def classes(self) -> frozenset[str]:
        """Every object that a prompt includes or excludes."""
        return frozenset(wanted.name for entry in self.entries for wanted in (*entry.include, *entry.exclude))


def find_prompts(which: str, vocabulary: Sequence[str] | None) -> PromptSet:
    """The prompts of "test", "tuning" or a file's path, for a model with this vocabulary (None: any text).

    Of a fixed pair, the first file whose every word is in the vocabulary. Raises EvaluationError where none is, naming
    the words that are missing, or where a file can't be read.
    """
    if which not in _FILES:
        return load_prompts(Path(which), TEST)
    sets = [load_prompts(DATA / name, which) for name in _FILES[which]]
    if vocabulary is None:
        return sets[0]
    known = {word.lower() for word in vocabulary}
    for prompts in sets:
        if prompts.words <= known:
            return prompts
    smallest = sets[-1]
    missing = sorted(smallest.words - known)
    raise EvaluationError(f"the model lacks words of even {smallest.name}: {', '.join(missing)}")


def load_prompts(path: Path, stream: str) -> PromptSet:
    """The prompts of one file. Raises EvaluationError where it can't be read, naming the line that is wrong."""
    try:
        content = path.read_bytes()
        entries = read_entries(path)
    except OSError as error:
        raise EvaluationError(f'prompts are "{TEST}", "{TUNING}" or a file; {path} can\'t be read: {error}') from error
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    if not entries:
        raise EvaluationError(f"{path} holds no prompts")
    return PromptSet(path.name, stream, hashlib.sha256(content).hexdigest(), entries)
