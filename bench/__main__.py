"""Measures the gateway: `python -m bench` lists the parts."""

import argparse

from bench import (
    abuse,
    clients,
    core,
    cosmos,
    dynamodb,
    fanout,
    growth,
    idle,
    joined,
    large,
    partitions,
    quota,
    reopen,
    resume,
    retention,
    ring,
    several,
    snapshot,
    spanner,
    start,
    tax,
)

PARTS = {
    "abuse": abuse,
    "clients": clients,
    "core": core,
    "cosmos": cosmos,
    "dynamodb": dynamodb,
    "spanner": spanner,
    "fanout": fanout,
    "growth": growth,
    "idle": idle,
    "joined": joined,
    "large": large,
    "partitions": partitions,
    "quota": quota,
    "reopen": reopen,
    "resume": resume,
    "retention": retention,
    "ring": ring,
    "several": several,
    "snapshot": snapshot,
    "start": start,
    "tax": tax,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway.")
    commands = parser.add_subparsers(required=True)
    for name, module in PARTS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").strip())
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    options.run(options)


main()
