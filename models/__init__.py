"""What is learnt: the Method contract, the methods, and the parts they share."""

from models.anchor_neighborhood import AND
from models.byol import BYOL
from models.cc import CC
from models.dino import DINO
from models.gcc import GCC
from models.method import Method
from models.moco import MoCo
from models.pcl import PCL
from models.pica import PICA
from models.propos import ProPos
from models.scan import SCAN
from models.selflabel import SelfLabel
from models.simclr import SimCLR
from models.simsiam import SimSiam
from models.swav import SwAV
from models.temi import TEMI

METHODS: dict[str, type[Method]] = {
    "propos": ProPos,
    "byol": BYOL,
    "simclr": SimCLR,
    "moco": MoCo,
    "simsiam": SimSiam,
    "pcl": PCL,
    "cc": CC,
    "pica": PICA,
    "gcc": GCC,
    "and": AND,
    "scan": SCAN,
    "selflabel": SelfLabel,
    "swav": SwAV,
    "dino": DINO,
    "temi": TEMI,
}
