"""Prepares pictures and captions for training: latents, text embeddings and REPA features, computed once.

Work goes shard by shard: a finished shard is never done again, an interrupted one leaves nothing, and any number of
processes and machines share the shards by number. Surprising: a caption's padding is stored too, because E-MMDiT
attends to padding tokens and what the text encoder says there depends on the caption.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from model.training.dinov2 import GRID
from model.training.encoders import Encoders, place
from model.training.shards import (
    EMPTY_TEXT_NAME,
    PreparedManifest,
    ShardReport,
    ShardWriter,
    claim_folder,
    npy_bytes,
    read_report,
    remove_dead_drafts,
    write_atomically,
)
from model.training.sources import Picture, RawSample, Source, Unusable, open_sample, open_source

Report = Callable[[str], None]
NUM_DECODERS = 8  # threads that open pictures while the device encodes the batch before
MAX_NAMED = 10  # skipped samples spelled out at the end; all are in the shards' reports


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """One preparation. `bundle` is the folder whose autoencoder and text encoder are used.

    `is_text_encoded` False stores captions only: training then runs the text encoder itself, as the authors did.
    `features` is the folder of a DINOv2, None for no REPA. This machine does every `num_machines`-th shard, from
    `machine` (0-based) on.
    """

    source: Path
    target: Path
    bundle: Path
    is_text_encoded: bool = True
    features: Path | None = None
    shard_samples: int = 2048
    batch_size: int = 32
    num_workers: int = 1
    machine: int = 0
    num_machines: int = 1
    device: str = "auto"
    dtype: str = "auto"

    def load_encoders(self, worker: int) -> Encoders:
        """The networks of process number `worker`."""
        device, dtype = place(self.device, self.dtype, worker)
        return Encoders.load(
            self.bundle, is_text_encoded=self.is_text_encoded, features=self.features, device=device, dtype=dtype
        )


def prepare(config: PrepareConfig, *, report: Report = print) -> Path:
    """Prepare this machine's shards of the source; returns the target folder.

    Raises SourceError, ShardError or a BundleError for what can't be read, ValueError for a device that isn't there.
    """
    source = open_source(config.source, config.shard_samples)
    encoders = config.load_encoders(worker=0)
    claim_folder(config.target, _describe(config, source, encoders))
    if encoders.text is not None and not (config.target / EMPTY_TEXT_NAME).exists():
        write_atomically(config.target / EMPTY_TEXT_NAME, npy_bytes(encoders.encode_text([""])[0]))
    mine = range(config.machine, source.num_shards, config.num_machines)
    todo = [shard for shard in mine if read_report(config.target, shard) is None]
    of_pictures = "" if source.num_samples is None else f" of {source.num_samples} pictures"
    report(
        f"{source.num_shards} shards{of_pictures}, {len(mine)} for this machine, {len(mine) - len(todo)} done already"
    )
    if config.num_workers == 1:
        results: Iterable[ShardReport] = (_prepare_shard(config, source, encoders, shard) for shard in todo)
    else:
        del encoders  # each process has its own
        results = _prepare_in_processes(config, todo)
    _tell_progress(results, len(todo), report)
    _summarize(config.target, mine, report)
    return config.target


def _describe(config: PrepareConfig, source: Source, encoders: Encoders) -> PreparedManifest:
    bundle = encoders.bundle
    return PreparedManifest(
        source_digest=source.digest(),
        num_shards=source.num_shards,
        shard_samples=config.shard_samples,
        bundle=str(bundle.folder),
        bundle_name=bundle.card.name,
        bundle_version=bundle.card.version,
        size_px=encoders.size_px,
        latent_shape=encoders.latent_shape,
        text_shape=encoders.text_shape,
        has_text=encoders.text is not None,
        feature_shape=None if encoders.features is None else (GRID**2, encoders.features.num_channels),
    )


def _prepare_shard(config: PrepareConfig, source: Source, encoders: Encoders, shard: int) -> ShardReport:
    skipped: list[tuple[str, str]] = []
    num_enlarged = num_cut = 0
    with ShardWriter(config.target, shard, _describe(config, source, encoders).array_shapes()) as writer:
        for pictures in _opened_batches(source, shard, config.batch_size, encoders.size_px, skipped):
            num_enlarged += sum(picture.is_enlarged for picture in pictures)
            for sample in encoders.encode(pictures):
                try:
                    writer.add(sample)
                except ArithmeticError as error:
                    skipped.append((sample.name, str(error)))
                num_cut += sample.num_tokens > encoders.bundle.config.num_text_tokens
        report = ShardReport(writer.num_samples, num_enlarged, num_cut, tuple(skipped))
        writer.finish(report)
    return report


def _opened_batches(
    source: Source, shard: int, batch_size: int, size_px: int, skipped: list[tuple[str, str]]
) -> Iterator[list[Picture]]:
    """Batches of opened pictures, in order; the next is being opened while the caller works. Fills `skipped`."""

    def open_or_explain(sample: RawSample) -> Picture | tuple[str, str]:
        try:
            return open_sample(sample, size_px)
        except Unusable as reason:
            return sample.name, str(reason)

    def raw_samples() -> Iterator[RawSample]:
        try:
            yield from source.read(shard)
        except Unusable as reason:
            skipped.append((f"source shard {shard}", str(reason)))

    samples = raw_samples()
    with ThreadPoolExecutor(NUM_DECODERS) as pool:
        under_way: list[Future[Picture | tuple[str, str]]] = []
        while True:
            finished, under_way = under_way, [pool.submit(open_or_explain, s) for s in islice(samples, batch_size)]
            results = [future.result() for future in finished]
            skipped += [result for result in results if not isinstance(result, Picture)]
            if pictures := [result for result in results if isinstance(result, Picture)]:
                yield pictures
            if not under_way:
                return


_work: list[tuple[PrepareConfig, Source, Encoders]] = []  # one per worker process: its networks load once


def _start_worker(config: PrepareConfig, counter: Any) -> None:  # noqa: ANN401 (a shared integer has no public type)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all: the pool would else hand out the next shard
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.num_workers))
    with counter.get_lock():
        worker, counter.value = counter.value, counter.value + 1
    _work.append((config, open_source(config.source, config.shard_samples), config.load_encoders(worker)))


def _prepare_one(shard: int) -> ShardReport:
    return _prepare_shard(*_work[0], shard)


def _prepare_in_processes(config: PrepareConfig, todo: Sequence[int]) -> Iterator[ShardReport]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(config.num_workers, context, _start_worker, (config, context.Value("i", 0)))
    try:
        for future in as_completed([pool.submit(_prepare_one, shard) for shard in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        remove_dead_drafts(config.target)


def _tell_progress(results: Iterable[ShardReport], num_shards: int, report: Report) -> None:
    started_s, num_samples, num_skipped = time.monotonic(), 0, 0
    for num_done, result in enumerate(results, start=1):
        num_samples += result.num_samples
        num_skipped += len(result.skipped)
        elapsed_s = time.monotonic() - started_s
        left_min = elapsed_s / num_done * (num_shards - num_done) / 60
        report(
            f"shard {num_done} of {num_shards}: {num_samples} pictures, {num_samples / elapsed_s:.1f}/s, "
            f"{num_skipped} skipped, left {left_min:.1f} min"
        )


def _summarize(target: Path, shards: Sequence[int], report: Report) -> None:
    finished = [found for shard in shards if (found := read_report(target, shard)) is not None]
    num_samples = sum(found.num_samples for found in finished)
    skipped = [entry for found in finished for entry in found.skipped]
    num_enlarged = sum(found.num_enlarged for found in finished)
    num_cut = sum(found.num_cut_captions for found in finished)
    report(
        f"{target}: {num_samples} pictures in {len(finished)} shards; {num_enlarged} had to be enlarged, "
        f"{num_cut} captions were cut, {len(skipped)} samples skipped"
    )
    for name, reason in skipped[:MAX_NAMED]:
        report(f"  skipped {name}: {reason}")
    if len(skipped) > MAX_NAMED:
        report(f"  and {len(skipped) - MAX_NAMED} more: see the shards' .json files in {target}")
