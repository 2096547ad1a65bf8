"""What tests of task samplers are made of: a conformance suite and toy tasks.

:class:`TaskSamplerContract` is for users: subclass it, and pytest holds your sampler to
the contract. The toys live in :mod:`vectasks.testing.toys`.
"""

from vectasks.testing.contract import TaskSamplerContract, assert_identical, record_trace
from vectasks.testing.toys import ToyError, ToySampler, ToyTask, toy_args

__all__ = [
    "TaskSamplerContract",
    "ToyError",
    "ToySampler",
    "ToyTask",
    "assert_identical",
    "record_trace",
    "toy_args",
]
