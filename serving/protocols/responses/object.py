"""The `response` object: the request's fields, the state and the output."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent, Usage
from serving.protocols.edge.answers import Json
from serving.protocols.edge.presenters import Whole
from serving.protocols.responses.answers import (
    EchoedFields,
    ItemObject,
    Response,
    ResponseUsage,
    Status,
)
from serving.protocols.responses.output import Output
from serving.protocols.responses.schema import ResponsesRequest
from serving.protocols.responses.tools import FunctionTool, HostedTool
from serving.settings import Settings

Body = Response


class ResponseObject:
    """One response from its request to its end. `now` is the time of day in seconds.

    `stored` tells whether it can be had again; it may become false when it cannot be written.
    """

    def __init__(
        self,
        request: ResponsesRequest,
        settings: Settings,
        output: Output,
        now: Callable[[], float],
        *,
        model: str,
        response_id: str,
        stored: bool,
    ) -> None:
        self.id = response_id
        self.output = output
        self.stored = stored
        self._now = now
        self._created = int(now())
        self._ended: int | None = None
        self._echoed = _echo(request, settings, model)

    def leave_out(self) -> None:
        """Makes the object say that it is in no store, and its items in no conversation."""
        self.stored = False
        if "conversation" in self._echoed:
            self._echoed["conversation"] = None

    def begun(self) -> Body:
        """Returns the object as it is before the first item."""
        return self._body("in_progress", [], None)

    def running(self) -> Body:
        """Returns the object as it is now: queued until the output has begun."""
        items = self.output.body()
        return self._body("in_progress" if items else "queued", items, None)

    def ended(self) -> Body:
        """Returns the object of an output that has finished: the same time at every call."""
        if self._ended is None:
            self._ended = int(self._now())
        finished = self.output.finished
        if finished is None:
            raise ValueError("the output has not finished")
        cut = finished.reason == "length"
        status: Status = "incomplete" if cut else "completed"
        body = self._body(status, self.output.body(), usage_object(finished.usage))
        if cut:
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            body["completed_at"] = self._ended
        return body

    def failed(self, error: ServingError) -> Body:
        """Returns the object of a response that failed."""
        body = self._broken("failed")
        body["error"] = {
            "code": _failure_code(error.kind),
            "message": error.message,
            "param": error.param,
            "type": error.kind.value.type,
        }
        return body

    def cancelled(self) -> Body:
        """Returns the object of a response that was called off."""
        return self._broken("cancelled")

    def _broken(self, status: Status) -> Body:
        return self._body(status, [item.broken() for item in self.output.items], None)

    def _body(self, status: Status, output: list[ItemObject], usage: ResponseUsage | None) -> Body:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "usage": usage,
            "store": self.stored,
            **self._echoed,
        }


class ResponseAnswer(Whole):
    """Presents a response as one object: as it is in the end, or now where it has not finished."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""
        self._response.output.add(events)

    def body(self) -> Body:
        """Returns the object."""
        response = self._response
        return response.running() if response.output.finished is None else response.ended()


def usage_object(usage: Usage) -> ResponseUsage:
    """Returns OpenAI's `usage`. Engines do not tell what they write to their cache: 0."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _failure_code(kind: ErrorKind) -> str:
    """Returns the nearest of the codes that the specification has for a failed response."""
    return "invalid_prompt" if kind.value.http_status < 500 else "server_error"


def _echo(request: ResponsesRequest, settings: Settings, model: str) -> EchoedFields:
    """Returns the fields of the response that repeat the request, or the default in its place."""
    reasoning, text = request.reasoning, request.text
    form = text.format if text else None
    echoed: EchoedFields = {
        "model": model,
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {
            "effort": (reasoning and reasoning.effort) or settings.reasoning_effort,
            "summary": (reasoning and (reasoning.summary or reasoning.generate_summary)) or None,
        },
        "service_tier": "default",
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": (
                form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}
            ),
            "verbosity": "medium",
        },
        "tool_choice": _tool_choice(request),
        "tools": [_tool(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
    }
    if request.conversation is not None:
        echoed["conversation"] = {"id": request.conversation}
    # The specification has no null for these.
    if request.prompt_cache_key is not None:
        echoed["prompt_cache_key"] = request.prompt_cache_key
    if request.safety_identifier is not None:
        echoed["safety_identifier"] = request.safety_identifier
    if request.user is not None:
        echoed["user"] = request.user
    return echoed


def _tool_choice(request: ResponsesRequest) -> str | Json:
    choice = request.tool_choice
    if isinstance(choice, BaseModel):
        return choice.model_dump(exclude_none=True)
    return choice or "auto"


def _tool(tool: FunctionTool | HostedTool) -> Json:
    """Returns a tool as it is used: `strict` is false unless the request sets it."""
    if isinstance(tool, FunctionTool):
        unsaid = {"description": None, "parameters": None}
        return {"type": "function", **unsaid, **tool.described(), "strict": bool(tool.strict)}
    used = tool.model_dump(exclude_none=True)
    return {"container": {"type": "auto"}, **used} if tool.type == "code_interpreter" else used
