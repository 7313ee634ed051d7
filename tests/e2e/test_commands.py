"""`emmdit generate` as a person types it: with nothing there, with a service that is killed meanwhile, interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Service, wait_for
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def start(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", "generate", *map(str, arguments)],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(Path.cwd()), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts: these tests among them, perhaps.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process):
    with process:
        try:
            stdout, stderr = process.communicate(timeout=200)
        finally:
            process.kill()  # does nothing where it has ended
    return process.returncode, stdout, stderr


def test_two_prompts_are_drawn_without_a_server_and_nothing_stays_behind(bundle, tmp_path):
    pictures = tmp_path / "pictures"
    process = start(
        *(tmp_path, "a red apple", "two blue cats", "--model", bundle.folder, "--steps", 2, "--seed", 7),
        *("-o", pictures / "{index}.png", "--json"),
    )
    code, stdout, stderr = finish(process)
    assert code == 0, stderr
    lines = sorted(map(json.loads, stdout.splitlines()), key=lambda line: line["index"])
    assert [line["file"] for line in lines] == [str(pictures / "1.png"), str(pictures / "2.png")]
    for line in lines:
        with Image.open(line["file"]) as picture:
            assert picture.size == (64, 64)
    assert list(tmp_path.iterdir()) == [pictures]  # the service's folder went with it


def test_a_service_that_is_killed_and_started_again_costs_no_picture(bundle, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt number {number}\n" for number in range(4)))
    with Service(bundle.folder, tmp_path / "data") as service:
        port = service.address.rpartition(":")[2]
        process = start(
            *(tmp_path, "--from", prompts, "--url", service.address, "--steps", 100, "-n", 2, "--concurrency", 2),
            *("-o", "out/{index}.png", "--patience", 120),
        )
        with service.client() as client:
            wait_for(lambda: value_of(client, "num_requests_running") == 2, 60, service.log)
        service.kill_everything()
    with Service(bundle.folder, tmp_path / "data", port=port) as service:
        code, _, stderr = finish(process)
        assert code == 0, stderr + service.log()
        assert service.stop() == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{number}.png" for number in range(1, 9)}


def test_an_interrupt_cancels_on_the_service_what_is_under_way(bundle, tmp_path):
    with Service(bundle.folder, tmp_path / "data") as service, service.client() as client:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("".join(f"prompt number {number}\n" for number in range(200)))  # more than a minute's work
        process = start(tmp_path, "--from", prompts, "--url", service.address, "--steps", 100, "-n", 10, "-q")
        wait_for(lambda: value_of(client, "num_requests_running") >= 1, 60, service.log)
        process.send_signal(signal.SIGINT)
        code, stdout, stderr = finish(process)
        assert code == 130, stderr
        assert "interrupted" in stderr
        assert stdout == ""
        wait_for(lambda: value_of(client, "num_requests_running") == 0, 8, service.log)
        wait_for(lambda: value_of(client, "cancellations_total", phase="running") >= 1, 8, service.log)
        assert value_of(client, "num_requests_waiting") == 0
        assert service.stop() == 0


def value_of(client, name, **labels):
    """One number of the service's page of metrics, 0 while it is not there."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == f"emmdit_{name}" and labels.items() <= sample.labels.items():
                return sample.value
    return 0
