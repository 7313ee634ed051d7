"""Servers as operators run them: alone, with a replica and Sentinels, as a Cluster; with TLS, with users.

They listen on loopback only, keep their files in the test's folder, and end with the test.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

import pytest
from redis import Redis, RedisError

from service.embedded import find_server_binary

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0


def free_port():
    """A port that was free a moment ago, with room for a Cluster's second port 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        if port < 55_000:
            return port


def debian_server():
    """Debian's redis-server, which speaks TLS: on the PATH, or in the folder that .ci/fetch-redis-servers filled."""
    folder = os.environ.get("REDIS_SERVERS", "")
    path = shutil.which("redis-server-7", path=folder) or shutil.which("redis-server")
    if path is None:
        pytest.skip("no redis-server here: apt-get install redis-server")
    return path


class ServerProcess:
    """One server. `options` are lines of its configuration; with `certificates` it speaks TLS and nothing else."""

    def __init__(self, folder, options=(), *, binary=None, is_sentinel=False, certificates=None):
        self.folder = folder
        self.port = free_port()
        self._certificates = certificates
        self._binary = binary or find_server_binary()
        self._is_sentinel = is_sentinel
        self._process = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"bind {HOST}", f"dir {folder}", f"logfile {folder}/server.log"]
        if certificates:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                "tls-replication yes",
                f"tls-ca-cert-file {certificates}/ca.crt",
            ]
            lines += [f"tls-cert-file {certificates}/server.crt", f"tls-key-file {certificates}/server.key"]
        else:
            lines.append(f"port {self.port}")
        if not is_sentinel:
            lines += ['save ""', "maxmemory-policy noeviction"]
        lines += options
        self._configuration = folder / "server.conf"
        self._configuration.write_text("\n".join(lines) + "\n")

    @property
    def pid(self):
        return self._process.pid

    @property
    def log(self):
        return (self.folder / "server.log").read_text(errors="replace")

    def client(self, **options):
        """A plain client of this one server."""
        values = {"decode_responses": True, "socket_timeout": 5.0, "protocol": 2} | options
        if self._certificates:
            folder = self._certificates
            values |= {"ssl": True, "ssl_ca_certs": f"{folder}/ca.crt"}
            values |= {"ssl_certfile": f"{folder}/client.crt", "ssl_keyfile": f"{folder}/client.key"}
        return Redis(host=HOST, port=self.port, **values)

    def start(self, **options):
        """Start, also again after `kill`; returns when it answers. `options` are for the client that asks."""
        command = [str(self._binary), str(self._configuration), *(["--sentinel"] if self._is_sentinel else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers(options):
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def kill(self, number=signal.SIGKILL):
        """End it as a crash does, or with another signal."""
        self._process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait()

    def close(self):
        """End it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _answers(self, options):
        try:
            with self.client(**options) as client:
                return client.ping()
        except (RedisError, OSError):
            return False


@contextmanager
def running(*servers, **options):
    """Starts the servers, ends them afterwards."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
            server.start(**options)
        yield servers


class Sentinels:
    """A master, a replica of it and three Sentinels that watch them."""

    SERVICE = "mymaster"
    DOWN_AFTER_MS = 1000

    def __init__(self, folder, binary=None, certificates=None):
        shared = {"binary": binary, "certificates": certificates}
        self._scheme = "rediss" if certificates else "redis"
        keep = ["appendonly yes", "appendfsync everysec", "repl-diskless-sync-delay 0"]
        self.first = ServerProcess(folder / "first", keep, **shared)
        replica = [*keep, f"replicaof {HOST} {self.first.port}"]
        self.second = ServerProcess(folder / "second", replica, **shared)
        watch = [
            f"sentinel monitor {self.SERVICE} {HOST} {self.first.port} 2",
            f"sentinel down-after-milliseconds {self.SERVICE} {self.DOWN_AFTER_MS}",
            f"sentinel failover-timeout {self.SERVICE} 5000",
        ]
        self.sentinels = [
            ServerProcess(folder / f"sentinel-{number}", watch, is_sentinel=True, **shared) for number in range(3)
        ]

    @property
    def url(self):
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"{self._scheme}+sentinel://{hosts}/{self.SERVICE}"

    @contextmanager
    def running(self):
        with running(self.first, self.second, *self.sentinels):
            wait_until(lambda: "slave0" in self.first.client().info("replication"))
            wait_until(lambda: all(self._sees_all(sentinel) for sentinel in self.sentinels))
            yield self

    def _sees_all(self, sentinel):
        with sentinel.client() as client:
            state = client.sentinel_master(self.SERVICE)
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1


class ClusterOfThree:
    """Three masters that share the slots. They keep their data, so that one killed comes back with it."""

    def __init__(self, folder, binary=None, certificates=None):
        self._scheme = "rediss" if certificates else "redis"
        options = ["cluster-enabled yes", "cluster-node-timeout 2000", "appendonly yes", "appendfsync everysec"]
        if certificates:
            options.append("tls-cluster yes")
        self.nodes = [
            ServerProcess(folder / f"node-{number}", options, binary=binary, certificates=certificates)
            for number in range(3)
        ]

    @property
    def url(self):
        return f"{self._scheme}+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes[:2])

    @contextmanager
    def running(self):
        with running(*self.nodes):
            bounds = [0, 5461, 10923, 16384]
            for node, first, end in zip(self.nodes, bounds, bounds[1:], strict=False):
                with node.client() as client:
                    client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
            wait_until(self._has_met)
            yield self

    def _has_met(self):
        for node in self.nodes[1:]:  # again and again: a handshake that takes too long is forgotten
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", HOST, self.nodes[0].port)
        time.sleep(0.2)
        return all(self.is_whole(node) for node in self.nodes)

    def is_whole(self, node):
        """Whether this node thinks that all slots are served."""
        try:
            with node.client() as client:
                info = client.execute_command("CLUSTER", "INFO")
        except RedisError:
            return False
        info = info if isinstance(info, dict) else dict(line.split(":", 1) for line in info.split())
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"

    def node_of(self, key):
        """The node that has this key."""
        with self.nodes[0].client() as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", key)
        return self.nodes[0 if slot < 5461 else 1 if slot < 10923 else 2]


def wait_until(condition, timeout_s=120.0):
    """Polls until the condition is true: what servers agree on by gossip takes its time on a crowded machine."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {timeout_s} s"
        time.sleep(0.05)


def make_certificates(folder):
    """An authority, and by it a server's certificate for localhost and 127.0.0.1 and a client's, with openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca "
        "-keyout ca.key -out ca.crt",
    )
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:localhost,IP:{HOST}\n")
        _openssl(
            folder,
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test-"
            + name
            + f" -keyout {name}.key -out {name}.csr",
        )
        _openssl(
            folder,
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 "
            f"-extfile {name}.ext -out {name}.crt",
        )
    return folder


def _openssl(folder, arguments):
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True, env=os.environ)
