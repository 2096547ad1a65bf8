"""Types of the compiled core; what each does is said in ``_core.pyx``."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from vectasks.batch import StepBatch
from vectasks.task import RLStepResult

INTERFACE: int
RESULTS: int
BATCH: int
INTO_ROWS: int
UNMADE: object

_Unusual = Callable[[int, Any, Any, BaseException | None], None]

class RowArrays:
    num_rows: int
    num_samplers: int
    def __init__(
        self,
        flags: NDArray[Any],
        rewards: NDArray[Any],
        leaf_arrays: Sequence[NDArray[Any]],
        tree: Any,
        forms: Sequence[type | None],
    ) -> None: ...
    def put(self, row: int, sampler: int, as_batch: bool, result: Any) -> bool: ...
    def flags_of(self, row: int) -> bytes: ...
    def results(
        self, row: int, lent: list[NDArray[Any]] | None, infos: dict[int, Any]
    ) -> list[RLStepResult] | None: ...

def run_steps(
    hosts: dict[int, Any],
    rows: RowArrays,
    row: int,
    as_batch: bool,
    ids: list[int],
    actions: list[Any],
    places: Any,
    unusual: _Unusual,
    keep_info: Callable[[int, Any], None] | dict[int, Any],
) -> None: ...

class WorkerSteps:
    ticket: int
    def __init__(
        self,
        buffer: Any,
        worker: int,
        sampler_ids: Sequence[int],
        has_integers: bool,
        last: NDArray[Any],
        hosts: dict[int, Any],
        writer_at: Callable[[int], Any],
        unusual: _Unusual,
        keep_info: Callable[[int, Any], None],
        extras: list[Any],
        send: Callable[[], None],
        ring: Callable[[], None],
    ) -> None: ...
    def poll(self, seen_steps: int, seen_messages: int, polls: int, prompt_s: float) -> bool: ...
    def serve(self) -> bool: ...

class Actions:
    array: NDArray[Any]
    def __init__(
        self,
        count: int,
        has_integers: bool,
        array_of: Callable[[Any, int], NDArray[Any] | None],
        low: NDArray[Any],
        high: NDArray[Any],
        is_checked: bool,
    ) -> None: ...
    def take(self, actions: Any) -> bool: ...

class UsualSteps:
    is_armed: bool
    is_running: bool
    step_number: int
    num_steps: int
    ticket: int
    def __init__(
        self,
        rows: RowArrays,
        actions: Actions,
        entries: list[Any],
        lock: Any,
        called: NDArray[Any],
        next_free_batch: Callable[[int], int] | None,
        next_free_list: Callable[[int], int] | None,
        lend: Callable[[int, int, bool], list[NDArray[Any]]],
        hand_over: Callable[[int, dict[int, Any]], Any],
        read_unusual: Callable[[RowArrays, int, Any, list[int], dict[int, Any], int], Any],
    ) -> None: ...
    @property
    def actions(self) -> NDArray[Any]: ...
    def arm(self, step_number: int, steps_left: int, until_s: float) -> None: ...
    def disarm(self) -> int: ...
    def step(
        self, actions: Any, as_batch: bool, as_views: bool = False
    ) -> StepBatch | list[RLStepResult] | None: ...
    def step_into(
        self, actions: Any, rows: RowArrays, index: int, row: int
    ) -> dict[int, dict[str, Any]] | None: ...
    def results(
        self,
        rows: RowArrays,
        index: int,
        lent: list[NDArray[Any]] | None,
        infos: dict[int, Any],
        form: int,
    ) -> Any: ...
    def count(self, rows: RowArrays, index: int) -> None: ...
    def entry(self, rows: RowArrays, index: int) -> bytes: ...

class InfoPlaces:
    num_bytes: int
    def __init__(self, num_parts: NDArray[Any], data: NDArray[Any]) -> None: ...
    def write(self, sampler: int, info: dict[Any, Any]) -> bool: ...
    def read(self, sampler: int) -> dict[Any, Any] | None: ...

class UsualStepsOfWorkers(UsualSteps):
    num_info_bytes: int
    def share(
        self, buffer: Any, residents: Any, polls: int, wake: Callable[[Sequence[int]], bool]
    ) -> None: ...

class UsualStepsHere(UsualSteps):
    def use(
        self,
        hosts: dict[int, Any],
        places_at: Callable[[int], Any],
        unusual: _Unusual,
        cut_off: Callable[[], None],
    ) -> None: ...
