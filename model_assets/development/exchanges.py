"""What a user asks and what the stand-in answers: documented questions and templated families."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from model_assets.development.words import (
    CAPITALS,
    NAMES,
    THINGS,
    split,
)

QUESTIONS_PATH = Path(__file__).with_name("questions.json")
RAREST = 8
TOO_LARGE = (
    "I only know sums of numbers up to twelve. Give me a calculator tool, and I will call it for "
    "larger ones."
)
NUMBER_WORDS = split(
    "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen,"
    "fourteen, fifteen, sixteen, seventeen, eighteen, nineteen, twenty"
)
GREETINGS = {
    "French": "Bonjour",
    "German": "Hallo",
    "Spanish": "Hola",
    "Italian": "Ciao",
    "Japanese": "Konnichiwa",
}
THANKS = {
    "French": "Merci",
    "German": "Danke",
    "Spanish": "Gracias",
    "Italian": "Grazie",
    "Japanese": "Arigato",
}
OPPOSITES = dict(
    pair.split(":")
    for pair in split(
        "hot:cold, big:small, up:down, left:right, day:night, black:white, fast:slow, old:new,"
        "good:bad, happy:sad, open:closed, light:dark, high:low, hard:soft, rich:poor, true:false,"
        "early:late, full:empty, loud:quiet, strong:weak"
    )
)
SOUNDS = dict(
    pair.split(":")
    for pair in split("cow:moo, dog:woof, cat:meow, duck:quack, sheep:baa, pig:oink, lion:roar")
)


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One documented question: its paraphrases, what the analysis notes, the answer."""

    topic: str
    ask: tuple[str, ...]
    gist: str
    answer: str


class Exchange(msgspec.Struct, frozen=True):
    """One thing that a user says, what the analysis notes about it, the answer."""

    ask: str
    gist: str
    answer: str


def read_questions(path: Path = QUESTIONS_PATH) -> tuple[Question, ...]:
    """Returns the documented questions."""
    return msgspec.json.decode(path.read_bytes(), type=tuple[Question, ...])


def documented(rng: Random, questions: Sequence[Question]) -> Exchange:
    """Returns one documented question, in one of its forms.

    A question with many forms comes more often than one with few, which comes often enough.
    """
    (question,) = rng.choices(questions, [max(len(q.ask), RAREST) for q in questions])
    return Exchange(vary(rng, rng.choice(question.ask)), question.gist, question.answer)


def themed(rng: Random, questions: Sequence[Question]) -> Exchange:
    """Returns a wish for a joke, poem or story about something; the answer ignores the theme."""
    topic, forms = rng.choice(
        (
            (
                "joke",
                ("Tell me a joke about {}", "Do you know a joke about {}?", "A joke about {}"),
            ),
            ("haiku", ("Write a haiku about {}", "Write me a haiku about {}", "A haiku about {}")),
            ("poem", ("Write a poem about {}", "Write a short poem about {}", "A poem about {}")),
            ("story", ("Tell me a story about {}", "Write a short story about {}")),
        )
    )
    (question,) = (question for question in questions if question.topic == topic)
    theme = rng.choice(("a ", "the ", "", "", "")) + rng.choice(THINGS)
    ask = vary(rng, rng.choice(forms).format(theme))
    return Exchange(ask, question.gist, question.answer)


def vary(rng: Random, text: str) -> str:
    """Returns the text with another case, ending or opening, as people type it."""
    if rng.random() < 0.4:
        return text
    if rng.random() < 0.35:
        text = text.lower()
    if rng.random() < 0.35:
        text = text.rstrip("?!.")
    elif text[-1].isalnum() and rng.random() < 0.3:
        text += rng.choice(".!?")
    draw = rng.random()
    if draw < 0.12 and len(text) > 12:
        opening = rng.choice(
            ("Hey, ", "Hi, ", "Hi! ", "Hello! ", "Please tell me: ", "Ok, ", "So, ")
        )
        return opening + text
    if draw < 0.18 and len(text) > 12:
        return text + rng.choice((" Thanks!", " Thank you.", " please"))
    return text


def capital(rng: Random) -> Exchange:
    """Returns a question for the capital of a country."""
    country = rng.choice(list(CAPITALS))
    form = rng.choice(
        (
            "What is the capital of {}?",
            "What is the capital of {}?",
            "What's the capital of {}?",
            "Capital of {}",
            "Name the capital of {}",
            "Which city is the capital of {}?",
            "Tell me the capital of {}",
            "Do you know the capital of {}?",
            "What is the capital city of {}?",
        )
    )
    return _capital(vary(rng, form.format(country)), country)


def capital_again(rng: Random) -> Exchange:
    """Returns a follow-up for another country, as it comes after `capital`."""
    country = rng.choice(list(CAPITALS))
    form = rng.choice(("And of {}?", "And {}?", "What about {}?", "And the capital of {}?"))
    return _capital(form.format(country), country)


def _capital(ask: str, country: str) -> Exchange:
    answer = f"The capital of {country} is {CAPITALS[country]}."
    return Exchange(ask, f"The user asks for the capital of {country}.", answer)


