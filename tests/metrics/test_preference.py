import numpy as np
import pytest
from scipy import optimize

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics import preference
from vdm_jax.metrics.preference import ELO, Votes

NAMES = ("a", "b", "c", "d")
PLANTED = np.array([120.0, 30.0, -40.0, -110.0])


def tallied(*games):
    """Votes of (first, second, outcome, count), each on a subject of its own."""
    rows = [(i, j, y) for i, j, y, count in games for _ in range(count)]
    first, second, outcome = map(np.array, zip(*rows, strict=True))
    return Votes(first, second, outcome.astype(np.float64), np.arange(len(rows)))


def study(rng, count, scores=PLANTED, ties=0.0):
    first = rng.integers(0, len(scores), count)
    second = (first + rng.integers(1, len(scores), count)) % len(scores)
    chance = 1 / (1 + 10 ** ((scores[second] - scores[first]) / 400))
    outcome = np.where(rng.random(count) < ties, 0.5, rng.random(count) < chance)
    return Votes(first, second, outcome.astype(np.float64), np.arange(count))


def column(found, name):
    return np.array([getattr(score, name) for score in found.scores])


def test_of_two_models_the_score_is_the_log_odds_and_its_interval_that_of_the_binomial():
    found = preference.strengths(tallied((0, 1, 1, 40), (1, 0, 1, 15), (0, 1, 0.5, 20)), "ab")
    odds = np.log(50 / 25)
    np.testing.assert_allclose(column(found, "value"), [odds * ELO / 2, -odds * ELO / 2])
    half = 1.959964 * np.sqrt(1 / (75 * (50 / 75) * (25 / 75))) * ELO / 2
    np.testing.assert_allclose(column(found, "high") - column(found, "value"), half, rtol=1e-6)
    assert found.prior == 0


@pytest.mark.parametrize("unbeaten", [False, True])
def test_no_other_scores_are_likelier(rng, unbeaten):
    votes = study(rng, 80, ties=0.2)
    if unbeaten:
        beaten = (votes.first == 0) * 1.0 + (votes.second != 0) * votes.outcome * (votes.first != 0)
        votes = votes._replace(outcome=beaten)
    found = preference.strengths(votes, NAMES)
    assert found.prior == unbeaten

    def unlikely(scores):
        odds = scores[votes.first] - scores[votes.second]
        lost = votes.outcome @ np.logaddexp(0, -odds) + (1 - votes.outcome) @ np.logaddexp(0, odds)
        centred = scores - scores.mean()
        virtual = np.logaddexp(0, centred) + np.logaddexp(0, -centred)
        return lost + found.prior * virtual.sum()

    best = optimize.minimize(unlikely, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
    expected = (best.x - best.x.mean()) * ELO
    np.testing.assert_allclose(column(found, "value"), expected, atol=1e-3)


@pytest.mark.parametrize("raters", [1, 4])
def test_intervals_hold_the_truth_in_95_of_100_studies(rng, raters):
    """Raters who all say the same bring no knowledge: the intervals must not shrink."""
    held = []
    for _ in range(400):
        one = study(rng, 160)
        votes = Votes(*(np.tile(values, raters) for values in one))
        found = preference.strengths(votes, NAMES)
        held.append((column(found, "low") < PLANTED) & (column(found, "high") > PLANTED))
    assert 0.93 < np.mean(held) < 0.975


def test_win_rates_hold_the_truth_in_95_of_100_studies_of_raters_who_agree(rng):
    truth = 1 / (1 + 10 ** (-100 / 400))
    found = [
        preference.win_rate(
            Votes(*(np.tile(v, 3) for v in study(rng, 80, np.array([100.0, 0.0])))), 0
        )
        for _ in range(400)
    ]
    assert 0.925 < np.mean([rate.low < truth < rate.high for rate in found]) < 0.98


def test_names_and_sides_do_not_matter(rng):
    votes = study(rng, 120, ties=0.1)
    whole = preference.strengths(votes, NAMES)
    mirrored = votes._replace(first=votes.second, second=votes.first, outcome=1 - votes.outcome)
    renamed = votes._replace(first=3 - votes.first, second=3 - votes.second)
    for name in ("value", "low", "high"):
        want = column(whole, name)
        same = column(preference.strengths(mirrored, NAMES), name)
        turned = column(preference.strengths(renamed, NAMES), name)
        np.testing.assert_allclose(same, want, atol=1e-6)
        np.testing.assert_allclose(turned[::-1], want, atol=1e-6)


def test_a_model_that_never_lost_is_finite_above_one_that_lost_once_and_wider():
    never = preference.strengths(tallied((0, 1, 1, 50)), "ab")
    once = preference.strengths(tallied((0, 1, 1, 49), (0, 1, 0, 1)), "ab")
    assert (never.prior, once.prior) == (1, 0)
    assert once.scores[0].value < never.scores[0].value < 1000
    assert never.scores[0].high > once.scores[0].high
    assert never.scores[0].low > 0


def test_groups_that_never_met_are_named():
    votes = tallied((0, 2, 1, 5), (0, 2, 0, 5), (1, 3, 0.5, 3))
    with pytest.raises(Refusal, match="with each other: a, c; b, d"):
        preference.strengths(votes, NAMES)
    with pytest.raises(Refusal, match="needs two models, got a"):
        preference.strengths(tallied((0, 0, 1, 1)), "a")


def test_a_share_has_the_interval_of_wilson():
    rate = preference.proportion(np.repeat([1.0, 0.0], [7, 3]), np.arange(10))
    np.testing.assert_allclose(rate, (0.7, 0.3967781, 0.8922087), atol=1e-6)
    sure = preference.proportion(np.ones(30), np.arange(30) % 10)
    np.testing.assert_allclose(sure, (1, 1 / (1 + 1.959964**2 / 10), 1), atol=1e-6)
    assert np.isnan(preference.proportion(np.ones(0), np.arange(0)).value)


def test_agreement_is_that_of_the_published_example():
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: 0.743."""
    sheet = ("111 ", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222")
    things = [list(column.replace(" ", "")) for column in (*sheet, "555", "11", "3")]
    found = preference.agreement(things)
    assert found.things == 11
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert preference.agreement([["left"], []]) is None
    assert preference.agreement([["left", "left"], ["left", "tie"]]).same == 0.5


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
