"""A real gateway on loopback, around a real queue, with a worker that paints plain colours instead of thinking."""

import asyncio
import hashlib
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np

from model.config import ModelCard
from service.blobs import DirectoryBlobs, blob_key
from service.errors import ServerOverloaded
from service.estimates import CostSummary, Line
from service.gateway.app import create_app
from service.gateway.background import is_cancelled
from service.gateway.server import GatewayServer, bind
from service.jobs import Cancelled, Done, Expired, Failed, ImageRef, Job
from service.metrics import Metrics
from service.png import encode_png, png_text
from service.queue import JobQueue
from service.queue_types import JobProgress, WorkerInfo
from service.queues import Queues
from service.settings import Settings

BEAT_S = 0.02


def card_named(name):
    return ModelCard(
        name=name,
        description="paints plain colours",
        sizes=("64x64", "32x48"),
        default_steps=4,
        default_guidance=2.5,
        max_steps=50,
        max_guidance=10.0,
        version="v1",
        license="none",
        vocabulary=("red", "apple"),
        example_prompts=("a red apple",),
    )


def paint(params):
    """The picture of a recipe: one colour, from its seed, its steps and its prompt."""
    digest = hashlib.sha256(f"{params.seed} {params.num_inference_steps} {params.prompt}".encode()).digest()
    return np.full((params.height, params.width, 3), list(digest[:3]), dtype=np.uint8)


@dataclass
class PaintingWorker:
    """Claims through the real queue. `is_holding` keeps jobs under way, `failure` is what they end with instead."""

    queue: JobQueue
    blobs: DirectoryBlobs
    model: str
    is_claiming: bool = True
    is_holding: bool = False
    failure: Failed | None = None
    can_store: bool = True
    warnings: tuple[str, ...] = ()
    seen: list[Job] = field(default_factory=list)
    held: dict[str, Job] = field(default_factory=dict)

    async def run(self):
        while not is_cancelled():
            try:
                await self._beat()
            except ServerOverloaded:
                await asyncio.sleep(0.1)
            await asyncio.sleep(BEAT_S)

    def costs(self):
        """A step takes half a second, whatever shares it."""
        line = Line(0.5, 0.0)
        group = (self.model, 512, 512)
        return CostSummary(10.0, 8, len(self.held), {group: line}, {group: line}).to_dict()

    async def _beat(self):
        parts = {"network": 1000, "text_encoder": 200}
        shared_with = {"text_encoder": ["another"]}
        info = WorkerInfo(
            id="painter",
            model=self.model,
            version="v1",
            device="cpu",
            started_at=time.time(),
            rate_cost_per_s=10.0,
            costs=self.costs(),
            models=[self.model],
            memory=parts,
            shared_with=shared_with,
            can_store=self.can_store,
        )
        steps = [JobProgress(job.id, job.attempt, 1, 4 * job.num_images) for job in self.held.values()]
        reply = await self.queue.heartbeat(info, steps)
        for job_id in reply.cancelled:
            await self._end(self.held[job_id], Cancelled("running"))
        for job_id in reply.expired:
            await self._end(self.held[job_id], Expired("running"))
        for job_id in reply.lost:
            self.held.pop(job_id, None)
        if self.is_claiming:
            for job in await self.queue.claim("painter", 8, 8, not self.held):
                self.seen.append(job)
                self.held[job.id] = job
        if not self.is_holding:
            for job in list(self.held.values()):
                await self._end(job, self.failure or self._draw(job))

    def _draw(self, job):
        images = []
        for index in range(job.num_images):
            params = job.params_of_image(index)
            text = png_text(params, model=job.model, model_version="v1", prompt=params.prompt, mode="minimal")
            png = encode_png(paint(params), text)
            key = blob_key(job.id, job.attempt, index)
            self.blobs.put(key, png)
            images.append(ImageRef(key, params.seed, len(png), hashlib.sha256(png).hexdigest()))
        return Done(tuple(images), job.params.prompt.strip(), "v1", 0.012, self.warnings)

    async def _end(self, job, result):
        await self.queue.finish(job.id, job.attempt, result)
        self.held.pop(job.id, None)


