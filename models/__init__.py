"""What is learnt: the Method contract, the methods, and the parts they share."""

from models.byol import BYOL
from models.method import Method
from models.propos import ProPos

METHODS: dict[str, type[Method]] = {"byol": BYOL, "propos": ProPos}
