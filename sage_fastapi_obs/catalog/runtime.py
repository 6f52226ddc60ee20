"""What the process and its interpreter use; told by collectors of the Prometheus client and our own."""

from functools import partial

from sage_fastapi_obs.catalog.metric import PAUSE_BUCKETS, Alias, Metric

__all__ = ["METRICS", "RUNTIME_METRICS"]

_alias = partial(Alias, group="runtime")
_GENERATION: dict[str, tuple[str, ...]] = {"generation": ("0", "1", "2")}
_PYTHON: dict[str, tuple[str, ...]] = dict.fromkeys(("implementation", "major", "minor", "patchlevel", "version"), ())

CLIENT_METRICS = (
    Metric("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes."),
    Metric(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        aliases=(_alias("memory_usage_bytes"),),
    ),
    Metric("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."),
    Metric("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds."),
    Metric("process_open_fds", "gauge", "Number of open file descriptors."),
    Metric("process_max_fds", "gauge", "Maximum number of open file descriptors."),
    Metric("python_info", "gauge", "Python platform information", _PYTHON),
    Metric("python_gc_objects_collected_total", "counter", "Objects collected during gc", _GENERATION),
    Metric("python_gc_objects_uncollectable_total", "counter", "Uncollectable objects found during GC", _GENERATION),
    Metric("python_gc_collections_total", "counter", "Number of times this generation was collected", _GENERATION),
)
"""Those of the Prometheus client; the process's only on Linux."""
RUNTIME_METRICS = (
    Metric(
        "process_cpu_usage_ratio",
        "gauge",
        "CPU seconds per second and available core since the last sample, 0 to 1.",
        aliases=(_alias("cpu_usage_percentage", factor=100.0),),
    ),
    Metric(
        "process_anonymous_memory_bytes",
        "gauge",
        "Resident memory that no file stands behind; only on Linux.",
        unit="bytes",
        aliases=(_alias("go_memstats_heap_inuse_bytes"),),
    ),
    Metric(
        "python_traced_memory_bytes",
        "gauge",
        "Memory of Python objects; only while tracemalloc is on.",
        unit="bytes",
        aliases=(_alias("go_memstats_alloc_bytes"),),
    ),
    Metric("python_asyncio_tasks", "gauge", "Tasks of the event loop.", aliases=(_alias("go_goroutines"),)),
    Metric("python_threads", "gauge", "Threads of the interpreter."),
    Metric(
        "python_gc_pause_seconds",
        "histogram",
        "Time that garbage collections took, during which nothing else ran.",
        _GENERATION,
        "seconds",
        PAUSE_BUCKETS,
    ),
    Metric(
        "python_event_loop_lag_seconds",
        "histogram",
        "By how much the event loop was late for a timer, asked twice a second.",
        unit="seconds",
        buckets=PAUSE_BUCKETS,
    ),
    Metric("python_threadpool_threads_busy", "gauge", "Threads that synchronous routes and dependencies run in now."),
    Metric("python_threadpool_threads_max", "gauge", "Most threads that they may run in."),
    Metric("python_threadpool_tasks_waiting", "gauge", "Synchronous routes and dependencies that wait for a thread."),
)
"""Ours."""
METRICS = (*CLIENT_METRICS, *RUNTIME_METRICS)
