"""The services in examples/ run, are scraped, traced and probed, and stop."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.services.program import ROOT, environment
from tests.support import PATIENCE_SECONDS

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
SERVED = re.compile(r"http://127\.0\.0\.1:\d+")


@contextmanager
def service(name: str, errors: Path) -> Iterator[tuple[str, str]]:
    """The address of a running example, and that of its ops routes; at the end it is asked to stop, and does."""
    with errors.open("w") as log:
        program = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", ROOT / "examples" / f"{name}.py"],
            cwd=ROOT,
            env=environment({"PORT": "0", "PYTHONPATH": str(ROOT), "QORZEN_TELEMETRY__LOG_LEVEL": "off"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert program.stdout is not None
            found: list[str] = []
            for line in program.stdout:
                log.write(line)
                found += SERVED.findall(line)
                if len(found) == (2 if name == "aiohttp_service" else 1):
                    break
            else:
                pytest.fail(f"it ended: {errors.read_text()}")
            ops = found[0] if len(found) == 2 else f"{found[0]}/ops"
            yield found[-1], ops
            program.send_signal(signal.SIGINT)
            rest, _ = program.communicate(timeout=PATIENCE_SECONDS)
            assert "Traceback" not in rest, rest
            assert program.returncode in (0, -signal.SIGINT)
        finally:
            program.kill()
            program.communicate()


@pytest.mark.parametrize("name", ["aiohttp_service", "fastapi_service"])
async def test_an_example_service_runs_and_is_observed(name: str, tmp_path: Path) -> None:
    with service(name, tmp_path / "output.txt") as (url, ops):
        async with aiohttp.ClientSession() as session:

            async def get(address: str) -> object:
                async with session.get(address) as response:
                    assert response.status == 200, address
                    return await response.json()

            async with session.post(f"{url}/reports?city=Oslo", headers=PARENT) as answer:
                assert answer.status == 202
                task_id = (await answer.json())["id"]
            async with session.get(f"{url}/greetings/Ada") as answer:
                assert (await answer.text()).strip('"').startswith("hello Ada, from task ")

            async def report() -> dict[str, object]:
                answer = await get(f"{url}/reports/{task_id}")
                assert isinstance(answer, dict)
                return answer

            while (seen := await report())["status"] != "completed":
                pass
            assert seen == {"status": "completed", "percent": 100.0, "report": "Oslo:0 Oslo:1 Oslo:2"}

            for probe in ("livez", "readyz", "startupz"):
                async with session.get(f"{ops}/{probe}") as answer:
                    assert answer.status == 200, probe
            async with session.get(f"{ops}/metrics") as answer:
                assert answer.headers["Content-Type"].startswith("text/plain")
                text = await answer.text()
            finished = 'qorzen_tasks_finished_total{category="%s",priority="normal",status="completed"} 1.0'
            assert finished % "background" in text
            assert finished % "core" in text
            async with session.get(f"{ops}/") as answer:
                assert "text/html" in answer.headers["Content-Type"]

            shown = await get(f"{ops}/api/tasks/{task_id}")
            assert isinstance(shown, dict)
            assert shown["trace_id"] == TRACE
            spans = await get(f"{ops}/api/traces/{TRACE}")
            assert CALLER in str(spans)
