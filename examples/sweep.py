"""A sweep: PPO on CartPole, 3 seeds x 2 learning rates, each evaluated on exactly 32 episodes.

Run it: python examples/sweep.py            # about 20 s; a table, and sweep/.../returns.png
        python examples/sweep.py            # again: nothing runs, the table is there at once
        python examples/sweep.py --learning-rates 2e-3 5e-4      # runs what is new
        vectasks jobs sweep                 # what ran, when, for how long
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Annotated

from vectasks.experiment import Param, Task, experiment, pathgenerator, tag


class Train(Task):
    """PPO, as in ``vectasks demo``."""

    learning_rate: Param[float]
    seed: Param[int]
    steps: Param[int]
    weights: Annotated[Path, pathgenerator("weights.npz")]

    def execute(self) -> None:
        """Train, and save the policy's network."""
        import numpy as np

        from vectasks.cli import demo

        agent = demo.Agent(self.seed)
        for progress in demo.train(agent, self.steps, self.seed, self.learning_rate):
            print(progress)
        np.savez(self.weights, **{k: v.numpy() for k, v in agent.actor.state_dict().items()})


class Evaluate(Task):
    """Returns of a trained policy, one episode per sampler: short ones do not count double."""

    policy: Param[Train]
    episodes: Param[int] = 32
    seed: Param[int] = 1000
    returns: Annotated[Path, pathgenerator("returns.json")]

    def execute(self) -> None:
        """Play, in this process, as the jobs run side by side; who is done is paused."""
        import numpy as np

        from vectasks import COMPLETE_TASK_METRICS_KEY, SingleProcessVectorSampledTasks
        from vectasks.envs import GymnasiumTaskSampler

        weights = dict(np.load(self.policy.weights))
        returns = [0.0] * self.episodes
        with SingleProcessVectorSampledTasks(
            GymnasiumTaskSampler, [{"env": "CartPole-v1"}] * self.episodes, seed=self.seed
        ) as tasks:
            observations = tasks.get_observations()
            while tasks.num_unpaused_tasks:
                hidden = np.stack(observations)
                for layer in (0, 2):
                    hidden = hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
                    hidden = np.tanh(hidden)
                logits = hidden @ weights["4.weight"].T + weights["4.bias"]
                results = tasks.step(logits.argmax(1))
                observations = [result.observation for result in results if not result.done]
                for index in reversed(range(len(results))):
                    if results[index].done:
                        metrics = results[index].info[COMPLETE_TASK_METRICS_KEY]
                        returns[tasks.sampler_ids[index]] = metrics["reward"]
                        tasks.pause_at(index)
        self.returns.write_text(json.dumps(returns))


class Report(Task):
    """A table and a plot of the returns by learning rate."""

    evaluations: Param[list[Evaluate]]
    table: Annotated[Path, pathgenerator("table.txt")]
    plot: Annotated[Path, pathgenerator("returns.png")]

    def execute(self) -> None:
        """Read what the evaluations wrote."""
        from matplotlib.figure import Figure

        means: dict[float, list[float]] = {}
        lines = ["learning rate  seed  episodes  mean return"]
        for evaluation in self.evaluations:
            train, returns = evaluation.policy, json.loads(evaluation.returns.read_text())
            mean = statistics.mean(returns)
            means.setdefault(train.learning_rate, []).append(mean)
            lines.append(
                f"{train.learning_rate:13g}  {train.seed:4}  {len(returns):8}  {mean:11.1f}"
            )
        self.table.write_text("\n".join(lines) + "\n")
        axes = Figure(figsize=(5, 3), layout="constrained").subplots()
        for position, learning_rate in enumerate(sorted(means)):
            of_seeds = means[learning_rate]
            axes.bar(position, statistics.mean(of_seeds), color="C0", alpha=0.5)
            axes.plot([position] * len(of_seeds), of_seeds, "o", color="C0")
        axes.set_xticks(range(len(means)), [f"{rate:g}" for rate in sorted(means)])
        axes.set(xlabel="learning rate", ylabel="mean return", title="one dot a seed")
        axes.figure.savefig(self.plot, dpi=120)


def main() -> None:
    """Submit all, wait, and show the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("sweep"))
    parser.add_argument("--steps", type=int, default=20_000, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[2e-3, 2e-4])
    args = parser.parse_args()
    with experiment(args.workdir, "sweep") as xp:
        evaluations = []
        for learning_rate in args.learning_rates:
            for seed in args.seeds:
                policy = Train(learning_rate=tag(learning_rate), seed=tag(seed), steps=args.steps)
                evaluations.append(Evaluate(policy=policy.submit()).submit())
        report = Report(evaluations=evaluations).submit()
        num_new = sum(job.state != "done" for job in xp.jobs)
    print(report.table.read_text(), end="")
    print(f"{num_new} of {len(xp.jobs)} jobs ran; plot: {report.plot}")


if __name__ == "__main__":
    main()
