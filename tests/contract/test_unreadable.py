"""What a worker sends and this process cannot rebuild fails its own request, and nothing else."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from vectasks import SamplerState, TaskError, VectorSampledTasks
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import CountingTask, StubbornToyError
from vectasks.workers import worker_lane
from vectasks.workers.layout import NOTE_BYTES


@pytest.mark.parametrize("size_bytes", [1, NOTE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_what_cannot_be_rebuilt_fails_its_request_only(transport: Any, size_bytes: int) -> None:
    class Unreadable(CountingTask):
        def explain(self) -> Any:
            return StubbornToyError("travels there, and is not read here", 1)

        def info(self) -> Any:
            if self.env.sampler != 1:
                return None
            return {"why": self.explain(), "padding": bytes(size_bytes)}

    args = toy_args(Unreadable, 3, max_steps=9)
    with VectorSampledTasks(ToySampler, args, observation_transport=transport) as tasks:
        with pytest.raises(TaskError, match="sampler"):
            tasks.call("explain")
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        with pytest.raises(TaskError, match="sampler 1 failed in step") as caught:
            tasks.step([0] * 3)
        assert sorted(caught.value.results) == [0, 2]
        tasks.pause_at(1)
        assert [result.done for result in tasks.step([0] * 2)] == [False] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked worker keeps what was patched")
@pytest.mark.parametrize("as_batch", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_it_fails_its_step_when_read_before_the_step_is_announced(
    as_batch: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What belongs to a step is sent before it is announced, and may be read in between."""

    class Unreadable(CountingTask):
        def info(self) -> Any:
            if self.env.sampler != 1 or self.num_steps_taken() != 1:  # in its second
                return None
            why = StubbornToyError("travels there, and is not read here", 1)
            return {"why": why, "padding": bytes(NOTE_BYTES)}  # too large for a note

    send_extras = worker_lane._send_extras

    def send_extras_and_dawdle(channel: Any, extras: Any) -> None:
        send_extras(channel, extras)
        time.sleep(0.3)  # the parent polls for some microseconds, then reads what comes

    monkeypatch.setattr(worker_lane, "_send_extras", send_extras_and_dawdle)
    args = toy_args(Unreadable, 3, max_steps=9)
    with VectorSampledTasks(
        ToySampler, args, multiprocessing_start_method="fork", max_processes=workers
    ) as tasks:
        step = tasks.step_batch if as_batch else tasks.step
        step([0] * 3)
        with pytest.raises(TaskError, match="sampler 1 failed in step"):
            step([0] * 3)
        tasks.restart_at(1)
        step([0] * 3)
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
