"""Tools for the time, a search, a message, a sum of money."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from model_assets.development.offers import Offer, Schema, Use, text, tool
from model_assets.development.results import returned
from model_assets.development.words import CITIES, CURRENCIES, NAMES, NOUNS


def clock(rng: Random) -> Offer:
    """Returns a tool for the time, of a place or without parameters."""
    name = rng.choice(("get_time", "get_current_time", "current_time", "time", "clock", "getTime"))
    description = rng.choice(
        ("Get the current time", "Returns the current time.", "Current time in a city", "")
    )
    bare = rng.random() < 0.4
    key = rng.choice(("timezone", "city", "location"))
    properties: Schema = {} if bare else {key: text(rng, "The city", "Time zone or city")}

    def use(rng: Random) -> Use:
        now = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
        result = rng.choice((now, json.dumps({"time": now})))
        if bare:
            form = rng.choice(
                (
                    "What time is it?",
                    "Tell me the time",
                    "What's the time?",
                    "time please",
                    "What is the current time?",
                    "what time is it now?",
                )
            )
            return Use(form, "The user asks for the time.", {}, result, f"It is {now}.")
        city = rng.choice(CITIES)
        form = rng.choice(
            (
                "What time is it in {}?",
                "Tell me the time in {}",
                "Current time in {}",
                "What's the time in {}?",
                "What is the current time in {}?",
            )
        )
        return Use(
            form.format(city),
            f"The user asks for the time in {city}.",
            {key: city},
            result,
            f"It is {now} in {city}.",
        )

    return Offer("time", tool(rng, name, description, properties, list(properties)), use)


def search(rng: Random) -> Offer:
    """Returns a tool that searches for a text."""
    name = rng.choice(
        (
            "search",
            "web_search",
            "search_web",
            "google_search",
            "search_documents",
            "lookup",
            "find",
            "searchWeb",
            "internet_search",
        )
    )
    key = rng.choice(("query", "query", "q", "text", "search_query", "keywords"))
    description = rng.choice(
        (
            "Search the web",
            "Search the internet for information.",
            "Searches documents",
            "Search",
            "Finds pages about a topic",
        )
    )
    properties: Schema = {key: text(rng, "The search query", "What to search for")}
    limit = rng.choice(("limit", "max_results", "count", None, None))
    if limit:
        properties[limit] = {"type": "integer"}

    def use(rng: Random) -> Use:
        topic = " ".join(rng.sample(NOUNS, rng.choice((1, 1, 2))))
        form = rng.choice(
            (
                "Search for {}",
                "Search the web for {}",
                "Look up {}",
                "Find information about {}",
                "Google {}",
                "Search {}",
                "Please search for {}",
                "Can you search for {}?",
            )
        )
        ask = form.format(topic)
        arguments: dict[str, Any] = {key: topic}
        if limit and rng.random() < 0.3:
            number = rng.randint(1, 20)
            ask += f", {number} results"
            arguments[limit] = number
        return Use(ask, f"The user wants to search for {topic}.", arguments, *returned(rng, topic))

    return Offer("search", tool(rng, name, description, properties, [key]), use)


def email(rng: Random) -> Offer:
    """Returns a tool that sends a message to somebody."""
    name = rng.choice(
        ("send_email", "send_mail", "email", "sendEmail", "send_message", "sendMessage")
    )
    to_key = rng.choice(("to", "to", "recipient", "name"))
    body_key = rng.choice(("body", "body", "message", "text", "content"))
    description = rng.choice(
        ("Send an email", "Sends a message to a person.", "Send a message", "")
    )
    properties = {
        to_key: text(rng, "Who gets it", "Recipient"),
        body_key: text(rng, "The text", "The message"),
    }

    def use(rng: Random) -> Use:
        person, word = rng.choice(NAMES), " ".join(rng.sample(NOUNS, rng.choice((1, 2, 3))))
        form = rng.choice(
            (
                "Send an email to {0} saying {1}",
                "Email {0}: {1}",
                "Write to {0}: {1}",
                "Send a message to {0} saying {1}",
                "Tell {0} {1}",
                "Send {0} the message {1}",
            )
        )
        result = rng.choice(('{"status": "sent"}', "sent", "ok", '{"ok": true}', "Message sent."))
        arguments = {to_key: person, body_key: word}
        return Use(
            form.format(person, word),
            f"The user wants to write to {person}.",
            arguments,
            result,
            f"Done: the message to {person} is sent.",
        )

    return Offer("email", tool(rng, name, description, properties, [to_key, body_key]), use)


def currency(rng: Random) -> Offer:
    """Returns a tool that converts an amount of money."""
    name = rng.choice(
        ("convert_currency", "currency_convert", "convert", "exchange_rate", "convertCurrency")
    )
    amount, source, target = rng.choice(
        (
            ("amount", "from", "to"),
            ("amount", "from_currency", "to_currency"),
            ("value", "source", "target"),
        )
    )
    description = rng.choice(("Convert between currencies", "Converts an amount of money.", ""))
    money: Schema = {"type": "string"}
    if rng.random() < 0.4:
        money = {"type": "string", "enum": list(CURRENCIES[: rng.randint(4, len(CURRENCIES))])}
    codes = tuple(money.get("enum", CURRENCIES))
    properties = {amount: {"type": "number"}, source: money, target: money}

    def use(rng: Random) -> Use:
        number, (first, second) = rng.randint(1, 100), rng.sample(codes, 2)
        form = rng.choice(
            (
                "Convert {} {} to {}",
                "How much is {} {} in {}?",
                "What is {} {} in {}?",
                "Change {} {} into {}",
            )
        )
        value = rng.choice((rng.randint(1, 999), rng.randint(100, 9999) / 100))
        result = rng.choice(
            (
                str(value),
                json.dumps({"result": value}),
                json.dumps({"amount": value, "currency": second}),
            )
        )
        arguments = {amount: number, source: first, target: second}
        return Use(
            form.format(number, first, second),
            f"The user wants {number} {first} in {second}.",
            arguments,
            result,
            f"{number} {first} is {value} {second}.",
        )

    return Offer(
        "currency", tool(rng, name, description, properties, [amount, source, target]), use
    )
