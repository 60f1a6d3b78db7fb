"""What the demo shop sells: collections, items, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

ITEMS_PER_COLLECTION = 20

# A family sells four categories that are bought one after the other, in this order.
FAMILIES: dict[str, tuple[str, ...]] = {
    "kitchen": ("mug", "bowl", "plate", "bottle"),
    "living": ("cushion", "lamp", "vase", "clock"),
    "travel": ("backpack", "suitcase", "hat", "umbrella"),
    "garden": ("flower pot", "watering can", "birdhouse", "lantern"),
}
MATERIALS: dict[str, tuple[str, ...]] = {
    "mug": ("stoneware", "enamel", "glass"),
    "bowl": ("stoneware", "olive wood", "glass"),
    "plate": ("stoneware", "bamboo", "porcelain"),
    "bottle": ("steel", "glass", "copper"),
    "cushion": ("linen", "wool", "velvet"),
    "lamp": ("brass", "paper", "oak"),
    "vase": ("porcelain", "glass", "terracotta"),
    "clock": ("oak", "steel", "cork"),
    "backpack": ("canvas", "leather", "recycled nylon"),
    "suitcase": ("aluminium", "leather", "polycarbonate"),
    "hat": ("straw", "felt", "cotton"),
    "umbrella": ("recycled nylon", "waxed cotton", "bamboo"),
    "flower pot": ("terracotta", "concrete", "zinc"),
    "watering can": ("zinc", "copper", "steel"),
    "birdhouse": ("cedar", "oak", "cork"),
    "lantern": ("brass", "zinc", "glass"),
}
USES: dict[str, tuple[str, ...]] = {
    "kitchen": ("slow breakfasts", "picnics by the lake", "dinner with friends"),
    "living": ("a quiet reading corner", "a bright hallway", "long film evenings"),
    "travel": ("weekends in the city", "hikes in the hills", "days at the seaside"),
    "garden": ("a small balcony", "a wild cottage garden", "a sheltered courtyard"),
}
BRANDS = (
    "Belvaro",
    "Quillon",
    "Nordavi",
    "Sumeko",
    "Tarrelin",
    "Ostwyn",
    "Calidru",
    "Fenmora",
    "Ilvento",
    "Pargold",
    "Rundhal",
    "Yarrowby",
)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (201, 48, 44),
    "orange": (232, 126, 38),
    "yellow": (228, 192, 52),
    "green": (66, 143, 76),
    "turquoise": (48, 164, 166),
    "blue": (50, 96, 184),
    "violet": (124, 76, 170),
    "pink": (222, 112, 158),
    "brown": (124, 84, 56),
    "grey": (112, 118, 126),
}
PATTERNS = ("plain", "stripes", "bars", "diagonal", "checks", "dots", "rings", "zigzag")
SIZES = ("small", "medium", "large")
OPENINGS = (
    "A {size} {category} made of {material}, meant for {use}.",
    "{brand} made this {category} for {use}; the {material} ages well.",
    "For {use}: a {size} {category} in {colour}, made of {material}.",
    "This {category} of {material} comes in {colour} and is made for {use}.",
)
CLOSINGS = (
    "{brand} designs and tests it in its own workshop.",
    "Packed without plastic.",
    "Goes well with the other pieces that {brand} makes for {use}.",
    "Two years of guarantee from {brand}.",
)


@dataclass(frozen=True)
class Collection:
    """Items that belong together: in words by maker and use, in pictures by colours and pattern."""

    family: str
    brand: str
    use: str
    colours: tuple[str, str]
    pattern: str


@dataclass(frozen=True)
class Item:
    """One thing on sale, with all that its picture and its text are made from.

    Attributes:
        item_id: Key in the shop's tables.
        collection: Row of its collection.
        category: What it is.
        colour: Name of its main colour.
        shade: Factor of the colour's lightness, seen only in the picture.
        size: 0 small, 1 medium, 2 large.
        material: Told only in the text.
        opening: Which first sentence describes it.
        closing: Which last sentence describes it.
    """

    item_id: str
    collection: int
    category: str
    colour: str
    shade: float
    size: int
    material: str
    opening: str
    closing: str


def make_collections(n_items: int, *, generator: np.random.Generator) -> list[Collection]:
    """Draw enough collections for `n_items`; within a family looks and makers repeat late."""
    n_collections = max(1, round(n_items / ITEMS_PER_COLLECTION))
    names = list(FAMILIES)
    looks = {name: _shuffled(product(COLOURS, PATTERNS), generator) for name in names}
    makers = {name: _shuffled(product(BRANDS, USES[name]), generator) for name in names}
    collections = []
    for row in range(n_collections):
        family, turn = names[row % len(names)], row // len(names)
        colour, pattern = looks[family][turn % len(looks[family])]
        brand, use = makers[family][turn % len(makers[family])]
        second = [name for name in COLOURS if name != colour][generator.integers(len(COLOURS) - 1)]
        collections.append(Collection(family, brand, use, (colour, second), pattern))
    return collections


def make_items(
    n_items: int, collections: list[Collection], *, generator: np.random.Generator
) -> list[Item]:
    """Draw the items, spread evenly over collections and over each one's categories."""
    width = max(4, len(str(n_items)))
    places = generator.permutation(n_items)  # neighbours in the table are not neighbours in taste
    return [
        _make_item(
            f"item-{row:0{width}d}",
            int(place),
            collections=collections,
            generator=generator,
        )
        for row, place in enumerate(places)
    ]


def _make_item(
    item_id: str, place: int, *, collections: list[Collection], generator: np.random.Generator
) -> Item:
    row, turn = place % len(collections), place // len(collections)
    collection = collections[row]
    category = FAMILIES[collection.family][turn % 4]
    return Item(
        item_id=item_id,
        collection=row,
        category=category,
        colour=collection.colours[int(generator.random() < 0.25)],
        shade=float(generator.uniform(0.85, 1.15)),
        size=int(generator.integers(len(SIZES))),
        material=MATERIALS[category][generator.integers(3)],
        opening=OPENINGS[generator.integers(len(OPENINGS))],
        closing=CLOSINGS[generator.integers(len(CLOSINGS))],
    )


def title_of(item: Item, collection: Collection) -> str:
    """Name an item as a shop would; the pattern is left to the picture."""
    return (
        f"{collection.brand} {SIZES[item.size]} {item.colour} {item.category} in {item.material}, "
        f"for {collection.use}"
    )


def description_of(item: Item, collection: Collection) -> str:
    """Describe an item in two sentences; the pattern is left to the picture."""
    return f"{item.opening} {item.closing}".format(
        size=SIZES[item.size],
        category=item.category,
        material=item.material,
        colour=item.colour,
        brand=collection.brand,
        use=collection.use,
    )


def _shuffled(
    pairs: product[tuple[str, str]], generator: np.random.Generator
) -> list[tuple[str, str]]:
    listed = list(pairs)
    return [listed[place] for place in generator.permutation(len(listed))]
