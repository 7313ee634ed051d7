"""A tenant's quotas in a response's headers, in the IETF draft's words (draft-ietf-httpapi-ratelimit-headers-10). Pure.

Quotas are whole numbers there: pixels, and thousandths of a megapixel-step.
"""

from __future__ import annotations

import math

from service.quotas import SECONDS_PER_DAY, Quotas, Usage

POLICY_HEADER = "RateLimit-Policy"
LIMIT_HEADER = "RateLimit"
JOBS_UNIT, COST_UNIT, PIXELS_UNIT = "concurrent-requests", "kilopixel-steps", "pixels"


def rate_limit_headers(quotas: Quotas, usage: Usage) -> dict[str, str]:
    """What the tenant may, and what is left of it: an item for each quota. Nothing where there is none."""
    policies, limits = [], []
    if quotas.rate_per_min:
        burst, per_s = 1000 * quotas.burst_cost, 1000 * quotas.rate_per_min / 60
        left = max(burst - usage.behind_s * per_s, 0.0)
        policies.append(f'"rate";q={math.floor(burst)};w={math.ceil(burst / per_s)};qu="{COST_UNIT}"')
        limits.append(f'"rate";r={math.floor(left)};t={math.ceil(usage.behind_s)}')
    if quotas.daily_pixels:
        left = max(quotas.daily_pixels - usage.pixels, 0)
        policies.append(f'"daily";q={quotas.daily_pixels};w={SECONDS_PER_DAY};qu="{PIXELS_UNIT}"')
        limits.append(f'"daily";r={left};t={math.ceil(usage.day_left_s)}')
    if quotas.max_jobs:
        policies.append(f'"jobs";q={quotas.max_jobs};qu="{JOBS_UNIT}"')
        limits.append(f'"jobs";r={max(quotas.max_jobs - usage.num_jobs, 0)}')
    if quotas.max_queued_jobs:  # how many wait is known only where it is asked: no item of its own
        policies.append(f'"queued-jobs";q={quotas.max_queued_jobs};qu="{JOBS_UNIT}"')
    headers = {POLICY_HEADER: ", ".join(policies), LIMIT_HEADER: ", ".join(limits)}
    return {name: value for name, value in headers.items() if value}
