"""Texts that try to become markup, script or an address, in every field that a user of the library can fill."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

import aiotaskq.web.dashboard as package
from aiotaskq import TaskQ
from aiotaskq.core.catalogue import LONGEST
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.site import pages
from aiotaskq.web.dashboard.words import Words
from tests.support.machine import within
from tests.web.dashboard.conftest import Browse, form_token, in_starlette
from tests.web.dashboard.sample import chosen_addresses, filled

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    '" onfocus=alert(1) autofocus x="',
    "' style='position:fixed;inset:0",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<iframe src=javascript:alert(1)></iframe>",
    "</pre></div><!--end task--><style>*{display:none}</style>",
    "--><x><!--end rows--></div><form action=//evil.example>",
    "]]><![CDATA[<x/>",
    "&lt;script&gt;&#60;x&#62;&amp;",
    "javascript:alert(1)//<x>",
    "//evil.example/<x>",
    "{{7*7}}{% raw %}${7*7}#{7*7}<%= 7*7 %>",
    "{0}{text}{self.__class__}{",
    "%(text)s %s %n %d",
    "\u202egnp.exe\u2066 \u200b\u200d\ufeff <x>",
    "a\x01b\x1b[31mc\x7fd\x85<x>\u2028",
    "line\nline\r\n<x>\tend",
    "👩‍👩‍👧‍👦🏴‍☠️ é́́́́́ 中文字",
    "W" * 10_000,
    "'; DROP TABLE tasks; --",
    "../../etc/passwd?x=<x>&y#z",
]
TEMPLATES = "".join(
    path.read_text(encoding="utf-8") for path in (Path(package.__file__).parent / "templates").glob("*.html")
)
TAGS = set(re.findall(r"<([a-z][a-z0-9]*)", TEMPLATES))
NAMES = {name.lower() for name in re.findall(r"([a-zA-Z][\w-]*)(?:=\"|(?=[\s>{]))", TEMPLATES)} | {"data-label"}
"""Every word of a template that can be the name of an attribute."""
ADDRESSES = {"href", "src", "action", "formaction", "data", "xlink:href", "poster", "srcset"}


class Markup(HTMLParser):
    """Notes what no template has written."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.scripts = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag.lower() not in TAGS:
            self.problems.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name in ("style", "srcdoc") or name not in NAMES:
                self.problems.append(f"<{tag} {name}={value}>")
            elif name in ADDRESSES:
                where = urlsplit(value or "")
                if where.scheme or where.netloc:
                    self.problems.append(f"<{tag} {name}={value}>")

    def handle_comment(self, data: str) -> None:
        if not re.fullmatch(r"end [\w-]+", data):
            self.problems.append(f"<!--{data}-->")

    def unknown_decl(self, data: str) -> None:
        self.problems.append(f"<![{data}]>")


def markup_of(page: str) -> list[str]:
    found = Markup(page)
    return found.problems if found.scripts == 1 else [f"{found.scripts} scripts", *found.problems]


def test_the_parser_sees_markup_of_others() -> None:
    page = "<script src='static/dashboard.js'></script>"
    assert markup_of(page) == []
    for text in HOSTILE[:4]:
        assert markup_of(f'{page}<input value="{text}">{text}') != [], text


async def test_no_text_is_markup_on_any_page(tq: TaskQ) -> None:
    async with filled(tq, *HOSTILE) as sample, in_starlette(tq, show_args=True) as browse:
        each = list(sample.addresses())
        for language, wanted in (("en", each[::4]), ("zh", each[1::8])):  # the templates are the same
            browse.headers["Accept-Language"] = language
            found = {}
            for address in wanted:
                reply = await browse.get(address)
                assert reply.status_code == 200, address
                if problems := markup_of(reply.text):
                    found[address] = problems
                assert "49{%" not in reply.text and "${49}" not in reply.text
            assert found == {}


async def test_data_is_json_whatever_the_texts_are(tq: TaskQ) -> None:
    async with filled(tq, *HOSTILE) as sample, in_starlette(tq, show_args=True) as browse:
        for address in chosen_addresses(sample):
            reply = await browse.get(address, params={"format": "json"} if "?" not in address else None)
            if "?" in address:
                reply = await browse.get(f"{address}&format=json")
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-content-type-options"] == "nosniff"
            msgspec.json.decode(reply.content)


@pytest.mark.parametrize("number", range(len(HOSTILE) - 2))
async def test_no_text_of_an_address_or_a_form_is_markup(browse: Browse, number: int) -> None:
    """Filters, questions, messages, problems and forms that are shown again; each gets half of the texts."""
    text = [*HOSTILE[:-3], "W" * 200][number]
    names = (
        "id",
        "key",
        "queue",
        "name",
        "task_type",
        "timing",
        "description",
        "params",
        "value",
        "ttl",
        "cap",
        "type",
    )
    fields = dict.fromkeys(names, text) | {"form_token": form_token(await browse.get(""))}
    for page in [*pages.values()][number % 2 :: 2]:
        reply = await browse.get(page.name, params=dict.fromkeys(page.parameters, text))
        assert markup_of(reply.text) == [], page.name
    names = ["tasks.cancel", "limits.pause", "values.delete", "schedules.delete", "groups.cancel", "values.set"]
    names += ["schedules.add", "schedules.update", "queues.pause", "limits.set", "nowhere"]
    for name in names[number % 2 :: 2]:
        reply = await browse.post(name, data=fields, headers={"Sec-Fetch-Site": "same-origin"})
        assert reply.status_code == 303 or markup_of(reply.text) == [], name
    reply = await browse.get("queues")  # with the message that the last change has left
    assert markup_of(reply.text) == []


def test_a_value_does_not_turn_the_sentence_around_it() -> None:
    said = Words("en", "UTC")("The queue {queue} is paused.", queue="\u202eabc\u2067")
    assert said == "The queue \ufffdabc\ufffd is paused."
    assert Message("{queue}", {"queue": "\u202e"}).values == {"queue": "\u202e"}


NESTED = ["a: ", "x; did you mean y", "a b is not in 1-2 ", "c is not in ", " "]
PIECES_OUT_OF_ORDER = " nor " + " is neither --" * 150


@pytest.mark.parametrize("text", [*HOSTILE, *NESTED, PIECES_OUT_OF_ORDER], ids=range(len(HOSTILE + NESTED) + 1))
def test_no_error_text_is_slow_to_translate(text: str) -> None:
    """Patterns of known errors are tried on texts of any kind: their cost must not grow faster than the text."""
    words = Words("zh", "UTC")
    assert words.error("a task has been ready for 5 s") != "a task has been ready for 5 s"  # the patterns are read
    for length in (LONGEST, 20_000):
        began = time.process_time()
        assert words.error((text * length)[:length])
        assert time.process_time() - began < within(1)
