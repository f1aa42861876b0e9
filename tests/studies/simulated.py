"""Studies whose measurements are drawn, so that what is true about them is known."""

import numpy as np

from nrm_keras.studies import verdict
from nrm_keras.studies.schema import Study

LEVELS = [frozenset({("norm", level)}) for level in ("a", "b")]


def study(n, claims, choose=None, **changes):
    """One factor with the levels a and b, and a claim for each measurement: a against b."""
    return Study.model_validate(
        {
            "title": "Simulated",
            "claim": "a is more than b",
            "source": "nobody",
            "recipe": "images/mnist_5k",
            "grid": {"norm": {"a": {}, "b": {}}},
            "seeds": tuple(range(n)),
            "measurements": {f"m{index}": {"metric": "test.loss"} for index in range(len(claims))},
            "claims": {
                f"claim_{index}": {
                    "statement": "as it says",
                    "measurement": f"m{index}",
                    "compare": {"norm": "a"},
                    "to": {"norm": "b"},
                    "expect": expect,
                    "smallest_effect": smallest,
                }
                for index, (expect, smallest) in enumerate(claims)
            },
            **changes,
        }
    )


def judged(made, differences, shared=0.0):
    """The verdicts on given paired differences.

    Args:
        made: the study.
        differences: claims x seeds.
        shared: what both sides have in common, claims x seeds: pairing takes it out.
    """
    differences = np.asarray(differences, float)
    b = np.broadcast_to(np.asarray(shared, float), differences.shape)
    values = {
        (f"m{index}", level, seed): float(numbers[index, seed])
        for level, numbers in zip(LEVELS, (b + differences, b), strict=True)
        for index, seed in np.ndindex(differences.shape)
    }
    return verdict.judge(made, values)


def share_of_studies(made, draw, studies=1000, of=verdict.SUPPORTED):
    """The share of studies in which any claim gets this verdict; `draw(i)` gives the differences of the i-th."""
    return np.mean([any(one.verdict == of for one in judged(made, draw(index))) for index in range(studies)])
