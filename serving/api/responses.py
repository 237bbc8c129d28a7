"""`POST /v1/responses`."""

from __future__ import annotations

from serving.api.body import decode
from serving.api.generation import Generation, Prepared, Surroundings
from serving.api.responses_answer import ResponseAnswer
from serving.api.responses_items import ItemReference
from serving.api.responses_job import ROUTE, make_response_job
from serving.api.responses_object import ResponseObject
from serving.api.responses_output import ItemOptions, Output
from serving.api.responses_schema import ENCRYPTED_REASONING, ResponsesRequest
from serving.api.responses_stream import ResponseStream
from serving.errors import ErrorKind, ServingError


def responses(around: Surroundings) -> Generation:
    """Returns the endpoint."""

    def prepare(body: bytes, job_id: str, deadline_seconds: float | None) -> Prepared:
        request = decode(body, ResponsesRequest, around.settings.limits)
        if request.previous_response_id is not None:
            raise ServingError(
                ErrorKind.NOT_FOUND,
                "There is no such response here.",
                param="previous_response_id",
            )
        for index, item in enumerate(request.input):
            if isinstance(item, ItemReference):
                raise ServingError(
                    ErrorKind.NOT_FOUND, "There is no such item here.", param=f"input[{index}].id"
                )
        backend = around.backend()
        job = make_response_job(
            request, [], backend, around.settings, job_id=job_id, deadline_seconds=deadline_seconds
        )
        reasoning = request.reasoning
        options = ItemOptions(
            vocabulary=backend.vocabulary,
            summary=bool(reasoning and (reasoning.summary or reasoning.generate_summary)),
            encrypted=request.includes(ENCRYPTED_REASONING),
        )
        output = Output(options, around.make_id)
        response = ResponseObject(
            request,
            around.settings,
            response_id=f"resp_{around.make_id()}",
            created=around.now(),
            stored=False,
        )
        presenter = ResponseStream if request.stream else ResponseAnswer
        return Prepared(
            run=lambda accepted: backend.pipeline.run(job, accepted=accepted),
            presenter=presenter(response, output, around.now),
            unknown_fields=len(request.model_extra or ()),
        )

    return Generation(ROUTE, around, prepare)
