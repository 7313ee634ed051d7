"""What is wrong with this machine and these settings, and how to mend it. Looks, and leaves nothing behind.

Every check gives findings: a name, a level, what was found, and a remedy where there is something to mend. Here are
those of settings and machine; service/cli/part_checks.py has those of torch, weights, queue, filter and signatures.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from service.errors import ConfigurationError, EmmditError
from service.settings import Settings, load_settings

GIB = 1024**3
LITTLE_DISK_BYTES = 2 * GIB
NO_DISK_BYTES = GIB // 8
LEAST_OPEN_FILES = 1024
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Level(StrEnum):
    """FAIL: it will not run like this. warn: it runs, but perhaps not as you think."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def examine(url: str | None) -> Iterator[Finding]:
    """Everything, as it is found out. `url`: a running service to ask as well."""
    yield from check_packages()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        yield Finding("settings", Level.FAIL, error.message, "docs/settings.md lists them; the rest was not looked at")
    else:
        yield from check_settings(settings)
        # Late: torch takes seconds, and somebody is reading.
        from service.cli.part_checks import (
            check_content_filter,
            check_keys,
            check_models,
            check_provenance,
            check_queue,
            check_store,
            check_torch,
        )

        yield from check_port(settings)
        yield from check_disk(settings)
        yield from check_limits()
        yield from check_queue(settings)
        yield from check_store(settings)
        yield from check_keys(settings)
        yield from check_content_filter(settings)
        yield from check_provenance(settings)
        torch_findings = list(check_torch(settings))
        yield from torch_findings
        if all(finding.level is not Level.FAIL or finding.name == "device" for finding in torch_findings):
            yield from check_models(settings)
    if url is not None:
        yield from check_service(url)


def check_packages() -> Iterator[Finding]:
    """Everything installed that pyproject.toml asks for."""
    try:
        wanted = importlib.metadata.requires("emmdit") or []
        version = importlib.metadata.version("emmdit")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", Level.WARN, "runs from a folder, not installed", "pip install -e .")
        return
    missing = []
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)
        if name is None or "extra ==" in requirement or ("sys_platform" in requirement and os.name != "posix"):
            continue
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(name[0])
    if missing:
        yield Finding("packages", Level.FAIL, f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Finding("packages", Level.OK, f"emmdit {version}, everything that it needs is installed")


def check_settings(settings: Settings) -> Iterator[Finding]:
    """What was set, without secrets; whether strangers could get in."""
    from service.gateway.auth import refuse_open_binding

    names = sorted(settings.model_fields_set)
    yield Finding("settings", Level.OK, f"set: {', '.join(names)}" if names else "all as they are by default")
    try:
        refuse_open_binding(settings)
    except ConfigurationError as error:
        message, _, remedy = error.message.partition("; ")
        yield Finding("address", Level.FAIL, message, remedy)


def check_port(settings: Settings) -> Iterator[Finding]:
    """Whether the gateway can listen, or does."""
    from service.gateway.server import bind

    place = f"{settings.host}:{settings.port}"
    try:
        bind(settings.host, settings.port).close()
    except ConfigurationError as error:
        if _is_ours(f"http://{place}"):
            yield Finding("port", Level.OK, f"a service is running at {place}")
        else:
            yield Finding("port", Level.FAIL, error.message, "end what uses it, or choose another with EMMDIT_PORT")
    else:
        yield Finding("port", Level.OK, f"{place} is free")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Whether pictures and queue can be kept."""
    folders = {"data": settings.data_dir, "compiled": settings.compiled_dir}
    for name, folder in folders.items():
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            remedy = f"choose a folder of yours with EMMDIT_{name.upper()}_DIR"
            yield Finding(f"{name} folder", Level.FAIL, f"{there} cannot be written to", remedy)
            continue
        free_bytes = shutil.disk_usage(there).free
        found = f"{folder}, {free_bytes / GIB:.1f} GiB free"
        if free_bytes < NO_DISK_BYTES:
            yield Finding(f"{name} folder", Level.FAIL, found, "free some space; the service refuses work without any")
        elif free_bytes < LITTLE_DISK_BYTES:
            yield Finding(f"{name} folder", Level.WARN, found, "finished pictures are kept for EMMDIT_RESULT_TTL_S")
        else:
            yield Finding(f"{name} folder", Level.OK, found)


def check_limits() -> Iterator[Finding]:
    """What the system lets a process have."""
    import resource

    num_files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if num_files < LEAST_OPEN_FILES:
        remedy = f"ulimit -n {LEAST_OPEN_FILES}" + (" (as root)" if most < LEAST_OPEN_FILES else "")
        yield Finding("open files", Level.WARN, f"at most {num_files}, and every connection is one", remedy)


def check_service(url: str) -> Iterator[Finding]:
    """A running service as its clients see it."""
    from service.cli.remote import api_key
    from service.client import Client

    try:
        with Client(url, api_key=api_key(), patience_s=0) as client:
            models = client.models()
    except (EmmditError, ValueError) as error:
        yield Finding("service", Level.FAIL, f"{masked(url)}: {error}", "is it running, and is this its address?")
        return
    for model in models:
        level, workers = Level.OK, f"{model.num_workers} worker{'s' if model.num_workers != 1 else ''}"
        if not model.is_ready:
            level = Level.FAIL
        remedy = "" if model.is_ready else f"emmdit worker --model {model.id}"
        yield Finding("service", level, f"{masked(url)}: {model.id} version {model.version}, {workers}", remedy)


def available_memory_bytes() -> int | None:
    """What a new process could get, by the kernel's estimate and the container's limit; None where neither tells."""
    found = []
    try:
        meminfo = Path("/proc/meminfo").read_text("ascii")
        if match := re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE):
            found.append(1024 * int(match[1]))
        limit = MEMORY_LIMIT.read_text("ascii").strip()
        if limit.isdigit():
            used = int(MEMORY_LIMIT.with_name("memory.current").read_text("ascii"))
            found.append(max(int(limit) - used, 0))
    except (OSError, ValueError):
        pass  # not Linux, or no limit
    return min(found, default=None)


def masked(url: str) -> str:
    """An address without the passwords that may be in it."""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        return "an address that cannot be read"
    place = parts.netloc
    if has_password:
        userinfo, _, place = parts.netloc.rpartition("@")
        place = f"{userinfo.split(':')[0]}:***@{place}"
    return parts._replace(netloc=place, query="***" if parts.query else "").geturl()


def _is_ours(address: str) -> bool:
    import httpx

    try:
        return "x-request-id" in httpx.get(f"{address}/livez", timeout=2.0, trust_env=False).headers
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
