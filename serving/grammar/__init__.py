"""Constrained decoding: structural tags (JSON) compiled to masks over the vocabulary."""
