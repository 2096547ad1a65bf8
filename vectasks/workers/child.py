"""What a worker process runs."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from multiprocessing import connection, parent_process
from typing import Any

import cloudpickle

from vectasks.host import HostGroup
from vectasks.messages import Failure, Reply, Request
from vectasks.workers.channel import Channel

#: The message that asks a worker to close everything and to end.
END = "end"

_ORPHAN_GRACE_S = 1.0

logger = logging.getLogger("vectasks.worker")


def run(end: socket.socket, registrations: bytes | None) -> None:
    """Carry out what arrives until END or the parent's end, then close every task and sampler."""
    # Ctrl-C is the parent's to handle; SIGTERM ends a worker even where the parent caught it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not faulthandler.is_enabled() and sys.stderr is not None:
        faulthandler.enable()
    threading.Thread(target=_end_with_parent, name="vectasks-watchdog", daemon=True).start()
    channel = Channel(end)
    group = HostGroup()
    try:
        if registrations is not None:
            adopt_registrations(registrations)
        while (requests := channel.receive_blocking()) != END:
            _answer(channel, [group.execute(request) for request in requests], requests)
    except (EOFError, OSError):
        group.close()  # the parent is gone: nobody is left to be told
        return
    failures = group.close()
    try:
        channel.send_blocking(failures)
    except OSError:
        pass
    finally:
        channel.close()


def _answer(channel: Channel, replies: list[Reply], requests: list[Request]) -> None:
    try:
        channel.send_blocking(replies)
    except OSError:
        raise
    except Exception:  # one of the values cannot be pickled: find out which, and say so
        sendable = [
            reply if _can_travel(reply) else _unsendable(reply, request)
            for reply, request in zip(replies, requests, strict=True)
        ]
        channel.send_blocking(sendable)


def _can_travel(reply: Reply) -> bool:
    try:
        cloudpickle.dumps(reply, protocol=5)
    except Exception:  # user code: pickling runs __reduce__ and __getstate__
        return False
    return True


def _unsendable(reply: Reply, request: Request) -> Reply:
    try:
        cloudpickle.dumps(reply.value, protocol=5)
        raise pickle.PicklingError("it could not be pickled at first, and then could")
    except Exception as error:
        explained = pickle.PicklingError(
            f"what {request.command.label} gave cannot be sent to the parent process "
            f"({type(error).__name__}: {error}). Return plain data, or use "
            "SingleProcessVectorSampledTasks, which hands objects over as they are."
        )
        explained.__cause__ = error
        return reply._replace(value=Failure.of(explained))


def registrations() -> bytes:
    """What this process has registered with Gymnasium, for :func:`adopt_registrations`.

    A spec that cannot be pickled is left out: a worker that asks for it says it does not exist.
    """
    from gymnasium.envs.registration import registry

    try:
        data: bytes = cloudpickle.dumps(dict(registry), protocol=5)
    except Exception:  # user code: an entry point that holds something that does not travel
        specs = {}
        for env_id, spec in registry.items():
            try:
                cloudpickle.dumps(spec, protocol=5)
            except Exception:
                logger.warning("Gymnasium's registration of %s does not travel to workers", env_id)
            else:
                specs[env_id] = spec
        data = cloudpickle.dumps(specs, protocol=5)
    return data


def adopt_registrations(data: bytes) -> None:
    """Register what another process had registered with Gymnasium."""
    from gymnasium.envs.registration import registry

    registry.update(pickle.loads(data))


def _end_with_parent() -> None:
    """End this process soon after its parent, even if a task is still busy."""
    parent: Any = parent_process()
    started_by = os.getppid()
    if parent is None:
        return
    while not connection.wait([parent.sentinel], timeout=1.0):
        # Under fork, siblings hold the sentinel's other end open: look for the adoption as well.
        if os.getppid() != started_by:
            break
    time.sleep(_ORPHAN_GRACE_S)  # the main thread sees the end of its channel and closes the tasks
    os._exit(1)
