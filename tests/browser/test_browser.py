"""The explorer in real JupyterLab, driven by a real browser: what is on screen is what Python computes."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from fvlm.gaze.attention import EncodedClip
from fvlm.plots import all_figures
from fvlm.plots.scaling import TITLES
from fvlm.scaling import Results, open_results
from fvlm.studies.question import chosen_runs

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
TRAINS = """from fvlm import RunConfig
from fvlm.widgets import train_live

small = dict(steps=300, eval_every=40, eval_samples=4, effective_batch=2, micro_batch=2, features=False)
config = RunConfig.from_cell("T1-T_2f_fov", out="{out}", **small)
run = await train_live(config, every=0.2)"""
WATCHES = """from fvlm import RunConfig, train
from fvlm.data.film import write_film
from fvlm.widgets import Watcher

small = dict(steps=1, eval_samples=2, effective_batch=2, micro_batch=2, features=False)
run = train(RunConfig.from_cell("T1-T_2f_fov", out="{out}", **small))
shots = write_film(run.validation_clips(60), "{out}/film.mp4")
watcher = Watcher(run, "{out}/film.mp4", rate=4, max_new_tokens=4, shots=shots)
watcher"""
SCREENSHOTS = REPOSITORY / "outputs" / "test_screenshots"


@pytest.fixture(scope="module")
def chromium() -> str:
    """Path of a Chromium, from Debian if there is none yet; without one the test is skipped, or fails where
    it must run."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)) and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
            subprocess.run(command, capture_output=True, timeout=600)
    for name in names:
        if path := shutil.which(name):
            return path
    reason = "no Chromium: install Debian's chromium (apt-get install chromium) to run this test"
    (pytest.fail if os.environ.get("FVLM_REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab of its own, with copies of the notebooks that have widgets, one that trains and
    one that watches."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3"))
    for name, code in dict(live=TRAINS, watch=WATCHES).items():
        cell = nbformat.v4.new_code_cell(code.format(out=folder / name))
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    for name in ("attention", "scaling"):
        shutil.copy(REPOSITORY / f"notebooks/{name}.ipynb", folder / "notebooks")
    for name, values in SETTINGS.items():
        path = folder / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_DATA_DIR="data",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
        JUPYTER_RUNTIME_DIR="runtime",
    )
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
        "--allow-root",
    ]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | {name: str(folder / value) for name, value in own.items()},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/api", timeout=2).status == 200, 60)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


class Screen:
    """What the explorer shows in the browser, and the user's hand."""

    def __init__(self, page):
        self.page = page

    def shown(self) -> dict:
        """Frame, heat map and path of the first view, as the browser has them, and the entropy's marker."""
        found = self.page.evaluate(
            """() => {
                const [view, entropy] = [...document.querySelectorAll('.widget-tab .js-plotly-plot')];
                const rows = z => Array.from(z, row => Array.from(row));
                const [image, heat, path] = view._fullData;
                return {source: image.source, map: rows(heat.z), path: rows([path.x, path.y]), opacity: heat.opacity,
                        entropy: rows([entropy._fullData[0].y])[0], now: Array.from(entropy._fullData[1].x)[0],
                        hidden: (view._fullData[6].x || []).length};
            }"""
        )
        picture = Image.open(io.BytesIO(base64.b64decode(found.pop("source").partition(",")[2])))
        return {name: np.array(value) for name, value in found.items()} | dict(frame=np.asarray(picture))

    def matches(self, look, t: int, **which):
        """Wait until it shows frame t (from 0) of a gaze; AssertionError with the difference if it never
        does."""

        def right():
            seen = self.shown()
            return (
                seen["map"].shape == look.maps.shape[3:]
                and np.allclose(seen["map"], look.map(**which)[t], atol=1e-5)
                and np.array_equal(seen["frame"], look.frames[t].transpose(1, 2, 0))
                and np.allclose(seen["path"].T, look.fixations(**which)[: t + 1] - 0.5, atol=1e-2)
                and np.allclose(seen["entropy"], look.entropy(**which), atol=1e-4)
                and seen["now"] == t + 1
            )

        wait_for(right, 20)

    def control(self, description: str):
        label = self.page.locator(".widget-label", has_text=re.compile(f"^{description}$")).first
        return label.locator("xpath=..")

    def choose(self, description: str, option: str):
        self.control(description).locator("select").select_option(label=option)

    def drag(self, description: str, share: float):
        """Drag a slider's handle to a share of its length, in steps, as a hand does."""
        control = self.control(description)
        control.scroll_into_view_if_needed()
        handle, track = (control.locator(c).bounding_box() for c in (".noUi-handle", ".noUi-base"))
        self.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + share * track["width"], track["y"] + track["height"] / 2, steps=8)
        self.page.mouse.up()

    def click_patch(self, row: int, column: int):
        self.page.locator(".widget-tab .js-plotly-plot").first.scroll_into_view_if_needed()
        x, y = self.page.evaluate(
            """([row, column]) => {
                const view = document.querySelector('.widget-tab .js-plotly-plot');
                const {x0, dx, y0, dy} = view._fullData[1], {xaxis, yaxis} = view._fullLayout;
                const box = view.querySelector('.nsewdrag').getBoundingClientRect();
                return [box.x + xaxis.l2p(x0 + column * dx), box.y + yaxis.l2p(y0 + row * dy)];
            }""",
            [row, column],
        )
        self.page.mouse.move(x - 3, y - 3)
        self.page.mouse.move(x, y)
        self.page.wait_for_timeout(150)  # Plotly takes up a hover before it takes a click
        self.page.mouse.click(x, y)

    def picture(self, name: str):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.locator(".widget-tab").scroll_into_view_if_needed()
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


