"""The built-in task `acceptability`: is this English sentence well-formed? Sentences come from a seeded grammar.

Every example starts as a well-formed sentence with several *sites*: places where one word depends on another one,
often across a distance and past words that mislead. For an unacceptable example one to three sites are broken:

- agreement: the finite verb has the number of its subject, past nouns in prepositional phrases and relative
  clauses. Broken by the other number.
- determiner: this/these and that/those have the number of the noun, past adjectives. Broken by the other number.
- reflexive: himself/herself/themselves fits the subject, past other persons. Broken by one of the two others.
- form: base, participle or -ing form as the auxiliary wants it, past adverbs. Broken by one of the two others.
- polarity: `ever` needs a `no` on its own subject, not inside a relative clause. Broken: `no` and `the` exchanged.
- order: determiner before adjective and noun, auxiliary before verb. Broken by an exchange of two neighbours.

Nothing else distinguishes the classes: a broken sentence has as many words as it had, all forms are equally likely on
either side (so word counts are no shortcut; a test trains a linear model on them), and half the sentences of every
split are broken. Both vocabulary and rules were written for this project; no text is taken from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from codir.data.task import Task, TaskData, make_split
from codir.errors import ConfigError

NAME = "acceptability"
TASK = Task(
    NAME,
    "classification",
    ("sentence",),
    "label",
    ("unacceptable", "acceptable"),
    ("accuracy", "matthews"),
    "accuracy",
)

# How often each kind of site is broken, where a sentence has several kinds.
SITE_WEIGHTS = {
    "agreement": 0.8,
    "determiner": 0.4,
    "reflexive": 0.8,
    "form": 4.0,
    "polarity": 1.5,
    "order": 1.0,
}
# How often one, two, three sites of an unacceptable sentence are broken (where it has so many).
BREAKS = (0.55, 0.3, 0.15)
# Kinds of verb phrases: "is old", "sees it", "has seen it", "is seeing it", "can see it".
KINDS = ("be", "finite", "perfect", "progressive", "modal")

# --- words: verbs that take persons and things alike, as (base, third person, participle, -ing)

_PARTICIPLES = {"see": "seen", "choose": "chosen", "draw": "drawn", "know": "known"}
_PLURALS = {"man": "men", "woman": "women"}


def _verb(base: str) -> tuple[str, str, str, str]:
    stem = base if base.endswith("ee") else base.removesuffix("e")
    third = base + ("es" if base.endswith("ch") else "s")
    return base, third, _PARTICIPLES.get(base, stem + "ed"), stem + "ing"


def _nouns(words: str) -> tuple[tuple[str, str], ...]:
    ends = {word: "es" if word.endswith(("x", "ch")) else "s" for word in words.split()}
    return tuple((word, _PLURALS.get(word, word + end)) for word, end in ends.items())


VERBS = tuple(map(_verb, ["admire", "follow", "watch", "protect", "remember", "need", "see", "choose", "draw", "know"]))
# By gender: masculine, feminine, a person of no stated gender, a thing. Each as (singular, plural).
NOUNS = {
    "m": _nouns("boy man father king brother"),
    "f": _nouns("girl woman mother queen sister"),
    "n": _nouns("teacher doctor pilot farmer author student nurse guard"),
    "": _nouns("key box lamp letter map painting chair bottle garden bridge tower church"),
}
ADJECTIVES = ("old", "new", "small", "large", "famous", "quiet", "strange", "red")
ADVERBS = ("often", "clearly", "always", "never", "really")
PREPOSITIONS = ("near", "behind", "beside", "with")
DETERMINERS = ("the", "the", "the", "some", "my", "her", "our")
DEMONSTRATIVES = (("this", "these"), ("that", "those"))
MODALS = ("can", "will", "must", "should")
CONJUNCTIONS = ("and", "but")
REFLEXIVES = ("himself", "herself", "themselves")


class Site(NamedTuple):
    """A place that can be broken: with other words at these positions the sentence is unacceptable."""

    kind: str
    wrong: dict[int, str]


class Head(NamedTuple):
    """What the rest of a sentence needs to know of a noun phrase."""

    plural: bool
    gender: str  # "m", "f", "n" (a person of no stated gender), "" (a thing)


class Grammar:
    """Draws sentences; everything it decides comes from one random generator.

    A sentence grows in `words`, with the places where it can be broken in `sites`.
    """

    def __init__(self, seed: str):
        self.random = Random(seed)
        self.words: list[str] = []
        self.sites: list[Site] = []

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """Yields without end: (acceptable sentence, its unacceptable partner, the kinds of the sites broken)."""
        while True:
            self.words, self.sites = [], []
            self._sentence()
            broken, kinds = list(self.words), set()
            for site in self._sites_to_break():
                kinds.add(site.kind)
                for place, word in site.wrong.items():
                    broken[place] = word
            yield _spell(self.words), _spell(broken), "+".join(sorted(kinds))

    def _sites_to_break(self) -> list[Site]:
        """Draws sites that do not overlap: first by kind, so that rare kinds come up, then among those of the kind."""
        wanted = self.random.choices(range(1, len(BREAKS) + 1), BREAKS)[0]
        left, chosen = list(self.sites), []
        while left and len(chosen) < wanted:
            kinds = sorted({site.kind for site in left})
            kind = self.random.choices(kinds, [SITE_WEIGHTS[kind] for kind in kinds])[0]
            site = self.random.choice([site for site in left if site.kind == kind])
            chosen.append(site)
            left = [other for other in left if not other.wrong.keys() & site.wrong.keys()]
        return chosen

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _add(self, *words: str) -> None:
        self.words.extend(words)

    def _site(self, kind: str, right: str, wrong: str) -> None:
        """Adds a word that can be broken."""
        self.sites.append(Site(kind, {len(self.words): wrong}))
        self.words.append(right)

    def _ordered(self, start: int) -> None:
        """Notes that the order of the two words from `start` on matters."""
        self.sites.append(Site("order", {start: self.words[start + 1], start + 1: self.words[start]}))

    def _sentence(self) -> None:
        choice = self.random.choice
        if self._chance(0.1):
            self._prepositional()
            self._add(",")
        shape = self.random.choices(("plain", "reflexive", "polarity"), (6, 2, 2))[0]
        if shape == "polarity":
            self._polarity()
        elif shape == "reflexive":
            head = self._subject(choice(("m", "f", "p")))
            self._predicate(head, choice(KINDS[1:]), reflexive=True)
            if self._chance(0.3):
                self._prepositional()
        else:
            head = self._subject("")
            first = self._predicate(head)
            if self._chance(0.15):
                self._add(choice(CONJUNCTIONS))
                # "must see them and know it" is as good as "and knows it": after a modal, only a modal is unambiguous
                self._predicate(head, "modal" if first == "modal" else "")
        self._add(".")

    def _subject(self, person: str) -> Head:
        """A noun phrase with one or two modifiers. `person`: "m", "f" (singular), "p" (plural), "" (anything)."""
        head = self._noun_phrase(person)
        kind = self.random.choices(("none", "phrase", "phrases", "clause", "both"), (3, 3, 0.5, 3, 0.5))[0]
        if kind in ("phrase", "phrases", "both"):
            self._prepositional(person=bool(person))
        if kind == "phrases":
            self._prepositional()
        if kind in ("clause", "both"):
            self._relative(head if kind == "clause" else None, bool(head.gender))
        return head

    def _noun_phrase(self, person: str = "", determiner: str = "") -> Head:
        """Determiner, adjectives, noun."""
        choice = self.random.choice
        plural = person == "p" or (not person and self._chance(0.5))
        if person in ("m", "f"):
            gender = person
        elif person == "p":
            gender = choice("mfn")
        else:
            gender = self.random.choices(("m", "f", "n", ""), (1, 1, 2, 4))[0]
        start = len(self.words)
        if determiner:
            self._add(determiner)
        elif self._chance(0.3):
            one, many = choice(DEMONSTRATIVES)
            self._site("determiner", *((many, one) if plural else (one, many)))
        else:
            self._add(choice(DETERMINERS))
        for probability in (0.25, 0.05):
            if self._chance(probability):
                self._add(choice(ADJECTIVES))
        self._add(choice(NOUNS[gender])[plural])
        if not determiner:
            self._ordered(start)
        return Head(plural, gender)

    def _prepositional(self, person: bool = False) -> None:
        self._add(self.random.choice(PREPOSITIONS))
        self._noun_phrase(self.random.choice("mfp") if person else "")

    def _relative(self, head: Head | None, person: bool) -> None:
        """A relative clause. Its verb agrees with `head` or its own subject; a None head is ambiguous: own only."""
        self._add("who" if person else "that")
        base, third, _, _ = self.random.choice(VERBS)
        if head is not None and self._chance(0.5):
            self._finite(head, third, base)
            self._noun_phrase()
        else:
            self._finite(self._noun_phrase(self.random.choice("mfp")), third, base)

    def _finite(self, head: Head, one: str, many: str) -> None:
        """A finite verb, given by its singular and plural form."""
        self._site("agreement", *((many, one) if head.plural else (one, many)))

    def _adverb(self, probability: float) -> None:
        if self._chance(probability):
            self._add(self.random.choice(ADVERBS))

    def _predicate(self, head: Head, kind: str = "", reflexive: bool = False) -> str:
        """A verb phrase of the given or of any kind, perhaps with a reflexive object; returns its kind."""
        choice = self.random.choice
        kind = kind or self.random.choices(KINDS, (1, 1, 3, 3, 3))[0]
        if kind == "be":
            self._finite(head, "is", "are")
            self._adverb(0.3)
            self._add(choice(ADJECTIVES))
            return kind
        base, third, participle, progressive = choice(VERBS)
        if kind == "finite":
            self._adverb(0.3)
            self._finite(head, third, base)
        else:
            auxiliary = len(self.words)
            if kind == "modal":
                self._add(choice(MODALS))
            else:
                self._finite(head, *(("has", "have") if kind == "perfect" else ("is", "are")))
            self._adverb(0.5)
            self._adverb(0.2)
            right = {"perfect": participle, "progressive": progressive, "modal": base}[kind]
            self._site("form", right, choice([form for form in (participle, progressive, base) if form != right]))
            if len(self.words) == auxiliary + 2:
                self._ordered(auxiliary)
        if reflexive:
            right = "themselves" if head.plural else {"m": "himself", "f": "herself"}[head.gender]
            self._site("reflexive", right, choice([word for word in REFLEXIVES if word != right]))
        else:
            self._noun_phrase()
        return kind

    def _polarity(self) -> None:
        """`No N who the Ns admire has ever seen it`: with `no` in the relative clause, `ever` is not licensed."""
        no = len(self.words)
        head = self._noun_phrase(self.random.choice("mfp"), determiner="no")
        apart = self._chance(0.4)
        if apart:
            self._prepositional()
        self._add("who")
        base, third, _, _ = self.random.choice(VERBS)
        if not apart and self._chance(0.6):  # after "no guard with the tailor", "who" could be either of them
            self._finite(head, third, base)
            the = len(self.words)
            self._noun_phrase(determiner="the")
        else:
            the = len(self.words)
            self._finite(self._noun_phrase(self.random.choice("mfp"), determiner="the"), third, base)
        self.sites.append(Site("polarity", {no: "the", the: "no"}))
        self._finite(head, "has", "have")
        self._add("ever", self.random.choice(VERBS)[2])
        self._noun_phrase()


def _spell(words: list[str]) -> str:
    """Joins words to a sentence: no space before punctuation, a capital at the start."""
    text = " ".join(words).replace(" ,", ",").replace(" .", ".")
    return text[0].upper() + text[1:]


def generate(count: int, seed: str, taken: set[str]) -> list[tuple[str, int, str]]:
    """Draws `count` examples (sentence, label, kinds of the sites), half of them broken, none in `taken`.

    Each example comes from a sentence of its own; its partner (the same sentence unbroken or broken) is not used.
    Both are added to `taken`, so that no split holds the partner of another split's sentence. The first examples are
    the same for every `count`.
    """
    grammar, order = Grammar(seed), Random(seed + " labels")
    examples: list[tuple[str, int, str]] = []
    labels: list[int] = []
    for good, bad, kind in grammar.pairs():
        if len(examples) == count:
            break
        if good in taken or bad in taken:
            continue
        taken.update((good, bad))
        if not labels:
            labels = order.sample((0, 1), 2)
        label = labels.pop()
        examples.append((good if label else bad, label, kind))
    return examples


def load_builtin(train: int = 2400, validation: int = 1000, seed: int = 0) -> TaskData:
    """Generates the built-in task.

    Args:
        train: number of training sentences.
        validation: number of validation sentences; they are the same for every size of the training split.
        seed: another seed, other sentences.

    Raises:
        ConfigError: a size below 2.
    """
    if min(train, validation) < 2:
        raise ConfigError(f"The built-in task needs at least 2 sentences in each split, not {train} and {validation}.")
    taken: set[str] = set()
    held = generate(validation, f"{NAME} validation {seed}", taken)
    learned = generate(train, f"{NAME} train {seed}", taken)
    splits = [
        make_split(
            "classification",
            [text for text, _, _ in part],
            None,
            [label for _, label, _ in part],
            TASK.labels,
        )
        for part in (learned, held)
    ]
    source = f"built-in grammar, seed {seed}, {train} training and {validation} validation sentences"
    return TaskData(TASK, splits[0], {"validation": splits[1]}, [], source)
