import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from model.compiled import CompileError
from service import warming
from service.metrics import WorkerGauges
from service.warming import warm_compiled_networks

pytestmark = pytest.mark.anyio


class EngineStub:
    """An engine of two sizes, which remembers what it was given."""

    def __init__(self, name="demo"):
        self.card = SimpleNamespace(name=name)
        self.adopted = {}

    def compile_targets(self):
        return [SimpleNamespace(height=8, width=8), SimpleNamespace(height=8, width=12)]

    def load_compiled(self, package, target):
        if package.name == "refused":
            raise CompileError("refused differs from the network by 0.5 of its velocities' spread")
        return package

    def adopt(self, target, forward):
        self.adopted[(target.height, target.width)] = forward


@pytest.fixture
def gauges():
    return WorkerGauges(CollectorRegistry())


async def test_every_size_of_every_engine_is_compiled_and_adopted(gauges, monkeypatch):
    def compile_apart(target, cache_dir, is_cancelled):
        return cache_dir / f"{target.height}x{target.width}"

    monkeypatch.setattr(warming, "compile_apart", compile_apart)
    engines = [EngineStub(), EngineStub("demo-dist")]
    await warm_compiled_networks(engines, Path("cache"), gauges)
    for engine in engines:
        assert engine.adopted == {(8, 8): Path("cache/8x8"), (8, 12): Path("cache/8x12")}
    assert gauges.compiled_networks._value.get() == 4


async def test_what_fails_is_told_and_the_rest_goes_on(gauges, monkeypatch, caplog):
    def compile_apart(target, cache_dir, is_cancelled):
        if target.width == 8:
            raise CompileError("there is no C++ compiler")
        return Path("refused")

    monkeypatch.setattr(warming, "compile_apart", compile_apart)
    engine = EngineStub()
    with caplog.at_level(logging.WARNING):
        await warm_compiled_networks([engine], Path("cache"), gauges)
    assert engine.adopted == {}
    assert gauges.compiled_networks._value.get() == 0
    assert gauges.failed_compilations._value.get() == 2
    assert [record.message for record in caplog.records] == [
        "demo, latents of 8x8: drawn with the network as it is: there is no C++ compiler",
        "demo, latents of 8x12: drawn with the network as it is: "
        "refused differs from the network by 0.5 of its velocities' spread",
    ]


async def test_cancelling_it_ends_the_compiler(gauges, monkeypatch):
    started, ended = threading.Event(), threading.Event()

    def compile_apart(target, cache_dir, is_cancelled):
        started.set()
        assert is_cancelled.wait(30)
        ended.set()
        raise CompileError("given up")

    monkeypatch.setattr(warming, "compile_apart", compile_apart)
    task = asyncio.ensure_future(warm_compiled_networks([EngineStub()], Path("cache"), gauges))
    assert await asyncio.to_thread(started.wait, 30)
    task.cancel()
    assert await asyncio.to_thread(ended.wait, 30)
    with pytest.raises(asyncio.CancelledError):
        await task