def opened(browser, address: str):
    """A notebook whose kernel is ready."""
    page = browser.new_page(viewport=dict(width=1400, height=1000))
    page.goto(address)
    page.wait_for_function(
        "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady"
        " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
        timeout=90_000,
    )
    return page


def run_cells(page):
    """Begin to run all cells."""
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")


def run_all(browser, address: str):
    """Open a notebook, run all its cells; no cell may fail."""
    page = opened(browser, address)
    run_cells(page)
    page.wait_for_function(
        "() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code')"
        ".every(c => c.executionCount !== null && c.executionState !== 'running')"
        " && jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
        timeout=300_000,
    )
    errors = page.evaluate(
        "() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code')"
        ".flatMap(c => c.toJSON().outputs).filter(o => o.output_type === 'error').map(o => o.evalue)"
    )
    assert errors == []
    return page


def test_the_explorer_in_jupyterlab_shows_what_python_computes(chromium, lab):
    playwright = pytest.importorskip("playwright.sync_api")
    foveated, _ = chosen_runs()  # trains quick ones where there are none, as the notebook would
    clip = foveated.validation_clips(1)[0]
    encoded = EncodedClip(foveated.model, clip, foveated.tokenizer, foveated.config.task)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = run_all(browser, f"{lab}/lab/tree/attention.ipynb?reset")
        page.locator(".widget-tab .js-plotly-plot").first.wait_for(timeout=30_000)
        page.locator(".widget-tab").scroll_into_view_if_needed()
        screen, looks = Screen(page), {mode: encoded.gaze(mode) for mode in ("autoregressive", "parallel")}
        screen.matches(looks["autoregressive"], 0)
        screen.picture("1_opened")

        screen.drag("frame", 1.0)
        screen.matches(looks["autoregressive"], clip.frames.shape[0] - 1)
        screen.choose("map", "layer 3")
        screen.matches(looks["autoregressive"], clip.frames.shape[0] - 1, layer=2)
        screen.choose("head", "head 5")
        screen.matches(looks["autoregressive"], clip.frames.shape[0] - 1, layer=2, head=4)
        page.get_by_role("button", name="parallel").click()
        screen.matches(looks["parallel"], clip.frames.shape[0] - 1, layer=2, head=4)
        screen.picture("2_layer_and_mode")

        screen.drag("frame", 0.0)
        screen.matches(looks["parallel"], 0, layer=2, head=4)
        page.locator(".widget-play button").first.click()
        screen.matches(looks["parallel"], clip.frames.shape[0] - 1, layer=2, head=4)

        hidden = np.zeros((2, *looks["parallel"].maps.shape[:1], *looks["parallel"].maps.shape[3:]), bool)
        row, column = np.unravel_index(looks["parallel"].map()[-1].argmax(), hidden.shape[2:])
        hidden[1, -1, row, column] = True
        before, after = encoded.masked_losses(hidden, "parallel")
        screen.click_patch(int(row), int(column))
        page.get_by_text("1 patch hidden").wait_for(timeout=20_000)
        said = page.locator(".widget-html-content", has_text="patch hidden").inner_text()
        numbers = [float(n) for n in re.findall(r"-?\d+\.\d+", said)]
        assert np.allclose(numbers[:2], [before, after], atol=2e-4)
        wait_for(lambda: screen.shown()["hidden"] == 1, 20)  # drawn after it is said
        screen.picture("3_patch_hidden")

        page.get_by_role("tab", name="side by side").click()
        page.wait_for_function("() => document.querySelectorAll('.widget-tab .js-plotly-plot').length >= 5")
        page.wait_for_timeout(1500)
        screen.picture("4_side_by_side")
        browser.close()


