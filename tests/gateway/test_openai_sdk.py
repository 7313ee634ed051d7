"""The unmodified Python SDK against a real gateway: pictures, streams, and every error as its own exception."""

import asyncio
import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from service.job_events import Partial
from service.jobs import Failed
from tests.gateway.harness import wait_until

PROMPT = "a red apple"


@contextmanager
def sdk(gateway, codes=None, **options):
    """A client that never tries again unless told to. `codes` gets the status of every response that it sees."""
    seen = [] if codes is None else codes
    hooks = {"response": [lambda response: seen.append(response.status_code)]}
    with (
        openai.DefaultHttpxClient(event_hooks=hooks) as http_client,
        OpenAI(
            base_url=f"{gateway.base_url}/v1",
            api_key="unused",
            http_client=http_client,
            **({"max_retries": 0} | options),
        ) as client,
    ):
        yield client


def picture_of(item):
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


@pytest.fixture
def held(start_gateway):
    """A gateway whose worker keeps its jobs under way."""
    with start_gateway() as gateway:
        gateway.worker.is_holding = True
        yield gateway


@pytest.fixture
def full(start_gateway):
    """A gateway whose one place is taken, and whose worker takes nothing until `is_claiming`."""
    with start_gateway(queue_capacity=1) as gateway:
        gateway.worker.is_claiming = False
        gateway.submit()
        yield gateway


def test_pictures_come_as_base64(gateway):
    with sdk(gateway) as client:
        answer = client.images.generate(prompt=PROMPT, n=2, size="64x64", extra_body={"seed": 7})
    assert [picture_of(item).size for item in answer.data] == [(64, 64)] * 2
    assert [item.revised_prompt for item in answer.data] == [PROMPT] * 2
    assert [item.seed for item in answer.data] == [7, 8]
    assert (answer.quality, answer.background, answer.output_format, answer.size) == (
        "medium",
        "opaque",
        "png",
        "64x64",
    )
    assert answer.usage.total_tokens == answer.usage.input_tokens_details.text_tokens == 0
    assert answer.created > 1_700_000_000


def test_pictures_come_as_links(gateway):
    with sdk(gateway) as client:
        answer = client.images.generate(
            prompt=PROMPT, response_format="url", output_format="webp", output_compression=60
        )
    (item,) = answer.data
    assert item.b64_json is None
    assert httpx.get(item.url).headers["content-type"] == "image/webp"


def test_the_types_that_the_sdk_promises_hold(gateway):
    with sdk(gateway, _strict_response_validation=True) as client:
        client.images.generate(prompt=PROMPT, quality="hd")
        assert [type(event).__name__ for event in client.images.generate(prompt=PROMPT, stream=True)] == [
            "ImageGenCompletedEvent"
        ]
        assert client.models.retrieve(gateway.model).id == gateway.model


def test_the_async_client_draws_many_at_once(gateway):
    async def draw():
        async with AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="unused") as client:
            answers = await asyncio.gather(
                *(client.images.generate(prompt=PROMPT, extra_body={"seed": seed}) for seed in range(4))
            )
            stream = await client.images.generate(prompt=PROMPT, stream=True)
            return answers, [event async for event in stream]

    answers, events = asyncio.run(draw())
    assert [answer.data[0].seed for answer in answers] == [0, 1, 2, 3]
    assert [event.type for event in events] == ["image_generation.completed"]


def test_the_async_client_sees_links_partial_images_and_errors(held):
    async def draw():
        async with AsyncOpenAI(base_url=f"{held.base_url}/v1", api_key="unused", max_retries=0) as client:
            with pytest.raises(openai.BadRequestError):
                await client.images.generate(prompt=PROMPT, n=0)
            with pytest.raises(openai.NotFoundError):
                await client.images.generate(prompt=PROMPT, model="gpt-image-2")
            with pytest.raises(openai.APITimeoutError):
                await client.with_options(timeout=0.3).images.generate(prompt=PROMPT)
            events = await client.images.generate(prompt=PROMPT, stream=True, partial_images=1)
            (job,) = await asyncio.to_thread(jobs_that_ask_for_partial_images, held)
            image = held.worker._draw(job).images[0]
            await asyncio.to_thread(held.call, held.queue.events.report(job.id, 1, 2, [Partial(0, 0, 2, 4, image)]))
            held.worker.is_holding = False
            kinds = [event.type async for event in events]
            answer = await client.images.generate(prompt=PROMPT, response_format="url")
            return kinds, answer.data[0].url

    kinds, url = asyncio.run(draw())
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    assert httpx.get(url).headers["content-type"] == "image/png"


def jobs_that_ask_for_partial_images(gateway):
    def found():
        return [job for job in gateway.worker.held.values() if job.partial_images]

    wait_until(found)
    return found()


def test_partial_images_come_before_the_picture(held):
    with sdk(held) as client:
        events = client.images.generate(prompt=PROMPT, stream=True, partial_images=1)
        wait_until(lambda: held.worker.held)
        (job,) = held.worker.held.values()
        image = held.worker._draw(job).images[0]
        assert held.call(held.queue.events.report(job.id, 1, 2, [Partial(0, 0, 2, 4, image)]))
        partial = next(events)
        assert isinstance(partial, openai.types.ImageGenPartialImageEvent)
        assert (partial.partial_image_index, partial.quality, partial.background) == (0, "medium", "opaque")
        assert picture_of(partial).size == (64, 64)
        held.worker.is_holding = False
        (completed,) = events
    assert isinstance(completed, openai.types.ImageGenCompletedEvent)
    assert completed.usage.total_tokens == 0
    assert picture_of(completed).size == (64, 64)


