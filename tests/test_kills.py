"""Runs of every recipe, killed at random moments and started again, come to the end that they would have come to."""

from benchmarks.kills import run_campaign, share_kills
from tests.faults.fault import RECIPES

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kills"), share_kills(20, RECIPES).items())
def test_a_run_killed_at_random_moments_comes_to_the_same_end(recipe, kills, tmp_path):
    campaign = run_campaign(recipe, kills, 0, tmp_path / recipe)
    assert campaign.places.total() == kills
    assert campaign.is_exact, campaign.failures
