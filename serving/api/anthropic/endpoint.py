"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's protocol."""

from __future__ import annotations

from serving.api.anthropic.answer import MessageAnswer
from serving.api.anthropic.facts import MessageFacts, ThinkingShown
from serving.api.anthropic.job import count_tokens, make_job
from serving.api.anthropic.schema import CountTokensRequest, MessagesRequest
from serving.api.anthropic.stream import MessageStream
from serving.api.body import decode
from serving.api.computation import Computation, counting
from serving.api.generation import Generation, Prepared, Surroundings

ROUTE = "messages"
COUNT_ROUTE = "messages.count_tokens"


def messages(around: Surroundings) -> Generation:
    """Returns the endpoint that answers."""

    def prepare(body: bytes, job_id: str, deadline_seconds: float | None) -> Prepared:
        request = decode(body, MessagesRequest, around.settings.limits)
        backend = around.backend()
        job = make_job(
            request,
            backend,
            around.settings,
            job_id=job_id,
            route=ROUTE,
            deadline_seconds=deadline_seconds,
        )
        facts = MessageFacts(
            id=f"msg_{around.make_id()}",
            request_id=job_id,
            model=backend.model,
            prompt_tokens=len(job.prompt),
            thinking=_shown(request),
            make_call_id=lambda: f"toolu_{around.make_id()}",
        )
        return Prepared(
            run=lambda accepted: backend.pipeline.run(job, accepted=accepted),
            presenter=MessageStream(facts) if request.stream else MessageAnswer(facts),
            unknown_fields=len(request.model_extra or ()),
        )

    return Generation(ROUTE, around, prepare)


def token_count(around: Surroundings) -> Computation:
    """Returns the endpoint that counts the tokens of a prompt."""

    def compute(body: bytes) -> dict[str, object]:
        request = decode(body, CountTokensRequest, around.settings.limits)
        return {"input_tokens": count_tokens(request, around.backend(), around.settings)}

    return counting(COUNT_ROUTE, around, compute)


def _shown(request: MessagesRequest) -> ThinkingShown:
    """Returns how much of the reasoning a client sees: none of it, where it does not ask."""
    thinking = request.thinking
    if thinking is None or thinking.type == "disabled":
        return "none"
    return "empty" if thinking.display == "omitted" else "full"
