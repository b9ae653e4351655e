"""From a `RunConfig` to a model with weights, and from a saved folder back to a model."""

import functools
import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from fvlm.architectures import ARCHITECTURES
from fvlm.config import ConfigError, RunConfig
from fvlm.files import read_json_object, readable
from fvlm.huggingface.configuration import VideoLanguageConfig
from fvlm.huggingface.processor import FoveatedProcessor
from fvlm.models.base import VideoLanguageModel
from fvlm.weights import Source, fetch, llm_config, load_tokenizer, vision_config

transformers_logging.disable_progress_bar()  # its bars would clutter notebooks; downloads keep theirs

BACKBONES = {"llm": "llm.", "vision": "vision.dinov2."}  # how the names of their parameters start


def build_model(config: RunConfig, pretrained: bool = True) -> VideoLanguageModel:
    """The model of a run, on the CPU in float32, in evaluation mode, with what the run freezes frozen.

    pretrained=True loads LLM and vision weights (see `fvlm.weights`; `ConfigError` where there are none),
    except for the tiny LLMs, which start from random weights. pretrained=False starts everything from random
    weights. `model.config.sources` says where each came from. Under `torch.device("meta")` nothing is
    allocated."""
    torch.manual_seed(config.seed)
    model = model_class(config.arch)(
        VideoLanguageConfig(
            llm_config=llm_config(config),
            vision_config=vision_config(config),
            arch=config.arch,
            fine_passes=config.fine_passes,
            query_init_scale=config.query_init_scale,
            read_attended=config.read_attended,
            read_final=config.read_final,
            image_size=config.image_size,
            freeze_vision=config.freeze_vision,
        )
    )
    sources = [_load_llm(model, config.llm, pretrained)]
    if model.vision is not None:
        sources.append(_load_vision(model, config.vision, pretrained))
    model.config.sources = [str(source) for source in sources]
    model.init_from_backbones()
    freeze(model, config)
    model.make_processor = functools.partial(processor_of, config)
    return model.eval()


def processor_of(config: RunConfig) -> FoveatedProcessor:
    """What makes a run's videos and texts its model's inputs."""
    tokenizer = load_tokenizer(config.llm)
    return FoveatedProcessor(tokenizer, config.frames, config.image_size, config.task, config.letterbox)


def model_class(arch: str) -> type[VideoLanguageModel]:
    """The class of an architecture, as its record in `fvlm/architectures.py` says. `ConfigError` if there is
    no such record."""
    if arch not in ARCHITECTURES:
        raise ConfigError(f"arch = {arch!r}: valid are {', '.join(ARCHITECTURES)}")
    module, name = ARCHITECTURES[arch].model.split(":")
    return getattr(importlib.import_module(module), name)


def freeze(model: VideoLanguageModel, config: RunConfig):
    """Stop training what the run freezes: the weights of a backbone, never the connector, which includes the
    vision encoder's `query_in` and `query_out`."""
    if config.freeze_vision and model.vision is not None:
        model.vision.dinov2.requires_grad_(False)
        model.vision.encodes_in = torch.bfloat16 if config.precision == "bf16_vision" else None
    if config.freeze_llm:
        model.llm.requires_grad_(False)


def load_model(folder: str | Path) -> VideoLanguageModel:
    """A model saved by `model.save_pretrained(folder)`. `ConfigError` if there is none, or if its
    architecture has no record."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError(f"{folder}: no model here (config.json is missing)")
    arch = read_json_object(path).get("arch")
    if not isinstance(arch, str):
        raise ConfigError(f"{path}: no 'arch', so no model that this repository saved")
    with readable(f"{path}: not the configuration of a model saved here"):
        model: Any = model_class(arch).from_pretrained(folder)
    return model


def parameter_group(name: str) -> str:
    """ "llm" or "vision" for a parameter of a backbone, by its name in the model; "connector" for any
    other."""
    for group, start in BACKBONES.items():
        if name.startswith(start):
            return group
    return "connector"


def parameter_groups(model: VideoLanguageModel) -> dict[str, int]:
    """Number of parameters by `parameter_group`, with the LLM's embeddings as a group "embedding" of their
    own, and "total" and "trainable".

    vision + connector + llm + embedding = total; tied weights count once, as embedding."""
    embedding = {id(p) for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    groups = dict(vision=0, connector=0, llm=0, embedding=0, total=0, trainable=0)
    for name, p in model.named_parameters():
        group = "embedding" if id(p) in embedding else parameter_group(name)
        groups[group] += p.numel()
        groups["total"] += p.numel()
        groups["trainable"] += p.numel() * p.requires_grad
    return groups


def _load_llm(model, name, pretrained) -> Source:
    if not pretrained or name.startswith("tiny"):
        return Source(name, "", "random", "")
    from transformers import AutoModelForCausalLM

    source = fetch(name)
    with readable(f"llm = {name!r}: {source.folder} holds no LLM that can be read"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        llm, info = loaded
        _require_all(info, f"llm = {name!r}: {source.folder}")
        model.llm.load_state_dict(llm.state_dict())
    return source


def _require_all(info: dict, what: str):
    """ConfigError for weights that a folder lacks, which transformers makes up, and says so in its log."""
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacking:
        raise ConfigError(
            f"{what} lacks weights, or has them of another shape: {', '.join(lacking[:5])} "
            f"({len(lacking)} in all)"
        )


def _load_vision(model, name, pretrained) -> Source:
    if not pretrained:
        return Source(name, "", "random", "")
    from transformers import Dinov2Model

    try:
        source = fetch("small" if name == "tiny" else name)
    except ConfigError as error:
        if name != "tiny":
            raise
        warnings.warn(
            f"the tiny vision model starts from random weights and will see badly: {error}", stacklevel=2
        )
        return Source(name, "", "random (DINOv2-small could not be had)", "")
    with readable(f"vision = {name!r}: {source.folder} holds no DINOv2 that can be read"):
        loaded: Any = Dinov2Model.from_pretrained(
            source.folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        dinov2, info = loaded
        _require_all(info, f"vision = {name!r}: {source.folder}")
        state, mine = dinov2.state_dict(), model.vision.dinov2.state_dict()
        model.vision.dinov2.load_state_dict(
            {key: state[key] for key in mine}
        )  # perhaps only the first layers
    return source
