"""A server on loopback that answers each request as a test's script says, broken connections included."""

import asyncio
import base64
import json
import threading
from dataclasses import dataclass, field
from http import HTTPStatus

PNG = b"\x89PNG\r\n\x1a\n picture"
JOB_ID = "0123456789abcdef0123456789abcdef"


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def fields(self):
        return json.loads(self.body)


@dataclass
class Reply:
    """One answer. `pieces` are written one by one; `is_cut` hangs up where a complete answer would go on."""

    status: int = 200
    headers: dict = field(default_factory=dict)
    pieces: list = field(default_factory=list)
    is_cut: bool = False


def hang_up():
    """Not a byte of an answer."""
    return None


def as_json(value, status=200, **headers):
    names = {name.replace("_", "-"): content for name, content in headers.items()}
    return Reply(status, {"content-type": "application/json", **names}, [json.dumps(value).encode()])


def refusal(status, code, message="no", **headers):
    return as_json({"error": {"message": message, "type": "t", "param": None, "code": code}}, status, **headers)


def stream(*events, is_cut=False, split=None):
    """Events as text/event-stream; `split` cuts the bytes into pieces of that many."""
    data = b"retry: 10\n\n" + b"".join(events)
    pieces = [data] if split is None else [data[at : at + split] for at in range(0, len(data), split)]
    return Reply(200, {"content-type": "text/event-stream", "x-job-id": JOB_ID}, pieces, is_cut)


def event(name, value, id=None):
    lines = [f"event: {name}", f"data: {json.dumps(value)}"]
    return "\n".join(([f"id: {id}"] if id else []) + lines + ["", ""]).encode()


def job(state="running", **changes):
    values = {
        "id": JOB_ID,
        "object": "job",
        "state": state,
        "model": "demo",
        "model_version": None,
        "created": 1795404187,
        "position": 2 if state == "queued" else None,
        "step": 3,
        "num_steps": 19,
        "estimated_seconds_left": 0.1,
        "n": 1,
        "size": "64x64",
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "seed": 7,
        "priority": "normal",
        "timeout_s": 300.0,
        "prompt": None,
        "images": [{"index": 0, "url": image_url(0), "seed": 7, "num_bytes": len(PNG)}] if state == "done" else [],
        "timings": {"queue_s": 0.01, "inference_s": None, "total_s": None},
        "warnings": [],
        "error": None,
    }
    return values | changes


def image_url(index):
    return f"/v1/jobs/{JOB_ID}/images/{index}"


def image(index=0, data=PNG):
    return {
        "job_id": JOB_ID,
        "index": index,
        "seed": 7 + index,
        "url": image_url(index),
        "num_bytes": len(data),
        "content_type": "image/png",
        "b64_json": base64.b64encode(data).decode(),
    }


def preview(step=1, index=0, data=PNG):
    return {
        "job_id": JOB_ID,
        "index": index,
        "step": step,
        "num_steps": 19,
        "width": 2,
        "height": 2,
        "content_type": "image/png",
        "b64_json": base64.b64encode(data).decode(),
    }


def generation(*seeds):
    return {
        "id": JOB_ID,
        "created": 1795404187,
        "model": "demo",
        "model_version": "3",
        "data": [{"b64_json": base64.b64encode(PNG).decode(), "seed": s, "url": image_url(0)} for s in seeds or (7,)],
        "prompt": "a red apple",
        "size": "64x64",
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "timings": {"queue_s": 0.004, "inference_s": 0.4, "total_s": 0.43},
        "warnings": [],
    }


class ScriptedServer:
    """`script` holds the replies to come, or a function of the request; `seen` the requests that came.

    A context manager. `go_away` closes the port and every connection, `come_back` opens the same port again.
    """

    def __init__(self, *script):
        self.script = list(script)
        self.seen = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-server")
        self._writers = {}  # by the task that serves it
        self._port = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def go_away(self):
        self._call(self._close())

    def come_back(self):
        self._call(self._listen())

    def __enter__(self):
        self._thread.start()
        self.come_back()
        return self

    def __exit__(self, *_):
        try:
            self.go_away()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self):
        self._server.close()
        serving = dict(self._writers)
        for task, writer in serving.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self._writers[asyncio.current_task()] = writer
        try:
            request = await self._read(reader)
            self.seen.append(request)
            reply = self.script.pop(0) if isinstance(self.script, list) else self.script(request)
            if reply is not None:
                await self._write(writer, reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # went away
        finally:
            writer.close()
            del self._writers[asyncio.current_task()]

    async def _read(self, reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        fields = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in fields}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Seen(method, path, headers, body)

    async def _write(self, writer, reply):
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        if reply.status != HTTPStatus.NO_CONTENT:
            lines.append("transfer-encoding: chunked")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for piece in reply.pieces:
            if callable(piece):
                piece = await piece()
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        if not reply.is_cut and reply.status != HTTPStatus.NO_CONTENT:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
