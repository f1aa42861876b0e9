"""The verbs, as a user calls them."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from nrm_keras import cli
from nrm_keras.cli import recipes

EVERY_VERB = {
    "ls": ["ls"],
    "show": ["show", "images/digits_adaptive@batch", "--origin", "train.epochs=3"],
    "cp": ["cp", "images/digits_adaptive", "copy.yaml"],
    "validate": ["validate", "images/digits_adaptive"],
    "schema": ["schema"],
    "results": ["results", "."],
    "study": ["study", "first_epoch", "--dry-run"],
}

RUN_VERBS = ("run", "evaluate", "predict", "report", "compare", "export", "serve", "runs", "data", "doctor")


def command(*arguments, environment=None, **options):
    """Runs a verb in a process of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    line = [sys.executable, "-m", "nrm_keras", *arguments]
    return subprocess.run(line, check=False, text=True, env=_environment(**(environment or {})), **streams)


def _environment(**changes):
    root = Path(cli.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), **changes}


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a verb in this process, in an empty directory: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = cli.main(arguments)
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "verb", [None, *EVERY_VERB, "run", "evaluate", "predict", "report", "compare", "export", "serve", "doctor"]
)
def test_help_shows_examples(run, verb):
    status, out, _ = run(*filter(None, [verb]), "--help")
    assert status == 0
    assert f"examples:\n  python -m nrm_keras {verb or 'ls'}" in out


def test_every_verb_is_tested():
    assert {*EVERY_VERB, *RUN_VERBS} == set(cli.build_parser()[1])


