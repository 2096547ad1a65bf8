"""Measurements as processes of their own, each with the interpreter that it needs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 300


def answer_of(python: Path, module: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``python -m module JOB``; the JSON that it leaves in ``job["out"]``, or an error.

    Whatever it started is ended with it.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "answer.json"
        request = json.dumps({**job, "out": str(out)})
        with (Path(directory) / "stderr").open("w+") as stderr:
            process = subprocess.Popen(
                [str(python), "-m", module, request],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                process.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                return {"error": f"took longer than {_TIMEOUT_S} s"}
            finally:
                with contextlib.suppress(ProcessLookupError):  # mostly nobody is left
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if out.exists():
                answer: dict[str, Any] = json.loads(out.read_text())
                return answer
            stderr.seek(0)
            said = stderr.read().strip().splitlines()
            reason = said[-1] if said else f"ended with status {process.returncode}"
            return {"error": reason[:300]}
