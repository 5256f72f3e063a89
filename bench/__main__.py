"""`python -m bench core`, `python -m bench fanout` and `python -m bench dynamodb`."""

import argparse

from bench import core, dynamodb, fanout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway.")
    commands = parser.add_subparsers(required=True)
    for name, module in (("core", core), ("fanout", fanout), ("dynamodb", dynamodb)):
        command = commands.add_parser(name, help=(module.__doc__ or "").strip())
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    options.run(options)


main()
