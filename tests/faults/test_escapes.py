"""Captions, names and questions are shown as they are, wherever they are shown: none becomes markup."""

import html
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import tiny

from fvlm.data.clips import Clip
from fvlm.hub import code, plain
from fvlm.training.results import LOSSES

EVIL = '<img src=x onerror="window.hit=1"><script>window.hit=1</script></script>\'"&lt;b&gt;${7*7}{{7*7}}'
MARKDOWN = "[click](javascript:alert(1)) ![x](http://x/y) `code` *b* | # h\n# h\n<b>"


@pytest.fixture
def clip():
    frames = np.zeros((2, 3, 28, 28), np.uint8)
    named = dict(caption=EVIL, question=EVIL, answer=EVIL, clip_id=EVIL, source=EVIL)
    return Clip(frames=frames, boxes=None, target=-1, question_kind="", **named)


def live_markup(page: str) -> str:
    """A page's HTML without its scripts' data: what a browser makes elements of."""
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.S | re.I)


def test_a_text_in_a_model_card_is_no_markup():
    for text in (EVIL, MARKDOWN):
        shown = plain(text)
        assert "<" not in shown and "\n" not in shown and not re.search(r"(?<!\\)[\[\]`*#|!]", shown)
        assert code(text).count("`") == 2 and "\n" not in code(text)


def test_what_plotly_shows_of_a_clip_is_escaped_and_its_page_runs_nothing(clip, tmp_path):
    from fvlm.plots.clips import clip_player, wrapped

    assert "<img" not in wrapped(EVIL, width=10_000) and html.escape("<img") in wrapped(EVIL, width=10_000)
    page = clip_player([clip]).to_html(include_plotlyjs=False)
    assert "onerror" not in live_markup(page)
    assert "</script>'" not in page, "a text ends no script"


def test_what_plotly_shows_of_a_run_is_escaped():
    from fvlm.plots.training import run_curves, training_curves

    row = dict(study="s", run=EVIL, arch="foveated", pair="T1-T", frames=2) | dict.fromkeys(LOSSES, 1.0)
    table = pd.DataFrame([row | dict(step=step, samples_seen=step) for step in (1, 2)])
    for figure in (training_curves(table), run_curves(table)):
        (trace,) = figure.data
        shown = [trace.name, trace.hovertext, *(trace.text or ())]
        assert "&lt;img" in str(shown) and "<img" not in str(shown)


@pytest.fixture
def study_s_page(tmp_path, monkeypatch):
    from fvlm.studies import page as module

    row = {name: 1.0 for name in LOSSES} | dict(
        run=EVIL, cell=EVIL, step=2, samples_seen=4, visual_tokens=2, params_total=1e6, flops=1e9, seconds=6.0,  # noqa: E501
        peak_memory_bytes=1e9, weights=EVIL, seed=0, arch="foveated", llm="tiny1", vision="tiny", frames=2,
        pair="T1-T",
    )  # fmt: skip

    class Study:
        evaluations = pd.DataFrame([row, row | dict(step=4)])

    def load_study(*_, **__):
        warnings.warn(f"left out: {EVIL}", stacklevel=2)
        return Study

    monkeypatch.setattr("fvlm.training.results.load_study", load_study)
    return module.study_page(tmp_path)


def test_a_study_s_page_shows_the_names_of_runs_as_they_are(study_s_page):
    shown = study_s_page.read_text()
    assert "onerror" not in re.sub(r"&lt;img.*?&gt;", "", live_markup(shown))
    assert "</script></script>" not in shown and shown.count("<td>&lt;img") == 3


@pytest.fixture
def notebook_s_page(tmp_path):
    import nbformat

    from fvlm.notebooks import write_html

    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("print(caption)")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=EVIL),
        nbformat.v4.new_output("execute_result", data={"text/plain": EVIL}),
        nbformat.v4.new_output("error", ename="E", evalue=EVIL, traceback=[EVIL]),
    ]
    notebook.cells = [cell]
    nbformat.write(notebook, tmp_path / "train.ipynb")
    write_html(tmp_path / "train.ipynb")
    return tmp_path / "train.html"


def test_an_executed_notebook_s_page_shows_its_texts_as_they_are(notebook_s_page):
    page = notebook_s_page.read_text()
    assert "onerror" in page and '<img src=x onerror="' not in live_markup(page)


@pytest.mark.slow
def test_in_a_browser_no_page_runs_what_its_texts_say(
    clip, study_s_page, notebook_s_page, tmp_path, chromium
):
    from playwright.sync_api import sync_playwright

    from fvlm import build_model
    from fvlm.gaze.attention import gaze
    from fvlm.plots.clips import clip_player
    from fvlm.plots.gaze import save_gaze

    look = gaze(build_model(tiny(), pretrained=False), clip)
    clip_player([clip]).write_html(tmp_path / "clips.html")
    exported = save_gaze(look, tmp_path / "gaze.html", title=EVIL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True).new_page()
        for path in (study_s_page, notebook_s_page, tmp_path / "clips.html", exported):
            page.goto(path.as_uri())
            if path != notebook_s_page:
                page.wait_for_selector(".js-plotly-plot .main-svg", state="attached")
            page.wait_for_timeout(300)  # for what an attribute would run
            if path == exported:
                parts = (".gtitle", ".modebar", ".main-svg >> nth=0")
                title, bar, figure = (page.locator(part).bounding_box() for part in parts)
                assert title["x"] + title["width"] <= figure["x"] + figure["width"]
                assert bar["y"] + bar["height"] <= title["y"], "the toolbar stands above"
            assert page.evaluate("window.hit") is None and not page.locator("img[src=x]").count(), path.name
            page.evaluate("document.querySelectorAll('script').forEach(one => one.remove())")
            assert "<img src=x" in page.locator("body").text_content(), f"{path.name}: as it is"
        browser.close()


def test_a_name_in_results_can_t_leave_its_folder():
    from fvlm import ConfigError

    for study in ("..", "../x", "a/../../x", "/tmp/x", "a/b", "", ".", "a\x00b", "a\\b/..", "~"):
        with pytest.raises(ConfigError, match="study"):
            tiny(study=study)
    assert json.dumps(tiny(study="mine").study) == '"mine"'
