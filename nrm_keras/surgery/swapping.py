"""Exchange the normalizers of a model."""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Callable

import keras

from nrm_keras import registry
from nrm_keras.layers.named import NAMED
from nrm_keras.recipe.problems import did_you_mean
from nrm_keras.surgery import structure
from nrm_keras.surgery.carrying import carry, options
from nrm_keras.surgery.copying import Copier


@dataclasses.dataclass(frozen=True)
class Replaced:
    """A normalizer that was replaced: where, by what, and what became of its weights."""

    path: str
    before: str
    after: str
    carried: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Left:
    """A normalizer that was left, and why."""

    path: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class SwapReport:
    """What `swap_normalization` did. `print` shows it."""

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...]

    @property
    def recalibrate(self) -> bool:
        """Whether new layers have running statistics that nothing was known of."""
        return any(one.unknown for one in self.replaced)

    def __str__(self):
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.left)} normalizers replaced"]
        grouped = collections.Counter(dataclasses.replace(one, path="") for one in self.replaced)
        for one, count in grouped.items():
            kept = ", ".join(one.carried) or "nothing"
            lost = f"; dropped {', '.join(one.dropped)}" if one.dropped else ""
            lines.append(f"  {count} x {one.before} -> {one.after}: carried over {kept}{lost}")
        lines += [f"  left {one.path} ({one.kind}): {one.reason}" for one in self.left]
        lines += [f"  {note}" for note in self.notes]
        if self.recalibrate:
            unknown = sorted({name for one in self.replaced for name in one.unknown})
            lines.append(
                f"  Nothing is known of {', '.join(unknown)}: nrm_keras.recalibrate(model, dataset) measures it."
            )
        return "\n".join(lines)


def swap_normalization(
    model: keras.Model,
    to: str | Callable[..., keras.layers.Layer],
    *,
    where: Callable[[keras.layers.Layer], bool] | None = None,
    verbose: bool = True,
    **kwargs,
) -> keras.Model:
    """Copies a model with other normalizers in the place of its own.

    The copy has the names, shared layers, frozen layers and weights of the model, which stays as it is. A new normalizer
    has the name of the one it replaces, its `axis`, `epsilon`, `momentum`, regularizers, dtype policy and so on as far
    as it has such arguments, its gamma and beta, and its running statistics where both have them.

    Replaced are the normalizers of `keras.layers` and of this package: in functional and sequential models, in models
    inside models, and in wrappers such as `TimeDistributed`. Left are those inside a layer with code of its own, and
    subclasses of normalizers, which may mean something else; the report says so.

    Args:
        model: a functional or sequential model that is built.
        to: "batch", "layer", "sample", "group", "instance", "rms", "switchable", "adaptive", a name under which a recipe's
            `norm` was registered, or a class or function that makes a layer. A function is called with `name` and what else of the
            old layer's arguments it names.
        where: which normalizers to replace, a function of the layer; it may choose subclasses too.
        verbose: whether to print what was done. The same is in the copy's `swap_report`, until it is saved.
        **kwargs: arguments of the new layers, such as `groups=8`. They come before those of the old one.

    Returns:
        The new model, not compiled: an optimizer belongs to the weights it was made for.

    Raises:
        TypeError: `model` is no Keras model, or `to` is neither a name nor a function.
        ValueError: the model's layers are not known (a subclassed or unbuilt model), there is no normalizer to replace,
            a new layer cannot be made or be called like the old one (all such layers are listed), or another layer
            cannot be rebuilt from its configuration.

    Example:

    >>> import keras
    >>> import nrm_keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.BatchNormalization()])
    >>> model = nrm_keras.swap_normalization(model, "group", groups=2)
    1 of 1 normalizers replaced
      1 x BatchNormalization -> GroupNormalization: carried over gamma, beta; dropped moving_mean, moving_variance
    >>> model.swap_report.replaced[0].before
    'BatchNormalization'

    Source: the question whose statistics a trained network can do with is Wu & Johnson 2021 (arXiv:2105.07576).
    """
    _check_model(model)
    chosen, left = _choose(model, where)
    exchanged = _make_all(chosen, _builder(to), kwargs)
    copier = Copier([(layer, new) for _, layer, new in exchanged])
    copy = copier.copy(model)
    replaced = tuple(
        Replaced(path, type(old).__name__, type(new).__name__, *carry(old, new)) for path, old, new in exchanged
    )
    copy.swap_report = SwapReport(replaced, tuple(left), tuple(copier.notes))
    if verbose:
        print(copy.swap_report)
    return copy


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: {type(model).__name__}. Put layers into a keras.Sequential."
        )
    if not (structure.is_graph(model) or structure.is_sequence(model)):
        raise ValueError(
            "`model` must be functional or sequential: which layers a `call` of its own uses, and how, is not known. "
            f"Received: {type(model).__name__}. Give the class the normalizer as an argument, and build it anew."
        )
    if not model.built:
        raise ValueError(
            f"`model` must be built, its weights have no shape yet. Received: '{model.name}', which is not. "
            "Start it with a keras.Input, or call `model.build(input_shape)`."
        )


