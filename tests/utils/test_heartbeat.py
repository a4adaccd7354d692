"""A rank that gives no sign of life is named, and with it where it was seen last."""

import torch.distributed as dist

from utils.heartbeat import Heartbeat


class Dead:
    """A store whose keeper is gone."""

    def set(self, key: str, value: str) -> None:
        """Fail like one."""
        raise dist.DistNetworkError("connection reset")


def beats(store: object, world: int) -> tuple[list[Heartbeat], list[tuple[int, str]]]:
    """The heartbeats of all ranks, not started, and what they report: (rank, line)."""
    told: list[tuple[int, str]] = []
    return [
        Heartbeat(store, rank, world, 45, lambda text, rank=rank: told.append((rank, text))) for rank in range(world)
    ], told


def test_a_silent_rank_is_named_by_rank_zero_and_all_end() -> None:
    ranks, told = beats(dist.HashStore(), 3)
    for rank in ranks:
        rank.look(0.0)
    for now in (20.0, 40.0, 64.0):
        ranks[0].look(now)
        ranks[1].look(now)
    assert told == []  # rank 0 has first seen the others at 20
    ranks[0].look(65.0)
    ranks[1].look(66.0)
    assert [rank for rank, _ in told] == [0, 1]
    assert told[0][1].startswith("no sign of life for 45 s from rank 2, last seen at ")
    assert "last seen at utils/heartbeat.py:" in told[0][1]  # where this very thread gives its signs
    assert told[0][1].endswith("stopped, dead or cut off")
    assert told[1][1] == ""


def test_a_silent_rank_zero_is_named_by_the_others() -> None:
    ranks, told = beats(dist.HashStore(), 2)
    ranks[0].look(0.0)
    ranks[1].look(0.0)
    ranks[1].look(45.0)
    assert len(told) == 1
    assert "from rank 0, last seen at " in told[0][1]


def test_a_rank_that_has_not_come_yet_or_has_parted_is_not_missed() -> None:
    ranks, told = beats(dist.HashStore(), 2)
    ranks[0].look(0.0)
    ranks[0].look(1000.0)
    ranks[1].look(1000.0)
    ranks[0].look(1000.0)
    ranks[0].stop()
    ranks[0].look(2000.0)
    assert told == []


def test_a_store_that_is_gone_is_waited_for_as_long() -> None:
    ranks, told = beats(Dead(), 2)
    ranks[1].answered = 0.0
    ranks[1].look(44.0)
    assert told == []
    ranks[1].look(45.0)
    assert told == [(1, "no sign of life for 45 s from rank 0 or the launcher")]
