"""The order of rows: the same for any number of ranks, resumable, balanced over clusters when asked."""

import pytest
import torch

from data.sampler import Sampler, balanced_weights, draw_rows, part
from utils.errors import UserError


def test_an_epoch_shows_each_row_at_most_once_and_drops_the_rest() -> None:
    batches = list(Sampler(101, 13, seed=5).epoch(2))
    rows = torch.cat(batches)
    assert [len(batch) for batch in batches] == [13] * 7
    assert len(rows.unique()) == 91
    assert rows.dtype == torch.int64
    assert rows.max() <= 100


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(Sampler(101, 13, seed).epoch(epoch))).tolist()

    assert order(5, 2) == order(5, 2)
    assert order(5, 2) != order(5, 3)
    assert order(5, 2) != order(6, 2)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_resumed_epoch_goes_on_with_the_batches_that_were_left(balanced: bool) -> None:
    sampler, labels = Sampler(101, 13, seed=5), torch.arange(101) % 3 if balanced else None
    whole = torch.stack(list(sampler.epoch(2, labels=labels, n_clusters=3)))
    rest = torch.stack(list(sampler.epoch(2, start=4, labels=labels, n_clusters=3)))
    assert torch.equal(rest, whole[4:])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("n_micro", [1, 3])
def test_the_parts_of_all_ranks_make_up_the_batch_in_order(world: int, n_micro: int) -> None:
    rows = next(iter(Sampler(101, 24, seed=5, first_row=7, name="unlabelled").epoch(2)))
    parts = [part(rows, micro, n_micro, rank, world) for micro in range(n_micro) for rank in range(world)]
    assert torch.equal(torch.cat([own for own, _ in parts]), rows)
    assert [start for _, start in parts] == list(range(0, 24, 24 // (n_micro * world)))


def test_parts_that_do_not_come_out_even_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="23 rows cannot be cut into 3 micro-batches for 2 ranks"):
        part(torch.arange(23), 0, 3, 0, 2)


def test_fewer_rows_than_a_batch_is_the_users_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match="optim.global_batch: 64 is more than the 37 rows of the data set; set it"):
        Sampler(37, 64, seed=0)
    assert Sampler(37, 37, seed=0).steps_per_epoch == 1


def test_the_order_of_a_seed_stays_what_it_was() -> None:
    sampler, labels = Sampler(11, 3, seed=5), torch.arange(11) % 3
    assert torch.stack(list(sampler.epoch(2))).tolist() == [[10, 8, 9], [1, 3, 5], [7, 0, 6]]
    drawn = torch.stack(list(sampler.epoch(2, labels=labels, n_clusters=3)))
    assert drawn.tolist() == [[8, 1, 10], [6, 1, 2], [10, 2, 5]]


def test_rows_that_only_train_have_an_order_of_their_own_behind_the_others() -> None:
    own, extra = Sampler(101, 13, seed=5), Sampler(101, 13, seed=5, first_row=101, name="unlabelled")
    rows = torch.cat(list(extra.epoch(2)))
    assert len(rows.unique()) == 91
    assert (int(rows.min()) >= 101, int(rows.max()) <= 201) == (True, True)
    assert not torch.equal(rows - 101, torch.cat(list(own.epoch(2))))
    assert torch.equal(torch.cat(list(extra.epoch(2, start=5))), rows[5 * 13 :])


def test_fewer_rows_that_only_train_than_a_batch_are_told_apart_from_those_of_the_data_set() -> None:
    with pytest.raises(UserError, match="64 is more than the 37 rows of the data set after row 100; set it to 37"):
        Sampler(37, 64, seed=0, first_row=101, name="unlabelled")
    with pytest.raises(UserError, match="64 is more than the 0 rows .* choose a data.split that has such rows"):
        Sampler(0, 64, seed=0, first_row=101, name="unlabelled")


def test_labels_of_other_rows_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="103 labels for 101 rows"):
        next(Sampler(101, 13, seed=5).epoch(0, labels=torch.zeros(103, dtype=torch.int64), n_clusters=1))


def test_balanced_weights_are_the_published_ones_with_an_empty_cluster() -> None:
    weights = balanced_weights(torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3]), 4)
    assert weights.tolist() == [3.0, 3.0, 3.0, 4.5, 4.5, 2.25, 2.25, 2.25, 2.25]
    probabilities = [1 / 9] * 3 + [1 / 6] * 2 + [1 / 12] * 4
    assert (weights / weights.sum()).tolist() == pytest.approx(probabilities)


def test_rows_without_a_label_are_never_drawn() -> None:
    assert balanced_weights(torch.tensor([0, -1, 1, 1, -1]), 2).tolist() == [5.0, 0.0, 2.5, 2.5, 0.0]
    rows = torch.cat(list(Sampler(5, 5, seed=0).epoch(0, labels=torch.tensor([0, -1, 1, 1, -1]), n_clusters=2)))
    assert set(rows.tolist()) <= {0, 2, 3}


def test_resampling_shows_each_cluster_equally_often() -> None:
    labels = torch.cat([torch.zeros(9001), torch.ones(900), torch.full((101,), 3)]).long()
    rows = torch.cat(list(Sampler(len(labels), 101, seed=5).epoch(0, labels=labels, n_clusters=4)))
    shares = torch.bincount(labels[rows], minlength=4) / len(rows)
    assert len(rows) == len(labels) // 101 * 101
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]), atol=0.02, rtol=0)


def test_resampling_repeats_rows_of_a_small_cluster() -> None:
    labels = torch.tensor([0] * 100 + [1])
    rows = torch.cat(list(Sampler(101, 101, seed=5).epoch(0, labels=labels, n_clusters=2)))
    assert (rows == 100).sum() > 20


def test_a_draw_on_the_border_goes_to_the_row_after_it_never_to_one_without_weight() -> None:
    weights, numbers = (
        torch.tensor([0.0, 1.0, 1.0, 0.0]).double(),
        torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64),
    )
    assert draw_rows(weights, numbers).tolist() == [1, 2, 2]
