"""Send a known number of requests to a service, and compare what its metrics say: every request is counted, once."""

import argparse
import asyncio
import sys
import time
from collections import Counter

import httpx
from prometheus_client.parser import text_string_to_metric_families

COUNTER = "http_requests_total"


def main() -> None:
    """Load the service; exit code 1 where its metrics count something else than was sent."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", help="of the service, with a path without parameters: http://localhost:8000/api/items")
    arguments.add_argument("--metrics", default=None, metavar="URL", help="of its metrics; /metrics of the service without")
    arguments.add_argument("--requests", type=int, default=1000)
    arguments.add_argument("--at-once", type=int, default=20)
    arguments.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    given = arguments.parse_args()
    url = httpx.URL(given.url)
    metrics = given.metrics or str(url.copy_with(raw_path=b"/metrics"))
    if given.dry_run:
        print(f"would send {given.requests} GET to {url}, {given.at_once} at once, and compare {COUNTER} at {metrics}")
        return
    try:
        sys.exit(asyncio.run(_load(url, metrics, given.requests, given.at_once)))
    except httpx.HTTPError as error:
        sys.exit(f"{error.request.url}: {error or type(error).__name__}")


async def _load(url: httpx.URL, metrics: str, requests: int, at_once: int) -> int:
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:
        before = await _counted(client, metrics, url.path)
        places = asyncio.Semaphore(at_once)
        answered: Counter[str] = Counter()
        durations: list[float] = []

        async def send() -> None:
            async with places:
                started = time.perf_counter()
                answer = await client.get(url)
                durations.append(time.perf_counter() - started)
                answered[str(answer.status_code)] += 1

        started = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(requests)))
        seconds = time.perf_counter() - started
        after = await _counted(client, metrics, url.path)
    durations.sort()
    p95 = durations[int(len(durations) * 0.95)] * 1000
    print(f"{requests} requests in {seconds:.2f} s: {requests / seconds:.0f}/s, p95 {p95:.1f} ms as the client saw it")
    rose = Counter({status: round(after[status] - before[status]) for status in after if after[status] > before[status]})
    print(f"answered {dict(answered)}, counted {dict(rose)}")
    if rose != answered:
        print("The metrics do not say what was sent. Has somebody else sent requests to this route?", file=sys.stderr)
    return int(rose != answered)


async def _counted(client: httpx.AsyncClient, metrics: str, route: str) -> Counter[str]:
    """Return requests to a route by status, as the service counts them."""
    text = (await client.get(metrics, params={"name[]": COUNTER})).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    counted: Counter[str] = Counter()
    for sample in samples:
        if sample.name == COUNTER and sample.labels["route"] == route and sample.labels["method"] == "GET":
            counted[sample.labels["status"]] += round(sample.value)
    return counted


if __name__ == "__main__":
    main()
