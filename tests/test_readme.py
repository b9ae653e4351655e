"""README as its reader meets it: commands that can be pasted, Python that runs, a tree that is the code's, an
answer whose words follow the intervals, a picture that shows what the model did."""

import ast
import importlib
import re
import shlex

import numpy as np
import pytest
from conftest import REPOSITORY, tiny
from PIL import Image, ImageDraw

from fvlm import ConfigError, RunConfig, train
from fvlm.cli import parser
from fvlm.findings import figures
from fvlm.findings.answer import beside_the_cost
from fvlm.findings.figures import draw_question_gaze, two_questions
from fvlm.findings.page import END, mark
from fvlm.findings.tree import tree
from fvlm.gaze.attention import Gaze
from fvlm.plots.gaze import FIXATION, question_picture
from fvlm.studies.grid import read_grid

README = (REPOSITORY / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
LINES = [line for kind, text in FENCED if not kind for line in text.splitlines()]  # commands, and the tree
TO_ADD = re.findall(r"^\| (an? [^|]+?) \| (.+) \|$", README, re.M)


def words(line: str) -> list[str]:
    """A command as a shell reads it."""
    return shlex.split(line, comments=True)


def test_the_first_screen_is_claim_picture_answer_commands_python_and_notebooks_in_this_order():
    marks = (
        "\n**A video",
        "](outputs/figures/gaze_question.png)",
        mark("answer"),
        "\nmake train ",
        "```python",
    )
    later = (
        "source .venv/bin/activate",
        "jupyter lab",
        "| notebook |",
        mark("results"),
        "\nfvlm ",
        mark("tree"),
    )
    places = [README.index(part) for part in marks + later]
    assert places == sorted(places) and README.count("source .venv/bin/activate") == 1
    answered = README.partition(mark("answer"))[2].partition(END)[0].strip()
    assert len(answered.split("\n\n")) == 3 and not re.search(r"\.\s+[A-Z]", answered), "three sentences"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on questions that has seen two batches."""
    return train(
        tiny(
            task="question",
            dataset="shapes:objects=2-3,questions=shape",
            steps=2,
            effective_batch=2,
            eval_every=2,
            eval_samples=32,
            out=str(tmp_path_factory.mktemp("run")),
        )
    )


def test_the_python_runs_as_it_stands(run, capsys):
    (code,) = [text for kind, text in FENCED if kind == "python"]
    folder = "outputs/runs/T-T_8f_fov_seed0"
    assert str(RunConfig.from_cell("T-T_8f_fov").folder).endswith(folder), "what make train leaves"
    assert code.count(folder) == 1 and len([line for line in code.splitlines() if line]) == 5
    exec(code.replace(folder, str(run.folder)), {})
    assert "(2, 8, 8)" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("fvlm ")])
def test_every_command_parses_and_what_it_names_is_there(line):
    _, *arguments = words(line)
    options = parser().parse_args(arguments)
    for name in arguments:
        assert not name.startswith("params/") or (REPOSITORY / name).is_file()
    if options.command == "grid":
        assert read_grid(options.file).select(options.only, options.priority).cells
    if options.command in ("train", "bench") and options.cell:
        RunConfig.from_cell(options.cell, **dict(pair.split("=", 1) for pair in getattr(options, "set", ())))


def test_commands_within_the_text_parse_too():
    inline = [code for code in re.findall(r"`(fvlm [^`\n]+)`", README) if " VERB" not in code]
    assert len(inline) > 3
    for code in inline:
        parser().parse_args(words(code)[1:])


def test_notebook_commands_run_where_they_are_pasted():
    assert "papermill train.ipynb out/S-S_8f_fov.ipynb -p llm 135m" in LINES
    first, last = LINES.index("cd notebooks"), LINES.index("cd ..")
    outside = LINES[:first] + LINES[last:]
    assert not [line for line in outside if line.startswith("papermill")] and "cd notebooks" not in outside
    for line in LINES[first + 1 : last]:
        program, *arguments = words(line)
        assert program == "papermill"
        there = [
            name for name in arguments if name.endswith((".ipynb", ".yaml")) and not name.startswith("out/")
        ]
        assert there and all((REPOSITORY / "notebooks" / name).is_file() for name in there)
    before, _, after = README.partition("source .venv/bin/activate")
    assert not re.search(r"^(fvlm|papermill) ", before, re.M) and re.search(r"^fvlm ", after, re.M)


def test_names_in_the_package_lead_somewhere():
    names = {name for name in re.findall(r"`(fvlm(?:\.\w+)+)[`(]", README)}
    assert {"fvlm.load_run", "fvlm.scaling.load_study"} <= names
    for name in names - {"fvlm.data.tokenizer"}:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_tree_has_every_file_with_how_it_begins():
    assert README.partition(mark("tree"))[2].partition(END)[0].strip() == tree(), "run fvlm findings"
    found, folders = {}, []
    for line in tree().splitlines()[1:-1]:
        depth, (name, told) = (len(line) - len(line.lstrip())) // 2, line.split(None, 1)
        folders = [*folders[:depth], name.removesuffix("/")]
        found["/".join(folders)] = told
    assert [name for name in found if not (REPOSITORY / name).exists()] == []
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "fvlm").rglob("*.py")}
    assert modules - set(found) == {name for name in modules if name.endswith("__init__.py")}
    for name in modules:
        text = " ".join(
            ast.get_docstring(ast.parse((REPOSITORY / name).read_text())).replace("`", "").split()
        )
        assert text.startswith(found[name.removesuffix("/__init__.py")])
    assert max(map(len, tree().splitlines())) <= 120, "fits a page"


@pytest.mark.parametrize("row", TO_ADD, ids=[what for what, _ in TO_ADD])
def test_what_one_edits_to_add_something_is_there(row):
    path, checked = None, 0
    for code in re.findall(r"`([^`]+)`", row[1]):
        if "/" in code:
            path = REPOSITORY / code
            assert path.is_dir() if code.endswith("/") else path.is_file(), code
            checked += 1
        elif code.isidentifier() and path.is_file():
            body = ast.parse(path.read_text()).body
            named = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
            assert code in named | {getattr(target, "id", "") for target in targets}, f"{code} in {path}"
    assert checked


def test_twelve_things_can_be_added():
    assert len(TO_ADD) == 12


def test_the_answer_says_that_a_question_steers_and_what_is_withdrawn():
    steering, withdrawn = beside_the_cost()
    assert "it does" in steering and "*yet*" in withdrawn and "run again" in withdrawn


def test_the_picture_is_of_the_first_clip_whose_two_objects_are_apart(run):
    (clip, other), looks = two_questions(run)
    assert clip.clip_id == other.clip_id and clip.target != other.target and clip.question != other.question
    assert [len(look.maps) for look in looks] == [2, 2] and not np.array_equal(
        looks[0].queries, looks[1].queries
    )
    one, two = (each.boxes[:, each.target] for each in (clip, other))
    for (a, b, c, d), (x, y, z, w) in zip(one, two):
        assert c > a and z > x and (c <= x or z <= a or d <= y or w <= b)
    number = int(clip.clip_id.rpartition("-")[2]) // 10
    for earlier in run.validation_clips(number):
        assert earlier.clip_id != clip.clip_id


def test_the_picture_shows_box_and_gaze_and_says_what_is_true(monkeypatch, run):
    clips, _ = two_questions(run)
    frames, said, written = clips[0].frames, [clips[0].answer, "nothing"], []
    looks = []
    for says, peak in zip(said, ((0, 1), (7, 6))):
        maps = np.full((2, 1, 1, 8, 8), 0.001, np.float32)
        maps[:, 0, 0, *peak] = 1
        looks.append(Gaze(maps, np.zeros((2, 1, 1)), np.zeros((2, 4)), frames, "autoregressive", says))
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, **more: (written.append(text), draw(self, at, text, **more)),
    )
    picture = question_picture(clips, looks, scale=1)
    rows = [text for text in written if "The model" in text]
    assert rows[0] == f"{clips[0].question}  The model: {clips[0].answer}, right"
    assert rows[1] == f"{clips[1].question}  The model: nothing, wrong: it is {clips[1].answer}"
    shown, red = np.asarray(picture).astype(int), tuple(int(FIXATION[i : i + 2], 16) for i in (1, 3, 5))
    side, bottom = frames.shape[2], len(shown) - frames.shape[2]
    x0, y0, x1, y1 = clips[1].boxes[1, clips[1].target]
    left = picture.width - side  # the last lit frame
    assert (shown[bottom + y0, left + x0] == 255).all() and (
        shown[bottom + y1 - 1, left + x1 - 1] == 255
    ).all()
    assert tuple(shown[bottom + 7 * 14 + 13, left + 6 * 14 + 7]) == red, "the patch most attended to"
    assert (shown[bottom + 30, left + 2] < 80).all(), "the rest is dark"


def test_the_picture_is_what_the_run_that_readme_names_looks_at(tmp_path, pretrained_small):
    shown = REPOSITORY / "outputs/figures/gaze_question.png"
    assert shown.stat().st_size < 300_000 and Image.open(shown).width < 1000
    name = re.search(r"`(outputs/trained/\S+)`\. `make figure`", README).group(1)
    assert REPOSITORY / name == figures.SHOWN
    paths = (shown, draw_question_gaze(to=tmp_path))
    drawn = [np.asarray(Image.open(path).convert("RGB"), float) for path in paths]
    assert drawn[0].shape == drawn[1].shape
    assert np.abs(drawn[0] - drawn[1]).mean() < 2, "of 255; another CPU rounds otherwise"


def test_a_run_without_its_model_can_not_be_drawn(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="its model is not there"):
        draw_question_gaze(tmp_path)
