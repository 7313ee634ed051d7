"""A service of a few lines, so that what a load generator says of it can be known beforehand."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

PNG = b"\x89PNG..."


class FakeService:
    """`delay_s(body)` is how long a picture takes; bodies whose prompt is "fail" get 503. Counts what is at work."""

    def __init__(self, delay_s=lambda body: 0.0, offers_events=False):
        self.bodies = []
        self.num_working = 0
        self.max_working = 0
        self.forwards, self.rows = 0, 0
        self._delay_s = delay_s
        self._offers_events = offers_events
        self.keys = []
        self.app = FastAPI(openapi_url=None)
        self.app.post("/v1/generate")(self._generate)
        self.app.get("/metrics")(self._metrics)
        self.app.get("/v1/models")(self._models)
        self.app.get("/openapi.json")(self._description)

    async def _generate(self, request: Request):
        self.keys.append(request.headers.get("authorization"))
        body = await request.json()
        self.bodies.append(body)
        self.num_working += 1
        self.max_working = max(self.max_working, self.num_working)
        await asyncio.sleep(self._delay_s(body))
        self.num_working -= 1
        self.forwards += 1
        self.rows += 3
        if body["prompt"] == "fail":
            return JSONResponse({"error": {"code": "server_is_overloaded"}}, status_code=503)
        if request.headers["accept"] == "text/event-stream":
            return StreamingResponse(self._events(), media_type="text/event-stream")
        return Response(PNG, media_type="image/png", headers={"x-queue-time": "0.250", "x-inference-time": "0.750"})

    async def _events(self):
        for name in ("progress", "preview", "preview", "completed"):
            yield f"event: {name}\ndata: {{}}\n\n"

    async def _metrics(self):
        return PlainTextResponse(
            "# TYPE emmdit_batch_size histogram\n"
            f'emmdit_batch_size_sum{{stage="denoise"}} {self.rows}\n'
            f'emmdit_batch_size_count{{stage="denoise"}} {self.forwards}\n'
            f'emmdit_batch_size_bucket{{le="+Inf",stage="denoise"}} {self.forwards}\n'
        )

    async def _models(self):
        return {"data": [{"id": "fake", "version": "1", "example_prompts": ["a cat", "a dog"]}]}

    async def _description(self):
        content = {"image/png": {}} | ({"text/event-stream": {}} if self._offers_events else {})
        return {"paths": {"/v1/generate": {"post": {"responses": {"200": {"content": content}}}}}}