@dataclass
class Harness:
    """What a test holds in its hands. `call` runs a coroutine in the gateway's loop."""

    base_url: str
    client: httpx.Client
    loop: asyncio.AbstractEventLoop
    server: GatewayServer
    queue: JobQueue
    blobs: DirectoryBlobs
    worker: PaintingWorker
    metrics: Metrics
    gateway: object

    @property
    def model(self):
        """The default model's name."""
        return next(iter(self.gateway.models))

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def generate(self, body=None, headers=None, **fields):
        return self.client.post("/v1/generate", json={"prompt": "a red apple"} | (body or {}) | fields, headers=headers)

    def key_of(self, tenant):
        """A new API key of the tenant."""
        return self.call(self.gateway.keyring.tenants.create(tenant)).text

    @contextmanager
    def as_somebody_else(self):
        """What is asked within is asked with the key of a new tenant."""
        self.client.headers["X-API-Key"] = self.key_of(f"tenant-{secrets.token_hex(8)}")
        try:
            yield
        finally:
            del self.client.headers["X-API-Key"]

    def submit(self, **fields):
        """An asynchronous job's id."""
        response = self.generate(headers={"Prefer": "respond-async"}, **fields)
        assert response.status_code == 202, response.text
        return response.json()["id"]

    def job(self, job_id):
        return self.client.get(f"/v1/jobs/{job_id}").json()

    def wait_for_state(self, job_id, state):
        wait_until(lambda: self.job(job_id)["state"] == state)
        return self.job(job_id)

    def stats(self):
        return self.call(self.queue.stats())

    def is_idle(self):
        """Whether nothing waits, is held, or is on its way from the one to the other."""
        stats = self.stats()
        return not self.worker.held and stats.num_waiting == stats.num_running == 0

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"emmdit_{name}", labels) or 0.0


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.01)


@contextmanager
def running_gateway(url, folder, *names, has_worker=True, cards=None, store=None, tracing=None, **options):
    """Everything in one thread of this process; ends with nothing left running. The worker is the first model's.

    `cards` turns names into cards of a test's own; `store` is where pictures go, a folder where none is given.
    """
    settings = Settings(**({"data_dir": folder, "port": 0, "drain_timeout_s": 1.0} | options))
    started = threading.Event()
    parts = {}
    errors = []

    async def serve():
        queues = Queues.connect(url, models=names, limits=settings.queue_limits())
        queue = queues[names[0]]
        blobs = store or DirectoryBlobs(folder / "images")
        metrics = Metrics()
        cards_of_names = [(cards or card_named)(name) for name in names]
        app = create_app(settings, queues, blobs, metrics, cards_of_names, tracing=tracing)
        server = GatewayServer(app, settings)
        worker = PaintingWorker(queue, blobs, names[0])
        with bind(settings.host, settings.port) as listener:
            parts.update(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
                loop=asyncio.get_running_loop(),
                server=server,
                queue=queue,
                blobs=blobs,
                worker=worker,
                metrics=metrics,
                gateway=app.state.gateway,
            )
            painting = asyncio.create_task(worker.run()) if has_worker else None
            started.set()
            try:
                await server.serve(sockets=[listener])
            finally:
                if painting:
                    painting.cancel()
                    await asyncio.gather(painting, return_exceptions=True)
                await queues.close()

    def run():
        try:
            asyncio.run(serve())
        except BaseException as error:
            errors.append(error)
            started.set()

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    try:
        assert started.wait(10)
        assert not errors, errors
        with httpx.Client(base_url=parts["base_url"], timeout=20) as client:
            harness = Harness(client=client, **parts)
            wait_until(lambda: client.get("/livez").status_code == 200)
            if has_worker:
                wait_until(lambda: client.get("/readyz").status_code == 200)
            yield harness
    finally:
        if "server" in parts and thread.is_alive():
            parts["loop"].call_soon_threadsafe(parts["server"].stop)
        thread.join(20)
        assert not thread.is_alive(), "the gateway did not stop"
    assert not errors, errors
