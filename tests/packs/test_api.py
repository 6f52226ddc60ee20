"""The packs `textbook`, `security` and `business`, and numbers that are told at once."""

import math
import threading

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs import active, declare_counter, declare_gauge, declare_histogram
from sage_fastapi_obs.operations import count as record
from sage_fastapi_obs.packs.business import api as business
from sage_fastapi_obs.packs.sage import api as sage
from sage_fastapi_obs.packs.security import api as security
from sage_fastapi_obs.packs.textbook import api as textbook


@pytest.fixture
async def watched(watch):
    """Return one that is started, with the packs."""
    one = watch(metrics={"packs": ["textbook", "security", "business", "sage"], "max_label_values": 5})
    async with one.obs:
        yield one


async def test_textbooks_and_tokens(watched):
    """Textbooks by grade and subject, tokens by component and model, and `service` is a component."""
    textbook.textbook_created("3", "math")
    textbook.ai_tokens_used("tutor", "claude-3", 12)
    textbook.ai_tokens_used(service="tutor", model="claude-3", n=3)
    textbook.set_active_users(40)
    assert watched.value("textbooks_created_total", grade_level="3", subject="math") == 1
    assert watched.value("ai_tokens_used_total", component="tutor", model="claude-3") == 15
    assert watched.value("active_users") == 40


async def test_a_learning_session_is_active_while_it_lasts(watched):
    """As a block, also one that fails, or by its two ends; a textbook without one is not shown."""
    with textbook.learning_session("t1"):
        textbook.learning_session("t1").start()
        assert watched.value("active_learning_sessions", textbook_id="t1") == 2
    with pytest.raises(ValueError), textbook.learning_session("t2"):
        raise ValueError
    assert watched.series("active_learning_sessions") == {(("textbook_id", "t1"),): 1}
    textbook.learning_session("t1").end()
    textbook.learning_session("t1").end()
    assert watched.series("active_learning_sessions") == {}


async def test_learning_sessions_of_many_threads(watched):
    """However threads start and end sessions of how many textbooks, in the end none is active, and room is left."""

    def learn(number: int) -> None:
        for step in range(100):
            with textbook.learning_session(str((number + step) % 9)):
                pass

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert watched.series("active_learning_sessions") == {}
    with textbook.learning_session("new"):
        assert watched.value("active_learning_sessions", textbook_id="new") == 1


async def test_attacks_are_counted_by_few_words(watched):
    """Logins by reason, limits by network, events by type; what is unknown is `other`."""
    for reason in ("locked", "typo"):
        security.login_failed(reason)
    for address in ("192.0.2.7", "192.0.2.250", "2001:db8:1:2::3", "::ffff:10.1.2.3", "fe80::1%eth0", "unix", ""):
        security.rate_limit_exceeded(address)
    security.security_event("replay")
    assert watched.value("auth_login_failed_total", reason="locked") == 1
    assert watched.value("auth_login_failed_total", reason="other") == 1
    networks = {dict(key)["client_ip"]: n for key, n in watched.series("rate_limit_exceeded_total").items()}
    assert networks == {"192.0.2.0/24": 2, "2001:db8:1::/48": 1, "10.1.2.0/24": 1, "fe80::/48": 1, "other": 2}
    assert watched.value("security_events_total", event_type="replay") == 1


@given(st.ip_addresses())
def test_no_address_is_shown(address):
    """A network has the address in it, and never tells it: the rest is zeros."""
    network = security.network_of(str(address))
    assert network.endswith(("/24", "/48"))
    assert security.network_of(network.partition("/")[0]) == network


async def test_orders_and_business(watched):
    """An order is counted, with its value and its category; a negative value is a fault that is counted."""
    business.order_processed(99.5, "books")
    business.order_processed(0.5)
    business.transaction_completed(2)
    business.set_business_active_users(8)
    assert watched.value("orders_processed_total") == 2
    assert watched.value("revenue_total") == 100
    assert watched.value("order_value_sum") == 100
    assert watched.value("orders_by_category_total", category="books") == 1
    assert watched.value("business_transactions_total") == 2
    assert watched.value("business_active_users") == 8
    business.transaction_completed(-1)
    assert watched.obs.internal_errors.counts == {"record": 1}


async def test_without_an_observability_nothing_is_told(monkeypatch):
    """Helpers outside of any do nothing, and say nothing."""
    monkeypatch.setattr(active, "_started", [])
    business.order_processed(1, "x")
    record.add_to_gauge("active_users")
    record.take_from_gauge("active_users")
    record.add_span_event("x", a=1)
    with textbook.learning_session("t"):
        security.security_event("replay")


async def test_a_label_too_many_is_a_fault_of_ours(watched):
    """A call that does not fit its metric is counted, and raises nothing."""
    record.count("active_users", "what")
    record.set_gauge("no_such_metric", 1)
    assert watched.obs.internal_errors.counts == {"record": 1}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400])
async def test_what_is_no_number_is_not_added(watched, number):
    """A sum would never be a number again: the call is counted as an internal error, and the next one counts."""
    shop = declare_counter("shop_total", "x"), declare_histogram("shop_value", "x"), declare_gauge("shop_open", "x")
    for value in (number, 5.0):
        business.order_processed(value)
        sage.sessions_expired(value)
        sage.session_closed(value)
        record.add_to_gauge("active_learning_sessions", "book", by=value)
        for metric in shop:
            (metric.observe if metric is shop[1] else metric.inc)(value)
    names = ("revenue_total", "order_value_sum", "sage_sessions_expired_total", "sage_session_lifetime_seconds_sum")
    assert [watched.value(name) for name in (*names, "shop_total", "shop_value_sum", "shop_open")] == [5] * 7
    assert watched.value("active_learning_sessions", textbook_id="book") == 5
    shop[2].dec(number)
    assert watched.value("shop_open") == 5
    assert watched.obs.internal_errors.counts["shop_total"] == 1
