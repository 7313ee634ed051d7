"""The gateway as a process of its own: what it loads, what it refuses, how it stops."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from service.errors import ConfigurationError
from service.gateway.auth import is_loopback, needs_keys, refuse_open_binding
from service.gateway.server import bind, run_gateway
from service.settings import Settings
from tests.gateway.harness import wait_until

RUN = """
from service.gateway.server import run_gateway
from service.settings import load_settings
run_gateway(load_settings())
"""


def test_the_gateway_does_without_torch():
    code = "import sys, service.gateway.server; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"fastapi", "redis", "prometheus_client"} <= set(loaded)
    assert not {"torch", "diffusers", "transformers", "numpy", "huggingface_hub"} & set(loaded)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_only_loopback_is_served_without_keys(host, is_local):
    assert is_loopback(host) == is_local
    assert needs_keys(Settings(host=host)) != is_local
    refuse_open_binding(Settings(host=host))
    if is_local:
        refuse_open_binding(Settings(host=host, require_keys="never"))
        assert needs_keys(Settings(host=host, require_keys="always"))
        return
    with pytest.raises(ConfigurationError, match="allow_remote_without_keys"):
        refuse_open_binding(Settings(host=host, require_keys="never"))
    for require_keys, is_needed in (("auto", False), ("never", False), ("always", True)):
        settings = Settings(host=host, require_keys=require_keys, allow_remote_without_keys=True)
        refuse_open_binding(settings)
        assert needs_keys(settings) == is_needed


def test_a_gateway_without_a_redis_url_says_so():
    with pytest.raises(ConfigurationError, match="EMMDIT_REDIS_URL"):
        run_gateway(Settings())


def test_an_unknown_model_is_refused_at_start_up(tmp_path):
    with pytest.raises(ConfigurationError, match="no-such-model"):
        run_gateway(Settings(models=("demo", "no-such-model"), redis_url=f"unix://{tmp_path}/none.sock"))


def test_a_port_that_is_taken_is_named():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_named():
    with pytest.raises(ConfigurationError, match=r"203\.0\.113\.7"):
        bind("203.0.113.7", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_until_it_is_told_to_stop_and_ends_cleanly(service_url, tmp_path, number):
    with bind("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {
        "EMMDIT_MODELS": "nitro-e-512,demo-dist",
        "EMMDIT_REDIS_URL": service_url,
        "EMMDIT_DATA_DIR": str(tmp_path),
        "EMMDIT_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-c", RUN], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: process.poll() is not None or _answers(port), timeout_s=30)
        models = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()
        assert [model["id"] for model in models["data"]] == ["nitro-e-512", "demo-dist"]
        with socket.create_connection(("127.0.0.1", port)):  # an idle connection must not hold it up
            began_at = time.monotonic()
            process.send_signal(number)
            assert process.wait(10) == 0
            assert time.monotonic() - began_at < 5
    finally:
        process.kill()
        complaint = process.communicate()[1]
    assert "Traceback" not in complaint


def _answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    except httpx.TransportError:
        return False
