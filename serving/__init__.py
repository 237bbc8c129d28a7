"""Runs an engine in a supervised process behind an OpenAI-compatible API."""
