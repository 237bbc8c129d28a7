from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from serving.grammar import core, library
from serving.grammar.core import Compiler, GrammarError
from serving.harmony import vocabulary as words
from serving.harmony.vocabulary import Vocabulary

PROBE = """
import sys
from serving.grammar import library
assert library.is_installed()
print(sorted({"torch", "transformers", "triton", "xgrammar", "numpy"} & set(sys.modules)))
"""


def tag(form: dict[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": form})


def of_schema(schema: Any) -> str:
    return tag({"type": "json_schema", "json_schema": schema})


def test_the_stop_tokens_are_those_of_harmony() -> None:
    assert set(core.STOP_TOKENS) == set(words.STOP_TOKENS)


def test_looking_for_the_core_imports_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert library.find() is not None


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("nonsense", "JSON"),
        (tag({"type": "nothing"}), "nothing"),
        (of_schema({"type": "wat"}), 'Unsupported type "wat"'),
        (of_schema({"type": "string", "pattern": "(("}), "parenthesis is not closed"),
        (of_schema({"$ref": "#/$defs/none"}), "none"),
        (of_schema(False), "false"),
    ],
)
def test_what_cannot_be_compiled_is_said_without_places_in_the_source(
    compiler: Compiler, grammar: str, reason: str
) -> None:
    with pytest.raises(GrammarError) as refused:
        compiler.compile(grammar)
    message = str(refused.value)
    assert reason in message
    assert ".cc" not in message
    assert "\n" not in message


def test_matchers_of_one_grammar_are_independent(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    compiled = compiler.compile(of_schema({"enum": ["ab", "cd"]}))
    assert compiled.size_bytes > 0
    first, second = compiled.matcher(), compiled.matcher()
    for token in vocabulary.encode('"ab"'):
        assert first.accept(token)
    assert not first.accept(words.END)
    assert first.accept(words.RETURN)
    for token in vocabulary.encode('"cd"'):
        assert second.accept(token)
    with pytest.raises(GrammarError, match="terminated"):
        first.allowed()
    assert second.allowed().any()
