"""From a request to a reply: checks access, origin and form, runs a page or an action, and renders what it returns."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.backends.read_limit import limited_reads
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import mask
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.web.access import is_encrypted, is_same_origin
from aiotaskq.web.dashboard import session
from aiotaskq.web.dashboard.live import PAGE_TIMEOUT, READ_LIMIT, Live, render
from aiotaskq.web.dashboard.pages.activity import activity
from aiotaskq.web.dashboard.pages.events import events
from aiotaskq.web.dashboard.pages.failures import failures
from aiotaskq.web.dashboard.pages.groups import groups
from aiotaskq.web.dashboard.pages.limits import limits
from aiotaskq.web.dashboard.pages.overview import overview
from aiotaskq.web.dashboard.pages.queues import queues
from aiotaskq.web.dashboard.pages.schedules import schedules
from aiotaskq.web.dashboard.pages.settings import settings
from aiotaskq.web.dashboard.pages.tasks import tasks
from aiotaskq.web.dashboard.pages.types import types
from aiotaskq.web.dashboard.pages.values import values
from aiotaskq.web.dashboard.pages.workers import workers
from aiotaskq.web.dashboard.session import Login, UserLogin
from aiotaskq.web.dashboard.view import (
    Page,
    Preview,
    Question,
    Shared,
    View,
    actions,
    back_of,
    link,
    pages,
    target_link,
    thing_of,
)
from aiotaskq.web.dashboard.words import LANGUAGES, Words, language_of, marked
from aiotaskq.web.endpoint import JSON, media_type_of, read_body
from aiotaskq.web.policy import MAX_BODY, Actor, Allow, CheckUser, Policy, actor_of, original
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem, ProblemError, answered, make_problem

HTML = "text/html; charset=utf-8"

# Nothing of a page may come from elsewhere, and nothing inline runs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SECURITY = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

OF_A_FORM = "private, no-cache"
"""The browser keeps what follows a form without a redirect, for its button Back."""
FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@functools.cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return content, media type and tag of each file by its name."""
    contents = {path: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in TYPES}
    return {
        path.name: (content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        for path, content in contents.items()
    }


def asset(name: str, headers: Mapping[str, str]) -> Response:
    """Return a file; 304 where the browser has this version, 404 where there is no such file."""
    known = _files().get(name)
    if known is None:
        return reply(b"", 404, media_type="text/plain")
    content, media_type, tag = known
    same = headers.get("if-none-match") == tag
    return reply(b"" if same else content, 304 if same else 200, ("ETag", tag), cache="no-cache", media_type=media_type)


MENU = (
    overview,
    tasks,
    failures,
    types,
    queues,
    workers,
    limits,
    groups,
    schedules,
    events,
    values,
    activity,
    settings,
)
"""The pages in the menu, in its order."""
VIEW = "view"
"""What ``allow`` is asked for a page that only shows."""
THEMES = ("light", "dark")
UPDATE = "live"
"""The path by which an open page asks for what has changed."""
MAX_SENT = MAX_BODY - 16 * 1024
"""Bytes up to which the login page carries a form along; the fields of the login need the rest of ``MAX_BODY``."""
_PLAIN = re.compile(r"[!#-\[\]-~]+")  # what a Location may hold: no blank, quote, backslash or control character


class Dashboard:
    """The pages of one task queue."""

    def __init__(
        self,
        tq: TaskQ,
        *,
        read_only: bool = False,
        show_args: bool = False,
        origins: Collection[str] = (),
        allow: Allow | None = None,
        actor: Actor | None = None,
        login: Login | None = None,
    ) -> None:
        """Make the pages; the arguments are those of ``DashboardOptions``.

        ``login`` is how a visitor logs in here; None where the host has checked the visitor.
        """
        self._tq = tq
        self._policy = Policy(read_only=read_only, show_args=show_args, origins=origins, actor=actor)
        self._allow = allow
        self._login = login
        self._shared = Shared(tq)
        self._live = Live(self._rendered, SystemClock())

    async def respond(self, request: Request) -> Response:
        """Return the response to a request. An error of the application's own is raised."""
        if request.path_params.get("name", "").startswith("static/"):
            return asset(request.path_params["name"].removeprefix("static/"), request.headers)
        cookies = session.cookies_of(request.headers)
        preferences = session.kept(cookies, session.PREFERENCES, session.Preferences) or session.Preferences()
        words = Words(language_of(preferences.language, request.headers.get("accept-language", "")), self._tq.timezone)
        now = self._tq.queue.clock.now()
        known = cookies.get(session.SESSION, "")  # an old one stays, for forms in other tabs
        key = known or session.new_session(now)
        view = View(shared=self._shared, request=request, words=words, now=now, key=key, preferences=preferences)
        try:
            response = await self._respond(view)
        except TimeoutError:
            slow = make_problem(
                503, "TooSlow", marked("the store did not answer in time; try again, or narrow the filter")
            )
            response = self._problem(view, slow)
        except (ProblemError, AiotaskqError) as error:
            response = self._problem(view, answered(error, f"dashboard: {view.path or 'overview'}"))
        # A page in a folder is none of ours: all are flat.
        if not known and response.media_type == HTML and response.status_code != 303 and "/" not in view.path:
            response.headers.append("Set-Cookie", _cookie(request, session.SESSION, key))
        return response

    async def _respond(self, view: View) -> Response:
        request, key = view.request, view.key
        changes = request.method not in ("GET", "HEAD")
        if changes:
            view = replace(view, form=await self._form(request))
            view = replace(view, ours=session.is_form_token(key, view.text("form_token") or ""))
            if view.path not in actions:
                _check_ours(view)
        if view.path == "preferences" and changes:
            return self._preferred(view)
        if self._login is not None:
            if view.path == "login" and changes:
                return await self._log_in(self._login, view)
            user = await self._user(self._login, key, view.now)
            if user is None:
                return self._login_page(self._login, view)
            view = replace(view, actor=user)
            request.state.aiotaskq_user = user
            if view.path == "logout" and changes:
                # Noted where each process sees it, so that a copy of the cookie is no login either.
                await self._tq.values.set_public(session.logout_key(key), True, session.seconds_left(key, view.now))
                return redirect("./", _cookie(request, session.SESSION, "", 0))
        await self._check_may_view(request)
        if changes:
            return await self._change(view)
        if view.path == UPDATE:
            return await self._update(view)
        page = _page(view.path)
        view, made = _with_query(await self._full(view), page, request.query_params.multi_items()), []
        message = session.kept(session.cookies_of(request.headers), session.MESSAGE, session.Message)
        if message is not None and view.words.knows(message.text, message.values):  # the cookie could hold any text
            view = replace(view, message=message)
            made.append(_cookie(request, session.MESSAGE, "", 0))
        async with asyncio.timeout(PAGE_TIMEOUT):
            if _wants_data(view):
                return reply(msgspec.json.encode(await _loaded(page, view)), media_type=JSON)
            return reply(await self._rendered(page, view), cookies=made)

    # ---- pages ----

    async def _rendered(self, page: Page, view: View) -> bytes:
        return render(page.template, self._context(view, page) | {"data": await _loaded(page, view)})

    def _context(self, view: View, page: Page | None) -> dict[str, Any]:
        words = view.words
        return {
            "_": words,
            "n_": words.count,
            "words": words,
            "view": view,
            "page": page,
            "menu": MENU,
            "languages": LANGUAGES,
            "store": mask(self._tq.url),
            "read_only": self._policy.read_only,
            "logged_in": self._login is not None,
            "link": link,
            "target_link": target_link,
            "up": "",
            "given": {},
            "problem": "",
            "conflict": False,
            "preview": None,
            "here": link(view.name, **view.query),
        }

    def _problem(self, view: View, problem: Problem, message: session.Message | None = None) -> Response:
        if _wants_data(view):
            if view.path == UPDATE:  # the script shows it
                problem = msgspec.structs.replace(problem, detail=view.words.error(problem.detail))
            return reply(msgspec.json.encode(problem), problem.status, media_type=MEDIA_TYPE)
        up = "../" * view.path.count("/")  # such a path is no page: all of ours are flat
        view = replace(view, key="" if up else view.key, message=message)
        data = {
            "status": problem.status,
            "text": view.words.problem(problem.detail),
            "back": f"{up}./" if up else back_of(view, problem.status == 404),
        }
        return reply(render("problem", self._context(view, None) | {"data": data, "up": up}), problem.status)

    async def _full(self, view: View) -> View:
        """Return the view with all that the visitor may see and do; before, it shows no action and no params."""
        return replace(view, show_args=self._policy.show_args, allowed=await self._allowed(view))

    async def _allowed(self, view: View) -> frozenset[str]:
        words = dict.fromkeys(action.operation.word for action in actions.values())
        allowed = {word for word in words if await self._may(view.request, word)}
        return frozenset(name for name, action in actions.items() if action.operation.word in allowed)

    async def _update(self, view: View) -> Response:
        wanted = dict(view.request.query_params)
        page, known = _page(wanted.pop("page", "")), wanted.pop("known", "").split(",")
        view = _with_query(replace(view, show_args=self._policy.show_args), page, list(wanted.items()))
        update = await self._live.update(page, view, lambda: self._allowed(view), known)
        return reply(msgspec.json.encode(update), media_type=JSON)

    # ---- changes ----

    async def _may(self, request: Request, action: str) -> bool:
        if self._policy.read_only and action != VIEW:
            return False
        if self._allow is None:
            return True
        answer = self._allow(original(request), action)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def _check_may_view(self, request: Request) -> None:
        """Raise ProblemError for a visitor that may not see the pages."""
        if not await self._may(request, VIEW):
            raise ProblemError(403, "NotAllowed", marked("you may not see this page"))

    async def _form(self, request: Request) -> dict[str, list[str]]:
        if request.method != "POST" or not is_same_origin(request.headers, self._policy.origins):
            raise ProblemError(403, "CrossOrigin", marked("a page of another origin asked for a change"))
        if media_type_of(request) != "application/x-www-form-urlencoded":
            raise ProblemError(415, "UnsupportedMediaType", marked("content-type: a form of these pages is needed"))
        large, late = marked("body: the form is too large"), marked("body: the form did not arrive in time")
        return _fields(await read_body(request, MAX_BODY, large, late))

    async def _change(self, view: View) -> Response:
        action = actions.get(view.path)
        if action is None:
            raise ProblemError(404, "NotFound", marked("there is nothing at this path"))
        if not await self._may(view.request, action.operation.word):
            return self._problem(view, make_problem(403, "NotAllowed", marked("you may not do this here")))
        actor = await actor_of(self._policy.actor, view.request) if self._policy.actor else view.actor
        try:
            _check_ours(view)
            answer = await action.run(replace(view, actor=actor, show_args=self._policy.show_args))
        except (ProblemError, AiotaskqError) as error:
            problem = answered(error, f"dashboard: {action.operation.name}")
            if action.form is None or _wants_data(view):
                return self._problem(view, problem)
            return await self._refused(view, pages[action.form], problem)
        if isinstance(answer, Question):
            fields = view.form.items()
            kept = [(name, each) for name, all in fields for each in all if name not in ("form_token", "sure")]
            data = {"question": answer, "action": action.operation.name, "fields": kept}
            return reply(render("question", self._context(view, None) | {"data": data}), cache=OF_A_FORM)
        if isinstance(answer, Preview):
            assert action.form is not None
            return await self._again(view, pages[action.form], preview=answer.planned)
        self._shared.forget()
        if answer.error is not None:  # the page says what was done before
            return self._problem(view, answered(answer.error, f"dashboard: {action.operation.name}"), answer)
        return redirect(answer.page, _cookie(view.request, session.MESSAGE, session.shortened(answer), 60))

    async def _refused(self, view: View, page: Page, problem: Problem) -> Response:
        """Show the page of a form again, with what was wrong; where another visitor was faster, with what is stored."""
        said = {"problem": view.words.problem(problem.detail), "conflict": problem.status == 409}
        try:
            return await self._again(view, page, problem.status, **said)
        except (ProblemError, AiotaskqError):  # the thing is gone, or the store
            return self._problem(view, problem)

    async def _again(self, view: View, page: Page, status: int = 200, **shown: Any) -> Response:
        """Show a form again, with what was given, and what was wrong with it or what it would do."""
        given = {field: each[0] for field, each in view.form.items()}
        view = _with_query(await self._full(view), page, [*thing_of(view).items(), *given.items()])
        data = await _loaded(page, view)
        context = self._context(view, page) | shown | {"data": data, "given": given}
        return reply(render(page.template, context), status, cache=OF_A_FORM)

    def _preferred(self, view: View) -> Response:
        known = {"language": (*LANGUAGES, ""), "theme": (*THEMES, "")}
        given = {name: view.form[name][0] for name in known if name in view.form}
        if any(value not in known[name] for name, value in given.items()):
            raise ValidationError("preferences: a language or a theme of these pages is needed")
        wanted = msgspec.structs.replace(view.preferences, **given)
        return redirect(_own_page(view), _cookie(view.request, session.PREFERENCES, wanted, session.YEAR))

    # ---- login ----

    async def _user(self, login: Login, key: str, now: int) -> str | None:
        """Return who has logged in with this session, None for nobody."""
        user = session.user_of(key, login.secret, now)
        ended = user is not None and await self._tq.values.get_public(session.logout_key(key)) is not None
        return None if ended else user

    def _login_page(self, login: Login, view: View, wrong: bool = False) -> Response:
        request = view.request
        if _wants_data(view):
            raise ProblemError(401, "NoToken", marked("log in first"))
        if deep := view.path.count("/"):  # no page is there, and its cookies would be those of another folder
            return redirect("../" * deep)
        back = link(view.path, **dict(request.query_params)) if request.method == "GET" else "./"
        # A form that was sent after the login had ended is shown again behind the new one.
        fields = urlencode(view.form, doseq=True)
        sent = {name: view.text(name) or "" for name in ("action", "sent")}
        if fields and view.path in actions:
            sent = {"action": view.path, "sent": fields}
        if len(urlencode(sent)) > MAX_SENT:
            sent = {}
        action = actions.get(sent.get("action", ""))
        again = action is not None and action.form is not None
        data = {"wrong": wrong, "back": back, "by_name": login.by_name, "sent": sent, "again": again}
        return reply(render("login", self._context(view, None) | {"data": data}), 401)

    async def _log_in(self, login: Login, view: View) -> Response:
        client = view.request.client
        user = await login.user(view.text, "" if client is None else client.host)
        if user is None:
            return self._login_page(login, view, wrong=True)
        key, path = session.new_login(login.secret, view.now, user), view.text("action") or ""
        cookie = _cookie(view.request, session.SESSION, key)
        if path not in actions:
            return redirect(_own_page(view), cookie)
        view.request.state.aiotaskq_user = user
        await self._check_may_view(view.request)
        form = _fields((view.text("sent") or "").encode())
        request = Request({**view.request.scope, "path_params": {"name": path}})
        shown = await self._change(replace(view, request=request, key=key, form=form, ours=False))
        shown.headers.append("Set-Cookie", cookie)
        return shown


def reply(
    body: bytes,
    status: int = 200,
    *headers: tuple[str, str],
    cookies: Collection[str] = (),
    cache: str = "no-store",
    media_type: str = HTML,
) -> Response:
    """Return a page, which by default no cache keeps."""
    made = Response(body, status, dict((*SECURITY, ("Cache-Control", cache), *headers)), media_type)
    for each in cookies:
        made.headers.append("Set-Cookie", each)
    return made


def redirect(where: str, *cookies: str) -> Response:
    """Send the browser to a page of the dashboard, as ``task?id=…``."""
    return reply(b"", 303, ("Location", where), cookies=cookies)


def _cookie(request: Request, name: str, value: str | msgspec.Struct, seconds: int | None = None) -> str:
    """Return a cookie for the connection of a request; 0 seconds deletes it."""
    secure = is_encrypted(request.scope.get("scheme", ""), request.headers)
    return session.cookie(name, value, secure=secure, seconds=seconds)


def _wants_data(view: View) -> bool:
    """Return whether the answer is for a program."""
    return view.request.query_params.get("format") == "json" or view.path == UPDATE


async def _loaded(page: Page, view: View) -> dict[str, Any]:
    with limited_reads(min(READ_LIMIT, view.read_limit)):
        return await page.load(view)


def guarded_dashboard(
    tq: TaskQ, guarded: bool, how: str, *, login: CheckUser | None = None, secret: str | None = None, **options: Any
) -> Dashboard:
    """Return the pages as an integration mounts them: only behind a check of its visitors.

    Raises ValidationError for a dashboard that everybody could open, where ``how`` says what is needed, for one of
    ``login`` and ``secret`` alone, for a weak secret, and for a task queue of ``aiotaskq.sync``.
    """
    check_taskq("dashboard", tq)
    if not guarded and options.get("allow") is None and login is None:
        raise ValidationError(f"dashboard: anybody could open it; give {how}, or login=…")
    if (login is None) != (secret is None):
        raise ValidationError(
            "login, secret: give both; login checks a user name and a password, secret signs the sessions, the same "
            "text in every process"
        )
    return Dashboard(tq, login=None if login is None or secret is None else UserLogin(login, secret), **options)


def _fields(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=5_000, errors="strict")
    except ValueError:
        raise ProblemError(400, "NotAForm", marked("body: is no form")) from None


def _check_ours(view: View) -> None:
    """Raise ProblemError for a form that was made for another session."""
    if not view.ours:
        said = marked("this form is of another session, and nothing was changed; try again")
        raise ProblemError(403, "FormExpired", said)


def _own_page(view: View) -> str:
    """Return the address in the field ``back`` if it is one of these pages, else that of the overview."""
    address = view.text("back") or ""
    name = address.partition("?")[0]
    known = name == "./" or (name != "" and name in pages)
    return address if known and _PLAIN.fullmatch(address) else "./"


def _page(name: str) -> Page:
    page = pages.get(name)
    if page is None:
        raise ProblemError(404, "NotFound", marked("there is nothing at this path"))
    return page


def _with_query(view: View, page: Page, pairs: list[tuple[str, str]]) -> View:
    known = {name: value[:1_000] for name, value in pairs if name in page.parameters}
    return replace(view, name=page.name, query=known, form={})
