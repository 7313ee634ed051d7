"""The unmodified npm package against a real gateway. Node comes with the wheel, the package from npm's registry."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.jobs import Failed
from tests.gateway.harness import running_gateway, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def start(embedded_server, tmp_path):
    return lambda **options: running_gateway(embedded_server.url, tmp_path / "gateway", "node-painter", **options)


@pytest.fixture
def check(openai_node):
    return lambda gateway, name: json.loads(openai_node.run("checks.mjs", gateway.base_url, name))


def test_pictures_links_streams_and_models(start, check):
    with start() as gateway:
        assert check(gateway, "base64") == {"heads": ["WEBP", "WEBP"], "seeds": [7, 8], "usage": 0}
        assert check(gateway, "links") == {"type": "image/png"}
        assert check(gateway, "stream") == {"types": ["image_generation.completed"], "quality": "medium"}
        assert check(gateway, "models") == {"listed": ["node-painter"], "one": "node-painter"}


def test_every_error_is_an_exception_of_its_own_kind(start, check):
    def failure(kind, code, param, error_type, codes):
        return {"kind": kind, "code": code, "param": param, "type": error_type, "codes": codes}

    invalid = "invalid_request_error"
    with start(queue_capacity=1) as gateway:
        assert check(gateway, "mistake") == failure("BadRequestError", "invalid_value", "size", invalid, [400])
        assert check(gateway, "unknown") == failure("NotFoundError", "model_not_found", "model", invalid, [404])
        gateway.worker.failure = Failed("broken", "the worker gave up")
        assert check(gateway, "failed") == failure("InternalServerError", "broken", None, "server_error", [500])
        assert check(gateway, "midstream") == failure("APIError", "broken", None, "server_error", [200])
        gateway.worker.is_holding = True
        assert check(gateway, "timeout")["kind"] == "APIConnectionTimeoutError"
        gateway.wait_for_state(gateway.worker.seen[-1].id, "cancelled")
        gateway.worker.is_claiming = False
        gateway.submit()
        full = failure("RateLimitError", "rate_limit_exceeded", None, "rate_limit_error", [429])
        assert check(gateway, "full") == full


def test_a_full_queue_is_tried_again_when_the_gateway_says_so(start, check):
    with start(queue_capacity=1) as gateway, ThreadPoolExecutor() as pool:
        gateway.worker.is_claiming = False
        gateway.submit()
        checked = pool.submit(check, gateway, "retried")
        wait_until(lambda: gateway.value("rejections_total", reason="rate_limit_exceeded"), timeout_s=30)
        gateway.worker.is_claiming = True
        found = checked.result()
    assert found["codes"] == [429, 200]
    assert 1 <= found["seconds"] < 10  # what Retry-After said; left to itself the client would begin with half a second
