"""The verb that shows why runs differ."""

from __future__ import annotations

import argparse
from pathlib import Path

from nrm_keras.cli.arguments import add_verb
from nrm_keras.cli.output import print_heading, print_sentence, print_table


def compare(arguments: argparse.Namespace) -> None:
    from nrm_keras.recipe.problems import printable
    from nrm_keras.report import compare_page, compare_parts, comparison

    found = comparison.read([Path(run) for run in arguments.runs])
    shown = compare_parts.parts(found, arguments.paired)
    for notice in found.notices:
        print_sentence(printable(f"Notice: {notice}"))
    for part in shown:
        print_heading(part.title)
        for sentence in part.sentences:
            print_sentence(printable(sentence))
        if part.table:
            rows = part.table.rows[: part.top]
            # names in files of others may hold what moves a terminal's cursor
            print_table(part.table.head, [list(map(printable, row)) for row in rows])
            for more in filter(None, (part.table.note, part.more)):
                print_sentence(more)
    if arguments.html or arguments.open:
        written = compare_page.write(found, shown, Path(arguments.html or "compare.html"))
        print_heading("Page")
        print(written)
        if arguments.open:
            import webbrowser

            webbrowser.open(written.resolve().as_uri())


def add(subparsers) -> None:
    """Adds this verb to the parser."""
    parser = add_verb(
        subparsers,
        "compare",
        compare,
        "show why runs differ: results, recipes, environments, and the step and layer where they part",
        "compare RUN_A RUN_B",
        "compare RUN_A RUN_B --html compare.html",
        "compare A_SEED_0 A_SEED_1 A_SEED_2 B_SEED_0 B_SEED_1 B_SEED_2 --paired --open",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run directories")
    parser.set_defaults(more="runs")
    parser.add_argument("--paired", action="store_true", help="the difference of two recipes over the same seeds")
    parser.add_argument("--html", metavar="FILE", help="write a page with charts too, in one file")
    parser.add_argument("--open", action="store_true", help="open that page in the browser (default: compare.html)")
