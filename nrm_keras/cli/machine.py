"""Verbs about this machine: its data, its devices."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nrm_keras.cli.arguments import add_verb
from nrm_keras.cli.output import print_table
from nrm_keras.errors import PROGRAM, UserError


def list_data(arguments: argparse.Namespace) -> None:
    from nrm_keras.data import listing

    print_table(listing.COLUMNS, listing.rows())


def prepare_data(arguments: argparse.Namespace) -> None:
    from nrm_keras.data import listing
    from nrm_keras.training.startup import quiet_start

    with quiet_start():
        import tensorflow  # noqa: F401  which TFDS needs
    archives = arguments.source and Path(arguments.source).expanduser()
    failed = []
    for name in dict.fromkeys(arguments.names):
        try:
            print(f"{name} is ready: {listing.prepare(name, archives, arguments.accept_checksum)}", flush=True)
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("\n".join(failed))


def doctor(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from nrm_keras.data import listing
    from nrm_keras.report import doctor as examination

    data = [examination.Row(name, where, what) for name, what, where, *_ in listing.rows()]
    sections = examination.doctor(arguments.timeout, more=[examination.Section("Data", data)])
    Console(width=None if sys.stdout.isatty() else 160).print(examination.render(sections))
    return 0 if examination.healthy(sections) else 1


def add(subparsers) -> None:
    """Adds these verbs to the parser."""
    group = subparsers.add_parser("data", help="list or prepare data sets", description="Data sets on this machine.")
    verbs = group.add_subparsers(metavar="VERB", required=True)
    add_verb(verbs, "ls", list_data, "list the data sets that recipes can name", "data ls")
    parser = add_verb(
        verbs,
        "prepare",
        prepare_data,
        "make public data sets ready, from archives or by a download",
        "data prepare cifar10",
        "data prepare cifar10 --from ~/Downloads/cifar-10-binary.tar.gz",
        "data prepare fashion_mnist --from folder/with/the/four/files",
        "data prepare mnist_5k rotten_tomatoes spam",
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help=f"see {PROGRAM} data ls")
    parser.add_argument("--from", dest="source", metavar="PATH", help="the archive, or the folder that holds it")
    parser.add_argument(
        "--accept-checksum",
        action="store_true",
        help="take archives that are not the registered ones, such as a subset",
    )
    parser = add_verb(subparsers, "doctor", doctor, "examine versions, devices and data on this machine", "doctor")
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="for asking TensorFlow (default: 60)"
    )
