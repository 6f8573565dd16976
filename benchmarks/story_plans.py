"""What is drawn of a story before SmolLM2 writes it: who, what, which trouble, who helps how, and how it ends.

SmolLM2 loses the thread of a story after a few sentences. So a plan holds what ties them together: why the hero is sad,
how the helper helps, how it is after that, how it ends. Those sentences it gives whole. Where and how the hero lives,
where something is found or looked for, and why, SmolLM2 writes (story_teller.py). A plan is drawn from the word lists
below, so that a story can be made again from its number.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from tinyinfer.distillation.words import words

KINDS = words("""
    bear, bee, bird, cat, dog, duck, fox, frog, goat, hedgehog, hen, horse, lion, mouse, owl, pig, rabbit, squirrel,
    turtle
    """)
TRAITS = words("""
    brave, clever, curious, funny, happy, hungry, kind, lazy, little, old, proud, quiet, shy, small, young
    """)
NAMES = {
    "he": words("Ben, Finn, Jack, Leo, Max, Otto, Paul, Sam, Tim, Tom"),
    "she": words("Anna, Clara, Ella, Emma, Lily, Lucy, Mia, Nina, Nora, Rosa"),
}
WHOM, WHOSE = {"he": "him", "she": "her"}, {"he": "his", "she": "her"}
GIFTS = {
    "bear": "some honey", "bee": "a flower", "bird": "some seeds", "cat": "a bowl of milk", "dog": "a bone",
    "duck": "some bread", "fox": "a warm blanket", "frog": "a green leaf", "goat": "some grass",
    "hedgehog": "an apple", "hen": "some corn", "horse": "a carrot", "lion": "a big hug",
    "mouse": "a piece of cheese", "owl": "a soft pillow", "pig": "a potato", "rabbit": "a carrot",
    "squirrel": "a bag of nuts", "turtle": "some lettuce", "boy": "a piece of cake", "girl": "a piece of cake",
}  # fmt: skip
# What is found: | what the hero does with it | which troubles it may have | what all do with it in the end.
FOUND = """
    a red kite | ran up the hill | tree, broke, wet, wind | flew the kite
    a golden key | looked for a door | grass, owner, river, dirty | opened an old door with the key
    an old map | looked at it on a bench | wet, wind, owner, river | followed the map
    a big box | tried to open it | heavy, river, dirty, owner | opened the box
    a shiny stone | carried it through the village | hill, grass, river, dirty | looked at the stone
    a blue ball | threw it into the air | tree, hill, river, grass, dirty | played with the ball
    a warm hat | put it on | wind, dirty, river, tree, owner | laughed about the hat
    a toy boat | put it on the pond | broke, grass, owner, dirty | sailed the boat
    a yellow umbrella | opened it | wind, broke, owner, tree | walked in the rain with the umbrella
    a letter | tried to read it | wet, wind, river, owner | read the letter
    a lantern | lit it in the evening | broke, dirty, heavy, owner | walked home with the lantern
    a silver bell | rang it at the market | grass, dirty, hill, owner | rang the bell
    a little drum | played a song on it | broke, hill, wet, owner | played the drum
    a toy train | pushed it along the road | broke, hill, dirty, grass | played with the train
    a thick book | sat down to read it | wet, heavy, dirty, river, owner | read the book
    a strange egg | kept it warm | hill, grass, heavy, owner | watched the egg
    a sweet cake | wanted to taste it | heavy, owner | ate some of the cake
    """
# A trouble: what happens | why that is sad | what the helper offers | how the helper does it | how it is then.
TROUBLES = """
    tree: got stuck in a tree | {he} could not climb so high | get the {thing} out of the tree | climbed up and threw \
        it down | back on the ground
    broke: broke | {he} did not know how to mend it | mend the {thing} | brought some glue and put it together | whole \
        again
    wet: got wet in the rain | it had been so beautiful | dry the {thing} | put it into the sun | dry again
    wind: flew away with the wind | {he} could not run so fast | catch the {thing} | ran after it and caught it | back \
        with {name}
    grass: got lost in the grass | {he} could not see it any more | look for the {thing} | looked behind every stone | \
        found
    owner: belonged to someone else | {he} wanted to give it back | find the owner of the {thing} | asked everyone in \
        the village | back with its owner
    river: fell into the river | {he} could not swim | get the {thing} out of the water | pulled it out with a long \
        stick | back on dry land
    dirty: got very dirty | no one could see how beautiful it was | clean the {thing} | washed it with water and soap \
        | clean again
    heavy: was too heavy | {he} could not carry it home | carry the {thing} | took one side and {name} took the other \
        | at {name}'s house
    hill: rolled down the hill | it was too fast for {him} | bring the {thing} back | ran down the hill and brought it \
        back | back with {name}
    """
# Who would not be troubled.
ABLE = {
    "tree": "bee, bird, cat, owl, squirrel", "river": "duck, frog, turtle", "hill": "dog, fox, horse, rabbit",
    "wind": "bird, dog, fox, horse, owl, rabbit",
}  # fmt: skip
# What is wanted, and of which thing | the first step | what is wrong with it | why that is sad | what the helper offers
# | how the helper does it | how it is then | what all do with it in the end.
WANTED = """
    build a little boat | cut some wood and | had a hole | the water came in | close the hole | brought some wax and \
        filled the hole | was dry inside | sailed the boat
    build a tall tower | put one stone on the other and | fell down | all the work was lost | build it again | put \
        bigger stones at the bottom | was taller than before | sat on top of the tower
    build a house | made four walls and | had no roof | the rain came in | make a roof | brought some straw for the \
        roof | was warm and dry | had a party in the house
    bake a big cake | put flour and eggs into a bowl and | was too hard | no one could bite into it | bake a softer \
        cake | brought some milk and honey | was as soft as a cloud | ate the cake
    make a warm soup | put carrots into a pot and | had no taste | no one wanted to eat it | add some salt | brought \
        some salt | tasted very good | ate the soup
    make a snowman | rolled three balls of snow and | had no nose | it did not look like a snowman | find a carrot | \
        brought a carrot from the garden | had a long nose | danced around the snowman
    plant a tree | dug a hole and | was too dry | its leaves fell off | water the tree | brought some water from the \
        well | was green again | sat in the shade of the tree
    grow a pumpkin | put a seed into the ground and | did not grow | it was as small as a nut | water the pumpkin | \
        brought some water from the river | was bigger than a ball | made a soup of the pumpkin
    paint a picture | mixed some colors and | looked too dark | no one could see what it was | add more colors | \
        brought some yellow paint | was bright and beautiful | hung the picture on the wall
    knit a scarf | took some wool and | was too short | it did not fit around {his} neck | knit some more | brought \
        more wool | was long and warm | went out into the snow with the scarf
    sing a new song | wrote it down and | was too hard | {he} forgot the words | sing it slowly | sang it line by line \
        | was easy | sang the song
    fly a kite | tied a string to it and | did not rise | there was no wind | run against the wind | took the string \
        and ran | was high in the sky | watched the kite
    make a gift | took some paper and | looked too plain | it was for {his} mother | tie a ribbon around it | brought \
        a red ribbon | was very beautiful | gave the gift to {name}'s mother
    grow a flower | put a seed into a pot and | had no light | it did not bloom | move the flower | carried the pot to \
        the window | was in full bloom | looked at the flower
    """
# What is lost | what the hero cannot do without it | what the hero does with it in the end.
LOST = """
    left shoe | run | wore both shoes
    favorite hat | go out into the snow | wore the hat
    red ball | play with {his} friends | played with the ball
    house key | open the door | opened the door with the key
    blue scarf | keep {his} neck warm | wore the scarf
    drum | play in the band | played the drum
    little boat | cross the pond | crossed the pond in the boat
    bell | call {his} friends | rang the bell
    book | read in the evening | read the book
    kite | play in the wind | flew the kite
    doll | sleep | slept with the doll
    basket | go to the market | went to the market with the basket
    """
PLACES = words("""
    behind the mill, under the old bridge, in the tall grass, by the river, behind the market, under a bush,
    in the barn, on the hill, behind the house, in the garden, near the well, behind a tree
    """)
# The sentences of each kind of story; one of those between |. A sentence ends where a full stop stands, may end where *
# stands, and else SmolLM2 goes on.
OPENING = """
    Once upon a time, there was {a_hero} named {name}. {name} lived in
    Every morning, {he}|Every day, {he}|{He} loved to
    In summer, {he}|In winter, {he}|In the evening, {he}|On Sundays, {he}
    """
FINDS = """
    One day, {name} found {phrase} in|One day, {name} found {phrase} under|One day, {name} found {phrase} near|One \
        day, {name} found {phrase}*
    {He} took the {thing} and {use}*|{He} took the {thing} and|{name} picked up the {thing}, because {he} wanted to
    """
HELP = """
    But the {thing} {trouble}.|But then the {thing} {trouble}.
    {name} was sad, because {reason}.|{name} was worried, because {reason}.
    Then {a_helper} came by and said, "I can help you to {remedy}."|Then {a_helper} came by and said, "Let us {remedy}."
    To {remedy}, the {helper} {act}.|So the {helper} {act}.
    Soon the {thing} {result}.|Now the {thing} {result}.|At last, the {thing} {result}.
    {name} was very happy.|{name} was happy and gave the {helper} {gift}.|{name} thanked the {helper} and gave {it} \
        {gift}.
    """
ENDS = """
    In the end, {name} and the {helper} {end}.|That evening, {name} and the {helper} {end} together.
    """
FORMS = {
    "found": FINDS + HELP + ENDS,
    "given back": FINDS + HELP.replace("But then", "But") + """
        In the end, the owner thanked {name} and the {helper}.|In the end, the owner gave them a coin.
        """,
    "wanted": """
        One day, {name} wanted to {phrase}*
        First, {he} {use}
        """ + HELP + ENDS,
    "lost": """
        One day, {name} lost {his} {phrase}*|One day, {name} lost {his} {phrase} on the way to
        {He} looked for the {thing} in|{He} looked for the {thing} under|{He} looked everywhere, even
        {name} was sad, because without the {thing} {he} could not {use}.
        Then {a_helper} came by and said, "I saw your {thing} {place}."
        {name} followed the {helper} and looked {place}.|{name} and the {helper} ran there and looked {place}.
        And there was the {thing}*|And there lay the {thing}*|And there was the {thing}, all covered with
        {name} was happy and gave the {helper} {gift}.|{name} thanked the {helper} and gave {it} {gift}.
        In the end, {name} {end}.|That evening, {name} {end}.
        """,
}  # fmt: skip
MEALS = "cake", "soup", "pumpkin"  # nothing else is eaten


@dataclass(frozen=True)
class Beginning:
    """How a sentence begins. whole: it ends there, with its mark; may_end: SmolLM2 may end it there."""

    text: str
    whole: bool
    may_end: bool


@dataclass(frozen=True)
class Plan:
    """The beginnings of a story's sentences.

    strangers: names, kinds and pronouns of no one in it, and other words that would lead away from its thread.
    """

    beginnings: list[Beginning]
    strangers: re.Pattern[str]


@cache
def plan(seed: int, i: int) -> Plan:
    """The plan of story i."""
    rng = random.Random(f"{seed} {i}")
    he = rng.choice(sorted(NAMES))
    name, child = rng.choice(NAMES[he]), {"he": "boy", "she": "girl"}[he]
    hero, helper = rng.sample([*(kind for kind in KINDS if (he, kind) != ("he", "hen")), child], 2)
    trait = rng.choice([trait for trait in TRAITS if (trait, hero) != ("old", child)])
    form, drawn = happening(rng, hero)
    filled = {
        **drawn, "name": name, "he": he, "He": he.capitalize(), "his": WHOSE[he], "him": WHOM[he],
        "a_hero": f"{article(trait)} {trait} {hero}", "a_helper": f"{article(helper)} {helper}", "helper": helper,
        "gift": GIFTS[helper], "it": WHOM[he] if helper == child else "it", "thing": drawn["phrase"].split()[-1],
        "place": rng.choice(PLACES),
    }  # fmt: skip
    chosen = [rng.choice(row).format(**filled).format(**filled) for row in rows(OPENING + FORMS[form])]
    others = [one for names in NAMES.values() for one in names if one != name]
    others += [one for one in (*KINDS, "boy", "girl") if one not in (hero, helper)]
    others += ["she", "her", "hers", "herself"] if he == "he" else ["he", "him", "his", "himself"]
    others += ["one day", "but", "found it", *([] if filled["thing"] in MEALS else ["eat", "ate", "eaten"])]
    strangers = re.compile(rf"(?i:\b({'|'.join(others)})s?\b)")
    return Plan([begun(one) for one in chosen], strangers)


def begun(line: str) -> Beginning:
    """A sentence as its line in a form says it."""
    return Beginning(line.rstrip("*"), line.endswith((".", '."')), line.endswith("*"))


def happening(rng: random.Random, hero: str) -> tuple[str, dict[str, str]]:
    """A form, and what happens in it, which must be something that the hero cannot help."""
    form = rng.choice(("found", "lost", "wanted"))
    if form == "wanted":
        names = "phrase", "use", "trouble", "reason", "remedy", "act", "result", "end"
        return form, dict(zip(names, rng.choice(rows(WANTED)), strict=True))
    if form == "lost":
        return form, dict(zip(("phrase", "use", "end"), rng.choice(rows(LOST)), strict=True))
    phrase, use, troubles, end = rng.choice(rows(FOUND))
    one = rng.choice([trouble for trouble in words(troubles) if hero not in ABLE.get(trouble, "")])
    row = next(row for row in rows(TROUBLES) if row[0].startswith(f"{one}: "))
    found = dict(zip(("trouble", "reason", "remedy", "act", "result"), row, strict=True))
    found |= {"phrase": phrase, "use": use, "end": end, "trouble": found["trouble"].removeprefix(f"{one}: ")}
    return "given back" if one == "owner" else form, found | {"result": f"was {found['result']}"}


@cache
def rows(text: str) -> list[list[str]]:
    """The rows of a table, as their cells."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [[cell.strip() for cell in line.split("|")] for line in lines if line]


def article(word: str) -> str:
    """The article that goes before a word."""
    return "an" if word[0] in "aeiou" else "a"
