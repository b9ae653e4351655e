"""A model of ours under lmms-eval's own command, on small tasks of ours: videos, questions, options."""

import json
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, python, steering, tiny, write_video

from fvlm import build_model

LMMS = Path(sys.prefix) / "lmms"  # where `make` installs it, with a filelock that it can use
pytestmark = pytest.mark.skipif(not LMMS.exists(), reason=f"{LMMS} is not there: see the README")

QUESTION, OPTIONS = "Which shape is red?", ["circle", "a small square", "star"]
UTILS = """
def visual(doc):
    return [doc["video"]]


def judged(doc, results):
    return {"right": float(results[0] == "ABC"[doc["gold"]])}
"""
CHOICE = """
task: fvlm_choice
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: gold
"""
BY_LIKELIHOOD = """
output_type: multiple_choice
doc_to_choice: options
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
BY_LETTER = """
output_type: generate_until
process_results: !function utils.judged
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def plugin(tmp_path) -> Path:
    """A folder for PYTHONPATH with the entry points that pyproject.toml declares, as installing this package
    would leave them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [
        f"[{group}]\n{n} = {v}" for group, all in project["entry-points"].items() for n, v in all.items()
    ]
    folder = tmp_path / "installed" / "fvlm_entry_points-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fvlm-entry-points\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return folder.parent


@pytest.mark.slow
def test_lmms_eval_scores_a_model_by_likelihood_and_by_letters(tmp_path, plugin):
    """One answer in four is called wrong that the model gives, so three quarters are right."""
    model = steering(build_model(tiny(frames=4), pretrained=False))
    model.save_pretrained(tmp_path / "model")
    model.processor.save_pretrained(tmp_path / "model")
    rows = []
    for i in range(4):
        video = str(write_video(tmp_path / f"{i}.mp4", seed=i))
        gold = model.choose(video, QUESTION, OPTIONS)
        rows.append(dict(video=video, question=QUESTION, options=OPTIONS, gold=(gold + (i == 3)) % 3))
    lettered = (
        "Question: "
        + QUESTION
        + "\nOption:\n"
        + "".join(f"({letter}) {option}\n" for letter, option in zip("ABC", OPTIONS))
    )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "utils.py").write_text(UTILS)
    for name, asked, kind in (
        ("fvlm_choice", QUESTION, BY_LIKELIHOOD),
        ("fvlm_letters", lettered + "Only give the best option.", BY_LETTER),
    ):
        data = tmp_path / f"{name}.parquet"
        pd.DataFrame([row | dict(question=asked) for row in rows]).to_parquet(data)
        text = CHOICE.format(data=data).replace("fvlm_choice", name) + kind
        (tasks / f"{name}.yaml").write_text(text)
    done = python(
        "-m",
        "lmms_eval",
        *("--model", "fvlm", "--model_args", f"pretrained={tmp_path / 'model'},device=cpu"),
        *("--tasks", "fvlm_choice,fvlm_letters", "--include_path", tasks),
        *("--output_path", tmp_path / "out", "--batch_size", 1),
        env=dict(
            PYTHONPATH=f"{LMMS}:{plugin}:{REPOSITORY}", HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1"
        ),
    )
    found = list((tmp_path / "out").rglob("*results.json"))
    assert found, done.stdout + done.stderr
    results = json.loads(found[0].read_text())["results"]
    assert results["fvlm_choice"]["acc,none"] == results["fvlm_letters"]["right,none"] == 0.75
