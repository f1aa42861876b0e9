"""Registers what this package adds to saved models as soon as Keras is there, in whichever order the two are imported.

Keras finds a saved class among those that are registered, and imports no module outside its own packages to look for it.
"""

import sys
import warnings

_LAYERS = "nrm_keras.layers"


class _Watcher:
    """A finder of modules that finds none itself, but learns when Keras is imported."""

    done = False

    def __init__(self):
        self.loading = set()

    def find_spec(self, name, path=None, target=None):
        if self.done:
            return None
        if _complete():
            self.register()
        if name not in ("keras", _LAYERS):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec

    def register(self):
        # the models need all of the layers: where the layers' own import led here, this comes again behind it
        if self.done or _LAYERS in self.loading:
            return
        self.done = True
        try:
            import nrm_keras.layers
            import nrm_keras.models
            import nrm_keras.serving.specialization.layers  # those of models for inference
            import nrm_keras.training.optimizers  # the schedules of compiled models
            import nrm_keras.training.tasks  # noqa: F401  their losses and metrics
        except Exception as error:  # noqa: BLE001
            # Whoever imports Keras may not need this package at all.
            warnings.warn(
                "nrm_keras could not register its layers with Keras, so saved models that hold them can't be loaded. "
                f"Received: {type(error).__name__}: {error}. `import nrm_keras.layers` shows where it fails.",
                RuntimeWarning,
                stacklevel=2,
            )


class _Loader:
    """Loads Keras, or the layers, as its loader does, and registers behind it."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        _watcher.loading.add(module.__name__)
        try:
            self._loader.exec_module(module)
        finally:
            _watcher.loading.discard(module.__name__)
        _watcher.register()


# It stays among the finders: to take it out while they are gone through would make the import skip one.
_watcher = _Watcher()


def watch() -> None:
    """Registers now if Keras is imported, otherwise right behind its import."""
    if _watcher.done:
        return
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)
    if sys.modules.get("keras") is not None:
        import keras  # noqa: F401  waits for a thread that is at it
    if _complete():
        _watcher.register()


def _complete():
    """Whether Keras is imported to the end; not so where its own import has led here."""
    keras = sys.modules.get("keras")
    return keras is not None and not getattr(getattr(keras, "__spec__", None), "_initializing", False)
