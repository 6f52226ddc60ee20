# syntax=docker/dockerfile:1
# The example app with the package: built with everything, run with nothing but what it needs.
FROM python:3.12.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /venv
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md CHANGELOG.md LICENSE constraints.txt ./
COPY sage_fastapi_obs ./sage_fastapi_obs
RUN /venv/bin/pip install --constraint constraints.txt '.[otlp,yaml,demo]' \
    && /venv/bin/pip uninstall --yes pip

FROM python:3.12.11-slim-bookworm
LABEL org.opencontainers.image.title="sage-fastapi-obs-example" org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /venv /venv
WORKDIR /app
COPY example_app ./example_app
COPY deploy/services ./deploy/services
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OTEL_SEMCONV_STABILITY_OPT_IN=http
# By number, so that Kubernetes sees that it is not root.
USER 10001
EXPOSE 8000 9090
# The address is the one that CMD listens on.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', '8000')}/monitoring/health/ready\", timeout=2)"]
# exec: the server gets SIGTERM itself, and finishes what it has begun.
CMD ["sh", "-c", "exec uvicorn --factory example_app.app:create_app --host 0.0.0.0 --port ${PORT:-8000} --log-level warning"]
