"""Episode runners that ask one policy in batches, one observation at a time, or have their own.

``python -m benchmarks.policy_server``, in an environment that has vectasks installed; ``--device``
puts the policies there, with torch.

Runners in processes play so many steps: they ask for an action, and wait as for a simulator on
another machine or on a GPU. Everybody plays the same steps with the same weights and has played
some before the time counts. Linear algebra has one thread in every process: with more, the runners'
own policies are in each other's way.

They are measured in turn, and compared with the batched server's figure of the same turn: what else
the machine does meanwhile is then much the same for all.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vectasks.pool.pool import WorkerPool
from vectasks.rollouts import PolicyClient, PolicyServer

NUM_INPUTS = 64
NUM_ACTIONS = 8
WARM_STEPS = 20


class Setting(NamedTuple):
    """Which policy, and what its runners do between two questions."""

    name: str
    width: int  # of each of three hidden layers; 0: none
    step_s: float


SETTINGS = [
    Setting("a layer of 64 x 8, steps that wait 1 ms", 0, 1e-3),
    Setting("hidden layers of 512, steps that wait 1 ms", 512, 1e-3),
    Setting("hidden layers of 2048, steps that wait 1 ms", 2048, 1e-3),
    Setting("hidden layers of 2048, steps that take no time", 2048, 0.0),
]


class Mlp:
    """A multilayer perceptron, in numpy or on a device of torch's."""

    def __init__(self, width: int, device: str | None) -> None:
        rng = np.random.default_rng(0)
        sizes = [NUM_INPUTS, *[width] * 3, NUM_ACTIONS] if width else [NUM_INPUTS, NUM_ACTIONS]
        self.weights: Any = [
            (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
            for shape in itertools.pairwise(sizes)
        ]
        self.device = device
        if device is not None:
            import torch

            torch.set_num_threads(1)
            self.weights = [torch.as_tensor(weight, device=device) for weight in self.weights]

    def __call__(self, observations: Any) -> Any:
        """The best action for each row."""
        hidden = observations
        for weight in self.weights[:-1]:
            hidden = (hidden @ weight).clip(0)
        return (hidden @ self.weights[-1]).argmax(1)


class OwnPolicy:
    """Acts for one observation by a policy in its own process."""

    def __init__(self, width: int, device: str | None) -> None:
        self.mlp = Mlp(width, device)

    def __call__(self, observation: Any) -> int:
        """The action."""
        if self.mlp.device is None:
            return int(self.mlp(observation[None])[0])
        import torch

        with torch.no_grad():
            return int(self.mlp(torch.as_tensor(observation[None], device=self.mlp.device))[0])


class Player:
    """A runner: plays so many steps by a policy, or by whoever it asks."""

    def __init__(self, make_policy: Callable[[], Callable[[Any], Any]], step_s: float) -> None:
        self.act = make_policy()
        self.step_s = step_s
        self.observation = np.random.default_rng(1).standard_normal(NUM_INPUTS).astype(np.float32)

    def play(self, num_steps: int) -> None:
        """Play."""
        for _ in range(num_steps):
            self.act(self.observation)
            if self.step_s:
                time.sleep(self.step_s)


class Pace(NamedTuple):
    """What a contender reached."""

    steps_per_s: float
    mean_batch_size: float = 1.0


def pace_of(
    make_policy: Callable[[], Callable[[Any], Any]], setting: Setting, args: argparse.Namespace
) -> float:
    """Steps a second of all runners together."""
    make_player = functools.partial(Player, make_policy, setting.step_s)
    with WorkerPool(make_player, args.runners) as pool:
        play_all(pool, args.runners, WARM_STEPS)
        began_s = time.perf_counter()
        play_all(pool, args.runners, args.steps)
        return args.runners * args.steps / (time.perf_counter() - began_s)


def play_all(pool: WorkerPool, num_runners: int, num_steps: int) -> None:
    """Have every runner play so many steps, beside each other."""
    playing = [pool.submit_at(runner, "play", num_steps) for runner in range(num_runners)]
    for each in playing:
        each.result()


def by_a_server(
    setting: Setting, args: argparse.Namespace, *, max_batch: int | None = None
) -> Pace:
    """All ask one server."""
    policy = Mlp(setting.width, args.device)
    max_batch = args.runners if max_batch is None else max_batch
    with PolicyServer(policy, max_batch, args.max_wait_ms / 1000, device=args.device) as server:
        client = server.client()
        steps_per_s = pace_of(lambda: client, setting, args)
        return Pace(steps_per_s, server.stats()["mean_batch_size"])


def by_their_own(setting: Setting, args: argparse.Namespace) -> Pace:
    """Each has a policy of its own."""
    return Pace(pace_of(functools.partial(OwnPolicy, setting.width, args.device), setting, args))


class Questioner:
    """A runner that asks, one question after another."""

    def __init__(self, client: PolicyClient) -> None:
        self.client = client

    def ask(self, num_questions: int) -> float:
        """How many microseconds the middle one took."""
        times_s = []
        for _ in range(num_questions):
            began_s = time.perf_counter()
            self.client(0.0)
            times_s.append(time.perf_counter() - began_s)
        return statistics.median(times_s) * 1e6


def question_us(host: str | None, num_questions: int = 3000) -> float:
    """One question there and back, to a policy that does nothing."""
    with PolicyServer(lambda batch: batch, 1, 0, host=host) as server:
        client = server.client()
        with WorkerPool(lambda: Questioner(client), 1) as pool:
            pool.submit_at(0, "ask", WARM_STEPS).result()
            took_us: float = pool.submit_at(0, "ask", num_questions).result()
            return took_us


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Measure in turn, and print medians."""
    if any(os.environ.get(name) != "1" for name in _THREADS):  # numpy has read them by now
        environment = {**os.environ, **dict.fromkeys(_THREADS, "1")}
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], environment)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="of each runner")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-wait-ms", type=float, default=0.0)
    parser.add_argument("--device", help="of torch's, for all policies; otherwise numpy")
    args = parser.parse_args()
    contenders: dict[str, Callable[..., Pace]] = {
        "server, batches": by_a_server,
        "server, one at a time": functools.partial(by_a_server, max_batch=1),
        "a policy in each runner": by_their_own,
    }
    for setting in SETTINGS:
        turns = [
            {name: measure(setting, args) for name, measure in contenders.items()}
            for _ in range(args.repeats)
        ]
        print(f"steps/s of {args.runners} runners, {setting.name}:")
        for name in contenders:
            rates = [turn[name].steps_per_s for turn in turns]
            ratios = [
                turn["server, batches"].steps_per_s / turn[name].steps_per_s for turn in turns
            ]
            size = statistics.median(turn[name].mean_batch_size for turn in turns)
            print(
                f"  {name:<24}{_middle(rates, '.0f')}; batches / this: {_middle(ratios, '.2f')}; "
                f"batches of {size:.1f}"
            )
    print("one question there and back, us:")
    for name, host in {"Unix socket": None, "TCP on this machine": "127.0.0.1"}.items():
        print(f"  {name}: {question_us(host):.0f}")


def _middle(values: list[float], form: str) -> str:
    """The median, and from where to where they go."""
    middle, least, most = (f(values) for f in (statistics.median, min, max))
    return f"{middle:{form}} ({least:{form}} to {most:{form}})"


if __name__ == "__main__":
    main()
