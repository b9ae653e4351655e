"""The notebooks' widgets in real JupyterLab, driven by a real browser; the gaze explorer: test_explorer.py."""

import re
import shutil

import nbformat
import pytest
from conftest import REPOSITORY
from jupyterlab_driver import FLAGS, SCREENSHOTS, jupyter_lab, opened, run_all, run_cells, wait_for

from fvlm.plots import all_figures
from fvlm.plots.scaling import TITLES
from fvlm.scaling import Results, open_results
from fvlm.scaling.runs import FLOPS

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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab of its own, with a copy of the scaling notebook, one that trains and one that
    watches."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3"))
    for name, code in dict(live=TRAINS, watch=WATCHES).items():
        cell = nbformat.v4.new_code_cell(code.format(out=folder / name))
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    shutil.copy(REPOSITORY / "notebooks/scaling.ipynb", folder / "notebooks")
    with jupyter_lab(folder) as address:
        yield address


class Screen:
    """The controls of a notebook's widgets, and the user's hand."""

    def __init__(self, page):
        self.page = page

    def control(self, description: str):
        label = self.page.locator(".widget-label", has_text=re.compile(f"^{description}$")).first
        return label.locator("xpath=..")

    def choose(self, description: str, option: str):
        self.control(description).locator("select").select_option(label=option)


@pytest.mark.alone
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

        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
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
        every = list(map(str, sorted(set(results.runs["frames"]))))
        screen.control("frames").locator("select").select_option(label=every)
        title = "shown => document.querySelector(shown)._fullLayout.title.text"
        last, seconds = list(TITLES)[-1], {}
        for width in (1400, 800):
            page.set_viewport_size(dict(width=width, height=900))
            screen.choose("figure", TITLES[last])
            wait_for(lambda: page.evaluate(title, shown) == TITLES[last], 20)
            for figure in (*TITLES, *TITLES):  # the second time, the slowest to draw among them, from memory
                if figure == "training_curves":  # has no title
                    continue
                seconds[width, figure] = page.evaluate(REACTION, ["figure", TITLES[figure]])
                wait_for(lambda: page.evaluate(FITS, shown), 5)
            if width == 1400:
                for figure in ("loss_vs_flops_fitted", "gap_vs_scale"):
                    page.evaluate(REACTION, ["figure", TITLES[figure]])
                    for control, options in FRESH.items():
                        took = [page.evaluate(REACTION, [control, option]) for option in options]
                        seconds[figure, control] = min(took)
            page.screenshot(path=SCREENSHOTS / f"5_scaling_{width}.png")
        print({what: round(took, 2) for what, took in seconds.items()})
        assert max(seconds.values()) < 0.5, ("in place", seconds)
        page.get_by_role("heading", name="Look for yourself").scroll_into_view_if_needed()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "5_scaling.png")
        browser.close()


FITS = """shown => {
    // As wide as the notebook, the legend inside, and every entry in the legend without scrolling.
    const plot = document.querySelector(shown), output = plot.closest(".jp-OutputArea-output");
    const all = plot.getBoundingClientRect(), share = plot._fullLayout.width / output.clientWidth;
    const inside = (inner, outer) => inner.bottom <= outer.bottom + 2 && inner.top >= outer.top - 2;
    const ground = plot.querySelector(".legend .bg")?.getBoundingClientRect() || all;
    const entries = [...plot.querySelectorAll(".legend .traces")].map(entry => entry.getBoundingClientRect());
    return 0.9 < share && share <= 1 && inside(ground, all) && ground.right <= all.right + 1
        && entries.every(entry => inside(entry, ground));
}"""
REACTION = """async ([description, option]) => {
    // Seconds from a choice to the first screen frame on which the figure is another.
    const plot = document.querySelector(".jupyter-widgets .js-plotly-plot"), before = plot.data;
    const label = [...document.querySelectorAll(".widget-label")].find(one => one.textContent === description);
    const select = label.parentElement.querySelector("select"), start = performance.now();
    select.selectedIndex = [...select.options].findIndex(one => one.label.replace(/\\u00a0/g, " ") === option);
    select.dispatchEvent(new Event("change", { bubbles: true }));
    const done = () => description === "figure" ? plot._fullLayout.title.text === option : plot.data !== before;
    while (!done() && performance.now() - start < 20000) await new Promise(requestAnimationFrame);
    return (performance.now() - start) / 1000;
}"""
FRESH = {  # controls whose figures take longest to make, fits and gaps with their bootstrap; the better of two
    "bootstrap": ("100", "50"),
    "compute": tuple(list(FLOPS)[1:3]),
}


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
        page.locator(".fvlm-view canvas").first.wait_for(timeout=30_000)

        def shown() -> str:
            """The frame under its attention, as it is drawn."""
            return page.locator(".fvlm-view canvas").first.evaluate("canvas => canvas.toDataURL()")

        def text() -> str:
            return " ".join(page.locator(".jp-OutputArea .widget-html-content").all_inner_texts())

        first = shown()
        assert "0:00" in text() and "describes" in text() and "true: " in text()
        page.locator("button.widget-toggle-button", has_text="play").click()
        wait_for(lambda: shown() != first, 30)
        wait_for(lambda: re.search(r"0:0[2-9] ", text()), 60)
        page.locator(".widget-text input").fill("Which shape is red?")
        page.locator(".widget-text input").press("Enter")
        wait_for(lambda: "asked: Which shape is red?" in text(), 30)
        moved = shown()
        wait_for(lambda: shown() != moved, 30)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "8_watched.png")
        browser.close()
