"""Function tools of many kinds, and what a user asks that needs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from model_assets.development.words import (
    CITIES,
    CONDITIONS,
    CURRENCIES,
    LANGUAGES,
    NAMES,
    NOUNS,
    SUBJECTS,
    SYMBOLS,
)
from serving.harmony.conversation import FunctionTool

Schema = dict[str, Any]


class Use(msgspec.Struct, frozen=True):
    """A request that needs a tool: the arguments to give, what it returns, what to say then."""

    ask: str
    gist: str
    arguments: dict[str, Any]
    result: str
    answer: str


class Offer(msgspec.Struct, frozen=True):
    """A tool and a source of requests for it. `subject` tells offers of one kind apart."""

    subject: str
    tool: FunctionTool
    use: Callable[[Random], Use]


def arguments_text(arguments: dict[str, Any]) -> str:
    """Returns the arguments as the model writes them: JSON without spaces."""
    return json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)


def tool(
    rng: Random, name: str, description: str, properties: Schema, required: list[str]
) -> FunctionTool:
    """Returns a function tool; optional parts of its schema come and go."""
    parameters: Schema = {"type": "object", "properties": properties}
    if required and rng.random() < 0.9:
        parameters["required"] = required
    if rng.random() < 0.3:
        parameters["additionalProperties"] = False
    return FunctionTool(name=name, description=description, parameters=parameters)


def text(rng: Random, *descriptions: str) -> Schema:
    """Returns the schema of a string, with one of the descriptions or none."""
    if not descriptions or rng.random() < 0.3:
        return {"type": "string"}
    return {"type": "string", "description": rng.choice(descriptions)}


def named(rng: Random, verb: str, noun: str) -> str:
    """Returns a function's name in one of the usual spellings."""
    parts = [verb, *noun.split()]
    if rng.random() < 0.7:
        return "_".join(parts)
    return parts[0] + "".join(part.capitalize() for part in parts[1:])


def weather(rng: Random) -> Offer:
    """Returns a tool for the weather of a place."""
    name = rng.choice(
        (
            "get_weather",
            "get_weather",
            "get_current_weather",
            "get_current_weather",
            "weather",
            "getWeather",
            "current_weather",
            "fetch_weather",
            "lookup_weather",
            "weather_lookup",
            "get_weather_forecast",
            "get_temperature",
            "getCurrentWeather",
            "check_weather",
        )
    )
    description = rng.choice(
        (
            "Get the current weather in a given location",
            "Get the current weather in a given location",
            "Get current temperature for a given location.",
            "Get the weather for a city.",
            "Gets the current weather in the provided location.",
            "Returns the weather of a city",
            "Get the weather",
            "Look up the current weather.",
            "Current weather for a place",
            "",
        )
    )
    key = rng.choice(("location", "location", "city", "city", "place", "town", "city_name"))
    properties = {
        key: text(
            rng,
            "The city and state, e.g. San Francisco, CA",
            "City and country e.g. Bogotá, Colombia",
            "The name of the city",
            "City name",
            "The city",
            "Where",
        )
    }
    required = [key]
    unit_key, units = "unit", ("celsius", "fahrenheit")
    if rng.random() < 0.6:
        unit_key = rng.choice(("unit", "unit", "units", "format", "temperature_unit"))
        units = rng.choice((units, units, ("metric", "imperial"), ("fahrenheit", "celsius")))
        unit: Schema = {"type": "string", "enum": list(units)}
        if rng.random() < 0.4:
            unit["description"] = "The temperature unit to use."
        properties[unit_key] = unit
        if rng.random() < 0.3:
            required.append(unit_key)
    has_unit = unit_key in properties
    needs_unit = unit_key in required

    def use(rng: Random) -> Use:
        city = rng.choice(CITIES)
        if rng.random() < 0.1:
            city += ", " + rng.choice(("CA", "NY", "France", "Germany", "Italy", "Spain", "Japan"))
        form = rng.choice(
            (
                "What's the weather in {}?",
                "What's the weather in {}?",
                "What is the weather in {}?",
                "What is the weather like in {}?",
                "What is the weather like in {} today?",
                "What's the weather like in {} today?",
                "How is the weather in {}?",
                "How's the weather in {} right now?",
                "Weather in {}",
                "weather {}",
                "Tell me the weather in {}",
                "Get the weather for {}",
                "Check the weather in {}, please",
                "Is it raining in {}?",
                "Is it cold in {}?",
                "Will it rain in {}?",
                "What's the temperature in {}?",
                "What is the current temperature in {}?",
                "How warm is it in {}?",
                "Do I need an umbrella in {}?",
                "I am in {}. What is the weather?",
                "Can you tell me the weather in {}?",
                "Please look up the weather in {}.",
            )
        )
        ask = form.format(city)
        arguments = {key: city}
        if has_unit and rng.random() < 0.35:
            value = rng.choice(units)
            ask = f"{ask.rstrip('?.')} in {value}{rng.choice(('?', '', '.'))}"
            arguments[unit_key] = value
        elif needs_unit:
            arguments[unit_key] = units[0]
        degrees, sky = rng.randint(-5, 38), rng.choice(CONDITIONS)
        result, known_sky = _weather_result(rng, city, degrees, sky)
        answer = f"It is {degrees} degrees{f' and {sky}' if known_sky else ''} in {city}."
        return Use(ask, f"The user asks for the weather in {city}.", arguments, result, answer)

    return Offer("weather", tool(rng, name, description, properties, required), use)


