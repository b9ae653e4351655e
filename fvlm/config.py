"""One grid cell as one frozen, validated `RunConfig`, and the names that cells go by.

A cell is named `S-S_8f_fov`: model pair (LLM size - vision size), frames, architecture.
`RunConfig.from_cell` reads such a name and `RunConfig.cell` writes it.
"""

import dataclasses
import difflib
import functools
import os
import re
import reprlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from fvlm.architectures import ARCH_OF_SHORT, ARCHITECTURES, Architecture

REPOSITORY = Path(__file__).resolve().parent.parent

LLMS = ("tiny", "tiny1", "tiny2", "tiny3", "tiny4", "tiny5", "135m", "360m", "1.7b")
VISIONS = ("tiny", "small", "base")
TASKS = ("caption", "question")
BUILT_IN = ("shapes", "shapes-stills", "shapes-compared", "shapes-text")  # worlds that are drawn on the fly
DOMAINS = ("video", "image", "images", "text")  # of a mix; images: several in one sample
PATCH = 14  # side in pixels of a patch, of every DINOv2
SCHEDULES = ("constant", "wsd", "cosine")
PRECISIONS = ("auto", "fp32", "bf16", "bf16_vision")

# (llm, vision) -> the pair's name. The study called 1.7B + base "B-L"; the other names are size - size.
_LLM_LETTER = {"tiny": "T", "135m": "S", "360m": "M", "1.7b": "B"} | {
    f"tiny{i}": f"T{i}" for i in range(1, 6)
}
_VISION_LETTER = {"tiny": "T", "small": "S", "base": "B"}
PAIRS = {(llm, vision): f"{a}-{b}" for llm, a in _LLM_LETTER.items() for vision, b in _VISION_LETTER.items()}
PAIRS["1.7b", "base"] = "B-L"

# What "auto" means for the budget: the study's for pretrained LLMs; for the tiny ones, which start from
# nothing, what trying found to see soonest on a two-core CPU.
_BUDGET_PRETRAINED = dict(
    steps=280,
    effective_batch=16,
    eval_every=14,
    learning_rate=3e-5,
    warmup=50,
    schedule="constant",
    weight_decay=0.01,
    freeze_vision=False,
)
MOST = 10**9  # of anything that is counted
LARGEST = 2**63  # whole number
MAX_SEED = 2**32 - 1  # with a step number beside it, it is what a step's random numbers come from

_BUDGET_TINY = dict(
    steps=375,
    effective_batch=8,
    eval_every=125,
    learning_rate=5e-4,
    warmup=40,
    schedule="wsd",
    weight_decay=0.01,
    freeze_vision=True,
)


RENAMED = {
    "clip": "max_grad_norm",
    "steer": "query_init_scale",
}  # fields that older runs and grid files know by another name


class MessageAlone(Exception):
    """An exception whose message is all that a reader needs: a notebook shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ConfigError(MessageAlone, ValueError):
    """A user's mistake: says what is wrong, where, and what would be valid."""


