"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence

from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.prepare import prepare
from serving.protocols.completions.answer import CompletionAnswer
from serving.protocols.completions.answers import TextCompletion, TextCompletionChunk
from serving.protocols.completions.facts import CompletionFacts
from serving.protocols.completions.prompt_batch import run_batch
from serving.protocols.completions.request import ROUTE, generation_requests
from serving.protocols.completions.schema import CompletionRequest
from serving.protocols.completions.stream import CompletionStream
from serving.protocols.edge.body import decode
from serving.protocols.edge.generation import Generation, Prepared, RequestInfo, Services
from serving.protocols.edge.operation import Operation


def completion_operations(services: Services) -> list[Operation]:
    """Returns the operations of Completions."""

    def prepare_completions(body: bytes, info: RequestInfo) -> Prepared:
        request = decode(body, CompletionRequest, services.settings.limits)
        backend = services.fleet.find(request.model)
        wanted = generation_requests(request, info)
        jobs = [prepare(one, backend, services.settings) for one in wanted]
        facts = _facts(request, backend, jobs, services)
        options = request.stream_options
        # As many prompts at once as the engine's batch holds: more would only wait in line.
        at_once = max(1, backend.ready().max_batch_size // facts.choices_per_prompt)
        return Prepared(
            run=lambda accepted: run_batch(backend.pipeline, jobs, at_once, accepted),
            presenter=(
                CompletionStream(facts, include_usage=bool(options and options.include_usage))
                if request.stream
                else CompletionAnswer(facts)
            ),
            unknown_fields=len(request.model_extra or ()),
        )

    return [
        Operation(
            "POST",
            "/v1/completions",
            Generation(ROUTE, services, prepare_completions),
            "Continue a raw text",
            gives=TextCompletion,
            takes=(CompletionRequest,),
            streams=TextCompletionChunk,
        )
    ]


def _facts(
    request: CompletionRequest, backend: Backend, jobs: Sequence[Job], services: Services
) -> CompletionFacts:
    texts = request.prompt or [jobs[0].prompt]
    decode_ids = backend.vocabulary.decode
    return CompletionFacts(
        id=f"cmpl-{services.make_id()}",
        created=int(services.now()),
        model=backend.model,
        fingerprint=backend.fingerprint,
        prompts=len(jobs),
        choices_per_prompt=jobs[0].choices,
        echoes=tuple(one if isinstance(one, str) else decode_ids(one) for one in texts)
        if request.echo
        else (),
        scored=tuple(job.prompt for job in jobs)
        if jobs[0].sampling.prompt_logprobs is not None
        else (),
        vocabulary=backend.vocabulary,
    )
