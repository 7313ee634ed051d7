"""What the server and the pictures are kept on: 15 wiped, 17 full, 18 torn, 28 damaged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx

from tests.chaos.look import all_jobs
from tests.chaos.run import Row
from tests.chaos.scenarios.scene import body, draws, ended, eventually, expect, recovered, served, state_of, submit
from tests.chaos.stack import Nurseries

NUM_JOBS = 20
DISK = "8m"


async def wiped_server(nurseries: Nurseries) -> Row:
    """15: whoever waits is told, with 404 or 410 or an event, and none hangs."""
    row = Row(num_injected=1)
    async with served(nurseries) as (stack, client):
        stack.workers[0].hold_down()
        stack.workers[0].signal(signal.SIGKILL)
        png, events = {"Accept": "image/png"}, {"Accept": "text/event-stream"}
        waiting = [asyncio.create_task(client.post("/v1/generate", json=body(seed), headers=png)) for seed in range(5)]
        watching = asyncio.create_task(client.post("/v1/generate", json=body(50), headers=events))
        polled = await submit(client, seed=60)

        async def all_accepted() -> bool:
            return len(await all_jobs(stack.server.direct)) == 7

        await eventually(all_accepted)
        await stack.server.direct.flushall()
        began_s = time.monotonic()
        async with asyncio.timeout(30):
            statuses = {answer.status_code for answer in await asyncio.gather(*waiting)}
            told = (await watching).text
        row.recovery_s.append(time.monotonic() - began_s)
        expect(row, statuses <= {404, 410}, f"requests that waited were answered with {statuses}")
        expect(row, "job_not_found" in told, f"an event stream ended with {told[-200:]}")
        polled_state = await state_of(client, polled)
        expect(row, polled_state in ("404", "410"), f"a lost job is {polled_state}")
        stack.workers[0].release()
        await recovered(client, row)
    return row


async def full_disk(nurseries: Nurseries) -> Row:
    """17: new jobs are refused with 503, accepted ones end well once there is room again."""
    row = Row(num_injected=1)
    async with served(nurseries, settings={"stall_limit_s": 60, "min_free_bytes": 0}) as (stack, client):
        await draws(client)
        with _small_disk(stack.images) as filler:
            filler.write_bytes(b"")
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(b"x" * 1024):
                    pass
            accepted = [await submit(client, seed=300 + index) for index in range(3)]

            async def refused() -> bool:
                answer = await client.post(
                    "/v1/generate", json=body(400 + len(accepted)), headers={"Prefer": "respond-async"}
                )
                if answer.status_code == 202:
                    accepted.append(answer.json()["id"])
                return answer.status_code == 503 and "Retry-After" in answer.headers

            with suppress(TimeoutError):
                await eventually(refused, 15.0)
            expect(row, await refused(), "with no room for pictures a job is still accepted")
            expect(row, len(accepted) < 100, f"{len(accepted)} jobs were accepted before it was noticed")
            filler.unlink()
            await recovered(client, row)
            ends = {(await ended(client, job))["state"] for job in accepted}
            expect(row, ends == {"done"}, f"jobs that were accepted ended as {ends}")
    return row


class _small_disk:  # noqa: N801  (reads as a function)
    """A disk of eight megabytes at `path`; gives a file to fill it with."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", self._path], check=True)
        return self._path / "filler"

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self._path], check=True)


async def torn_file(nurseries: Nurseries) -> Row:
    """18: the file's last bytes are missing: it loads, and at most the last second's jobs are gone."""
    row = Row(num_injected=1)
    async with served(nurseries) as (stack, client):
        stack.workers[0].hold_down()
        stack.workers[0].signal(signal.SIGKILL)
        await stack.workers[0].ended(1, 10)
        old = [await submit(client, seed=index) for index in range(NUM_JOBS)]
        await asyncio.sleep(1.1)
        last_second = [await submit(client, seed=100 + index) for index in range(5)]
        await stack.server.kill()
        (*_, path) = stack.server.journal_paths()
        os.truncate(path, path.stat().st_size - 150)
        await stack.server.start()
        stack.workers[0].release()
        await recovered(client, row)
        ends = [await ended(client, job) for job in old]
        states = {one["state"] for one in ends}
        expect(row, states == {"done"}, f"jobs accepted more than a second before ended as {states}")

        async def settled() -> bool:
            states = {await state_of(client, job) for job in last_second}
            return states <= {"done", "404"}

        with suppress(TimeoutError):
            await eventually(settled)
        expect(row, await settled(), "a job of the last second is neither done nor unknown")
    return row


async def corrupt_blob(nurseries: Nurseries) -> Row:
    """28: whoever asks for a damaged picture, and in whatever form, is told so and gets none of it."""
    row = Row(num_injected=1)
    async with served(nurseries) as (stack, client):
        job = await submit(client, seed=7)
        await ended(client, job)
        (path,) = stack.images.glob(f"{job}-*-0.png")
        whole = path.read_bytes()
        for damaged in (whole[:-20], whole[:50] + b"\0" + whole[51:], b""):
            path.write_bytes(damaged)
            for query in ("", "?format=jpeg", "?format=webp"):
                answer: httpx.Response = await client.get(f"/v1/jobs/{job}/images/0{query}")
                is_told = answer.status_code == 500 and answer.json()["error"]["code"] == "image_corrupt"
                expect(row, is_told, f"a damaged picture ({query}) was answered with {answer.status_code}")
        path.write_bytes(whole)
        answer = await client.get(f"/v1/jobs/{job}/images/0")
        expect(row, answer.content == whole, "the picture, whole again, is not sent")
    return row


SCENARIOS = {15: wiped_server, 17: full_disk, 18: torn_file, 28: corrupt_blob}
