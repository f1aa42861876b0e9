"""The fault corpus: small Keras programs with one planted fault each, and healthy programs that look much like them.

It measures the diagnostics: on how many faulty programs they raise an alarm, with the right layer named where a layer is
at fault, and on how many healthy ones they raise a false one. All programs are built and trained with three seeds:

    for program in PROGRAMS:
        run = program.build(seed)
        run.fit(callbacks=[...])

A faulty program differs from its healthy twin by one argument, which `@pair` names above the function of both. `layer` is
the layer at fault, None where no single layer is, such as with a learning rate; `layers` has all whose naming is right,
and a comment says why if there are several. `python tests/faults/harm.py` measures that each fault harms and that
healthy programs learn.

Thresholds are set on the half "tuning" only; rates are reported on the half "held out". The halves were laid down before
there was a detector, balanced by family and by kind of fault; a faulty program is in its twin's half. They stay so.

A program is added as a function of the seed in its family's file, with every layer named, under `@pair(kind, layers at
fault, argument=value)` or `@healthy()`. Its fit takes 100 to 250 steps and a few seconds. Measure its harm; then put it
into the half that has fewer programs of its kind or family, before any detector has seen it.
"""

from tests.faults import cnn, mlp, recurrent, transformer  # noqa: F401 (they fill PROGRAMS)
from tests.faults.corpus import PROGRAMS, Program, Run

__all__ = ["PROGRAMS", "SEEDS", "Program", "Run", "half"]

SEEDS = (0, 1, 2)

# Names of healthy programs; a faulty one goes with its twin.
HELD_OUT = frozenset(
    (
        *("mlp_adam", "mlp_bias", "mlp_cancer", "mlp_deep", "mlp_labels", "mlp_offset", "mlp_one_unit", "mlp_sparse"),
        *("cnn_groups", "cnn_large", "cnn_momentum", "cnn_norm_last", "cnn_pixels", "cnn_small", "cnn_two_examples"),
        *("rnn_dropout", "rnn_embedding", "rnn_frozen", "rnn_late_nan", "rnn_masked", "rnn_regularizer", "rnn_relu"),
        *("tf_clipping", "tf_decay", "tf_epsilon", "tf_logits", "tf_rate", "tf_warmup"),
    )
)


def half(program: Program) -> str:
    """Which half the program belongs to: "tuning" or "held out"."""
    return "held out" if (program.twin or program.name) in HELD_OUT else "tuning"
