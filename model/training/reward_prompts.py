"""Prompts for reward tuning: what the emoji world's training scenes show, asked for as EmojiGenEval asks. Pure.

Captions, combinations and backgrounds are those of training, so nothing that is held out is ever asked for; the same
(world, task, index) is the same prompt everywhere. No prompt that a score uses is used here, word for word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from model.evaluation.prompts import PromptEntry, Wanted
from model.training.captions import plural
from model.training.sprites import object_names
from model.training.world import EmojiWorld, Scene

_MAX_TRIES = 300  # every task makes up at least a tenth of the scenes


def reward_entry(world: EmojiWorld, task: str, index: int, forbidden: Collection[str] = ()) -> PromptEntry:
    """The index-th prompt of `task` in `world`; never one of `forbidden`, the texts that a score uses.

    Raises ValueError where the world has no other scene of that task.
    """
    for number in range(index * _MAX_TRIES, (index + 1) * _MAX_TRIES):
        scene = world.scene(number)
        if scene.kind == task and scene.caption not in forbidden:
            return entry_of_scene(scene)
    raise ValueError(f"no scene of task {task!r} with a prompt of its own among the objects {', '.join(world.objects)}")


def entry_of_scene(scene: Scene) -> PromptEntry:
    """What a picture of this scene's caption must show, by GenEval's conventions.

    Counting refuses one more than asked for; a position is that of the first object against the second.
    """
    first, *others = scene.objects
    if scene.kind == "counting":
        count = len(scene.objects)
        counted, one_more = Wanted(first.name, count, first.color), Wanted(first.name, count + 1)
        return PromptEntry(scene.kind, scene.caption, (counted,), exclude=(one_more,))
    if scene.relation is not None:
        target = others[0]
        placed = Wanted(first.name, 1, first.color, (scene.relation, 0))
        return PromptEntry(scene.kind, scene.caption, (Wanted(target.name, 1, target.color), placed))
    return PromptEntry(scene.kind, scene.caption, tuple(Wanted(thing.name, 1, thing.color) for thing in scene.objects))


def known_objects(vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The emoji world's objects that a model with these words was trained on, as far as words can tell.

    It must know their plurals too: "orange" alone may be the colour. Where not all objects are known, those whose name
    is part of another's are left out: "bear" may be there for the teddy bear only.
    """
    words = frozenset(vocabulary)
    known = tuple(
        name
        for name in object_names()
        if all(words.issuperset(plural(name, is_naive=is_naive).split()) for is_naive in (False, True))
    )
    if known == object_names():
        return known
    return tuple(name for name in known if not any(name in other.split() for other in known if other != name))
