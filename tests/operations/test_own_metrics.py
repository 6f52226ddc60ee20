"""Metrics of the application's own, and packs of them."""

import pytest
from fastapi import FastAPI
from support import client

from sage_fastapi_obs import DeclarationError, DuplicateInstrumentError, ObservabilityError, SettingsError, active
from sage_fastapi_obs.export.tables import bounds_table, metrics_table
from sage_fastapi_obs.operations.own_metrics import declare_counter, declare_gauge, declare_histogram, enable_pack, metrics_of


class Shop:
    """A pack of one's own."""

    orders = declare_counter("shop_orders_total", "Orders taken.", {"region": ("eu", "us")})
    baskets = declare_gauge("shop_baskets_open", "Baskets that are open.")
    value = declare_histogram("shop_order_value", "Value of orders, in euro.", ["kind"], buckets=(1, 10, 100))


@pytest.fixture
async def watched(watch):
    """Return one that is started."""
    one = watch(metrics={"max_label_values": 2})
    async with one.obs:
        yield one


async def test_a_pack_of_ones_own_is_on_the_page(watch):
    """Switched on, it is there from the start; used, it counts; and a table of it can be written."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)
    watched.obs.enable_pack(Shop)
    watched.obs.enable_pack(Shop())
    assert watched.value("shop_orders_total", region="us") == 0

    @app.post("/orders")
    def order() -> None:
        Shop.orders.inc(region="eu")
        Shop.orders.inc(2, region="us")
        Shop.baskets.set(5)
        Shop.baskets.inc()
        Shop.baskets.dec(2)
        Shop.value.observe(12.5, kind="book")

    async with client(app) as c:
        await c.post("/orders")
        page = (await c.get("/metrics")).text
    for line in (
        'shop_orders_total{region="eu"} 1.0',
        'shop_orders_total{region="us"} 2.0',
        "shop_baskets_open 4.0",
        'shop_order_value_bucket{kind="book",le="100.0"} 1.0',
        "# HELP shop_orders_total Orders taken.",
    ):
        assert line in page.splitlines()
    assert watched.obs.internal_errors.counts == {}
    table = metrics_table(metrics_of(Shop))
    assert "| `shop_orders_total` | counter | `region` (eu, us) | Orders taken. |" in table.splitlines()
    assert bounds_table(metrics_of(Shop)).splitlines()[-1] == "| 1, 10, 100 | `shop_order_value` |"


async def test_a_declared_metric_appears_when_it_is_first_used(watched):
    """It needs no pack, and belongs to the observability whose code uses it."""
    uses = declare_counter("first_uses_total", "Uses.")
    assert watched.value("first_uses_total") is None
    uses.inc()
    assert watched.value("first_uses_total") == 1


async def test_two_observabilities_do_not_share_what_was_declared(watch):
    """One declaration, two apps, two counts."""
    first, second = watch(), watch()
    uses = declare_counter("uses_total", "Uses.")
    async with first.obs:
        uses.inc()
        async with second.obs:
            uses.inc(5)
    assert (first.value("uses_total"), second.value("uses_total")) == (1, 5)


async def test_labels_are_guarded(watched):
    """Open ones have a limit, of their own or of the settings; closed ones fold what they do not know."""
    own = declare_counter("own_total", "x", ["who"], max_label_values=3)
    common = declare_counter("common_total", "x", ["who"])
    closed = declare_counter("closed_total", "x", {"who": ["a"]})
    for who in range(6):
        for declared in (own, common, closed):
            declared.inc(who=who)
    assert watched.value("own_total", who="other") == 3
    assert watched.value("common_total", who="other") == 4
    assert watched.value("closed_total", who="other") == 6
    assert watched.value("observability_label_overflow_total", label="who") == 13


async def test_a_deprecated_one_says_so(watched):
    """Its help text begins with the word."""
    declare_gauge("old_gauge", "Old.", deprecated=True).set(1)
    family = next(family for family in watched.obs.registry.collect() if family.name == "old_gauge")
    assert family.documentation == "DEPRECATED: Old."


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: declare_counter("orders", "x"), "ends in _total: orders_total"),
        (lambda: declare_gauge("orders_total", "x"), "does not end in"),
        (lambda: declare_histogram("orders_count", "x"), "does not end in"),
        (lambda: declare_gauge("2nd", "x"), "does not begin with a digit"),
        (lambda: declare_gauge("a-b", "x"), "letters, digits and underscores"),
        (lambda: declare_gauge("a", "x", ["le"]), "'le' cannot be a label"),
        (lambda: declare_gauge("a", "x", ["__a"]), "cannot be a label"),
        (lambda: declare_gauge("a", "x", ["service"]), "the scraper's; call it component"),
        (lambda: declare_gauge("a", "x", {"b": [1]}), "are texts"),  # type: ignore[list-item]
        (lambda: declare_gauge("a", "x", {"b": ["\ud800"]}), "can be printed"),
        (lambda: declare_gauge("a", "x", {"b": ["y" * 129]}), "at most 128 characters"),
        (lambda: declare_gauge("a", "\ud800"), "help text cannot be written"),
        (lambda: declare_counter("http_requests_total", "x"), "a name of the pack 'http'"),
        (lambda: declare_counter("sage_handshakes_total", "x"), "a name of the pack 'sage'"),
        (lambda: declare_gauge("observability_scrape_size_bytes", "x"), "always there"),
        (lambda: declare_histogram("a", "x", buckets=()), "finite, distinct and ascending"),
        (lambda: declare_histogram("a", "x", buckets=(2, 1)), "finite, distinct and ascending"),
        (lambda: declare_histogram("a", "x", buckets=(1, float("inf"))), "finite, distinct and ascending"),
    ],
)
def test_what_cannot_be_is_refused_at_once(declare, said: str):
    """A declaration that cannot work says what to change, where it is written."""
    with pytest.raises(DeclarationError, match=said):
        declare()


async def test_wrong_use_is_counted_and_raises_nothing(watched):
    """Other labels than declared, numbers that are none, names that are taken: faults, told by the metric's name."""
    orders = declare_counter("wrong_total", "x", ["kind"])
    orders.inc()
    orders.inc(kind="a", more="b")
    orders.inc(-1, kind="a")
    orders.inc("many", kind="a")  # type: ignore[arg-type]
    declare_counter("wrong_total", "another").inc()
    assert watched.obs.internal_errors.counts == {"wrong_total": 5}
    assert watched.value("wrong_total", kind="a") == 0


