"""What is learnt: the Method contract, the methods, and the parts they share."""

from models.byol import BYOL
from models.cc import CC
from models.method import Method
from models.moco import MoCo
from models.pcl import PCL
from models.propos import ProPos
from models.simclr import SimCLR
from models.simsiam import SimSiam

METHODS: dict[str, type[Method]] = {
    "propos": ProPos,
    "byol": BYOL,
    "simclr": SimCLR,
    "moco": MoCo,
    "simsiam": SimSiam,
    "pcl": PCL,
    "cc": CC,
}
