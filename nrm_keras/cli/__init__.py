"""python -m nrm_keras VERB: one function per verb. It parses, calls and prints, and has no logic of its own.

A verb imports what it needs when it runs: `--help` imports next to nothing, and no verb imports TensorFlow before it must.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from nrm_keras.cli import comparing, machine, recipes, results, serving, studies, training
from nrm_keras.cli.arguments import examples_text
from nrm_keras.cli.output import print_anything
from nrm_keras.errors import MISUSE, PROGRAM, UserError

INTERRUPTED, BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status: 2 for what the user can mend, with the message on stderr."""
    print_anything()
    try:
        arguments = parse(sys.argv[1:] if argv is None else list(argv))
        status = arguments.verb(arguments) or 0
        if sys.stdout:  # a closed one is None
            sys.stdout.flush()
        return status
    except UserError as error:
        print(error, file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        print(f"The system refused: {error}. Free space or choose another place.", file=sys.stderr)
        return MISUSE


def _reader_left() -> int:
    """What reads our output has seen enough. Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of a command line. Words that stand behind options join the verb's list of words."""
    parser, verbs = build_parser()
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in verbs:
        from nrm_keras.recipe.problems import did_you_mean

        parser.error(f"unknown verb '{verb}'.{did_you_mean(verb, tuple(verbs))}")
    arguments, rest = parser.parse_known_args(argv)
    more = getattr(arguments, "more", None)
    late = [word for word in rest if more and not word.startswith("-")]
    unknown = [word for word in rest if word not in late]
    if unknown:
        verbs[verb].error(f"unknown arguments: {' '.join(unknown)}. See {PROGRAM} {verb} --help")
    if late:
        setattr(arguments, more, [*getattr(arguments, more), *late])
    return arguments


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and the parser of each verb by name."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train and measure normalization in Keras models, from recipes.",
        epilog=examples_text("ls", "validate images/digits_adaptive", "run images/digits_adaptive"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="VERB", required=True)
    for verbs in (recipes, training, comparing, results, studies, serving, machine):
        verbs.add(subparsers)
    return parser, subparsers.choices
