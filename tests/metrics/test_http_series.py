"""The numbers of HTTP requests: of one moment on a page, and none lost while they are added up."""

from sage_fastapi_obs.catalog import REQUEST_METRICS
from sage_fastapi_obs.metrics.http_series import HttpRequestSeries, RequestSeries

OK = ("GET", "/items/{item}", "200")


def built() -> tuple[HttpRequestSeries, RequestSeries]:
    """Make the collector, and a series with one request of a millisecond."""
    requests = HttpRequestSeries(*REQUEST_METRICS)
    series = requests.with_values(*OK)
    series.pending.append((1_000, 0, 10, None, None))
    return requests, series


def counts(families: object) -> set[float]:
    """Read what each family but the one of requests in flight says how many requests there were."""
    return {
        sample.value
        for _, children in families
        for key, _, samples in children
        if isinstance(key, tuple)
        for sample in samples()
        if sample.name.endswith(("_total", "_count"))
    }


def test_a_page_is_of_one_moment():
    """What is added up while a page is being written is on the next one."""
    requests, series = built()
    page = requests.versioned()
    family, children = next(page)
    first = family, [*children]
    series.pending.append((1_000, 0, 10, None, None))
    requests.add_up(series)
    assert counts([first, *page]) == {1}
    assert counts(requests.versioned()) == {2}


def test_a_family_needs_no_other_to_be_looked_at():
    """The sizes are those of the page, also for whoever leaves its first families out."""
    requests, _ = built()
    *_, last = requests.versioned()
    assert counts([last]) == {1}


def test_a_request_that_ends_while_others_are_added_up_is_not_lost():
    """The garbage collector may end an abandoned request in the midst of it, in the same thread."""
    requests, series = built()

    class Interrupting(float):
        def __gt__(self, other: object) -> bool:
            if not requests._series[OK].pending and series.totals.requests < 1:
                series.pending.append((2_000, 0, 20, None, None))
                requests.add_up(series)
            return float(self) > other

    series.pending[0] = (1_000, Interrupting(), 10, None, None)
    requests.add_up(series)
    requests.add_up(series)
    assert (series.totals.requests, series.totals.timed, series.totals.sent_bytes) == (2, 2, 30)
    assert series.totals.duration_us == 3_000
