"""POST /v1/images/generations as it goes over the wire: what is honoured, what is accepted, what is refused."""

import base64
import io
import json

import pytest
from PIL import Image

from service.job_events import Partial
from service.jobs import Failed, ImageRef
from tests.gateway.harness import wait_until


def create(gateway, headers=None, **fields):
    return gateway.client.post("/v1/images/generations", json={"prompt": "a red apple"} | fields, headers=headers)


def error_of(response, status=400):
    assert response.status_code == status, response.text
    return response.json()["error"]


@pytest.fixture
def held(start_gateway):
    """A gateway whose worker keeps its jobs under way."""
    with start_gateway() as gateway:
        gateway.worker.is_holding = True
        yield gateway


def test_the_answer_has_the_documented_shape_and_nothing_else(gateway):
    response = create(gateway, seed=7, n=2, prompt="  a red apple ")
    body = response.json()
    assert set(body) == {"created", "data", "output_format", "size", "quality", "background", "usage"}
    assert (body["output_format"], body["size"], body["quality"], body["background"]) == (
        "png",
        "64x64",
        "medium",
        "opaque",
    )
    assert [set(item) for item in body["data"]] == [{"b64_json", "revised_prompt", "seed"}] * 2
    assert [(item["seed"], item["revised_prompt"]) for item in body["data"]] == [(7, "a red apple"), (8, "a red apple")]
    assert body["usage"] == {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "total_tokens": 0,
    }
    assert Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))).format == "PNG"
    assert (response.headers["x-seed"], response.headers["x-num-inference-steps"]) == ("7", "4")


def test_the_same_seed_draws_what_the_native_route_draws(gateway):
    ours = create(gateway, seed=7, num_inference_steps=9, guidance_scale=3, negative_prompt="blue").json()
    native = gateway.generate(seed=7, num_inference_steps=9, guidance_scale=3, negative_prompt="blue").json()
    assert ours["data"][0]["b64_json"] == native["data"][0]["b64_json"]


@pytest.mark.parametrize(
    ("quality", "steps", "named"),
    [
        ("low", 2, "low"),
        ("medium", 4, "medium"),
        ("auto", 4, "medium"),
        ("standard", 4, "medium"),
        ("high", 6, "high"),
        ("hd", 6, "high"),
        ("xhigh", 8, "xhigh"),
        ("max", 12, "max"),
    ],
)
def test_quality_is_a_number_of_steps(gateway, quality, steps, named):
    response = create(gateway, quality=quality)
    assert (response.headers["x-num-inference-steps"], response.json()["quality"]) == (str(steps), named)


@pytest.mark.parametrize("fields", [{"size": "auto"}, {"size": "32x48"}, {"size": None, "model": None, "n": None}])
def test_a_size_is_named_or_left_to_the_model(gateway, fields):
    assert create(gateway, **fields).json()["size"] == ("64x64" if fields["size"] != "32x48" else "32x48")


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_formats_are_those_of_the_native_route(gateway, name):
    body = create(gateway, output_format=name, output_compression=30).json()
    assert body["output_format"] == name
    assert Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))).format == name.upper()


def test_a_png_at_100_is_what_a_png_is(gateway):
    assert create(gateway, output_format="png", output_compression=100).status_code == 200


def test_urls_are_signed_links_that_bring_the_picture(gateway):
    data = create(gateway, response_format="url", n=2, output_format="webp").json()["data"]
    assert [set(item) for item in data] == [{"url", "revised_prompt", "seed"}] * 2
    for item in data:
        assert item["url"].startswith(gateway.base_url + "/v1/jobs/")
        assert gateway.client.get(item["url"]).headers["content-type"] == "image/webp"
    assert error_of(gateway.client.get(data[0]["url"] + "0"), 403)["code"] == "link_invalid"


HARMLESS = {
    "user": "somebody",
    "safety_identifier": "hash",
    "moderation": "low",
    "style": "vivid",
    "background": "opaque",
    "complexity": "auto",
    "stream": False,
    "partial_images": 0,
    "frame_count": None,
    "frame_duration_ms": None,
    "svg": None,
}


