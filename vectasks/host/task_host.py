"""Hosts: the one implementation of every command.

A :class:`TaskHost` owns one task sampler and its current task. A :class:`HostGroup` holds the hosts
of one worker, in this process or behind a channel in a child, so that both answer alike. Neither
knows how a request came or a reply leaves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from vectasks._util.step_values import as_flag, as_reward, no_step_result
from vectasks.protocol import (
    IN_PLACE,
    Command,
    Failure,
    Preparation,
    Reply,
    Request,
    StepOutcome,
    TaskStart,
)
from vectasks.spaces import copy_arrays, spaces_equal
from vectasks.task import RLStepResult

__all__ = ["COMPLETE_TASK_CALLBACK_KEY", "COMPLETE_TASK_METRICS_KEY"]

COMPLETE_TASK_METRICS_KEY = "__AFTER_TASK_METRICS__"
"""In the info of the step that ends an episode: what its task's ``metrics()`` gave."""
COMPLETE_TASK_CALLBACK_KEY = "__AFTER_TASK_CALLBACK__"
"""In the same info: what the ``callback_sensors`` gave."""
FRAME, FINAL_FRAME = "frame", "final_frame"
#: In the same info, on its way to the vector: the episode's (return, length), or None where its
#: task does not tell. It says, too, that the next task has not begun.
EPISODE = "__EPISODE__"


_NO_KEYWORDS: Mapping[str, Any] = {}


class HostPlan(NamedTuple):
    """All that a host is made from; it is kept by the front so that a host can be made again.

    Attributes:
        asks_for_next: leave it to the vector to go on when an episode has ended.
        first: how the first task is asked for; its keywords None: there is none.
    """

    make_sampler_fn: Callable[..., Any]
    sampler_fn_args: Mapping[str, Any]
    mp_ctx: Any = None
    callback_sensors: Any = None
    auto_resample_when_done: bool = True
    seed: int | None = None
    keep_frames: str = "none"
    asks_for_next: bool = False
    first: Preparation = Preparation(keywords=_NO_KEYWORDS)


class HostReady(NamedTuple):
    """What a new host tells: its spaces and its first task's first observation.

    The observation is None where there is no first task.
    """

    observation_space: Any
    action_space: Any
    observation: Any
    episodes_are_independent: bool = False
    initial_seed: int | None = None  # where the plan has none, what the sampler drew for itself

    @property
    def start(self) -> TaskStart:
        """Its first task's start."""
        return TaskStart(self.observation, exhausted=self.observation is None)


