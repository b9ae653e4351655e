"""Mixes: files that say which datasets are trained on together, in which proportions, and how often each may
be repeated.

    # The first sentence says what it is
    parts:
      - {domain: video, data: outputs/data/mine_8f, weight: 0.4, epochs: 2, text_tokens: 30}
      - {domain: text, data: shapes-text, weight: 0.6, samples: 5000}

Wherever a dataset is named, `params/mix/x.yaml` is one, and `params/mix/x.yaml:video=0.7,text=0.3` the same
with other weights of its domains.
"""

import hashlib
import json
import math
from collections.abc import Sized
from dataclasses import asdict, dataclass
from pathlib import Path

from fvlm.config import BUILT_IN, DOMAINS, ConfigError, RunConfig, mix_file
from fvlm.data.mixture import InTurns, Mixture, OfDomain
from fvlm.data.prepared import open_folder
from fvlm.data.shapes import open_shapes
from fvlm.data.siblings import parse_world
from fvlm.files import expect, find_folder, load_yaml


@dataclass(frozen=True)
class Part:
    """One dataset of a mix.

    domain: one of DOMAINS. data: the folder of a prepared dataset, or a built-in world with its settings.
    weight: its share of the samples, beside the other parts' weights. samples: how many different ones there
    are to train on; None: as many as data has. epochs: how often each of them may be seen. text_tokens: mean
    tokens of a text, the end-of-text token included; None: not known. prepare: the command that makes the
    dataset. note: where the numbers are from."""

    domain: str
    data: str
    weight: float
    samples: int | None = None
    epochs: float = 1.0
    text_tokens: float | None = None
    prepare: str = ""
    note: str = ""

    def __post_init__(self):
        if self.domain not in DOMAINS:
            raise ConfigError(f"domain = {self.domain!r}: valid are {', '.join(DOMAINS)}")
        for name in ("samples", "text_tokens", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} = {value} of {self.data}: must be positive and finite")
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"weight = {self.weight} of {self.data}: must not be negative")

    @property
    def built_in(self) -> bool:
        return self.data.partition(":")[0] in BUILT_IN


@dataclass(frozen=True)
class Mix:
    """A mix as its file has it, with the weights that are asked for. path: of the file."""

    path: str
    parts: tuple[Part, ...]

    @property
    def weights(self) -> list[float]:
        """Of the parts; they sum to 1."""
        total = sum(part.weight for part in self.parts)
        return [part.weight / total for part in self.parts]

    @property
    def domains(self) -> dict[str, float]:
        """The weight of each domain that the file has, in the order of DOMAINS; they sum to 1."""
        pairs = list(zip(self.parts, self.weights))
        return {
            domain: sum(weight for part, weight in pairs if part.domain == domain)
            for domain in DOMAINS
            if any(part.domain == domain for part, _ in pairs)
        }

    def reweighted(self, weights: dict[str, float]) -> "Mix":
        """The same datasets in other proportions of their domains; a domain that is not named has none of it.
        Parts of one domain keep theirs. ConfigError for a domain that the file does not have, or where no
        weight is positive."""
        unknown = set(weights) - set(self.domains)
        if unknown or not sum(weights.values()) > 0 or min(weights.values()) < 0:
            raise ConfigError(
                f"{self.path}: weights {weights}: positive numbers of {', '.join(self.domains)} are expected"
            )
        own, parts = self.domains, []
        for part, weight in zip(self.parts, self.weights):
            there = [p for p in self.parts if p.domain == part.domain]
            share = weight / own[part.domain] if own[part.domain] else 1 / len(there)
            parts.append(Part(**asdict(part) | dict(weight=weights.get(part.domain, 0.0) * share)))
        return Mix(self.path, tuple(parts))

    def missing(self) -> list[Part]:
        """The parts whose prepared folder is not there."""
        return [p for p in self.parts if not p.built_in and not find_folder(p.data).is_dir()]


def is_mix(dataset: str) -> bool:
    """Whether a dataset's name is that of a mix."""
    return mix_file(dataset) is not None


def read_mix(dataset: str) -> Mix:
    """The mix that `x.yaml` or `x.yaml:video=0.7,text=0.3` names, no dataset of it opened. ConfigError,
    naming the file, on what does not fit."""
    found = mix_file(dataset)
    if found is None:
        raise ConfigError(f"{dataset}: no mix; a mix is a file such as params/mix/smolvlm.yaml")
    name, weights = found
    path = find_folder(name)
    if not path.is_file():
        raise ConfigError(f"dataset = {dataset!r}: no such file, nor in the repository")
    try:
        content = load_yaml(path)
        expect(content, {"parts": list}, {})
        mix = Mix(name, tuple(_part(part) for part in content["parts"]))
        if not mix.parts or not sum(part.weight for part in mix.parts) > 0:
            raise ConfigError("no part has a weight")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return mix.reweighted(_weights(dataset, weights)) if weights else mix


def _part(content) -> Part:
    number = (int, float)
    expect(
        content,
        {"domain": str, "data": str, "weight": number},
        {"samples": int, "epochs": number, "text_tokens": number, "prepare": str, "note": str},
    )
    return Part(**content)


