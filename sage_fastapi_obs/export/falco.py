"""Rules for Falco, which watches what programs do in the containers of the services."""

from collections.abc import Iterable
from typing import Any

from sage_fastapi_obs.catalog.services import Services
from sage_fastapi_obs.export.yaml import dumped

_COMMENT = """\
What no application should do at run time. What is only a URL or a query is seen by the application itself: it counts
security_events_total, and writes a line."""
_SQL = ("union select", "union all select", "drop table", "drop database")


def files(services: Services) -> dict[str, str]:
    """Return the rules by their path."""
    return {"deploy/falco/falco-rules.yaml": dumped(rules(services), comment=_COMMENT)}


def rules(services: Services) -> list[dict[str, Any]]:
    """Return the rules, with the lists and macros that they use."""
    folders = sorted({f"{path.rstrip('/')}/" for one in services for path in one.export.code_paths})
    return [
        {"list": "api_processes", "items": ["uvicorn", "gunicorn", "hypercorn", "granian"]},
        {"macro": "in_container", "condition": "(container.id != host)"},
        {"macro": "api_sources", "condition": _any(f"fd.name startswith {folder}" for folder in folders)},
        # A thread may have a name of its own: the program's path stays.
        {"macro": "api_program", "condition": "(proc.name in (api_processes) or proc.exepath contains /python)"},
        {
            "rule": "Unauthorized API Access",
            "desc": "A program that is not the service opens the service's code (export.code_paths), or a file beside it.",
            "condition": "evt.type in (open, openat, openat2) and evt.dir = < and in_container and api_sources "
            "and not api_program",
            "output": _output("A program that is not the API opened its code", "file=%fd.name"),
            "priority": "WARNING",
            "tags": ["api", "filesystem"],
        },
        {
            "rule": "Suspicious Database Query",
            "desc": "A query that joins other tables to an answer, or drops some, on its way to PostgreSQL. Clients send with "
            "sendto or sendmsg, which Falco delivers without -A. What is encrypted cannot be read.",
            "condition": "evt.type in (sendto, sendmsg) and evt.dir = < and in_container and fd.sport = 5432 and "
            + _any(f'evt.buffer icontains "{words}"' for words in _SQL),
            "output": _output("Suspicious query to PostgreSQL", "query=%evt.buffer"),
            "priority": "CRITICAL",
            "tags": ["database", "injection"],
        },
    ]


def _any(conditions: Iterable[str]) -> str:
    return f"({' or '.join(conditions)})"


def _output(what: str, field: str) -> str:
    return f"{what} (user=%user.name command=%proc.cmdline {field} container=%container.name)"
