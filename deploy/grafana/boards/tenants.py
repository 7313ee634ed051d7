"""Is everybody served? Without tenants' names: docs/decisions/metrics.md says why."""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles

TENANTS = Dashboard(
    "tenants",
    "E-MMDiT: tenants",
    "Is everybody served, and who is refused why?",
    (),
    (
        Panel(
            "Why no tenant is named here",
            "none",
            "Metrics carry no tenant's name: their number has no bound, each would cost dozens of time series for "
            "ever, and who uses the service is nobody's business who only reads its figures. The queue shares by "
            "itself: every tenant pays for what it asks for, in pixels times steps. These figures tell **that** "
            "somebody is refused or waits too long; **who** it is, the gateways' log tells: `tenant=` in the line of "
            "every accepted request.",
            kind="text",
            width=24,
            height=4,
        ),
        Panel(
            "Waits by priority",
            "s",
            "From acceptance to start. Tenants of one priority share evenly; low ones wait for high ones.",
            quantiles("emmdit_queue_wait_seconds", "priority"),
        ),
        Panel(
            "Jobs started by priority",
            "reqps",
            "Priorities that crowd out others are seen here.",
            (("sum by (priority) (rate(emmdit_queue_wait_seconds_count[$__rate_interval]))", "{{priority}}"),),
            is_stacked=True,
        ),
        Panel(
            "Refused by reason",
            "reqps",
            "Error codes of requests that never became a job: docs/api.md explains each.",
            (("emmdit:rejections:rate5m", "{{reason}}"),),
            is_stacked=True,
        ),
        Panel(
            "Refused for want of room",
            "percentunit",
            "Share of requests that got 429 or 503.",
            (("emmdit:refusal_ratio:rate5m", "refused"),),
            ("EmmditRefusalRatioHigh",),
            max=1,
        ),
        Panel(
            "Over their quotas",
            "reqps",
            "Requests refused because their own tenant had used up a quota: no fault of the service. docs/keys.md.",
            (
                (
                    "sum by (reason) (rate(emmdit_rejections_total{"
                    'reason=~"too_many_jobs|too_many_queued_jobs|tenant_rate_exceeded|daily_pixels_exceeded|exceeds_quota"'
                    "}[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Clients turned away",
            "reqps",
            "401 and 403: wrong or missing keys and links. 404: another's job, or none. 429: too much at once.",
            (
                (
                    'sum by (code) (rate(emmdit_http_requests_total{code=~"401|403|404|429"}[$__rate_interval]))',
                    "{{code}}",
                ),
            ),
        ),
        Panel(
            "Answered without drawing again",
            "percentunit",
            "Share of requests with a seed that joined one under way (generation), and of those with an "
            "Idempotency-Key that were repetitions (idempotency).",
            (('emmdit:cache_hit_ratio:rate15m{cache=~"generation|idempotency"}', "{{cache}}"),),
            max=1,
        ),
        Panel(
            "Called off",
            "reqps",
            "Cancelled while they waited (queued) or were drawn (running). Many of the latter: clients are impatient.",
            (("sum by (phase) (rate(emmdit_cancellations_total[$__rate_interval]))", "{{phase}}"),),
        ),
        Panel(
            "Too late",
            "reqps",
            "Requests that expired, by model.",
            (('sum by (model) (emmdit:requests:rate5m{status="expired"})', "{{model}}"),),
        ),
    ),
)
