"""The gateway under a sampling profile: `python -m bench.profiled_gateway FILE serve`; FILE gets the counts."""

import sys
from pathlib import Path

from bench.sampling import Sampler
from changefeed_gateway.cli.main import main as run_command


def main() -> None:
    file = Path(sys.argv.pop(1))
    sampler = Sampler()
    sampler.start()
    try:
        run_command()
    finally:
        sampler.stop()
        file.write_text(sampler.to_json())


if __name__ == "__main__":
    main()
