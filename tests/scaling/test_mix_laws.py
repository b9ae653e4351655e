"""Mixing laws on planted ones: the optimum is found, intervals cover, and a law that fails is said to."""

import numpy as np
import pytest

from fvlm.scaling.mix import (
    FORMS,
    LAW,
    Form,
    Limits,
    MixLaws,
    cross_validated,
    designed,
    failure,
    fit_mix,
    hundredths,
    lattice,
)

DOMAINS = ["video", "image", "images", "text"]
# a row per domain: floor, what each domain's share does to the log of what is above it, exponent of samples
PLANTED = {
    "video": (0.30, [-1.6, 0.3, -0.2, 1.1], 0.35),
    "image": (0.25, [0.2, -1.8, -0.5, 1.0], 0.30),
    "images": (0.35, [-0.1, -0.3, -1.9, 0.9], 0.25),
    "text": (0.20, [0.8, 0.9, 0.8, -2.2], 0.40),
}
DESIGN = designed(4, 24, least=0.04)
D = 4000.0


def truth(domain, weights, samples=D):
    floor, slopes, gamma = PLANTED[domain]
    return floor + np.exp(np.atleast_2d(weights) @ slopes) * (np.asarray(samples) / D) ** -gamma


def planted(noise, seed=0, samples=(D,)):
    """Weights, samples, run labels, and losses by domain of a design's runs; a run errs as one."""
    rng = np.random.default_rng(seed)
    weights, runs = np.repeat(DESIGN, len(samples), axis=0), np.repeat(np.arange(24), len(samples))
    seen = np.tile(samples, 24)
    losses = {d: truth(d, weights, seen) * np.exp(noise * rng.standard_normal(24))[runs] for d in DOMAINS}
    return weights, seen, runs, losses


def laws(noise, seed=0, samples=(D,), bootstrap=0, form=LAW):
    weights, seen, runs, losses = planted(noise, seed, samples)
    fits = [fit_mix(weights, losses[d], seen, runs, d, form, bootstrap, seed) for d in DOMAINS]
    return MixLaws(DOMAINS, fits)


def planted_optimum(limits=None):
    grid = lattice(4, 60)
    allowed = grid[(limits or Limits()).allow(grid)]
    totals = (limits or Limits(samples=D)).total(allowed)
    losses = sum(truth(d, allowed, totals) for d in DOMAINS) / 4
    return allowed[np.argmin(losses)], losses.min()


# ── Designs ──────────────────────────────────────────────────────────────────────────────────────


def test_a_lattice_has_every_mixture_once():
    points = lattice(4, 6)
    assert len(points) == 84 == len(np.unique(points, axis=0)) and np.allclose(points.sum(1), 1)
    assert (points.min(), points.max()) == (0, 1)


def test_a_design_tells_products_apart_better_than_a_random_choice():
    x = Form("pairs", 4, False).features
    volume = lambda points: np.linalg.slogdet(x(points).T @ x(points))[1]
    candidates = 0.04 + 0.84 * lattice(4, 6)
    rng = np.random.default_rng(0)
    random = [volume(candidates[rng.choice(84, 24, replace=False)]) for _ in range(50)]
    assert volume(DESIGN) > max(random) and DESIGN.shape == (24, 4)
    assert np.allclose(DESIGN.sum(1), 1) and DESIGN.min() >= 0.035 and len(np.unique(DESIGN, axis=0)) == 24
    assert np.allclose(DESIGN * 100, np.round(DESIGN * 100)), "whole hundredths"
    assert (designed(4, 24, least=0.04) == DESIGN).all()
    for wrong in (dict(mixtures=99), dict(mixtures=24, least=0.3)):
        with pytest.raises(ValueError, match="lattice|least"):
            designed(4, **wrong)


def test_hundredths_sum_to_one():
    assert hundredths([1, 1, 1]).tolist() == [0.34, 0.33, 0.33]
    assert hundredths([0.33, 0.34, 0.12, 0.2]).sum() == pytest.approx(1)


# ── Fits ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_planted_law_is_found():
    found = laws(0.0, samples=(1000.0, 2000.0, 4000.0))
    for fit, domain in zip(found.fits, DOMAINS):
        floor, _, gamma = PLANTED[domain]
        assert np.exp(fit.theta[0]) == pytest.approx(floor, rel=0.02)
        assert fit.theta[-1] == pytest.approx(gamma, abs=0.01) and fit.r2 > 0.999
        new = np.array([0.25, 0.3, 0.15, 0.3])
        assert fit.predict(new, 16_000) == pytest.approx(truth(domain, new, 16_000), rel=0.01)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_what_it_says(form):
    rng = np.random.default_rng(1)
    shape = Form(form, 4, True)
    theta = rng.normal(0, 0.3, shape.parameters) + (1.5 if form == "linear" else 0)
    theta[-1] = np.log(0.5) if form == "effective" else 0.3
    weights, more = np.tile(DESIGN, (2, 1)), np.repeat([-0.7, 0.7], 24)
    if form == "effective":
        theta[1:5] += 1
    loss = np.exp(shape.log_loss(theta, weights, more))
    fit = fit_mix(weights, loss, np.exp(more), form=form)
    assert fit.form.parameters == shape.parameters
    assert np.allclose(fit.predict(weights, np.exp(more)), loss, rtol=3e-3)