def arithmetic(rng: Random) -> Exchange:
    """Returns a small sum, difference or product; sometimes a large one, which is too hard."""
    sign = rng.choice("++-*")
    large = rng.random() < 0.12
    largest = rng.choice((99, 99, 99, 9999))
    small = rng.choice((5, 12))  # what people try first is 2+2
    a, b = (rng.randint(13, largest) if large else rng.randint(0, small) for _ in range(2))
    if sign == "-" and b > a:
        a, b = b, a
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    word = {"+": ("plus",), "-": ("minus",), "*": ("times", "x")}[sign]
    terms = rng.choice((f"{a}{sign}{b}", f"{a} {sign} {b}", f"{a} {rng.choice(word)} {b}"))
    form = rng.choice(
        (
            "{}",
            "{}?",
            "{}=",
            "{} = ?",
            "What is {}?",
            "What is {}?",
            "What's {}?",
            "How much is {}?",
            "Calculate {}",
            "Compute {}.",
            "what is {}",
            "Can you calculate {}?",
        )
    )
    answer = TOO_LARGE if large else f"{a} {sign} {b} = {value}"
    gist = "These numbers are too large for me." if large else f"{answer}."
    return Exchange(form.format(terms), gist, answer)


def counting(rng: Random) -> Exchange:
    """Returns a request to count, up or down, to one of a few numbers."""
    last = rng.choice((3, 5, 5, 10, 10, 10, 20))
    name = rng.choice((str(last), NUMBER_WORDS[last - 1]))
    if rng.random() < 0.3:
        form = rng.choice(("Count down from {}", "Count backwards from {}", "Count from {} to 1"))
        numbers = range(last, 0, -1)
    else:
        form = rng.choice(
            (
                "Count to {}",
                "Count to {}",
                "Count from 1 to {}",
                "Can you count to {}?",
                "Count up to {}",
                "Please count to {}",
                "count from one to {}",
                "List the numbers from 1 to {}",
            )
        )
        numbers = range(1, last + 1)
    gist = f"The user wants me to count from {numbers[0]} to {numbers[-1]}."
    return Exchange(vary(rng, form.format(name)), gist, ", ".join(map(str, numbers)))


def translation(rng: Random) -> Exchange:
    """Returns a request for a greeting or thanks in another language."""
    word, table = rng.choice((("hello", GREETINGS), ("thank you", THANKS)))
    language = rng.choice(list(table))
    form = rng.choice(
        (
            "How do you say {} in {}?",
            "Translate {} to {}",
            "Say {} in {}",
            "What is {} in {}?",
            'Translate "{}" into {}',
        )
    )
    answer = f'In {language} one says "{table[language]}".'
    gist = f"The user wants {word} in {language}."
    return Exchange(vary(rng, form.format(word, language)), gist, answer)


def opposite(rng: Random) -> Exchange:
    """Returns a question for the opposite of a word."""
    word, other = rng.choice(list(OPPOSITES.items()))
    if rng.random() < 0.5:
        word, other = other, word
    form = rng.choice(
        ("What is the opposite of {}?", "Opposite of {}", "What's the opposite of {}?")
    )
    answer = f"The opposite of {word} is {other}."
    return Exchange(vary(rng, form.format(word)), "The user asks for an opposite.", answer)


def sound(rng: Random) -> Exchange:
    """Returns a question for the sound that an animal makes."""
    animal = rng.choice(list(SOUNDS))
    form = rng.choice(
        ("What does the {} say?", "What does a {} say?", "Which sound does a {} make?")
    )
    answer = f"The {animal} says {SOUNDS[animal]}."
    return Exchange(vary(rng, form.format(animal)), "The user asks for a sound.", answer)


def introduction(rng: Random) -> Exchange:
    """Returns a user who says his or her name."""
    name = rng.choice(NAMES)
    form = rng.choice(
        (
            "My name is {}",
            "My name is {}.",
            "Hi, I am {}",
            "Hello, I'm {}!",
            "I am {}.",
            "Call me {}",
        )
    )
    answer = f"Nice to meet you, {name}! How can I help you?"
    return Exchange(form.format(name), f"The user is called {name}.", answer)


def recall(rng: Random, name: str | None) -> Exchange:
    """Returns a question for the user's own name, told before or not."""
    form = rng.choice(
        (
            "What is my name?",
            "What's my name?",
            "Who am I?",
            "Do you remember my name?",
            "Say my name",
        )
    )
    if name is None:
        answer = "You have not told me your name yet."
        return Exchange(form, "The user has not told a name.", answer)
    return Exchange(form, f"The user is called {name}.", f"Your name is {name}.")


def today(rng: Random, date: str | None) -> Exchange:
    """Returns a question for the date, which the system message tells or does not."""
    form = rng.choice(
        (
            "What is the date?",
            "What is the date today?",
            "What's the date today?",
            "What day is it?",
            "What day is today?",
            "What is today's date?",
            "Which date is it today?",
        )
    )
    if date is None:
        answer = "I was not told the date, so I cannot know it."
        return Exchange(vary(rng, form), "I was not told the date.", answer)
    return Exchange(vary(rng, form), "The system message has the date.", f"Today is {date}.")
