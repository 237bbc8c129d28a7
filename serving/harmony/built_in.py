"""The tools that GPT-OSS was trained to use while it reasons: `python` and `browser`.

The system message offers them, each as a namespace of its own; the words are those of
openai-harmony 0.0.8, and the tests hold them to that. A call goes to a recipient (`python`,
`browser.search`) on the analysis channel, and what the tool says comes back from there on the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from serving.events import BuiltInCallStart
from serving.harmony.conversation import BuiltInName, BuiltInTool, FunctionTool
from serving.harmony.schema import comment, namespace
from serving.harmony.vocabulary import CALL, CHANNEL, END, MESSAGE, START, Vocabulary

PYTHON_DESCRIPTION: Final = """\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the \
user. This tool should be used for internal reasoning, but not for code that is intended to be \
visible to the user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful \
Jupyter notebook environment. python will respond with the output of the execution or time out \
after 120.0 seconds. The drive at '/mnt/data' can be used to save and persist user files. Internet \
access for this session is UNKNOWN. Depends on the cluster."""

BROWSER_DESCRIPTION: Final = """\
Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)"""

_DESCRIPTIONS: Final[dict[BuiltInName, str]] = {
    "python": PYTHON_DESCRIPTION,
    "browser": BROWSER_DESCRIPTION,
}

_MINUS_ONE: Final = {"type": "number", "default": -1}

_BROWSER_FUNCTIONS: Final = (
    FunctionTool(
        name="search",
        description="Searches for information related to `query` and displays `topn` results.",
        parameters={
            "type": "object",
            "properties": {
                "query": {"type": "string"},
                "topn": {"type": "number", "default": 10},
                "source": {"type": "string"},
            },
            "required": ["query"],
        },
    ),
    FunctionTool(
        name="open",
        description="""\
Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, showing \
`num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or \
centered on the most relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page.""",
        parameters={
            "type": "object",
            "properties": {
                "id": {"type": ["number", "string"], "default": -1},
                "cursor": _MINUS_ONE,
                "loc": _MINUS_ONE,
                "num_lines": _MINUS_ONE,
                "view_source": {"type": "boolean", "default": False},
                "source": {"type": "string"},
            },
        },
    ),
    FunctionTool(
        name="find",
        description=(
            "Finds exact matches of `pattern` in the current page, or the page given by `cursor`."
        ),
        parameters={
            "type": "object",
            "properties": {"pattern": {"type": "string"}, "cursor": _MINUS_ONE},
            "required": ["pattern"],
        },
    ),
)

RECIPIENTS: Final[dict[BuiltInName, frozenset[str]]] = {
    "python": frozenset({"python"}),
    "browser": frozenset(f"browser.{function.name}" for function in _BROWSER_FUNCTIONS),
}
"""What a call of each tool is addressed to."""


def recipients(tools: Iterable[BuiltInTool]) -> frozenset[str]:
    """Returns everything that calls of these tools can be addressed to."""
    return frozenset().union(*(RECIPIENTS[tool.name] for tool in tools))


def called_tools(called: frozenset[str]) -> tuple[BuiltInName, ...]:
    """Returns the tools that calls to these recipients are of."""
    return tuple(name for name, own in RECIPIENTS.items() if own & called)


def built_in_section(tools: Sequence[BuiltInTool]) -> str:
    """Returns the section `# Tools` of the system message, in the order of the names."""
    parts = ["# Tools"]
    for tool in sorted(tools, key=lambda tool: tool.name):
        text = _DESCRIPTIONS[tool.name] if tool.description is None else tool.description
        parts.append(f"## {tool.name}")
        if tool.name == "browser":
            parts.append(comment(text) + namespace("browser", _BROWSER_FUNCTIONS))
        else:
            parts.append(text.removesuffix("\n"))
    return "\n\n".join(parts)


def continuation(
    generated: Sequence[int],
    call: BuiltInCallStart,
    output: str,
    vocabulary: Vocabulary,
) -> list[int]:
    """Returns what follows a prompt whose generation ended in a call of a built-in tool.

    First what was `generated`, token for token, so that the engine has all of it in its cache, its
    last token made `<|call|>`; then the tool's `output`, which is text whatever it holds; then
    `<|start|>assistant`.
    """
    return [
        *generated[:-1],
        CALL,
        START,
        *vocabulary.encode(call.name),
        *vocabulary.phrase(" to=assistant"),
        CHANNEL,
        *vocabulary.phrase(call.channel),
        MESSAGE,
        *vocabulary.encode(output),
        END,
        START,
        *vocabulary.phrase("assistant"),
    ]
