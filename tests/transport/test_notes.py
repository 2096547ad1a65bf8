"""What of a step is no array stands beside the arrays if it is small and plain."""

from __future__ import annotations

from typing import Any

import cloudpickle
import numpy as np
import pytest
from gymnasium import spaces

from vectasks.protocol import Failure
from vectasks.testing.toys import StubbornToyError
from vectasks.transport.layout import NOTE_BYTES, Layout
from vectasks.transport.out_of_band import Notes
from vectasks.transport.step_buffer import Extra, Slab


@pytest.fixture
def slab() -> Slab:
    layout = Layout.of(spaces.Discrete(2), spaces.Discrete(2), np.int64(0), 3, 1)
    layout = layout._replace(note_bytes=NOTE_BYTES)
    return Slab(layout, bytearray(layout.size_bytes()))


def test_where_there_is_no_room_for_notes_nothing_is_written() -> None:
    notes = Notes(Slab(Layout.of(spaces.Discrete(2), spaces.Discrete(2), np.int64(0), 3, 1)))
    assert not notes.write(Extra(1, info={"small": 1}))
    assert notes.read(1) is None


@pytest.mark.parametrize(
    "extra",
    [
        Extra(1, info={"lives": 3, "seeds": (1, None)}),
        Extra(2, reward=[0.5, 1.0]),
        Extra(0, off_leaves={1: "words"}),
        Extra(1, observation=({"map": 1},)),
        Extra(2, failure=Failure("ValueError", "on purpose", "a traceback", None)),
        Extra(1, info={"frames": [np.arange(n) for n in (1, 9_000, 3, 40_000)], "last": "word"}),
        Extra(0, info={"strided": np.arange(60_000).reshape(200, 300)[::2, ::3].T}),
    ],
    ids=["info", "reward", "off_leaves", "observation", "failure", "large arrays", "strided"],
)
def test_what_is_written_is_read(slab: Slab, extra: Extra) -> None:
    assert Notes(slab).write(extra)
    read = Notes(slab).read(extra.sampler_id)  # the other half's
    np.testing.assert_equal(read, extra)


def test_each_sampler_has_its_own(slab: Slab) -> None:
    notes = Notes(slab)
    extras = [Extra(i, info={"of": f"sampler {i}" * 40}) for i in range(3)]
    assert all(notes.write(extra) for extra in extras)
    assert [notes.read(i) for i in range(3)] == extras


@pytest.mark.parametrize("size", [5, 50_000])
def test_arrays_are_the_readers_own(slab: Slab, size: int) -> None:
    notes = Notes(slab)
    notes.write(Extra(0, info={"array": np.arange(size)}))
    first, second = notes.read(0), notes.read(0)
    assert first is not None
    assert second is not None
    first.info["array"][:] = 0
    assert second.info["array"].tolist() == list(range(size))


def class_of_main() -> Any:
    class OfMain:
        pass

    OfMain.__module__, OfMain.__qualname__ = "__main__", "OfMain"
    return OfMain


@pytest.mark.parametrize(
    "info",
    [
        {"image": np.zeros(NOTE_BYTES + 1, np.uint8)},
        {"images": [np.zeros(NOTE_BYTES // 2, np.uint8), np.ones(NOTE_BYTES // 2, np.uint8)]},
        {"text": "x" * NOTE_BYTES},
        {"function": lambda: 1},
        {"class": class_of_main()},
    ],
    ids=["large array", "large together", "large text", "not plain", "of __main__"],
)
def test_nothing_is_written_of_what_must_go_by_the_channel(slab: Slab, info: Any) -> None:
    notes = Notes(slab)
    cloudpickle.dumps(info)  # it can travel
    assert notes.write(Extra(1, info={"step": "before"}))
    assert not notes.write(Extra(1, info=info))
    assert notes.read(1) is None


def test_the_largest_note_leaves_its_neighbours_alone(slab: Slab) -> None:
    notes = Notes(slab)
    for i in range(3):
        notes.write(Extra(i, info=i))
    size = NOTE_BYTES
    while not notes.write(Extra(1, info=b"x" * size)):
        size -= 1
    assert size > NOTE_BYTES - 100
    assert notes.read(1) == Extra(1, info=b"x" * size)
    assert [notes.read(i) for i in (0, 2)] == [Extra(0, info=0), Extra(2, info=2)]


def test_what_cannot_be_rebuilt_is_a_failure_of_its_step(slab: Slab) -> None:
    notes = Notes(slab)
    assert notes.write(Extra(2, info={"why": StubbornToyError("travels, and is not read", 1)}))
    read = notes.read(2)
    assert read is not None
    assert read.sampler_id == 2
    assert read.info is None
    assert read.failure is not None
    assert read.failure.type_name == "TypeError"
