"""How many samples a second the recipe trainer's readers bring, at the published sizes: latents, text, features.

Writes prepared data of random numbers (0.9 MiB a sample) into a temporary folder and reads it as training would. The
published run took 1.5 days for 150,000 steps of 2048 samples on eight devices: each took 296 samples a second.

    python benchmarks/reading.py [--samples 512] [--threads 4] [--folder DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.training.batches import ReadAhead, RecipeBatches, deal
from model.training.prepared_data import PreparedData
from model.training.recipe import find_recipe, read_recipe
from model.training.shards import (
    EMPTY_TEXT_NAME,
    HalfArray,
    PreparedManifest,
    PreparedSample,
    ShardReport,
    ShardWriter,
    claim_folder,
    npy_bytes,
    write_atomically,
)

SHARD_SAMPLES = 64
NEEDED_PER_S = 150_000 * 2048 / (1.5 * 86_400) / 8


def write_data(folder: Path, num_samples: int) -> PreparedData:
    """Random prepared data with the published shapes."""
    manifest = PreparedManifest(
        source_digest="random",
        num_shards=num_samples // SHARD_SAMPLES,
        shard_samples=SHARD_SAMPLES,
        bundle="none",
        bundle_name="none",
        bundle_version="none",
        size_px=512,
        latent_shape=(32, 16, 16),
        text_shape=(128, 2048),
        has_text=True,
        feature_shape=(256, 768),
    )
    claim_folder(folder, manifest)
    source = np.random.default_rng(0)

    def random(*shape: int) -> HalfArray:
        return source.standard_normal(shape, dtype=np.float32).astype(np.float16)

    write_atomically(folder / EMPTY_TEXT_NAME, npy_bytes(random(128, 2048)))
    for shard in range(manifest.num_shards):
        with ShardWriter(folder, shard, manifest.array_shapes()) as writer:
            for index in range(SHARD_SAMPLES):
                arrays = (random(*shape) for shape in manifest.array_shapes().values())
                writer.add(PreparedSample(str(index), "a caption", 3, *arrays))
            writer.finish(ShardReport(SHARD_SAMPLES, 0, 0, ()))
    return PreparedData([folder])


def measure(
    data: PreparedData, *, with_features: bool, num_threads: int, num_forwards: int = 12
) -> tuple[float, float]:
    """Samples a second that arrive when nobody computes in between, and milliseconds of CPU that each costs."""
    values = replace(read_recipe(find_recipe("emmdit-512-stage-1")).training, rows_per_forward=128)
    dealt = deal(values.batch_size, values.rows_per_forward, 0, 8)
    batches = RecipeBatches(data, values, dealt, with_features=with_features)
    ahead = ReadAhead(
        lambda number: batches.rows(*divmod(number, dealt.num_parts)), num_ahead=num_threads, num_threads=num_threads
    )
    ahead.get(0)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    for number in range(1, num_forwards + 1):
        ahead.get(number)
    elapsed_s, spent_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    ahead.close()
    num_samples = num_forwards * dealt.rows_per_part
    return num_samples / elapsed_s, spent_s / num_samples * 1000


def main() -> None:
    """Print what stage 1 (with features) and stage 2 (without) could take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; the disk that is to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = write_data(Path(folder), options.samples)
        for stage, with_features in ((1, True), (2, False)):
            rate, cpu_ms = measure(data, with_features=with_features, num_threads=options.threads)
            needed = f"{NEEDED_PER_S:.0f} needed per device"
            print(f"stage {stage}: {rate:.0f} samples/s, {cpu_ms:.2f} ms of CPU each; {needed}")


if __name__ == "__main__":
    main()
