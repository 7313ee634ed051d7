"""Rendered scenes on disk: one memory-mappable file of pixels and one of captions, written in parallel, resumable.

A folder holds world.json (what it was made from), pixels.npy (num_scenes, size, size, 3) bytes, captions.parts/ (one
JSONL file per finished chunk: its presence says that the chunk's pixels are on disk), and captions.jsonl at the end.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.training.recolor import ByteArray
from model.training.world import EmojiWorld, Scene

CHUNK_SCENES = 500


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """One line of captions.jsonl: `objects` are (name, colour or None, (left, top, right, bottom) px)."""

    caption: str
    kind: str
    objects: tuple[tuple[str, str | None, tuple[int, int, int, int]], ...]
    background: str
    relation: str | None
    is_held_out: bool


def scene_line(scene: Scene) -> str:
    """A scene as one line of JSON, without its pixels."""
    values = {
        "caption": scene.caption,
        "kind": scene.kind,
        "objects": [[thing.name, thing.color, list(thing.box)] for thing in scene.objects],
        "background": scene.background,
        "relation": scene.relation,
        "is_held_out": scene.is_held_out,
    }
    return json.dumps(values)


def parse_scene_line(line: str) -> SceneRecord:
    """Inverse of `scene_line`."""
    values = json.loads(line)
    objects = tuple((name, color, tuple(box)) for name, color, box in values.pop("objects"))
    return SceneRecord(objects=objects, **values)


@dataclass(frozen=True, slots=True)
class SceneDataset:
    """A rendered folder, opened. `pixels` (N, size, size, 3) is a read-only memory map of its finished scenes."""

    world: EmojiWorld
    pixels: ByteArray
    captions: tuple[str, ...]


def load_records(folder: Path) -> Iterator[SceneRecord]:
    """Records of the finished scenes, in order, up to the first chunk that is not there yet."""
    for part in _finished_parts(folder):
        for line in part.read_text(encoding="utf-8").splitlines():
            yield parse_scene_line(line)


def load_dataset(folder: Path) -> SceneDataset:
    """Open a folder, finished or still being rendered. Raises FileNotFoundError where nothing has been rendered."""
    values = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    captions = tuple(record.caption for record in load_records(folder))
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")[: len(captions)]
    world = EmojiWorld(tuple(values["objects"]), values["size"], values["seed"], values.get("cell_px"))
    return SceneDataset(world, pixels, captions)


def _finished_parts(folder: Path) -> Iterator[Path]:
    index = 0
    while (part := _part_path(folder, index)).exists():
        yield part
        index += 1


def _part_path(folder: Path, chunk: int) -> Path:
    return folder / "captions.parts" / f"{chunk:06d}.jsonl"


def render_dataset(
    world: EmojiWorld,
    num_scenes: int,
    folder: Path,
    *,
    num_workers: int = 2,
    report: Callable[[str], None] = print,
) -> Path:
    """Render `num_scenes` training scenes into `folder` and return it; continues where an earlier call stopped.

    Raises ValueError where the folder holds another world's scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "captions.parts").mkdir(exist_ok=True)
    _claim_folder(world, num_scenes, folder)
    chunks = range((num_scenes + CHUNK_SCENES - 1) // CHUNK_SCENES)
    todo = [chunk for chunk in chunks if not _part_path(folder, chunk).exists()]
    started, num_done = time.monotonic(), 0
    with ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        _start_worker,
        (world.objects, world.size, world.seed, world.cell_px),
    ) as pool:
        for future in as_completed([pool.submit(_render_chunk, folder, chunk, num_scenes) for chunk in todo]):
            num_done += future.result()
            rate = num_done / (time.monotonic() - started)
            left = len(todo) * CHUNK_SCENES - num_done
            report(f"rendered {num_done} scenes, {rate:.0f}/s, {max(left, 0) / rate / 60:.1f} min left")
    lines = "".join(part.read_text(encoding="utf-8") for part in _finished_parts(folder))
    _write_atomically(folder / "captions.jsonl", lines)
    return folder


def _claim_folder(world: EmojiWorld, num_scenes: int, folder: Path) -> None:
    values: dict[str, Any] = {
        "objects": list(world.objects),
        "size": world.size,
        "seed": world.seed,
        "cell_px": world.cell_px,
        "num_scenes": num_scenes,
        "vocabulary": list(world.vocabulary),
    }
    described = folder / "world.json"
    if described.exists():
        found = json.loads(described.read_text(encoding="utf-8"))
        if found != values:
            differing = sorted(key for key in values if found.get(key) != values[key])
            raise ValueError(f"{folder} holds scenes of another world ({', '.join(differing)} differ); choose another")
        return
    shape = (num_scenes, world.size, world.size, 3)
    np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    _write_atomically(described, json.dumps(values, indent=1))


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


_worlds: list[EmojiWorld] = []  # one per worker process: its sprites are worth keeping from chunk to chunk


def _start_worker(objects: tuple[str, ...], size: int, seed: int, cell_px: int | None) -> None:
    _worlds.append(EmojiWorld(objects, size, seed, cell_px))


def _render_chunk(folder: Path, chunk: int, num_scenes: int) -> int:
    pixels = np.load(folder / "pixels.npy", mmap_mode="r+")
    indices = range(chunk * CHUNK_SCENES, min((chunk + 1) * CHUNK_SCENES, num_scenes))
    lines = []
    for index in indices:
        scene = _worlds[0].scene(index)
        pixels[index] = scene.pixels
        lines.append(scene_line(scene) + "\n")
    pixels.flush()
    _write_atomically(_part_path(folder, chunk), "".join(lines))
    return len(indices)
