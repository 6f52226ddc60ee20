"""Serves the tools over the Model Context Protocol, with the SDK of the protocol."""

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server

from sage_fastapi_obs.cli.assistants.marked_answer import marked_answer
from sage_fastapi_obs.cli.assistants.tools import INSTRUCTIONS, TOOLS, AssistantTool
from sage_fastapi_obs.cli.request_sources import Source, SourceError

_MOST_AT_ONCE = 4
_READ_ONLY = types.ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
Context = ServerRequestContext[Any]


def mcp_server(source: Callable[[], Source], hidden: Iterable[str]) -> Server[Any]:
    """Build a server whose tools read one service.

    `source`: opens what is read, for each question anew, as a service may start later. `hidden`: texts never to be shown.
    """
    questions = _Questions(source, [*hidden])
    return Server(
        "sage-obs",
        version=version("sage_fastapi_obs"),
        instructions=INSTRUCTIONS,
        on_list_tools=questions.tools,
        on_call_tool=questions.call,
    )


async def serve(server: Server[Any]) -> None:
    """Serve on standard input and output, until the input ends."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


class _Questions:
    """Answers those of one assistant."""

    def __init__(self, source: Callable[[], Source], hidden: list[str]) -> None:
        self._source = source
        self._hidden = hidden
        self._turns = anyio.CapacityLimiter(_MOST_AT_ONCE)

    async def tools(self, _context: Context, _given: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[*map(_described, TOOLS.values())])

    async def call(self, _context: Context, given: types.CallToolRequestParams) -> types.CallToolResult:
        """Answer one; what the assistant can mend is an answer, too."""
        if (tool := TOOLS.get(given.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool of this name; there are: {', '.join(TOOLS)}")
        try:
            arguments = tool.read(given.arguments or {})
        except ValueError as error:
            return _result(str(error), is_error=True)
        # Whoever does not want the answer any more need not wait for it.
        return await anyio.to_thread.run_sync(self._answer, tool, arguments, limiter=self._turns, abandon_on_cancel=True)

    def _answer(self, tool: AssistantTool, arguments: Any) -> types.CallToolResult:
        try:
            return _result(marked_answer(tool.answer(self._source(), arguments), self._hidden))
        except SourceError as error:
            # Whoever was asked has written parts of it.
            return _result(marked_answer({"error": str(error)}, self._hidden), is_error=True)


def _described(tool: AssistantTool) -> types.Tool:
    schema = tool.takes.model_json_schema()
    return types.Tool(
        name=tool.name, title=tool.title, description=tool.description, input_schema=schema, annotations=_READ_ONLY
    )


def _result(text: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)
