"""Tools that calculate."""

from __future__ import annotations

from random import Random
from typing import Any

from model_assets.development.offers import Offer, Schema, Use, text, tool


def calculator(rng: Random) -> Offer:
    """Returns a tool that evaluates an expression, or works on two numbers."""
    if rng.random() < 0.5:
        return _expression_tool(rng)
    operation = rng.choice(("add", "subtract", "multiply", "divide"))
    sign = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}[operation]
    a_key, b_key = rng.choice((("a", "b"), ("x", "y"), ("first", "second"), ("num1", "num2")))
    kind = rng.choice(("number", "integer"))
    properties: Schema = {a_key: {"type": kind}, b_key: {"type": kind}}
    name = rng.choice((operation, f"{operation}_numbers", f"{operation}Numbers"))
    description = rng.choice(
        (f"{operation.capitalize()} two numbers", f"{operation.capitalize()}s a and b.", "")
    )

    def use(rng: Random) -> Use:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[sign]
        forms = (
            f"What is {a} {sign} {b}?",
            f"What is {a} {word} {b}?",
            f"Calculate {a} {sign} {b}",
            f"{operation.capitalize()} {a} and {b}",
            f"Please {operation} {a} and {b}",
            f"How much is {a} {word} {b}?",
        )
        return _sum(rng, rng.choice(forms), f"{a} {sign} {b}", {a_key: a, b_key: b})

    return Offer(operation, tool(rng, name, description, properties, [a_key, b_key]), use)


def _expression_tool(rng: Random) -> Offer:
    name = rng.choice(("calculator", "calculate", "calc", "evaluate", "compute", "math"))
    key = rng.choice(("expression", "expression", "formula", "input", "expr"))
    description = rng.choice(
        ("Evaluate a mathematical expression", "A calculator.", "Calculates an expression", "")
    )
    properties = {key: text(rng, "The expression to evaluate, e.g. 2 + 2", "Expression")}

    def use(rng: Random) -> Use:
        terms = [str(rng.randint(2, 99)) for _ in range(rng.choice((2, 2, 2, 3)))]
        expression = terms[0]
        for term in terms[1:]:
            expression += f" {rng.choice('+-*/')} {term}"
        form = rng.choice(
            (
                "What is {}?",
                "Calculate {}",
                "Compute {}",
                "How much is {}?",
                "{}",
                "Evaluate {}.",
                "What's {}?",
            )
        )
        return _sum(rng, form.format(expression), expression, {key: expression})

    return Offer("calculator", tool(rng, name, description, properties, [key]), use)


def _sum(rng: Random, ask: str, terms: str, arguments: dict[str, Any]) -> Use:
    value = rng.choice((rng.randint(0, 999), rng.randint(1000, 99999), rng.randint(0, 999) / 8))
    form = rng.choice(("{}", "{}", '{{"result": {}}}', '{{"value": {}}}', "Result: {}"))
    return Use(
        ask, f"The user wants {terms}.", arguments, form.format(value), f"The result is {value}."
    )
