"""Small and plain data that is no array goes through shared memory beside the arrays."""

from __future__ import annotations

from typing import Any

import cloudpickle
import numpy as np
import pytest
from gymnasium import spaces

from vectasks.protocol import Failure
from vectasks.testing.toys import StubbornToyError
from vectasks.transport.layout import OUT_OF_BAND_BYTES, Layout
from vectasks.transport.out_of_band import OutOfBandArea
from vectasks.transport.step_buffer import OutOfBand, StepBuffer


@pytest.fixture
def step_buffer() -> StepBuffer:
    layout = Layout.of(spaces.Discrete(2), spaces.Discrete(2), np.int64(0), 3, 1)
    layout = layout._replace(out_of_band_bytes=OUT_OF_BAND_BYTES)
    return StepBuffer(layout, bytearray(layout.size_bytes()))


def test_where_there_is_no_room_for_notes_nothing_is_written() -> None:
    out_of_band = OutOfBandArea(
        StepBuffer(Layout.of(spaces.Discrete(2), spaces.Discrete(2), np.int64(0), 3, 1))
    )
    assert not out_of_band.write(OutOfBand(1, info={"small": 1}))
    assert out_of_band.read(1) is None


@pytest.mark.parametrize(
    "extra",
    [
        OutOfBand(1, info={"lives": 3, "seeds": (1, None)}),
        OutOfBand(2, reward=[0.5, 1.0]),
        OutOfBand(0, off_leaves={1: "words"}),
        OutOfBand(1, observation=({"map": 1},)),
        OutOfBand(2, failure=Failure("ValueError", "on purpose", "a traceback", None)),
        OutOfBand(
            1, info={"frames": [np.arange(n) for n in (1, 9_000, 3, 40_000)], "last": "word"}
        ),
        OutOfBand(0, info={"strided": np.arange(60_000).reshape(200, 300)[::2, ::3].T}),
    ],
    ids=["info", "reward", "off_leaves", "observation", "failure", "large arrays", "strided"],
)
def test_what_is_written_is_read(step_buffer: StepBuffer, extra: OutOfBand) -> None:
    assert OutOfBandArea(step_buffer).write(extra)
    read = OutOfBandArea(step_buffer).read(extra.sampler_id)  # the other half's
    np.testing.assert_equal(read, extra)


def test_each_sampler_has_its_own(step_buffer: StepBuffer) -> None:
    out_of_band = OutOfBandArea(step_buffer)
    extras = [OutOfBand(i, info={"of": f"sampler {i}" * 40}) for i in range(3)]
    assert all(out_of_band.write(extra) for extra in extras)
    assert [out_of_band.read(i) for i in range(3)] == extras


@pytest.mark.parametrize("size", [5, 50_000])
def test_arrays_are_the_readers_own(step_buffer: StepBuffer, size: int) -> None:
    out_of_band = OutOfBandArea(step_buffer)
    out_of_band.write(OutOfBand(0, info={"array": np.arange(size)}))
    first, second = out_of_band.read(0), out_of_band.read(0)
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
        {"image": np.zeros(OUT_OF_BAND_BYTES + 1, np.uint8)},
        {
            "images": [
                np.zeros(OUT_OF_BAND_BYTES // 2, np.uint8),
                np.ones(OUT_OF_BAND_BYTES // 2, np.uint8),
            ]
        },
        {"text": "x" * OUT_OF_BAND_BYTES},
        {"function": lambda: 1},
        {"class": class_of_main()},
    ],
    ids=["large array", "large together", "large text", "not plain", "of __main__"],
)
def test_nothing_is_written_of_what_must_go_by_the_channel(
    step_buffer: StepBuffer, info: Any
) -> None:
    out_of_band = OutOfBandArea(step_buffer)
    cloudpickle.dumps(info)  # it can travel
    assert out_of_band.write(OutOfBand(1, info={"step": "before"}))
    assert not out_of_band.write(OutOfBand(1, info=info))
    assert out_of_band.read(1) is None


def test_the_largest_note_leaves_its_neighbours_alone(step_buffer: StepBuffer) -> None:
    out_of_band = OutOfBandArea(step_buffer)
    for i in range(3):
        out_of_band.write(OutOfBand(i, info=i))
    size = OUT_OF_BAND_BYTES
    while not out_of_band.write(OutOfBand(1, info=b"x" * size)):
        size -= 1
    assert size > OUT_OF_BAND_BYTES - 100
    assert out_of_band.read(1) == OutOfBand(1, info=b"x" * size)
    assert [out_of_band.read(i) for i in (0, 2)] == [OutOfBand(0, info=0), OutOfBand(2, info=2)]


def test_what_cannot_be_rebuilt_is_a_failure_of_its_step(step_buffer: StepBuffer) -> None:
    out_of_band = OutOfBandArea(step_buffer)
    assert out_of_band.write(
        OutOfBand(2, info={"why": StubbornToyError("travels, and is not read", 1)})
    )
    read = out_of_band.read(2)
    assert read is not None
    assert read.sampler_id == 2
    assert read.info is None
    assert read.failure is not None
    assert read.failure.type_name == "TypeError"
