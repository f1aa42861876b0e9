"""What specialization changes in the graph of a model, one layer after the other."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
from keras import layers

from nrm_keras.layers.running import RunningNormalizer
from nrm_keras.serving.specialization import folding, gates
from nrm_keras.surgery.copying import Copier, call_in_place
from nrm_keras.surgery.structure import is_graph, is_sequence, is_wrapper

# They do nothing at inference.
_TRAINING_ONLY = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization),
    layers.Identity,
)
_LARGE_MEAN = f"left as it is: a running mean is more than {folding.LARGEST_MEAN:g} deviations from 0"


class Change(NamedTuple):
    """What was done to the layer of that path. `otherwise` does something exact instead, where it was not."""

    layer: str
    what: str
    otherwise: Callable[[], Change] | None = None


class Rewriting:
    """A functional model in which some layers have others in their place, or nothing. The model itself stays as it is.

    Args:
        model: a functional model, or a sequential one inside of such a model.
        gate_tolerance: how near to 0 or 1 the weights of a mixture of normalizers are taken for these.
        compared: whether outputs are compared after each change, so that it can be undone.
    """

    def __init__(self, model: keras.Model, gate_tolerance: float, compared: bool = True):
        self._model = model
        self._gate_tolerance = gate_tolerance
        self._compared = compared
        # By id: what stands in the layer's place, None where its input goes on as it is.
        self._standing_in: dict[int, layers.Layer | None] = {}
        self._layers: dict[int, layers.Layer] = {}
        self._paths: dict[int, str] = {}
        self._nodes = collections.defaultdict(list)
        self._consumers = collections.defaultdict(list)
        self._survey(model, "")

    def changes(self) -> Iterator[Change]:
        """Makes one change after the other; each is made when it is yielded."""
        rules = (self._leave_out, self._empty, self._settle, self._inside, self._fold, self._work_out, self._hidden)
        for rule in rules:
            for layer in list(self._layers.values()):
                done = rule(layer)
                if done is not None:
                    yield done

    def run(self, inputs):
        """The outputs for a batch of inputs at inference."""
        return self._run(self._model, inputs)

    def copy(self) -> keras.Model:
        """A model of its own with all of the changes."""
        return Copier([(self._layers[key], other) for key, other in self._standing_in.items()]).copy(self._model)

    def _survey(self, model, path):
        """Takes down the layers of a model and of the models inside it, and who takes whose output."""
        graph = _graph(model)
        for tensor in graph.outputs:
            self._consumers[id(tensor._keras_history.operation)].append(None)
        for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
            self._nodes[id(node.operation)].append(node)
            for tensor in node.input_tensors:
                self._consumers[id(tensor._keras_history.operation)].append(node.operation)
        for layer in graph.layers:
            if id(layer) in self._layers:
                continue
            self._layers[id(layer)] = layer
            self._paths[id(layer)] = f"{path}/{layer.name}" if path else layer.name
            if _graph(layer) is not None:
                self._survey(layer, self._paths[id(layer)])
            else:
                for inner in layer._flatten_layers(include_self=False):
                    # What the code around it does with its output is not known.
                    self._consumers[id(inner)].append(None)

    def _run(self, model, inputs):
        graph = _graph(model)
        return graph._run_through_graph(graph._standardize_inputs(inputs), operation_fn=self._operation)

    def _operation(self, operation):
        if id(operation) in self._standing_in:
            other = self._standing_in[id(operation)]
            return lambda *args, **kwargs: call_in_place(other, *args, **kwargs)
        if _graph(operation) is not None:
            return lambda inputs, *args, **kwargs: self._run(operation, inputs)
        if "training" in getattr(operation, "_call_context_args", {}):
            return lambda *args, **kwargs: operation(*args, **kwargs | {"training": False})
        return operation

    def _change(self, layer, other, what, otherwise=None):
        if other is layer:
            self._standing_in.pop(id(layer), None)
        else:
            self._standing_in[id(layer)] = other
        return Change(self._paths[id(layer)], what, otherwise)

    def _leave_out(self, layer):
        linear = type(layer) is layers.Activation and layer.activation is keras.activations.linear
        if (linear or type(layer) in _TRAINING_ONLY) and self._keeps_dtype(layer):
            return self._change(layer, None, f"left out: {type(layer).__name__} does nothing at inference")
        return None

    def _empty(self, layer):
        if is_sequence(layer) and all(self._now(part) is None for part in layer.layers):
            return self._change(layer, None, "left out: nothing is left in it")
        return None

    def _settle(self, layer):
        """What a mixture of normalizers is, whose weights are constants now."""
        source = gates.source(layer, self._gate_tolerance)
        if source is not None:
            what = f"all of its weights are on the statistics of '{source}': became that normalizer"
            undone = functools.partial(self._change, layer, layer, "left as it is: the weights that are not 0 matter")
            return self._change(layer, gates.of_source(layer, source), what, undone)
        gate = gates.gate(layer)
        if gate is None:
            return None
        for near, name, become in (
            (gate.min() >= 1 - self._gate_tolerance, "batch normalization", gates.batch_normalization),
            (gate.max() <= self._gate_tolerance, "group normalization", gates.alternative),
        ):
            if near:
                what = f"its gate is {_values(gate)}: became {name}"
                return self._change(layer, become(layer), what, functools.partial(self._fix_gate, layer, gate))
        return self._fix_gate(layer, gate)

    def _fix_gate(self, layer, gate):
        if folding.has_large_mean(layer):
            return self._change(layer, layer, _LARGE_MEAN)
        return self._change(layer, gates.fixed_mixture(layer), f"its gate is {_values(gate)}: constants worked out")

    def _work_out(self, layer):
        """Group normalization, whose gamma and beta are constants now. A large mean costs it digits then."""
        normalizer = self._now(layer)
        if not self._compared or not gates.is_alternative(normalizer):
            return None
        undone = functools.partial(self._change, layer, normalizer, "left as it is: its inputs have a large mean")
        return self._change(layer, gates.fixed_mixture(normalizer), "constants worked out", undone)

    def _inside(self, layer):
        """The model inside a wrapper. Its gates are not rounded: nothing could be said about each of them."""
        if not is_wrapper(layer) or _graph(layer.layer) is None:
            return None
        inner = Rewriting(layer.layer, gate_tolerance=0.0, compared=False)
        done = [f"{change.layer}: {change.what}" for change in inner.changes()]
        if not done:
            return None
        new = type(layer)(**layer.get_config() | {"layer": inner.copy(), "dtype": layer.dtype_policy})
        new.build(folding.input_shape(layer))
        return self._change(layer, new, "; ".join(done))

    def _fold(self, layer):
        normalizer = self._now(layer)
        if not folding.is_batch_normalization(normalizer):
            return None
        linear, rank = self._only_source(layer), len(folding.input_shape(layer))
        axis = normalizer.axis % rank
        if linear is not None and self._keeps_dtype(layer) and folding.takes_over(self._now(linear), axis, rank):
            taking = folding.taking_over(self._now(linear), folding.map_of(normalizer))
            self._standing_in[id(linear)] = taking
            return self._change(layer, None, f"folded into '{self._paths[id(linear)]}'")
        if folding.has_large_mean(normalizer):
            return Change(self._paths[id(layer)], _LARGE_MEAN)
        return self._change(layer, folding.affine(normalizer), "a factor and an offset of each channel worked out")

    def _hidden(self, layer):
        """Says what is left where there is no graph to see."""
        if _graph(layer) is not None or id(layer) in self._standing_in:
            return None
        inner = layer._flatten_layers(include_self=False)
        left = sum(isinstance(part, (layers.BatchNormalization, RunningNormalizer)) for part in inner)
        what = f"left as it is: {left} normalizers are inside of {type(layer).__name__}, which has code of its own"
        return Change(self._paths[id(layer)], what) if left else None

    def _now(self, layer):
        return self._standing_in.get(id(layer), layer)

    def _only_source(self, layer):
        """The layer whose every output goes to `layer` and nowhere else, and whose output is all that goes there."""
        sources = [self._source(node) for node in self._nodes[id(layer)]]
        first = sources[0] if sources else None
        if id(first) not in self._layers or any(one is not first for one in sources):
            return None
        return first if all(one is layer for one in self._takers(first)) else None

    def _source(self, node):
        """Whose output a node takes first; None where that is not known."""
        while node.arguments.args and isinstance(node.arguments.args[0], keras.KerasTensor):
            operation, index, _ = node.arguments.args[0]._keras_history
            if self._now(operation) is not None:
                return operation
            node = operation._inbound_nodes[index]
        return None

    def _takers(self, layer):
        """Who takes a layer's outputs; None for one who is not known, and for the outputs of a model."""
        for taker in self._consumers[id(layer)]:
            if taker is not None and self._now(taker) is None:
                yield from self._takers(taker)
            else:
                yield taker

    def _keeps_dtype(self, layer):
        """Whether its one input has the dtype of its output, wherever it is called."""
        calls = [(node.arguments.args, node.outputs) for node in self._nodes[id(layer)]]
        return all(args and getattr(args[0], "dtype", None) == outputs[0].dtype for args, outputs in calls)


def _values(gate):
    return f"{gate.min():.5f}" if gate.min() == gate.max() else f"{gate.min():.5f} to {gate.max():.5f}"


def _graph(model):
    """The functional model that it is, or that a sequential one has; None if there is none to see."""
    if is_sequence(model):
        return model._functional
    return model if is_graph(model) else None
