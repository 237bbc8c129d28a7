"""The metrics of the service, in a registry of its own.

Two families. `trtllm_*` are the names, types and meanings of trtllm-serve, so that gateways and
autoscalers that know it work unmodified (Gateway API Inference Extension, model server protocol).
`llmserve_*` are ours. No label holds what a client sent: routes, lanes, codes, kinds and model
names come from the code and the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.telemetry.record import Record

CONTENT_TYPE = CONTENT_TYPE_LATEST

# The bucket borders of TensorRT-LLM and vLLM, so that quantiles of different servers compare.
FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
PER_TOKEN_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class EngineGauges(NamedTuple):
    """What an engine says of itself."""

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int
    suspended: int = 0


class Metrics:
    """All metrics of one service.

    `engine_states` are the states that an engine can be in.
    """

    def __init__(self, engine_states: Iterable[str]) -> None:
        self._engine_states = tuple(engine_states)
        self.registry = CollectorRegistry()
        self._labels = {"model_name": "unknown", "engine_type": "unknown"}
        self._running = self._gauge("num_requests_running", "Sequences in the engine's batch.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait to run.")
        self._kv = self._gauge("kv_cache_utilization", "Used part of the KV cache, 0 to 1.")
        self._kv_blocks = self._gauge("kv_cache_max_blocks", "Blocks of the KV cache.")
        self._prompt = self._counter("prompt_tokens_total", "Tokens of prompts.")
        self._generated = self._counter("generation_tokens_total", "Generated tokens.")
        self._success = Counter(
            "trtllm_request_success_total",
            "Finished choices by reason.",
            ("model_name", "engine_type", "finished_reason"),
            registry=self.registry,
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "Acceptance to first token.", FIRST_TOKEN_BUCKETS
        )
        self._per_token = self._histogram(
            "time_per_output_token_seconds", "Mean between tokens.", PER_TOKEN_BUCKETS
        )
        self._request = self._histogram(
            "e2e_request_latency_seconds", "Acceptance to last token.", REQUEST_BUCKETS
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "Acceptance to ticket.", REQUEST_BUCKETS
        )
        self._requests = Counter(
            "llmserve_requests_total",
            "Requests by how they ended.",
            ("route", "lane", "outcome", "code"),
            registry=self.registry,
        )
        self._aborts = Counter(
            "llmserve_client_aborts_total",
            "Requests whose client left, by phase.",
            ("phase",),
            registry=self.registry,
        )
        self._recoveries = Counter(
            "llmserve_harmony_recoveries_total",
            "Malformed model output that was put right, by kind.",
            ("kind",),
            registry=self.registry,
        )
        self._tool_calls = Counter(
            "llmserve_tool_calls_total",
            "Calls of built-in tools by how they ended.",
            ("tool", "outcome"),
            registry=self.registry,
        )
        self._tool_call = Histogram(
            "llmserve_tool_call_seconds",
            "How long the executor of a built-in tool took.",
            ("tool",),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._known_restarts = 0
        self._restarts = Counter(
            "llmserve_engine_restarts_total",
            "Times that the engine process was started again.",
            registry=self.registry,
        )
        self._losses = Counter(
            "llmserve_engine_losses_total",
            "Engine processes that ended or were killed, by cause.",
            ("cause",),
            registry=self.registry,
        )
        self._state = Gauge(
            "llmserve_engine_state",
            "1 for the state that the engine is in.",
            ("state",),
            registry=self.registry,
        )
        self._suspended = Gauge(
            "llmserve_sequences_suspended",
            "Sequences that the engine has set aside for lack of memory.",
            tuple(self._labels),
            registry=self.registry,
        )
        self._open = Gauge(
            "llmserve_open_requests",
            "Requests that the API has taken and not answered to the end, without probes.",
            registry=self.registry,
        )
        self._sockets = Gauge(
            "llmserve_websockets", "WebSockets that are open.", registry=self.registry
        )
        self._store = Gauge(
            "llmserve_store_works",
            "1 while the store can be read, and written.",
            ("way",),
            registry=self.registry,
        )
        self._store_failures = Counter(
            "llmserve_store_failures_total",
            "Reads and writes of the store that were not done, by cause.",
            ("way", "cause"),
            registry=self.registry,
        )
        self.draining = Gauge(
            "llmserve_draining", "1 while the service takes leave.", registry=self.registry
        )
        self.connections = Gauge(
            "llmserve_connections", "Connections that are open.", registry=self.registry
        )
        self._closed_connections = Counter(
            "llmserve_connections_closed_total",
            "Connections that the server closed, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._unknown_fields = Counter(
            "llmserve_unknown_request_fields_total",
            "Request fields that no specification names, ignored.",
            registry=self.registry,
        )

    def name_engine(self, engine_type: str, model: str) -> None:
        """Sets the labels that say which runtime executes which model; before any request has
        run."""
        self._labels["model_name"] = model
        self._labels["engine_type"] = engine_type

    def record(self, record: Record) -> None:
        """Counts one request that has ended. Called once a request."""
        labels = tuple(self._labels.values())  # in order: by name they are sorted at each use
        self._requests.labels(record.route, record.lane, record.outcome, record.code).inc()
        if record.outcome == "aborted":
            self._aborts.labels(record.phase).inc()
        for kind, count in record.recoveries.items():
            self._recoveries.labels(kind).inc(count)
        if record.queue_seconds is None:
            return
        self._queue.labels(*labels).observe(record.queue_seconds)
        self._prompt.labels(*labels).inc(record.prompt_tokens)
        self._generated.labels(*labels).inc(record.completion_tokens)
        if record.first_token_seconds is not None:
            self._first_token.labels(*labels).observe(record.first_token_seconds)
        if record.seconds_per_token is not None:
            self._per_token.labels(*labels).observe(record.seconds_per_token)
        if record.outcome == "ok":
            self._request.labels(*labels).observe(record.total_seconds)
            for reason in record.finish_reasons:
                self._success.labels(*labels, reason).inc()

    def count_unknown_fields(self, count: int) -> None:
        """Counts request fields that were ignored."""
        self._unknown_fields.inc(count)

    def count_open(self, open_requests: Callable[[], int]) -> None:
        """Makes the page show what `open_requests` returns."""
        self._open.set_function(open_requests)

    def count_loss(self, cause: str) -> None:
        """Counts an engine process that is gone. The label is a word of the code."""
        self._losses.labels(cause).inc()

    def count_socket(self, change: int) -> None:
        """Counts a WebSocket that has been opened, 1, or has ended, -1."""
        self._sockets.inc(change)

    def observe_store(self, way: str, works: bool) -> None:
        """Sets whether the store can be read or written. Both labels are words of the code."""
        self._store.labels(way).set(1.0 if works else 0.0)

    def count_store_failure(self, way: str, cause: str) -> None:
        """Counts what was not read or written. Both labels are words of the code."""
        self._store_failures.labels(way, cause).inc()

    def count_closed_connection(self, reason: str) -> None:
        """Counts a connection that was closed for a reason of ours, a word of the code."""
        self._closed_connections.labels(reason).inc()

    def count_tool_call(self, tool: str, outcome: str, seconds: float) -> None:
        """Counts one call of a built-in tool. Both labels are words of the code."""
        self._tool_calls.labels(tool, outcome).inc()
        self._tool_call.labels(tool).observe(seconds)

    def observe_engine(
        self, engine: EngineGauges | None, waiting: int, state: str, restarts: int
    ) -> None:
        """Sets the gauges of the engine, its state, and how often it was started again.

        `waiting` are the requests in front of it. What is not known has no sample, and no zero.
        """
        gauges = (self._running, self._waiting, self._kv, self._kv_blocks, self._suspended)
        for gauge in gauges:
            gauge.clear()  # the name of the engine may have come since, too
        if engine is not None:
            waiting += engine.waiting
            self._running.labels(**self._labels).set(engine.running)
            self._suspended.labels(**self._labels).set(engine.suspended)
        self._waiting.labels(**self._labels).set(waiting)
        if engine is not None and engine.blocks_total:
            used = engine.blocks_used / engine.blocks_total
            self._kv.labels(**self._labels).set(used)
            self._kv_blocks.labels(**self._labels).set(engine.blocks_total)
        self._restarts.inc(max(0, restarts - self._known_restarts))
        self._known_restarts = restarts
        for name in self._engine_states:
            self._state.labels(name).set(1.0 if name == state else 0.0)

    def text(self) -> bytes:
        """Returns every metric in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"trtllm_{name}", meaning, tuple(self._labels), registry=self.registry)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"trtllm_{name}", meaning, tuple(self._labels), registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"trtllm_{name}",
            meaning,
            tuple(self._labels),
            buckets=buckets,
            registry=self.registry,
        )
