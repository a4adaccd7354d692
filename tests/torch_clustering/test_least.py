"""The least of few scores: its place and its lead over the next, whatever the number of scores, and where none is."""

import pytest
import torch

from torch_clustering.least import FEW, MOST, least_, place_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_scores", [1, 2, 3, FEW, FEW + 1, 90, 100, 101, MOST])
def test_least_score_and_its_lead(n_scores: int, dtype: torch.dtype) -> None:
    scores = torch.randn(3, n_scores, 499, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    ordered = scores.sort(1)
    place, lead = least_(scores.clone())
    wanted = (
        ordered.values[:, 1] - ordered.values[:, 0] if n_scores > 1 else torch.full((3, 499), torch.inf, dtype=dtype)
    )
    off = 2 * place_error(dtype) * (1 + ordered.values.abs().amax())
    torch.testing.assert_close(lead, wanted, rtol=0, atol=float(off))
    clear = wanted > 2 * off
    assert clear.double().mean() > 0.9 and torch.equal(place[clear].long(), ordered.indices[:, 0][clear])


@pytest.mark.parametrize("n_scores", [5, 50])
def test_no_lead_where_scores_overflow_or_are_equal(n_scores: int) -> None:
    scores = torch.randn(1, n_scores, 5, generator=torch.Generator().manual_seed(0))
    scores[0, 3, 0], scores[0, 4, 1], scores[0, 2, 2] = torch.inf, -torch.inf, torch.nan
    scores[0, :, 3] = scores[0, 0, 3]
    place, lead = least_(scores)
    assert bool((place >= 0).all()) and bool((place < n_scores).all())
    sure = lead > 2 * place_error(torch.float32) * 4
    assert sure[0, 1:].tolist() == [False, False, False, True]


@pytest.mark.parametrize("n_scores", [5, 29])
def test_no_rows_have_no_least(n_scores: int) -> None:
    place, lead = least_(torch.zeros(2, n_scores, 0))
    assert place.shape == lead.shape == (2, 0)
