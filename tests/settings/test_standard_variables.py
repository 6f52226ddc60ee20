"""What OpenTelemetry's variables say about the way to a collector, alike for both signals."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs.settings.standard_variables import OtlpVariables

SIGNALS = ["traces", "logs"]
WRONG = {
    "TIMEOUT": ["soon", "-1", "0", "nan", "inf", "1e400"],
    "COMPRESSION": ["zstd", "gzip,deflate"],
    "HEADERS": ["s3cret", "Authorization: Bearer s3cret", "a b=s3cret", "=s3cret", "x=s3cret%0D%0Ay: z", "x=s3cret%E2%82%AC"],
}


def read(signal: Any, **variables: str) -> OtlpVariables:
    return OtlpVariables.of(signal, {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    ("name", "key", "one", "other"),
    [
        ("HEADERS", "headers", ("x=1", {"x": "1"}), ("y=2", {"y": "2"})),
        ("TIMEOUT", "timeout_seconds", ("3", 3.0), ("4.5", 4.5)),
        ("COMPRESSION", "compression", ("gzip", "gzip"), ("none", "none")),
        ("CERTIFICATE", "certificate", ("/ca", "/ca"), ("/own", "/own")),
        ("CLIENT_CERTIFICATE", "client_certificate", ("/c", "/c"), ("/own", "/own")),
        ("CLIENT_KEY", "client_key", ("/k", "/k"), ("/own", "/own")),
    ],
)
def test_the_signals_own_variable_is_stronger(signal: Any, name: str, key: str, one: Any, other: Any) -> None:
    """Where it is missing or empty, that of all signals counts, and that of the other signal never does."""
    (foreign,) = {*SIGNALS} - {signal}
    for own in ({}, {f"{signal.upper()}_{name}": ""}, {f"{foreign.upper()}_{name}": other[0]}):
        assert getattr(read(signal, **{name: one[0]}, **own), key) == one[1]
    assert getattr(read(signal, **{name: one[0], f"{signal.upper()}_{name}": other[0]}), key) == other[1]
    assert read(signal, **{name: ""}) == read(signal)


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ("x-key=a%20b", {"x-key": "a b"}),
        ("Authorization=Bearer%20abc, x-Tenant = 7 ,", {"authorization": "Bearer abc", "x-tenant": "7"}),
        ("authorization=Basic dXNlcjpwYXNz==", {"authorization": "Basic dXNlcjpwYXNz=="}),
        ("x=", {"x": ""}),
    ],
)
def test_headers(given_: str, found: dict[str, str]) -> None:
    """As the specification writes them, and as people do."""
    variables = read("traces", HEADERS=given_)
    assert (variables.headers, variables.remarks) == (found, ())


def test_a_time_limit_in_milliseconds_is_one_in_seconds() -> None:
    """The specification has the one, Python's SDK the other, and nobody waits for three hours."""
    assert read("logs", TIMEOUT="10000").timeout_seconds == read("logs", TIMEOUT="10").timeout_seconds == 10.0
    assert read("logs", TIMEOUT="0.5").timeout_seconds == 0.5
    assert read("logs", TIMEOUT="900000000").timeout_seconds == 300.0


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_is_wrong_is_said_and_left_out(name: str, value: str) -> None:
    """By the variable that has it, and without what may be a secret."""
    wrong = read("traces", **{f"TRACES_{name}": value})
    (remark,) = wrong.remarks
    assert f"OTEL_EXPORTER_OTLP_TRACES_{name}" in remark
    assert "s3cret" not in remark + repr(wrong)
    assert (wrong.headers, wrong.timeout_seconds, wrong.compression) == ({}, 10.0, "none")


@given(st.dictionaries(st.sampled_from([*WRONG, "CERTIFICATE", "CLIENT_KEY"]), st.text(max_size=30), max_size=5))
def test_any_value_is_read(variables: dict[str, str]) -> None:
    """What comes out can be used: a positive time, a known packing, headers that a client takes."""
    found = read("logs", **variables)
    assert 0 < found.timeout_seconds <= 300
    assert found.compression in ("none", "gzip", "deflate")
    for name, value in found.headers.items():
        assert (name + value).isascii()
        assert not {"\r", "\n", "\0"} & {*name, *value}
