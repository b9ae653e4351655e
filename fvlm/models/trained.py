"""The trained part of a model by itself, and by their hashes the frozen weights it needs.

A run of the built-in world trains a few megabytes beside a frozen vision model of many more, which anybody
can have. `save_trained` leaves those out and says which they were; `load_trained` puts both together again
and refuses other frozen weights than those the run was trained with."""

import hashlib
import json
from pathlib import Path

import torch

from fvlm.config import ConfigError, RunConfig
from fvlm.files import readable, write_json
from fvlm.huggingface.configuration import VideoLanguageConfig
from fvlm.models.base import VideoLanguageModel
from fvlm.models.build import BACKBONES, model_class
from fvlm.weights import sources_of

LARGEST = 5_000_000  # bytes of a file that a repository can carry
WEIGHTS, FROZEN = "trained.safetensors", "frozen.json"


def save_trained(model: VideoLanguageModel, config: RunConfig, folder: str | Path) -> Path:
    """Write what a run has trained of its model, `config.json`, `trained.safetensors` and `frozen.json`.

    A backbone that the run froze, and whose weights can be had again, is left out: `frozen.json` has its name
    and the SHA-256 of its tensors. ConfigError, and nothing is written, if more than LARGEST bytes are
    left."""
    from safetensors.torch import save_file

    folder, frozen = Path(folder), {}
    state = _without_ties(model.state_dict())
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    for part, name in _frozen_parts(config).items():
        own = _under(state, BACKBONES[part])
        digest = tensors_sha256(own)
        if own and _can_be_had(part, name, own, digest):
            source = next(line for line in model.config.sources if line.startswith(f"{name} "))
            frozen[part] = dict(name=name, sha256=digest, source=source)
            state = {key: tensor for key, tensor in state.items() if not key.startswith(BACKBONES[part])}
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > LARGEST:
        raise ConfigError(
            f"{config.cell}: its trained part is {size / 1e6:.1f} MB, more than the {LARGEST / 1e6:.0f} MB "
            "that go into a repository; `fvlm push` takes the whole model to the hub"
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    save_file(state, folder / WEIGHTS)
    write_json(folder / FROZEN, frozen)
    return folder


def load_trained(folder: str | Path) -> VideoLanguageModel:
    """The model whose trained part lies in `folder`, with the frozen weights it was trained with, in
    evaluation mode on the CPU.

    ConfigError if those can't be had, or are others, or if the file does not fit the model or can't be
    read."""
    folder = Path(folder)
    if not (folder / FROZEN).exists():
        raise ConfigError(f"{folder}: no trained part of a model here ({FROZEN} is missing)")
    with readable(f"{folder}: no trained part of a model that can be read"):
        return _load_trained(folder)


def _load_trained(folder: Path) -> VideoLanguageModel:
    from safetensors.torch import load_file

    arch = json.loads((folder / "config.json").read_text())["arch"]
    model = model_class(arch)(VideoLanguageConfig.from_pretrained(folder))
    state = load_file(folder / WEIGHTS)
    expected = model.state_dict()
    for part, told in json.loads((folder / FROZEN).read_text()).items():
        own = _under(expected, BACKBONES[part])
        found = _matching(part, told["name"], own, told["sha256"])
        if found is None:
            raise ConfigError(
                f"{folder}: it was trained with the frozen weights {told['source']}, whose tensors have the "
                f"SHA-256 {told['sha256'][:12]}; none that can be had as {told['name']!r} are the same"
            )
        state |= {BACKBONES[part] + key: tensor for key, tensor in found.items()}
    foreign = sorted(state.keys() - expected.keys())
    missing = sorted(_without_ties(expected).keys() - state.keys())
    shapes = sorted(key for key in state.keys() & expected.keys() if state[key].shape != expected[key].shape)
    if foreign or missing or shapes:
        told = {"foreign": foreign, "missing": missing, "of another shape": shapes}
        what = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in told.items() if names)
        raise ConfigError(f"{folder}: not the weights of a {type(model).__name__}: {what}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of tensors as they are, whatever file they came from: names, shapes and float32 bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _frozen_parts(config: RunConfig) -> dict[str, str]:
    """The backbones that a run froze, by part, with the names of their weights."""
    parts = {}
    if config.freeze_vision and config.arch != "blind":
        parts["vision"] = "small" if config.vision == "tiny" else config.vision
    if config.freeze_llm and not config.tiny:
        parts["llm"] = config.llm
    return parts


def _matching(part: str, name: str, own: dict, digest: str) -> dict[str, torch.Tensor] | None:
    """The tensors named as in `own` of the weights `name`, from wherever they can be had, if they have this
    hash."""
    for source in sources_of(name):
        found = _backbone_state(part, source.folder)
        if own.keys() <= found.keys():
            found = {key: found[key] for key in own}
            if tensors_sha256(found) == digest:
                return found
    return None


def _can_be_had(part: str, name: str, own: dict, digest: str) -> bool:
    try:
        return _matching(part, name, own, digest) is not None
    except ConfigError:  # no weights of this name: those of the run are random
        return False


def _backbone_state(part: str, folder: str) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM, Dinov2Model

    loader = Dinov2Model if part == "vision" else AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=torch.float32).state_dict()


def _under(state: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def _without_ties(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor once: of several names of the same one the first."""
    seen, kept = set(), {}
    for name, tensor in state.items():
        place = tensor.data_ptr(), tensor.shape
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor
            seen.add(place)
    return kept
