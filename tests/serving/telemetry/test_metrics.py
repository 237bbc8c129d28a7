"""Metrics: what one record adds, and how many series there can be."""

from __future__ import annotations

import itertools

from prometheus_client.parser import text_string_to_metric_families

from serving.errors import ErrorKind
from serving.telemetry.metrics import EngineGauges, Metrics
from serving.telemetry.record import Outcome, Record

MODEL = "openai/gpt-oss-120b"


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.text().decode()):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return float(found.value)
    return None


def finished() -> Record:
    return Record(
        id="1",
        route="chat.completions",
        lane="p1",
        finish_reasons=("stop", "length"),
        prompt_tokens=10,
        completion_tokens=5,
        started=0.0,
        admitted=0.5,
        first_token=1.0,
        last_token=3.0,
        ended=4.0,
        recoveries={"missing_start": 2},
    )


def test_a_finished_request_counts_in_every_family() -> None:
    metrics = Metrics(("ready",))
    metrics.name_engine("embedded", MODEL)
    metrics.record(finished())
    named = {"model_name": MODEL, "engine_type": "embedded"}
    assert sample(metrics, "trtllm_prompt_tokens_total", **named) == 10
    assert sample(metrics, "trtllm_generation_tokens_total", **named) == 5
    assert sample(metrics, "trtllm_time_to_first_token_seconds_sum", **named) == 1.0
    assert sample(metrics, "trtllm_time_per_output_token_seconds_sum", **named) == 0.5
    assert sample(metrics, "trtllm_e2e_request_latency_seconds_sum", **named) == 4.0
    assert sample(metrics, "trtllm_request_queue_time_seconds_sum", **named) == 0.5
    for reason in ("stop", "length"):
        counted = sample(metrics, "trtllm_request_success_total", finished_reason=reason, **named)
        assert counted == 1
    assert sample(metrics, "llmserve_requests_total", outcome="ok", lane="p1") == 1
    assert sample(metrics, "llmserve_harmony_recoveries_total", kind="missing_start") == 2


def test_an_aborted_request_counts_by_its_phase_and_not_as_a_success() -> None:
    metrics = Metrics(())
    record = finished()
    record.outcome, record.finish_reasons = "aborted", ()
    metrics.record(record)
    assert sample(metrics, "llmserve_client_aborts_total", phase="decode") == 1
    assert sample(metrics, "trtllm_request_success_total") is None
    assert sample(metrics, "trtllm_generation_tokens_total") == 5


def test_a_request_that_never_ran_adds_no_tokens_and_no_times() -> None:
    metrics = Metrics(())
    metrics.record(Record(id="1", route="x", outcome="error", code="overloaded"))
    assert sample(metrics, "trtllm_time_to_first_token_seconds_count") is None
    assert sample(metrics, "llmserve_requests_total", code="overloaded") == 1


def test_the_engine_s_gauges_and_its_state() -> None:
    metrics = Metrics(("ready", "failed"))
    metrics.observe_engine(EngineGauges(3, 1, 25, 100), 3, "ready", 2)
    metrics.observe_engine(EngineGauges(3, 1, 25, 100, suspended=2), 3, "ready", 3)
    assert sample(metrics, "llmserve_sequences_suspended") == 2
    assert sample(metrics, "trtllm_num_requests_running") == 3
    assert sample(metrics, "trtllm_num_requests_waiting") == 4
    assert sample(metrics, "trtllm_kv_cache_utilization") == 0.25
    assert sample(metrics, "llmserve_engine_restarts_total") == 3
    assert sample(metrics, "llmserve_engine_state", state="ready") == 1
    assert sample(metrics, "llmserve_engine_state", state="failed") == 0


def test_what_is_not_known_has_no_sample() -> None:
    metrics = Metrics(("ready", "failed"))
    metrics.observe_engine(EngineGauges(3, 1, 25, 100), 0, "ready", 0)
    metrics.observe_engine(None, 2, "backoff", 0)
    assert sample(metrics, "trtllm_num_requests_waiting") == 2
    for name in ("num_requests_running", "kv_cache_utilization", "kv_cache_max_blocks"):
        assert sample(metrics, f"trtllm_{name}") is None
    assert sample(metrics, "llmserve_sequences_suspended") is None
    metrics.observe_engine(EngineGauges(3, 1, 0, 0), 0, "ready", 0)
    assert sample(metrics, "trtllm_num_requests_running") == 3
    assert sample(metrics, "trtllm_kv_cache_utilization") is None


def test_the_name_of_the_engine_leaves_no_series_without_it() -> None:
    metrics = Metrics(())
    metrics.observe_engine(None, 0, "starting", 0)
    metrics.name_engine("embedded", MODEL)
    metrics.observe_engine(None, 0, "starting", 0)
    assert sample(metrics, "trtllm_num_requests_waiting", engine_type="unknown") is None
    assert sample(metrics, "trtllm_num_requests_waiting", engine_type="embedded") == 0


def test_the_number_of_series_is_bounded() -> None:
    metrics = Metrics(("ready",))
    outcomes: tuple[Outcome, ...] = ("ok", "error", "aborted")
    lanes = ("p0", "p1", "p2")
    routes = ("chat.completions", "models", "unmatched")
    for route, lane, outcome, kind in itertools.product(routes, lanes, outcomes, ErrorKind):
        record = finished()
        record.route, record.lane, record.outcome = route, lane, outcome
        record.code = kind.value.code
        metrics.record(record)
    families = text_string_to_metric_families(metrics.text().decode())
    assert sum(len(family.samples) for family in families) < 2000
