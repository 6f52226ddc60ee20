"""A Starlette app that has never heard of us: it logs with loguru and with logging, and counts by itself."""

import logging

from loguru import logger
from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

REQUESTS = Counter("shop_http_requests", "Requests.", ["status"])


async def item(request):
    logger.bind(item=request.path_params["item"]).info("item read")
    REQUESTS.labels("200").inc()
    return PlainTextResponse("here", headers={"x-request-id": "mine"})


def miscounted(request):
    logging.getLogger("shop").warning("counted wrongly", extra={"request_id": "another"})
    REQUESTS.labels("500").inc()
    return PlainTextResponse("here", headers={"x-request-id": "mine"})


async def silent(request):
    return PlainTextResponse("nothing")


routes = [Route("/{item}", item), Route("/wrong/count", miscounted), Route("/not/recorded", silent)]
app = Starlette(routes=[Mount("/shops/{shop}", routes=routes)])
