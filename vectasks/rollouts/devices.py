"""Arrays as a policy expects them: numpy's, tensors over them, or their mirrors on a device."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import is_whole_number
from vectasks._util.extras import require
from vectasks.errors import InvalidArgument


class Device:
    """The device that a policy's inputs are put on.

    Args:
        device: "cpu", "cuda", a ``torch.device``; None: numpy arrays.
        what: asks for it, should torch not be installed.

    Attributes:
        device: the ``torch.device``, or None.
        is_apart: it has memory of its own, so that what it is to have is sent there.
    """

    def __init__(self, device: Any, what: str) -> None:
        self.device: Any = None
        if device is not None:
            torch = require("torch", "torch", f"{what} with device={device!r}")
            try:
                self.device = torch.device(int(device) if is_whole_number(device) else device)
            except (RuntimeError, TypeError) as error:
                raise InvalidArgument(f"{what}: device={device!r} cannot be: {error}") from error
        self.is_apart: bool = _is_apart(self.device)

    def see(self, array: NDArray[Any]) -> Any:
        """Return the array itself, a tensor over it, or a tensor like it on the device."""
        seen = self.on_cpu(array)
        if not self.is_apart:
            return seen
        import torch

        return torch.zeros_like(seen, device=self.device)

    def on_cpu(self, array: NDArray[Any]) -> Any:
        """Return the array itself, or a tensor over it."""
        if self.device is None:
            return array
        import torch

        return torch.from_numpy(array)

    def send(self, array: NDArray[Any]) -> Any:
        """Return the array itself, or a tensor of it on the device."""
        return array if self.device is None else self.on_cpu(array).to(self.device)

    def mirror(self, mirror: Any, array: NDArray[Any]) -> None:
        """Update what :meth:`see` returned, if the device has its own memory."""
        if self.is_apart:
            mirror.copy_(self.on_cpu(array), non_blocking=True)

    def pin(self, owner: Any, memory: Any) -> None:
        """Pin the memory's pages while ``owner`` lives, so that a GPU can copy from them.

        Where this cannot be, copies to the GPU wait for a staging copy; the results are the same.
        """
        if not self.is_apart:
            return
        import torch

        if not torch.cuda.is_available():
            return
        array = np.frombuffer(memory, np.uint8)
        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(cudart.cudaHostRegister(array.ctypes.data, array.nbytes, 0)) == 0:
            # The closure holds the memory until it is unpinned.
            weakref.finalize(owner, lambda: cudart.cudaHostUnregister(array.ctypes.data))


def _is_apart(device: Any) -> bool:
    return device is not None and device.type != "cpu"


def without_gradients(device: Any) -> Any:
    """Return a context without gradients; it does nothing where there are no tensors."""
    if device is None:
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def as_numpy(value: Any) -> NDArray[Any]:
    """Convert an array, list or tensor of any device to an array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def take(column: Any, axis: int, index: Any, out: Any = None) -> Any:
    """Select from an array or a tensor along an axis, into ``out`` if it is given."""
    if isinstance(column, np.ndarray):
        # Only with another mode than "raise" does numpy write straight into ``out``.
        return np.take(column, index, axis, out=out, mode="clip")
    import torch

    return torch.index_select(column, axis, index, out=out)


def empty_like(column: Any, shape: tuple[int, ...]) -> Any:
    """Make an array or a tensor of another shape that is otherwise like ``column``."""
    if isinstance(column, np.ndarray):
        return np.empty(shape, column.dtype)
    return column.new_empty(shape)
