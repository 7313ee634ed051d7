"""Clients over real HTTP that bear what a network does, ask again where they may, and write down what they saw."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress

import httpx

from tests.chaos.pixels import pixels_of_png
from tests.chaos.record import Record
from tests.chaos.streams import follow_events
from tests.chaos.tenants import TENANTS, tenant_of
from tests.chaos.wanted import Wanted

HANG_S = 180.0  # beyond every deadline of a request, and every bound on an answer
CALL_S = 20.0  # of a call that has nothing to wait for
POLL_S = 0.15
NOSY_SHARE = 0.1  # of the jobs that are polled, which another tenant asks for too
LONGEST_PAUSE_S = 1.0  # Retry-After is checked, not obeyed to the letter: this run has an end
ENDS = ("done", "failed", "cancelled", "expired")


class Clients:
    """All clients of a run. `visit` is one request's whole life. A context manager."""

    def __init__(
        self,
        urls: Sequence[str],
        record: Record,
        *,
        seed: int = 0,
        keys: Mapping[str, str] | None = None,
        hang_s: float = HANG_S,
    ) -> None:
        self.record = record
        self._urls = list(urls)
        self._rng = random.Random(seed)
        self._hang_s = hang_s
        self._keys = keys or {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        # A waiting request is bounded by `hang_s` around it.
        self.http = httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(None, connect=5.0))

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def visit(self, wanted: Wanted) -> None:
        """Ask, wait, take what comes; never longer than `hang_s`."""
        started_s = self.record.now_s()
        try:
            async with asyncio.timeout(self._hang_s):
                await _LIVES[wanted.kind](self, wanted)
        except TimeoutError:
            self.record.add("hung", request=wanted.number, after_s=round(self.record.now_s() - started_s, 2))

    async def submit_once(self, wanted: Wanted) -> httpx.Response | None:
        """One asynchronous request to one gateway, whatever its answer; None where there was none."""
        self.note_sent(wanted)
        try:
            response = await self.http.post(
                self.any_url() + "/v1/generate",
                json=wanted.body(),
                headers={"Prefer": "respond-async"} | self.keyed(wanted),
                timeout=CALL_S,
            )
        except httpx.HTTPError:
            self.record.add("broken", request=wanted.number)
            return None
        if job := _job_of_location(response):
            self.record.add("accepted", request=wanted.number, job=job)
        else:
            self.note_refused(wanted, response)
        return response

    async def get_once(self, request: int, path: str) -> httpx.Response | None:
        """One look through one gateway, as whoever sent that request; None where there was no answer."""
        try:
            return await self.http.get(self.any_url() + path, headers=self.authorization(request), timeout=CALL_S)
        except httpx.HTTPError:
            return None

    # -- the kinds of requests

    async def _visit_async(self, wanted: Wanted) -> None:
        if job := await self._submit_async(wanted):
            await self.follow(wanted, job)

    async def _visit_cancel(self, wanted: Wanted) -> None:
        job = await self._submit_async(wanted)
        if not job:
            return
        await asyncio.sleep(wanted.delay_s)
        self.record.add("cancelling", request=wanted.number, job=job)
        response = await self._persist(wanted, "DELETE", f"/v1/jobs/{job}")
        if response.status_code not in (200, 202):
            self.strange(wanted, job, response)
        await self.follow(wanted, job)

    async def _visit_waiting(self, wanted: Wanted) -> None:
        accept = "application/json" if wanted.kind == "json" else "image/png"
        if response := await self._post(wanted, {"Accept": accept}):
            await self.take(wanted, response)

    async def _visit_hang_up(self, wanted: Wanted) -> None:
        waiting = asyncio.create_task(self._post(wanted, {"Accept": "image/png"}))
        done, _ = await asyncio.wait((waiting,), timeout=wanted.delay_s)
        if done:
            if response := waiting.result():
                await self.take(wanted, response)
            return
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        self.record.add("hung_up", request=wanted.number)

    async def _visit_stream(self, wanted: Wanted) -> None:
        await follow_events(self, wanted)

    # -- steps that several of them take

    async def follow(self, wanted: Wanted, job: str) -> None:
        """Poll an accepted job to its end and fetch its pictures."""
        while True:
            response = await self._persist(wanted, "GET", f"/v1/jobs/{job}")
            if response.status_code != 200:
                self.strange(wanted, job, response)
                return
            state, error = response.json()["state"], response.json()["error"]
            if state in ENDS:
                self.ended(wanted, job, state, "poll", None if error is None else error["code"])
                break
            await asyncio.sleep(POLL_S * (0.5 + self._rng.random()))
        if state == "done":
            for index in range(wanted.n):
                await self.fetch(wanted, job, index)
        if self._keys and self._rng.random() < NOSY_SHARE:
            await self._look_as_another(wanted, job)

    async def _look_as_another(self, wanted: Wanted, job: str) -> None:
        """Somebody else's job does not exist."""
        other = wanted.number + self._rng.randrange(1, len(TENANTS))
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/images/0"):
            response = await self.get_once(other, path)
            if response is not None and response.status_code not in (404, 503):
                why = f"{tenant_of(other)} is answered {response.status_code} for a job of {tenant_of(wanted.number)}"
                self.record.add("intruded", request=wanted.number, job=job, why=why)

    async def fetch(self, wanted: Wanted, job: str, index: int) -> None:
        """One finished picture."""
        response = await self._persist(wanted, "GET", f"/v1/jobs/{job}/images/{index}")
        if response.status_code == 200:
            self.picture(wanted, job, index, response.content)
        else:
            self.strange(wanted, job, response)

    async def _submit_async(self, wanted: Wanted) -> str:
        """The accepted job's id; "" where it is refused for good, or nobody knows."""
        response = await self._post(wanted, {"Prefer": "respond-async"})
        if response is None:
            return ""
        if response.status_code == 202:
            return str(response.headers["X-Job-ID"] if "X-Job-ID" in response.headers else response.json()["id"])
        await self.take(wanted, response)
        return ""

    async def _post(self, wanted: Wanted, headers: dict[str, str]) -> httpx.Response | None:
        """The first answer that is no refusal to come back from. None: nobody knows what became of the request."""
        while True:
            self.note_sent(wanted)
            sent_s = self.record.now_s()
            try:
                response = await self.http.post(
                    self.any_url() + "/v1/generate", json=wanted.body(), headers=headers | self.keyed(wanted)
                )
            except httpx.HTTPError:
                self.record.add("broken", request=wanted.number)
                if wanted.key is None:
                    return None
                await asyncio.sleep(POLL_S)
                continue
            took_s = round(self.record.now_s() - sent_s, 4)
            job = response.headers.get("X-Job-ID") or _job_of_location(response)
            if job:
                self.record.add(
                    "accepted", request=wanted.number, job=job, took_s=took_s, is_async=response.status_code == 202
                )
                return response
            self.note_refused(wanted, response, took_s)
            if response.status_code not in (429, 503):
                return response
            await self.pause(response)

    async def take(self, wanted: Wanted, response: httpx.Response) -> None:
        """What a waiting request was answered."""
        job = response.headers.get("X-Job-ID", "")
        status = response.status_code
        if status == 200 and response.headers["Content-Type"] == "image/png":
            self.ended(wanted, job, "done", "reply")
            self.picture(wanted, job, 0, response.content, response.headers["X-Seed"])
            return
        if status == 200:
            self.ended(wanted, job, "done", "reply")
            for index, picture in enumerate(response.json()["data"]):
                self.picture(wanted, job, index, base64.b64decode(picture["b64_json"]), picture["seed"])
            return
        code = response.json()["error"]["code"]
        if status == 504:  # with a job: its time is over; without: refused, since it could not have been done in time
            if job:
                self.record.add("gave_up", request=wanted.number, job=job)
        elif job and (status == 503 or code == "idempotency_in_progress"):
            await self.follow(wanted, job)
        elif job and code == "cancelled":
            self.ended(wanted, job, "cancelled", "reply", code)
        elif job and status == 500 and code not in ("internal_error", "image_corrupt"):
            self.ended(wanted, job, "failed", "reply", code)
        else:
            self.strange(wanted, job, response)

    async def _persist(self, wanted: Wanted, method: str, path: str) -> httpx.Response:
        """An answer that is no passing trouble, however often it takes asking."""
        while True:
            with suppress(httpx.HTTPError):
                headers = self.authorization(wanted.number)
                response = await self.http.request(method, self.any_url() + path, headers=headers, timeout=CALL_S)
                if response.status_code not in (429, 503):
                    return response
                self._check_retry_after(response)
            await asyncio.sleep(POLL_S)

    async def pause(self, response: httpx.Response) -> None:
        seconds = float(response.headers.get("Retry-After", 1))
        await asyncio.sleep(min(seconds, LONGEST_PAUSE_S) * (0.5 + 0.5 * self._rng.random()))

    # -- what is written down

    def note_sent(self, wanted: Wanted) -> None:
        self.record.add(
            "sent",
            request=wanted.number,
            kind=wanted.kind,
            n=wanted.n,
            timeout_s=wanted.timeout_s,
            key=wanted.key,
        )

    def note_refused(self, wanted: Wanted, response: httpx.Response, took_s: float | None = None) -> None:
        self._check_retry_after(response)
        if response.status_code not in (429, 503, 504):
            self.strange(wanted, "", response)
        self.record.add(
            "refused",
            request=wanted.number,
            status=response.status_code,
            code=_code_of(response),
            retry_after=response.headers.get("Retry-After"),
            took_s=took_s,
        )

    def _check_retry_after(self, response: httpx.Response) -> None:
        if response.status_code in (429, 503) and "Retry-After" not in response.headers:
            self.record.add("wrong", why=f"{response.status_code} without Retry-After")

    def ended(self, wanted: Wanted, job: str, state: str, by: str, code: str | None = None) -> None:
        self.record.add("ended", request=wanted.number, job=job, state=state, by=by, code=code)

    def picture(self, wanted: Wanted, job: str, index: int, png: bytes, seed: str | int | None = None) -> None:
        try:
            pixels = pixels_of_png(png)
        except Exception as error:  # whatever a decoder thinks of bytes that are no picture
            pixels = f"unreadable: {error}"
        if seed is not None and int(seed) != wanted.seed + index:
            self.record.add("wrong", request=wanted.number, job=job, why=f"seed {seed} for picture {index}")
        self.record.add("picture", request=wanted.number, job=job, index=index, pixels=pixels)

    def strange(self, wanted: Wanted, job: str, response: httpx.Response) -> None:
        """An answer that an accepted job, or a request that is right, must not get."""
        if job and response.status_code in (404, 410):
            self.record.add("gone", request=wanted.number, job=job, status=response.status_code)
        else:
            why = f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:300]}"
            self.record.add("wrong", request=wanted.number, job=job, why=why)

    def keyed(self, wanted: Wanted) -> dict[str, str]:
        return self.authorization(wanted.number) | ({"Idempotency-Key": wanted.key} if wanted.key else {})

    def authorization(self, request: int) -> dict[str, str]:
        key = self._keys.get(tenant_of(request))
        return {"Authorization": f"Bearer {key}"} if key else {}

    def any_url(self) -> str:
        return self._rng.choice(self._urls)


_LIVES = {
    "async": Clients._visit_async,
    "short": Clients._visit_async,
    "image": Clients._visit_waiting,
    "json": Clients._visit_waiting,
    "stream": Clients._visit_stream,
    "cancel": Clients._visit_cancel,
    "hang_up": Clients._visit_hang_up,
}


def _job_of_location(response: httpx.Response) -> str:
    return response.headers.get("Location", "").rpartition("/")[2]


def _code_of(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError):
        return "?"
