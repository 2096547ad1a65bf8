"""What a worker sends and this process cannot rebuild fails its own request, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from vectasks import SamplerState, TaskError, VectorSampledTasks
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import CountingTask, StubbornToyError


@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_what_cannot_be_rebuilt_fails_its_request_only(transport: Any) -> None:
    class Unreadable(CountingTask):
        def explain(self) -> Any:
            return StubbornToyError("travels there, and is not read here", 1)

        def info(self) -> Any:
            return {"why": self.explain()} if self.env.sampler == 1 else None

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