async def test_a_name_that_is_taken_is_not_counted_into(watched):
    """Who declares another metric of that name counts nothing, and the first one stays as it was."""
    declare_counter("same_total", "One.").inc()
    declare_counter("same_total", "Another.").inc(5)
    declare_counter("same_total", "One.").inc()
    assert watched.value("same_total") == 2
    assert watched.obs.internal_errors.counts == {"same_total": 1}


async def test_packs_are_switched_on_later(watched):
    """By name, at any time, and once is enough."""
    watched.obs.enable_pack("security")
    enable_pack("security")
    enable_pack("runtime")
    assert watched.value("security_events_total", event_type="replay") == 0


@pytest.mark.parametrize("pack", ["http", "sages", 3, FastAPI])
async def test_what_is_no_pack_is_refused(watched, pack):
    """With the names of those that there are."""
    with pytest.raises(DeclarationError, match=r"there are runtime, dependencies, grpc|is no pack"):
        watched.obs.enable_pack(pack)


async def test_a_pack_with_a_name_that_is_taken_is_refused(watched):
    """While building it is an error."""

    class Other:
        orders = declare_counter("shop_orders_total", "Something else.")

    watched.obs.enable_pack(Shop)
    with pytest.raises(DuplicateInstrumentError, match="shop_orders_total is declared already"):
        enable_pack(Other)


def test_without_an_observability_counting_does_nothing_and_packs_cannot_be_switched_on(monkeypatch):
    """A declaration can be used before and after; where there is nothing to switch on, that is said."""
    monkeypatch.setattr(active, "_started", [])
    Shop.orders.inc(region="eu")
    with pytest.raises(ObservabilityError, match="no Observability is running"):
        enable_pack(Shop)


async def test_with_metrics_off_declared_ones_are_quiet(watch):
    """Nothing is built, and nothing fails."""
    watched = watch(metrics={"enabled": False})
    async with watched.obs:
        watched.obs.enable_pack(Shop)
        Shop.orders.inc(region="eu")
    assert watched.obs.internal_errors.counts == {}
    assert list(watched.obs.registry.collect()) == []


def test_errors_of_declarations_are_value_errors():
    """As those of settings are."""
    assert issubclass(DeclarationError, ValueError)
    assert issubclass(SettingsError, ValueError)


def test_what_several_workers_show_of_a_gauge_is_declared():
    """A gauge says how its values are merged; another word is refused."""
    assert declare_gauge("shop_queue_length", "Waiting.", workers="latest").metric.workers == "latest"
    with pytest.raises(DeclarationError, match="workers is one of sum, max, latest, each, not 'average'"):
        declare_gauge("shop_queue_length", "Waiting.", workers="average")


async def test_the_latest_of_a_gauge_is_set_and_not_raised(watched):
    """What only the last worker says cannot be added to: that is counted as an error, and the number stays."""
    length = declare_gauge("shop_queue_length", "Waiting.", workers="latest")
    length.set(3)
    length.inc()
    assert watched.value("shop_queue_length") == 3
    assert watched.obs.internal_errors.counts["shop_queue_length"] == 1
