"""`POST /v1/responses/compact`: a conversation in fewer tokens, as items to go on with.

What the user, the developer and the system said is given back word for word. Everything else, what
the model said and thought and what functions returned, becomes one summary, which the model writes.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent, Content, Finished
from serving.generation.prepare import prepare
from serving.generation.request import Dialogue, GenerationRequest
from serving.harmony.conversation import Developer, User
from serving.protocols.edge.answers import Json
from serving.protocols.edge.body import decode
from serving.protocols.edge.generation import (
    Generation,
    Pending,
    Prepared,
    RequestInfo,
    Services,
)
from serving.protocols.edge.presenters import Whole
from serving.protocols.responses.background import Background
from serving.protocols.responses.context import (
    Context,
    needs_store,
    read_context,
    require_store,
)
from serving.protocols.responses.conversation import make_turns
from serving.protocols.responses.items import MessageItem, seal
from serving.protocols.responses.listing import given_items
from serving.protocols.responses.object import usage_object
from serving.protocols.responses.schema import CompactRequest

ROUTE = "responses.compact"

REQUEST = """\
Stop here. Write a summary of this conversation for an assistant that will go on with it and has \
seen only the user's own messages.

Say what the user wants and what has been decided; what was done, found and tried, with the \
names, numbers, paths and pieces of code that are needed to go on; what failed and why; what is \
open, and what comes next. Do not repeat the user's messages, do not answer them, and call no \
tool. Write the summary alone."""
"""What the model is asked, as a message of the user at the end of the conversation."""


def compaction(services: Services, background: Background) -> Generation:
    """Returns the endpoint that makes conversations shorter. Nothing of them is stored."""
    settings = services.settings

    def prepare_summary(body: bytes, info: RequestInfo) -> Prepared | Pending:
        request = decode(body, CompactRequest, settings.limits)
        require_store(request, settings)
        unknown = len(request.model_extra or ())

        def prepared(context: Context) -> Prepared:
            backend = services.fleet.find(request.model)
            job = prepare(generation_request(request, context, info), backend, settings)
            summary = Summary(
                _verbatim(context, services.make_id), services.now(), services.make_id
            )
            return Prepared(
                lambda accepted: backend.pipeline.run(job, accepted=accepted), summary, unknown
            )

        if not needs_store(request):
            return prepared(Context(request.items))

        async def finish() -> Prepared:
            context = await read_context(request, info.caller, services, background)
            return await services.reading.run(prepared, context)

        return Pending(finish)

    return Generation(ROUTE, services, prepare_summary)


def generation_request(
    request: CompactRequest, context: Context, info: RequestInfo
) -> GenerationRequest:
    """Returns the generation request of the summary. It begins with the conversation, which the
    engine has in its cache if it answered it without tools and with the service's own effort.

    Raises ServingError, also for an empty conversation.
    """
    turns = tuple(make_turns(context.earlier, context.own, request.instructions))
    if all(isinstance(turn, Developer) for turn in turns):
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'input' holds nothing to compact.", param="input"
        )
    # Greedy: a summary is exact, not inventive. The effort stands in the first tokens of a prompt,
    # so any other than the service's own would find nothing in the cache.
    return GenerationRequest(
        id=info.id,
        caller=info.caller,
        route=ROUTE,
        model=request.model,
        prompt=Dialogue(turns=(*turns, User(text=REQUEST))),
        prompt_place="input",
        sampling=Sampling(max_tokens=0, temperature=0.0),
        deadline_seconds=info.deadline_seconds,
    )


class Summary(Whole):
    """Collects the summary, and presents it behind what is given back word for word."""

    def __init__(self, verbatim: list[Json], now: float, make_id: Callable[[], str]) -> None:
        self._verbatim = verbatim
        self._created = int(now)
        self._make_id = make_id
        self._pieces: list[str] = []
        self._finished: Finished | None = None

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""
        for _, event in events:
            if isinstance(event, Content):
                self._pieces.append(event.text)
            elif isinstance(event, Finished):
                self._finished = event

    def body(self) -> Json:
        """Returns the object. Raises ServingError for a summary that is not whole."""
        text = "".join(self._pieces).strip()
        if self._finished is None:
            raise ValueError("the summary has not finished")
        if self._finished.reason == "length":
            raise ServingError(
                ErrorKind.CONTEXT_LENGTH,
                "The conversation leaves no room in the context for a summary of it.",
                param="input",
            )
        if not text:
            raise ServingError(ErrorKind.DEGENERATE_OUTPUT, "The model wrote no summary.")
        item = {
            "id": f"cmp_{self._make_id()}",
            "type": "compaction",
            "encrypted_content": seal(text),
        }
        return {
            "id": f"resp_{self._make_id()}",
            "object": "response.compaction",
            "created_at": self._created,
            "output": [*self._verbatim, item],
            "usage": usage_object(self._finished.usage),
        }


def _verbatim(context: Context, make_id: Callable[[], str]) -> list[Json]:
    """Returns the messages of a conversation that were not the model's."""
    kept = [
        item
        for item in [*context.earlier, *context.own]
        if isinstance(item, MessageItem) and item.role != "assistant"
    ]
    return given_items(kept, {}, make_id)
