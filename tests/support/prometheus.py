"""A real Prometheus (Debian's package, its binary alone) for the length of a test."""

import socket
import subprocess
import time
from contextlib import contextmanager, suppress

import httpx
import yaml

START_TIMEOUT_S = 60


class Prometheus:
    """What a test asks a running one."""

    def __init__(self, address):
        self.client = httpx.Client(base_url=address, timeout=30)

    def get(self, path, **parameters):
        """The `data` of one call of its API."""
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", body
        assert not body.get("warnings"), body
        return body["data"]

    def vector(self, query):
        """An instant query's samples: {labels as sorted pairs: value}."""
        result = self.get("query", query=query)["result"]
        return {tuple(sorted(sample["metric"].items())): float(sample["value"][1]) for sample in result}

    def value(self, query):
        """The one sample of a query, None where there is none."""
        found = self.vector(query)
        assert len(found) <= 1, found
        return next(iter(found.values()), None)

    def targets(self):
        """(job, health, last error) of every target."""
        active = self.get("targets", state="active")["activeTargets"]
        return [(target["labels"]["job"], target["health"], target["lastError"]) for target in active]

    def unhealthy_rules(self):
        """(name, health, error) of each rule that was not evaluated, or not without an error."""
        groups = self.get("rules")["groups"]
        return [
            (rule["name"], rule["health"], rule.get("lastError"))
            for group in groups
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]

    def alert_states(self, name):
        """States of the alerts of this name that are pending or firing."""
        return [alert["state"] for alert in self.get("alerts")["alerts"] if alert["labels"]["alertname"] == name]


@contextmanager
def running_prometheus(binary, folder, scrapes, rule_files, interval_s=2):
    """Scrapes {job: [addresses]} on loopback. Raises AssertionError with its log where it does not start."""
    config = {
        "global": {
            "scrape_interval": f"{interval_s}s",
            "scrape_timeout": f"{interval_s}s",
            "evaluation_interval": f"{interval_s}s",
        },
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in scrapes.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    port = free_port()
    log = folder / "prometheus.log"
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + START_TIMEOUT_S
            while not is_ready(prometheus):
                assert process.poll() is None, log.read_text("utf-8")
                assert time.monotonic() < deadline, log.read_text("utf-8")
                time.sleep(0.1)
            yield prometheus
            prometheus.client.close()
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def is_ready(prometheus):
    with suppress(httpx.TransportError):
        return prometheus.client.get("/-/ready").status_code == 200
    return False


def free_port():
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
