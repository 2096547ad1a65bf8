"""Where a policy server listens, and how both sides prove that they hold its key.

::

    server                                       client
    a nonce  ────────────────────────────────>
             <────────────────────────────────   a nonce of its own, and a proof over both
    a proof over both  ──────────────────────>   only now does either side unpickle anything

A proof is an HMAC, so the key itself never travels. What is said afterwards is not encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from vectasks.errors import PolicyServerClosed, ResourceLimit

#: The path of a Unix socket, or a host and a port.
Address = str | tuple[str, int]

KEY_BYTES = 32
NONCE_BYTES = 32
PROOF_BYTES = 32

_BACKLOG = 4096  # clients that all begin at once, while the policy is at work
_LONGEST_PATH_BYTES = 103  # of a Unix socket (macOS)
#: Where else a Unix socket can be, if the folder for temporary files is too deep.
_OTHER_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_TOO_FEW = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# A machine that is gone without a word is missed within half a minute.
_KEEP_ALIVE_S = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Listener:
    """A socket that clients connect to; it waits for none.

    Args:
        host: the name or address of this machine that clients reach it by; None: a Unix socket in a
            folder that only this user may enter.
        port: of the host; 0: any that is free.

    Attributes:
        address: where clients connect to.
        socket: accepts them.

    Raises:
        ResourceLimit: there is no such host or port here, it is taken, or no folder can be used.
    """

    def __init__(self, host: str | None, port: int) -> None:
        self._folder: str | None = None
        self.address: Address
        try:
            if host is None:
                self._folder = _private_folder()
                self.address = str(Path(self._folder, "socket"))
                self.socket: socket.socket = socket.socket(socket.AF_UNIX)
                self.socket.bind(self.address)
                self.socket.listen(_BACKLOG)
            else:
                family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
                self.socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
                self.address = host, self.socket.getsockname()[1]
        except OSError as error:
            self.close()
            where = "a Unix socket" if host is None else f"{host}:{port}"
            raise ResourceLimit(f"the policy server cannot listen on {where}: {error}") from error
        self.socket.setblocking(False)

    def accept(self) -> socket.socket:
        """Accept the next client.

        Raises:
            BlockingIOError: there is none.
            OSError: there are too few descriptors.
        """
        end, _ = self.socket.accept()
        _prepare(end)
        end.setblocking(False)
        return end

    def remove(self) -> None:
        """Remove the Unix socket's file: nobody finds it any more."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Accept nobody any more."""
        self.remove()
        self.forget()

    def forget(self) -> None:
        """Close the socket, and leave its file: for a forked child."""
        if hasattr(self, "socket"):
            self.socket.close()


def _private_folder() -> str:
    folders = [tempfile.gettempdir(), *_OTHER_FOLDERS]
    for base in folders:
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix="vectasks-policy-", dir=base)
            if len(os.fsencode(folder)) + len("/socket") <= _LONGEST_PATH_BYTES:
                return folder
            Path(folder).rmdir()
    raise FileNotFoundError(f"none of {', '.join(folders)} can be used")


def _prepare(end: socket.socket) -> None:
    """Send small messages at once, and notice a machine that is gone."""
    if end.family == socket.AF_UNIX:
        return
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE_S.items():
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def proof(key: bytes, role: bytes, servers_nonce: bytes, clients_nonce: bytes) -> bytes:
    """Return what shows that ``role`` holds the key."""
    return hmac.digest(key, role + servers_nonce + clients_nonce, "sha256")


def is_proof(given: bytes, key: bytes, role: bytes, servers: bytes, clients: bytes) -> bool:
    """Tell whether ``role`` has shown that it holds the key."""
    return hmac.compare_digest(given, proof(key, role, servers, clients))


def _introduce(key: bytes) -> Generator[tuple[bytes, int], bytes, None]:
    """Yield what a client sends, and how many bytes it then waits for, which it is given."""
    servers = yield b"", NONCE_BYTES
    own = os.urandom(NONCE_BYTES)
    given = yield own + proof(key, b"client", servers, own), PROOF_BYTES
    if not is_proof(given, key, b"server", servers, own):
        raise ConnectionRefusedError("it does not hold this client's key")


def connect(address: Address, key: bytes, deadline_s: float | None) -> socket.socket:
    """Connect to a server, and have each show the other that it holds the key.

    Raises:
        PolicyServerClosed: nobody listens there, or it does not hold the key, or refuses this one.
        ResourceLimit: there are too few descriptors.
        TimeoutError: not by ``deadline_s``, which is of ``time.monotonic()``.
    """
    with _closed_unless_proven(address) as end:
        _open(end, address, deadline_s)
        steps = _introduce(key)
        message, wanted = next(steps)
        with contextlib.suppress(StopIteration):
            while True:
                received = b""
                _limit(end, deadline_s)
                end.sendall(message)
                while len(received) < wanted:
                    _limit(end, deadline_s)
                    received += _some(end.recv(wanted - len(received)))
                message, wanted = steps.send(received)
        return end


async def connect_async(address: Address, key: bytes) -> socket.socket:
    """Like :func:`connect`, in the running event loop.

    Raises:
        PolicyServerClosed, ResourceLimit: as there.
    """
    loop = asyncio.get_running_loop()
    with _closed_unless_proven(address) as end:
        # In a thread: an event loop cannot wait for room in a Unix socket's backlog.
        await asyncio.to_thread(_open, end, address, None)
        end.setblocking(False)
        steps = _introduce(key)
        message, wanted = next(steps)
        with contextlib.suppress(StopIteration):
            while True:
                received = b""
                await loop.sock_sendall(end, message)
                while len(received) < wanted:
                    received += _some(await loop.sock_recv(end, wanted - len(received)))
                message, wanted = steps.send(received)
        return end


@contextlib.contextmanager
def _closed_unless_proven(address: Address) -> Generator[socket.socket, None, None]:
    end: socket.socket | None = None
    try:
        family: int = socket.AF_UNIX
        if not isinstance(address, str):
            family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        end = socket.socket(family)
        yield end
    except BaseException as error:
        if end is not None:
            end.close()
        if isinstance(error, OSError) and error.errno in _TOO_FEW:
            raise ResourceLimit(
                f"a client of the policy server at {shown(address)} cannot connect: {error}"
            ) from error
        is_late = isinstance(error, TimeoutError) and error.errno is None
        if isinstance(error, OSError) and not is_late:
            raise closed(address, error) from error
        raise


def _open(end: socket.socket, address: Address, deadline_s: float | None) -> None:
    _limit(end, deadline_s)
    end.connect(address)
    _prepare(end)


def _limit(end: socket.socket, deadline_s: float | None) -> None:
    left_s = None if deadline_s is None else deadline_s - time.monotonic()
    if left_s is not None and left_s <= 0:
        raise TimeoutError
    end.settimeout(left_s)


def _some(received: bytes) -> bytes:
    if not received:
        raise ConnectionResetError("it hung up; it was closed, or does not know this client's key")
    return received


def closed(address: Address, error: Exception | None = None) -> PolicyServerClosed:
    """Return the error of a client whose server is not there."""
    why = "" if error is None else f" ({error})"
    return PolicyServerClosed(
        f"the policy server at {shown(address)} was closed, or its process ended{why}. Make "
        "another one, and new clients of it."
    )


def shown(address: Address) -> str:
    """Return an address as people write it."""
    return address if isinstance(address, str) else "{}:{}".format(*address)
