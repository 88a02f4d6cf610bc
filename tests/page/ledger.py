#!/usr/bin/env python3
"""Uses the ledger view of the operators' page in a headless Chromium like a person: with keyboard and mouse, at the widths of a phone
and of a large screen, in both themes. The page belongs to a real service with tokens, whose ledger contains hostile texts.

usage: ledger.py BINARY CHROMIUM [DIRECTORY-FOR-SCREENSHOTS]
"""

import base64
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

# The time within which the page must show an expected text, in seconds. It is long, because no check here measures speed.
WAIT_MAX = 60
HOSTILE_KEY = "<script>window.hacked=1</script>"
HOSTILE_VALUE = "<img src=x onerror=window.hacked=1> \u202e \"'&"
WIDE = (1 << 128) - 2
PAYMENTS = 120
PHONE, SCREEN = 360, 1280
CHECKS = pathlib.Path(__file__).with_name("checks.js").read_text(encoding="utf-8")


class Fault(Exception):
    """A fault of the page."""


class Elsewhere(Fault):
    """The browser went to another page while it evaluated an expression."""


def expect(condition, text):
    if not condition:
        raise Fault(text)


# ===== the service


class Service:
    """A service with three tokens: for reading everything, for writing, and for reading ids that begin with `acme/`."""

    def __init__(self, binary, scratch):
        self.binary, self.scratch = binary, scratch
        self.tokens = {
            "reader": self.token("read"),
            "writer": self.token("write"),
            "tenant": self.token("read", "--prefix", "acme/"),
        }
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", scratch / "data"]
        environment = {
            **os.environ,
            "TALLY__SECURITY__TOKENS_FILE": str(scratch / "tokens"),
            "TALLY__BREAKER__SLOW_THRESHOLD": "60s",
        }
        self.log = open(scratch / "service.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True)
        addresses = {}
        while len(addresses) < 2:
            line = self.process.stdout.readline()
            expect(line, "the service did not start: " + (scratch / "service.log").read_text(encoding="utf-8"))
            name, _, address = line.strip().partition(" on ")
            addresses[name] = "http://" + address
        self.endpoint, self.operators = addresses["listening"], addresses["operators"]

    def token(self, role, *arguments):
        name = f"{role}{len(arguments)}"
        file = self.scratch / f"{name}.token"
        command = [self.binary, "token", "--role", role, "--name", name, "--tokens-file", self.scratch / "tokens", "--out", file]
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        return file.read_text(encoding="utf-8").strip()

    def process_transactions(self, transactions):
        file = self.scratch / "transactions.ndjson"
        file.write_text("".join(json.dumps(transaction) + "\n" for transaction in transactions), encoding="utf-8")
        command = [self.binary, "import", "--endpoint", self.endpoint, "--token-file", self.scratch / "write0.token"]
        command += ["--asset", "EUR", "--create-accounts", "--allow-rejected", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        expect(done.returncode == 0, f"the import failed: {done.stdout}{done.stderr}")

    def create_account(self, account):
        """Sends the bytes of a CreateAccountRequest, because no command of `tally` creates an account with metadata and limits."""
        message = field(1, account)
        (self.scratch / "message").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        command = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--header", "content-type: application/grpc"]
        command += ["--header", "te: trailers", "--header", f"authorization: Bearer {self.tokens['writer']}"]
        command += ["--data-binary", f"@{self.scratch / 'message'}", "--output", self.scratch / "answer"]
        command += ["--dump-header", self.scratch / "head", f"{self.endpoint}/tally.v1.AccountService/CreateAccount"]
        subprocess.run(command, check=True)
        head = (self.scratch / "head").read_text(encoding="utf-8")
        expect(re.search(r"^grpc-status: 0\s*$", head, re.MULTILINE), f"the account was not created: {head}")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """Returns the bytes of a field of a protobuf message. The value is a number, a text, or the bytes of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def wallet():
    """Returns the bytes of an account with the rule CREDIT_BALANCE, an overdraft limit, hostile metadata, and a daily limit."""
    units = lambda amount: field(1, amount)
    limit = field(1, 1) + field(2, field(1, 86_400)) + field(3, 500) + field(4, units(1_000_000)) + field(5, units(50_000))
    parts = [field(1, "acme/wallet:1"), field(2, "EUR"), field(3, 2), field(4, units(1000))]
    parts += [field(6, field(1, HOSTILE_KEY) + field(2, HOSTILE_VALUE)), field(6, field(1, "customer") + field(2, "Ada")), field(10, limit)]
    return b"".join(parts)


def transfer(debit, credit, units):
    amount = {"minor_units": str(units)}
    if units >= 1 << 63:
        amount = {"wide_minor_units": {"high": str(units >> 64), "low": str(units & (1 << 64) - 1)}}
    return {"debit_account_id": debit, "credit_account_id": credit, "code": 7, **amount}


def transactions():
    """Yields PAYMENTS payments to the wallet, then a hold, a partial capture of the hold, a reversal, a rejection, and others."""
    def made(name, *transfers, **rest):
        return {"transaction_id": name, "transfers": list(transfers), **rest}
    for number in range(1, PAYMENTS + 1):
        metadata = {"metadata": {HOSTILE_KEY: HOSTILE_VALUE}} if number == 7 else {}
        yield made(f"acme/pay-{number:03}", transfer("bank", "acme/wallet:1", number), effective_time="2026-01-31T12:00:00Z", **metadata)
    hold = transfer("acme/wallet:1", "other/shop", 500)
    yield made("acme/hold-1", hold, phase="TRANSACTION_PHASE_PENDING", pending_timeout="86400s")
    yield made("acme/capture-1", {**hold, "minor_units": "120"}, phase="TRANSACTION_PHASE_POST_PENDING",
               pending_transaction_id="acme/hold-1", keep_remaining=True)
    yield made("acme/refund-1", reverses_transaction_id="acme/pay-007")
    yield made("acme/wide", transfer("acme/mint", "acme/vault", WIDE))
    yield made("acme/too-much", transfer("acme/wallet:1", "other/shop", 40_000))
    yield made("other/sale", transfer("other/shop", "other/bank", 5))


# ===== the browser


class Browser:
    """A Chromium with one page. The test controls it through a pipe with the DevTools protocol."""

    def __init__(self, program, scratch):
        commands, self.commands = os.pipe()
        self.messages, messages = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync", "--hide-scrollbars"]
        options += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={scratch / 'profile'}", "about:blank"]
        # Chromium reads commands from descriptor 3, and writes messages to descriptor 4.
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{messages}', program, *options]
        self.log = open(scratch / "chromium.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(shell, pass_fds=(commands, messages), stdout=self.log, stderr=self.log)
        os.close(commands)
        os.close(messages)
        self.rest, self.number, self.session = b"", 0, None
        self.errors, self.requests = [], set()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Accessibility"]:
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                # The error code of the DevTools protocol if the page no longer exists.
                if answer.get("error", {}).get("code") == -32000 and method == "Runtime.evaluate":
                    raise Elsewhere(f"{method}: {answer['error']}")
                expect("error" not in answer, f"{method}: {answer.get('error')}")
                return answer["result"]
            self.notice(answer.get("method"), answer.get("params"))

    def receive(self):
        while b"\0" not in self.rest:
            read = os.read(self.messages, 1 << 20)
            expect(read, "Chromium ended")
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def notice(self, method, parameters):
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"])[:500])
        if method == "Network.requestWillBeSent":
            self.requests.add(parameters["request"]["url"])

    def js(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        expect("exceptionDetails" not in result, f"{expression}: {result.get('exceptionDetails')}")
        return result["result"].get("value")

    def wait(self, expression, what=None):
        until = time.monotonic() + WAIT_MAX
        while not self.holds(expression):
            if time.monotonic() > until:
                raise Fault(f"the page does not show {what or expression}:\n{self.js('document.body.innerText.slice(0, 3000)')}")
            time.sleep(0.05)

    def holds(self, expression):
        try:
            return self.js(expression)
        except Elsewhere:
            return False

    def shows(self, text, inside="body"):
        self.wait(f"{text_of(inside)}.includes({json.dumps(text)})", f"{text!r} in {inside}")

    def open(self, url):
        self.send("Page.navigate", url=url)
        # The document is complete only after the script of the page has run.
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def type(self, text):
        self.send("Input.insertText", text=text)

    def press(self, key, shift=False):
        codes = {"Enter": (13, "\r"), "Tab": (9, "")}
        code, text = codes[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector):
        """Clicks at the position of the element, so that the test fails if another element covers it."""
        place = f"document.querySelector({json.dumps(selector)})"
        x, y = self.js(f"(() => {{ const one = {place}; one.scrollIntoView({{ block: 'center' }}); const box = one.getClientRects()[0];"
                       " return [box.left + box.width / 2, box.top + box.height / 2]; })()")
        for kind in ["mousePressed", "mouseReleased"]:
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def fit(self, width, theme):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def picture(self, file):
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(taken["data"]))

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def text_of(selector):
    """Returns an expression for the visible text of an element: for a hidden element, `innerText` alone would return its text."""
    place = f"document.querySelector({json.dumps(selector)})"
    return f"({place}.getClientRects().length > 0 ? {place}.innerText.replaceAll('\\u00a0', ' ') : '')"


def cells(table, column):
    return (f"[...document.querySelectorAll({json.dumps('#' + table + ' tbody tr')})].filter(row => row.cells.length > 1)"
            f".map(row => row.cells[{column}].innerText)")


# ===== the checks


class View:
    """The ledger view in a browser, with the data of `transactions`."""

    def __init__(self, service, browser, pictures):
        self.service, self.browser, self.pictures, self.count = service, browser, pictures, 0

    def run(self):
        for check in [self.asks_for_a_token, self.finds_an_account, self.shows_hostile_text_as_text, self.pages_through_a_statement,
                      self.shows_transactions, self.says_that_an_id_is_unknown, self.follows_the_newest_transactions,
                      self.fits_screens_and_phones, self.shows_a_tenant_its_own, self.loads_nothing_from_elsewhere]:
            print(f"ledger view: {check.__name__.replace('_', ' ')}", file=sys.stderr)
            check()
            self.count += 1

    def give(self, token):
        self.browser.js("document.getElementById('secret').focus()")
        self.browser.type(self.service.tokens.get(token, token))
        self.browser.press("Enter")

    def find(self, text):
        self.browser.js("document.getElementById('id').focus(); document.getElementById('id').select()")
        self.browser.type(text)
        self.browser.press("Enter")

    def asks_for_a_token(self):
        page = self.browser
        page.open(self.service.operators + "/")
        page.wait("document.querySelector('a[href=ledger]') !== null")
        page.click("a[href=ledger]")
        page.wait("document.readyState === 'complete' && location.pathname === '/ledger'")
        page.shows("The ledger is shown only to callers with a token.")
        expect(page.js("document.getElementById('feed').hidden"), "the newest transactions are shown without a token")
        self.give("not-a-token")
        page.shows("The token is not valid. The ledger is shown only to callers with a token.")
        self.give("reader")
        page.shows("other/sale", "#feed")
        expect(page.js("document.getElementById('token').hidden"), "the page still asks for a token")
        expect(page.js("localStorage.length === 0 && document.cookie === ''"), "the token is in a lasting storage")
        secret = json.dumps(self.service.tokens["reader"])
        expect(not page.js(f"(location.href + document.documentElement.outerHTML).includes({secret})"), "the token is in the document")
        page.js("document.body.dataset.before = 1")
        page.send("Page.reload")
        page.wait("document.body && !document.body.dataset.before && document.body.dataset.looks > 0", "the newest transactions after it was loaded again")

    def finds_an_account(self):
        page = self.browser
        self.find("acme/wallet:1")
        page.shows("Account acme/wallet:1", "#account-name")
        expect(page.js("document.activeElement.id") == "account-name", "the keyboard is not at the account that was found")
        page.shows("Account acme/wallet:1 found.", "#message")
        credits = PAYMENTS * (PAYMENTS + 1) // 2
        facts = page.js("Object.fromEntries([...document.querySelectorAll('#account-facts div')].map(one => [one.children[0].innerText, one.children[1].innerText.split('\\n')[0]]))")
        expected = {
            "Balance": f"{credits - 127:,} EUR", "Available": f"{credits - 127 - 380 + 1000:,}", "Debits posted": "127",
            "Credits posted": f"{credits:,}", "Debits pending": "380", "Credits pending": "0", "Status": "open", "Rule": "debits ≤ credits",
        }
        expect({name: facts.get(name) for name in expected} == expected, f"the account shows {facts}")
        page.shows("with an overdraft of 1,000", "#account-facts")
        limit = page.js("[...document.querySelectorAll('#account-more td')].map(cell => cell.innerText).slice(0, 5)")
        expect(limit == ["debit", "1 d", "500", "1,000,000", "50,000"], f"the limit is {limit}")
        page.shows("acme/hold-1", "#holds")
        expect(page.js(cells("holds", 4)) == ["380"], "the hold does not reserve 380")

    def shows_hostile_text_as_text(self):
        page = self.browser
        page.shows(HOSTILE_KEY, "#account-more")
        page.shows(HOSTILE_VALUE, "#account-more")
        self.find("acme/pay-007")
        page.shows(HOSTILE_VALUE, "#transaction-more")
        self.find("<img src=x onerror=window.hacked=1>")
        page.wait("document.getElementById('message').className === 'bad'")
        page.shows("account_id", "#message")
        expect(page.js("window.hacked === undefined && document.querySelector('img, main script') === null"), "text became a part of the page")

    def pages_through_a_statement(self):
        page = self.browser
        self.find("acme/wallet:1")
        page.shows("page 1", "#entries-page")
        # The payments, the hold, the capture and the reversal.
        expected = [f"{number:,}" for number in range(PAYMENTS + 3, 0, -1)]
        sequences = page.js(cells("entries", 0))
        is_last = "document.getElementById('older').getAttribute('aria-disabled') === 'true'"
        number = 1
        while not page.js(is_last):
            number += 1
            page.click("#older")
            page.shows(f"page {number}", "#entries-page")
            sequences += page.js(cells("entries", 0))
        expect(sequences == expected, f"the statement has the sequences {sequences}")
        expect(page.js(cells("entries", 6))[-1] == "1", "the first balance is not 1")
        page.js("document.getElementById('newer').focus()")
        page.press("Enter")
        page.shows(f"page {number - 1}", "#entries-page")
        page.click("#newest")
        page.shows("page 1", "#entries-page")
        balances = page.js(cells("entries", 6))
        expect(balances[0].startswith(f"{PAYMENTS * (PAYMENTS + 1) // 2 - 127:,}"), f"the newest balance is {balances[0]}")
        expect("pending: debits 380" in balances[0], f"the newest row shows {balances[0]}")

    def shows_transactions(self):
        page = self.browser
        page.click("#entries tbody a")
        page.shows("Transaction acme/refund-1", "#transaction-name")
        page.shows("acme/pay-007", "#transaction-facts")
        page.shows("Moved: 7.", "#transfers")
        page.js("history.back()")
        page.shows("Account acme/wallet:1", "#account-name")
        for name, texts in {
            "acme/pay-007": ["committed", "sequence 7", "posted", "Reversed by", "acme/refund-1", "Sent by", "write0", "Block", "Business time"],
            "acme/hold-1": ["hold", "pending", "Deadline of the hold", "120", "380"],
            "acme/capture-1": ["post of a hold", "acme/hold-1", "what was not posted stayed reserved"],
            "acme/too-much": ["rejected", "INSUFFICIENT_FUNDS", "needs 40,000"],
            "acme/wide": [f"{WIDE:,}"],
        }.items():
            self.find(name)
            page.shows(f"Transaction {name}", "#transaction-name")
            for text in texts:
                page.shows(text, "#transaction")
        self.find("acme/vault")
        page.shows(f"{WIDE:,} EUR", "#account-facts")

    def says_that_an_id_is_unknown(self):
        page = self.browser
        self.find("acme/nothing")
        page.shows("No account and no transaction has the id acme/nothing, or this token must not see it.", "#message")
        expect(page.js("document.getElementById('account').hidden && document.getElementById('transaction').hidden"), "something else is shown")

    def follows_the_newest_transactions(self):
        page = self.browser
        expect(page.js(cells("newest-transactions", 0))[0] == f"{PAYMENTS + 5:,}", "the newest transaction is not the last one")
        self.service.process_transactions([{"transaction_id": "other/live", "transfers": [transfer("bank", "other/shop", 77)]}])
        page.wait(f"{cells('newest-transactions', 2)}[0].startsWith('other/live')", "the new transaction")
        expect(page.js(cells("newest-transactions", 5))[0] == "77", "the new transaction has another amount")
        sequences = page.js(cells("newest-transactions", 0))
        expect(sequences == [str(number) for number in range(PAYMENTS + 6, PAYMENTS - 44, -1)], f"the newest transactions are {sequences}")
        page.click("#follow")
        expect(page.js("document.getElementById('follow').getAttribute('aria-pressed')") == "false", "the page still follows")
        page.click("#follow")

    def fits_screens_and_phones(self):
        page = self.browser
        for theme in ["light", "dark"]:
            for width in [PHONE, SCREEN]:
                page.fit(width, theme)
                for name, part in {"acme/wallet:1": "account", "acme/hold-1": "transaction"}.items():
                    self.find(name)
                    page.shows(name, f"#{part}-name")
                    page.wait("document.querySelector('#entries tbody') !== null || location.hash.endsWith('hold-1')")
                    findings = page.js(f"(() => {{ {CHECKS}\nconst findings = [], found = text => findings.push(text);"
                                       " checkContrast(found, 80); checkLayout(found); checkAccessibility(found); return findings; })()")
                    if self.pictures:
                        page.picture(self.pictures / f"ledger-{part}-{theme}-{width}.png")
                    expect(not findings, f"{name}, {width} px, {theme}:\n" + "\n".join(findings[:20]))
        page.fit(PHONE, "light")
        self.has_names()
        page.fit(SCREEN, "light")

    def has_names(self):
        """Checks that each link, button and field has a name for screen readers, and that tables still are tables for them in the layout
        of a phone, where CSS shows them as lists."""
        nodes = self.browser.send("Accessibility.getFullAXTree")["nodes"]
        roles = {}
        for node in nodes:
            role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "")
            roles.setdefault(role, []).append(name)
        for role in ["link", "button", "searchbox"]:
            names = roles.get(role, [])
            expect(names and all(names), f"a {role} has no name: {names}")
        # Column headings are not checked: on a phone, the page hides them and shows the name of the column beside each value.
        for role in ["table", "row", "cell", "search", "status"]:
            expect(roles.get(role), f"the page has no {role}: {sorted(map(str, roles))}")

    def shows_a_tenant_its_own(self):
        page = self.browser
        page.click("#forget")
        page.shows("The token is forgotten. The ledger is shown only to callers with a token.", "#message")
        expect("acme/" not in page.js("document.querySelector('main').textContent"), "what the token showed is still in the document")
        expect(page.js("sessionStorage.length") == 0, "the token is still stored")
        self.give("tenant")
        page.shows("acme/wide", "#feed")
        expect("other/" not in page.js("document.querySelector('main').textContent"), "the tenant sees ids of others")
        self.find("other/shop")
        page.shows("No account and no transaction has the id other/shop, or this token must not see it.", "#message")
        self.find("acme/hold-1")
        page.shows("not visible to this token", "#transfers")

    def loads_nothing_from_elsewhere(self):
        page = self.browser
        expect(not page.errors, "errors of the script:\n" + "\n".join(page.errors))
        elsewhere = [url for url in page.requests if not url.startswith((self.service.operators + "/", "data:,", "about:blank"))]
        expect(not elsewhere, f"the page asked {elsewhere}")
        secrets = [url for url in page.requests if any(token in url for token in self.service.tokens.values())]
        expect(not secrets, "a token is in an address")


def main():
    binary, chromium = sys.argv[1:3]
    # After a timeout, `timeout` in tests/page/run sends SIGTERM. Then the service and Chromium must be stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("tests/page/ledger.py: stopped"))
    pictures = pathlib.Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        scratch = pathlib.Path(directory)
        service, browser = Service(binary, scratch), None
        try:
            service.create_account(wallet())
            service.process_transactions(transactions())
            browser = Browser(chromium, scratch)
            browser.fit(SCREEN, "light")
            view = View(service, browser, pictures)
            view.run()
            print(f"ledger view: {view.count} passed, 0 failed")
        except Fault as fault:
            if browser and pictures:
                browser.picture(pictures / "ledger-fault.png")
            sys.exit(f"tests/page/ledger.py: {fault}")
        finally:
            if browser:
                browser.stop()
            service.stop()


if __name__ == "__main__":
    main()
