"""One run of wrk against one server: a generated script in, counted answers and times out.

What enters: a request, an address, connections and seconds. What leaves: `Load`, parsed from one
JSON line that the script prints at its end (wrk's own text rounds the figures).
The harness calls it once per round. It must never hide an answer outside 2xx or a socket error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed, run_bounded
from benchmarks.workloads import POOL, Request

MARK: Final = "fastgw-load "
RUN_GRACE_S: Final = 15.0
"""LIMIT: how much longer than asked wrk may take, connecting and ending included."""
REQUEST_TIMEOUT_S: Final = 10

_VARY: Final = """
local pool, at = {}, 0
init = function(args)
  for i = 1, %d do
    local headers = {}
    for name, value in pairs(wrk.headers) do headers[name] = value end
    headers[%s] = string.format("%%s%%04x", %s, i)
    pool[i] = wrk.format(nil, nil, headers)
  end
end
request = function() at = at %% %d + 1; return pool[at] end
"""

# SOURCE: wrk/SCRIPTING: `done` gets microseconds; `errors.status` counts answers above 399.
_DONE: Final = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('%s{"requests":%%d,"duration_us":%%d,"p50_us":%%d,"p90_us":%%d,' ..
    '"p99_us":%%d,"p999_us":%%d,"max_us":%%d,"refused":%%d,"socket_errors":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency:percentile(99.9), latency.max, e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How hard and how long to load: connections, whole seconds, the core of wrk."""

    connections: int
    seconds: int
    core: int


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk counted: answers, times in microseconds, answers above 399, socket errors."""

    requests: int
    duration_us: int
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    max_us: int
    refused: int
    socket_errors: int

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests * 1e6 / self.duration_us


def quote_lua(text: str) -> str:
    """Quote ASCII text as a Lua string. Raises ValueError on anything that Lua would read."""
    if not all(" " <= character <= "~" for character in text):
        raise ValueError("only printable ASCII can stand in a load script")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def build_script(request: Request) -> str:
    """Build the Lua script of one request, or of `POOL` that differ in one header of one size.

    They are formatted before the load begins, so that wrk only sends.
    """
    lines = ['wrk.method = "POST"', f"wrk.path = {quote_lua(request.path)}"]
    lines += [f"wrk.headers[{quote_lua(k)}] = {quote_lua(v)}" for k, v in request.headers.items()]
    lines.append(f"wrk.body = {quote_lua(request.body.decode('ascii'))}")
    if request.varied:
        start = request.headers[request.varied][:-4]
        lines.append(_VARY % (POOL, quote_lua(request.varied), quote_lua(start), POOL))
    return "\n".join(lines) + _DONE % MARK


def parse_output(text: str) -> Load:
    """Parse what wrk and the script printed.

    Raises:
        Failed: the script's line is missing or damaged, as when wrk could not connect at all.
    """
    for line in text.splitlines():
        if line.startswith(MARK):
            try:
                return Load(**json.loads(line.removeprefix(MARK)))
            except (ValueError, TypeError) as error:
                raise Failed(f"the load script printed a damaged line: {line[:120]}") from error
    raise Failed(f"wrk printed no result: {text.strip()[:200]}")


def run_load(request: Request, port: int, plan: LoadPlan, script: Path) -> Load:
    """Load one server and return what was counted.

    Args:
        request: what each connection sends, again and again.
        port: where the server listens on 127.0.0.1.
        plan: connections, whole seconds, and the core that wrk runs on.
        script: the file that takes the Lua script; it is overwritten.

    Raises:
        Failed: wrk failed, or did not end in time.
    """
    script.write_text(build_script(request))
    argv = ["wrk", "-t1", f"-c{plan.connections}", f"-d{plan.seconds}s"]
    argv += ["--timeout", f"{REQUEST_TIMEOUT_S}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    return parse_output(run_bounded(argv, plan.core, plan.seconds + RUN_GRACE_S, {}))
