"""Tools for the weather of a place, and what they return."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from model_assets.development.offers import Offer, Schema, Use, text, tool
from model_assets.development.words import CITIES, CONDITIONS


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
    temperature = rng.choice(("temperature", "temperature", "temperature", "temp", "temp_c"))
    condition = rng.choice(("condition", "condition", "conditions", "description"))
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
    spoken = rng.choice(("{} degrees and {}", "{}°C, {}", "{}°C and {}"))
    if draw < 0.9:
        return spoken.format(degrees, sky), True
    return rng.choice(("{}", "{} degrees", "{}°C")).format(degrees), False
