"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's protocol."""

from __future__ import annotations

from serving.generation.prepare import prepare, render_prompt
from serving.protocols.edge.body import decode
from serving.protocols.edge.computation import Computation, counting
from serving.protocols.edge.generation import Generation, Prepared, RequestInfo, Services
from serving.protocols.edge.operation import Operation
from serving.protocols.messages.answer import MessageAnswer
from serving.protocols.messages.answers import AnsweredMessage, MessageEvent, MessageTokens
from serving.protocols.messages.facts import MessageFacts, ThinkingShown
from serving.protocols.messages.request import ROUTE, dialogue, generation_request
from serving.protocols.messages.schema import CountTokensRequest, MessagesRequest
from serving.protocols.messages.stream import MessageStream

COUNT_ROUTE = "messages.count_tokens"


def message_operations(services: Services) -> list[Operation]:
    """Returns the operations of the Messages API."""
    return [
        Operation(
            "POST",
            "/v1/messages",
            _messages(services),
            "Answer a conversation, in Anthropic's protocol",
            gives=AnsweredMessage,
            takes=(MessagesRequest,),
            streams=MessageEvent,
        ),
        Operation(
            "POST",
            "/v1/messages/count_tokens",
            _token_count(services),
            "Count the tokens of a message's prompt",
            gives=MessageTokens,
            takes=(CountTokensRequest,),
        ),
    ]


def _messages(services: Services) -> Generation:

    def prepare_message(body: bytes, info: RequestInfo) -> Prepared:
        request = decode(body, MessagesRequest, services.settings.limits)
        wanted = generation_request(request, info)
        backend = services.fleet.find(wanted.model)
        job = prepare(wanted, backend, services.settings)
        facts = MessageFacts(
            id=f"msg_{services.make_id()}",
            request_id=info.id,
            model=backend.model,
            prompt_tokens=len(job.prompt),
            thinking=_shown(request),
            make_call_id=lambda: f"toolu_{services.make_id()}",
        )
        return Prepared(
            run=lambda accepted: backend.pipeline.run(job, accepted=accepted),
            presenter=MessageStream(facts) if request.stream else MessageAnswer(facts),
            unknown_fields=len(request.model_extra or ()),
        )

    return Generation(ROUTE, services, prepare_message)


def _token_count(services: Services) -> Computation:
    def compute(body: bytes) -> MessageTokens:
        request = decode(body, CountTokensRequest, services.settings.limits)
        engine = services.fleet.find(request.model)
        return {"input_tokens": len(render_prompt(dialogue(request), engine, services.settings))}

    return counting(COUNT_ROUTE, services, compute)


def _shown(request: MessagesRequest) -> ThinkingShown:
    """Returns how much of the reasoning a client sees: none of it, where it does not ask."""
    thinking = request.thinking
    if thinking is None or thinking.type == "disabled":
        return "none"
    return "empty" if thinking.display == "omitted" else "full"
