"""What the process and its interpreter use, read by collectors of the Prometheus client and our own."""

from functools import partial

from sage_fastapi_obs.catalog import metric
from sage_fastapi_obs.catalog.metric import PAUSE_BUCKETS, Alias

_alias = partial(Alias, group="runtime")
counter, gauge, histogram = (partial(declare, workers="each") for declare in (metric.counter, metric.gauge, metric.histogram))
_GENERATION: dict[str, tuple[str, ...]] = {"generation": ("0", "1", "2")}
_PYTHON: dict[str, tuple[str, ...]] = dict.fromkeys(("implementation", "major", "minor", "patchlevel", "version"), ())

_CLIENT_METRICS = (
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", unit=""),
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", unit="", aliases=(_alias("memory_usage_bytes"),)),
    gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", unit=""),
    counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
    gauge("process_open_fds", "Number of open file descriptors."),
    gauge("process_max_fds", "Maximum number of open file descriptors."),
    gauge("python_info", "Python platform information", _PYTHON, workers="max"),
    counter("python_gc_objects_collected_total", "Objects collected during gc", _GENERATION),
    counter("python_gc_objects_uncollectable_total", "Uncollectable objects found during GC", _GENERATION),
    counter("python_gc_collections_total", "Number of times this generation was collected", _GENERATION),
)
"""Metrics of the Prometheus client; those of the process only on Linux."""
RUNTIME_METRICS = (
    gauge(
        "process_cpu_usage_ratio",
        "CPU seconds per second and available core since the last sample, 0 to 1.",
        aliases=(_alias("cpu_usage_percentage", factor=100.0),),
    ),
    gauge(
        "process_anonymous_memory_bytes",
        "Resident memory that no file stands behind; only on Linux.",
        aliases=(_alias("go_memstats_heap_inuse_bytes"),),
    ),
    gauge(
        "python_traced_memory_bytes",
        "Memory of Python objects; only while tracemalloc is on.",
        aliases=(_alias("go_memstats_alloc_bytes"),),
    ),
    gauge("python_asyncio_tasks", "Tasks of the event loop.", aliases=(_alias("go_goroutines"),)),
    gauge("python_threads", "Threads of the interpreter."),
    histogram(
        "python_gc_pause_seconds",
        "Time that garbage collections took, during which nothing else ran.",
        PAUSE_BUCKETS,
        _GENERATION,
    ),
    histogram(
        "python_event_loop_lag_seconds", "By how much the event loop was late for a timer, asked twice a second.", PAUSE_BUCKETS
    ),
    gauge("python_threadpool_threads_busy", "Threads that synchronous routes and dependencies run in now."),
    gauge("python_threadpool_threads_max", "Most threads that they may run in."),
    gauge("python_threadpool_tasks_waiting", "Synchronous routes and dependencies that wait for a thread."),
)
"""Metrics of our own."""
METRICS = (*_CLIENT_METRICS, *RUNTIME_METRICS)
