from fastapi import FastAPI
from support import client


async def test_four_signals(watch):
    """One request gives an id, a span, a line and a count."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/items/{item}")
    def read(item: int) -> int:
        return item

    async with client(app) as c:
        response = await c.get("/items/3")
    assert response.headers["x-request-id"] == watched.access[0]["request_id"]
    assert [span.name for span in watched.server_spans] == ["GET /items/{item}"]
    assert watched.value("http_requests_total", method="GET", route="/items/{item}", status="200") == 1
