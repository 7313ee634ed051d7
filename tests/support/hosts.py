"""Several machines on this one: network namespaces on a switch, whose cables can be pulled. Needs root and iproute2."""

import ctypes
import itertools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Lan:
    """Hosts by name, each with one address. Processes of a host see its network and nothing else."""

    def __init__(self, *names):
        self._tag = f"emmdit-{os.getpid()}-{next(_numbers)}"
        self._processes = []
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}

    def __enter__(self):
        if os.getuid() != 0 or shutil.which("ip") is None:
            pytest.skip("no network namespaces here: they need root and iproute2")
        try:
            _ip("netns", "add", self._name("switch"))
            _ip("netns", "exec", self._name("switch"), "true")
            self._wire()
        except subprocess.CalledProcessError as error:  # as in a container without the right to it
            self._remove()
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()
        self._remove()

    def start(self, host, command, log, **options):
        """A process on that host; it ends with this LAN at the latest."""
        whole = ["ip", "netns", "exec", self._name(host), *map(str, command)]
        with log.open("ab") as output:
            process = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
        self._processes.append(process)
        return process

    def enter(self, host):
        """From now on sockets that the calling thread opens are that host's."""
        with Path(f"/run/netns/{self._name(host)}").open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {host}")

    def people(self, host, number=1):
        """Threads on that host."""
        return ThreadPoolExecutor(number, initializer=self.enter, initargs=(host,))

    def pull(self, host):
        """Pull its cable: nobody is told, whatever is sent is lost."""
        self._switch("link", "set", f"to-{host}", "nomaster")

    def plug(self, host):
        """Plug it in (again)."""
        self._switch("link", "set", f"to-{host}", "master", "lan")

    def _wire(self):
        self._switch("link", "add", "lan", "type", "bridge")
        self._switch("link", "set", "lan", "up")
        for name, address in self.addresses.items():
            host = self._name(name)
            _ip("netns", "add", host)
            self._switch("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", host)
            self._switch("link", "set", f"to-{name}", "up")
            self.plug(name)
            _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host, "link", "set", device, "up")

    def _remove(self):
        for name in (*self.addresses, "switch"):
            with suppress(subprocess.CalledProcessError):  # not made yet
                _ip("netns", "delete", self._name(name))

    def _name(self, host):
        return f"{self._tag}-{host}"

    def _switch(self, *arguments):
        _ip("-n", self._name("switch"), *arguments)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
