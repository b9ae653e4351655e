"""A run's model for others: pushed to the Hugging Face hub with a card that the run itself writes."""

import html
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from fvlm.config import ConfigError
from fvlm.gaze.scores import OBJECT_SCORES, SCORES, gaze_scores, summarise
from fvlm.measures import draw_clips, token_mean
from fvlm.parameters import command
from fvlm.text import with_interval
from fvlm.training.results import LOSSES, Run

LICENCES = {  # of what a model may be made of, by how its source begins
    "135m": "SmolLM2-135M-Instruct, Hugging Face, Apache-2.0",
    "360m": "SmolLM2-360M-Instruct, Hugging Face, Apache-2.0",
    "1.7b": "SmolLM2-1.7B-Instruct, Hugging Face, Apache-2.0",
    "small": "DINOv2-small, Meta AI, Apache-2.0",
    "base": "DINOv2-base, Meta AI, Apache-2.0",
}
UNKNOWN = "see its own licence"
PICTURE = "gaze.png"


def push_run(run: Run, repo_id: str, private: bool = False, clips: int = 32, **upload) -> str:
    """Push a run's model, processor and card to the hub as `owner/name`; returns the address.

    clips: validation clips that its gaze is scored on, where boxes are known. upload: arguments of
    `huggingface_hub.HfApi.upload_folder`. ConfigError for a run that has no model yet."""
    from huggingface_hub import HfApi

    if not run.has_model:
        raise ConfigError(f"{run.folder}: no model yet; training leaves it at its end")
    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if (run.folder / "model").exists():
            shutil.copytree(run.folder / "model", folder)
        else:
            run.model.save_pretrained(folder)  # its trained part and the frozen weights together
        run.model.processor.save_pretrained(folder)  # older runs saved the tokenizer alone
        write_card(run, folder, repo_id, clips)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        told = dict(commit_message=f"{run.config.cell}, seed {run.config.seed}") | upload
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder, **told)
    return str(repo)


def write_card(run: Run, folder: Path, repo_id: str, clips: int = 32) -> str:
    """Write README.md and its picture into a model's folder, from the run's own results; returns the text."""
    from PIL import Image

    from fvlm.plots.gaze import gaze_picture

    config, last = run.config, run.evaluations.iloc[-1]
    clip = run.validation_clips(1)[0]
    (said,) = run.write([clip])
    if config.architecture.has_queries:
        from fvlm.gaze.attention import EncodedClip

        picture = gaze_picture(EncodedClip(run.model, clip, run.tokenizer, config.task).gaze())
        shown = "One validation clip: its frames, and the same lit by the attention of each one's query."
    else:
        side_by_side = np.concatenate(list(clip.frames.transpose(0, 2, 3, 1)), axis=1)
        picture, shown = Image.fromarray(side_by_side), "One validation clip."
    picture.save(folder / PICTURE)
    asked = clip.question if config.task == "question" else "nothing."
    parts = [source + licence(source) for source in run.model.config.sources]
    known = not any(UNKNOWN in part for part in parts)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: video-text-to-text",
        f"license: {'apache-2.0' if known else 'other'}",
        "tags: [fvlm, video, foveated]",
        "---",
        f"# {config.cell}, seed {config.seed}",
        "",
        f"A video language model whose LLM reads, of each of {config.frames} frames, "
        f"{config.architecture.description}.",
        "",
        "```python",
        "import fvlm",
        "from transformers import AutoModel",
        "",
        f'model = AutoModel.from_pretrained("{repo_id}")',
        'print(model.answer("clip.mp4", "Which shape is red?"), model.describe("clip.mp4"))',
        "```",
        "",
        f"![{shown}]({PICTURE})",
        "",
        f"*{shown}* Asked: {plain(asked)} It says: “{plain(said)}”. True: “{plain(clip.text(config.task))}”.",
        "",
        "## How good it is",
        "",
        f"Losses in nats per text token on {len(run.samples)} validation clips, 95 % intervals over clips:",
        "",
        *losses(run),
        "",
        f"Trained on {last.samples_seen:,.0f} clips with {last.flops:.3g} FLOPs "
        f"({last.params_total / 1e6:.1f} M parameters, {last.params_trainable / 1e6:.1f} M trained), "
        f"{last.visual_tokens:.0f} visual tokens a clip.",
        "",
        *gaze_lines(run, clips),
        "## Data",
        "",
        f"{code(config.dataset)} ({config.task}s), fingerprint `{last.dataset_fingerprint}`. It speaks of "
        "any video in the words of these texts: do not rely on what it says.",
        "",
        "## Made of",
        "",
        *[f"- {plain(part)}" for part in parts],
        "- the code, MIT; what was trained is under the licence of its parts",
        "",
        f"Trained by {code(command(config))} at commit {last.commit}.",
    ]
    text = "\n".join(lines) + "\n"
    (folder / "README.md").write_text(text)
    return text


def plain(text: str) -> str:
    """A text from anywhere as Markdown that shows it as it is: no markup, no HTML, no link, on one line."""
    return re.sub(r"([\\`*_{}\[\]()#!|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """A text from anywhere as Markdown's code, in which nothing is markup."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def losses(run: Run) -> list[str]:
    """A line per loss, as the run's results have it, with its bootstrap interval over validation clips."""
    found, draws = [], draw_clips(len(run.samples))
    for name in LOSSES:
        values = run.samples[name].to_numpy(float)
        if np.isfinite(values).all():
            value, drawn = token_mean(values, run.samples["text_tokens"].to_numpy(), draws)
            low, high = np.percentile(drawn, [2.5, 97.5])
            told = with_interval(value, low, high, digits=3, signed=False)
            found.append(f"- {name.removeprefix('loss_')}: {told}")
    return found


def gaze_lines(run: Run, clips: int) -> list[str]:
    """How well the gaze finds what the texts are about; nothing where there is no gaze, or no box."""
    try:
        table = summarise(gaze_scores(run, clips))
    except ConfigError:
        return []
    lines = ["## Where it looks", ""]
    for row in table.itertuples():
        for name, meaning in (SCORES | OBJECT_SCORES).items():
            low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
            told = with_interval(getattr(row, name), low, high, digits=3, signed=False)
            lines.append(f"- {name} ({row.asked}, {row.clips} clips): {told}; {meaning}")
    return [*lines, ""]


def licence(source: str) -> str:
    """Whose a part is and under which licence, by the text of its `fvlm.weights.Source`."""
    name = source.partition(" from ")[0]
    if "from random" in source:
        return ", from scratch"
    name = "small" if name == "tiny" else name
    return f": {LICENCES[name]}" if name in LICENCES else f", {UNKNOWN}"
