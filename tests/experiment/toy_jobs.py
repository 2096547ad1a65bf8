"""Tasks of the tests, which their jobs import; and how tests and jobs wait for each other.

A named pipe is a meeting: whoever opens one end waits for the other.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from vectasks.experiment import (
    Config,
    Constant,
    Meta,
    Param,
    SubmitHook,
    Task,
    cache,
    field,
    pathgenerator,
)


def count(path: Path) -> int:
    """Count how often something was written down."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def write_down(path: Path, text: str = "once") -> None:
    with path.open("a") as file:
        file.write(f"{text}\n")


class Say(Task):
    word: Param[str]

    def execute(self) -> None:
        print(self.word.upper())


class Keep(Task):
    """Says who it is, once it was read from its folder."""

    values: Param[list[Any]]

    def execute(self) -> None:
        print(Keep(values=self.values).identifier)


class Concat(Task):
    parts: Param[list[Say]]

    def execute(self) -> None:
        print(" ".join(part.job.stdout.read_text().strip() for part in self.parts))


class Count(Task):
    """Writes down that it was executed."""

    executions: Meta[Path]
    x: Param[int] = 0
    after: Param[Task | None] = None

    def execute(self) -> None:
        write_down(self.executions, f"{self.x}")


class Fail(Task):
    x: Param[int] = 0
    unless: Meta[Path | None] = None

    def execute(self) -> None:
        print("before")
        if self.unless is None or not self.unless.exists():
            raise RuntimeError(f"x is {self.x}")


class After(Task):
    """Depends on any number of tasks."""

    tasks: Param[list[Task]]

    def execute(self) -> None:
        print("after")


class Held(Task):
    """Says that it has begun, and ends when it is told to."""

    begun: Meta[Path]
    go: Meta[Path]
    executions: Meta[Path | None] = None
    cleaned: Meta[Path | None] = None
    x: Param[int] = 0

    def execute(self) -> None:
        if self.executions is not None:
            write_down(self.executions)
        try:
            self.begun.write_text(str(os.getpid()))
            if self.go.read_text() == "fail":
                raise RuntimeError("told to fail")
        finally:
            if self.cleaned is not None:
                self.cleaned.write_text("cleaned up")


class Hangs(Task):
    """Never ends, the first times that it is executed."""

    executions: Meta[Path]
    times: Param[int]

    def execute(self) -> None:
        write_down(self.executions)
        print("execution", count(self.executions))
        if count(self.executions) <= self.times:
            threading.Event().wait()


class Stubborn(Task):
    """Does not let itself be unwound."""

    def execute(self) -> None:
        while True:
            try:
                threading.Event().wait()
            except SystemExit:
                print("no", flush=True)


class Leaves(Task):
    """Returns, or raises, while something that Python waits for goes on."""

    what: Param[str]
    begun: Meta[Path | None] = None
    go: Meta[Path | None] = None
    fails: Param[bool] = False

    def execute(self) -> None:
        self.ready, self.has_begun = os.pipe()
        if self.what == "process":
            context = multiprocessing.get_context("fork")
            context.Process(target=self.go_on, name="worker").start()
        elif self.what == "exit":
            atexit.register(self.go_on)
        elif self.what == "pool":
            ThreadPoolExecutor(1).submit(self.go_on)
        else:
            threading.Thread(target=self.go_on, name="writer", daemon=self.what == "daemon").start()
        if self.what not in ("exit", "after"):
            os.read(self.ready, 1)
        print("executed", flush=True)
        if self.fails:
            raise RuntimeError("but left something")

    def go_on(self) -> None:
        if self.what == "after":  # execute() has returned
            threading.main_thread().join()
        if self.begun is not None:
            self.begun.write_text(str(os.getpid()))
        os.write(self.has_begun, b".")
        if self.go is not None:
            print(self.go.read_text(), flush=True)
        else:
            threading.Event().wait()


class Exits(Task):
    code: Param[int]

    def execute(self) -> None:
        raise SystemExit(self.code)


class SwallowsStop(Task):
    """Ends as if nothing had happened when it is stopped."""

    begun: Meta[Path]

    def execute(self) -> None:
        try:
            self.begun.write_text("begun")
            threading.Event().wait()
        except SystemExit:
            pass


# -- configs ----------------------------------------------------------------------------------


class Color(Enum):
    RED = 1
    BLUE = 2


class Optimizer(Config):
    lr: Param[float]
    betas: Param[tuple[float, float]] = (0.9, 0.999)
    note: Meta[str] = ""


class Everything(Config):
    """A parameter of each kind."""

    number: Param[int]
    real: Param[float]
    flag: Param[bool]
    text: Param[str]
    color: Param[Color]
    path: Param[Path]
    optimizer: Param[Optimizer]
    table: Param[dict[str, list[int]]]
    array: Param[Any]
    maybe: Param[int | None] = None
    version: Constant[int] = 1
    device: Meta[str] = "cpu"


class Index(Config):
    """Writes a file, wherever it is a part."""

    entries: Param[list[int]] = field(default_factory=list)
    file: Annotated[Path, pathgenerator("sub/index.json")]


