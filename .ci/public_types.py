"""Every public symbol has a type that every checker knows, not only mypy: pyright counts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Its base class is TorchRL's, which has no types.
KNOWN = {"vectasks.adapters.torchrl.Env"}

done = subprocess.run(
    ["pyright", "--verifytypes", "vectasks", "--ignoreexternal", "--outputjson"],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    check=False,
)
symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
if not symbols:
    sys.exit("pyright found no public symbols")
unknown = {
    symbol["name"]: symbol["diagnostics"]
    for symbol in symbols
    if symbol["isExported"] and not symbol["isTypeKnown"] and symbol["name"] not in KNOWN
}
if unknown:
    sys.exit(json.dumps(unknown, indent=2))
