"""Lines through measured points, and the occupancy of a server."""

from __future__ import annotations

import pytest

from llamatelemetry.local.why.occupancy import Hold, Occupancy
from llamatelemetry.local.why.rates import fit_line, fit_ratio


def test_line_is_not_moved_by_a_few_slow_calls():
    points = [(n, 20 + 5 * n) for n in range(10, 200, 10)]
    slow = [(n, 900.0) for n in (20, 70, 110)]

    line = fit_line([*points, *slow])

    assert line is not None
    assert line.slope == pytest.approx(5, rel=0.05)
    assert line.base == pytest.approx(20, abs=5)


def test_line_without_a_spread_of_lengths_goes_through_the_origin():
    line = fit_line([(30, 170), (31, 175), (30, 165)])

    assert line is not None
    assert (line.base, line.slope) == (0, pytest.approx(170 / 30, rel=0.03))


@pytest.mark.parametrize("points", [[], [(0, 5)], [(10, 0), (30, 0)]])
def test_no_line_without_positive_points(points: list[tuple[float, float]]):
    assert fit_line(points) is None
    assert fit_ratio(points) is None


def test_line_of_many_points_has_a_bounded_cost():
    points = [(float(n % 3000 + 1), 5.0 * (n % 3000 + 1)) for n in range(50_000)]

    line = fit_line(points)

    assert line is not None
    assert line.slope == pytest.approx(5)


def test_occupancy_integrates_requests_prompts_and_decodes():
    occupancy = Occupancy([Hold(0, 100, 300, 50, "a"), Hold(50, 250, 400, 100, "b")])

    assert occupancy.peak == 2
    assert occupancy.held_ms(0, 500, least=1) == 400
    assert occupancy.held_ms(0, 500, least=2) == 250
    assert occupancy.held_ms(275, 500, least=2) == 25
    assert occupancy.decoding_ms(0, 500, least=2) == 50
    assert occupancy.prefilling_ms(0, 500, slots=2) == 50
    assert occupancy.prompt_tokens(0, 100) == pytest.approx(50 + 25)
    assert [hold.name for hold in occupancy.beside(260, 350)] == ["b", "a"]
    assert occupancy.beside(401, 500) == []


def test_slot_that_passes_from_one_request_to_the_next_is_one_slot():
    holds = [Hold(100 * n - 1, 100 * n + 50, 100 * n + 101, 10, str(n)) for n in range(5)]

    assert Occupancy(holds).peak == 1
