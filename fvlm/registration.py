"""Auto classes of transformers know fvlm's models once `fvlm` is imported, which imports no transformers.

`import fvlm` stays quick: it waits for transformers to be imported, before or after, and then registers the
configuration and the processor, each as soon as the Auto class that is to know it exists. Models register
themselves (`fvlm/models/__init__.py`), which the first configuration sees to."""

import importlib.abc
import importlib.util
import sys


def when_transformers_is_there():
    """Register now what transformers already has a place for, and the rest when it is imported."""
    for name, register in WAITING.items():
        if name in sys.modules:
            register()
        else:
            sys.meta_path.insert(0, _AfterImport(name, register))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function when one module has been imported, once."""

    def __init__(self, name: str, then):
        self.name, self.then = name, then

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)  # by the finders that are left
        load = spec.loader.exec_module

        def load_and_register(module):
            load(module)
            self.then()

        spec.loader.exec_module = load_and_register
        return spec


def _register_config():
    from transformers.models.auto.configuration_auto import AutoConfig

    configuration = importlib.import_module("fvlm.huggingface.configuration")
    AutoConfig.register("fvlm", configuration.VideoLanguageConfig, exist_ok=True)


def _register_processor():
    from transformers.models.auto.processing_auto import AutoProcessor

    importing = importlib.import_module
    config = importing("fvlm.huggingface.configuration").VideoLanguageConfig
    AutoProcessor.register(config, importing("fvlm.huggingface.processor").FoveatedProcessor, exist_ok=True)


def lmms_eval_models():
    """What lmms-eval is told of this package, by its entry point."""
    manifest = importlib.import_module("lmms_eval.models.registry_v2").ModelManifest
    return manifest(model_id="fvlm", simple_class_path="fvlm.lmms.FoveatedLmms")


WAITING = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.processing_auto": _register_processor,
}
