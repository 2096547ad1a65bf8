"""``make_sampler_fn`` as anything callable; scripts without a guard; Gymnasium registrations."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import vectasks
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler


class Factory:
    """Its bound method makes samplers; it travels by value."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def make(self, sampler: int) -> ToySampler:
        return ToySampler(CountingTask, sampler, max_steps=self.max_steps)

    def __call__(self, sampler: int) -> ToySampler:
        return self.make(sampler)


@pytest.fixture(autouse=True, scope="module")
def _travel_by_value() -> Any:
    """Children cannot import this module, as they could not import a notebook."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def makers() -> dict[str, Any]:
    max_steps = 6

    def closure(sampler: int) -> ToySampler:
        return ToySampler(CountingTask, sampler, max_steps=max_steps)

    return {
        "class": Factory(6),
        "lambda": lambda sampler: ToySampler(CountingTask, sampler, max_steps=6),
        "closure": closure,
        "partial": functools.partial(ToySampler, CountingTask, max_steps=6),
        "bound method": Factory(6).make,
    }


@pytest.mark.parametrize("name", sorted(makers()))
def test_any_callable(every_kind: Any, name: str) -> None:
    arguments = [{"sampler": i} for i in range(3)]
    with every_kind.make(makers()[name], arguments) as tasks:
        assert tasks.call("counts") == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
        assert tasks.attr("max_steps") == [6] * 3


def test_a_class_in_a_function_names_globals_in_its_body(every_kind: Any) -> None:
    def make(sampler: int) -> Any:
        class Task(CountingTask):
            actions = gymnasium.spaces.Discrete(7)

        return ToySampler(Task, sampler)

    with every_kind.make(make, [{"sampler": i} for i in range(2)]) as tasks:
        assert [space.n for space in tasks.action_spaces] == [7, 7]


@pytest.mark.guarantee("arguments-unchanged")
def test_argument_dicts_are_not_changed(every_kind: Any) -> None:
    def make(**kwargs: Any) -> ToySampler:
        options = dict(kwargs)
        kwargs["mine"].append("changed")
        kwargs.clear()
        return ToySampler(CountingTask, options["sampler"])

    arguments = [{"sampler": i, "mine": []} for i in range(3)]
    with every_kind.make(make, arguments) as tasks:
        tasks.step([0] * 3)
        assert [set(a) for a in arguments] == [{"sampler", "mine"}] * 3
    if not every_kind.is_in_process:
        assert arguments == [{"sampler": i, "mine": []} for i in range(3)]


def test_one_dict_for_all_samplers(every_kind: Any) -> None:
    with every_kind.make(ToySampler, [{"task_class": CountingTask}] * 3) as tasks:
        tasks.step([1, 2, 3])
        assert tasks.call("counts") == [(0, 0, 1)] * 3


def test_mp_ctx_is_given_to_functions_that_take_it(every_kind: Any) -> None:
    arguments = toy_args(CountingTask, 2)  # ToySampler takes mp_ctx
    with every_kind.make(ToySampler, arguments) as tasks:
        given = tasks.call_sampler("__getattribute__", [["mp_ctx"]] * 2)
        if every_kind.is_in_process:
            assert given == [None, None]
        else:
            assert [ctx.get_start_method() for ctx in given] == [every_kind.start_method] * 2
    assert all("mp_ctx" not in a for a in arguments)
    with every_kind.make(lambda sampler: ToySampler(CountingTask, sampler), [{"sampler": 0}]):
        pass  # it takes none, and gets none


def test_mp_ctx_given_by_the_caller_stays(make: Any, kind: Any) -> None:
    with kind.make(ToySampler, [{"task_class": CountingTask, "mp_ctx": "mine"}]) as tasks:
        assert tasks.command("sampler_attr", ["mp_ctx"]) == ["mine"]


# -- Gymnasium registrations -----------------------------------------------------------------------


class CornerEnv(gymnasium.Env[Any, Any]):
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.ones(2, np.float32), 1.0, False, False, {}


class RegistrySampler(ToySampler):
    def made(self) -> Any:
        env = gymnasium.make("vectasks-tests/Corner-v0")
        return type(env.unwrapped).__name__, env.spec.max_episode_steps


def test_registrations_of_the_parent_are_known_in_workers(every_kind: Any) -> None:
    with every_kind.toys(count=1):
        pass  # a forkserver that runs already when the registration comes
    gymnasium.register(
        "vectasks-tests/Corner-v0", entry_point=lambda: CornerEnv(), max_episode_steps=17
    )
    try:
        with every_kind.make(RegistrySampler, toy_args(CountingTask, 2)) as tasks:
            assert tasks.call_sampler("made") == [("CornerEnv", 17)] * 2
    finally:
        del gymnasium.registry["vectasks-tests/Corner-v0"]


# -- scripts -------------------------------------------------------------------------------------

SCRIPT = """
    import functools
    import sys
    import gymnasium
    import numpy as np
    print("script runs", flush=True)
    from vectasks import RLStepResult, Task, TaskSampler, VectorSampledTasks
    import {heavy}

    LENGTH = 3

    class MainTask(Task):
        action_space = gymnasium.spaces.Discrete(2)
        def _step(self, action):
            return RLStepResult(self.get_observations(), LENGTH + action, False, {{}})
        def get_observations(self):
            return np.array([self.num_steps_taken()])
        def modules(self):
            return [name for name in ("torch", "cv2", "av", "rich") if name in sys.modules]

    class MainSampler(TaskSampler):
        def next_task(self):
            return MainTask(None, max_steps=LENGTH)

    def make(scale):
        return MainSampler()

    def forward(scale):
        return make(scale)

    for function in (make, forward, lambda scale: make(scale), functools.partial(make)):
        tasks = VectorSampledTasks(
            function, [{{"scale": 1}}] * 2, multiprocessing_start_method={method!r}, {options}
        )
        results = [tasks.step([0, 1]) for _ in range(3)][-1]
        print([r.reward for r in results], [r.done for r in results], tasks.call("modules"))
        tasks.close()
