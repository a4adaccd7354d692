"""ImageNet-10 and ImageNet-Dogs: the train images of ten and of fifteen of ImageNet's classes."""

from data.sources.base import DataConfig, Source
from data.sources.imagenet import open_classes

# the lists of DAC, which CC uses too; other sets are called ImageNet-10 elsewhere
IMAGENET10 = (
    "n02056570",  # king penguin
    "n02085936",  # Maltese dog
    "n02128757",  # snow leopard
    "n02690373",  # airliner
    "n02692877",  # airship
    "n03095699",  # container ship
    "n04254680",  # soccer ball
    "n04285008",  # sports car
    "n04467665",  # trailer truck
    "n07747607",  # orange
)
IMAGENET_DOGS = (
    "n02085936",  # Maltese dog
    "n02086646",  # Blenheim spaniel
    "n02088238",  # basset
    "n02091467",  # Norwegian elkhound
    "n02097130",  # giant schnauzer
    "n02099601",  # golden retriever
    "n02101388",  # Brittany spaniel
    "n02101556",  # clumber
    "n02102177",  # Welsh springer spaniel
    "n02105056",  # groenendael
    "n02105412",  # kelpie
    "n02105855",  # Shetland sheepdog
    "n02107142",  # Doberman
    "n02110958",  # pug
    "n02112137",  # chow
)
SPLITS = ("train",)
SIZE = 96  # of DAC and GCC; CC, SPICE and ProPos take 224


def imagenet10(config: DataConfig) -> Source:
    """Ten classes, 13,000 images as the papers count."""
    return open_classes("imagenet10", config, IMAGENET10, SPLITS, SIZE)


def imagenet_dogs(config: DataConfig) -> Source:
    """Fifteen breeds of dogs, 19,500 images as the papers count."""
    return open_classes("imagenet_dogs", config, IMAGENET_DOGS, SPLITS, SIZE)
