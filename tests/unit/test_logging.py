"""The gateway's log: one line a record, and never what a traceback's variables hold."""

import json
import logging
import os
import subprocess
import sys

import pytest
import structlog

from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.settings import LoggingSettings

pytestmark = pytest.mark.usefixtures("restored_logging")


def fail() -> None:
    document = "the content of a document"
    raise RuntimeError(f"failed with {len(document)} bytes")


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("library", [False, True])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], format_: str, library: bool) -> None:
    configure_logging(LoggingSettings(format=format_))  # type: ignore[arg-type]
    try:
        fail()
    except RuntimeError:
        if library:
            logging.getLogger("library").exception("it broke")
        else:
            structlog.get_logger("ours").exception("it broke")
    written = capsys.readouterr().err
    assert "it broke" in written
    assert "failed with 25 bytes" in written
    assert "the content of a document" not in written.replace('document = "the content of a document"', "")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings(format="json", level="warning"))
    structlog.get_logger("ours").info("not written")
    structlog.contextvars.bind_contextvars(request_id="r1")
    try:
        structlog.get_logger("ours").warning("written", n=1)
    finally:
        structlog.contextvars.clear_contextvars()
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["event"], record["n"], record["request_id"], record["level"]) == ("written", 1, "r1", "warning")
    assert record["logger"] == "ours"
    assert "timestamp" in record


def test_grpc_s_core_writes_nothing_past_our_log() -> None:
    code = (
        "import changefeed_gateway.cli.main, grpc, asyncio\n"
        "async def main():\n"
        "    try: grpc.aio.server().add_insecure_port('256.1.1.1:99999')\n"
        "    except RuntimeError: print('refused')\n"
        "asyncio.run(main())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
