"""The alerts fire when they should, and name only metrics and entries of the runbook that exist.

promtool (Debian's package `prometheus`) evaluates the rules. If it is missing, its tests are
skipped. CI installs it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, Gauge

from domain.adapters import observability
from domain.adapters.counting import Counter, Histogram, WorstGauge
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "mkwanja.json"
RUNBOOK = ROOT / "docs" / "runbook" / "README.md"
METRICS_PAGE = ROOT / "docs" / "runbook" / "metrics.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing (apt-get install prometheus)"
)

_SLOW = 'mkwanja_request_duration_seconds_bucket{{route="{}",method="{}",le="{}"}}'

# For each alert, series for which it fires and series for which it does not, in the notation of
# promtool: `A+BxN` begins at A and grows by B in each of N minutes.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "MkwanjaPaymentNeedsReview": (
        {"mkwanja_payments_needing_review": "1x60"},
        {"mkwanja_payments_needing_review": "0x60"},
    ),
    "MkwanjaBreakerOpen": (
        {'mkwanja_brake_engaged{name="breaker"}': "1x60"},
        {'mkwanja_brake_engaged{name="b2c"}': "1x60"},
    ),
    "MkwanjaPayoutsStopped": (
        {'mkwanja_brake_engaged{name="kill_switch"}': "1x60"},
        {'mkwanja_brake_engaged{name="kill_switch"}': "1x20 0x40"},
    ),
    "MkwanjaOperationHeld": (
        {'mkwanja_brake_engaged{name="b2c"}': "1x60"},
        {'mkwanja_brake_engaged{name="breaker"}': "1x60"},
    ),
    "MkwanjaPaymentsWait": (
        {'mkwanja_overdue_seconds{step="submit"}': "31x60"},
        {
            'mkwanja_overdue_seconds{step="submit"}': "30x60",
            'mkwanja_overdue_seconds{step="query"}': "200x60",
        },
    ),
    "MkwanjaInquiriesWait": (
        {'mkwanja_overdue_seconds{step="query"}': "301x60"},
        {'mkwanja_overdue_seconds{step="query"}': "300x60"},
    ),
    "MkwanjaManyPaymentsInDoubt": (
        {'mkwanja_open_payments{stage="in_doubt"}': "21x60"},
        {'mkwanja_open_payments{stage="awaiting_result"}': "9000x60"},
    ),
    "MkwanjaFormerAccounts": (
        {"mkwanja_payments_of_former_accounts": "1x90"},
        {"mkwanja_payments_of_former_accounts": "0x90"},
    ),
    "MkwanjaWebhookEndpointPaused": (
        {"mkwanja_webhook_endpoints_paused": "1x60"},
        {"mkwanja_webhook_endpoints_paused": "0x60"},
    ),
    "MkwanjaWebhookKeyUnreadable": (
        {"mkwanja_webhook_keys_unreadable_total": "0+1x60"},
        {"mkwanja_webhook_keys_unreadable_total": "1x60"},
    ),
    "MkwanjaWebhooksLate": (
        {"mkwanja_webhook_lag_seconds": "61x60"},
        {"mkwanja_webhook_lag_seconds": "60x60"},
    ),
    "MkwanjaDarajaDoesNotAnswer": (
        {
            'mkwanja_daraja_requests_total{operation="b2c",outcome="OutcomeUnknown"}': "0+30x60",
            'mkwanja_daraja_requests_total{operation="b2c",outcome="acknowledged"}': "0+70x60",
        },
        {
            'mkwanja_daraja_requests_total{operation="b2c",outcome="OutcomeUnknown"}': "0+10x60",
            'mkwanja_daraja_requests_total{operation="b2c",outcome="acknowledged"}': "0+90x60",
        },
    ),
    "MkwanjaDarajaThrottles": (
        {"mkwanja_throttled_total": "0+12x60"},
        {"mkwanja_throttled_total": "0x30 1x30"},
    ),
    "MkwanjaOwnRateTooLow": (
        {
            'mkwanja_limiter_turns_total{class="payouts",result="refused"}': "0+60x60",
            'mkwanja_limiter_turns_total{class="payouts",result="granted"}': "0+40x60",
        },
        {
            'mkwanja_limiter_turns_total{class="payouts",result="refused"}': "0+40x60",
            'mkwanja_limiter_turns_total{class="payouts",result="granted"}': "0+60x60",
        },
    ),
    "MkwanjaCallbackNotStored": (
        {'mkwanja_callbacks_refused_total{reason="not_stored"}': "0x55 1x5"},
        {'mkwanja_callbacks_refused_total{reason="token"}': "0+5x60"},
    ),
    "MkwanjaCallbackContradicts": (
        {'mkwanja_callbacks_stored_total{disposition="amount_differs"}': "0x55 1x5"},
        {'mkwanja_callbacks_stored_total{disposition="finalized"}': "0+100x60"},
    ),
    "MkwanjaCallbackSourceRefused": (
        {'mkwanja_callbacks_refused_total{reason="source"}': "0x55 1x5"},
        {'mkwanja_callbacks_refused_total{reason="source"}': "7x60"},
    ),
    "MkwanjaProcessDown": (
        {'up{job="mkwanja-web"}': "1x30 0x30"},
        {'up{job="other"}': "0x60"},
    ),
    "MkwanjaProcessDied": (
        {"mkwanja_processes_died_total": "0x55 1x5"},
        {"mkwanja_processes_died_total": "3x60"},
    ),
    "MkwanjaRequestsFail": (
        {
            'mkwanja_requests_total{status="503"}': "0+3x60",
            'mkwanja_requests_total{status="202"}': "0+97x60",
        },
        {
            'mkwanja_requests_total{status="422"}': "0+50x60",
            'mkwanja_requests_total{status="202"}': "0+50x60",
        },
    ),
    "MkwanjaRequestsSlow": (
        {
            _SLOW.format("/v1/deposits", "POST", le): f"0+{count}x60"
            for le, count in (("0.5", 97), ("1.0", 98), ("2.5", 100), ("+Inf", 100))
        },
        {
            _SLOW.format("/v1/events", "GET", le): f"0+{count}x60"
            for le, count in (("1.0", 0), ("10.0", 100), ("+Inf", 100))
        },
    ),
    "MkwanjaEventsLate": (
        {"mkwanja_event_lag_seconds": "31x60"},
        {"mkwanja_event_lag_seconds": "30x60"},
    ),
    "MkwanjaRedisAway": (
        {'mkwanja_redis_available{job="mkwanja-web"}': "0x60"},
        {
            'mkwanja_redis_available{job="mkwanja-web"}': "0x60",
            'mkwanja_redis_available{job="mkwanja-worker"}': "1x60",
        },
    ),
    "MkwanjaRedisRefuses": (
        {'mkwanja_redis_fault{kind="full"}': "1x60"},
        {'mkwanja_redis_fault{kind="full"}': "0x60"},
    ),
    "MkwanjaKeySetOld": (
        {"mkwanja_key_set_age_seconds": "3601x60"},
        {"mkwanja_key_set_age_seconds": "-1x60"},
    ),
    "MkwanjaPartitionsMissing": (
        {'mkwanja_partitions_missing{table="callbacks"}': "1x150"},
        {'mkwanja_partitions_missing{table="callbacks"}': "1x60 0x90"},
    ),
}  # fmt: skip
_LOOK_AT_MINUTES = {"MkwanjaFormerAccounts": 80, "MkwanjaPartitionsMissing": 140}


@cache
def _alerts() -> dict[str, Any]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@cache
def _our_metrics() -> dict[str, tuple[str, ...]]:
    """The names of all series that the processes can show, and those of each metric's parts."""
    assert observability.metrics_text()
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        metric.name: tuple(metric.name + end for end in suffixes.get(metric.type, ("",)))
        for metric in REGISTRY.collect()
        if metric.name.startswith("mkwanja_")
    }


