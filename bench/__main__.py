"""`python -m bench core` and `python -m bench fanout`."""

import argparse

from bench import core, fanout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway.")
    commands = parser.add_subparsers(required=True)
    for name, module in (("core", core), ("fanout", fanout)):
        command = commands.add_parser(name, help=(module.__doc__ or "").strip())
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    options.run(options)


main()
