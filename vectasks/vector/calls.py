"""A call from its beginning to its answers: may it be made now, what is sent, and what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vectasks._util.checks import checked_seed
from vectasks.protocol import Command, SamplerState
from vectasks.vector.arguments import checked_name, command_named, one_each
from vectasks.vector.live_view import LiveView
from vectasks.vector.requests import Requests
from vectasks.vector.results import Results
from vectasks.vector.states import SamplerStates
from vectasks.vector.supervision import Supervisor


class Calls:
    """Refuses what the samplers' states do not allow, sends commands and gathers the answers.

    Args:
        states: say what is allowed.
        supervisor: is told what later restarts begin with.
        requests: carry the commands.
        results: count the answers, and raise errors.
        live_view: is told of every call.
        read_timeout: seconds to wait for answers.
        start_timeout_s: seconds to wait for samplers that are made.
    """

    def __init__(
        self,
        states: SamplerStates,
        supervisor: Supervisor,
        requests: Requests,
        results: Results,
        live_view: LiveView,
        *,
        read_timeout: float | None,
        start_timeout_s: float | None,
    ) -> None:
        self.states = states
        self.supervisor = supervisor
        self.requests = requests
        self.results = results
        self.live_view = live_view
        self.read_timeout = read_timeout
        self._start_timeout_s = start_timeout_s

    # -- may it be made ---------------------------------------------------------------------------

    def require_idle(self, what: str) -> None:
        """Refuse ``what`` while the vector is closed or a step is out."""
        self.states.require_idle(what)
        self.requests.take_in_late()
        self.live_view.call_came()

    def require(self, command: Command, ids: Sequence[int]) -> None:
        """Refuse ``command`` unless every sampler can take it, once their restarts are over."""
        if self.supervisor.restarting:
            self.requests.await_restarts(ids, self._start_timeout_s)
        self.states.require(command, ids)

    def open_all(self, what: str, command: Command) -> list[int]:
        """Name the unpaused samplers, all of which can take the command, by id."""
        self.require_idle(what)
        self.require(command, self.states.unpaused)
        return self.states.unpaused

    def open_each(
        self,
        what: str,
        commands: str | Command | Sequence[str | Command],
        data: Sequence[Any] | None,
    ) -> tuple[list[int], list[Command], list[Any]]:
        """Name the unpaused samplers, each of which can take its command, and check what goes."""
        self.require_idle(what)
        ids = list(self.states.unpaused)
        if isinstance(commands, (str, Command)):
            commands = [commands] * len(ids)
        kinds = [command_named(item) for item in one_each("commands", commands, ids)]
        data = [None] * len(ids) if data is None else one_each("data_list", data, ids)
        for sampler_id, kind in zip(ids, kinds, strict=True):
            self.require(kind, [sampler_id])
        return ids, kinds, data

    def open_at(self, what: str, sampler_index: int, command: Command) -> int:
        """Name one unpaused sampler, which can take the command, by id."""
        self.require_idle(what)
        sampler_id = self.states.id_at(sampler_index)
        self.require(command, [sampler_id])
        return sampler_id

    def open_any_at(self, what: str, sampler_index: int) -> int:
        """Name one unpaused sampler, whatever its state once its restart is over, by id."""
        self.require_idle(what)
        sampler_id = self.states.id_at(sampler_index)
        self.requests.await_restarts([sampler_id], self._start_timeout_s)
        return sampler_id

    # -- asking -----------------------------------------------------------------------------------

    def ask(self, command: Command, ids: Sequence[int], data: Sequence[Any]) -> dict[int, Any]:
        """Give some samplers one command; their answers by id."""
        orders = [(i, command, datum) for i, datum in zip(ids, data, strict=True)]
        return self.ask_each(orders, command)

    def ask_each(
        self, orders: Sequence[tuple[int, Command, Any]], command: Command | None = None
    ) -> dict[int, Any]:
        """Send, wait and unwrap; what is late after the timeout is dropped when it comes."""
        ids = [sampler_id for sampler_id, _, _ in orders]
        requests = self.requests
        requests.send(orders)
        try:
            if command is Command.SETUP:
                requests.wait(ids, self._start_timeout_s, "start_timeout_s")
            else:
                requests.wait(ids, self.read_timeout)
        except BaseException:
            requests.abandon(ids)
            raise
        kinds: Mapping[int, Command] = {sampler_id: kind for sampler_id, kind, _ in orders}
        values = self.results.unwrap(ids, command or kinds, requests.take(ids))
        for sampler_id, kind, datum in orders:
            if kind is Command.SEED:
                self.supervisor.amend_plan(sampler_id, seed=datum)
            elif kind is Command.KEEP_FRAMES:
                self.supervisor.amend_plan(sampler_id, keep_frames=datum)
        return values

    def ask_all(self, what: str, command: Command, data: Sequence[Any] | None = None) -> list[Any]:
        """Give every unpaused sampler one command; their answers in order."""
        ids = list(self.open_all(what, command))
        return self.ask_list(command, ids, [None] * len(ids) if data is None else data)

    def ask_list(self, command: Command, ids: Sequence[int], data: Sequence[Any]) -> list[Any]:
        """Give some samplers one command; their answers in order."""
        values = self.ask(command, ids, data)
        return [values[i] for i in ids]

    def ask_at(self, what: str, sampler_index: int, command: Command, datum: Any) -> Any:
        """Give one unpaused sampler a command; its answer."""
        sampler_id = self.open_at(what, sampler_index, command)
        return self.ask(command, [sampler_id], [datum])[sampler_id]

    def call_all(
        self, what: str, command: Command, names: str | Sequence[str], args_list: Any
    ) -> list[Any]:
        """Call a method of every unpaused sampler or of its task; what each returned."""
        ids = list(self.open_all(what, command))
        names = self.names("function_names", names, ids)
        if args_list is None:
            args_list = [None] * len(ids)
        args_list = one_each("function_args_list", args_list, ids)
        return self.ask_list(command, ids, list(zip(names, args_list, strict=True)))

    def attr_all(self, what: str, names: str | Sequence[str]) -> list[Any]:
        """Ask for an attribute of every unpaused sampler's task."""
        ids = self.open_all(what, Command.ATTR)
        return self.ask_list(Command.ATTR, ids, self.names("attr_names", names, ids))

    def set_attr_all(self, what: str, names: str | Sequence[str], values: Any) -> None:
        """Set an attribute of every unpaused sampler's task; a list has one value for each."""
        ids = self.open_all(what, Command.SET_ATTR)
        names = self.names("attr_names", names, ids)
        if not isinstance(values, list):
            values = [values] * len(ids)
        pairs = list(zip(names, one_each("values", values, ids), strict=True))
        self.ask(Command.SET_ATTR, ids, pairs)

    def seed_all(self, what: str, seeds: int | Sequence[int]) -> None:
        """Seed every unpaused sampler; one int is for all, and each gets it plus its id."""
        ids = self.open_all(what, Command.SEED)
        if isinstance(seeds, (int, np.integer)):
            values = [int(seeds) + i for i in ids]
        else:
            values = [checked_seed(seed) for seed in one_each("seeds", seeds, ids)]
        self.ask(Command.SEED, ids, values)

    def restart_at(self, what: str, sampler_index: int) -> None:
        """Make one unpaused sampler again; kill its worker first where it does something else."""
        sampler_id = self.open_any_at(what, sampler_index)
        if self.states.state_of(sampler_id) is SamplerState.BUSY:
            self.requests.kill_worker_of(sampler_id)
        self.require(Command.SETUP, [sampler_id])
        self.ask(Command.SETUP, [sampler_id], [self.supervisor.next_plan(sampler_id)])

    def names(self, what: str, names: str | Sequence[str], ids: Sequence[int]) -> list[str]:
        """Check one name for all samplers, or one each."""
        if isinstance(names, str):
            return [names] * len(ids)
        return [checked_name(name) for name in one_each(what, names, ids)]
