"""YAML into nodes: scalars of YAML 1.2, places, and everything that is refused."""

import math
import os
import resource
import subprocess
import sys

import pytest

import nrm_keras.errors
from nrm_keras.recipe.loading import load
from nrm_keras.recipe.nodes import Source
from nrm_keras.recipe.parsing import MAX_BYTES, parse, read, scalar
from nrm_keras.recipe.problems import RecipeError

SOURCE = Source("x.yaml", "/")


def parsed(text):
    problems = []
    node = parse(text, SOURCE, problems)
    assert problems == []
    return node


def refusal(text):
    """Every complaint about a text, whether it stopped the parser or not."""
    problems = []
    try:
        parse(text, SOURCE, problems)
    except RecipeError as error:
        return error.problems
    return tuple(problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("-.inf", -math.inf),
        *(
            (word, word)
            for word in ("off", "no", "yes", "on", "y", "2024-01-01", "1:30", "1_000", "0b1", "tRUE", "1e", ".")
        ),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
    assert parsed(f"a: {text}\n").plain() == {"a": value}


def test_quoted_scalars_are_text():
    assert parsed("a: '1'\nb: \"true\"\nc: |\n  5\n").plain() == {"a": "1", "b": "true", "c": "5\n"}


def test_values_and_keys_keep_their_lines():
    tree = parsed("# header\na:\n  b: 1\n  c:\n    - 2\n    - 3\n")
    assert tree.child("a").key_origin == "x.yaml:2"
    assert tree.child("a").child("b").origin == "x.yaml:3"
    assert tree.child("a").child("c").child(1).origin == "x.yaml:6"
    assert tree.plain() == {"a": {"b": 1, "c": (2, 3)}}


def test_aliases_share_values():
    assert parsed("a: &x {b: 1}\nc: *x\n").plain() == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: a: the key is already on line 1."),
        ("a: 1\nb: !!python/object/apply:os.system ['false']\n", "x.yaml:2: tags are not allowed"),
        ("a: !!python/name:os.system\n", "x.yaml:1: tags are not allowed"),
        ("a: !x 1\n", "Received: !x."),
        ("a: !!str 1\n", "x.yaml:1: tags are not allowed"),
        ("a: ! 1\n", "x.yaml:1: tags are not allowed"),
        ("!!map {a: 1}\n", "x.yaml:1: tags are not allowed"),
        ("a: &b {c: 1}\nd:\n  <<: *b\n", "x.yaml:3: merge keys (<<) are not supported."),
        ("a:\n\tb: 1\n", "x.yaml:2: YAML does not allow tabs here."),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: a second document starts here."),
        ("", "x.yaml:1: the file is empty."),
        ("# only a comment\n", "x.yaml:1: the file is empty."),
        ("1: a\n", 'x.yaml:1: a key is a text. Received: 1. Write "1" in quotes.'),
        ("true: a\n", "x.yaml:1: a key is a text. Received: true."),
        ("? [a, b]\n: 1\n", "x.yaml:1: a key is a text. Received: ['a', 'b']."),
        ("a: &x [1, *x]\n", "x.yaml:1: the alias *x stands inside its own anchor."),
        ("a: 1\nb: *x\n", "x.yaml:2: the alias *x has no anchor &x above it."),
        ("a: " + "[" * 30 + "]" * 30, "nested at most 24 deep"),
        (
            "a: &a " + "[" * 15 + "]" * 15 + "\nb: " + "[" * 12 + "*a" + "]" * 12,
            "x.yaml:2: values are nested at most 24 deep",
        ),
        ("a: [" + "1," * 10_001 + "]", "x.yaml:1: a recipe holds at most 10000 values"),
        ("a: " + "9" * 5000, "x.yaml:1: a number has at most 60 digits."),
        ("a: 1\nb: [1, 2\n", "this is not YAML"),
        ("a: b: c\n", "x.yaml:1: this is not YAML: mapping values are not allowed here"),
        ("a: @b\n", "Put text that starts with a special character in quotes."),
        ("a: 1\nb: \x07\n", "x.yaml:2: the character U+0007 cannot stand in YAML."),
        ("%YAML 9.0\n---\na: 1\n", "x.yaml:1: this is not YAML"),
    ],
)
def test_refusals(text, message):
    assert any(message in problem for problem in refusal(text)), refusal(text)


def test_several_mistakes_are_reported_together():
    found = refusal("a: 1\na: 2\nb: !x 1\n3: c\n")
    assert [problem.split(": ")[0] for problem in found] == ["x.yaml:2", "x.yaml:3", "x.yaml:4"]


# Files that are none --------------------------------------------------------------------------------------------------


def read_refusal(path):
    with pytest.raises(RecipeError) as caught:
        read(str(path), "x.yaml")
    return str(caught.value)


def test_missing_file_and_directory(tmp_path):
    assert read_refusal(tmp_path / "none.yaml").startswith("x.yaml: no such file.")
    assert read_refusal(tmp_path).startswith("x.yaml: a recipe is a file. Received: a directory.")
    assert read_refusal("a\0b.yaml").startswith("x.yaml: the recipe cannot be read")


def test_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "Received: a pipe or device." in read_refusal(tmp_path / "pipe.yaml")


def test_unreadable_file(tmp_path):
    path = tmp_path / "locked.yaml"
    path.write_text("a: 1")
    path.chmod(0)
    tmp_path.chmod(0o755)
    code = """
import os
from nrm_keras.recipe.parsing import RecipeError, read
if os.getuid() == 0:  # root reads everything, so become somebody else
    os.setgid(65534), os.setuid(65534)
try:
    read("locked.yaml", "x.yaml")
except RecipeError as error:
    print(error)
"""
    root = os.path.dirname(os.path.dirname(nrm_keras.errors.__file__))
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert result.stdout.startswith("x.yaml: the recipe cannot be read: Permission denied."), result.stderr


def test_not_utf8_and_nul_bytes(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    assert read_refusal(path).startswith("x.yaml:2: a recipe is UTF-8 text. Received: byte 0xFF.")
    path.write_bytes("a: 1".encode("utf-16"))
    assert "UTF-8" in read_refusal(path)
    path.write_bytes(b"a: 1\n\nb: \0\n")
    assert read_refusal(path).startswith("x.yaml:3: a recipe is text. Received: a NUL byte.")


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert parsed(read(str(path), "x.yaml")).plain() == {"a": 1}


def test_large_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read(str(path), "x.yaml")) == MAX_BYTES
    path.write_bytes(b"a: 1\n" * 1024 * 1024)
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("opened"))
    assert read_refusal(path) == "x.yaml:1: a recipe has at most 256 KB. Received: 5120 KB. Is this a recipe?"


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


def test_alias_bomb_stops_early_within_little_memory(tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMB)

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (300 * 2**20, 300 * 2**20))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))

    result = subprocess.run(
        [sys.executable, "-c", "import sys; from nrm_keras.cli import main; sys.exit(main())", "validate", str(path)],
        capture_output=True,
        check=False,
        text=True,
        preexec_fn=limit,
    )
    assert result.returncode == 2
    assert "bomb.yaml:4: a recipe holds at most 10000 values, aliases written out." in result.stderr
    assert "Traceback" not in result.stderr


def test_tags_execute_nothing(write):
    write(
        "data: !!python/object/apply:os.system ['touch pwned']\nmodel: !!python/object/new:os.system ['touch pwned']\n"
    )
    with pytest.raises(RecipeError, match="none is executed"):
        load("x.yaml")
    assert os.listdir() == ["x.yaml"]