def test_what_can_t_be_fitted_is_refused():
    weights = DESIGN[:5]
    for loss, words in ((np.ones(5), "5 runs for the"), (np.full(5, -1.0), "positive")):
        with pytest.raises(ValueError, match=words):
            fit_mix(weights, loss)
    with pytest.raises(ValueError, match="sum to 1"):
        fit_mix(2 * DESIGN, np.ones(24))
    with pytest.raises(ValueError, match="valid are"):
        fit_mix(DESIGN, np.ones(24), form="cubic")
    with pytest.raises(ValueError, match="no interval"):
        laws(0.01).fits[0].interval(DESIGN)


# ── The optimum ──────────────────────────────────────────────────────────────────────────────────


def test_the_planted_optimum_is_found():
    found, (best, least) = laws(0.0).optimum(), planted_optimum()
    assert np.abs(found.weights - best).max() < 0.03 and found.loss == pytest.approx(least, rel=0.002)
    assert found.samples == pytest.approx(D) and np.isclose(found.weights.sum(), 1)
    assert (found.least <= found.weights + 1e-9).all() and (found.weights <= found.most + 1e-9).all()
    assert 0 < found.flat < 0.5, "mixtures within a percent"


@pytest.mark.parametrize(
    "limits",
    [
        Limits(samples=D, most=(400, 4000, 4000, 4000)),
        Limits(flops=3000.0, flops_per_sample=(1.0, 1.0, 1.0, 0.1)),
        Limits(samples=D, most=(4000, 4000, 4000, 300), flops=3500.0, flops_per_sample=(1, 1, 1, 0.2)),
    ],
)
def test_limits_hold_and_the_best_within_them_is_found(limits):
    found, (best, least) = laws(0.0, samples=(1000.0, 4000.0)).optimum(limits), planted_optimum(limits)
    assert limits.allow(found.weights[None]).all()
    true = sum(truth(d, found.weights, found.samples)[0] for d in DOMAINS) / 4
    assert true < least * 1.002 and found.loss == pytest.approx(true, rel=0.002)
    assert np.abs(found.weights - best).max() < 0.05
    if limits.flops:
        assert found.samples * (found.weights @ limits.flops_per_sample) <= limits.flops * (1 + 1e-6)
    with pytest.raises(ValueError, match="no mixture"):
        laws(0.0).optimum(Limits(samples=D, most=(1, 1, 1, 1)))


def test_a_target_that_counts_alone_moves_the_optimum_to_its_domain():
    found = laws(0.0)
    alone = MixLaws(DOMAINS, found.fits, np.array([1.0, 0, 0, 0])).optimum()
    assert alone.weights[0] > 0.95 > found.optimum().weights[0]


@pytest.mark.slow
def test_intervals_cover_what_was_planted():
    """Of loss at a mixture of its own, of a mean of three seeds there, and of the optimum's weights."""
    best, _ = planted_optimum()
    new, rng = np.array([[0.33, 0.34, 0.13, 0.2]]), np.random.default_rng(0)
    law, seeds, weights = [], [], []
    for trial in range(10):
        found = laws(0.02, seed=trial, bootstrap=30)
        for fit, domain in zip(found.fits, DOMAINS):
            true = truth(domain, new)[0]
            (low,), (high,) = fit.interval(new)
            law.append(low <= true <= high)
            came = true * np.exp(0.02 * rng.standard_normal(3)).mean()
            (low,), (high,) = fit.interval(new, seeds=3)
            seeds.append(low <= came <= high)
        optimum = found.optimum()
        weights += list((optimum.low - 0.01 <= best) & (best <= optimum.high + 0.01))
    assert np.mean(law) > 0.85 and np.mean(seeds) > 0.85 and np.mean(weights) > 0.8
    assert (optimum.high - optimum.low).max() < 0.6, "and they say something"


# ── Does it hold? ────────────────────────────────────────────────────────────────────────────────


def test_the_law_is_told_from_simpler_forms_and_believed_where_it_holds():
    weights, _, _, losses = planted(0.005, seed=3)
    table = cross_validated(weights, losses["video"], forms=("mean", "linear", "no floor", LAW))
    errors = table.set_index("form")["error"]
    assert errors[LAW] < errors["mean"] / 4 and errors[LAW] <= errors["linear"]
    assert failure(fit_mix(weights, losses["video"]), table) == ""
    assert "seeds differ" in failure(fit_mix(weights, losses["video"]), table, spread=1e-4)


def test_a_law_that_fails_is_said_to():
    """What one domain does depends on another: two domains together help, each alone harms."""
    rng = np.random.default_rng(0)
    a, b = DESIGN[:, 0], DESIGN[:, 1]
    loss = (0.3 + np.exp(-6 * a * b + a + b)) * np.exp(0.005 * rng.standard_normal(24))
    table = cross_validated(DESIGN, loss, forms=("mean", LAW, "pairs"))
    assert "products" in failure(fit_mix(DESIGN, loss), table)
    nothing = np.exp(0.02 * rng.standard_normal(24))
    table = cross_validated(DESIGN, nothing, forms=("mean", LAW))
    assert failure(fit_mix(DESIGN, nothing), table) != ""
