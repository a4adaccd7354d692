"""The one exception for a user's mistake, and the nearest valid name for a misspelt word."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user, told in one line. `main.py` prints `error: PLACE: PROBLEM; REMEDY` and exits 2.

    Args:
        place: the config key (`optim.global_batch`), the file or the folder where the mistake is. A config key gains
            the file and line that set it when `main.py` prints it.
        problem: what is wrong, with the offending value.
        remedy: what to do about it; may be empty.
    """

    def __init__(self, place: str, problem: str, remedy: str = "") -> None:
        self.place, self.problem, self.remedy = place, problem, remedy
        super().__init__(visible(f"{place}: {problem}" + (f"; {remedy}" if remedy else "")))


def visible(text: str) -> str:
    """The text as a terminal may show it: a line break, a control code or a broken character as \\n, \\x1b, \\udcff."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' with the nearest known word, or ' (known: A, B, ...)' when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(names)})"