"""


def run(arguments: list[str], cwd: Path, text: str | None = None) -> list[str]:
    root = str(Path(vectasks.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def script(method: str, heavy: str = "json", options: str = "") -> str:
    return textwrap.dedent(SCRIPT.format(method=method, heavy=heavy, options=options))


EXPECTED = "[3.0, 4.0] [True, True] [[], []]"


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_script_without_a_guard(tmp_path: Path, method: str) -> None:
    (tmp_path / "script.py").write_text(script(method))
    assert run(["script.py"], tmp_path) == ["script runs", *[EXPECTED] * 4]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("way", ["-c", "-", "-m"])
def test_main_without_a_file(tmp_path: Path, method: str, way: str) -> None:
    code = script(method)
    if way == "-c":
        lines = run(["-c", code], tmp_path)
    elif way == "-":
        lines = run(["-"], tmp_path, code)
    else:
        (tmp_path / "mainmodule.py").write_text(code)
        lines = run(["-m", "mainmodule"], tmp_path)
    assert lines == ["script runs", *[EXPECTED] * 4]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_the_script_imports_is_not_dragged_in(tmp_path: Path, method: str) -> None:
    pytest.importorskip("torch")
    (tmp_path / "script.py").write_text(script(method, heavy="torch"))
    assert run(["script.py"], tmp_path) == ["script runs", *[EXPECTED] * 4]


def test_rerun_main_gives_cpythons_way_back(tmp_path: Path) -> None:
    code = """
        import os
        print("script runs", flush=True)
        from vectasks import VectorSampledTasks
        from vectasks.testing.toys import CountingTask, ToySampler, toy_args
        if __name__ == "__main__":
            with VectorSampledTasks(
                ToySampler, toy_args(CountingTask, 2), rerun_main=True,
                multiprocessing_start_method="spawn",
            ) as tasks:
                print(tasks.call("counts"))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    lines = run(["script.py"], tmp_path)
    assert "".join(lines).count("script runs") == 3  # the workers' lines may run into each other
    assert "[(0, 0, 0), (1, 0, 0)]" in lines


def test_preload_reaches_the_forkserver(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text("import os\nHOME = os.getpid()\n")
    code = """
        import os, sys
        from vectasks import VectorSampledTasks
        from vectasks.testing.toys import CountingTask, ToySampler
        class Sampler(ToySampler):
            def home(self):
                return sys.modules["preloaded"].HOME != os.getpid()
        with VectorSampledTasks(
            Sampler, [{"task_class": CountingTask}] * 2, preload=["preloaded"]
        ) as tasks:
            print(tasks.call_sampler("home"))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    assert run(["script.py"], tmp_path) == ["[True, True]"]


def test_exit_without_close_is_quiet(tmp_path: Path) -> None:
    code = """
        from vectasks import VectorSampledTasks
        from vectasks.testing.toys import CountingTask, ToySampler, toy_args
        tasks = VectorSampledTasks(ToySampler, toy_args(CountingTask, 2, marks="."))
        tasks.async_step([0, 0])
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    assert run(["script.py"], tmp_path) == []
    assert {"task 0", "task 1", "sampler 0", "sampler 1"} <= {p.name for p in tmp_path.iterdir()}
