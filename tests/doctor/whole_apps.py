"""Apps of which more is to be said than one fault, or nothing though they look as if something were wrong."""

THREAD = """
import threading, time
threading.Thread(target=time.sleep, args=(3600,)).start()
"""
"""It keeps no process from ending."""
HARMLESS = """
import asyncio, itertools, logging, time
from anyio import to_thread
from fastapi import Depends
from fastapi.responses import StreamingResponse
from prometheus_client import make_asgi_app
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

class Door(Layer):
    async def __call__(self, scope, receive, send):
        known = scope["path"] != "/numbers/" or b"authorization" in dict(scope["headers"])
        await (self.app if known else PlainTextResponse("no", 401))(scope, receive, send)

app.add_middleware(Door)
app.mount("/numbers", make_asgi_app())

@app.get("/taken/")
def taken(): return "another page"

app.mount("/taken", make_asgi_app())
audit = logging.getLogger("audit")
audit.addHandler(logging.StreamHandler())
audit.propagate = False

@app.get("/threads")
async def threads():
    def work():
        time.sleep(0.01)
    await run_in_threadpool(lambda: time.sleep(0.01))
    await to_thread.run_sync(work)
    await asyncio.get_running_loop().run_in_executor(None, work)
    await asyncio.to_thread(time.sleep, 0.01)

class Clock:
    def sleep(self, seconds): pass

def clock(): return Clock()

@app.get("/shadowed")
async def shadowed(time=Depends(clock)):
    time.sleep(1)

def made(time):
    async def enclosed():
        time.sleep(1)
    return enclosed

app.get("/enclosed")(made(Clock()))

@app.get("/default")
async def default(began: float = time.sleep(0) or 0.0):
    return began

@app.get("/events")
async def events():
    async def each():
        while True:
            yield b"data: 1\\n\\n"
            await asyncio.sleep(0.001)
    return StreamingResponse(each(), media_type="text/event-stream")

@app.get("/rare")
async def rare():
    async def each():
        yield b"data: 1\\n\\n"
        await asyncio.sleep(3600)
    return StreamingResponse(each(), media_type="text/event-stream")

@app.get("/restless")
async def restless():
    async def each():
        while True:
            yield b"x"
    return StreamingResponse(each())

@app.get("/repeated")
def repeated():
    return StreamingResponse(itertools.repeat(b"x"))
"""
BLOCKING = """
import functools, time
from fastapi import Depends, WebSocket

async def generator():
    time.sleep(1)
    yield

class Called:
    async def __call__(self):
        time.sleep(1)

    async def method(self):
        time.sleep(1)

def plain(function):
    @functools.wraps(function)
    async def call():
        time = await function()
        return time
    return call

@app.get("/generator", dependencies=[Depends(generator)])
async def first(): pass

@app.get("/called", dependencies=[Depends(Called())])
async def second(): pass

@app.get("/method", dependencies=[Depends(Called().method)])
async def third(): pass

@app.get("/wrapped")
@plain
async def wrapped():
    time.sleep(1)

@app.websocket("/socket")
async def socket(socket: WebSocket):
    [time.sleep(1) for _ in range(3)]
"""
BLOCKED = ["/generator", "/called", "/method", "/wrapped", "/socket"]
SECRETS = """
from dataclasses import dataclass
from typing import Annotated, NamedTuple
from fastapi import Body, Form, Header, Query
from pydantic import BaseModel, SecretBytes, SecretStr
from typing_extensions import TypedDict

class Model(BaseModel):
    noted: Annotated[str, {"a": 1}]
    again: "Model | None" = None
    pin_in_model: SecretBytes | None = None

class Nested(BaseModel):
    inner: dict[str, list[Model | None]]
    pin_beside: Annotated[list[SecretStr], "noted"]

class Typed(TypedDict):
    pin_in_dictionary: SecretStr

class Named(NamedTuple):
    pin_in_tuple: SecretStr

@dataclass
class Data:
    pin_in_dataclass: SecretStr
    named: "Named"
    typed: "list[Typed]"

class Login(BaseModel):
    pin_in_form: SecretStr

class Search(BaseModel):
    pin_in_query: SecretStr

@app.post("/nested")
def nested(body: dict[str, Nested] | None = None): pass

@app.post("/data")
def data(body: Annotated[Data, Body(embed=True)], search: Annotated[Search, Query()]): pass

@app.post("/form")
def form(login: Annotated[Login, Form()], pin_in_header: Annotated[SecretStr, Header()]): pass
"""
SECRET = "pin_in_model pin_beside pin_in_dictionary pin_in_tuple pin_in_dataclass pin_in_form pin_in_query pin_in_header"
RAISING = """
import asyncio, sys

@app.get("/exit")
async def leave(): sys.exit(0)

@app.get("/thread")
def leave_thread(): sys.exit(0)

@app.get("/interrupt")
async def interrupt(): raise KeyboardInterrupt

@app.get("/cancel")
async def cancel(): raise asyncio.CancelledError

@app.get("/stuck")
async def stuck():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@app.get("/waiting")
async def waiting(): await asyncio.to_thread(time.sleep, 3600)
"""
RAISED = {
    "/exit": "SystemExit",
    "/thread": "SystemExit",
    "/interrupt": "KeyboardInterrupt",
    "/cancel": "CancelledError",
    "/stuck": "TimeoutError",
    "/waiting": "TimeoutError",
}
EXIT_AT_START = """
import asyncio, sys
from contextlib import asynccontextmanager

@asynccontextmanager
async def start(app):
    async def work(): sys.exit(0)
    working = asyncio.create_task(work())
    await asyncio.sleep(3600)
    yield

app.router.lifespan_context = start
"""
