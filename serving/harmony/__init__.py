"""Conversation <-> token ids in OpenAI's Harmony format (github.com/openai/harmony)."""
