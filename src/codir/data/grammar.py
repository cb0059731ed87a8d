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
from dataclasses import dataclass, field
from random import Random

from codir.data import lexicon
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


@dataclass(frozen=True)
class Site:
    """A place that can be broken: writing `words` from position `start` on makes the sentence unacceptable."""

    kind: str
    start: int
    words: tuple[str, ...]

    @property
    def span(self) -> set[int]:
        """Positions of the words that change."""
        if self.kind == "polarity":
            return {self.start, int(self.words[0])}
        return set(range(self.start, self.start + len(self.words)))


@dataclass
class Sentence:
    """A well-formed sentence as it grows, with the sites found so far."""

    words: list[str] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)

    def add(self, *words: str) -> None:
        """Appends words."""
        self.words.extend(words)

    def add_site(self, kind: str, word: str, wrong: str) -> None:
        """Appends a word that can be broken into `wrong`."""
        self.sites.append(Site(kind, len(self.words), (wrong,)))
        self.words.append(word)

    def swap_site(self, start: int) -> None:
        """Notes that the order of the two words from `start` on matters."""
        first, second = self.words[start : start + 2]
        self.sites.append(Site("order", start, (second, first)))


@dataclass(frozen=True)
class Head:
    """What the rest of a sentence needs to know of a noun phrase."""

    plural: bool
    gender: str  # "m", "f", "n" (a person of no stated gender), "" (a thing)

    @property
    def reflexive(self) -> str:
        """The one reflexive that fits; for a singular person of no stated gender there is none."""
        return "themselves" if self.plural else {"m": "himself", "f": "herself"}.get(self.gender, "")