def _choose(model, where):
    """(path, layer) of the normalizers to replace, and those left with the reason."""
    chosen, left, seen = [], [], set()
    for path, layer in structure.visible(model):
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if not structure.is_normalizer(layer):
            left += [
                Left(f"{path}/{inner.name}", type(inner).__name__, f"{type(layer).__name__} has code of its own")
                for inner in structure.hidden(layer)
            ]
        elif where is None and type(layer) not in structure.KNOWN:
            left.append(Left(path, type(layer).__name__, "a subclass may mean something else; choose it with `where`"))
        elif where is not None and not where(layer):
            left.append(Left(path, type(layer).__name__, "not chosen by `where`"))
        else:
            chosen.append((path, layer))
    if not chosen:
        reasons = "".join(f"\n  left {one.path} ({one.kind}): {one.reason}" for one in left)
        raise ValueError(
            "There must be a normalizer to replace: one of keras.layers or nrm_keras.layers, in sight. "
            f"Received: '{model.name}', which has none.{reasons}"
        )
    return chosen, left


def _builder(to):
    if isinstance(to, str):
        if registry.is_registered("norm", to):
            return registry.get("norm", to)
        if to not in NAMED:
            raise ValueError(
                f"`to` must be the name of a normalizer, a class or a function. Received: {to!r}."
                f"{did_you_mean(to, [*NAMED, *_registered()])} To leave normalizers out, pass keras.layers.Identity."
            )
        return NAMED[to]
    if not callable(to):
        raise TypeError(f"`to` must be a name, a class or a function. Received: {to!r}. Pass 'batch', for example.")
    return to


def _registered():
    return [name for name in registry.names("norm") if registry.is_registered("norm", name)]


def _make_all(chosen, builder, kwargs):
    """(path, layer, new layer); one error for all that fail."""
    exchanged, failed = [], []
    for path, layer in chosen:
        try:
            exchanged.append((path, layer, _make(layer, builder, kwargs)))
        except (TypeError, ValueError) as error:
            failed.append((path, layer, error))
    if failed:
        name = getattr(builder.func if isinstance(builder, functools.partial) else builder, "__name__", "the function")
        lines = "".join(f"\n  {path} ({type(layer).__name__}): {error}" for path, layer, error in failed)
        raise ValueError(
            f"{name} must be able to stand in for each normalizer. Received: {len(failed)} of {len(chosen)} where it "
            f"is not:{lines}\nPass other arguments, or leave these layers out with `where`."
        ) from failed[0][2]
    return exchanged


def _make(layer, builder, kwargs):
    fixed = builder.keywords if isinstance(builder, functools.partial) else {}
    arguments = {"name": layer.name, **options(layer, builder), **fixed, **kwargs}
    try:
        trial = builder(**arguments)
    except TypeError as error:
        if isinstance(arguments.get("axis"), (list, tuple)):
            raise TypeError(f"it has one channel axis. Received: axis={list(arguments['axis'])}.") from error
        raise
    _try(trial, (layer.get_build_config() or {}).get("input_shape"))
    # Not the one that was tried: built outside its models, its weights would lack their names in their path.
    return builder(**arguments)


def _try(new, shape):
    """Raises unless the layer can be called like a normalizer, on inputs of that shape."""
    if not isinstance(new, keras.layers.Layer):
        raise TypeError(f"A layer was expected. Received: {new!r}.")
    _check_call(new)
    if shape is not None:
        new.build(shape)


def _check_call(new):
    _, *others = inspect.signature(new.call).parameters.values()
    needed = [p.name for p in others if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise ValueError(f"its call needs {', '.join(needed)} besides the inputs, which the model does not give it.")
