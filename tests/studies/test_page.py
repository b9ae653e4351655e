"""index.html of a study: what it says, and what a browser makes of it."""

import os
import shutil

import pytest
from conftest import tiny

from fvlm import train
from fvlm.scaling.intervals import t_half_width
from fvlm.studies.page import study_page
from fvlm.training.results import load_study

SHORT = dict(steps=2, eval_every=1, eval_samples=2, effective_batch=2, features=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two cells, one of them with three seeds, and a run that can't be read."""
    out = tmp_path_factory.mktemp("out")
    for arch, seeds in (("blind", 3), ("foveated", 1)):
        for seed in range(seeds):
            run = train(tiny(arch, out=str(out), seed=seed, **SHORT))
    (run.folder / "train.html").write_text("<p>its notebook</p>")
    bad = run.folder.with_name("T1-T_2f_fov_seed9")
    shutil.copytree(run.folder, bad)
    (bad / "evaluations.parquet").write_bytes(b"<script>no table</script>")
    return run.folder.parent


def test_cells_are_means_over_seeds_with_their_interval(study):
    page = study_page(study).read_text()
    losses = load_study(study).evaluations.query("step == 2 and arch == 'blind'")["loss_parallel"]
    assert f"{losses.mean():.3f} ± {t_half_width(losses.std(), 3):.3f}" in page
    cells, runs = page.partition("<h2>Runs</h2>")[::2]
    assert cells.count("<td>T1-T_2f_") == 2 and runs.count("T1-T_2f_bli_seed") == 3
    assert 'href="T1-T_2f_fov_seed0/train.html"' in runs and 'href="T1-T_2f_bli' not in runs


def test_a_run_that_can_t_be_read_is_named_and_its_words_are_no_html(study):
    page = study_page(study).read_text()
    told = page.rpartition("<p>left out: ")[2].partition("</p>")[0]
    assert "T1-T_2f_fov_seed9" in told and "evaluations.parquet" in told
    assert "<script>no table" not in page


@pytest.mark.slow
def test_in_a_browser_without_a_network_it_draws_sorts_and_filters(study):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        (pytest.fail if os.environ.get("FVLM_REQUIRE_BROWSER") else pytest.skip)("no Chromium")
    from playwright.sync_api import sync_playwright

    path = study_page(study)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True).new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.set_default_timeout(120_000)
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        page.wait_for_selector(".js-plotly-plot .scatterlayer .trace", state="attached")
        names = "#runs tbody tr:visible td:first-child"
        assert page.locator(names).count() == 4
        page.locator("#runs th", has_text="run").click()
        up = page.locator(names).all_text_contents()
        page.locator("#runs th", has_text="run").click()
        assert up == sorted(up) and page.locator(names).all_text_contents() == up[::-1]
        page.locator("#runs th", has_text="parallel").click()
        losses = page.locator("#runs tbody tr td:nth-child(4)").all_text_contents()
        assert losses == sorted(losses, key=float)
        page.fill("input", "bli seed2")
        assert page.locator(names).all_text_contents() == ["T1-T_2f_bli_seed2"]
        page.set_viewport_size(dict(width=800, height=900))
        page.wait_for_function("document.documentElement.scrollWidth <= 800")  # no sideways scrolling
        page.screenshot(path=str(study.parent / "page.png"), full_page=True)
        browser.close()
    assert problems == []
