"""What a drawn picture may contain, and the words for it."""

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (214, 40, 40),
    "orange": (244, 132, 24),
    "yellow": (240, 212, 40),
    "green": (44, 150, 60),
    "cyan": (40, 200, 212),
    "blue": (40, 76, 214),
    "purple": (134, 48, 170),
    "pink": (246, 130, 190),
}

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")

# Fractions of the picture's side. The gap between the two ranges keeps the names unambiguous.
SIZES: dict[str, tuple[float, float]] = {"small": (0.20, 0.27), "large": (0.34, 0.44)}

TEXTURES = ("plain", "striped", "checkered", "dotted")

SHADES = ("light", "dark")

PLACES = (
    ("northwest", "north", "northeast"),
    ("west", "center", "east"),
    ("southwest", "south", "southeast"),
)

WORDS = (
    "ACE", "ARM", "BAG", "BED", "BOX", "BUS", "CAT", "COW", "CUP", "DOG", "EGG", "FOX", "HAT", "ICE", "JAM", "KEY",
    "BIRD", "BOOK", "CAKE", "DOOR", "FISH", "FROG", "GOLD", "HAND", "KITE", "LAMP", "LION", "MOON", "NEST", "PARK",
    "RAIN", "ROAD", "SHIP", "SNOW", "TREE", "WAVE", "WOLF", "ZERO",
    "APPLE", "BREAD", "CLOUD", "HOUSE", "JUICE", "LEMON", "MUSIC", "PIANO", "RIVER", "TIGER",
)  # fmt: skip
