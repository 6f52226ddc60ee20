"""Nothing that is handed to a function of a pack comes back as an exception: telling is not what the work is for."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.packs import business, sage, security, textbook
from sage_fastapi_obs.packs.security import network_of


class Hostile:
    """Raises whatever is asked of it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("asked")

    __str__ = __repr__ = __hash__ = __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = __len__ = __iter__ = _refuse
    __float__ = __int__ = __index__ = __add__ = __radd__ = __neg__ = __contains__ = __getitem__ = __format__ = _refuse


class HostileText(str):
    """A text that raises when it is looked at."""

    __slots__ = ()

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("asked")

    __str__ = __repr__ = __hash__ = __eq__ = startswith = isprintable = __len__ = __getitem__ = _refuse  # type: ignore[assignment]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=20),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=5)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["\ud800", 10**5000]),
)
ODD: list[Any] = [object(), Hostile(), HostileText("did:x"), ValueError, TimeoutError("late"), len, {1}]
FUNCTIONS = {
    f"{pack.__name__.rpartition('.')[2]}.{name}": getattr(pack, name)
    for pack in (sage, security, textbook, business)
    for name in pack.__all__
    if inspect.isfunction(getattr(pack, name))
}


@pytest.fixture(scope="module")
def observed():
    """Start one with all these packs, for all examples."""
    settings = Settings(
        metrics={"packs": ["sage", "security", "textbook", "business"]},
        logging={"enabled": False},
        alerts={"defaults": False},
    )
    obs = Observability(settings)
    obs.start()
    yield obs
    obs.abandon()


def anything(data: st.DataObject) -> Any:
    """Draw a value, or the place of one that hypothesis itself could not look at."""
    place = data.draw(st.integers(0, 2 * len(ODD)))
    return ODD[place] if place < len(ODD) else data.draw(JUNK)


def use(block: Any, junk: Callable[[], Any]) -> None:
    """Go through a step, and set and call all that it has."""
    with block as step:
        for name in ("key_type", "size"):
            with suppress(AttributeError):
                setattr(step, name, junk())
        if hasattr(step, "fail"):
            step.set(a=junk()).event(junk(), b=junk())
            if step.fail(junk()) and hasattr(step, "stage"):
                with step.stage(junk()):
                    pass


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@given(data=st.data())
def test_whatever_a_function_gets_it_raises_nothing(observed, name: str, data: st.DataObject):
    """Each parameter gets anything, and a step goes through its whole life with anything set on it."""
    function = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters.values()
    positional = [anything(data) for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    named = {one.name: anything(data) for one in parameters if one.kind is one.KEYWORD_ONLY}
    made = function(*positional, **named)
    if hasattr(made, "__enter__"):
        use(made, lambda: anything(data))


@pytest.mark.parametrize("name", sorted(name for name in sage.__all__ if name.isupper()))
@given(data=st.data())
def test_whatever_a_metric_gets_it_raises_nothing(observed, name: str, data: st.DataObject):
    """So it is with the metrics themselves: numbers that are none, labels that do not exist."""
    handle = getattr(sage, name)
    labels = {label: anything(data) for label in (*handle.metric.labels, *data.draw(st.sampled_from([(), ("more",)])))}
    for change in ("inc", "dec", "set", "observe"):
        if hasattr(handle, change):
            getattr(handle, change)(anything(data), **labels)


def test_what_is_no_address_is_another_network():
    """What cannot even be read is `other`, as what is no address is."""
    assert network_of(Hostile()) == network_of(HostileText("::1")) == network_of([]) == "other"  # type: ignore[arg-type]


async def test_what_was_lost_is_counted(watch):
    """Sessions that expire are counted where their lifetimes cannot be read, and the loss is, too; no lifetimes are fine."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        with sage.session_creation("s"):
            pass
        sage.sessions_expired(2, None)
        assert watched.obs.internal_errors.counts == {}
        sage.sessions_expired(1, 7)  # type: ignore[arg-type]
        sage.sessions_expired(2, iter(int, 1))
        sage.sessions_expired(-3)
        sage.sessions_expired(None)  # type: ignore[arg-type]
    assert watched.value("sage_sessions_expired_total") == 5
    assert watched.value("sage_sessions_active") == 0
    assert watched.value("sage_session_lifetime_seconds_count") == 2
    assert watched.obs.internal_errors.counts["record"] >= 3


async def test_what_cannot_be_a_label_is_another_value(watch):
    """A list in the place of a word is counted, as `other`."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        sage.record_nonce(["valid"])  # type: ignore[arg-type]
        with sage.observe_handshake("client") as handshake:
            handshake.key_type = []  # type: ignore[assignment]
    assert watched.value("sage_nonce_validations_total", status="other") == 1
    assert watched.value("sage_handshakes_completed_total", status="success", key_type="other") == 1
    assert watched.obs.internal_errors.counts == {}
