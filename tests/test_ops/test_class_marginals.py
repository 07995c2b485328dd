from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_dhr.ops import MARGINALS, class_marginal

AREA = torch.tensor([[64.0, 32.0, 4.0]])
ALL = torch.ones(1, 3, dtype=torch.bool)
# Of classes, in cells: none, or more than what rounding leaves of a single pixel
AREAS = st.just(0.0) | st.floats(1e-4, 1e4)


@pytest.mark.parametrize(('kind', 'expected'), [
    ('area', [0.64, 0.32, 0.04]),
    ('sqrt_area', [0.8 / (1.0 + 0.32**0.5), 0.32**0.5 / (1.0 + 0.32**0.5),
                   0.2 / (1.0 + 0.32**0.5)]),
    ('sqrt_foreground', [0.64, 0.36 * 32**0.5 / (32**0.5 + 2), 0.36 * 2 / (32**0.5 + 2)]),
])
def test_by_hand(kind: str, expected: list[float]) -> None:
    torch.testing.assert_close(class_marginal(kind, AREA, ALL), torch.tensor([expected]))


def test_uniform_is_none_and_unknown_is_refused() -> None:
    assert class_marginal('uniform', AREA, ALL) is None
    with pytest.raises(ValueError, match='sqrt_area'):
        class_marginal('root', AREA, ALL)
    with pytest.raises(ValueError, match='shares'):
        class_marginal('shares', AREA, ALL)


def test_no_background_takes_square_roots_everywhere() -> None:
    torch.testing.assert_close(class_marginal('sqrt_foreground', AREA, ALL, background=False),
                               class_marginal('sqrt_area', AREA, ALL))


def test_given_shares_and_their_fallback() -> None:
    shares = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    got = class_marginal('shares', AREA.repeat(2, 1), ALL.repeat(2, 1), shares=shares)
    torch.testing.assert_close(got[0], shares[0])
    torch.testing.assert_close(got[1], torch.tensor([0.64, 0.32, 0.04]))


def test_the_floor_reaches_every_class_that_takes_part() -> None:
    used = torch.tensor([[True, True, False]])
    got = class_marginal('shares', AREA, used, shares=torch.tensor([[1.0, 0, 0]]), floor=0.05)
    torch.testing.assert_close(got, torch.tensor([[0.95, 0.05, 0.0]]))
    got = class_marginal('shares', AREA, used, shares=torch.tensor([[1.0, 0, 0]]), floor=0.6)
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.5, 0.0]]))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MARGINALS[1:]), st.lists(AREAS, min_size=1, max_size=6),
       st.floats(0, 0.1))
def test_sums_to_one_wherever_there_is_area(kind: str, areas: list[float], floor: float) -> None:
    area = torch.tensor([areas])
    got = class_marginal(kind, area, area > 0, shares=area, floor=floor)
    assert torch.isfinite(got).all() and (got >= 0).all()
    assert (got[area <= 0] == 0).all()
    if area.sum():
        assert got[area > 0].min() >= floor - 1e-6
    # The background may take what the foreground, where there is none, cannot.
    assert float(got.sum()) == pytest.approx(float(area.sum() > 0), abs=1e-4)