def _weights(dataset: str, text: str) -> dict[str, float]:
    weights = {}
    for pair in text.split(","):
        domain, _, value = pair.partition("=")
        try:
            weights[domain.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"dataset = {dataset!r}: {pair!r} is no weight of a domain, such as video=0.7"
            ) from None
    return weights


def spelled(path: str, weights: dict[str, float]) -> str:
    """A mix with other weights of its domains, as a dataset's name."""
    return f"{path}:" + ",".join(f"{domain}={weight:g}" for domain, weight in weights.items())


def check_mix(dataset: str):
    """ConfigError unless a mix can be read and the folders that it names are there. Nothing is opened."""
    mix = read_mix(dataset)
    for part in mix.parts:
        if part.built_in:
            parse_world(part.data)
    if missing := mix.missing():
        told = "; ".join(f"{p.data} ({p.prepare or 'fvlm prepare … --out ' + p.data})" for p in missing)
        raise ConfigError(f"{mix.path}: not prepared yet: {told}")


def open_mix(config: RunConfig, split: str) -> Mixture | InTurns:
    """A mix as a run sees it. Training: by weight, as long as no part is seen more often than its file
    allows. Validation: every domain alike, whatever the weights, so that runs of different weights are
    measured on the same clips; the same for every run."""
    mix = read_mix(config.dataset)
    check_mix(config.dataset)
    parts, limits = [], []
    for number, part in enumerate(mix.parts):
        dataset = _opened(part, config, split)
        parts.append(OfDomain(dataset, part.domain, f"{part.domain}{number}"))
        there = part.samples or (len(dataset) if isinstance(dataset, Sized) else math.inf)
        if part.samples and split == "train" and isinstance(dataset, Sized) and len(dataset) < part.samples:
            raise ConfigError(
                f"{mix.path}: {part.data} has {len(dataset)} training clips, not {part.samples}"
            )
        limits.append(int(there * part.epochs) if there < math.inf else math.inf)
    if split == "train":
        return Mixture(parts, mix.weights, config.seed, limits)
    return InTurns([InTurns([part for part in parts if part.domain == domain]) for domain in mix.domains])


def _opened(part: Part, config: RunConfig, split: str):
    if part.built_in:
        fixed = dict(frames=config.frames, size=config.image_size)
        world = parse_world(part.data, **fixed)
        if part.samples and split == "train":
            if world.pool not in (0, part.samples):
                raise ConfigError(f"{part.data}: its pool is not its {part.samples} samples")
            name, _, settings = part.data.partition(":")
            pooled = ",".join(
                filter(None, [settings, f"pool={part.samples}"] if not world.pool else [settings])
            )
            world = parse_world(f"{name}:{pooled}", **fixed)
        return open_shapes(world, split, config.seed)
    seed = config.seed if split == "train" else 0
    limit = part.samples if split == "train" else None
    folder = str(find_folder(part.data))
    return open_folder(folder, split, config.frames, config.image_size, seed, limit)


def refuse_more(config: RunConfig, samples: int):
    """ConfigError if so many samples of a run's mix would show a part more often than its file allows; says
    which, and how many samples may be."""
    dataset = open_mix(config, "train")
    assert isinstance(dataset, Mixture)
    if samples <= len(dataset):
        return
    mix, counts = read_mix(config.dataset), dataset.counts(samples)
    over = [i for i, limit in enumerate(dataset.limits) if counts[i] > limit]
    told = "; ".join(
        f"{mix.parts[i].data} would be seen {counts[i]:,} times, {dataset.limits[i]:,} are allowed "
        f"(samples x epochs {mix.parts[i].epochs:g})"
        for i in over
    )
    raise ConfigError(
        f"{samples:,} samples repeat data of {mix.path} too often: {told}. At most {len(dataset):,} samples: "
        "fewer steps, a smaller weight, more data, or more epochs in the file"
    )


def described(config: RunConfig) -> dict:
    """What decides the samples of a run's mix, for its folder: each part with its weight, how many different
    samples it has (None: no end) and the fingerprint of its data, and a fingerprint of all that."""
    mix, dataset = read_mix(config.dataset), open_mix(config, "train")
    rows = [
        dict(
            domain=part.domain,
            data=part.data,
            weight=weight,
            samples=len(opened.dataset) if isinstance(opened.dataset, Sized) else None,
            epochs=part.epochs,
            fingerprint=opened.fingerprint,
        )
        for part, weight, opened in zip(mix.parts, mix.weights, dataset.parts)
    ]
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    return dict(mix=mix.path, parts=rows, fingerprint=digest)


def repeated(config: RunConfig, samples: int) -> dict[str, float]:
    """How often the most repeated dataset of each domain is gone through in so many samples of a run, by
    domain; 0 where there is no end of it."""
    mix, dataset = read_mix(config.dataset), open_mix(config, "train")
    found = dict.fromkeys(mix.domains, 0.0)
    for part, count, opened in zip(mix.parts, dataset.counts(samples), dataset.parts):
        if isinstance(opened.dataset, Sized):
            found[part.domain] = max(found[part.domain], float(count) / len(opened.dataset))
    return found


def mixes(folder: Path) -> list[Path]:
    """The mixes in a folder, by name: the YAML files that have parts. ConfigError for one that can't be
    read."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            content = load_yaml(path)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if isinstance(content, dict) and "parts" in content:
            found.append(path)
    return found
