"""The schedule, by a clock that the test moves: nothing here takes time."""

import pytest

from nrm_keras.diagnostics import cost
from nrm_keras.diagnostics.cost import Schedule


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(cost, "time", clock)
    return clock


def train(clock, schedule, steps, step=1.0, probe=0.5, first=20.0, host=0.1):
    """Steps of so many seconds; a probed one takes so much more, the first with its trace. Returns the probed steps."""
    probed = []
    for number in range(steps):
        if schedule.due(number):
            seconds = step + probe + (0 if schedule.probes else first)
            clock.now += seconds + host
            schedule.add_probe(seconds, host)
            probed.append(number)
        else:
            clock.now += step
            schedule.add_plain(step)
    return probed


def test_every_so_many_steps(clock):
    schedule = Schedule(10, None)
    assert train(clock, schedule, 35) == [0, 10, 20, 30]
    assert schedule.probes == 4
    # the first was there before any plain step to compare with
    assert schedule.first_seconds == pytest.approx(1 + 0.5 + 20 + 0.1)
    assert schedule.later_seconds == pytest.approx(3 * (0.5 + 0.1))
    assert schedule.elapsed == pytest.approx(35 + 4 * 0.6 + 20)
    assert schedule.share == pytest.approx(schedule.spent / schedule.elapsed)


def test_windows_of_several_steps():
    schedule = Schedule(5, None)
    schedule.add_probe(1.0, 0.0)
    assert [step for step in range(0, 40, 4) if schedule.due(step, 4)] == [0, 4, 8, 12, 20, 24, 28, 32]
    windows = [range(step, step + 4) for step in range(0, 40, 4)]
    expected = [w.start for w in windows if any(step % 5 == 0 for step in w)]
    assert [step for step in range(0, 40, 4) if schedule.due(step, 4)] == expected


@pytest.mark.parametrize("probe", [0.2, 2.0, 20.0])
def test_budget_is_kept(clock, probe):
    schedule = Schedule(50, 0.05)
    probed = train(clock, schedule, 5000, probe=probe)
    assert probed[0] == 0
    assert schedule.share <= 0.05
    # and made use of
    assert schedule.share > 0.045
    assert schedule.later_seconds / schedule.elapsed <= 0.05


def test_dear_probes_are_rarer(clock):
    counts = [len(train(clock, Schedule(50, 0.05), 5000, probe=probe)) for probe in (0.2, 2.0, 20.0)]
    assert counts[0] > 5 * counts[1] > 25 * counts[2] > 0


def test_budget_pays_for_the_first_probe_and_for_all_else(clock):
    schedule = Schedule(50, 0.1)
    probed = train(clock, schedule, 1000, first=20.0)
    # 21.6 s are 10% of 216 s
    assert probed[1] >= 190
    schedule.add(200.0)
    assert not schedule.due(1001)
    assert not schedule.affords(1.0)
    assert Schedule(50, None).affords(1e9)


def test_what_it_says(clock):
    schedule = Schedule(10, None)
    train(clock, schedule, 100)
    record = schedule.record()
    assert record["kind"] == "cost"
    assert record["probes"] == 10
    assert record["share"] == pytest.approx(
        (record["first_seconds"] + record["later_seconds"]) / record["elapsed_seconds"]
    )
    assert f"{100 * record['share']:.1f}%" in str(schedule)
    always = Schedule(1, None)
    train(clock, always, 10)
    assert "no plain ones to compare them with" in str(always)