class Grammar:
    """Draws sentences; everything it decides comes from one random generator."""

    def __init__(self, seed: str):
        self.random = Random(seed)

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """Yields without end: (acceptable sentence, its unacceptable partner, the kinds of the sites broken)."""
        while True:
            sentence = self._sentence()
            broken, kinds = list(sentence.words), []
            for site in self._sites_to_break(sentence):
                if site.kind == "polarity":
                    no, other = site.start, int(site.words[0])
                    broken[no], broken[other] = broken[other], broken[no]
                else:
                    broken[site.start : site.start + len(site.words)] = site.words
                kinds.append(site.kind)
            yield _spell(sentence.words), _spell(broken), "+".join(sorted(set(kinds)))

    def _sites_to_break(self, sentence: Sentence) -> list[Site]:
        """Draws sites that do not overlap: first by kind, so that rare kinds come up, then among those of the kind."""
        wanted = self.random.choices(range(1, len(BREAKS) + 1), BREAKS)[0]
        left, chosen = list(sentence.sites), []
        while left and len(chosen) < wanted:
            kinds = sorted({site.kind for site in left})
            kind = self.random.choices(kinds, [SITE_WEIGHTS[kind] for kind in kinds])[0]
            site = self.random.choice([site for site in left if site.kind == kind])
            chosen.append(site)
            left = [other for other in left if not other.span & site.span]
        return chosen

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _sentence(self) -> Sentence:
        sentence = Sentence()
        if self._chance(0.1):
            self._prepositional(sentence)
            sentence.add(",")
        shape = self.random.choices(("plain", "reflexive", "polarity"), (6, 2, 2))[0]
        if shape == "polarity":
            self._polarity(sentence)
        elif shape == "reflexive":
            head = self._subject(sentence, self.random.choice(("m", "f", "p")))
            self._predicate(sentence, head, self.random.choice(KINDS[1:]), reflexive=True)
            if self._chance(0.3):
                self._prepositional(sentence)
        else:
            head = self._subject(sentence, "")
            first = self._predicate(sentence, head)
            if self._chance(0.15):
                sentence.add(self.random.choice(lexicon.CONJUNCTIONS))
                # "must see them and know it" is as good as "and knows it": after a modal, only a modal is unambiguous
                self._predicate(sentence, head, "modal" if first == "modal" else "")
        sentence.add(".")
        return sentence

    def _subject(self, sentence: Sentence, person: str) -> Head:
        """A noun phrase with one or two modifiers. `person`: "m", "f" (singular), "p" (plural), "" (anything)."""
        head = self._noun_phrase(sentence, person)
        kind = self.random.choices(("none", "phrase", "phrases", "clause", "both"), (3, 3, 0.5, 3, 0.5))[0]
        if kind in ("phrase", "phrases", "both"):
            self._prepositional(sentence, person=bool(person))
        if kind == "phrases":
            self._prepositional(sentence)
        if kind in ("clause", "both"):
            self._relative(sentence, head if kind == "clause" else None, bool(head.gender))
        return head

    def _noun_phrase(self, sentence: Sentence, person: str = "", determiner: str = "") -> Head:
        """Determiner, adjectives, noun."""
        plural = person == "p" or (not person and self._chance(0.5))
        if person in ("m", "f"):
            gender = person
        elif person == "p":
            gender = self.random.choice("mfn")
        else:
            gender = self.random.choices(("m", "f", "n", ""), (1, 1, 2, 4))[0]
        start = len(sentence.words)
        if determiner:
            sentence.add(determiner)
        elif self._chance(0.3):
            one, many = self.random.choice(lexicon.DEMONSTRATIVES)
            sentence.add_site("determiner", *((many, one) if plural else (one, many)))
        else:
            sentence.add(self.random.choice(lexicon.DETERMINERS))
        for probability in (0.25, 0.05):
            if self._chance(probability):
                sentence.add(self.random.choice(lexicon.ADJECTIVES))
        sentence.add(self.random.choice(lexicon.NOUNS[gender])[plural])
        if not determiner:
            sentence.swap_site(start)
        return Head(plural, gender)

    def _prepositional(self, sentence: Sentence, person: bool = False) -> None:
        sentence.add(self.random.choice(lexicon.PREPOSITIONS))
        self._noun_phrase(sentence, self.random.choice("mfp") if person else "")

    def _relative(self, sentence: Sentence, head: Head | None, person: bool) -> None:
        """A relative clause. Its verb agrees with `head` or its own subject; a None head is ambiguous: own only."""
        sentence.add("who" if person else "that")
        verb = self.random.choice(lexicon.VERBS)
        if head is not None and self._chance(0.5):
            self._finite(sentence, head, verb.third, verb.base)
            self._noun_phrase(sentence)
        else:
            self._finite(
                sentence, self._noun_phrase(sentence, self.random.choice("mfp")), verb.third, verb.base
            )

    def _finite(self, sentence: Sentence, head: Head, one: str, many: str) -> None:
        """A finite verb, given by its singular and plural form."""
        sentence.add_site("agreement", *((many, one) if head.plural else (one, many)))

    def _adverb(self, sentence: Sentence, probability: float) -> None:
        if self._chance(probability):
            sentence.add(self.random.choice(lexicon.ADVERBS))

    def _predicate(self, sentence: Sentence, head: Head, kind: str = "", reflexive: bool = False) -> str:
        """A verb phrase of the given or of any kind, perhaps with a reflexive object; returns its kind."""
        kind = kind or self.random.choices(KINDS, (1, 1, 3, 3, 3))[0]
        if kind == "be":
            self._finite(sentence, head, "is", "are")
            self._adverb(sentence, 0.3)
            sentence.add(self.random.choice(lexicon.ADJECTIVES))
            return kind
        verb = self.random.choice(lexicon.VERBS)
        if kind == "finite":
            self._adverb(sentence, 0.3)
            self._finite(sentence, head, verb.third, verb.base)
        else:
            auxiliary = len(sentence.words)
            if kind == "perfect":
                self._finite(sentence, head, "has", "have")
            elif kind == "progressive":
                self._finite(sentence, head, "is", "are")
            else:
                sentence.add(self.random.choice(lexicon.MODALS))
            self._adverb(sentence, 0.5)
            self._adverb(sentence, 0.2)
            right = {"perfect": verb.participle, "progressive": verb.progressive, "modal": verb.base}[kind]
            wrong = [form for form in (verb.participle, verb.progressive, verb.base) if form != right]
            sentence.add_site("form", right, self.random.choice(wrong))
            if len(sentence.words) == auxiliary + 2:
                sentence.swap_site(auxiliary)
        if reflexive:
            wrong = [word for word in lexicon.REFLEXIVES if word != head.reflexive]
            sentence.add_site("reflexive", head.reflexive, self.random.choice(wrong))
        else:
            self._noun_phrase(sentence)
        return kind

    def _polarity(self, sentence: Sentence) -> None:
        """`No N who the Ns admire has ever seen it`: with `no` in the relative clause, `ever` is not licensed."""
        no = len(sentence.words)
        head = self._noun_phrase(sentence, self.random.choice("mfp"), determiner="no")
        apart = self._chance(0.4)
        if apart:
            self._prepositional(sentence)
        sentence.add("who")
        verb = self.random.choice(lexicon.VERBS)
        if not apart and self._chance(0.6):  # after "no guard with the tailor", "who" could be either of them
            self._finite(sentence, head, verb.third, verb.base)
            the = len(sentence.words)
            self._noun_phrase(sentence, determiner="the")
        else:
            the = len(sentence.words)
            self._finite(
                sentence,
                self._noun_phrase(sentence, self.random.choice("mfp"), determiner="the"),
                verb.third,
                verb.base,
            )
        sentence.sites.append(Site("polarity", no, (str(the),)))
        self._finite(sentence, head, "has", "have")
        sentence.add("ever", self.random.choice(lexicon.VERBS).participle)
        self._noun_phrase(sentence)


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
        raise ConfigError(
            f"The built-in task needs at least 2 sentences in each split, not {train} and {validation}."
        )
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