def test_models_are_listed_and_retrieved(gateway):
    with sdk(gateway) as client:
        assert [model.id for model in client.models.list()] == [gateway.model]
        model = client.models.retrieve(gateway.model)
        assert (model.object, model.owned_by) == ("model", "emmdit")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("dall-e-3")


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"size": "1x1"}, openai.BadRequestError, "invalid_value", "size"),
        ({"background": "transparent"}, openai.BadRequestError, "invalid_value", "background"),
        ({"extra_body": {"sede": 1}}, openai.BadRequestError, "unknown_field", "sede"),
        ({"model": "gpt-image-2"}, openai.NotFoundError, "model_not_found", "model"),
    ],
)
def test_a_mistake_is_an_exception_of_its_own_kind_and_never_tried_again(gateway, fields, kind, code, param):
    codes = []
    with sdk(gateway, codes, max_retries=2) as client, pytest.raises(kind) as caught:
        client.images.generate(prompt=PROMPT, **fields)
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    assert caught.value.request_id
    assert codes == [caught.value.status_code]


def test_a_full_queue_is_a_rate_limit_error(full):
    with sdk(full) as client, pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt=PROMPT)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_tried_again_when_the_gateway_says_so(full, stream):
    codes = []

    def make_room():
        wait_until(lambda: codes)
        full.worker.is_claiming = True

    with ThreadPoolExecutor() as pool, sdk(full, codes, max_retries=2) as client:
        room = pool.submit(make_room)
        began_s = time.monotonic()
        answer = client.images.generate(prompt=PROMPT, stream=stream)
        took_s = time.monotonic() - began_s
        room.result()
        if stream:
            assert [event.type for event in answer] == ["image_generation.completed"]
    assert codes == [429, 200]
    assert 1 <= took_s < 5  # what Retry-After said; left to itself the client would begin with half a second


def test_a_failed_job_is_an_internal_server_error_and_not_tried_again(gateway):
    gateway.worker.failure = Failed("broken", "the worker gave up")
    codes = []
    try:
        with sdk(gateway, codes, max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt=PROMPT)
    finally:
        gateway.worker.failure = None
    assert (caught.value.code, caught.value.type) == ("broken", "server_error")
    assert codes == [500]


def test_a_cancelled_job_is_a_conflict_and_not_tried_again(held):
    def cancel():
        wait_until(lambda: held.worker.held)
        held.client.delete(f"/v1/jobs/{next(iter(held.worker.held))}")

    codes = []
    with ThreadPoolExecutor() as pool, sdk(held, codes, max_retries=2) as client:
        cancelled = pool.submit(cancel)
        with pytest.raises(openai.ConflictError):
            client.images.generate(prompt=PROMPT)
        cancelled.result()
    assert codes == [409]


def test_no_worker_is_an_internal_server_error_that_says_when_to_come_back(start_gateway):
    with start_gateway(has_worker=False, no_worker_grace_s=0) as gateway, sdk(gateway) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt=PROMPT)
        assert (caught.value.status_code, caught.value.code) == (503, "no_worker")
        assert caught.value.response.headers["retry-after-ms"] == "10000"


def test_a_client_that_waits_no_longer_has_a_timeout_and_its_job_is_cancelled(held):
    with sdk(held, timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.images.generate(prompt=PROMPT)
    held.wait_for_state(held.worker.seen[0].id, "cancelled")


def test_with_a_key_a_client_that_lost_patience_gets_the_picture_that_was_drawn_meanwhile(held):
    codes = []

    def finish():
        wait_until(lambda: codes == [409])
        held.worker.is_holding = False

    with ThreadPoolExecutor() as pool, sdk(held, codes, max_retries=2, timeout=2) as client:
        finished = pool.submit(finish)
        answer = client.images.generate(prompt=PROMPT, extra_headers={"Idempotency-Key": "patience"})
        finished.result()
    assert codes == [409, 200]  # the first one was not waited for
    assert answer.data[0].seed == held.worker.seen[0].params.seed
    assert len(held.worker.seen) == 1


def test_a_key_that_was_used_for_another_request_is_an_error_of_its_own(gateway):
    key = {"Idempotency-Key": "mistaken"}
    with sdk(gateway, max_retries=2) as client:
        client.images.generate(prompt=PROMPT, extra_headers=key)
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.images.generate(prompt="another", extra_headers=key)
    assert caught.value.code == "idempotency_key_reused"


def test_a_failure_in_midstream_is_an_api_error(held):
    held.worker.failure = Failed("broken", "the worker gave up")
    with sdk(held) as client:
        events = client.images.generate(prompt=PROMPT, stream=True)
        held.worker.is_holding = False
        with pytest.raises(openai.APIError, match="the worker gave up") as caught:
            list(events)
    assert (caught.value.code, caught.value.type) == ("broken", "server_error")


def test_a_gateway_that_is_gone_is_a_connection_error():
    nowhere = OpenAI(base_url="http://127.0.0.1:9/v1", api_key="unused", max_retries=0)
    with nowhere as client, pytest.raises(openai.APIConnectionError):
        client.images.generate(prompt=PROMPT)
