"""Run one worker: `python -m bench.workers NAME JOB`, JOB being JSON. It prints "ready", then its answer."""

import importlib
import json
import sys
from collections.abc import Callable

from bench.processes import Answer

_MODULES = ("abuse", "ceiling", "drain", "fan", "idle", "keyset", "latency", "quota", "reopen", "ring", "snapshot")
Job = dict[str, object]


def main() -> None:
    name, job = sys.argv[1], json.loads(sys.argv[2])
    module, _, function = name.partition(".")
    if module not in _MODULES:
        sys.exit(f"no worker {name}")
    run: Callable[..., Answer] = getattr(importlib.import_module(f"bench.workers.{module}"), function)
    print(json.dumps(run(**job)), flush=True)


main()