def _option(default, help):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides one run; the fields are the parameters of `notebooks/train.ipynb`.

    Every "auto" that the machine or the other fields decide is replaced on creation by what it stands for;
    those found by measurement (`micro_batch`, `gradient_checkpointing`) stay "auto" until training has tried.
    Raises `ConfigError` on an unknown name or a bad value, listing the valid ones."""

    llm: str = _option(
        "auto",
        "tiny (tiny1-tiny5), 135m, 360m, 1.7b, a hub id or a local folder; auto: 135m with a GPU, else tiny",
    )
    vision: str = _option(
        "auto", "tiny, small, base, a hub id or a local folder; auto: tiny with a tiny LLM, else small"
    )
    vision_layers: int = _option(
        "auto", "first layers of the vision model that are used; auto: 4 with tiny, else all"
    )
    frames: int = _option(8, "frames per clip")
    arch: str = _option("foveated", "foveated, baseline or a control: the names in fvlm/architectures.py")
    fine_passes: int = _option(1, "fine passes after the coarse one")
    query_init_scale: float = _option(
        "auto",
        "how far an LLM state moves a query at the start, in query norms; auto: 1 for questions, else 0.1",
    )
    scale_input: bool = _option(
        "auto", "multiply what the LLM reads by the root of its width; auto: for a tiny LLM, else not"
    )
    read_attended: bool = _option(
        "auto",
        "a query also brings back what the last vision layer's attention falls on; auto: for a tiny LLM, else not",
    )
    read_final: bool = _option(
        False, "with read_attended: that as the last vision layer leaves it, not as it enters there"
    )
    seed: int = _option(0, "decides weights, data order, everything")
    dataset: str = _option(
        "shapes",
        "shapes (settings after a colon), the folder of a prepared dataset, a mixture such as a:0.7,b:0.3, or a mix's file",
    )
    task: str = _option("caption", "caption or question")
    steps: int = _option("auto", "optimizer steps; auto: 280, 375 for a tiny LLM")
    effective_batch: int = _option(
        "auto", "samples per optimizer step, whatever fits in memory; auto: 16, 8 for a tiny LLM"
    )
    eval_every: int = _option(
        "auto", "steps between evaluations; auto: 14 (20 evaluations), 125 for a tiny LLM"
    )
    eval_samples: int = _option(
        "auto", "validation samples per evaluation; auto: 500 with a GPU, else 100 (64 for a tiny LLM)"
    )
    allow_epochs: bool = _option(False, "allow more than one pass over the training clips")
    learning_rate: float = _option(
        "auto", "AdamW rate of the LLM and the vision model; auto: 3e-5, 5e-4 for a tiny LLM"
    )
    connector_learning_rate: float = _option(
        "auto", "AdamW rate of all that is neither; auto: the same as learning_rate"
    )
    warmup: int = _option("auto", "steps of linear warm-up; auto: 50, 40 for a tiny LLM")
    schedule: str = _option(
        "auto", "constant, wsd (in the end a decay to zero) or cosine; auto: constant, wsd for a tiny LLM"
    )
    decay: float = _option(0.3, "share of the steps, at the end, over which wsd decays")
    weight_decay: float = _option("auto", "AdamW weight decay of matrices; auto: 0.01")
    max_grad_norm: float = _option(1.0, "gradient norm above which gradients are scaled down")
    micro_batch: int = _option(
        "auto", "samples per forward pass; auto: the largest that fits, found by trying"
    )
    gradient_checkpointing: bool = _option(
        "auto", "recompute activations, do not keep them; auto: only if one sample does not fit otherwise"
    )
    precision: str = _option(
        "auto",
        "fp32, bf16 (mixed) or bf16_vision (a frozen vision model alone); auto: bf16 where the machine is faster in it",
    )
    features: bool = _option(
        True,
        "keep what a frozen vision model makes of clips for all runs, in a store on disk (fvlm features)",
    )
    compile: bool = _option(False, "torch.compile the two backbones")
    processes: int = _option(
        1, "processes that share each step, one GPU each; the effective batch stays the same"
    )
    fsdp: bool = _option(
        False, "with several processes, shard weights, gradients and moments over them too (FSDP)"
    )
    device: str = _option("auto", "cpu, cuda or cuda:N; auto: a GPU if there is one")
    freeze_vision: bool = _option("auto", "do not train the vision model; auto: only when the LLM is tiny")
    freeze_llm: bool = _option(False, "do not train the LLM")
    out: str = _option(
        "auto", "where results go; auto: outputs/ of this repository, whatever the working directory"
    )
    study: str = _option("runs", "folder inside out that keeps runs which belong together")
    overwrite: bool = _option(False, "replace results that another configuration left in the same folder")

    def __post_init__(self):
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _typed(f, getattr(self, f.name)))
        self._resolve()
        self._validate()

    def _resolve(self):
        put = functools.partial(object.__setattr__, self)
        auto = {name for name in self.to_dict() if getattr(self, name) == "auto"}
        if "device" in auto:
            put("device", "cuda" if _has_gpu() else "cpu")
        gpu = self.device.startswith("cuda")
        if "llm" in auto:
            put("llm", "135m" if gpu else "tiny")
        if "vision" in auto:
            put("vision", "tiny" if self.tiny else "small")
        if "scale_input" in auto:
            put("scale_input", self.tiny)
        if "read_attended" in auto:
            put("read_attended", self.tiny)
        if "query_init_scale" in auto:
            put("query_init_scale", 1.0 if self.task == "question" else 0.1)
        if "vision_layers" in auto and self.vision in VISIONS:
            put("vision_layers", 4 if self.vision == "tiny" else 12)
        for name, value in (_BUDGET_TINY if self.tiny else _BUDGET_PRETRAINED).items():
            if name in auto:
                put(name, value)
        if "connector_learning_rate" in auto:
            put("connector_learning_rate", self.learning_rate)
        if "eval_samples" in auto:
            put("eval_samples", 500 if gpu else 64 if self.tiny else 100)
        if "precision" in auto:
            put("precision", "bf16" if gpu or _faster_in_bf16() else "fp32")
        if "out" in auto:
            put("out", str(REPOSITORY / "outputs"))
        put("out", str(Path(self.out).expanduser().absolute()))
        put("dataset", _found_folders(self.dataset))

    def _validate(self):
        _one_of("llm", self.llm, LLMS, or_path=True)
        _one_of("vision", self.vision, VISIONS, or_path=True)
        _one_of("arch", self.arch, ARCHITECTURES)
        _one_of("task", self.task, TASKS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        if self.precision == "bf16_vision" and not self.freeze_vision:
            raise ConfigError(
                "precision = bf16_vision: the vision model is trained here; valid with freeze_vision=True"
            )
        if self.read_final and not self.read_attended:
            raise ConfigError("read_final = True: nothing attended to is read; valid with read_attended=True")
        if self.scale_input and not self.tiny:
            raise ConfigError(
                f"scale_input = True: {self.llm} has learned to read its embeddings as they are; valid with "
                "tiny, tiny1-tiny5"
            )
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device = {self.device!r}: valid are cpu, cuda, cuda:N or auto")
        counts = (
            "frames",
            "steps",
            "effective_batch",
            "eval_every",
            "eval_samples",
            "fine_passes",
            "micro_batch",
            "vision_layers",
            "processes",
        )
        for name in counts:
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ConfigError(f"{name} = {value}: must be at least 1")
            if value != "auto" and value > MOST:
                raise ConfigError(f"{name} = {value}: must be at most {MOST}")
        for name in ("learning_rate", "connector_learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}: must be positive and finite")
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"decay = {self.decay}: a share of the steps, from 0 to 1")
        for name in ("seed", "warmup", "weight_decay", "query_init_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.seed > MAX_SEED:
            raise ConfigError(f"seed = {self.seed}: at most {MAX_SEED}")
        if not re.fullmatch(r"[\w.-]{1,100}", self.study) or not self.study.strip("."):
            raise ConfigError(
                f"study = {shown(self.study)}: letters, digits, '.', '_' and '-' only; it names a folder inside out"
            )

    @classmethod
    def from_cell(cls, cell: str, **settings) -> "RunConfig":
        """The configuration of a cell such as `S-S_8f_fov`; `settings` override its other fields.

        Raises `ConfigError` on a name outside the grid's grammar."""
        match = re.fullmatch(r"([A-Za-z0-9]+-[A-Za-z]+)_(\d+)f_([a-z0-9]+)", cell)
        pairs = {name: pair for pair, name in PAIRS.items()}
        if not match or match[1] not in pairs or match[3] not in ARCH_OF_SHORT:
            raise ConfigError(
                f"cell = {shown(cell)}: a cell is <pair>_<frames>f_<architecture> such as S-S_8f_fov, "
                f"with a pair of {', '.join(pairs)} and an architecture of {', '.join(ARCH_OF_SHORT)}"
            )
        settings = todays_names(settings)
        llm, vision = pairs[match[1]]
        named = dict(llm=llm, vision=vision, frames=int(match[2]), arch=ARCH_OF_SHORT[match[3]])
        for name in sorted(named.keys() & settings.keys()):
            if settings[name] != named[name]:
                raise ConfigError(
                    f"{name} = {shown(settings[name])} contradicts the cell {cell}, where it is {named[name]!r}"
                )
        return cls(**{**settings, **named})

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """A configuration from field names and values (strings are converted); `ConfigError` on an unknown name."""
        return cls(**todays_names(values))

    @property
    def pair(self) -> str:
        """The name of LLM and vision model together, `S-S`; folders and hub ids show as their last part."""
        return PAIRS.get((self.llm, self.vision)) or f"{_slug(self.llm)}-{_slug(self.vision)}"

    @property
    def cell(self) -> str:
        """The cell's name, `<pair>_<frames>f_<architecture>`."""
        return f"{self.pair}_{self.frames}f_{self.architecture.short}"

    @property
    def architecture(self) -> Architecture:
        """The record of `arch`: its class, tokens per frame, colour and more."""
        return ARCHITECTURES[self.arch]

    @property
    def letterbox(self) -> bool:
        """Whether videos of any shape keep their proportions between black bars. Not where the training
        videos were squeezed to squares: those of prepared datasets are."""
        return re.match(r"shapes(-|:|$)", self.dataset) is not None

    @property
    def tiny(self) -> bool:
        """True where the LLM starts from random weights and has its own small tokenizer."""
        return re.fullmatch(r"tiny[1-5]?", self.llm) is not None

    @property
    def image_size(self) -> int:
        """Side of a frame in pixels: 112 for the tiny vision model, else 224."""
        return 112 if self.vision == "tiny" else 224

    @property
    def folder(self) -> Path:
        """Where this run's results are: `<out>/<study>/<cell>_seed<seed>`."""
        return Path(self.out) / self.study / f"{self.cell}_seed{self.seed}"

    def to_dict(self) -> dict:
        """Field names and values, ready for JSON, YAML or `RunConfig.from_dict`."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def identity(self) -> dict:
        """The fields that decide a run's numbers: two runs that share them may stand for each other.

        Left out: where results go, and what only decides speed and memory."""
        neutral = {
            "out",
            "study",
            "overwrite",
            "device",
            "micro_batch",
            "gradient_checkpointing",
            "compile",
            "features",
            "processes",
            "fsdp",
        }
        return {name: value for name, value in self.to_dict().items() if name not in neutral}

    def changes_from(self, saved: "RunConfig") -> list[str]:
        """Where this configuration would give other numbers than a saved one: "steps was 12, is 14"; empty if nowhere."""
        before = saved.identity()
        return [
            f"{name} was {before[name]}, is {value}"
            for name, value in self.identity().items()
            if before[name] != value
        ]


class _Short(reprlib.Repr):
    def repr_int(self, x, level):
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no more than some thousand digits
            return "a number of thousands of digits"


_repr = _Short()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200


def shown(value) -> str:
    """A value in a message: as Python writes it, but short however large it is."""
    return _repr.repr(value)


def _typed(f, value):
    """`value` as the field's type; "auto" where the default is "auto"; strings are read as papermill passes them."""
    if value == "auto" and f.default == "auto":
        return value
    try:
        if f.type is bool:
            if isinstance(value, str):
                value = {"true": True, "false": False}[value.lower()]
            if not isinstance(value, bool):
                raise ValueError
            return value
        if f.type is str:
            return _text(value)
        if isinstance(value, bool):
            raise ValueError
        if f.type is int:
            return _whole(value)
        return float(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        kind = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}[f.type]
        auto = ", or 'auto'" if f.default == "auto" else ""
        raise ConfigError(f"{f.name} = {shown(value)}: expected {kind}{auto}") from None


