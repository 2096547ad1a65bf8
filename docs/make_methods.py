"""Makes the table of methods from the code: ``python docs/make_methods.py [--check]``.

Writes ``docs/methods.md`` and the short table in ``README.md``; with ``--check`` it writes nothing
and exits with 1 where one of them is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks

ROOT = Path(__file__).resolve().parent.parent
CLASSES = (VectorSampledTasks, SingleProcessVectorSampledTasks)
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"

PAGE = """\
# Every method

{begin}
Made from the code by `python docs/make_methods.py`. Both classes are one front over two kinds of
worker: they differ in how they are made, and in nothing else.

## Making one

```text
{constructors}
```

Both also take `sampler_fn_args_list` for `sampler_fn_args` and `callback_sensor_suite` for
`callback_sensors`, and every `sampler_index` below may be given as `index_process`.

## Using it

{table}
"""


def members() -> dict[str, tuple[Any, ...]]:
    """Public members by name, in the order of the code: one per class, None where it lacks it."""
    names = [
        name
        for cls in CLASSES
        for base in reversed(cls.__mro__)
        for name in vars(base)
        if not name.startswith("_")
    ]
    return {name: tuple(getattr(cls, name, None) for cls in CLASSES) for name in names}


def call(name: str, member: Any) -> str:
    """Return a member as its users write it, ``step_at(sampler_index, action)`` for instance."""
    if isinstance(member, property):
        return name
    parameters = list(inspect.signature(member).parameters.values())[1:]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return f"{name}{inspect.Signature(bare)}"


def first_line(member: Any) -> str:
    """The first sentence of its docstring, as Markdown."""
    summary = (inspect.getdoc(member) or "").partition("\n\n")[0]
    summary = re.sub(r":(?:meth|class|func):`~?([^`]+)`", r"`\1`", " ".join(summary.split()))
    return summary.replace("``", "`").replace("|", "\\|")


def tick(member: Any) -> str:
    """Tell whether a class has the member."""
    return "no" if member is None else "yes"


def full_table() -> str:
    """A row a member, with its signature; two rows where the classes' signatures differ."""
    rows = [
        "| member | `VectorSampledTasks` | `SingleProcess…` | what it does |",
        "|---|---|---|---|",
    ]
    for name, owners in members().items():
        calls = dict.fromkeys(call(name, member) for member in owners if member is not None)
        for written in calls:
            has = [
                tick(member if member is not None and call(name, member) == written else None)
                for member in owners
            ]
            summary = first_line(next(member for member in owners if member is not None))
            rows.append(f"| `{written}` | {has[0]} | {has[1]} | {summary} |")
    return "\n".join(rows)


def short_table() -> str:
    """A row a member: its name and what it does."""
    rows = ["| member | what it does |", "|---|---|"]
    for name, owners in members().items():
        member = next(member for member in owners if member is not None)
        written = name if isinstance(member, property) else f"{name}()"
        rows.append(f"| `{written}` | {first_line(member)} |")
    return "\n".join(rows)


def constructor(cls: type) -> str:
    """A class's constructor with a parameter a line."""
    parameters = list(inspect.signature(cls).parameters.values())
    lines = []
    for before, parameter in zip([None, *parameters], parameters, strict=False):
        keyword_only = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if keyword_only and (before is None or before.kind is not parameter.kind):
            lines.append("    *,")
        lines.append(f"    {parameter.replace(annotation=inspect.Parameter.empty)},")
    return "\n".join([f"{cls.__name__}(", *lines, ")"])


def wanted() -> dict[Path, str]:
    """Return what each file should hold."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page = PAGE.format(
        begin="<!-- Made by docs/make_methods.py; do not edit. -->",
        constructors="\n\n".join(constructor(cls) for cls in CLASSES),
        table=full_table(),
    )
    return {
        ROOT / "docs" / "methods.md": page,
        readme: f"{before}{BEGIN}\n{short_table()}\n{END}{after}",
    }


def main(arguments: list[str]) -> int:
    """Write the files, or tell which are out of date."""
    stale = [
        (path, text)
        for path, text in wanted().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: run python docs/make_methods.py")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
