"""Tools to test task samplers: a conformance suite, faults and toy tasks.

:class:`TaskSamplerContract` is for users: subclass it, and pytest holds your sampler to
the contract. So is :func:`with_faults`: it lets your samplers fail where you want them to; what can
happen is in :mod:`vectasks.testing.faults`. The toys live in :mod:`vectasks.testing.toys`.
"""

from vectasks.testing.contract import TaskSamplerContract, assert_identical, record_trace
from vectasks.testing.faults import Fault, with_faults
from vectasks.testing.toys import ToyError, ToySampler, ToyTask, toy_args

__all__ = [
    "Fault",
    "TaskSamplerContract",
    "ToyError",
    "ToySampler",
    "ToyTask",
    "assert_identical",
    "record_trace",
    "toy_args",
    "with_faults",
]