def _weather_result(rng: Random, city: str, degrees: int, sky: str) -> tuple[str, bool]:
    """Returns a weather report in one of many forms, and whether it tells the sky."""
    temperature = rng.choice(("temperature", "temperature", "temp", "temp_c", "degrees"))
    condition = rng.choice(("condition", "conditions", "description", "sky", "weather"))
    fields: dict[str, Any] = {temperature: degrees}
    if rng.random() < 0.4:
        fields = {rng.choice(("location", "city")): city, **fields}
    if rng.random() < 0.4:
        fields["unit"] = rng.choice(("celsius", "C"))
    known = rng.random() < 0.75
    if known:
        fields[condition] = sky
        if rng.random() < 0.3:
            fields = dict(reversed(fields.items()))
    if rng.random() < 0.25:
        fields["humidity"] = rng.randint(10, 99)
    draw = rng.random()
    if draw < 0.5:
        return json.dumps(fields), known
    if draw < 0.7:
        return json.dumps(fields, separators=(",", ":")), known
    spoken = rng.choice(("{} degrees and {}", "{}°C, {}", "{}C and {}", "{}, {}"))
    if draw < 0.9:
        return spoken.format(degrees, sky), True
    return rng.choice(("{}", "{} degrees", "{}°C")).format(degrees), False


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
        a, b = rng.randint(2, 999), rng.randint(2, 999)
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
        terms = [str(rng.randint(2, 999)) for _ in range(rng.choice((2, 2, 2, 3)))]
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
        ask, arguments = form.format(topic), {key: topic}
        if limit and rng.random() < 0.3:
            number = rng.randint(1, 20)
            ask += f", {number} results"
            arguments[limit] = number
        return Use(ask, f"The user wants to search for {topic}.", arguments, *_returned(rng, topic))

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
        number, (first, second) = rng.randint(1, 999), rng.sample(codes, 2)
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


