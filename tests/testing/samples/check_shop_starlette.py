import logging

import pytest
from loguru import logger
from shop_starlette import app
from starlette.testclient import TestClient


@pytest.fixture
def caplog(caplog):
    # As loguru's documentation says.
    number = logger.add(caplog.handler, format="{message}", level=0)
    yield caplog
    logger.remove(number)


@pytest.fixture
def handed_to_logging():
    # The other way that it says.
    class Propagate(logging.Handler):
        def emit(self, record):
            logging.getLogger(record.name).handle(record)

    number = logger.add(Propagate(), format="{message}")
    yield
    logger.remove(number)


@pytest.fixture
def handed_to_loguru():
    class Intercept(logging.Handler):
        def emit(self, record):
            logger.opt(depth=6, exception=record.exc_info).log(record.levelname, record.getMessage())

    handler = Intercept()
    logging.root.addHandler(handler)
    yield
    logging.root.removeHandler(handler)


@pytest.fixture(params=["telemetry_first", "recipe_first"])
def order(request):
    return request.param


@pytest.mark.parametrize("recipe", ["caplog", "handed_to_logging"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_line_is_heard_once(request, recipe, is_first):
    if is_first:
        telemetry = request.getfixturevalue("telemetry")
    request.getfixturevalue(recipe)
    if not is_first:
        telemetry = request.getfixturevalue("telemetry")
    TestClient(app).get("/shops/1/apple")
    last = telemetry.last
    last.assert_one_line()
    last.assert_one_line(message="item read", level="info", item="apple")
    last.assert_consistent()
    last.assert_route("/shops/{shop}/{item}")
    assert last.metrics == {("shop_http_requests_total", (("status", "200"),)): 1}
    if recipe == "caplog":
        assert request.getfixturevalue("caplog").messages == ["item read"]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_record_is_heard_once(request, is_first):
    fixtures = ["telemetry", "handed_to_loguru"]
    for name in fixtures if is_first else reversed(fixtures):
        request.getfixturevalue(name)
    TestClient(app).get("/shops/1/wrong/count")
    request.getfixturevalue("telemetry").last.assert_one_line(message="counted wrongly")


def test_signals_that_disagree(telemetry):
    TestClient(app).get("/shops/1/wrong/count")
    with pytest.raises(AssertionError) as failed:
        telemetry.last.assert_consistent()
    assert "metric shop_http_requests_total: status 500, not 200" in str(failed.value)
    assert "line 'counted wrongly': request_id: another, not mine" in str(failed.value)


def test_nothing_recorded(telemetry):
    TestClient(app).get("/shops/1/not/recorded")
    with pytest.raises(AssertionError, match="nothing to compare"):
        telemetry.last.assert_consistent()