class Build(Task):
    index: Param[Index]
    model: Annotated[Path, pathgenerator("model.pt")]

    def execute(self) -> None:
        self.index.file.write_text(json.dumps(self.index.entries))
        self.model.write_text("model")
        places = [self.__taskdir__, self.__maintaskdir__, self.index.__maintaskdir__, Path.cwd()]
        print(json.dumps([str(place) for place in places]))


# -- outputs ----------------------------------------------------------------------------------


class Topics(Config):
    path: Meta[Path]


class Documents(Config):
    name: Param[str]


class Dataset(Config):
    topics: Param[Topics]
    documents: Param[Documents]


class Fold(Task):
    """Puts out a data set whose topics it makes, and whose documents it does not."""

    documents: Param[Documents]
    seed: Param[int]
    topics: Annotated[Path, pathgenerator("topics.tsv")]

    def task_outputs(self, dep: Any) -> Dataset:
        return Dataset(topics=dep(Topics(path=self.topics)), documents=self.documents)

    def execute(self) -> None:
        self.topics.write_text(f"topics {self.seed}")


class Read(Task):
    config: Param[Config]

    def execute(self) -> None:
        if isinstance(self.config, Topics):
            print(self.config.path.read_text(), self.config.__taskdir__.parent.name)


# -- what a job finds -------------------------------------------------------------------------


class ShowTags(Task):
    of: Param[Task | None] = None
    lr: Param[float] = 0.0

    def execute(self) -> None:
        print(json.dumps([self.__tags__, self.identifier]))


class Variable(SubmitHook):
    """Sets a variable, and counts how often it did."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def spec(self) -> str:
        return self.name

    def process(self, job: Any, launcher: Any) -> None:
        job.environ[self.name] = job.environ.get(self.name, "") + self.value


@Variable("TOY_CONFIG", "config")
class HookedConfig(Config):
    pass


@Variable("TOY_TASK", "task")
class Hooked(Task):
    config: Param[HookedConfig]
    more: Param[list[HookedConfig]] = field(default_factory=list)

    def execute(self) -> None:
        names = ("TOY_CONFIG", "TOY_TASK", "TOY_LAUNCHER")
        print(*(os.environ.get(name) for name in names))


class Table(Config):
    """Caches what it makes."""

    name: Param[str]
    made: Meta[Path]
    fails: Meta[Path | None] = None

    @cache("table.txt")
    def text(self, path: Path) -> str:
        if not path.exists():
            path.write_text("half")
            if self.fails is not None and self.fails.exists():
                raise OSError("no space left")
            write_down(self.made)
            path.write_text(f"table of {self.name}")
        return path.read_text()


class UseTable(Task):
    table: Param[Table]
    x: Param[int]
    begun: Meta[Path]
    go: Meta[Path]

    def execute(self) -> None:
        self.begun.write_text("begun")
        self.go.read_text()
        print(self.table.text())


class Numbers(Config):
    """Caches by arguments; writes down what it computes."""

    made: Meta[Path]

    def _kept(self, path: Path, what: str) -> str:
        if not path.exists():
            write_down(self.made, what)
            path.write_text(what)
        return path.read_text()

    @cache("numbers.txt")
    def scaled(self, path: Path, by: Any = 1, *more: Any, shift: Any = 0, **rest: Any) -> str:
        return self._kept(path, f"{by} {more} {shift} {sorted(rest.items())}")

    @cache("numbers.txt")
    def sums(self, path: Path) -> str:
        return self._kept(path, f"sums of {self.scaled(2)}")

    @cache("numbers.txt")
    def factorial(self, path: Path, n: int) -> str:
        return self._kept(path, str(n * int(self.factorial(n - 1)) if n else 1))

    @cache("whole.txt")
    def whole(self, path: Path) -> str:
        if path.exists():
            return path.read_text()
        path.write_text("in the making")
        return self._kept(path, self.whole())

    @property
    @cache("numbers.txt")
    def size(self, path: Path) -> str:
        return self._kept(path, "size")


class MoreNumbers(Numbers):
    @cache("numbers.txt")
    def sums(self, path: Path) -> str:
        return self._kept(path, f"more than {super().sums()}")


class Circle(Config):
    """Two methods that call each other; the first calls of both are made at once."""

    made: Meta[Path]
    both: ClassVar[threading.Barrier] = threading.Barrier(2)

    def _kept(self, path: Path, what: str, ask: Any) -> str:
        if not path.exists():
            path.write_text(what)
            if count(self.made) < 2:
                write_down(self.made)
                self.both.wait(30)
            path.write_text(what + ask())
        return path.read_text()

    @cache("one.txt")
    def one(self, path: Path) -> str:
        return self._kept(path, "one", self.other)

    @cache("other.txt")
    def other(self, path: Path) -> str:
        return self._kept(path, "other", self.one)


class Nested(Task):
    """Submits where it must not."""

    def execute(self) -> None:
        Say(word="no").submit()
