"""What sleeps alone allow: an event simulation in which everything else takes no time.

Every environment sleeps as its simulator would, one step after another. The parent takes those that
are ready, as soon as there are enough of them, and steps them again at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Generator

from benchmarks.workloads import RESET_SLEEP_S, STEP_SLEEP_S, episode_lengths, sleeps_s

_STEPS_AN_ENV = 4000


def rate(
    workload: str, num_envs: int, *, first_half: bool = False, prepared_tasks: int = 0
) -> float:
    """Environment steps a second.

    Args:
        workload: "W5" or "R1".
        num_envs: how many there are.
        first_half: a batch is the first half that is ready; False: everybody (lockstep).
        prepared_tasks: spares of each sampler, each of which resets one task at a time beforehand.
    """
    ends = [_step_ends(workload, seed, prepared_tasks) for seed in range(num_envs)]
    for end in ends:
        next(end)  # runs to where it takes the first beginning
    batch = num_envs // 2 if first_half else num_envs
    running = [(end.send(0.0), i) for i, end in enumerate(ends)]
    heapq.heapify(running)
    steps, now_s = 0, 0.0
    while steps < _STEPS_AN_ENV * num_envs:
        ready = [heapq.heappop(running) for _ in range(batch)]
        now_s = ready[-1][0]
        steps += batch
        for _, i in ready:
            heapq.heappush(running, (ends[i].send(now_s), i))
    return steps / now_s


def _step_ends(workload: str, seed: int, prepared_tasks: int) -> Generator[float, float, None]:
    """Takes when a step begins, gives when it ends, the reset included that it may bring."""
    waits = workload == "R1"
    sleeps = itertools.repeat(STEP_SLEEP_S) if waits else sleeps_s(seed)
    reset_s = RESET_SLEEP_S if waits else 0.0
    prepared_s = deque([RESET_SLEEP_S] * prepared_tasks)  # when the next tasks are there, in turn
    end_s = 0.0
    for length in episode_lengths(workload, seed):
        for number in range(length):
            end_s = (yield end_s) + next(sleeps)
            if number == length - 1 and prepared_tasks:
                prepared_s.append(end_s + reset_s)  # by whoever has just ended its episode
                end_s = max(end_s, prepared_s.popleft())
            elif number == length - 1:
                end_s += reset_s
