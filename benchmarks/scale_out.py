"""Simulate, from measured costs, how many nodes a scheduler can keep busy.

``python -m benchmarks.scale_out``; the defaults are what ``python -m benchmarks.scheduler --ray``
measured (docs/scale-out.md). Every node collects rollouts with a vector of its own; a rollout goes
to the head of its group, which looks at it, and sends the weights for the next one. One head for
all is a group of all nodes. The network of a head carries one thing after another in each
direction, and its event loop does one thing after another: both are queues.
"""

from __future__ import annotations

import argparse
import heapq
from typing import NamedTuple

import numpy as np

NUM_NODES = (1, 10, 100, 300, 1000)
_ROLLOUTS_A_NODE = 40


class Costs(NamedTuple):
    """The times that things take.

    Attributes:
        rollout_s: the mean time to collect a rollout; its spread is 20% (lognormal).
        rollout_bytes: what a node ships.
        weights_bytes: what it is sent.
        call_s: what the head computes for a rollout: its call, its result.
        copy_bytes_per_s: how fast the head takes in what arrives.
        network_bytes_per_s: of the head, in each direction.
        latency_s: of the network, one way.
    """

    rollout_s: float
    rollout_bytes: float
    weights_bytes: float
    call_s: float
    copy_bytes_per_s: float
    network_bytes_per_s: float
    latency_s: float


class Outcome(NamedTuple):
    """The part of the time that everybody was busy, from 0 to 1, and what came of it."""

    nodes_busy: float
    head_busy: float
    network_busy: float
    rollouts_per_s: float


def simulate(num_nodes: int, costs: Costs, seed: int = 0) -> Outcome:
    """One head and its nodes, for some rollouts each.

    Args:
        num_nodes: of the group.
        costs: what things take.
        seed: of the rollouts' durations.
    """
    rng = np.random.default_rng(seed)
    receive_s = costs.rollout_bytes / costs.network_bytes_per_s
    send_s = costs.weights_bytes / costs.network_bytes_per_s
    handle_s = costs.call_s + costs.rollout_bytes / costs.copy_bytes_per_s
    spread = 0.2

    def duration() -> float:
        return float(costs.rollout_s * rng.lognormal(-(spread**2) / 2, spread))

    # Where a run begins, nodes start one after another, as their weights arrive.
    inbound_free = outbound_free = head_free = collecting_s = 0.0
    ends: list[tuple[float, int]] = []
    for node in range(num_nodes):
        outbound_free += send_s
        length = duration()
        collecting_s += length
        heapq.heappush(ends, (outbound_free + costs.latency_s + length, node))
    total = num_nodes * _ROLLOUTS_A_NODE
    now = 0.0
    for number in range(total):
        end, node = heapq.heappop(ends)
        inbound_free = max(inbound_free, end + costs.latency_s) + receive_s
        head_free = max(head_free, inbound_free) + handle_s
        now = head_free
        if number < total - num_nodes:
            outbound_free = max(outbound_free, head_free) + send_s
            length = duration()
            collecting_s += length
            heapq.heappush(ends, (outbound_free + costs.latency_s + length, node))
    return Outcome(
        collecting_s / (num_nodes * now),
        total * handle_s / now,
        total * max(receive_s, send_s) / now,
        total / now,
    )


def main() -> None:
    """Print a table for one head, and one for groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollout-s", type=float, default=5.0)
    parser.add_argument("--rollout-mb", type=float, nargs="+", default=[1.0, 50.0])
    parser.add_argument("--weights-mb", type=float, default=1.0)
    parser.add_argument("--call-ms", type=float, default=1.1)
    parser.add_argument("--copy-gb-per-s", type=float, default=0.4)
    parser.add_argument("--network-gbit-per-s", type=float, default=25.0)
    parser.add_argument("--latency-ms", type=float, default=0.1)
    parser.add_argument("--group", type=int, default=32, help="nodes a head, where there are many")
    args = parser.parse_args()
    for rollout_mb in args.rollout_mb:
        costs = Costs(
            args.rollout_s,
            rollout_mb * 1e6,
            args.weights_mb * 1e6,
            args.call_ms * 1e-3,
            args.copy_gb_per_s * 1e9,
            args.network_gbit_per_s * 1e9 / 8,
            args.latency_ms * 1e-3,
        )
        print(f"rollouts of {rollout_mb:g} MB in {args.rollout_s:g} s")
        print("| nodes | heads | nodes busy | head busy | its network busy | rollouts/s |")
        print("|---|---|---|---|---|---|")
        for num_nodes in NUM_NODES:
            for heads in sorted({1, -(-num_nodes // args.group)}):
                outcome = simulate(-(-num_nodes // heads), costs)
                print(
                    f"| {num_nodes} | {heads} | {outcome.nodes_busy:.0%} | {outcome.head_busy:.0%} "
                    f"| {outcome.network_busy:.0%} | {heads * outcome.rollouts_per_s:.1f} |"
                )


if __name__ == "__main__":
    main()
