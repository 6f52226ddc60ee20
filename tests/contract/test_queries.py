"""What a query needs: neither more, so that others may change, nor less, so that nothing breaks in silence."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_fastapi_obs.contract.comparison import compare
from sage_fastapi_obs.contract.needs import BucketsNeed, FieldNeed, LabelNeed, MetricNeed, RuleNeed, ValueNeed
from sage_fastapi_obs.contract.promql_needs import UnreadableError, promql_needs
from sage_fastapi_obs.contract.query_needs import needs_of
from sage_fastapi_obs.contract.telemetry_contract import Contract, MetricTerms, Use, read_contract, written

KNOWN = Contract(
    1,
    "shop",
    {
        "orders_total": MetricTerms("counter", {"route": (), "channel": ("web", "phone")}),
        "refused_total": MetricTerms("counter", {"route": (), "reason": ()}),
        "wait_seconds": MetricTerms("histogram", {"route": ()}, (0.1, 0.5, 2.5)),
        "build_info": MetricTerms("gauge", {"version": ()}),
    },
    routes=("/orders", "/carts"),
    fields=("route", "level", "duration_ms", "error", "error.type", "service"),
    attributes=("http.route", "sage.kept"),
    levels=("info", "error"),
    rules={"NobodyOrders": "orders_total == 0"},
)
RECORDED = {
    "orders:rate": "sum by (route, channel) (rate(orders_total[5m]))",
    "all:rate": "sum by (route) (orders:rate)",
    "round:a": "round:b",
    "round:b": "round:a",
}
ORDERS, REFUSED, WAIT = MetricNeed("orders_total"), MetricNeed("refused_total"), MetricNeed("wait_seconds")
ROUTE, CHANNEL = LabelNeed("orders_total", "route"), LabelNeed("orders_total", "channel")
QUANTILE = BucketsNeed("wait_seconds")


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("rate(orders_total[5m])", {ORDERS}),
        ("up == 0", set()),
        ("sum by (route) (orders_total)", {ORDERS, ROUTE}),
        ("sum without (route) (orders_total)", {ORDERS}),
        ("sum(sum by (channel) (orders_total))", {ORDERS, CHANNEL}),
        ("topk by (route) (3, orders_total)", {ORDERS, ROUTE}),
        ('count_values("channel", orders_total)', {ORDERS}),
        ('orders_total{channel!~"web|x"}', {ORDERS, CHANNEL, ValueNeed("orders_total", "channel", "!~", "web|x")}),
        ('orders_total{job="shop"}', {ORDERS, ValueNeed("", "job", "=", "shop")}),
        # The scrape configuration that is exported copies the route.
        ('orders_total{path="/carts"}', {ORDERS, ROUTE, ValueNeed("orders_total", "route", "=", "/carts")}),
        ('{__name__=~"orders_.*|wait_seconds_sum"}', {ORDERS, WAIT}),
        ('{__name__!~"orders_.*", job="x"}', {ValueNeed("", "job", "=", "x")}),
        ("wait_seconds_sum / wait_seconds_count", {WAIT}),
        ('wait_seconds_bucket{le="0.5"}', {WAIT, BucketsNeed("wait_seconds", bound=0.5)}),
        (
            "(histogram_quantile(0.9, sum by (le) (rate(wait_seconds_bucket[5m])))) > 2",
            {WAIT, QUANTILE, BucketsNeed("wait_seconds", threshold=2.0)},
        ),
        ("histogram_quantile(0.9, wait_seconds_bucket) < 2", {WAIT, QUANTILE}),
        ("sum by (route) (orders_total) / scalar(sum(refused_total))", {ORDERS, ROUTE, REFUSED}),
        ("orders_total / on (route) refused_total", {ORDERS, REFUSED, ROUTE, LabelNeed("refused_total", "route")}),
        ("orders_total / refused_total", {ORDERS, REFUSED, LabelNeed("orders_total", "*"), LabelNeed("refused_total", "*")}),
        ("sum(orders_total) / sum(refused_total)", {ORDERS, REFUSED}),
        (
            "orders_total * on (route) group_left (version) build_info",
            {ORDERS, ROUTE, MetricNeed("build_info"), LabelNeed("build_info", "version")},
        ),
        ('sum by (kind) (label_replace(orders_total, "kind", "$1", "channel", "(.*)"))', {ORDERS, CHANNEL}),
        ('sum by (channel) (label_replace(orders_total, "channel", "$1", "route", "(.*)"))', {ORDERS, ROUTE}),
        ('label_join(orders_total, "both", "-", "route", "channel")', {ORDERS, ROUTE, CHANNEL}),
        ("absent(orders_total)", {ORDERS}),
        ("max_over_time(sum by (route) (orders_total)[1h:5m] offset 1d)", {ORDERS, ROUTE}),
        ('orders:rate{channel="web"} > 1', {ORDERS, ROUTE, CHANNEL}),
        ("all:rate", {ORDERS, ROUTE, CHANNEL}),
        ("round:a", set()),
        ('count(ALERTS{alertname=~"Nobody.*"})', {RuleNeed("NobodyOrders")}),
        ("grafana__variable_total", {ORDERS, REFUSED}),
        ("-(orders_total)", {ORDERS}),
    ],
)
def test_an_expression_needs_what_reaches_its_answer(text: str, needs: set[object]) -> None:
    """Labels count where they reach a grouping, a match or a comparison of buckets; recording rules are looked into."""
    assert promql_needs(text, (), KNOWN, RECORDED) == needs


def test_a_legend_needs_labels_that_reach_it() -> None:
    """A shown label is needed of the metrics that still have it, and of no other."""
    asked = "sum by (route) (orders_total) / on () group_left sum(refused_total)"
    assert promql_needs(asked, ("route", "reason"), KNOWN, {}) == {ORDERS, ROUTE, REFUSED}
    assert LabelNeed("refused_total", "reason") in promql_needs("rate(refused_total[5m])", ("reason",), KNOWN, {})


@pytest.mark.parametrize(
    "text",
    [
        "sum(",
        "(" * 9_000 + "orders_total" + ")" * 9_000,
        "-" * 100_000 + "orders_total",
        "+".join(["orders_total"] * 50_000),
        "grafana__variable",
        "a\0",
    ],
    ids=["cut", "nested", "signs", "long", "variable", "control"],
)
def test_what_cannot_be_parsed_is_searched_for_names(text: str) -> None:
    """However large or wrong an expression is, it does no harm, and its metrics and their labels count all the same."""
    with pytest.raises(UnreadableError):
        promql_needs(text, (), KNOWN, {})
    needs, reason = needs_of(Use("dashboard", "Orders", "promql", f"{text} orders_total route"), KNOWN, {})
    assert needs == {ORDERS, ROUTE}
    assert reason


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("a:" + "b" * 30, "{next}"),
        ("level0", "{next} + {next}"),
        ("level0", '{next}{{a{number}="1"}} + {next}{{b{number}="1"}}'),
        ("level0", "{next} * on (a) group_left (b{number}) {next}"),
    ],
    ids=["none", "twice each", "with other labels each", "with labels of one side"],
)
def test_recording_rules_end_somewhere(text: str, template: str) -> None:
    """Rules that use each other in a circle, in a long row or twice each are no way to keep the reader busy."""
    rules = {f"level{number}": template.format(next=f"level{number + 1}", number=number) for number in range(2_000)}
    needs, _ = needs_of(Use("alert", "Deep", "promql", text), KNOWN, rules)
    assert needs == set()


@pytest.mark.parametrize(
    ("language", "text", "needs"),
    [
        (
            "logql",
            '{level="error"} | json | duration_ms > 5',
            {FieldNeed("level", "=", "error"), FieldNeed("duration_ms", "", "")},
        ),
        ("logql", '{a="b"} | json | line_format "{{.error_type}} level"', {FieldNeed("error.type")}),
        (
            "logql",
            'sum by (route) (count_over_time({a="b"} |= `"duration_ms":` [5m]))',
            {FieldNeed("route"), FieldNeed("duration_ms")},
        ),
        ("logql", '{a="b"} | json | unwrap duration_ms', {FieldNeed("duration_ms")}),
        ("lucene", 'route:"/carts" AND _exists_:error.type', {FieldNeed("route", "=", "/carts"), FieldNeed("error.type")}),
        ("lucene", '{"find": "terms", "field": "route.keyword"}', {FieldNeed("route")}),
        ("words", "Look at orders_total_x and refused_total", {REFUSED}),
        ("words", "while NobodyOrders fires", {RuleNeed("NobodyOrders")}),
    ],
)
def test_logs_and_texts_are_read_by_their_words(language: str, text: str, needs: set[object]) -> None:
    """Fields count in selectors, filters, groupings, templates and as keys of a searched text, not as other words."""
    assert needs_of(Use("runbook", "x", language, text), KNOWN, {}) == (needs, "")


def effects(asked: str, language: str = "promql", **changed: object) -> list[tuple[str, bool]]:
    """Say what a change does to one query, and whether it breaks it."""
    found = compare(KNOWN, replace(KNOWN, **changed), [Use("dashboard", "x", language, asked)])
    return [(one.effect, one.is_fatal) for change in found.changes for one in change.affected]


def test_a_pattern_is_concerned_where_it_names_what_has_gone() -> None:
    """One that finds other values, too, shows less; one that stands for any value is not concerned."""
    lost = {"routes": ("/orders",)}
    assert effects('sum(orders_total{route="/carts"})', **lost) == [("asks for /carts, and finds nothing", True)]
    assert effects('sum(orders_total{route=~"/carts|/orders"})', **lost) == [("shows less without /carts", False)]
    assert effects('sum(orders_total{route=~"/.+"})', **lost) == []
    assert effects('sum(orders_total{route!="/carts"})', **lost) == []
    assert effects('sum(orders_total{route=~"$route"})', **lost) == []
    assert effects('sum(orders_total{route=~"("})', **lost) == []
    assert effects('{level="info"} | json', "logql", levels=("error",)) == [("asks for info, and finds nothing", True)]


def test_a_new_label_breaks_what_matches_series_by_all_labels() -> None:
    """Two metrics find each other's series by all labels, so that one more on one side leaves them alone."""
    more = {"metrics": {**KNOWN.metrics, "refused_total": MetricTerms("counter", {"route": (), "reason": (), "city": ()})}}
    assert effects("orders_total / refused_total", **more) == [("matches series with other labels, and finds no partner", True)]
    assert effects("sum(orders_total) / sum(refused_total)", **more) == []