def test_what_does_no_harm_is_accepted_and_changes_nothing(gateway):
    plain, decorated = create(gateway, seed=3).json(), create(gateway, seed=3, **HARMLESS).json()
    assert decorated["data"] == plain["data"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"background": "transparent"}, "background", "'transparent' is not allowed; allowed: opaque, auto"),
        ({"output_format": "gif"}, "output_format", "allowed: png, jpeg, webp"),
        ({"output_format": "svg"}, "output_format", "allowed: png, jpeg, webp"),
        ({"output_compression": 50}, "output_compression", "a png loses nothing"),
        ({"output_format": "webp", "output_compression": 101}, "output_compression", "from 0 to 100"),
        ({"frame_count": 9}, "frame_count", "no animations"),
        ({"frame_duration_ms": 90}, "frame_duration_ms", "no animations"),
        ({"svg": {"model": "x"}}, "svg", "no vector graphics"),
        ({"complexity": "high"}, "complexity", "allowed: auto"),
        ({"quality": "best"}, "quality", "allowed: low, medium"),
        ({"quality": "high", "num_inference_steps": 3}, "quality", "num_inference_steps is given"),
        ({"size": "1024x1024"}, "size", "allowed: auto, 64x64, 32x48"),
        ({"size": 64}, "size", "allowed: auto, 64x64, 32x48"),
        ({"n": 11}, "n", "from 1 to 10"),
        ({"seed": -1}, "seed", "from 0 to"),
        ({"prompt": ""}, "prompt", "text of 1 to"),
        ({"partial_images": 2}, "partial_images", "with stream: true"),
        ({"stream": True, "partial_images": 4}, "partial_images", "from 0 to 3"),
        ({"stream": True, "response_format": "url"}, "response_format", "b64_json"),
        ({"stream": "yes"}, "stream", "true, false"),
        ({"moderation": "none"}, "moderation", "low, auto"),
        ({"style": "dull"}, "style", "vivid, natural"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(gateway, fields, param, said):
    error = error_of(create(gateway, **fields))
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_value", param)
    assert error["message"].startswith(f"{param}: ")
    assert said in error["message"]


def test_an_unknown_field_and_an_unknown_model_are_refused_with_what_there_is(gateway):
    error = error_of(create(gateway, priority="high"))
    assert (error["code"], error["param"]) == ("unknown_field", "priority")
    error = error_of(create(gateway, model="gpt-image-2", size="1024x1024"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert gateway.model in error["message"]


def test_a_missing_prompt_is_said(gateway):
    error = error_of(gateway.client.post("/v1/images/generations", json={}))
    assert (error["code"], error["param"]) == ("missing_field", "prompt")


def test_refusals_and_ends_are_counted_like_the_native_routes(start_gateway):
    with start_gateway() as gateway:
        create(gateway, n=0)
        create(gateway)
        assert gateway.value("rejections_total", reason="invalid_value") == 1
        assert gateway.value("requests_total", model=gateway.model, status="success") == 1
        gateway.worker.failure = Failed("broken", "no")
        response = create(gateway)
        assert error_of(response, 500)["code"] == "broken"
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-job-id"] == gateway.worker.seen[-1].id


def test_a_model_can_be_looked_up_by_its_name(gateway):
    listed = gateway.client.get("/v1/models").json()["data"][0]
    assert gateway.client.get(f"/v1/models/{gateway.model}").json() == listed
    assert listed["created"] > 1_700_000_000
    assert error_of(gateway.client.get("/v1/models/dall-e-3"), 404)["code"] == "model_not_found"


def streamed(gateway, **fields):
    body = {"prompt": "a red apple", "stream": True} | fields
    return gateway.client.stream("POST", "/v1/images/generations", json=body)


def events_of(lines):
    """(name, data) of each event."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
            name = ""


def test_a_stream_without_partial_images_is_one_event_a_picture(gateway):
    with streamed(gateway, n=2, seed=5, output_format="jpeg") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-seed"] == "5"
        events = list(events_of(response.iter_lines()))
    assert [name for name, _ in events] == ["image_generation.completed"] * 2
    assert sorted((data["index"], data["seed"]) for _, data in events) == [(0, 5), (1, 6)]
    for name, data in events:
        assert data["type"] == name
        assert (data["size"], data["quality"], data["background"], data["output_format"]) == (
            "64x64",
            "medium",
            "opaque",
            "jpeg",
        )
        assert data["usage"]["total_tokens"] == 0
        assert Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))).format == "JPEG"


def test_partial_images_come_as_the_worker_shows_them(held):
    with streamed(held, partial_images=2, output_format="webp") as response:
        events = events_of(response.iter_lines())
        wait_until(lambda: held.worker.held)
        (job,) = held.worker.held.values()
        assert (job.partial_images, job.watch_level) == (2, 1)
        image = held.worker._draw(job).images[0]
        for place in range(2):
            shown = Partial(0, place, place + 1, 4, ImageRef(image.blob, image.seed, image.num_bytes, image.sha256))
            assert held.call(held.queue.events.report(job.id, 1, place + 1, [shown]))
            name, data = next(events)
            assert name == data["type"] == "image_generation.partial_image"
            assert (data["partial_image_index"], data["index"], data["output_format"]) == (place, 0, "webp")
            assert Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))).format == "WEBP"
        held.worker.is_holding = False
        assert [name for name, _ in events] == ["image_generation.completed"]
    assert held.value("time_to_first_preview_seconds_count") == 1


def test_a_failure_in_midstream_is_an_event_without_a_name(held):
    held.worker.failure = Failed("broken", "the worker gave up")
    with streamed(held) as response:
        assert response.status_code == 200
        held.worker.is_holding = False
        events = list(events_of(response.iter_lines()))
    assert events == [
        ("", {"error": {"message": "the worker gave up", "type": "server_error", "param": None, "code": "broken"}})
    ]


def test_a_stream_that_is_refused_is_refused_with_a_status(start_gateway):
    with start_gateway(queue_capacity=1) as gateway:
        gateway.worker.is_claiming = False
        gateway.submit()
        with streamed(gateway) as response:
            assert (response.status_code, response.headers["content-type"]) == (429, "application/json")


def test_a_client_that_leaves_a_stream_cancels_its_job(held):
    with streamed(held) as response:
        assert response.status_code == 200
        wait_until(lambda: held.worker.held)
        (job_id,) = held.worker.held
    held.wait_for_state(job_id, "cancelled")


def test_a_silent_stream_is_kept_alive(held, monkeypatch):
    monkeypatch.setattr("service.gateway.sse.with_keep_alive.__defaults__", (0.05,))
    with streamed(held) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line) == ": keep-alive"
        held.worker.is_holding = False
        assert any("image_generation.completed" in line for line in lines)
