"""What a frozen vision model makes of clips, computed once and kept on disk for all runs (`fvlm.data.store`).

B batch, T frames, N tokens of a frame (CLS first), D vision width.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence, Sized

import numpy as np
import torch

from fvlm.config import PATCH, RunConfig
from fvlm.costs.machine import autocast
from fvlm.data import Batch, open_dataset
from fvlm.data.store import FeatureStore, limit
from fvlm.models import FrameCache, VideoLanguageModel
from fvlm.models.vision import NormedInputs


class Features:
    """The features of a run's clips: read from its store where they are there, computed and kept where not.

    Kept is what queries find, each layer's normed input (T, N, D), and the patches' final states for models
    that read them, each in a store of its own that all such models share, in the vision model's precision; so
    losses do not depend on what is there. `hits` and `misses` count clips."""

    def __init__(self, config: RunConfig, model: VideoLanguageModel):
        """ValueError if the vision model is not frozen: its features change with every step."""
        if model.vision is None or not model.vision.frozen:
            raise ValueError(f"{config.cell}: features are kept of a frozen vision model alone")
        self.config, self.vision = config, model.vision
        side = config.image_size // PATCH
        self.grid, self.layers = (side, side), len(model.vision.dinov2.encoder.layer)
        frame = (config.frames, 1 + side**2, model.config.vision_config.hidden_size)
        half = config.precision in ("bf16", "bf16_vision")
        self.read_in = torch.bfloat16 if config.precision == "bf16" else torch.float32
        about = dict(
            vision=_digest(model.vision.dinov2),
            layers=self.layers,
            image_size=config.image_size,
            frames=config.frames,
            precision="bf16" if half else "fp32",
            device=config.device.partition(":")[0],
        )
        self.dtype = torch.bfloat16 if half else torch.float32
        kept = {}
        if model.vision.foveal:
            kept["normed inputs"] = (self.layers, *frame)
        if not model.vision.foveal or model.config.read_final:
            kept["final states"] = frame
        self.stores = {
            keeps: FeatureStore(about | dict(keeps=keeps), shape, "<u2" if half else "<f4")
            for keeps, shape in kept.items()
        }
        self.hits = self.misses = 0
        self._datasets = {split: open_dataset(config, split) for split in ("train", "validation")}

    @property
    def store(self) -> FeatureStore:
        """The store whose clips are loaded without their frames."""
        return next(iter(self.stores.values()))

    def __call__(self, batch: Batch, device: str, split: str) -> FrameCache:
        """What the vision model makes of a batch's clips, on `device`. split: whose clips they are, to draw
        one whose file was damaged, or taken away since it was looked for."""
        found: dict[int, list[torch.Tensor]] = {}
        missing: dict[int, np.ndarray] = {}
        for i, clip in enumerate(batch.clips):
            if not clip.shows:  # a text alone, whose frames are masked
                shapes = [store.shape for store in self.stores.values()]
                found[i] = [torch.zeros(shape, dtype=self.dtype, device=device) for shape in shapes]
            elif clip.frames is not None:
                missing[i] = clip.frames
            elif (stored := self._read(clip.key)) is not None:
                found[i] = [part.to(device, non_blocking=True) for part in stored]
            else:
                missing[i] = self._frames(split, clip.position)
        alone = sum(not clip.shows for clip in batch.clips)
        self.hits, self.misses = self.hits + len(found) - alone, self.misses + len(missing)
        if missing:
            computed = self.compute(torch.from_numpy(np.stack(list(missing.values()))).to(device))
            for i, *features in zip(missing, *computed):
                found[i] = features
                self._write(batch.clips[i].key, features)
        parts = zip(*(found[i] for i in range(len(batch.clips))))
        return self._cache([torch.stack(part, dim=-4).to(self.read_in) for part in parts])

    def compute(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Features of frames (B, T, 3, S, S), one for each store: normed inputs (B, layers, T, N, D), final
        states (B, T, N, D)."""
        with torch.no_grad(), autocast(self.config):
            cache = self.vision.encode(frames)
            found = []
            if "normed inputs" in self.stores:
                seen = [layer.inputs for layer in cache.layers if isinstance(layer, NormedInputs)]
                found.append(torch.stack(seen, dim=1).to(self.dtype))
            if "final states" in self.stores:
                found.append(cache.last_hidden_state.to(self.dtype))
            return found

    def keep(self, key: str, frames: torch.Tensor) -> bool:
        """Compute a clip's features from its frames (1, T, 3, S, S) and write what is not there. Whether all
        of it was written."""
        return self._write(key, [part[0] for part in self.compute(frames)])

    def has(self, key: str) -> bool:
        return all(store.has(key) for store in self.stores.values())

    def _frames(self, split: str, position: int) -> np.ndarray:
        frames = self._datasets[split][position].frames
        assert frames is not None, "a dataset's own clip has frames"
        return frames

    def _read(self, key: str) -> list[torch.Tensor] | None:
        found = []
        for store in self.stores.values():
            stored = store.read(key)
            if stored is None:
                return None
            found.append(torch.from_numpy(stored).view(self.dtype))
        return found

    def _write(self, key: str, features: Sequence[torch.Tensor]) -> bool:
        """Write the parts that are not there yet; whether all are there now."""
        there = [
            store.has(key) or store.write(key, _as_numpy(part, store.dtype))
            for store, part in zip(self.stores.values(), features)
        ]
        return all(there)

    def _cache(self, parts: list[torch.Tensor]) -> FrameCache:
        """Normed inputs (layers, B, T, N, D), final states (B, T, N, D), as `encode` returns them."""
        kept = dict(zip(self.stores, parts))
        B, T = parts[0].shape[-4:-2]
        layers = zip(kept.get("normed inputs", ()), self.vision.dinov2.encoder.layer)
        seen = [NormedInputs(h, layer.attention) for h, layer in layers]
        final = kept.get("final states")
        return FrameCache(seen, (B, T), self.grid, _not_kept if final is None else lambda: final)


