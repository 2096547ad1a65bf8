"""Configs: what they take, what they refuse, and what makes two of them the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from toy_jobs import (
    Build,
    Color,
    Concat,
    Count,
    Dataset,
    Documents,
    Everything,
    Index,
    Optimizer,
    Say,
    Table,
    Topics,
)

from vectasks import InvalidArgument, NoExperiment
from vectasks.experiment import Config, Constant, Meta, Param, Task, field, pathgenerator, tag


def everything(**changes: Any) -> Everything:
    values: dict[str, Any] = {
        "number": 3,
        "real": 0.1,
        "flag": True,
        "text": "ä\n",
        "color": Color.RED,
        "path": Path("data/x"),
        "optimizer": Optimizer(lr=1e-3),
        "table": {"a": [1, 2], "b": []},
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    }
    return Everything(**{**values, **changes})


# -- identifiers ------------------------------------------------------------------------------

# These may never change: who updates vectasks would have to run all jobs again.
GOLDEN = {
    "everything": "1cb08295374229e197e841a52c6e7730",
    "optimizer": "9525d38cf9b56b135e2eaa0140d190b8",
    "say": "aadcd1d0523088ed8ccaa19537e9a86a",
    "array": "724c022b0b7d833f26452e1fbb2490b7",
}


def golden_configs() -> dict[str, Config]:
    return {
        "everything": everything(),
        "optimizer": Optimizer(lr=1e-3),
        "say": Say(word="hello"),
        "array": everything(array=np.array([[1, 2], [3, 4]], dtype=">i8")),
    }


@pytest.mark.guarantee("identifiers")
@pytest.mark.parametrize("name", GOLDEN)
def test_identifiers_have_the_values_that_they_always_had(name):
    assert golden_configs()[name].identifier == GOLDEN[name]


@pytest.mark.guarantee("identifiers")
def test_identifiers_are_the_same_in_another_process():
    script = (
        "import test_config\n"
        "for config in test_config.golden_configs().values(): print(config.identifier)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [config.identifier for config in golden_configs().values()]


@pytest.mark.guarantee("identifiers")
def test_identifier_ignores_the_order_of_arguments_and_of_keys():
    values = {"number": 1, "real": 2.0, "flag": False, "text": "", "color": Color.BLUE}
    rest = {"path": Path(), "optimizer": Optimizer(lr=1.0), "array": None}
    one = Everything(**values, **rest, table={"a": [1], "b": [2]})
    other = Everything(table={"b": [2], "a": [1]}, **rest, **dict(reversed(values.items())))
    assert one.identifier == other.identifier


def test_identifier_ignores_meta_and_tags():
    assert everything(device="cuda").identifier == everything().identifier
    assert everything(number=tag(3)).tag("note", "x").identifier == everything().identifier
    noted = Optimizer(lr=1e-3, note="a part's meta")
    assert everything(optimizer=noted).identifier == everything().identifier


@pytest.mark.guarantee("identifiers")
def test_identifier_differs_for_any_value():
    changes: list[dict[str, Any]] = [
        {"number": 4},
        {"real": 0.1 + 2**-55},
        {"real": float("nan")},
        {"flag": False},
        {"text": "ä"},
        {"color": Color.BLUE},
        {"path": Path("data/y")},
        {"optimizer": Optimizer(lr=2e-3)},
        {"optimizer": Optimizer(lr=1e-3, betas=(0.9, 0.99))},
        {"table": {"a": [2, 1], "b": []}},
        {"table": {"a": [1, 2]}},
        {"array": np.arange(6, dtype=np.float64).reshape(2, 3)},
        {"array": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"array": np.arange(1, 7, dtype=np.float32).reshape(2, 3)},
        {"array": [0, 1]},
        {"array": (0, 1)},
        {"array": None},
        {"array": 1},
        {"array": True},
        {"array": 1.0},
        {"array": "1"},
        {"array": b"1"},
        {"array": ["path", "1"]},
        {"array": Path("1")},
        {"array": {1: "a"}},
        {"array": {"1": "a"}},
        {"array": {1}},
        {"maybe": 0},
    ]
    identifiers = {everything(**change).identifier: change for change in [{}, *changes]}
    assert len(identifiers) == len(changes) + 1, identifiers


class Measured(np.ndarray):
    pass


def measured(values: Any, **attributes: Any) -> Measured:
    array: Measured = np.array(values).view(Measured)
    vars(array).update(attributes)
    return array


def test_identifier_differs_for_any_value_of_numpys():
    pair, swapped = [("a", "<i4"), ("b", "<f4")], [("b", "<i4"), ("a", "<f4")]
    values: list[Any] = [
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, [("b", "i4")]),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, [("a", "i4", 1)]),
        np.zeros(2, "V4"),
        np.zeros(2, [("a", [("b", "i4")])]),
        np.zeros(2, [("a", [("c", "i4")])]),
        np.zeros(2, pair),
        np.zeros(2, swapped),
        np.zeros(1, pair),
        np.array([(0, 1.0), (0, 0.0)], pair),
        np.zeros((), pair)[()],
        np.zeros((), swapped)[()],
        np.zeros((), pair),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "M8[ms]"),
        np.zeros(2, "m8[s]"),
        np.zeros(2, "i8"),
        *(np.datetime64(5, "ns"), np.datetime64(5, "s"), np.datetime64("NaT", "s")),
        *(np.timedelta64(5, "ns"), np.timedelta64(5, "s"), np.timedelta64(5, "Y"), 5),
        *(np.longdouble(5), np.longdouble(5) + np.longdouble(2) ** -60, np.clongdouble(5), 5.0),
        *(5 + 0j, complex(5, -0.0), complex(5, float("nan"))),
        *(0.0, -0.0, np.array(0.0), np.array(-0.0)),
        np.ma.array([1, 2], mask=[False, False]),
        np.ma.array([1, 2], mask=[False, True]),
        np.ma.array([1, 3], mask=[False, False]),
        np.ma.array([1, 2], mask=[False, True], fill_value=7),
        np.ma.masked,
        np.array([[1, 2]]).view(np.matrix),
        *(np.array([[1, 2]]), np.array([[1], [2]])),
        *(
            measured([1, 2]),
            measured([1, 2], unit="m"),
            measured([1, 2], unit="s"),
            np.array([1, 2]),
        ),
    ]
    forms = [everything(array=value).identifier for value in values]
    alike = [
        (values[i], values[forms.index(form)])
        for i, form in enumerate(forms)
        if forms.index(form) != i
    ]
    assert not alike
    assert len(set(forms)) == len(forms)


def test_identifier_ignores_how_an_array_lies_in_memory():
    plain = np.array([(1, 2.0), (3, 4.0)], [("a", "i1"), ("b", "<f8")])
    others = [
        plain.astype(np.dtype([("a", "i1"), ("b", "<f8")], align=True)),
        plain.astype([("a", "i1"), ("b", ">f8")]),
        np.repeat(plain, 2)[::2],
    ]
    for other in others:
        assert everything(array=other).identifier == everything(array=plain).identifier
    hidden = [np.ma.array([1, under], mask=[False, True]) for under in (2, 3)]
    one, other = (everything(array=array).identifier for array in hidden)
    assert one == other


def test_a_default_is_left_out_only_where_it_is_the_value():
    class Grown(Config):
        x: Param[Any] = field(default=1, ignore_default=True)

    assert len({Grown(x=value).identifier for value in (1, True, 1.0, "1")}) == 4
    assert Grown(x=1).identifier == Grown().identifier


def test_a_time_is_no_number():
    with pytest.raises(InvalidArgument, match="number"):
        everything(number=np.timedelta64(3, "ns"))


def test_a_part_of_another_class_is_another_value():
    class Other(Optimizer):
        pass

    assert everything(optimizer=Other(lr=1e-3)).identifier != everything().identifier


def test_numpys_scalars_are_pythons():
    same = everything(
        number=np.int64(3),
        real=np.float64(0.1),
        flag=np.bool_(True),
        text=np.str_("ä\n"),
        table={"a": [np.int8(1), np.uint16(2)], "b": []},
    )
    assert same.identifier == everything().identifier
    assert type(same.number) is int
    assert type(same.flag) is bool
    assert type(same.table["a"][0]) is int
    order = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    assert everything(array=order).identifier == everything().identifier


def test_ints_are_floats_where_floats_are_asked_for():
    one = Optimizer(lr=1)
    assert type(one.lr) is float
    assert one.identifier == Optimizer(lr=1.0).identifier


def test_a_new_parameter_may_leave_old_identifiers_alone():
    class Before(Config):
        __typename__ = "test.growing"
        x: Param[int]

    class AfterIt(Config):
        __typename__ = "test.growing"
        x: Param[int]
        y: Param[int] = field(default=2, ignore_default=True)

    assert AfterIt(x=1).identifier == AfterIt(x=1, y=2).identifier == Before(x=1).identifier
    assert AfterIt(x=1, y=3).identifier != Before(x=1).identifier


def test_a_constant_is_a_version():
    class One(Config):
        __typename__ = "test.version"
        version: Constant[int] = 1

    class Two(Config):
        __typename__ = "test.version"
        version: Constant[int] = 2

    assert One().identifier != Two().identifier
    assert Two().version == 2


def test_a_class_of_a_script_has_the_name_that_it_has_imported(start_script, tmp_path):
    source = (
        "from vectasks.experiment import Config, Param\n"
        "from enum import Enum\n"
        "class Kind(Enum):\n    A = 1\n"
        "class Model(Config):\n    kind: Param[Kind]\n"
        "print(Model(kind=Kind.A).identifier)"
    )
    run, _ = start_script(source, "my_script.py").communicate(timeout=30)
    imported, _ = start_script("import my_script", "other.py").communicate(timeout=30)
    assert run == imported != ""


def test_what_has_no_identity_is_named():
    with pytest.raises(InvalidArgument, match=r"Everything\.array\['f'\] is a function.*Meta"):
        _ = everything(array={"f": test_what_has_no_identity_is_named}).identifier
    with pytest.raises(InvalidArgument, match=r"Everything\.array is a type"):
        _ = everything(array=Optimizer).identifier
    with pytest.raises(InvalidArgument, match=r"Everything\.array is an array of objects"):
        _ = everything(array=np.array([object()])).identifier


def test_a_config_that_contains_itself_is_refused():
    index = everything(array=[])
    index.array.append(index)
    with pytest.raises(InvalidArgument, match=r"Everything\.array\[0\] contains itself"):
        _ = index.identifier
    circle = everything(array={})
    circle.array["b"] = circle.array
    with pytest.raises(InvalidArgument, match=r"Everything\.array\['b'\] contains itself"):
        _ = circle.identifier


def test_one_part_in_two_places_is_no_cycle():
    part = Optimizer(lr=1.0)
    assert (
        everything(array=[part, part]).identifier
        == everything(array=[Optimizer(lr=1.0), Optimizer(lr=1.0)]).identifier
    )


# -- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lrr": 1.0, "lr": 1.0}, r"Optimizer: lrr: unknown \(did you mean lr\?\)\."),
        ({}, r"Optimizer: lr: missing\."),
        ({"lr": "0.1"}, r"lr: .*valid number, got '0\.1' \(str\)"),
        ({"lr": True}, r"lr: .*got True \(bool\)"),
        ({"lr": None}, r"lr: .*got None"),
        ({"lr": 1.0, "betas": (0.9, "x")}, r"betas\[1\]: .*got 'x' \(str\)"),
        ({"lr": 1.0, "betas": (0.9,)}, r"betas\[1\]: Field required"),
        ({"lr": "a", "nothing": 1}, r"nothing: unknown .*; lr: .*valid number"),
    ],
)
def test_what_is_wrong_is_told_by_its_path(values, message):
    with pytest.raises(InvalidArgument, match=message):
        Optimizer(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 3.0}, r"number: .*got 3\.0 \(float\)"),
        ({"number": True}, r"number: .*got True"),
        ({"flag": 1}, r"flag: .*got 1"),
        ({"color": "RED"}, r"color: .*got 'RED'"),
        ({"optimizer": {"lr": 1.0}}, r"optimizer: .*Optimizer, got \{'lr': 1\.0\}"),
        ({"table": {"a": [1, "2"]}}, r"table\['a'\]\[1\]: .*got '2'"),
        ({"version": 2}, r"version: a Constant is not given"),
    ],
)
def test_nothing_is_guessed(change, message):
    with pytest.raises(InvalidArgument, match=message):
        everything(**change)


def test_a_path_may_be_given_as_text():
    class Files(Config):
        files: Param[list[Path]]
        maybe: Param[Path | None] = None

    files = Files(files=["a/b", Path("c")], maybe="d")
    assert files.files == [Path("a/b"), Path("c")]
    assert files.maybe == Path("d")
    with pytest.raises(InvalidArgument, match="maybe"):
        Files(files=[], maybe=3)


def test_defaults_are_ones_own():
    class Listed(Config):
        items: Param[list[int]] = [1]  # noqa: RUF012
        more: Param[list[int]] = field(default_factory=list)

    one, other = Listed(), Listed()
    one.items.append(2)
    one.more.append(2)
    assert (other.items, other.more) == ([1], [])


def test_what_may_be_none_is_none_by_default():
    assert everything().maybe is None

    class MustBeGiven(Config):
        table: Param[dict[str, None]]

    with pytest.raises(InvalidArgument, match="table: missing"):
        MustBeGiven()


def test_subclasses_inherit_and_redefine():
    class Base(Config):
        x: Param[int]
        y: Param[int] = 1

    class Derived(Base):
        x = 5
        z: Param[int] = 2

    assert (Derived().x, Derived().y, Derived().z) == (5, 1, 2)
    with pytest.raises(InvalidArgument, match="x: missing"):
        Base()
    with pytest.raises(InvalidArgument, match=r"x: .*got 'a'"):
        Derived(x="a")


class Forward(Config):
    """Names a class that is yet to come."""

    later: Param[Later | None] = None


class Later(Config):
    x: Param[int]


def test_an_annotation_may_name_a_later_class():
    assert Forward(later=Later(x=1)).later.x == 1
    with pytest.raises(InvalidArgument, match="later"):
        Forward(later=Optimizer(lr=1.0))


def test_other_attributes_are_ones_own():
    class Model(Config):
        x: Param[int]
        net: Any = None
        size: int = 3

    model = Model(x=1)
    model.net = object()
    model.built = True
    assert model.size == 3
    with pytest.raises(InvalidArgument, match="net: unknown"):
        Model(x=1, net=2)


def test_parameters_can_be_set_and_are_checked():
    optimizer = Optimizer(lr=1.0)
    optimizer.lr = 2
    assert optimizer.identifier == Optimizer(lr=2.0).identifier
    with pytest.raises(InvalidArgument, match=r"lr: .*got 'x'"):
        optimizer.lr = "x"
    assert optimizer.lr == 2.0
    with pytest.raises(AttributeError, match="Constant"):
        everything().version = 2


def test_generated_paths_are_not_given_and_not_known_before():
    with pytest.raises(InvalidArgument, match="file: a pathgenerator is not given"):
        Index(file=Path("x"))
    with pytest.raises(AttributeError, match="once the task is submitted"):
        _ = Index().file
    with pytest.raises(AttributeError, match="no such attribute"):
        _ = Index().fil


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../../x"])
def test_a_generated_path_stays_in_its_folder(name):
    with pytest.raises(InvalidArgument, match="outside"):
        pathgenerator(name)


def test_a_field_has_one_default():
    with pytest.raises(InvalidArgument, match="not both"):
        field(default=1, default_factory=int)
    with pytest.raises(InvalidArgument, match="needs a default"):
        field(ignore_default=True)
    with pytest.raises(InvalidArgument, match="needs its value"):

        class NoValue(Config):
            x: Constant[int]


@pytest.mark.parametrize("name", ["job", "tags", "identifier", "submit", "execute"])
def test_a_parameter_hides_no_member(name):
    with pytest.raises(InvalidArgument, match=rf"Hiding\.{name}: every task has a member"):
        type("Hiding", (Config,), {"__annotations__": {name: Param[int]}})


def test_a_typename_is_a_folders_name():
    with pytest.raises(InvalidArgument, match="no name for a folder"):

        class Bad(Config):
            __typename__ = "a/b"


def test_the_name_of_a_typename_is_not_inherited():
    class Named(Config):
        __typename__ = "test.named"

    class Derived(Named):
        pass

    assert Named().identifier != Derived().identifier


def test_a_config_shows_its_parameters():
    assert repr(Optimizer(lr=1.0)) == "Optimizer(lr=1.0, betas=(0.9, 0.999), note='')"


# -- tasks as parameters ----------------------------------------------------------------------


def test_a_task_that_was_not_submitted_is_no_parameter():
    with pytest.raises(ValueError, match=r"Concat: parts/0: the task Say was not submitted"):
        Concat(parts=[Say(word="hello")])
    with pytest.raises(ValueError, match=r"Count: after: the task Say was not submitted"):
        Count(executions=Path("x"), after=Say(word="hello"))


def test_submit_needs_an_experiment():
    with pytest.raises(NoExperiment, match="submit needs an experiment"):
        Say(word="hello").submit()
    with pytest.raises(RuntimeError, match=r"Table\.text needs an experiment"):
        Table(name="x", made=Path("x")).text()


# -- tags -------------------------------------------------------------------------------------


def test_tags_of_parts_are_tags_of_the_whole():
    optimizer = Optimizer(lr=tag(1)).tag("kind", "adam")
    assert optimizer.tags() == {"lr": 1.0, "kind": "adam"}
    assert everything(optimizer=optimizer, number=tag(5)).tags() == {
        "lr": 1.0,
        "kind": "adam",
        "number": 5,
    }


def test_ones_own_tags_go_first_and_disagreeing_ones_are_left_out():
    one, other = Optimizer(lr=tag(1.0)), Optimizer(lr=tag(2.0)).tag("same", 1)
    one.tag("same", 1)
    both = everything(array=[one, other])
    assert both.tags() == {"same": 1}
    assert both.tag("lr", "mine").tags() == {"same": 1, "lr": "mine"}


def test_meta_is_a_plain_annotation():
    class Typed(Task):
        x: Meta[Annotated[int, "a note"]] = 1

    assert Typed(x=2).x == 2
    data = Dataset(topics=Topics(path="p"), documents=Documents(name="d"))
    assert (
        data.identifier
        == Dataset(topics=Topics(path="q"), documents=Documents(name="d")).identifier
    )
    assert Build(index=Index()).identifier == Build(index=Index()).identifier
