"""A real browser: the example page produces from another origin, and the contract's own page."""

from __future__ import annotations

import json
import re
import shlex
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
import requests

from tests.integration import chromium
from tests.wire.gateway import ROOT, Gateway, run_fastgw, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.chromium import Browser
    from tests.wire.gateway import Stored

EXAMPLE = ROOT / "examples" / "browser"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the example's folder, and logs nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = chromium.find_chromium()
    if path is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(chromium.NAMES)}")
    with chromium.run(path, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("browser") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A web server on a port of its own, which makes it another origin than the gateway."""
    handler = partial(QuietHandler, directory=str(EXAMPLE))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def add_key(gateway: Gateway, name: str, origin: str, station: str) -> str:
    body = {"permissions": ["produce"], "stations": [station], "origins": [origin]}
    answer = requests.put(
        f"{gateway.url}/keys/{name}", json=body, headers=gateway.auth(), timeout=20
    )
    assert answer.status_code == 201, answer.text
    key = answer.json()["key"]
    assert isinstance(key, str)
    return key


def run_readme(gateway: Gateway, origin: str) -> str:
    """Run the commands of the example's README, with the page's address; return the key."""
    text = (EXAMPLE / "README.md").read_text("utf-8").replace("http://127.0.0.1:8000", origin)
    printed = ""
    for line in re.findall(r"^fastgw (.*)$", text, re.MULTILINE):
        done = run_fastgw(*shlex.split(line, comments=True), "--data", str(gateway.data))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        printed = done.stdout
    found = re.search(r"fgw_[A-Za-z0-9_-]{43}", printed)
    assert found is not None, printed
    return found[0]


def page_url(origin: str, gateway: Gateway, station: str, key: str) -> str:
    given = {"gateway": gateway.url, "station": station, "key": key}
    return f"{origin}/index.html#{urlencode(given)}"


def stored_after(gateway: Gateway, station: str, count: int) -> list[Stored]:
    def look() -> list[Stored]:
        found = gateway.stored(station)
        return found if len(found) >= count else []

    found = wait_until(look, what=f"{count} messages")
    assert isinstance(found, list)
    return found


def test_page_of_the_keys_origin_stores_clicks_and_its_beacon(
    browser: Browser, gateway: Gateway, origin: str
) -> None:
    key = run_readme(gateway, origin)
    page = browser.open(page_url(origin, gateway, "clicks", key))
    page.evaluate("document.getElementById('tea').click()")
    page.wait("document.querySelectorAll('li').length === 1")
    page.evaluate("document.getElementById('coffee').click()")
    told = page.wait(
        "document.querySelectorAll('li').length === 2 && document.getElementById('told').innerText"
    )
    assert told.split("\n") == ["tea: stored as number 1", "coffee: stored as number 2"]
    page.go(f"{origin}/README.md")
    tea, coffee, left = stored_after(gateway, "clicks", 3)
    assert [json.loads(one.data) for one in (tea, coffee)] == [
        {"what": "tea", "clicks": 1},
        {"what": "coffee", "clicks": 2},
    ]
    assert json.loads(left.data)["what"] == "left"
    assert json.loads(left.data)["clicks"] == 2
    assert (tea.header("Content-Type"), left.header("Content-Type")) == (
        "application/json",
        "text/plain;charset=UTF-8",
    )
    assert tea.header("Origin") == left.header("Origin") == origin
    assert key not in gateway.log_text()
    for one in (tea, coffee, left):
        assert key not in str(one)
    page.close()


def test_key_of_another_origin_is_refused_and_the_page_shows_it(
    browser: Browser, gateway: Gateway, origin: str
) -> None:
    key = add_key(gateway, "other", "https://shop.example", "foreign")
    page = browser.open(page_url(origin, gateway, "foreign", key))
    page.evaluate("document.getElementById('tea').click()")
    told = page.wait("document.querySelector('li.bad') && document.querySelector('li').innerText")
    assert told.startswith("tea: 403, ")
    page.close()
    assert gateway.stored("foreign") == []


def test_unknown_key_is_refused_and_the_page_shows_it(
    browser: Browser, gateway: Gateway, origin: str
) -> None:
    page = browser.open(page_url(origin, gateway, "nobodys", "fgw_no-such-key"))
    page.evaluate("document.getElementById('tea').click()")
    told = page.wait("document.querySelector('li.bad') && document.querySelector('li').innerText")
    assert told == "tea: 401, Unauthorized"
    page.close()


def test_docs_page_shows_every_operation_and_produces(browser: Browser, gateway: Gateway) -> None:
    document = requests.get(f"{gateway.url}/openapi.json", timeout=20).json()
    wanted = sorted(
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    )
    page = browser.open(f"{gateway.url}/docs")
    page.wait("document.querySelectorAll('details').length > 0")
    shown = page.evaluate("[...document.querySelectorAll('details')].map((one) => one.id)")
    assert sorted(shown) == wanted
    for width in (320, 1280):
        page.show(width, 800, "dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    filled = {"token": gateway.token(), "station": "tried", "message": '{"by":"hand"}'}
    for name, value in filled.items():
        page.evaluate(f"document.getElementById('{name}').value = {json.dumps(value)}")
    page.evaluate("document.getElementById('try').requestSubmit()")
    told = page.wait("document.getElementById('outcome').innerText")
    assert told.startswith("200 OK")
    assert "Nats-Sequence: 1" in told
    (message,) = gateway.stored("tried")
    assert message.data == b'{"by":"hand"}'
    page.close()


def test_docs_page_runs_no_script_but_its_own(browser: Browser, gateway: Gateway) -> None:
    page = browser.open(f"{gateway.url}/docs")
    page.wait("document.querySelectorAll('details').length > 0")
    add = "document.head.append(Object.assign(document.createElement('script'), {text: '%s'}))"
    page.evaluate(add % "window.wasRun = true")
    assert page.evaluate("window.wasRun === undefined")
    elsewhere = "fetch('http://127.0.0.1:9/').then(() => 'went', (error) => error.name)"
    blocked = (
        "new Promise((resolve) => { addEventListener('securitypolicyviolation',"
        f" (event) => resolve(event.effectiveDirective)); {elsewhere}; }})"
    )
    assert page.evaluate(blocked) == "connect-src"
    page.close()