class TaskHost:
    """One task sampler and its current task.

    Args:
        plan: what to make the sampler from. Whatever the user's code raises passes through.
    """

    def __init__(self, plan: HostPlan) -> None:
        self._auto_resample = plan.auto_resample_when_done
        self._asks_for_next = plan.asks_for_next
        self._callback = _callback(plan.callback_sensors)
        self.keep_frames(plan.keep_frames)
        #: The current task; None where the sampler is exhausted.
        self.task: Any = None
        self._finished: StepOutcome | None = None  # set while a done task waits for its mates
        self._sampler = _make_sampler(plan)
        try:
            initial_seed = getattr(self._sampler, "initial_seed", None)
            if plan.seed is not None:
                self._sampler.set_seed(plan.seed)
            start = self.prepare(plan.first)
            if start.exhausted and plan.first.keywords is not None:
                raise ValueError(
                    "the task sampler had no first task (its next_task() returned None). "
                    "A sampler needs at least one task; leave this one out."
                )
            self.ready: HostReady = HostReady(
                self.observation_space(),
                self.action_space(),
                start.observation,
                bool(getattr(self._sampler, "episodes_are_independent", False)),
                initial_seed,
            )
        except BaseException:
            self.close()
            raise

    # -- the episode ------------------------------------------------------------------------

    def step(self, action: Any, place: Any = None) -> RLStepResult | StepOutcome:
        """Step the task; when it is done, go on to the next one or wait for the other samplers.

        Args:
            action: as the task takes it.
            place: arrays, nested as the observation space, that a task with ``write_observation``
                may write into; the outcome's observation is then ``IN_PLACE``.
        """
        if self._finished is not None:
            return self._finished
        return self.outcome_of(self.task.step(action), place)

    def outcome_of(self, result: Any, place: Any = None) -> RLStepResult | StepOutcome:
        """What comes of a step of the task that gave ``result``; ``place`` as for :meth:`step`."""
        task = self.task
        if (
            type(result) is RLStepResult
            and result[2] is False
            and type(result[1]) is float
            and result[0] is not None
            and not self._keeps_all_frames
        ):
            return result  # nothing to add, as in most steps
        if type(result) is StepOutcome:  # an adapter's environment, which has gone on by itself
            if self._keeps_final_frame:
                result.info[FINAL_FRAME] = copy_arrays(task.render("rgb"))
            reward = result.reward
            return result if type(reward) is float else result._replace(reward=as_reward(reward))
        try:
            observation, reward, done, info = result
        except (TypeError, ValueError):
            raise no_step_result(f"{type(task).__name__}.step", result) from None
        if type(reward) is not float:
            reward = as_reward(reward)
        if done is None:
            done = task.is_done()
        if type(done) is not bool:
            done = as_flag("done", done)
        if done:
            return self._finish(task, observation, reward, info, place)
        if observation is None:
            observation = self._observe_into(place, "step")
        if self._keeps_all_frames and type(info) is dict:
            info = {**info, FRAME: copy_arrays(task.render("rgb"))}
        return RLStepResult(observation, reward, False, info)

    def _observe_into(self, place: Any, method: str) -> Any:
        """The observation of a task that returned None for it, which in-place tasks may do."""
        if not hasattr(self.task, "write_observation"):
            raise _no_observation(self.task, method)
        if place is None:
            return self.observe()
        self.task.write_observation(place)
        return IN_PLACE

    def _finish(
        self, task: Any, observation: Any, reward: Any, info: Any, place: Any
    ) -> StepOutcome:
        if info is not None and not isinstance(info, Mapping):
            raise TypeError(
                f"{type(task).__name__}.step() returned an info of type {type(info).__name__}; "
                "it must be a dict (or None)."
            )
        if observation is None:
            observation = self.observe()
        # Copies: the next task may live in the same arrays, and the task's own dict stays its own.
        observation = copy_arrays(observation, with_objects=True)
        info = (
            copy_arrays(info if type(info) is dict else dict(info), with_objects=True)
            if info
            else {}
        )
        terminated, truncated = _end_flags(task, info)
        metrics = task.metrics() if hasattr(task, "metrics") else None
        if metrics is not None and len(metrics) > 0:
            info[COMPLETE_TASK_METRICS_KEY] = copy_arrays(metrics, with_objects=True)
        if self._callback is not None:
            info[COMPLETE_TASK_CALLBACK_KEY] = copy_arrays(self._callback(task), with_objects=True)
        if self._keeps_final_frame:
            info[FINAL_FRAME] = copy_arrays(task.render("rgb"))
        if self._asks_for_next:
            info[EPISODE] = _return_and_length(task)
        if not self._auto_resample:
            self._finished = StepOutcome(
                observation, 0.0, True, {"waiting": True}, terminated, truncated, False
            )
            return self._finished._replace(reward=reward, info=info)
        info["final_observation"] = observation
        if self._asks_for_next:  # the next task's first observation will stand there
            return StepOutcome(IN_PLACE, reward, True, info, terminated, truncated, False)
        start = self.next_task(place=place)
        return StepOutcome(
            start.observation, reward, True, info, terminated, truncated, start.exhausted
        )

    def next_task(self, arguments: Mapping[str, Any] | None = None, place: Any = None) -> TaskStart:
        """Go on to the sampler's next task; exhausted where there is none."""
        task = self._sampler.next_task(**(arguments or {}))
        self._finished = None
        self.task = task
        if task is None:
            return TaskStart(None, exhausted=True)
        if place is not None and hasattr(task, "write_observation"):
            return TaskStart(self._observe_into(place, "write_observation"), exhausted=False)
        return TaskStart(self.observe(), exhausted=False)

    def prepare(self, preparation: Preparation) -> TaskStart:
        """Go on to the next task, after other commands; exhausted where there is none."""
        for command, data, times in preparation.first:
            for _ in range(times):
                if command is Command.NEXT_TASK:
                    self.pass_over(data)
                elif command is Command.RESET:  # its first task is among what follows
                    self._sampler.reset()
                else:
                    self.METHODS[command](self, data)
        if preparation.keywords is None:
            self._finished = self.task = None
            return TaskStart(None, exhausted=True)
        if preparation.keywords:
            _require_keywords(self._sampler, preparation.keywords)
        return self.next_task(preparation.keywords)

    def observe(self, _: None = None) -> Any:
        """The current task's observation; None where the sampler is exhausted."""
        if self.task is None:
            return None
        observation = self.task.get_observations()
        if observation is None:
            raise _no_observation(self.task, "get_observations")
        return observation

    def reset(self, preparation: Preparation | None = None) -> TaskStart:
        """Reset the sampler (not its random state) and sample its first task."""
        self._sampler.reset()
        return self.next_task() if preparation is None else self.prepare(preparation)

    def seed(self, seed: int) -> None:
        """Seed the tasks that are sampled from now on."""
        self._sampler.set_seed(seed)

    def pass_over(self, arguments: Mapping[str, Any] | None = None) -> None:
        """Leave the sampler's next task out, as if its episode had been played."""
        skip = getattr(self._sampler, "skip_task", self._sampler.next_task)
        skip(**(arguments or {}))

    # -- looking and reaching into the task and the sampler ------------------------------------

    @property
    def sampler(self) -> Any:
        """The sampler."""
        return self._sampler

    def render(self, arguments: tuple[Sequence[Any], Mapping[str, Any]] | None = None) -> Any:
        """The task's image."""
        args, kwargs = arguments if arguments is not None else ((), {})
        if not args and "mode" not in kwargs:
            args = ("rgb",)
        return self.task.render(*args, **kwargs)

    def call(self, name_and_args: Any) -> Any:
        """Call a method of the task by name."""
        return _call(self.task, name_and_args)

    def attr(self, name: str) -> Any:
        """An attribute of the task."""
        return getattr(self.task, name)

    def set_attr(self, name_and_value: tuple[str, Any]) -> None:
        """Set an attribute of the task."""
        setattr(self.task, *name_and_value)

    def call_sampler(self, name_and_args: Any) -> Any:
        """Call a method of the sampler by name."""
        return _call(self._sampler, name_and_args)

    def sampler_attr(self, name: str) -> Any:
        """An attribute of the sampler."""
        return getattr(self._sampler, name)

    def observation_space(self, _: None = None) -> Any:
        """The task's observation space, or else the sampler's, or else None."""
        return self._space("observation_space")

    def action_space(self, _: None = None) -> Any:
        """The task's action space, or else the sampler's, or else None."""
        return self._space("action_space")

    def _space(self, name: str) -> Any:
        space = getattr(self.task, name, None)
        return getattr(self._sampler, name, None) if space is None else space

    def keep_frames(self, which: str) -> None:
        """Say which steps bring the task's image along, which saves asking for it.

        Args:
            which: "none"; "final": the step that ends an episode brings ``info["final_frame"]``;
                "all": every other step brings ``info["frame"]`` besides, where its info is a dict.
        """
        if which not in ("none", "final", "all"):
            raise ValueError(f"keep_frames: {which!r} is unknown; use 'none', 'final' or 'all'.")
        self._keeps_final_frame = which != "none"
        self._keeps_all_frames = which == "all"
        #: Whether nothing is added to what a step of the task gave that ended no episode.
        self.is_plain: bool = self._auto_resample and not self._keeps_all_frames

    def close(self) -> list[Failure]:
        """Close the task and the sampler; what either raises is returned, not raised."""
        failures = []
        for closable in (self.task, self._sampler):
            try:
                if closable is not None and hasattr(closable, "close"):
                    closable.close()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # user code; sys.exit() ends nothing that is ending
                failures.append(Failure.of(error))
        self.task = None
        return failures

    METHODS: ClassVar[dict[Command, Callable[[TaskHost, Any], Any]]] = {
        Command.STEP: step,
        Command.NEXT_TASK: next_task,
        Command.OBSERVE: observe,
        Command.RENDER: render,
        Command.CALL: call,
        Command.ATTR: attr,
        Command.SET_ATTR: set_attr,
        Command.CALL_SAMPLER: call_sampler,
        Command.SAMPLER_ATTR: sampler_attr,
        Command.OBSERVATION_SPACE: observation_space,
        Command.ACTION_SPACE: action_space,
        Command.RESET: reset,
        Command.SEED: seed,
        Command.KEEP_FRAMES: keep_frames,
        Command.PREPARE: prepare,
    }


