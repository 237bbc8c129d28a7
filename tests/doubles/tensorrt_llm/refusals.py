"""What the executor's C++ side and the grammar compiler refuse of a sampling."""

from __future__ import annotations

import json
from typing import Any

from tensorrt_llm.errors import RequestError
from tensorrt_llm.sampling_params import GuidedDecodingParams


def check_bias(bias: Any) -> None:
    """As the constructor of the C++ request: anything but a torch.Tensor is another signature."""
    if type(bias).__module__.partition(".")[0] != "torch":
        raise RequestError("__init__(): incompatible function arguments.")


GUIDE_FORMATS = frozenset(
    (
        *("const_string", "json_schema", "qwen_xml_parameter", "any_text", "grammar", "regex"),
        *("sequence", "or", "tag", "triggered_tags", "tags_with_separator"),
    )
)
"""What a structural tag may hold in xgrammar 0.1.32 (python/xgrammar/structural_tag.py)."""


def check_guide(guide: GuidedDecodingParams) -> None:
    """As xgrammar 0.1.32, which 1.4.0rc1 requires (1.4.0rc4: not read): other formats are
    refused."""
    waiting = [json.loads(guide.structural_tag or "{}").get("format")]
    while waiting:
        form = waiting.pop()
        if not isinstance(form, dict) or form.get("type") not in GUIDE_FORMATS:
            raise RequestError(f"Invalid structural tag error: Format type not recognized: {form}")
        waiting += [*form.get("elements", ()), *form.get("tags", ())]
        waiting += [form["content"]] if "content" in form else []
