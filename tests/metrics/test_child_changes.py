"""Which children have changed, also while they change."""

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.samples import Exemplar

from sage_fastapi_obs.metrics.exposition.child_changes import ChildChanges
from sage_fastapi_obs.metrics.exposition.prometheus_internals import instrument


def changes_of(made: object, clock=lambda: 0.0) -> ChildChanges:
    changes = ChildChanges(instrument(made), clock)
    changes.learn()
    return changes


def test_an_observation_that_is_seen_in_its_middle_is_seen_again():
    """What a thread adds to the buckets after it has added to the sum is found by the next look."""
    now = [0.0]
    histogram = Histogram("work_seconds", "Work.", ["kind"], buckets=(1,), registry=None)
    histogram.labels("a").observe(0.5)
    changes = changes_of(histogram, lambda: now[0])
    list(changes.numbers())
    now[0] = 60.0
    # As `observe` does, one after the other.
    histogram.labels("a")._sum.inc(0.5)
    assert [numbers for *_, numbers in changes.numbers()] == [(1.0, 1.0, 0.0)]
    histogram.labels("a")._buckets[0].inc(1)
    assert [numbers for *_, numbers in changes.numbers()] == [(1.0, 2.0, 0.0)]
    now[0] = 120.0
    assert [*changes.numbers()] == []


def test_only_what_has_changed_is_told_of():
    """Of many children, those that have changed come, with the exemplars that are new."""
    histogram = Histogram("work_seconds", "Work.", ["kind"], buckets=(1, 2), registry=None)
    for number in range(50):
        histogram.labels(str(number)).observe(0.5)
    now = [0.0]
    changes = changes_of(histogram, lambda: now[0])
    assert len([*changes.numbers()]) == 50
    now[0] = 60.0
    histogram.labels("7").observe(1.5, {"trace_id": "1"})
    assert [(labels, numbers) for labels, _, numbers in changes.numbers()] == [(("7",), (2.0, 1.0, 1.0, 0.0))]
    assert [(labels, place, one.labels) for labels, place, one in changes.exemplars()] == [(("7",), 2, {"trace_id": "1"})]
    assert [*changes.exemplars()] == []


def test_an_exemplar_that_follows_its_number_later_is_told_of():
    """It is set after the number, between which a thread may stand while somebody looks."""
    counter = Counter("work", "Work.", ["kind"], registry=None)
    counter.labels("a").inc()
    changes = changes_of(counter)
    list(changes.numbers())
    assert [*changes.exemplars()] == []
    # As `inc` does, one after the other.
    counter.labels("a")._value.inc(1)
    assert [numbers for *_, numbers in changes.numbers()] == [(2.0,)]
    assert [*changes.exemplars()] == []
    counter.labels("a")._value.set_exemplar(Exemplar({"trace_id": "1"}, 1.0))
    list(changes.numbers())
    assert [(labels, place, one.labels) for labels, place, one in changes.exemplars()] == [(("a",), 0, {"trace_id": "1"})]
    assert [*changes.exemplars()] == []


def test_a_child_that_was_removed_and_made_again_is_another():
    """The new child's number is told of, though the label values are known."""
    gauge = Gauge("size", "Size.", ["of"], registry=None)
    gauge.labels("a").set(1)
    changes = changes_of(gauge)
    list(changes.numbers())
    gauge.remove("a")
    gauge.labels("a").set(1)
    assert changes.learn()
    assert [numbers for *_, numbers in changes.numbers()] == [(1.0,)]
