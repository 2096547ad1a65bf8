"""Which compiled core is used, and why none is."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from vectasks.transport import compiled


@pytest.mark.parametrize("stale", [SimpleNamespace(), SimpleNamespace(INTERFACE=1)])
def test_a_core_from_other_sources_is_not_used(monkeypatch: Any, stale: Any) -> None:
    monkeypatch.delenv("VECTASKS_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "vectasks.transport._core", stale)
    core, why_not = compiled.load()
    assert core is None
    assert "built from other sources" in why_not
    assert "pip install" in why_not


def test_the_core_that_was_built_is_of_these_sources(monkeypatch: Any) -> None:
    monkeypatch.delenv("VECTASKS_PURE", raising=False)
    core, why_not = compiled.load()
    assert core is None or core.INTERFACE == compiled.INTERFACE
    assert "other sources" not in why_not
