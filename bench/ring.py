"""Whether the rings of all tails together keep to their budget of memory, whatever the items are made of."""

import argparse
from typing import Final

from bench.figures import median
from bench.processes import run_worker
from bench.report import Report

_ITEMS: Final = {"ASCII": '{"note":"' + "a" * 2_000 + '"}', "CJK": '{"note":"' + "漢" * 1_000 + '"}'} | {
    "emoji": '{"note":"' + "😀" * 500 + '"}'
}
_TAILS: Final = (1, 100, 1_000)
_AIM: Final = 1.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench ring`."""
    parser.add_argument("--budget", type=int, default=64_000_000, help="limits.ring_bytes; default 64,000,000")
    parser.add_argument("--items", nargs="+", choices=_ITEMS, default=list(_ITEMS), help="default all")
    parser.add_argument("--rounds", type=int, default=1, help="default 1")
    parser.add_argument("--quick", action="store_true", help="16 MB and no thousand tails: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Fill the rings of 1, 100 and 1000 tails with items of each kind."""
    if options.quick:
        options.budget = 16_000_000
    report = Report("ring", quick=options.quick)
    rows = []
    for kind in options.items:
        for tails in _TAILS[:2] if options.quick else _TAILS:
            job = {"item": _ITEMS[kind], "tails": tails, "budget": options.budget}
            answers = [run_worker("ring.fill", job) for _ in range(options.rounds)]
            for answer in answers:
                report.record("ring", {"items": kind, "tails": tails, **answer})
            grown = median([answer["grown_mb"] for answer in answers])
            held = median([answer["held_mb"] for answer in answers])
            rows.append([kind, str(tails), f"{held:.1f}", f"{grown:.1f}", f"{grown * 1e6 / options.budget:.2f}"])
    report.table(
        f"Memory that rings with a budget of {options.budget / 1e6:.0f} MB add at most while 2.5 budgets pass",
        ["items", "tails", "counted MB", "grown MB", "of the budget"],
        rows,
        f"Each page encoded with and without items. Aim: {_AIM}.",
    )
    report.say(f"every figure: {report.file}")
