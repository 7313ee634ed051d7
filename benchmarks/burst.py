"""Many prompts at once against a running service: latency, throughput and how full its batches were.

    python benchmarks/burst.py http://127.0.0.1:8000 --requests 64 --out benchmarks/results/burst.json

Closed loop: every request is sent at once and answered once. Mixed steps, seeds and prompts. Loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

PROMPTS = ("a photo of a red apple", "three yellow umbrellas", "a cat left of a teddy bear", "a blue bus")
BATCH = "emmdit_batch_size"


def main() -> None:
    arguments = _arguments()
    with httpx.Client(base_url=arguments.address, timeout=arguments.timeout_s) as client:
        model = client.get("/v1/models").json()["data"][0]
        default_steps = model["default_num_inference_steps"]
        before = _batches(client)
        started_s = time.monotonic()
        with ThreadPoolExecutor(arguments.requests) as pool:
            durations_s = sorted(pool.map(lambda index: _draw(client, index, default_steps), range(arguments.requests)))
        wall_s = time.monotonic() - started_s
        after = _batches(client)
    quantiles = statistics.quantiles(durations_s, n=100, method="inclusive")
    result = {
        "model": f"{model['id']} {model['version']}",
        "requests": arguments.requests,
        "wall_s": round(wall_s, 3),
        "pictures_per_s": round(arguments.requests / wall_s, 3),
        "p50_s": round(quantiles[49], 3),
        "p95_s": round(quantiles[94], 3),
        "denoise_batches_by_size_at_most": {bound: after[bound] - before.get(bound, 0.0) for bound in after},
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


def _draw(client: httpx.Client, index: int, default_steps: int) -> float:
    body = {
        "prompt": PROMPTS[index % len(PROMPTS)],
        "seed": index,
        "num_inference_steps": max(1, default_steps // 2 + index % (default_steps + 1)),
    }
    started_s = time.monotonic()
    response = client.post("/v1/generate", json=body, headers={"Accept": "image/png"})
    response.raise_for_status()
    return time.monotonic() - started_s


def _batches(client: httpx.Client) -> dict[str, float]:
    """Cumulative histogram of rows per denoising step, as /metrics has it."""
    return {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == f"{BATCH}_bucket" and sample.labels.get("stage") == "denoise"
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=64, choices=range(1, 257), metavar="1..256")
    parser.add_argument("--timeout-s", type=float, default=600.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if urlsplit(arguments.address).hostname not in ("127.0.0.1", "::1", "localhost"):
        parser.error("load is sent to this machine only")
    return arguments


if __name__ == "__main__":
    main()
