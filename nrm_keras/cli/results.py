"""The verb that gathers the results of runs in one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from nrm_keras.cli.arguments import add_verb


def results(arguments: argparse.Namespace) -> None:
    from nrm_keras.report import results

    print(results.write([Path(root) for root in arguments.directories or ["runs"]], Path(arguments.out)))


def add(subparsers) -> None:
    """Adds this verb to the parser."""
    parser = add_verb(
        subparsers,
        "results",
        results,
        "write RESULTS.md from run directories: a row for each recipe, with mean and spread over its seeds",
        "results",
        "results runs /elsewhere/runs --out RESULTS.md",
    )
    parser.add_argument("directories", nargs="*", metavar="DIR", help="where to look for runs (default: runs)")
    parser.set_defaults(more="directories")
    parser.add_argument("--out", default="RESULTS.md", metavar="FILE", help="(default: RESULTS.md)")
