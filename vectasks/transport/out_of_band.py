"""Out-of-band data: what of a step has no place among the arrays, written beside them.

Most environments give an info in every step. Written here it costs two small pickles; sent on the
channel it would cost two system calls as well, and wake the parent before the step is done. Images
in infos are copied in and out, where the channel would move them piece by piece through a socket.

Each is the sizes of its parts, then the parts: a pickle, and its large buffers. The compiled core
writes an info of plain numbers and texts by ``marshal``, in a fraction of the time: its size, then
that.
"""

from __future__ import annotations

import marshal
import pickle
from typing import Any

from vectasks.protocol import Failure
from vectasks.transport.channel import plain_parts
from vectasks.transport.step_buffer import OutOfBand, StepBuffer
from vectasks.transport.step_protocol import words

_SIZE_BYTES = 8
_MARSHALLED = -1  # in the place of how many parts there are


class OutOfBandArea:
    """The out-of-band data of each sampler, valid from a step's announcement to the next step.

    Args:
        step_buffer: where they are.
    """

    def __init__(self, step_buffer: StepBuffer) -> None:
        self._num_parts = words(step_buffer["out_of_band_parts"])
        self._most_bytes = step_buffer.layout.out_of_band_bytes
        self._bytes: Any = (
            words(step_buffer["out_of_band"]).cast("B") if self._most_bytes else memoryview(b"")
        )
        self._sizes: Any = self._bytes.cast("q")
        self.num_bytes: int = 0  # of what was read

    def write(self, extra: OutOfBand) -> bool:
        """Write it if it is plain and not too large; if it was."""
        self._num_parts[extra.sampler_id] = 0
        if self._most_bytes == 0:
            return False
        pickled = plain_parts(tuple(extra), self._most_bytes)
        if pickled is None:
            return False
        parts = [pickled[0], *pickled[1]]
        place = extra.sampler_id * self._most_bytes
        begin = place + _SIZE_BYTES * len(parts)
        if begin + sum(map(len, parts)) > place + self._most_bytes:
            return False
        for number, part in enumerate(parts, place // _SIZE_BYTES):
            self._sizes[number] = len(part)
            self._bytes[begin : begin + len(part)] = part
            begin += len(part)
        self._num_parts[extra.sampler_id] = len(parts)
        return True

    def read(self, sampler_id: int) -> OutOfBand | None:
        """What was written for the step that a sampler made last; None: it was not.

        What cannot be rebuilt here is a failure of the step.
        """
        num_parts = self._num_parts[sampler_id]
        if not num_parts:
            return None
        place = sampler_id * self._most_bytes
        if num_parts == _MARSHALLED:
            begin, size = place + _SIZE_BYTES, self._sizes[place // _SIZE_BYTES]
            self.num_bytes += _SIZE_BYTES + size
            return OutOfBand(sampler_id, marshal.loads(self._bytes[begin : begin + size]))
        begin = place + _SIZE_BYTES * num_parts
        parts = []
        for size in self._sizes[place // _SIZE_BYTES : begin // _SIZE_BYTES]:
            parts.append(self._bytes[begin : begin + size])
            begin += size
        self.num_bytes += begin - place
        body, *buffers = parts
        try:
            return OutOfBand._make(pickle.loads(body, buffers=map(bytearray, buffers)))
        except Exception as error:  # user code: what pickles may yet not be built here
            return OutOfBand(sampler_id, failure=Failure.of(error))
