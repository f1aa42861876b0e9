"""The verb that gathers the results of runs and studies in one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from nrm_keras.cli.arguments import add_verb


def results(arguments: argparse.Namespace) -> None:
    from nrm_keras.report import results

    print(results.write([Path(root) for root in arguments.directories], Path(arguments.out)))


def add(subparsers) -> None:
    """Adds this verb to the parser."""
    parser = add_verb(
        subparsers,
        "results",
        results,
        "write RESULTS.md from run directories and studies: a row for each recipe, and one for each claim of a study",
        "results",
        "results runs studies /elsewhere/runs --out RESULTS.md",
    )
    parser.add_argument("directories", nargs="*", metavar="DIR", help="where to look (default: runs and studies)")
    parser.set_defaults(more="directories")
    parser.add_argument("--out", default="RESULTS.md", metavar="FILE", help="(default: RESULTS.md)")
