"""Names that users add."""

import subprocess
import sys

import pytest

from nrm_keras import registry
from nrm_keras.errors import UserError
from nrm_keras.registry import RegistryError, get, is_registered, names, register

pytestmark = pytest.mark.usefixtures("clean_registry")


def test_register_returns_what_it_decorates():
    @register("norm", "mine")
    def build():
        return 3

    assert build() == 3
    assert get("norm", "mine") is build
    assert is_registered("norm", "mine")
    assert not is_registered("model", "mine")
    assert names("norm")[-1] == "mine"


@pytest.mark.parametrize(
    ("kind", "name"), [("norm", "batch"), ("model", "resnet"), ("data", "digits"), ("metric", "accuracy")]
)
def test_built_in_names_cannot_be_taken(kind, name):
    with pytest.raises(RegistryError, match=f"The {kind} '{name}' is built in and cannot be replaced."):
        register(kind, name)(print)


def test_built_in_names_are_safe_before_anything_else_is_imported():
    code = "from nrm_keras.registry import register; register('optimizer', 'sgd')(print)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert "RegistryError: The optimizer 'sgd' is built in" in result.stderr


def test_a_taken_name_is_refused_but_the_same_definition_may_come_again():
    def define():
        @register("norm", "mine")
        def build():
            pass

        return build

    define()
    again = define()
    assert get("norm", "mine") is again
    with pytest.raises(RegistryError, match=r"already registered by .*build. Received: builtins.print."):
        register("norm", "mine")(print)


def test_unknown_names_and_kinds_suggest_the_nearest():
    register("norm", "mine")(print)
    with pytest.raises(RegistryError, match=r"No norm is registered as 'mime'. Did you mean 'mine'?"):
        get("norm", "mime")
    with pytest.raises(RegistryError, match=r"Received: kind='nrom'. Did you mean 'norm'?"):
        register("nrom", "mine")
    with pytest.raises(RegistryError, match="Received: name=3"):
        register("norm", 3)
    assert issubclass(RegistryError, UserError)
    assert set(registry.KINDS) == {"norm", "model", "data", "callback", "metric", "optimizer"}
