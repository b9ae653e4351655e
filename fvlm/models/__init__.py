"""The models: `build_model(config)` makes one from a `RunConfig`, `load_model(folder)` reads a saved one."""

from transformers import AutoModel, AutoModelForImageTextToText

from fvlm.architectures import RECORDS
from fvlm.huggingface.configuration import VideoLanguageConfig
from fvlm.models.base import PromptAndMasks, VideoLanguageModel, VideoTextOutput
from fvlm.models.baseline import BaselineVLM, BlindVLM, MeanPoolVLM
from fvlm.models.build import build_model, load_model, model_class, parameter_group, parameter_groups
from fvlm.models.foveated import FoveatedVLM, StaticVLM
from fvlm.models.vision import FoveatedEncoder, FrameCache

__all__ = [
    "BaselineVLM",
    "BlindVLM",
    "FoveatedEncoder",
    "FoveatedVLM",
    "FrameCache",
    "MeanPoolVLM",
    "PromptAndMasks",
    "StaticVLM",
    "VideoLanguageConfig",
    "VideoLanguageModel",
    "VideoTextOutput",
    "build_model",
    "load_model",
    "model_class",
    "parameter_group",
    "parameter_groups",
]

# transformers picks the one of these that a saved configuration names
_CLASSES = tuple(model_class(record.name) for record in RECORDS)
for auto in (AutoModel, AutoModelForImageTextToText):
    auto.register(VideoLanguageConfig, _CLASSES, exist_ok=True)