NAMES = st.sampled_from(["a", "b", "route", "service", "job", "level"])
TERMS = st.builds(
    MetricTerms,
    st.sampled_from(["counter", "histogram"]),
    st.dictionaries(NAMES, st.lists(NAMES, max_size=2).map(tuple), max_size=3),
    st.sampled_from([(), (1.0,), (1.0, 2.0)]),
)
CONTRACTS = st.builds(
    Contract,
    st.just(1),
    NAMES,
    st.dictionaries(NAMES, TERMS, max_size=3),
    *[st.lists(NAMES, max_size=3, unique=True).map(tuple)] * 5,
    rules=st.dictionaries(NAMES, NAMES, max_size=2),
)
USES = [
    Use("dashboard", "x", "promql", query)
    for query in (
        *(
            'sum by (route, b) (a{level="a", service=~"a|b", route="b"})',
            'b_bucket{le="1.0"} / a',
            "histogram_quantile(1, a) > 1",
        ),
        *('ALERTS{alertname=~"a|b"}', '{job="a"}', "route"),
    )
] + [
    Use("dashboard", "x", "logql", '{level="a", service="b"} | json | route="a" | b > 1', shown=("a",)),
    Use("runbook", "b", "words", "a"),
]


def holding(**terms: MetricTerms) -> Contract:
    return Contract(1, "a", terms, routes=("a", "b"))


@given(CONTRACTS, CONTRACTS)
@example(
    holding(a=MetricTerms("counter", {"route": ()})), holding(a=MetricTerms("counter", {"route": ("level",)}))
)  # An open label has become a closed one, without what a query asks for.
@example(
    holding(b=MetricTerms("histogram", {}, (1.0, 2.0))), holding(b=MetricTerms("counter", {}, (2.0,)))
)  # Nothing but its type counts of what was a histogram.
def test_each_break_has_its_change(old: Contract, new: Contract) -> None:
    """Whatever a query misses is one of the differences, and a contract has none from itself."""
    compare(old, new, USES)
    assert compare(old, old, USES).changes == []


@given(CONTRACTS)
def test_a_contract_is_read_as_it_was_written(contract: Contract) -> None:
    """The file has all of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "contract.json"
        path.write_text(written(contract))
        assert read_contract(path) == contract
