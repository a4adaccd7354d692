import pytest

from utils.duration import duration


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (760, "12:40"), (11_110, "3:05:10")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