def _text(value) -> str:
    """Text that a file's name or a table can hold; ValueError for what is none, as a list."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | os.PathLike):
        raise ValueError
    text = str(value)
    text.encode()  # UnicodeEncodeError, a ValueError, for half a character
    if "\0" in text:
        raise ValueError
    return text


def _whole(value) -> int:
    """A whole number, every digit of it; ValueError for another."""
    try:
        number = int(value)  # not by way of a float, which has 53 bits
    except ValueError:  # "1e3"
        value = float(value)
        number = int(value)
    if (not isinstance(value, str) and number != value) or abs(number) > LARGEST:
        raise ValueError
    return number


def todays_names(values: dict) -> dict:
    """Field names and values with each old name replaced by today's, and a warning that says so.

    ConfigError on a name that neither is nor was a field, and where old and new name are both given."""
    fields, found = [f.name for f in dataclasses.fields(RunConfig)], {}
    for name, value in values.items():
        if name in RENAMED:
            if RENAMED[name] in values:
                raise ConfigError(f"{name} and {RENAMED[name]} are the same parameter: give the second alone")
            warnings.warn(f"the parameter {name} is called {RENAMED[name]} now", FutureWarning, stacklevel=3)
        elif name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"unknown parameter {shown(name)}{hint}: valid are {', '.join(fields)}")
        found[RENAMED.get(name, name)] = value
    return found


def _one_of(name, value, valid, or_path=False):
    if value in valid:
        return
    if or_path and ("/" in value or os.path.isdir(value)):  # which takes any text
        return
    extra = ", a hub id (owner/name) or a local folder" if or_path else ""
    raise ConfigError(f"{name} = {shown(value)}: valid are {', '.join(valid)}{extra}")


def _found_folders(dataset: str) -> str:
    """A dataset whose relative folders are absolute: as seen from here or, where nothing is there, from the
    repository, since a notebook's here is its own folder. Mixtures keep their weights, settings stay. A mix of
    the repository stays relative to it."""
    if dataset.partition(":")[0] in BUILT_IN:
        return dataset
    if found := mix_file(dataset):
        name, weights = found
        path = Path(name).expanduser()
        path = path.absolute() if path.is_file() else REPOSITORY / path
        inside = path.is_relative_to(REPOSITORY)  # then runs of another checkout have the same name for it
        name = str(path.relative_to(REPOSITORY) if inside else path)
        return f"{name}:{weights}" if weights else name
    parts = []
    for part in dataset.split(","):
        part = part.strip()
        folder, colon, weight = part.rpartition(":")
        if not colon or Path(part).is_dir():
            folder, weight = part, ""
        path = Path(folder).expanduser()
        here, there = path.absolute(), REPOSITORY / path
        found = there if there.is_dir() and not here.is_dir() else here
        parts.append(f"{found}:{weight}" if weight else str(found))
    return ",".join(parts)


def mix_file(dataset: str) -> tuple[str, str] | None:
    """The file of a mix and the weights after it, `x.yaml:video=0.7,text=0.3`; None for another dataset."""
    match = re.fullmatch(r"(.+?\.ya?ml)(?::(.*))?", dataset)
    return (match[1], match[2] or "") if match else None


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "", Path(name).name) or "model"


def _faster_in_bf16() -> bool:
    from fvlm.cpu import cpu_faster_in_bf16  # which needs torch

    return cpu_faster_in_bf16()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
