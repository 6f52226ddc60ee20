"""An app looked at from outside: loaded without any effect outside the process, its routes, and requests to routes of ours."""