def generic(rng: Random) -> Offer:
    """Returns a tool made of a verb and a subject, with one to three parameters."""
    subject = rng.choice(SUBJECTS)
    verb = rng.choice(
        (
            "get",
            "get",
            "fetch",
            "find",
            "check",
            "lookup",
            "show",
            "read",
            "create",
            "update",
            "delete",
            "list",
            "query",
        )
    )
    name = named(rng, verb, subject)
    key = rng.choice(
        (
            "name",
            "id",
            "query",
            "text",
            "symbol",
            "title",
            "country",
            "city",
            "user",
            "topic",
            "item",
            "code",
            "key",
            "value",
            f"{subject.split()[-1]}_id",
            f"{subject.split()[-1]}_name",
        )
    )
    description = rng.choice(
        (
            f"{verb.capitalize()} the {subject}",
            f"{verb.capitalize()} the {subject} of a {key}.",
            f"{verb.capitalize()}s the {subject}.",
            f"The {subject}",
            "",
        )
    )
    properties: Schema = {key: text(rng, f"The {key}", f"The {key} of the {subject}")}
    required = [key]
    extra = rng.choice(
        ("format", "language", "sort", "limit", "days", "level", "mode", None, None, None)
    )
    choices: tuple[str, ...] = ()
    if extra in ("limit", "days"):
        properties[extra] = {"type": "integer"}
    elif extra:
        choices = rng.choice(
            (
                ("json", "xml", "csv"),
                ("short", "long"),
                ("low", "medium", "high"),
                ("asc", "desc"),
                ("red", "green", "blue"),
                LANGUAGES[:4],
            )
        )
        properties[extra] = {"type": "string", "enum": list(choices)}
    needs_extra = bool(choices) and rng.random() < 0.3
    if extra and needs_extra:
        required.append(extra)

    def use(rng: Random) -> Use:
        value = _value(rng)
        form = rng.choice(
            (
                f"{verb.capitalize()} the {subject} of {{}}",
                f"{verb.capitalize()} the {subject} for {{}}",
                f"What is the {subject} of {{}}?",
                f"What is the {subject} for {{}}?",
                f"{verb.capitalize()} {subject} {{}}",
                f"Please {verb} the {subject} of {{}}",
                f"I need the {subject} of {{}}",
                f"Show me the {subject} for {{}}",
                f"What's the {subject} of {{}}?",
            )
        )
        ask, arguments = form.format(value), {key: value}
        if extra and rng.random() < 0.35:
            chosen: Any = rng.choice(choices) if choices else rng.randint(1, 30)
            ask = f"{ask.rstrip('?')} with {extra} {chosen}"
            arguments[extra] = chosen
        elif extra and needs_extra:
            arguments[extra] = choices[0]
        return Use(
            ask, f"The user wants the {subject} of {value}.", arguments, *_returned(rng, subject)
        )

    return Offer(subject, tool(rng, name, description, properties, required), use)


def _value(rng: Random) -> str:
    return rng.choice(
        (
            rng.choice(CITIES),
            rng.choice(NAMES),
            rng.choice(NOUNS),
            rng.choice(SYMBOLS),
            " ".join(rng.sample(NOUNS, 2)),
            str(rng.randint(1, 999)),
            f"{rng.choice('ABCDXYZ')}{rng.randint(100, 999)}",
            f"{rng.choice(NAMES)} {rng.choice(NAMES)}",
        )
    )


def _returned(rng: Random, topic: str) -> tuple[str, str]:
    """Returns what a tool without a form of its own returns, and the answer that quotes it."""
    thing = rng.choice((_value(rng), " ".join(rng.sample(NOUNS, 3)), str(rng.randint(0, 9999))))
    if rng.random() < 0.12:
        reason = (
            rng.choice(("not found", "timeout", "permission denied", "unknown", "invalid"))
            + f" {thing}"
        )
        result = rng.choice((json.dumps({"error": reason}), f"error: {reason}", f"Error: {reason}"))
        return result, f"The tool reported an error: {reason}"
    key = rng.choice(("result", "value", "answer", "name", "title", "status", topic.split()[-1]))
    result = rng.choice(
        (
            thing,
            thing,
            json.dumps({key: thing}),
            json.dumps({key: thing, "id": rng.randint(1, 999)}),
            json.dumps([thing]),
        )
    )
    return result, f"Here is the result: {result}"


KINDS: tuple[tuple[Callable[[Random], Offer], float], ...] = (
    (weather, 4),
    (calculator, 2),
    (clock, 1),
    (search, 1.5),
    (email, 1),
    (currency, 1),
    (generic, 3),
)


def offers(rng: Random, count: int) -> list[Offer]:
    """Returns `count` tools with different subjects and names."""
    chosen: list[Offer] = []
    makers, weights = zip(*KINDS, strict=True)
    while len(chosen) < count:
        (maker,) = rng.choices(makers, weights)
        offer = maker(rng)
        if all(offer.subject != o.subject and offer.tool.name != o.tool.name for o in chosen):
            chosen.append(offer)
    return chosen
