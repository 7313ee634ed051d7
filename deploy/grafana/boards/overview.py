"""Is the service well?"""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles, stat

OVERVIEW = Dashboard(
    "overview",
    "E-MMDiT: overview",
    "Is the service well, and for whom not? Runbooks: docs/runbooks.",
    (),
    (
        stat("Requests", "reqps", "sum(emmdit:requests:rate5m)", "Requests for pictures a second, all outcomes."),
        stat(
            "Failed, last hour",
            "percentunit",
            "emmdit:error_ratio:rate1h",
            "Share of right requests that got no picture. 0.5 % is what the budget has room for.",
            "EmmditErrorBudgetBurnSlow",
            "EmmditErrorBudgetBurnFast",
            max=1,
        ),
        stat(
            "Oldest waiting",
            "s",
            "max(emmdit:queue_oldest_age_seconds:max)",
            "Age of the request that has waited longest, over all models.",
            "EmmditQueueAgeHigh",
            "EmmditQueueAgeCritical",
        ),
        stat(
            "Workers",
            "none",
            "min(emmdit:workers:max)",
            "Live workers of the model that has the fewest.",
            "EmmditNoWorker",
        ),
        stat(
            "Refused",
            "percentunit",
            "emmdit:refusal_ratio:rate5m",
            "Share of requests that got 429 or 503 for want of room, a worker or the queue.",
            "EmmditRefusalRatioHigh",
            max=1,
        ),
        stat(
            "Alerts firing", "none", 'count(ALERTS{alertstate="firing", alertname=~"Emmdit.*"}) or vector(0)', "Ours."
        ),
        Panel(
            "Requests by outcome",
            "reqps",
            "success: pictures came. error: drawing failed. expired: too late. cancelled: called off by the client. "
            "rejected: refused at the door.",
            (("sum by (status) (emmdit:requests:rate5m)", "{{status}}"),),
            is_stacked=True,
        ),
        Panel(
            "From acceptance to end",
            "s",
            "Waiting and drawing together, as the queue's clock tells.",
            (("emmdit:request_duration_seconds:p50_5m", "p50"), ("emmdit:request_duration_seconds:p95_5m", "p95")),
        ),
        Panel(
            "Waiting and running",
            "none",
            "Jobs by model. Every gateway tells the same.",
            (("emmdit:waiting:max", "{{model}} waiting"), ("emmdit:running:max", "{{model}} running")),
        ),
        Panel(
            "Pictures a second",
            "none",
            "Drawn and stored, by model.",
            (("emmdit:images:rate5m", "{{model}}"),),
            is_stacked=True,
        ),
        Panel(
            "Error budget",
            "percentunit",
            "Share of right requests without a picture, over several windows. The lines are where alerts fire.",
            (
                ("emmdit:error_ratio:rate5m", "5 minutes"),
                ("emmdit:error_ratio:rate1h", "1 hour"),
                ("emmdit:error_ratio:rate6h", "6 hours"),
                ("emmdit:error_ratio:rate3d", "3 days"),
            ),
            ("EmmditErrorBudgetBurnSlow", "EmmditErrorBudgetBurn", "EmmditErrorBudgetBurnFast"),
        ),
        Panel(
            "HTTP responses",
            "reqps",
            "By status code, over all routes.",
            (("sum by (code) (rate(emmdit_http_requests_total[$__rate_interval]))", "{{code}}"),),
            is_stacked=True,
        ),
        Panel(
            "Connections",
            "none",
            "Open ones by gateway.",
            (("sum by (instance) (emmdit_http_connections)", "{{instance}}"),),
        ),
        Panel(
            "Connections cut",
            "none",
            "A second, by reason: slow_head, slow_reader, malformed: the client did it; made_room, refused: "
            "there are too many.",
            (("sum by (reason) (rate(emmdit_http_connections_cut_total[$__rate_interval]))", "{{reason}}"),),
        ),
        Panel(
            "HTTP durations",
            "s",
            "From a request's head to its response's end, all routes. Dots are traces, where tracing is on.",
            quantiles("emmdit_http_request_duration_seconds"),
        ),
        Panel(
            "Rows in a forward",
            "percentunit",
            "Mean share of the rows that a forward has room for: how full the batches are.",
            (("emmdit:batch_occupancy:mean5m", "occupied"),),
            width=6,
            max=1,
        ),
        Panel(
            "What runs",
            "none",
            "Processes by version.",
            (("sum by (version, python) (emmdit_build_info)", "{{version}}, Python {{python}}"),),
            width=6,
        ),
    ),
)
