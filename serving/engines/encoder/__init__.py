"""Texts to vectors: a sentence encoder in a process of its own, and the API process's end of it."""
