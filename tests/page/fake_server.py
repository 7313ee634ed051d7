"""A server that speaks the page's part of the interface and can be busy, slow, locked or gone when a test wants it so.

The page itself is the real one. Pictures are plain colours, from their seeds.
"""

import asyncio
import base64
import io
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from service.gateway import webpage
from tests.gateway.harness import wait_until

VOCABULARY = ["a", "apple", "banana", "blue", "donut", "of", "on", "photo", "red", "three", "umbrellas", "yellow"]
MODEL = {
    "id": "painter",
    "object": "model",
    "is_default": True,
    "owned_by": "tests",
    "description": "Paints plain colours",
    "version": "1",
    "license": "none",
    "sizes": ["64x64", "96x64"],
    "default_size": "64x64",
    "default_num_inference_steps": 8,
    "max_num_inference_steps": 50,
    "default_guidance_scale": 2.5,
    "max_guidance_scale": 10.0,
    "max_n": 4,
    "max_prompt_chars": 200,
    "vocabulary": VOCABULARY,
    "example_prompts": ["a photo of a red apple", "three yellow umbrellas"],
    "num_workers": 1,
    "is_ready": True,
    "workers": [],
}


def paint(seed, size=(64, 64), kind="PNG"):
    """A plain picture whose colour tells its seed."""
    data = io.BytesIO()
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, 120)).save(data, kind)
    return data.getvalue()


@dataclass
class FakeJob:
    id: str
    body: dict
    state: str = "queued"
    step: int = 0
    events: list = field(default_factory=list)
    drawing: asyncio.Task | None = None

    @property
    def num_steps(self):
        return self.body["num_inference_steps"]

    def describe(self):
        n = self.body["n"]
        is_done = self.state == "done"
        return {
            "id": self.id,
            "state": self.state,
            "position": 2 if self.state == "queued" else None,
            "step": self.step * n,
            "num_steps": self.num_steps * n,
            "estimated_seconds_left": None if is_done else (self.num_steps - self.step) * 0.5,
            "n": n,
            "images": [
                {"index": index, "url": f"/v1/jobs/{self.id}/images/{index}", "seed": self.body["seed"] + index}
                for index in range(n if is_done else 0)
            ],
            "timings": {"queue_s": 0.1, "inference_s": 1.5 if is_done else None, "total_s": 1.6},
            "error": None,
        }


@dataclass
class Behaviour:
    """What a test may change while the server runs."""

    num_refusals: int = 0  # of the next submissions, with 429
    refusal_code: str = "rate_limit_exceeded"
    retry_after_s: float = 2
    key: str = ""  # asked for where it is not empty
    accept_s: float = 0.0
    step_s: float = 0.02
    is_held: bool = False  # jobs stay where they are
    has_events: bool = True
    cut_after: int = 0  # events, after which a stream is closed