def _not_kept():
    raise RuntimeError("a store of what queries find does not keep the patches' final states")


def _as_numpy(features: torch.Tensor, dtype: np.dtype) -> np.ndarray:
    """Its bytes under a type that NumPy has."""
    return features.detach().cpu().contiguous().view(torch.uint8).numpy().view(dtype)


def _digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def batch_inputs(batch: Batch, device: str, features: Features | None, split: str) -> dict:
    """A batch as a model's keyword arguments, on `device`: with frames, or with `features` in their place."""
    inputs = batch.inputs(device)
    if features is None or batch.frames is not None:  # texts alone never come without
        return inputs
    if batch.has_texts_alone:
        shows = torch.tensor(batch.shows, device=device)[:, None]
        inputs["frame_mask"] = shows.expand(-1, features.config.frames)
    return inputs | dict(frames=features(batch, device, split))


def open_features(config: RunConfig, model: VideoLanguageModel) -> Features | None:
    """The features that a run reads and keeps; None where it does not (`config.features`, or nothing that is
    frozen)."""
    if not config.features or model.vision is None or not model.vision.frozen:
        return None
    with contextlib.suppress(OSError):  # a store that can't be written keeps nothing, and says nothing wrong
        limit()  # ConfigError for a bad FVLM_FEATURES_GB, before anything is trained
    return Features(config, model)


def fill(
    config: RunConfig, model, clips: int | None, progress: Callable[[int, int], None] = lambda *_: None
) -> dict:
    """Compute and keep the features of a run's validation clips and of its first `clips` training clips (all
    that it will see if None), before anything is trained. Returns counts: `clips`, `there` already, `kept`
    now."""
    features = Features(config, model)
    train, validation = open_dataset(config, "train"), open_dataset(config, "validation")
    seen = config.steps * config.effective_batch if clips is None else clips
    shown = config.eval_samples
    seen = min(seen, len(train)) if isinstance(train, Sized) else seen
    shown = min(shown, len(validation)) if isinstance(validation, Sized) else shown
    todo = [(validation, i) for i in range(shown)] + [(train, i) for i in range(seen)]
    there = kept = 0
    for done, (dataset, position) in enumerate(todo, 1):
        key = dataset.key(position)
        if not dataset.told(position).shows or features.has(key):
            there += 1
        elif not any(store.full for store in features.stores.values()):
            frames = torch.from_numpy(dataset[position].frames)[None].to(config.device)
            kept += features.keep(key, frames)
        progress(done, len(todo))
    return dict(clips=len(todo), there=there, kept=kept, folder=str(features.store.folder))
