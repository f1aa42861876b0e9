"""Verdicts on drawn measurements, where it is known what is true, and on measurements that lack something."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nrm_keras.studies import verdict
from nrm_keras.studies.verdict import NOT_SUPPORTED, SUPPORTED, UNCLEAR
from tests.studies.simulated import judged, share_of_studies, study

TINY = 1e-9
NOISE = (0.0, 0.01, -0.01, 0.004, -0.004)


def one(expect, smallest, differences, **changes):
    (found,) = judged(study(len(differences), [(expect, smallest)], **changes), [differences], shared=0.5)
    return found


@pytest.mark.parametrize("n", [3, 5, 10])
def test_without_an_effect_one_claim_is_rarely_supported(n):
    random = np.random.default_rng(n)
    made = study(n, [("greater", TINY)])
    assert share_of_studies(made, lambda _: random.normal(size=(1, n))) <= 0.06


@pytest.mark.parametrize("n", [3, 5])
def test_without_an_effect_none_of_six_claims_is_often_supported(n):
    random = np.random.default_rng(n)
    made = study(n, [("greater", TINY), ("less", TINY)] * 3)
    # without the correction it would be 14 %
    assert share_of_studies(made, lambda _: random.normal(size=(6, n))) <= 0.06


@pytest.mark.parametrize("draw", [lambda r: r.standard_t(3, (1, 5)), lambda r: r.laplace(size=(1, 5))])
def test_heavy_tails_make_it_no_more_often(draw):
    random = np.random.default_rng(5)
    assert share_of_studies(study(5, [("greater", TINY)]), lambda _: draw(random)) <= 0.06


def test_two_deviations_are_found_with_five_seeds():
    random = np.random.default_rng(2)
    made = study(5, [("less", 1.0)])
    assert share_of_studies(made, lambda _: random.normal(-2, 1, (1, 5))) >= 0.8


def test_an_effect_of_exactly_the_smallest_size_is_seldom_said_to_be_excluded():
    random = np.random.default_rng(3)
    made = study(5, [("greater", 1.0)])
    draws = [random.normal(1, 1, (1, 5)) for _ in range(1000)]
    assert share_of_studies(made, draws.__getitem__, of=NOT_SUPPORTED) <= 0.06


@pytest.mark.parametrize(("expect", "border"), [("equal", 1), ("equal", -1), ("not_greater", 1), ("not_less", -1)])
def test_a_difference_at_the_margin_is_seldom_called_none(expect, border):
    random = np.random.default_rng(4)
    made = study(5, [(expect, 1.0)])
    assert share_of_studies(made, lambda _: random.normal(border, 0.3, (1, 5))) <= 0.06


def test_the_best_of_several_levels_that_are_alike_is_not_called_better():
    """Choosing and judging on the same seeds would make the best of ten look better than an eleventh."""
    random = np.random.default_rng(6)
    levels = [f"b{index}" for index in range(10)]
    made = choosing(levels, expect="greater", smallest_effect=TINY)
    cells = [frozenset({("norm", level)}) for level in ["a", *levels]]
    rejected = 0
    for _ in range(500):
        drawn = random.normal(size=(len(cells), 6))
        values = {("m0", cell, seed): drawn[index, seed] for index, cell in enumerate(cells) for seed in range(6)}
        rejected += verdict.judge(made, values)[0].verdict == SUPPORTED
    assert rejected <= 0.06 * 500


@pytest.mark.parametrize(
    ("expect", "smallest", "mean", "expected"),
    [
        ("greater", 0.05, 0.1, SUPPORTED),
        ("greater", 0.2, 0.1, NOT_SUPPORTED),  # there, but too small to matter
        ("greater", 0.105, 0.1, UNCLEAR),
        ("greater", 0.05, -0.1, NOT_SUPPORTED),
        ("greater", 0.05, 0.0, NOT_SUPPORTED),
        ("greater", 0.005, 0.0, UNCLEAR),
        ("less", 0.05, -0.1, SUPPORTED),
        ("less", 0.05, 0.1, NOT_SUPPORTED),
        ("less", 0.005, 0.0, UNCLEAR),
        ("equal", 0.05, 0.0, SUPPORTED),
        ("equal", 0.05, 0.1, NOT_SUPPORTED),
        ("equal", 0.05, -0.1, NOT_SUPPORTED),
        ("equal", 0.005, 0.0, UNCLEAR),
        ("not_greater", 0.05, -1.0, SUPPORTED),
        ("not_greater", 0.05, 0.1, NOT_SUPPORTED),
        ("not_greater", 0.1, 0.1, UNCLEAR),
        ("not_less", 0.05, 1.0, SUPPORTED),
        ("not_less", 0.05, -0.1, NOT_SUPPORTED),
    ],
)
def test_each_verdict(expect, smallest, mean, expected):
    found = one(expect, smallest, np.add(NOISE, mean))
    assert found.verdict == expected
    assert found.reason.endswith(".") and len(found.reason) < 150


def test_mirrored_claims_get_mirrored_verdicts():
    random = np.random.default_rng(7)
    for _ in range(50):
        differences = random.normal(random.uniform(-3, 3), 1, 5)
        for expect, mirrored in (("greater", "less"), ("equal", "equal"), ("not_greater", "not_less")):
            found, other = one(expect, 1.0, differences), one(mirrored, 1.0, -differences)
            assert found.verdict == other.verdict and found.p == pytest.approx(other.p)
            assert found.interval == pytest.approx(tuple(-end for end in reversed(other.interval)))


def test_no_interval_contradicts_its_verdict():
    random = np.random.default_rng(8)
    kinds = ["greater", "less", "equal", "not_greater", "not_less"]
    seen = set()
    for _ in range(200):
        made = study(4, [(expect, 0.5) for expect in kinds])
        for found in judged(made, random.normal(random.choice([-1, 0, 1], (5, 1)), 0.3, (5, 4))):
            low, high = found.interval
            seen.add((found.claim.expect, found.verdict))
            assert low <= found.difference <= high
            if found.verdict == SUPPORTED:
                assert found.p_adjusted <= 0.025
                assert found.claim.expect != "greater" or (low > 0 and found.difference >= 0.5)
                assert found.claim.expect != "less" or (high < 0 and found.difference <= -0.5)
                assert found.claim.expect != "equal" or -0.5 < low <= high < 0.5
            if found.verdict == NOT_SUPPORTED:
                assert found.claim.expect != "greater" or high < 0.5
                assert found.claim.expect != "not_greater" or low > 0.5
    assert len(seen) == 15


def test_pairing_takes_out_what_seeds_have_in_common():
    shared = np.random.default_rng(9).normal(0, 100, 5)
    made = study(5, [("greater", 0.01)])
    (found,) = judged(made, [np.add(NOISE, 0.1)], [shared])
    assert found.verdict == SUPPORTED
    assert found.interval == pytest.approx(one("greater", 0.01, np.add(NOISE, 0.1)).interval)


def test_the_same_numbers_are_less_sure_among_more_claims():
    strong = np.add(NOISE, 0.012)
    made = study(5, [("greater", 0.01)] * 4)
    alone = one("greater", 0.01, strong)
    among = judged(made, [strong, *([NOISE] * 3)], 0.5)[0]
    assert alone.verdict == SUPPORTED and among.verdict == UNCLEAR
    assert alone.level == pytest.approx(0.95) and among.level == pytest.approx(1 - 0.05 / 4)
    assert among.p_adjusted == pytest.approx(4 * alone.p) and among.power < alone.power


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_seed_that_diverged_is_never_left_out(bad):
    found = one("greater", 0.05, [0.1, bad, 0.11, 0.12, 0.1])
    assert found.verdict == UNCLEAR and "not finite with seed 1" in found.reason
    assert found.interval is None and math.isnan(found.difference) and found.n == 5


def test_a_claim_that_cannot_be_judged_counts_among_the_others():
    sound, lost = judged(study(3, [("greater", 0.1)] * 2), [[1.0, 1.1, 0.9], [1.0, math.nan, 1.0]])
    assert lost.verdict == UNCLEAR and sound.level == pytest.approx(0.975)


def test_one_seed_is_no_evidence():
    found = one("greater", 0.1, [5.0])
    assert (found.verdict, found.interval, found.p, found.power) == (UNCLEAR, None, 1.0, None)
    assert "one seed has no interval" in found.reason


@pytest.mark.parametrize("expect", ["greater", "equal"])
def test_three_seeds_that_agree_exactly_are_no_proof_but_six_are(expect):
    value = 0.1 if expect == "greater" else 0.0
    three, six = (one(expect, 0.05, [value] * n) for n in (3, 6))
    assert (
        three.verdict == UNCLEAR
        and three.interval is None
        and "same difference" in three.reason
        and three.reason.endswith("it takes 6.")
    )
    assert six.verdict == SUPPORTED and six.power is None


def test_no_measurement_at_all():
    (found,) = judged(study(3, [("greater", 0.1)]), np.empty((1, 0)))
    assert found.verdict == UNCLEAR and found.n == 0 and "none of the seeds" in found.reason


def test_seeds_that_did_not_run_are_not_judged_but_half_a_pair_is_a_gap():
    made = study(4, [("greater", 0.1)])
    (found,) = judged(made, [[1.0, 1.1, 0.9]])
    assert found.seeds == (0, 1, 2) and found.verdict == SUPPORTED
    values = {("m0", frozenset({("norm", level)}), seed): float(seed) for level in "ab" for seed in range(4)}
    del values["m0", frozenset({("norm", "b")}), 3]
    (found,) = verdict.judge(made, values)
    assert found.verdict == UNCLEAR and "with seed 3 there is no m0 of norm=b" in found.reason


GRID = {"norm": {"a": {}, "b": {}}, "size": {"1": {}, "2": {}}}


def with_claim(made, **changes):
    """The study with another claim."""
    claim = made.claims["claim_0"].model_copy(update=changes)
    return made.model_copy(update={"claims": {"claim_0": claim}})


def two_factors(**changes):
    made = with_claim(study(3, [("greater", 0.1)], grid=GRID), **changes)
    values = {
        ("m0", frozenset({("norm", norm), ("size", size)}), seed): {"a": 2.0, "b": 1.0}[norm] * int(size) + 0.1 * seed
        for norm in "ab"
        for size in "12"
        for seed in range(3)
    }
    return verdict.judge(made, values)[0]


def test_factors_that_are_left_out_are_averaged_seed_by_seed():
    assert two_factors().pairs == (
        (0, pytest.approx(3.0), pytest.approx(1.5)),
        (1, pytest.approx(3.1), pytest.approx(1.6)),
        (2, pytest.approx(3.2), pytest.approx(1.7)),
    )
    found = two_factors(compare={"norm": "a", "size": "2"}, to={"norm": "a", "size": "1"})
    assert (found.compared, found.against) == pytest.approx((4.1, 2.1))


def test_a_number_to_compare_with():
    found = two_factors(compare={"norm": "a", "size": "1"}, to=0.4)
    assert found.against == pytest.approx(0.4) and found.difference == pytest.approx(1.7) and found.verdict == SUPPORTED
    expected = 0.1 * 4.302652729911275 / math.sqrt(3)  # t quantile of tables, 2 degrees of freedom
    assert found.interval == pytest.approx((1.7 - expected, 1.7 + expected))


def test_another_measurement_of_the_same_cells():
    made = with_claim(study(3, [("greater", 0.1)] * 2), to={"measurement": "m1"})
    cell = frozenset({("norm", "a")})
    numbers = {"m0": (1.0, 1.2, 1.1), "m1": (0.5, 0.6, 0.7)}
    values = {(name, cell, seed): column[seed] for name, column in numbers.items() for seed in range(3)}
    (found,) = verdict.judge(made, values)
    assert found.pairs == ((0, 1.0, 0.5), (1, 1.2, 0.6), (2, 1.1, 0.7))


def choosing(levels, **changes):
    made = study(6, [("equal", 0.5)], grid={"norm": {level: {} for level in ["a", *levels]}})
    return with_claim(made, **{"to": {"norm": tuple(levels)}, "choose": "lowest", "choose_on": (0, 1, 2), **changes})


def chosen(errors, **changes):
    made = choosing(["b", "c"], **changes)
    values = {
        ("m0", frozenset({("norm", level)}), seed): row[seed] for level, row in errors.items() for seed in range(6)
    }
    return verdict.judge(made, values)[0]


ERRORS = {
    "a": [9.0, 9.0, 9.0, 1.0, 1.1, 0.9],
    "b": [1.0, 1.0, 1.0, 5.0, 5.2, 4.9],  # the best on the seeds that choose, not on those that judge
    "c": [2.0, 2.0, 2.0, 1.0, 1.0, 1.0],
}


def test_the_best_is_chosen_on_other_seeds_than_those_that_judge():
    found = chosen(ERRORS)
    assert found.chosen == "b" and found.seeds == (3, 4, 5)
    assert found.compared == pytest.approx(1.0) and found.against == pytest.approx(5.0333, abs=1e-4)
    assert found.verdict == NOT_SUPPORTED
    assert chosen(ERRORS, choose="highest").chosen == "c"


def test_a_level_that_diverged_is_not_the_best():
    lost = {**ERRORS, "b": [1.0, math.nan, 1.0, 5.0, 5.2, 4.9]}
    assert chosen(lost).chosen == "c"
    found = chosen({**lost, "c": [math.inf] * 6})
    assert found.verdict == UNCLEAR and "no level of norm is finite on seeds 0, 1, 2" in found.reason


def test_verdicts_are_values():
    found = one("greater", 0.05, np.add(NOISE, 0.1))
    assert replace(found) == found
