from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from nrm_keras.report import doctor
from nrm_keras.runs import environment

GPU = {"type": "GPU", "name": "NVIDIA L4", "compute_capability": "8.9", "memory_gib": 21.5}
ANSWER = {"devices": [GPU], "xla": {"GPU": True}, "precision": "mixed_bfloat16", "reason": "tensor cores"}


@pytest.fixture
def answer(monkeypatch):
    monkeypatch.setattr(environment, "devices", lambda timeout: ANSWER)


def words(sections) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(doctor.render(sections))
    return console.export_text()


def test_tells_versions_devices_and_precision(answer):
    more = doctor.Section("Data", [doctor.Row("digits", "[red]here[/red]")])
    sections = doctor.doctor(more=[more])
    assert [section.title for section in sections] == ["Versions", "Machine", "Devices", "Data"]
    assert doctor.healthy(sections)
    text = words(sections)
    assert "NVIDIA L4" in text and "compute capability 8.9" in text and "mixed_bfloat16" in text
    assert "[red]here[/red]" in text  # values are text, not rich's markup


def test_every_dependency_is_checked_against_its_bound():
    named = {one.name.lower(): str(one.specifier) for one in doctor.requirements()}
    assert {"tensorflow", "keras", "plotly", "jinja2", "pydantic"} <= set(named)
    assert named["tensorflow"].startswith(">=") and "pytest" not in named


@pytest.mark.parametrize(
    ("requirement", "state", "value"),
    [
        ("jinja2>=3", doctor.GOOD, "3"),
        ("jinja2>=99", doctor.BAD, "3"),
        ("no-such-thing-here>=1", doctor.BAD, "missing"),
    ],
)
def test_a_bound_that_is_not_met_names_the_remedy(requirement, state, value):
    row = doctor._dependency(Requirement(requirement))
    assert row.state == state and row.value.startswith(value)
    assert ("pip install" in row.note) is (state == doctor.BAD)
    assert doctor.healthy([doctor.Section("", [row])]) is (state == doctor.GOOD)


def test_a_checkout_that_is_not_installed_reads_its_setup(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", missing)
    assert "tensorflow" in {one.name for one in doctor.requirements()}


def test_tensorflow_that_does_not_answer_is_a_finding(monkeypatch):
    found = {"problem": "it hangs", "precision": "float32", "reason": "unknown"}
    monkeypatch.setattr(environment, "devices", lambda timeout: found)
    sections = doctor.doctor()
    assert not doctor.healthy(sections) and "it hangs" in words(sections)
