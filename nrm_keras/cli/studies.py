"""The verb that runs studies."""

from __future__ import annotations

import argparse

from nrm_keras.cli.arguments import add_allow_imports, add_verb
from nrm_keras.cli.output import print_heading, print_sentence, print_table
from nrm_keras.errors import UserError


def study(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        _list()
        return 0
    from nrm_keras.training.seeds import parse

    options = {
        "seeds": parse(arguments.seeds) if arguments.seeds is not None else None,
        "cells": arguments.cells,
        "smoke": arguments.smoke,
        "out": arguments.out,
        "workers": arguments.workers,
        "allow_imports": arguments.allow_imports,
    }
    if arguments.dry_run:
        _print_plan(arguments.name, options)
        return 0
    from nrm_keras.studies import launch

    ray = launch.HERE if arguments.ray == "" else arguments.ray
    return _print_result(launch.study(arguments.name, ray=ray, say=_say, **options))


def _say(line: str) -> None:
    print(line, flush=True)


def _list() -> None:
    from nrm_keras.studies import listing

    print_table(listing.COLUMNS, listing.rows())


def _print_plan(name: str, options: dict) -> None:
    from nrm_keras.studies import planning, summary
    from nrm_keras.studies.executors import local

    workers = options.pop("workers") or local.workers_that_fit()
    for part in summary.of_plan(planning.plan(name, workers=workers, **options)):
        if part.title:
            print_heading(part.title)
        for sentence in part.sentences:
            print_sentence(sentence)
        if part.rows:
            print_table(part.head, part.rows)


def _print_result(result) -> int:
    from nrm_keras.studies import summary

    for part in summary.of_result(result):
        print_heading(part.title)
        if part.rows:
            print_table(part.head, part.rows)
        for sentence in part.sentences:
            print_sentence(sentence)
    print(f"\nReport: {result.report}")
    return 1 if result.failed else 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
        raise UserError(f"--workers takes a whole number from 1 on. Received: {text}. Such as --workers 2.")
    return int(text)


def add(subparsers) -> None:
    """Adds this verb to the parser."""
    parser = add_verb(
        subparsers,
        "study",
        study,
        "run a study: a claim about normalization as an experiment that can fail; without a name, list them",
        "study",
        "study first_epoch --dry-run",
        "study first_epoch",
        "study first_epoch --seeds 0,1,2,3,4 --workers 2",
        "study first_epoch --cells 'statistics=plain/*' --smoke",
        "study my_study.yaml --ray auto",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a shipped study, or the path of a .yaml file")
    parser.add_argument("--dry-run", action="store_true", help="print claims, grid and estimated cost, and stop")
    parser.add_argument("--seeds", metavar="0,1,2", help="these instead of the study's")
    parser.add_argument("--cells", metavar="PATTERN", help="train only cells whose name matches, such as '*seed-0'")
    parser.add_argument(
        "--smoke", action="store_true", help="two steps of every cell, no verdict: does everything work?"
    )
    parser.add_argument("--out", default="studies", metavar="DIR", help="where studies are kept (default: studies)")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on a Ray cluster; without an address, one on this machine",
    )
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="cells at a time (default: as many as fit processors and memory)"
    )
    add_allow_imports(parser)
