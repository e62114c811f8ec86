"""Subsets of ImageNet-1k that papers on dataset distillation use, as sources by name: `imagemeow`, `birds-easy`, ...

Each list gives ImageNet-1k's label and the first word of each class, in the order of the subset's labels.

* ImageMeow, ImageYellow, ImageFruit and ImageSquawk (Cazenavette et al., 2022, arXiv 2203.11932). Imagenette and
  Imagewoof have separate repositories (`ddhub.sources.known`), with labels in the order of the WordNet ids.
* Comp-DD (Wang et al., 2025, arXiv 2410.17193): of each of eight categories the classes of highest (hard) and lowest
  (easy) complexity (`ddhub.measures.complexity`). The published list of music-hard names banjo (420) twice: it has nine
  classes here, and its 11,700 published training images are nine times 1,300. fish has an alligator, a platypus and two
  whales, half of snake-hard is lizards, dogs-easy has a wolf; all are kept as published.

Images are 128 x 128 px by the rule of `ddhub.sources.resize`, which takes the centre square. The papers' codes squash
the whole image to 128 x 128 instead.
"""

from __future__ import annotations

SIDE = 128  # default side of the images in pixels

_CLASSIC = {
    "ImageMeow": """
        281 tabby, 282 tiger cat, 283 Persian cat, 284 Siamese cat, 285 Egyptian cat, 291 lion, 292 tiger,
        290 jaguar, 289 snow leopard, 287 lynx
    """,
    "ImageYellow": """
        309 bee, 986 yellow lady's slipper, 954 banana, 951 lemon, 987 corn, 779 school bus, 599 honeycomb,
        291 lion, 72 black and gold garden spider, 11 goldfinch
    """,
    "ImageFruit": """
        953 pineapple, 954 banana, 949 strawberry, 950 orange, 951 lemon, 957 pomegranate, 952 fig,
        945 bell pepper, 943 cucumber, 948 Granny Smith
    """,
    "ImageSquawk": """
        84 peacock, 130 flamingo, 88 macaw, 144 pelican, 145 king penguin, 22 bald eagle, 96 toucan, 9 ostrich,
        100 black swan, 89 sulphur-crested cockatoo
    """,
}
_COMP_DD = {
    "birds-easy": """
        130 flamingo, 140 red-backed sandpiper, 83 prairie chicken, 142 dowitcher, 134 crane,
        139 ruddy turnstone, 88 macaw, 90 lorikeet, 144 pelican, 21 kite
    """,
    "birds-hard": """
        14 indigo bunting, 19 chickadee, 91 coucal, 15 robin, 13 junco, 95 jacamar, 10 brambling, 16 bulbul,
        20 water ouzel, 12 house finch
    """,
    "cars-easy": """
        581 grille, 535 disk brake, 717 pickup, 817 sports car, 511 convertible, 436 beach wagon, 656 minivan,
        757 recreational vehicle, 661 Model T, 751 racer
    """,
    "cars-hard": """
        802 snowmobile, 660 mobile home, 829 streetcar, 627 limousine, 609 jeep, 575 golfcart, 573 go-kart,
        867 trailer truck, 734 police van, 408 amphibian
    """,
    "dogs-easy": """
        193 Australian terrier, 180 American Staffordshire terrier, 227 kelpie, 167 English foxhound,
        246 Great Dane, 248 Eskimo dog, 224 groenendael, 177 Scottish deerhound, 269 timber wolf,
        252 affenpinscher
    """,
    "dogs-hard": """
        239 Bernese mountain dog, 238 Greater Swiss Mountain dog, 247 Saint Bernard, 195 Boston bull,
        151 Chihuahua, 266 miniature poodle, 157 papillon, 181 Bedlington terrier, 154 Pekinese,
        217 English springer
    """,
    "fish-easy": """
        5 electric ray, 1 goldfish, 6 stingray, 397 puffer, 390 eel, 3 tiger shark, 392 rock beauty,
        393 anemone fish, 148 killer whale, 147 grey whale
    """,
    "fish-hard": """
        0 tench, 391 coho, 389 barracouta, 395 gar, 4 hammerhead, 396 lionfish, 2 great white shark,
        394 sturgeon, 50 American alligator, 103 platypus
    """,
    "snake-easy": """
        64 green mamba, 57 garter snake, 55 green snake, 56 king snake, 61 boa constrictor, 62 rock python,
        68 sidewinder, 67 diamondback, 54 hognose snake, 60 night snake
    """,
    "snake-hard": """
        46 green lizard, 42 agama, 41 whiptail, 40 American chameleon, 43 frilled lizard, 58 water snake,
        65 sea snake, 59 vine snake, 53 ringneck snake, 52 thunder snake
    """,
    "insect-easy": """
        323 monarch, 314 cockroach, 310 ant, 309 bee, 306 rhinoceros beetle, 308 fly, 302 ground beetle,
        313 walking stick, 303 long-horned beetle, 315 mantis
    """,
    "insect-hard": """
        301 ladybug, 326 lycaenid, 324 cabbage butterfly, 305 dung beetle, 325 sulphur butterfly,
        300 tiger beetle, 318 lacewing, 320 damselfly, 70 harvestman, 322 ringlet
    """,
    "round-easy": """
        417 balloon, 560 football helmet, 953 pineapple, 826 stopwatch, 426 barometer, 981 ballplayer,
        430 basketball, 890 volleyball, 746 puck, 768 rugby ball
    """,
    "round-hard": """
        852 tennis ball, 805 soccer ball, 736 pool table, 892 wall clock, 429 baseball, 574 golf ball,
        722 ping-pong ball, 522 croquet ball, 752 racket, 971 bubble
    """,
    "music-easy": """
        542 drumstick, 687 organ, 494 chime, 566 French horn, 642 marimba, 513 cornet, 875 trombone, 683 oboe,
        889 violin, 881 upright
    """,
    "music-hard": """
        420 banjo, 594 harp, 579 grand piano, 402 acoustic guitar, 776 sax, 486 cello, 401 accordion,
        546 electric guitar, 558 flute
    """,
}


def _classes(text: str) -> dict[int, str]:
    """A dict from ImageNet-1k's label to the class name, in the order of the subset's labels."""
    pairs = (entry.strip().split(" ", 1) for entry in text.split(","))
    return {int(label): name for label, name in pairs}


CLASSIC = {title: _classes(text) for title, text in _CLASSIC.items()}
COMP_DD = {name: _classes(text) for name, text in _COMP_DD.items()}