class FakeServer:
    """`jobs` are all that were accepted, `calls` all requests as "METHOD path"."""

    def __init__(self):
        self.behaviour = Behaviour()
        self.jobs = {}
        self.keys = {}
        self.calls = []
        self.resumed_after = []
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self.app.include_router(webpage.router)
        self.app.middleware("http")(self._guard)
        self.app.get("/v1/models")(self._models)
        self.app.get("/metrics")(self._metrics)
        self.app.post("/v1/generate")(self._generate)
        self.app.get("/v1/jobs/{job_id}")(self._job)
        self.app.delete("/v1/jobs/{job_id}")(self._cancel)
        self.app.get("/v1/jobs/{job_id}/events")(self._events)
        self.app.get("/v1/jobs/{job_id}/images/{index}")(self._image)

    async def _guard(self, request: Request, call_next):
        self.calls.append(f"{request.method} {request.url.path}")
        key = self.behaviour.key
        if key and request.url.path.startswith("/v1/") and request.headers.get("authorization") != f"Bearer {key}":
            return refusal(401, "invalid_api_key", "a key is needed here")
        return await call_next(request)

    async def _models(self):
        return {"object": "list", "data": [MODEL]}

    async def _metrics(self):
        waiting = sum(job.state == "queued" for job in self.jobs.values())
        running = sum(job.state == "running" for job in self.jobs.values())
        drawn = sum(job.body["n"] for job in self.jobs.values() if job.state == "done")
        lines = {"num_requests_waiting": waiting, "num_requests_running": running, "images_total": drawn}
        text = "".join(f'emmdit_{name}{{model="painter"}} {value}\n' for name, value in lines.items())
        return Response(text, media_type="text/plain")

    async def _generate(self, request: Request):
        body = await request.json()
        await asyncio.sleep(self.behaviour.accept_s)
        key = request.headers["idempotency-key"]
        if self.behaviour.num_refusals > 0:
            self.behaviour.num_refusals -= 1
            seconds = self.behaviour.retry_after_s
            code = self.behaviour.refusal_code
            return refusal(429, code, "the queue is full: 64 of 64 jobs", {"Retry-After": str(seconds)})
        if body["prompt"] == "refused":
            return refusal(400, "invalid_value", "guidance_scale: 9 is not allowed", param="guidance_scale")
        if key not in self.keys:
            job = FakeJob(f"{len(self.jobs) + 1:032x}", body)
            self.keys[key] = job.id
            self.jobs[job.id] = job
            job.events.append(("job", job.describe()))
        job = self.jobs[self.keys[key]]
        self._go_on(job)
        return JSONResponse(job.describe(), status_code=202)

    def _go_on(self, job):
        """Draw it, unless it is being drawn: what a server that has come back does for those it had under way."""
        if job.drawing is None or job.drawing.get_loop() is not asyncio.get_running_loop():
            job.drawing = asyncio.create_task(self._draw(job))

    async def _draw(self, job):
        while self.behaviour.is_held:  # noqa: ASYNC110  the test's own thread changes it
            await asyncio.sleep(0.02)
        while job.state in {"queued", "running"} and job.step < job.num_steps:
            await asyncio.sleep(self.behaviour.step_s)
            if job.state == "cancelled":
                return
            job.state = "running"
            job.step += 1
            job.events.append(("job", job.describe()))
            for index in range(job.body["n"]):
                job.events.append(("preview", self._preview(job, index)))
        job.state = "done"
        job.events.extend(("image", self._picture(job, index)) for index in range(job.body["n"]))
        job.events.append(("done", job.describe()))

    def _preview(self, job, index):
        data = base64.b64encode(paint(job.body["seed"] + index, (8, 8), "JPEG")).decode()
        place = {"job_id": job.id, "index": index, "step": job.step, "num_steps": job.num_steps}
        return place | {"width": 8, "height": 8, "content_type": "image/jpeg", "b64_json": data}

    def _picture(self, job, index):
        seed = job.body["seed"] + index
        data = paint(seed)
        place = {"job_id": job.id, "index": index, "seed": seed, "url": f"/v1/jobs/{job.id}/images/{index}"}
        return place | {
            "num_bytes": len(data),
            "content_type": "image/png",
            "b64_json": base64.b64encode(data).decode(),
        }

    async def _job(self, job_id: str):
        if job_id not in self.jobs:
            return refusal(404, "job_not_found", "no such job")
        return self.jobs[job_id].describe()

    async def _cancel(self, job_id: str):
        job = self.jobs[job_id]
        job.state = "cancelled"
        error = {"message": "it was cancelled", "type": "invalid_request_error", "param": None, "code": "cancelled"}
        job.events.append(("error", {"error": error, "job": job.describe()}))
        return job.describe()

    async def _events(self, request: Request, job_id: str):
        if not self.behaviour.has_events:
            return refusal(404, "not_found", "no route")
        if job_id not in self.jobs:
            return refusal(404, "job_not_found", "no such job")
        self._go_on(self.jobs[job_id])
        after = int(request.headers.get("last-event-id", 0))
        self.resumed_after.append(after)
        return StreamingResponse(self._stream(self.jobs[job_id], after), media_type="text/event-stream")

    async def _stream(self, job, place):
        yield "retry: 1000\n\n: keep-alive\n\n"
        num_sent = 0
        while True:
            while place < len(job.events):
                name, data = job.events[place]
                place += 1
                num_sent += 1
                yield f"id: {place}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
                if name in {"done", "error"} or num_sent == self.behaviour.cut_after:
                    return
            await asyncio.sleep(0.01)

    async def _image(self, job_id: str, index: int):
        return Response(paint(self.jobs[job_id].body["seed"] + index), media_type="image/png")


def refusal(status, code, message, headers=None, param=None):
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


@contextmanager
def listening(fake, port=0):
    """The server on loopback; its address. Given the port of before it is the same server come back."""
    server = uvicorn.Server(
        uvicorn.Config(fake.app, port=port, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
    )
    thread = threading.Thread(target=server.run, name="page server")
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"
