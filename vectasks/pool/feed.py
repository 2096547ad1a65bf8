"""Keeping the workers of a pool busy with calls that any of them can answer."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from vectasks.errors import InvalidArgument, WorkerDied
from vectasks.pool.pool import WorkerPool

K = TypeVar("K")


class _Out(NamedTuple):
    """A call that is out."""

    future: Future[Any]
    item: tuple[Any, tuple[Any, ...]]


def feed(
    pool: WorkerPool, method: str, items: Iterable[tuple[K, tuple[Any, ...]]], *, ahead: int = 1
) -> Iterator[tuple[K, Future[Any]]]:
    """Call a method once for each item, in whichever worker is free.

    A worker that dies is restarted. The call that it was at fails; those that waited behind it are
    made again.

    Args:
        pool: the workers.
        method: of their objects.
        items: a key, and the arguments; they are taken when a worker is free for them.
        ahead: so many calls are out at a worker, so that it need not wait for its next one.

    Yields:
        The key and the finished future of each call, as they are answered.
    """
    answered: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
    out: list[deque[_Out]] = [deque() for _ in range(pool.num_workers)]
    again: deque[tuple[K, tuple[Any, ...]]] = deque()
    source = iter(items)

    def send(worker: int) -> bool:
        """Give a worker its next call; False if there is none."""
        item = again.popleft() if again else next(source, None)
        if item is None:
            return False
        future: Future[Any]
        try:
            future = pool.submit_at(worker, method, *item[1])
        except InvalidArgument as error:  # what cannot be pickled fails alone
            future = Future()
            future.set_exception(error)
        out[worker].append(_Out(future, item))
        future.add_done_callback(lambda done: answered.put((worker, done)))
        return True

    for _ in range(ahead):
        for worker in range(pool.num_workers):
            send(worker)
    while any(out):
        worker, future = answered.get()
        at = next((n for n, call in enumerate(out[worker]) if call.future is future), None)
        if at is None:
            continue  # it waited behind a call that its worker died of, and was made again
        item = out[worker][at].item
        del out[worker][at]
        if isinstance(future.exception(), WorkerDied):
            again.extend(call.item for call in out[worker])
            out[worker].clear()
            pool.restart_at(worker)
        # Everybody who has room: the dead one's calls may be more than it takes back.
        for other in [worker, *range(pool.num_workers)]:
            while len(out[other]) < ahead and send(other):
                pass
        yield item[0], future
