"""The configuration of a saved model. Imported while transformers is still importing itself (see
`registration.py`), so it takes no more of transformers than that."""

import importlib
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from fvlm.architectures import ARCHITECTURES


class VideoLanguageConfig(PreTrainedConfig):
    """Configuration of a saved model: its two backbones, its architecture and where its weights came from."""

    model_type = "fvlm"
    sub_configs = {  # pyright: ignore[reportAssignmentType]
        "llm_config": AutoConfig,
        "vision_config": AutoConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values", "queries", "token_losses", "text_mask", "token_right"]

    def __init__(
        self,
        llm_config=None,
        vision_config=None,
        arch="foveated",
        fine_passes=1,
        query_init_scale=0.1,
        read_attended=False,
        read_final=False,
        image_size=224,
        sources=(),
        freeze_vision=False,
        **kwargs,
    ):
        self.llm_config = _as_config(llm_config)
        self.vision_config = _as_config(vision_config)
        self.arch = arch
        self.fine_passes = fine_passes
        self.query_init_scale = kwargs.pop("steer", query_init_scale)  # its name in models saved before
        self.read_attended = read_attended
        self.read_final = read_final
        self.image_size = image_size
        self.freeze_vision = freeze_vision  # frozen, it is seen by its layers' inputs (`NormedInputs`)
        self.sources = list(sources)
        if arch in ARCHITECTURES:
            module, _, name = ARCHITECTURES[arch].model.partition(":")
            kwargs["architectures"] = [name]  # by which AutoModel finds the class
            importlib.import_module(
                module
            )  # fvlm.models registers its classes; late, as transformers is whole now
        super().__init__(**kwargs)

    def get_text_config(self, decoder=None, encoder=None):
        """The LLM's configuration: what has a vocabulary and tokens that end a text."""
        return self if self.llm_config is None else self.llm_config


def _as_config(config) -> Any:
    if isinstance(config, dict):
        config = dict(config)
        return AutoConfig.for_model(config.pop("model_type"), **config)
    return config
