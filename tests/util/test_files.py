"""Files that are there whole or not at all: whatever their names are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vectasks._util.files import replace_file, shortened, whole_or_nothing


@pytest.mark.parametrize(
    "name", ["n" * 251 + ".mp4", "ä" * 125 + ".mp4", os.fsdecode(b"\x80" * 251) + ".mp4"]
)
def test_a_long_name_can_be_replaced(name: str, tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        replace_file(tmp_path / name, content)
    with whole_or_nothing(tmp_path / name) as partial_path:
        assert partial_path.suffix == ".mp4"
        partial_path.write_bytes(b"three")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"three"


def test_names_are_shortened_only_where_they_must_be_and_stay_apart() -> None:
    assert shortened("a.txt", 200) == "a.txt"
    assert shortened("n" * 245, 10) == "n" * 245
    first, second = (shortened(start + "n" * 245, 10) for start in "ab")
    assert first != second
    assert len(first) == 245