def test_the_scaling_notebook_s_figures_follow_its_widgets_in_jupyterlab(chromium, lab):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = run_all(browser, f"{lab}/lab/tree/scaling.ipynb?reset")
        screen, shown = Screen(page), ".jupyter-widgets .js-plotly-plot"
        page.locator(shown).first.wait_for(timeout=30_000)

        def drawn():
            return page.evaluate(
                "shown => document.querySelector(shown)._fullData.map(t => [t.name, Array.from(t.x).length])",
                shown,
            )

        results = open_results()  # as the notebook does
        for figure in ("frame_scaling", "train_inference_gap"):
            screen.choose("figure", TITLES[figure])
            wanted = [[t.name, len(t.x)] for t in all_figures(results)[figure]().data]
            wait_for(lambda wanted=wanted: drawn() == wanted, 20)
        screen.control("frames").locator("select").select_option(label="64")
        few = results.runs[results.runs["frames"] == 64]
        wanted = [
            [t.name, len(t.x)] for t in all_figures(Results(few, *results[1:]))["train_inference_gap"]().data
        ]
        wait_for(lambda: drawn() == wanted, 20)
        seconds = {}
        for width in (1400, 800):
            page.set_viewport_size(dict(width=width, height=900))
            for figure in ("loss_vs_flops_fitted", "efficiency_frontier", "loss_vs_flops_fitted"):
                start = time.monotonic()
                screen.choose("figure", TITLES[figure])
                title = "shown => document.querySelector(shown)._fullLayout.title.text"
                wait_for(lambda title=title, figure=figure: page.evaluate(title, shown) == TITLES[figure], 20)
                seconds[width, figure] = time.monotonic() - start  # the last time, from memory
            wide = (
                "shown => { const output = document.querySelector(shown).closest('.jp-OutputArea-output'); "
            )
            wide += "return document.querySelector(shown)._fullLayout.width / output.clientWidth }"
            wait_for(lambda wide=wide: 0.9 < page.evaluate(wide, shown) <= 1, 20)
        print(seconds)
        assert min(seconds.values()) < 0.5, "in place"
        page.get_by_role("heading", name="Look for yourself").scroll_into_view_if_needed()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "5_scaling.png")
        browser.close()


def test_the_live_view_moves_while_a_notebook_trains_and_its_button_stops_at_a_checkpoint(chromium, lab):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = opened(browser, f"{lab}/lab/tree/live.ipynb?reset")

        def step() -> int:
            texts = page.locator(".jp-OutputArea .widget-html-content").all_inner_texts()
            found = re.search(r"step (\d+) of 300", " ".join(texts))
            return int(found[1]) if found else 0

        def points() -> int:
            """Of the curve of single steps, as it is drawn."""
            return page.evaluate(
                "() => document.querySelector('.jp-OutputArea .js-plotly-plot')?._fullData?.[0]?.x?.length || 0"
            )

        run_cells(page)
        wait_for(lambda: step() > 0 and points() > 0, 60)
        first, drawn = step(), points()
        wait_for(lambda: step() > first + 10 and points() > drawn + 10, 30)
        page.locator(".widget-html-content img").wait_for(timeout=30_000)
        caption = page.locator(".widget-html-content", has_text="after step")
        assert re.search(r"after step (40|80|120)", caption.inner_text())
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "6_live.png")

        page.locator("button.widget-button", has_text="Stop").click()
        error = page.locator(".jp-OutputArea", has_text="Stopped: asked to stop")
        error.wait_for(timeout=30_000)
        stopped = int(re.search(r"goes on from step (\d+)", error.inner_text())[1])
        assert first < stopped < 300 and "Traceback" not in error.inner_text()

        run_cells(page)
        wait_for(lambda: step() > stopped, 60)
        done = page.locator(".gtitle", has_text="step 300 of 300").first
        done.wait_for(timeout=120_000)
        assert points() == 300 - stopped, "the rest alone, and the whole view is replaced by the last figure"
        page.screenshot(path=SCREENSHOTS / "7_trained.png")
        browser.close()


def test_a_film_plays_in_jupyterlab_and_takes_a_question_meanwhile(chromium, lab):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = run_all(browser, f"{lab}/lab/tree/watch.ipynb?reset")
        page.locator(".jp-OutputArea .js-plotly-plot").first.wait_for(timeout=30_000)

        def shown() -> tuple:
            """Frame and attention map, as they are drawn."""
            return page.evaluate(
                """() => { const [image, heat] = document.querySelector('.jp-OutputArea .js-plotly-plot')._fullData;
                   return [image.source, Array.from(heat.z, row => Array.from(row))] }"""
            )

        def text() -> str:
            return " ".join(page.locator(".jp-OutputArea .widget-html-content").all_inner_texts())

        first = shown()
        assert "0:00" in text() and "describes" in text() and "true: " in text()
        page.locator("button.widget-toggle-button", has_text="play").click()
        wait_for(lambda: shown()[0] != first[0] and shown()[1] != first[1], 30)
        wait_for(lambda: re.search(r"0:0[2-9] ", text()), 60)
        page.locator(".widget-text input").fill("Which shape is red?")
        page.locator(".widget-text input").press("Enter")
        wait_for(lambda: "asked: Which shape is red?" in text(), 30)
        moved = shown()
        wait_for(lambda: shown()[1] != moved[1], 30)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "8_watched.png")
        browser.close()
