"""Notes: what of a step has no place among the slab's arrays, beside them if it is small.

Most environments give an info in every step. Written here it costs two small pickles; sent on the
channel it would cost two system calls as well, and wake the parent before the step is done.
"""

from __future__ import annotations

import pickle

from vectasks.messages import Failure
from vectasks.workers.channel import plain_pickle
from vectasks.workers.lane import words
from vectasks.workers.layout import NOTE_BYTES
from vectasks.workers.slab import Extra, Slab


class Notes:
    """The notes of a slab, one a sampler. Valid from a step's announcement to the next step.

    Args:
        slab: where they are.
    """

    def __init__(self, slab: Slab) -> None:
        self._sizes = words(slab["note_size"])
        self._bytes = words(slab["note"]).cast("B")

    def write(self, extra: Extra) -> bool:
        """Write it if it is small and plain; if it was."""
        body = plain_pickle(tuple(extra), _refuse_large)
        if body is None or len(body) > NOTE_BYTES:
            self._sizes[extra.sampler_id] = 0
            return False
        begin = extra.sampler_id * NOTE_BYTES
        self._bytes[begin : begin + len(body)] = body
        self._sizes[extra.sampler_id] = len(body)
        return True

    def read(self, sampler_id: int) -> Extra | None:
        """What was written for the step that a sampler made last; None: it was not, or is large.

        What cannot be rebuilt here is a failure of the step.
        """
        size = self._sizes[sampler_id]
        if not size:
            return None
        begin = sampler_id * NOTE_BYTES
        try:
            return Extra._make(pickle.loads(self._bytes[begin : begin + size]))
        except Exception as error:  # user code: what pickles may yet not be built here
            return Extra(sampler_id, failure=Failure.of(error))


def _refuse_large(buffer: pickle.PickleBuffer) -> bool:
    """Keep small arrays in the pickle, and give it up at a large one, before that is copied."""
    if buffer.raw().nbytes > NOTE_BYTES:
        raise ValueError("too large for a note")
    return True
