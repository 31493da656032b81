"""What fits, and who gets how much of the rest."""

from __future__ import annotations

import pytest

from anytime_ar.serving.engine.admission import STALE_S, Probation
from anytime_ar.serving.engine.costs import CostCorrection, LinearCost, ResponseCostModel
from anytime_ar.serving.engine.fairness import (
    TARGET_UTILISATION,
    ClientDemand,
    DemandTracker,
    JobCost,
    max_lateness_s,
    max_min_fair_shares,
)

SOON = 1e-9
"""Within which nothing that is asked for changes."""


def job_cost(
    client: str = "a", least: float = 1.0, extra: float = 0.0, due: float = 10.0
) -> JobCost:
    return JobCost(client, least, extra, due)


def test_floors_fit_exactly_up_to_the_last_second() -> None:
    others = [job_cost(least=2, due=5), job_cost(least=1, due=1)]
    assert max_lateness_s(others, job_cost(least=2, due=5)) == 0
    assert max_lateness_s(others, job_cost(least=2.5, due=5)) == pytest.approx(0.5)
    assert max_lateness_s(others, job_cost(least=2.5, due=100)) < 0  # there is time after them
    assert max_lateness_s(others, job_cost(least=2, due=5), speed=0.5) == pytest.approx(5)
    assert max_lateness_s(others, job_cost(least=0.5, due=0.9)) == pytest.approx(
        0.5
    )  # by the next one
    assert max_lateness_s([], job_cost(least=1, due=2)) == -1


def test_nobody_is_refused_for_what_is_late_without_them() -> None:
    late = job_cost(least=1, due=0.1)
    assert max_lateness_s([late], job_cost(least=1, due=10)) == -8
    assert max_lateness_s([late], job_cost(least=1, due=0.05)) > 0.9


def test_what_floors_leave_is_given_away() -> None:
    demands = {"a": ClientDemand(min_rate=0.2, extra_rate=1.0)}
    assert max_min_fair_shares(demands, [], SOON)["a"] == pytest.approx(TARGET_UTILISATION - 0.2)
    assert max_min_fair_shares({"a": ClientDemand(0.2, 0.1)}, [], SOON) == {"a": 1.0}
    assert max_min_fair_shares({"a": ClientDemand(1.2, 1.0)}, [], SOON) == {"a": 0.0}
    # What waits has to be worked off besides: 0.1 s a second more for floors, 0.2 for the rest.
    waiting = [job_cost(least=0.1 * SOON, extra=0.2 * SOON)]
    shares = max_min_fair_shares(demands, waiting, SOON)
    assert shares["a"] == pytest.approx((TARGET_UTILISATION - 0.3) / 1.2)


def test_a_burst_with_time_enough_is_no_overload() -> None:
    burst = {"a": ClientDemand(1.0, 10.0)}
    assert max_min_fair_shares(burst, [job_cost(least=1.0, extra=10.0)], period_s=60.0) == {
        "a": 1.0
    }
    assert max_min_fair_shares(burst, [job_cost(least=1.0, extra=10.0)], period_s=6.0)["a"] < 0.5


def test_a_greedy_client_takes_nothing_from_a_modest_one() -> None:
    demands = {"greedy": ClientDemand(0.2, 8.0), "modest": ClientDemand(0.05, 0.2)}
    shares = max_min_fair_shares(demands, [], SOON)
    assert shares["modest"] == 1.0
    assert shares["greedy"] == pytest.approx((TARGET_UTILISATION - 0.25 - 0.2) / 8.0)
    two = max_min_fair_shares({"a": ClientDemand(0.1, 4.0), "b": ClientDemand(0.1, 2.0)}, [], SOON)
    assert two["a"] * 4.0 == pytest.approx(two["b"] * 2.0)  # the same time, not the same share


def test_clients_keep_what_they_use_and_no_more() -> None:
    demands = DemandTracker()
    assert demands.guaranteed_speed("a", 0.0) == 1.0
    demands.record(job_cost("b", least=0.3), 0.0)
    assert demands.guaranteed_speed("a", 0.0) == pytest.approx(0.7)  # what b does not use is free
    demands.record(job_cost("b", least=5.0), 0.0)
    assert demands.guaranteed_speed("a", 0.0) == pytest.approx(0.5)  # and b's part is the half
    assert demands.guaranteed_speed("b", 0.0) == 1.0
    assert demands.guaranteed_speed("a", 60.0) == pytest.approx(1.0)  # it has left


def test_the_shape_of_steps_is_found() -> None:
    true = LinearCost(0.002, 0.0003, 0.00001)
    observed = [(r, r * k, true.seconds(r, r * k)) for r in (1, 4, 16) for k in (0, 50, 100)]
    found = LinearCost.fit(observed)
    assert found.seconds(8, 400) == pytest.approx(true.seconds(8, 400), rel=1e-6)
    assert found.saturation_rows == 67
    assert LinearCost(0.001, 0.0, 0.0).saturation_rows == 1024  # another row costs nothing
    assert LinearCost(0.0, 0.001, 0.0).saturation_rows == 1  # rows together gain nothing


@pytest.mark.parametrize(("factor", "observations"), [(10.0, 2), (0.1, 3)])
def test_a_wrong_estimate_is_put_right_in_a_few_observations(
    factor: float, observations: int
) -> None:
    drift = CostCorrection()
    for _ in range(10):
        drift.add(0.01, 0.01)
    for _ in range(observations):
        drift.add(0.01, 0.01 * factor)
    assert drift.factor == pytest.approx(factor)


def test_a_first_observation_is_believed_and_a_second_one_weighed() -> None:
    drift = CostCorrection(initial_delay_s=0.004)
    assert (drift.factor, drift.tail_delay_s, drift.has_observations) == (1.0, 0.004, False)
    drift.add(0.01, 0.03)
    assert (drift.factor, drift.has_observations) == (pytest.approx(3.0), True)
    drift.add(0.01, 0.01)
    assert drift.factor == pytest.approx(2.0)  # of 3 and 1


def test_a_trial_begins_after_a_pause_and_ends_after_three_turns() -> None:
    now = [100.0]
    trial = Probation(lambda: now[0])
    for ended in (False, False, True):
        assert (trial.admits(3), trial.admits(4)) == (True, False)
        assert trial.end_iteration() is ended
    assert not trial.admits(0)
    assert trial.end_iteration() is False  # once
    now[0] += STALE_S
    assert not trial.admits(0)
    now[0] += 0.001
    assert trial.admits(0)
    assert [trial.end_iteration() for _ in range(3)] == [False, False, True]


def test_a_single_quick_step_raises_no_hopes_and_rare_delays_are_kept_apart() -> None:
    drift = CostCorrection()
    for i in range(300):
        drift.add(0.01, 0.03 if i % 50 == 7 else 0.01)
    assert drift.factor == pytest.approx(1.0)
    assert drift.tail_delay_s == pytest.approx(0.02)
    drift.add(0.01, 0.001)
    assert drift.factor == pytest.approx(1.0)


def test_responses_are_learned() -> None:
    responses = ResponseCostModel()
    for _ in range(5):
        responses.add(10, 0.003)
    assert responses.expected_s(10) == pytest.approx(0.003)
    assert responses.expected_s(1) < 0.003