def _named_metrics(text: str) -> set[str]:
    """The metrics that a PromQL expression or a page names."""
    return set(re.findall(r"\bmkwanja_[a-z_]+[a-z]\b", text))


def _dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@needs_promtool
def test_promtool_accepts_the_rules_and_the_example() -> None:
    for kind, path in (("rules", ALERTS), ("config", DEPLOY / "prometheus" / "prometheus.yaml")):
        done = subprocess.run(
            ["promtool", "check", kind, path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.whole
@needs_promtool
def test_each_alert_fires_above_its_threshold_and_not_below(tmp_path: Path) -> None:
    assert list(CASES) == list(_alerts())
    tests = [
        {
            "name": f"{alert} {'fires' if fires else 'stays quiet'}",
            "interval": "1m",
            "input_series": [{"series": name, "values": value} for name, value in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": f"{_LOOK_AT_MINUTES.get(alert, 58)}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for alert, cases in CASES.items()
        for fires, series in zip((True, False), cases, strict=True)
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump(
            {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests},
            sort_keys=False,
        )
    )
    done = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """`runbook` is a link to an entry of the runbook."""
    headings = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    entries = {
        re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings
    }
    for name, rule in _alerts().items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert rule["annotations"]["summary"], name
        page, _, entry = rule["annotations"]["runbook"].partition("#")
        assert ROOT / page == RUNBOOK, name
        assert entry in entries, name


def test_alerts_and_dashboard_name_only_metrics_that_exist() -> None:
    exist = {series for names in _our_metrics().values() for series in names}
    expressions = [rule["expr"] for rule in _alerts().values()] + _dashboard_expressions()
    assert len(expressions) > len(_alerts()) + 10
    for expression in expressions:
        named = _named_metrics(expression)
        assert named <= exist, f"{expression}: {named - exist}"


@needs_promtool
def test_the_dashboard_has_only_valid_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", "5m", expression)}
        for number, expression in enumerate(_dashboard_expressions())
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_of_metrics_lists_each_metric_with_its_labels() -> None:
    rows = re.findall(
        r"^\| `(mkwanja_\w+)(?:\{([\w,]*)\})?` \|", METRICS_PAGE.read_text(), re.MULTILINE
    )
    listed = {name: tuple(filter(None, labels.split(","))) for name, labels in rows}
    ends = {"counter": "_total"}
    expected = {
        metric.name + ends.get(metric.type, ""): _label_names(metric.name)
        for metric in REGISTRY.collect()
        if metric.name.startswith("mkwanja_")
    }
    assert listed == expected


def _label_names(metric: str) -> tuple[str, ...]:
    """The labels of a metric, as `observability` defines them."""
    labels: dict[str, tuple[str, ...]] = {}
    for each in vars(observability).values():
        if isinstance(each, Gauge):
            labels[each._name] = tuple(each._labelnames)
        elif isinstance(each, Counter | Histogram | WorstGauge):
            labels[each.name.removesuffix("_total")] = each.label_names
    return labels[metric]
