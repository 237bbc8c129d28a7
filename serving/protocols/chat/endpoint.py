"""`POST /v1/chat/completions`."""

from __future__ import annotations

from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.prepare import prepare
from serving.protocols.chat.answer import ChatAnswer
from serving.protocols.chat.answers import ChatCompletion, ChatCompletionChunk
from serving.protocols.chat.facts import ChatFacts
from serving.protocols.chat.request import ROUTE, generation_request
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.chat.stream import ChatStream
from serving.protocols.edge.body import decode
from serving.protocols.edge.generation import Generation, Prepared, RequestInfo, Services
from serving.protocols.edge.operation import Operation


def chat_operations(services: Services) -> list[Operation]:
    """Returns the operations of Chat Completions."""

    def prepare_chat(body: bytes, info: RequestInfo) -> Prepared:
        request = decode(body, ChatRequest, services.settings.limits)
        wanted = generation_request(request, info)
        backend = services.fleet.find(wanted.model)
        job = prepare(wanted, backend, services.settings)
        facts = _facts(request, backend, job, services)
        options = request.stream_options
        return Prepared(
            run=lambda accepted: backend.pipeline.run(job, accepted=accepted),
            presenter=(
                ChatStream(facts, include_usage=bool(options and options.include_usage))
                if request.stream
                else ChatAnswer(facts)
            ),
            unknown_fields=len(request.model_extra or ()),
        )

    return [
        Operation(
            "POST",
            "/v1/chat/completions",
            Generation(ROUTE, services, prepare_chat),
            "Answer a conversation",
            gives=ChatCompletion,
            takes=(ChatRequest,),
            streams=ChatCompletionChunk,
        )
    ]


def _facts(request: ChatRequest, backend: Backend, job: Job, services: Services) -> ChatFacts:
    return ChatFacts(
        id=f"chatcmpl-{services.make_id()}",
        created=int(services.now()),
        model=backend.model,
        fingerprint=backend.fingerprint,
        choices=job.choices,
        service_tier=None if request.service_tier is None else "default",
        vocabulary=backend.vocabulary,
        make_call_id=lambda: f"call_{services.make_id()}",
    )