class HostGroup:
    """The hosts of one worker, by sampler id."""

    def __init__(self) -> None:
        self.hosts: dict[int, TaskHost] = {}

    def execute(self, request: Request) -> Reply:
        """Carry out one request. What the user's code raises comes back as a Failure.

        KeyboardInterrupt and SystemExit pass through: they ask for the end of the program.
        """
        try:
            if request.command is Command.SETUP:
                value: Any = self._set_up(request.sampler_id, request.data)
            else:
                host = self.hosts.get(request.sampler_id)
                if host is None:
                    raise RuntimeError("this sampler could not be made; try restart_at().")
                value = TaskHost.METHODS[request.command](host, request.data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # user code: whatever else it raises is an answer
            value = Failure.of(error)
        return Reply(request.seq, request.sampler_id, value)

    def step(
        self, sampler_id: int, action: Any, place: Any = None
    ) -> RLStepResult | StepOutcome | Failure:
        """Step one host; the step transport's way to what ``execute`` does for a STEP request."""
        try:
            return self.hosts[sampler_id].step(action, place)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # user code
            return Failure.of(error)

    def outcome_of(
        self, sampler_id: int, result: Any, place: Any = None
    ) -> RLStepResult | StepOutcome | Failure:
        """Tell what comes of a step of a host's task that gave ``result``."""
        try:
            return self.hosts[sampler_id].outcome_of(result, place)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # user code
            return Failure.of(error)

    def timed_step(
        self, sampler_id: int, action: Any, place: Any = None
    ) -> RLStepResult | StepOutcome | Failure:
        """Step one host; how long that takes is recorded where there is a recorder, not here."""
        return self.step(sampler_id, action, place)

    def end_steps(self) -> None:
        """Called when all that timed steps gave has been written, before it is announced."""

    def _set_up(self, sampler_id: int, plan: HostPlan) -> HostReady:
        if sampler_id in self.hosts:
            self.hosts.pop(sampler_id).close()
        host = self.hosts[sampler_id] = TaskHost(plan)
        return _share_spaces(host.ready, (other.ready for other in self.hosts.values()))

    def close(self) -> list[tuple[int, Failure]]:
        """Close every host; what their tasks and samplers raised, with the sampler's id."""
        failures = [
            (sampler_id, failure)
            for sampler_id, host in self.hosts.items()
            for failure in host.close()
        ]
        self.hosts.clear()
        return failures


def _share_spaces(ready: HostReady, others: Iterable[HostReady]) -> HostReady:
    """Name the mates' equal spaces instead of own ones: they are large and so travel once."""
    for other in others:
        if spaces_equal(ready.observation_space, other.observation_space) and spaces_equal(
            ready.action_space, other.action_space
        ):
            return ready._replace(
                observation_space=other.observation_space, action_space=other.action_space
            )
    return ready


def _make_sampler(plan: HostPlan) -> Any:
    arguments = dict(plan.sampler_fn_args)
    if "mp_ctx" not in arguments and takes(plan.make_sampler_fn, "mp_ctx"):
        arguments["mp_ctx"] = plan.mp_ctx
    return plan.make_sampler_fn(**arguments)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function names such a parameter; ``**kwargs`` alone does not ask for it."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins and some extension types tell no signature
        return False


def _require_keywords(sampler: Any, keywords: Mapping[str, Any]) -> None:
    """Refuse keywords of a task source that the sampler's ``next_task`` does not take.

    Raises:
        TypeError: it does not.
    """
    try:
        signature = inspect.signature(sampler.next_task)
    except (TypeError, ValueError):  # it tells no signature
        return
    try:
        signature.bind(**keywords)
    except TypeError as error:
        names = ", ".join(map(repr, keywords))
        raise TypeError(
            f"{type(sampler).__name__}.next_task{signature} cannot be asked for what the task "
            f"source gave, which has the keywords {names}: {error}. Write a next_task that takes "
            "them."
        ) from None


def _callback(sensors: Any) -> Callable[[Any], Any] | None:
    if sensors is None:
        return None
    if hasattr(sensors, "get_observations"):
        return lambda task: sensors.get_observations(env=task.env, task=task)
    return lambda task: {
        sensor.uuid: sensor.get_observation(env=task.env, task=task) for sensor in sensors
    }


def _call(target: Any, name_and_args: Any) -> Any:
    name, args = (name_and_args, None) if isinstance(name_and_args, str) else name_and_args
    function = getattr(target, name)
    if not callable(function):
        raise TypeError(
            f"{type(target).__name__}.{name} is not callable (it is a {type(function).__name__}); "
            "read it with attr() or sampler_attr."
        )
    if args is None:
        return function()
    if isinstance(args, dict):
        return function(**args)
    if isinstance(args, (list, tuple)):
        return function(*args)
    return function(args)


def _end_flags(task: Any, info: Mapping[str, Any]) -> tuple[bool, bool]:
    """(terminated, truncated) of an episode that has just ended."""
    if "truncated" in info or "TimeLimit.truncated" in info:
        truncated = bool(info.get("truncated")) or bool(info.get("TimeLimit.truncated"))
    else:
        truncated = bool(_ask(task, "reached_max_steps")) and not _ask(
            task, "reached_terminal_state"
        )
    terminated = bool(info["terminated"]) if "terminated" in info else not truncated
    return terminated, truncated


def _return_and_length(task: Any) -> tuple[Any, int] | None:
    """An episode's sum of rewards and number of steps, where its task tells; None: it does not."""
    if not hasattr(task, "cumulative_reward") or not hasattr(task, "num_steps_taken"):
        return None
    return copy_arrays(task.cumulative_reward), int(task.num_steps_taken())


def _ask(task: Any, name: str) -> bool:
    method = getattr(task, name, None)
    return bool(method()) if method is not None else False


def _no_observation(task: Any, method: str) -> ValueError:
    return ValueError(
        f"{type(task).__name__}.{method}() gave None as observation; return an observation that "
        "fits the task's observation_space."
    )
