import secrets

import pytest

from service.trace_context import TraceContext, continue_trace, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("00", False), ("01", True), ("03", True), ("02", False), ("ff", True)]
)
def test_a_callers_span_is_read_and_of_its_flags_the_one_that_is_defined(flags, is_sampled):
    assert parse_traceparent([f"00-{TRACE}-{SPAN}-{flags}"]) == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "header", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes-later", f"01-{TRACE}-{SPAN}-01-"]
)
def test_a_later_version_is_read_as_far_as_this_one_goes(header):
    assert parse_traceparent([header]) == TraceContext(TRACE, SPAN, is_sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-",
        GOOD + "-more",
        f" {GOOD}",
        GOOD.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}١-{SPAN}-01",
        f"{GOOD},{GOOD}",
        "x" * 5000,
    ],
)
def test_what_the_recommendation_calls_invalid_counts_as_not_sent(header):
    assert parse_traceparent([header]) is None


def test_two_headers_name_no_caller_and_neither_does_none():
    assert parse_traceparent([GOOD, GOOD]) is None
    assert parse_traceparent([]) is None


def test_a_trace_goes_on_under_its_id_with_a_span_of_ones_own():
    caller = parse_traceparent([GOOD])
    own = continue_trace(caller, secrets.token_hex)
    assert own.trace_id == TRACE
    assert own.span_id != SPAN
    assert own.is_sampled
    assert parse_traceparent([own.traceparent]) == own


def test_a_request_without_a_caller_begins_a_trace_that_nobody_records():
    own = continue_trace(None, secrets.token_hex)
    assert not own.is_sampled
    assert parse_traceparent([own.traceparent]) == own
    assert own.trace_id != continue_trace(None, secrets.token_hex).trace_id