@pytest.mark.parametrize("arguments", [["--help"], *EVERY_VERB.values()], ids=["help", *EVERY_VERB])
def test_no_verb_imports_tensorflow(arguments, tmp_path):
    code = """
import sys
from nrm_keras.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
heavy = {"tensorflow", "keras", "numpy", "pydantic"} if sys.argv[1] == "--help" else {"tensorflow", "keras"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
sys.exit(status)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env=_environment(),
    )
    assert (result.returncode, result.stderr) == (0, "")


# ls -------------------------------------------------------------------------------------------------------------------


def test_ls_is_complete_and_plain_in_a_pipe(tmp_path):
    result = command("ls", cwd=tmp_path, environment={"COLUMNS": "20", "FORCE_COLOR": "1"})
    lines = result.stdout.splitlines()
    assert lines[0].split("  ")[0] == "name"
    (digits,) = [line for line in lines if line.startswith("images/digits_adaptive ")]
    assert digits.split()[1:5] == ["classification", "digits", "adaptive", "scikit-learn"]
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout


@pytest.mark.parametrize("columns", [200, 40])
def test_ls_on_a_terminal_loses_no_letter(columns):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nrm_keras", "ls"],
        stdout=slave,
        stderr=slave,
        env=_environment(COLUMNS=str(columns), TERM="xterm"),
    )
    os.close(slave)
    output = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    assert process.wait() == 0
    assert "…".encode() not in output
    if columns == 200:
        assert b"images/cifar10_resnet20_adaptive" in output


def test_ls_lists_the_others_when_one_recipe_is_broken(run, monkeypatch, tmp_path):
    from nrm_keras.recipe import catalog

    (tmp_path / "base").mkdir()
    (tmp_path / "bad.yaml").write_text("a: 1")
    (tmp_path / "good.yaml").write_text(
        "data: {source: digits}\nmodel: {type: mlp}\nnorm: {type: none}\noptimizer: {type: adam}\n"
    )
    monkeypatch.setattr(catalog, "root", lambda: tmp_path)
    status, out, _ = run("ls")
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["bad", "invalid"], ["good", "classification"]]


# show, cp, validate, schema -------------------------------------------------------------------------------------------


def test_show_prints_a_recipe_that_loads(run, tmp_path):
    status, out, _ = run("show", "images/digits_adaptive@batch", "--origin", "train.epochs=3")
    assert status == 0
    assert "epochs: 3" in out and "# command line" in out
    (tmp_path / "again.yaml").write_text(out)
    plain = run("show", "images/digits_adaptive@batch", "train.epochs=3")[1]
    assert run("show", "again.yaml")[1] == plain
    assert "#" not in plain


def test_overrides_may_stand_before_and_behind_options(run):
    expected = run("show", "images/digits_adaptive", "norm.type=batch", "train.epochs=3")[1]
    assert run("show", "images/digits_adaptive", "norm.type=batch", "--origin", "train.epochs=3")[0] == 0
    origin = run("show", "images/digits_adaptive", "norm.type=batch", "--origin", "train.epochs=3")[1]
    assert [line.split(" #")[0].rstrip() for line in origin.splitlines()] == expected.splitlines()


def test_cp_then_validate(run, tmp_path):
    status, out, _ = run("cp", "images/digits_adaptive", "mine.yaml")
    assert (status, out.splitlines()[0]) == (0, "mine.yaml")
    status, out, err = run("validate", "mine.yaml", "images/digits_adaptive")
    assert (status, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["mine.yaml", "images/digits_adaptive"]
    assert run("cp", "images/digits_adaptive", "mine.yaml")[0] == 2


def test_validate_reports_every_recipe_and_fails(run, tmp_path):
    (tmp_path / "a.yaml").write_text("extends: images/digits_adaptive\nnorm: {momentun: 1}\ntrain: {epochs: 0}\n")
    (tmp_path / "b.yaml").write_text("extends: images/digits_adaptive\noptimizer: {weight_decay: 5e-4}\n")
    status, out, err = run("validate", "a.yaml", "images/digit", "b.yaml")
    assert status == 2
    assert "a.yaml:2: norm.momentun: unknown key. Did you mean 'momentum'?" in err
    assert "a.yaml:3: train.epochs: must be greater than 0. Received: 0." in err
    assert "no recipe is called 'images/digit'." in err
    assert "b.yaml:2: optimizer.weight_decay: warning: " in err
    assert out.startswith("b.yaml: valid")
    assert len(out.splitlines()) == 1


def test_validate_applies_overrides_and_needs_a_name(run):
    status, _, err = run("validate", "images/digits_adaptive", "norm.type=bacth")
    assert status == 2 and "command line: norm.type: unknown norm. Received: 'bacth'." in err
    status, _, err = run("validate", "norm.type=batch")
    assert status == 2 and "validate needs a recipe." in err


def test_validate_builds_only_when_asked_and_imports_only_when_allowed(run, tmp_path, monkeypatch):
    (tmp_path / "own_cli_module.py").write_text("open('imported', 'w').close()\n")
    (tmp_path / "x.yaml").write_text("extends: images/digits_adaptive\nimports: [own_cli_module]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("validate", "x.yaml")[0] == 0
    assert not (tmp_path / "imported").exists()
    status, _, err = run("validate", "x.yaml", "--build")
    assert status == 2 and "x.yaml:2: imports: imports run code" in err
    assert not (tmp_path / "imported").exists()
    assert run("validate", "x.yaml@mlp", "--build", "--allow-imports")[0] == 0
    assert (tmp_path / "imported").exists()
    status, _, err = run("validate", "images/digits_adaptive@mlp", "data={source: npz, path: none.npz}", "--build")
    assert status == 2 and "none.npz" in err
    assert run("validate", "images/digits_adaptive@mlp", "data={source: npz, path: none.npz}")[0] == 0


def test_schema_is_json(run):
    status, out, _ = run("schema")
    assert status == 0
    assert {"extends", "variants", "imports", "norm"} <= set(json.loads(out)["properties"])


# Runs -----------------------------------------------------------------------------------------------------------------


def test_the_verbs_on_a_run(run, tmp_path):
    import numpy as np
    from sklearn.datasets import load_digits

    status, out, _ = run("run", "images/digits_adaptive@mlp", "--smoke")
    assert status == 0
    (path,) = (tmp_path / "runs" / "images" / "digits_adaptive@mlp").iterdir()
    assert f"Report: {path.relative_to(tmp_path)}/report.html" in out

    status, out, _ = run("runs", "ls")
    assert status == 0 and "finished, smoke" in out and path.name in out

    status, out, _ = run("evaluate", str(path))
    assert (
        status == 0
        and out.splitlines()[0].split() == ["test"]
        and ["examples", "359"] in map(str.split, out.splitlines())
    )

    np.save("three.npy", load_digits().images[:3])
    status, out, _ = run("predict", str(path), "three.npy")
    assert status == 0 and len(out.splitlines()) == 4 and out.startswith("input,class,probability,p(0)")
    assert run("predict", str(path), "three.npy", "--out", "three.csv")[0] == 0
    assert (tmp_path / "three.csv").read_text() == out
    status, _, err = run("predict", str(path), "three.npy", "--out", "none/three.csv")
    assert status == 2 and "none" in err and "Traceback" not in err

    (path / "report.html").unlink()
    assert run("report", str(path))[0] == 0 and (path / "report.html").exists()

    status, _, err = run("run", "--resume", str(path), "--smoke")
    assert status == 2 and "--smoke" in err


def test_doctor_finds_this_machine_healthy(run):
    status, out, _ = run("doctor")
    assert status == 0 and all(word in out for word in ("Versions", "tensorflow", "CPU", "precision", "fashion_mnist"))


def test_data_verbs(run):
    status, out, _ = run("data", "ls")
    assert status == 0 and {"digits", "fashion_mnist", "cifar10", "npz", "folder"} <= {
        line.split()[0] for line in out.splitlines()[1:]
    }
    assert run("data", "prepare", "digits")[:2] == (0, "digits is ready: scikit-learn brings it; nothing to prepare\n")
    status, _, err = run("data", "prepare", "cifar_10")
    assert status == 2 and "Did you mean 'cifar10'?" in err
    status, _, err = run("data", "prepare", "cifar10", "--from", "nowhere")
    assert status == 2 and "nowhere" in err


def test_a_full_disk_and_a_closed_stream_are_no_traceback(tmp_path):
    with open("/dev/full", "w") as full:
        result = command("ls", cwd=tmp_path, stdout=full)
    assert result.returncode == 2 and "No space left" in result.stderr and "Traceback" not in result.stderr


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lss"], "unknown verb 'lss'. Did you mean 'ls'?"),
        (["vaildate", "x"], "Did you mean 'validate'?"),
        ([], "required: VERB"),
        (["show"], "required: NAME"),
        (["show", "images/digits_adaptive", "--orign"], "unknown arguments: --orign."),
        (["ls", "more"], "unknown arguments: more."),
        (["show", "none.yaml"], "none.yaml: no such file."),
        (["show", "."], "a directory"),
        (["show", "images/digits_adaptive", "epochs"], "an override is section.key=value. Received: 'epochs'."),
        (["run", "images/digits_adaptive", "--seeds", "0,1,one"], "Received: '0,1,one', where 'one' is none."),
        (["run", "images/digits_adaptive", "--seeds", "0,1,0"], "where one is there twice"),
        (["run", "images/digits_adaptive", "--seeds", "00,0"], "where one is there twice"),
        (["run", "images/digits_adaptive", "--seeds", ""], "whole numbers from 0 on"),
        (["run", "images/digits_adaptive", "--seeds", "0,,1"], "whole numbers from 0 on"),
        (["run", "images/digits_adaptive", "--seeds", "-1"], "whole numbers from 0 on"),
        (["run", "images/digits_adaptive", "--seeds", "1.5"], "whole numbers from 0 on"),
        (["run", "images/digits_adaptive", "--seeds", "0,99999999999"], "train.seed: must be less than"),
        (["run", "--resume", "runs/x", "--seeds", "0,1"], "--resume goes on with one run."),
        (["run", "images/digits_adaptive", "--against", "norm.type=batch"], "Received: no --seeds."),
        (["run", "images/digits_adaptive", "train.seed=3", "--seeds", "0,1"], "Received: train.seed=3 beside it."),
        (["run", "images/digits_adaptive", "train={seed: 3}", "--seeds", "0"], "Received: train.seed=3 beside it."),
        (["run", "images/digits_adaptive", "--seeds", "0", "--against", "images/digits"], "no recipe is called"),
        (["run", "images/digits_adaptive", "--seeds", "0", "--against", "norm.type=adaptive"], "a recipe that differs"),
        (["run", "images/digits_adaptive", "--seeds", "0", "--against", "a", "--against", "b"], "takes one recipe"),
        (["results", "nowhere"], "nowhere: no such directory."),
    ],
)
def test_mistakes_exit_with_2_and_no_traceback(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_report_writes_what_it_can_and_tells_of_the_rest(run, tmp_path):
    """The runs behind the first bad one had no report."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.yaml").write_text("title: Little\n")
    status, out, err = run("report", str(tmp_path / "nowhere"), str(tmp_path / "a"))
    assert (status, out.strip()) == (2, str(tmp_path / "a" / "report.html"))
    assert "nowhere: not a run directory." in err and "Traceback" not in err


def test_interrupt_exits_with_130(run, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "schema", interrupted)
    assert run("schema")[0] == 130


def test_a_closed_pipe_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    process = command("schema", stdout=writer)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


def test_a_terminal_without_unicode_gets_numbers(tmp_path):
    (tmp_path / "x.yaml").write_text("extends: images/digits_adaptive\nnörm: 1\n")
    result = command("validate", "x.yaml", cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 2
    assert r"x.yaml:2: n\xf6rm: unknown key. Did you mean 'norm'?" in result.stderr
    (tmp_path / "y.yaml").write_text("extends: images/digits_adaptive\ntitle: Größe\n")
    shown = command("show", "y.yaml", cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (0, r'title: "Gr\xf6\xdfe"')
