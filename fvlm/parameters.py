"""`RunConfig` as a notebook's parameters cell, and as the command that trains the same run."""

import dataclasses
import difflib

from fvlm.config import ConfigError, RunConfig
from fvlm.files import where


def notebook_parameters(namespace: dict) -> dict:
    """Names and values of a notebook's parameters; `namespace` is its `globals()`.

    Its parameter cells are the executed ones that start with "# Parameters", as papermill's injected cell
    does. A front end that keeps no history (nbval) injects nothing either, so the annotated names of the
    notebook's own cell are all there is. ConfigError if no such cell has run."""
    cells = [source for source in namespace.get("In", []) if source.lstrip().startswith("# Parameters")]
    names = [name for source in cells for name in _assigned_names(source)] or list(
        namespace.get("__annotations__", ())
    )
    if not names:
        raise ConfigError("no cell that starts with '# Parameters' has run: run the parameters cell first")
    return {name: namespace[name] for name in names}


def check_parameters(namespace: dict):
    """ConfigError if a notebook's parameter cells assign a name that its own cell does not have: papermill
    itself would ignore the typo and show the default. Values must be of the kind that is annotated.

    `namespace` is the notebook's `globals()`; its own cell is the first that starts with "# Parameters", and
    annotates every name."""
    own = namespace.get("__annotations__", {})
    given = notebook_parameters(namespace)
    for name, value in given.items():
        if name not in own:
            close = difflib.get_close_matches(name, own, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"unknown parameter {name!r}{hint}: valid are {', '.join(own)}")
        kind = own[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number if kind in (int, float) else isinstance(value, kind)
        if value is not None and not (fits and (kind is not int or value == int(value))):
            raise ConfigError(f"{name} = {value!r}: expected {KINDS[kind]}")


KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}


def run_config(namespace: dict) -> RunConfig:
    """The configuration that a notebook's parameter cells spell out; `namespace` is the notebook's
    `globals()`.

    A name assigned there that is no parameter is an error, because papermill itself would ignore the typo and
    train the default."""
    return RunConfig.from_dict(notebook_parameters(namespace))


GROUPS = {  # in which order and under which words the parameters stand
    "what is changed first": ("llm", "frames", "arch", "dataset", "steps", "seed"),
    "the model": (
        *("vision", "vision_layers", "fine_passes", "query_init_scale", "scale_input", "read_attended"),
        "read_final",
        *("freeze_vision", "freeze_llm"),
    ),
    "what it learns from, and how it is evaluated": (
        *("task", "allow_epochs", "effective_batch", "eval_every", "eval_samples"),
    ),
    "the optimizer": (
        *("learning_rate", "connector_learning_rate", "warmup", "schedule", "decay", "weight_decay"),
        "max_grad_norm",
    ),
    "the machine: none of these changes a result by more than rounding": (
        *("micro_batch", "gradient_checkpointing", "precision", "features", "compile", "processes", "fsdp"),
        "device",
    ),
    "where results go": ("out", "study", "overwrite"),
}


def parameters_cell() -> str:
    """Source of the parameters cell of `train.ipynb`: every field as `name: type = default  # help`, in
    GROUPS."""
    by_name = {f.name: f for f in dataclasses.fields(RunConfig)}
    lines = ["# Parameters"]
    for words, names in GROUPS.items():
        lines.append(f"# {words}")
        for name in names:
            f = by_name.pop(name)
            lines.append(f"{name}: {_type_name(f)} = {literal(f.default)}  # {f.metadata['help']}")
    if by_name:
        raise KeyError(f"fields of RunConfig in none of fvlm.parameters.GROUPS: {', '.join(by_name)}")
    return "\n".join(lines)


def literal(value) -> str:
    """A default as it stands in the parameters cell."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _type_name(f) -> str:
    return f.type.__name__ if isinstance(f.type, type) else str(f.type)


def _assigned_names(source: str) -> list[str]:
    import ast

    names = []
    for node in ast.parse(source).body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def command(config: RunConfig) -> str:
    """The command that trains a cell again, with every setting in which it differs from the cell's defaults:
    into `outputs/runs`, and if the results are kept in another study, compared with those."""
    plain = RunConfig.from_cell(config.cell, device=config.device).to_dict()
    elsewhere = ("out", "study", "overwrite")
    changed = {
        name: value
        for name, value in config.to_dict().items()
        if plain[name] != value and name not in elsewhere
    }
    settings = "".join(f" --set {name}={value}" for name, value in changed.items())
    compare = f" --compare {where(config.folder)}" if config.study != plain["study"] else ""
    return f"fvlm train --cell {config.cell}{settings}{compare}"
