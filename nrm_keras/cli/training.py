"""Verbs that train a recipe, and that ask what a training left behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nrm_keras.cli import seeds
from nrm_keras.cli.arguments import add_allow_imports, add_verb, names_and_overrides
from nrm_keras.cli.output import print_table
from nrm_keras.errors import MISUSE, PROGRAM, UserError


def run(arguments: argparse.Namespace) -> None:
    from nrm_keras.training import launch

    names, overrides = names_and_overrides(arguments.words)
    if len(names) > 1 or (not names and not arguments.resume):
        raise UserError(
            f"run takes one recipe. Received: {', '.join(names) or 'none'}. Such as: {PROGRAM} run images/digits_adaptive"
        )
    if arguments.against and arguments.seeds is None:
        raise UserError("--against compares recipes on the same seeds. Received: no --seeds. Add --seeds 0,1,2.")
    if arguments.resume:
        if arguments.seeds is not None:
            raise UserError(
                "--resume goes on with one run. Received: --seeds beside it. "
                "Leave one of them out: the command with --seeds goes on by itself."
            )
        if arguments.smoke or arguments.out:
            raise UserError(
                "--resume goes on with a run as it was begun. Received: --smoke or --out beside it. Leave them out."
            )
        launch.resume(
            arguments.resume,
            *names,
            overrides=overrides,
            accept_changes=arguments.accept_changes,
            allow_imports=arguments.allow_imports,
        )
    elif arguments.seeds is not None:
        seeds.run(arguments, names[0], overrides)
    else:
        launch.run(
            names[0],
            overrides,
            out=arguments.out or "runs",
            smoke=arguments.smoke,
            allow_imports=arguments.allow_imports,
        )


def evaluate(arguments: argparse.Namespace) -> None:
    from nrm_keras.training.startup import quiet_start

    with quiet_start():
        from nrm_keras.training import inference
    scores = inference.evaluate(Path(arguments.run), arguments.data, arguments.split, arguments.allow_imports)
    measured = Path(arguments.data).name if arguments.data else arguments.split
    print_table(("", measured), [(name, f"{value:.6g}") for name, value in scores.items()])


def predict(arguments: argparse.Namespace) -> None:
    from nrm_keras.runs import directory
    from nrm_keras.training.startup import quiet_start

    with quiet_start():
        from nrm_keras.training import inference
    masks = Path(arguments.masks) if arguments.masks else None
    rows = inference.predict(Path(arguments.run), Path(arguments.input), arguments.allow_imports, masks)
    if masks:
        print(f"{len(rows)} masks in {masks}", file=sys.stderr)
    if arguments.out:
        directory.write_text(Path(arguments.out), inference.to_csv(rows))
        print(f"{len(rows)} predictions in {arguments.out}")
    else:
        print(inference.to_csv(rows), end="")


def report(arguments: argparse.Namespace) -> int:
    import webbrowser

    from nrm_keras.report import page, study_page
    from nrm_keras.studies.store import is_study

    status = 0
    for path in map(Path, arguments.runs):
        try:
            written = study_page.write(path) if is_study(path) else page.write(path)
        except UserError as error:
            print(error, file=sys.stderr)
            status = MISUSE
            continue
        print(written)
        if arguments.open:
            webbrowser.open(written.resolve().as_uri())
    return status


def list_runs(arguments: argparse.Namespace) -> None:
    from nrm_keras.runs import listing

    print_table(listing.COLUMNS, listing.rows(Path(arguments.directory)))


def add(subparsers) -> None:
    """Adds these verbs to the parser."""
    parser = add_verb(
        subparsers,
        "run",
        run,
        "train a recipe, or go on with a run",
        "run images/digits_adaptive",
        "run images/fashion_mnist_resnet train.epochs=3 norm.type=batch",
        "run images/digits_adaptive@batch --smoke",
        "run images/digits_adaptive --seeds 0,1,2 --against images/digits_adaptive@batch",
        "run images/digits_adaptive --seeds 0,1,2 --against norm.type=batch",
        "run --resume runs/images/digits_adaptive/20260102-030405-abcdef",
    )
    parser.add_argument(
        "words", nargs="*", metavar="NAME", help="a recipe (see show), and section.key=value for changes"
    )
    parser.set_defaults(more="words")
    parser.add_argument("--smoke", action="store_true", help="two steps of the smallest model: does everything work?")
    parser.add_argument("--seeds", metavar="0,1,2", help="train each of these seeds; prints mean, spread and interval")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME",
        help="with --seeds, train this recipe too, or the same one with a section.key=value; prints the paired difference",
    )
    parser.add_argument("--out", metavar="DIR", help="where run directories are made (default: runs)")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run directory, exactly where it stopped")
    parser.add_argument("--accept-changes", action="store_true", help="with --resume, take a recipe that has changed")
    add_allow_imports(parser)

    parser = add_verb(
        subparsers,
        "evaluate",
        evaluate,
        "measure a finished run on its test split, or on other data",
        "evaluate runs/images/digits_adaptive/20260102-030405-abcdef",
        "evaluate RUN --data new_site.npz",
        "evaluate RUN --data texts.csv",
        "evaluate RUN --split validation",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="instead of the run's data: an .npz file, a folder of images (and masks), or a .csv or .jsonl file of texts",
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test", help="(default: test)")
    add_allow_imports(parser)

    parser = add_verb(
        subparsers,
        "predict",
        predict,
        "print a finished run's classes and probabilities for new inputs, as CSV",
        "predict RUN picture.png",
        "predict RUN folder/ --out predictions.csv",
        "predict RUN inputs.npy",
        "predict RUN texts.txt",
        "predict RUN scans/ --masks predicted_masks",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="an image, a folder of images, .npy, or .npz with x, raw values as in training; for segmentation also NIfTI and"
        " DICOM; texts in .txt (one per line), .csv or .jsonl",
    )
    parser.add_argument("--out", metavar="FILE", help="write the CSV there instead of printing it")
    parser.add_argument(
        "--masks", metavar="DIR", help="segmentation: write the mask of each image to this new folder, as PNG or NIfTI"
    )
    add_allow_imports(parser)

    parser = add_verb(
        subparsers, "report", report, "write report.html of runs, also while they train", "report RUN --open"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or those of studies")
    parser.add_argument("--open", action="store_true", help="open it in the browser")

    group = subparsers.add_parser("runs", help="list runs", description="Runs on this machine.")
    verbs = group.add_subparsers(metavar="VERB", required=True)
    parser = add_verb(verbs, "ls", list_runs, "list runs with their results", "runs ls", "runs ls /elsewhere/runs")
    parser.add_argument("directory", nargs="?", default="runs", metavar="DIR", help="where to look (default: runs)")
