"""From a request to a reply: checks access, origin and form, runs a page or an action, and renders what it returns."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.backends.read_limit import limited_reads
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import mask
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.web.access import is_same_origin
from aiotaskq.web.dashboard import session
from aiotaskq.web.dashboard.live import Live, render
from aiotaskq.web.dashboard.pages import (
    activity,
    events,
    groups,
    limits,
    overview,
    queues,
    schedules,
    settings,
    tasks,
    types,
    values,
    workers,
)
from aiotaskq.web.dashboard.session import Login, UserLogin
from aiotaskq.web.dashboard.view import Action, Change, Page, Question, Shared, StoppedError, View, actions, link, pages
from aiotaskq.web.dashboard.words import LANGUAGES, Words, language_of, marked
from aiotaskq.web.endpoint import Request, Response, media_type_of, read_body
from aiotaskq.web.policy import MAX_BODY, Actor, Allow, CheckUser, Policy, actor_of
from aiotaskq.web.problem_details import Problem, ProblemError, answered, make_problem

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

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@functools.cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return content, media type and tag of each file by its name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if (media_type := TYPES.get(path.suffix)) is not None:
            content = path.read_bytes()
            found[path.name] = content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return found


def asset(name: str, headers: Mapping[str, str]) -> Response:
    """Return a file; 304 where the browser has this version, 404 where there is no such file."""
    known = _files().get(name)
    if known is None:
        return Response(404, b"", SECURITY, "text/plain")
    content, media_type, tag = known
    kept = (*SECURITY, ("ETag", tag), ("Cache-Control", "no-cache"))
    if headers.get("if-none-match") == tag:
        return Response(304, b"", kept, media_type)
    return Response(200, content, kept, media_type)


MENU = (
    overview.overview,
    tasks.tasks,
    types.types,
    queues.queues,
    workers.workers,
    limits.limits,
    groups.groups,
    schedules.schedules,
    events.events,
    values.values,
    activity.activity,
    settings.settings,
)
"""The pages in the menu, in its order."""
VIEW = "view"
"""What ``allow`` is asked for a page that only shows."""
THEMES = ("light", "dark")
UPDATE = "live"
"""The path by which an open page asks for what has changed."""
READ_LIMIT = 2.0  # seconds of one statement of a page, after which the store cancels it
PAGE_TIMEOUT = 5.0  # seconds of a whole page
_PLAIN = re.compile(r"[!#-\[\]-~]+")  # what a Location may hold: no blank, quote, backslash or control character


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """A request, and what is known of the visitor."""

    request: Request
    words: Words
    preferences: session.Preferences
    key: str
    """The session; "" where there is none yet."""
    message: session.Message | None
    now: int
    """Microseconds UTC."""
    user: str = ""
    """The name with which the visitor has logged in here."""

    @property
    def name(self) -> str:
        """The path below the prefix, without the slash at its beginning; "" is the overview."""
        return self.request.path.get("name", "")

    @property
    def wants_data(self) -> bool:
        """Whether the answer is for a program."""
        return dict(self.request.query).get("format") == "json" or self.name == UPDATE

    def cookie(self, name: str, value: str, seconds: int | None = None) -> str:
        """Return a cookie for this visitor's connection; 0 seconds deletes it."""
        return session.cookie(name, value, secure=self.request.secure, seconds=seconds)


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
        if request.path.get("name", "").startswith("static/"):
            return asset(request.path["name"].removeprefix("static/"), request.headers)
        cookies = session.cookies_of(request.headers)
        preferences = session.preferences_of(cookies)
        words = Words(language_of(preferences.language, request.headers.get("accept-language", "")), self._tq.timezone)
        visit = _Visit(
            request=request,
            words=words,
            preferences=preferences,
            key=cookies.get(session.SESSION, ""),
            message=_said(session.message_of(cookies), words),
            now=self._tq.queue.clock.now(),
        )
        try:
            return await self._respond(visit)
        except TimeoutError:
            slow = make_problem(
                503, "TooSlow", marked("the store did not answer in time; try again, or narrow the filter")
            )
            return self._problem(visit, slow)
        except (ProblemError, AiotaskqError) as error:
            return self._problem(visit, answered(error, f"dashboard: {visit.name or 'overview'}"))

    async def _respond(self, visit: _Visit) -> Response:
        request, key = visit.request, visit.key
        changes = request.method not in ("GET", "HEAD")
        form = await self._form(request, key) if changes else {}
        if visit.name == "preferences" and changes:
            return self._preferred(visit, form)
        if self._login is not None:
            if visit.name == "login" and changes:
                return await self._log_in(self._login, visit, form)
            user = await self._user(self._login, key, visit.now)
            if user is None:
                return self._login_page(self._login, visit)
            visit = replace(visit, user=user)
            request.logged_in(user)
            if visit.name == "logout" and changes:
                # Noted where each process sees it, so that a copy of the cookie is no login either.
                await self._tq.values.set_public(session.logout_key(key), True, session.seconds_left(key, visit.now))
                return redirect("./", visit.cookie(session.SESSION, "", 0))
        if not await self._may(request, VIEW):
            raise ProblemError(403, "NotAllowed", marked("you may not see this page"))
        if changes:
            return await self._change(visit, form)
        if visit.name == UPDATE:
            return await self._update(visit)
        fresh = "" if key else session.new_session(visit.now)
        view = replace(await self._full_view(visit, key or fresh), message=visit.message)
        page = _page(visit.name)
        view = _with_query(view, page, request.query)
        made = [visit.cookie(session.SESSION, fresh)] if fresh else []
        if view.message is not None:
            made.append(visit.cookie(session.MESSAGE, "", 0))
        async with asyncio.timeout(PAGE_TIMEOUT):
            if visit.wants_data:
                return page_reply(msgspec.json.encode(await _loaded(page, view)), media_type="application/json")
            reply = page_reply(await self._rendered(page, view))
        return msgspec.structs.replace(reply, headers=(*reply.headers, *(("Set-Cookie", each) for each in made)))

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
            "up": "",
            "given": {},
            "problem": "",
            "here": link(view.name, **view.query),
        }

    def _problem(self, visit: _Visit, problem: Problem, message: session.Message | None = None) -> Response:
        if visit.wants_data:
            if visit.name == UPDATE:  # the script shows it
                problem = msgspec.structs.replace(problem, detail=visit.words.error(problem.detail))
            return page_reply(msgspec.json.encode(problem), problem.status, media_type="application/problem+json")
        up = "../" * visit.name.count("/")  # such a path is no page: all of ours are flat
        view = replace(self._view(visit, "" if up else visit.key), message=message)
        data = {"status": problem.status, "text": visit.words.error(problem.detail), "back": f"{up}./"}
        return page_reply(render("problem", self._context(view, None) | {"data": data, "up": up}), problem.status)

    def _view(self, visit: _Visit, key: str) -> View:
        """Return a view that shows nothing but its page: no action, and no params."""
        return View(
            shared=self._shared,
            words=visit.words,
            query={},
            now=visit.now,
            preferences=visit.preferences,
            form_token=session.form_token(key) if key else "",
        )

    async def _full_view(self, visit: _Visit, key: str) -> View:
        return replace(self._view(visit, key), show_args=self._policy.show_args, allowed=await self._allowed(visit))

    async def _allowed(self, visit: _Visit) -> frozenset[str]:
        words = dict.fromkeys(action.operation.word for action in actions.values())
        allowed = {word for word in words if await self._may(visit.request, word)}
        return frozenset(name for name, action in actions.items() if action.operation.word in allowed)

    async def _update(self, visit: _Visit) -> Response:
        wanted = dict(visit.request.query)
        page, known = _page(wanted.pop("page", "")), wanted.pop("known", "").split(",")
        view = replace(self._view(visit, visit.key), show_args=self._policy.show_args)
        view = _with_query(view, page, list(wanted.items()))
        async with asyncio.timeout(PAGE_TIMEOUT):
            update = await self._live.update(page, view, lambda: self._allowed(visit), known)
        return page_reply(msgspec.json.encode(update), media_type="application/json")

    # ---- changes ----

    async def _may(self, request: Request, action: str) -> bool:
        if self._policy.read_only and action != VIEW:
            return False
        if self._allow is None:
            return True
        answer = self._allow(request.original, action)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def _form(self, request: Request, key: str) -> dict[str, list[str]]:
        if request.method != "POST" or not is_same_origin(request.headers, self._policy.origins):
            raise ProblemError(403, "CrossOrigin", marked("a page of another origin asked for a change"))
        if media_type_of(request) != "application/x-www-form-urlencoded":
            raise ProblemError(415, "UnsupportedMediaType", marked("content-type: a form of these pages is needed"))
        large, late = marked("body: the form is too large"), marked("body: the form did not arrive in time")
        body = await read_body(request, MAX_BODY, large, late)
        try:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=5_000, errors="strict")
        except ValueError:
            raise ProblemError(400, "NotAForm", marked("body: is no form")) from None
        if not session.is_form_token(key, next(iter(form.get("form_token", ())), "")):
            raise ProblemError(
                403, "FormExpired", marked("this form is of another session; reload the page, and try again")
            )
        return form

    async def _change(self, visit: _Visit, form: dict[str, list[str]]) -> Response:
        action = actions.get(visit.name)
        if action is None:
            raise ProblemError(404, "NotFound", marked("there is nothing at this path"))
        if not await self._may(visit.request, action.operation.word):
            raise ProblemError(403, "NotAllowed", marked("you may not do this here"))
        actor = await actor_of(self._policy.actor, visit.request.original) if self._policy.actor else visit.user
        change = Change(tq=self._tq, form=form, actor=actor, now=visit.now, show_args=self._policy.show_args)
        try:
            answer = await action.run(change)
        except StoppedError as stopped:
            return self._stopped(visit, action, stopped)
        except ValidationError as error:
            if action.form is None:
                raise
            return await self._refused(visit, pages[action.form], form, str(error))
        if isinstance(answer, Question):
            kept = [(name, each) for name, all in form.items() for each in all if name not in ("form_token", "sure")]
            data = {"question": answer, "action": action.operation.name, "fields": kept}
            return form_reply(render("question", self._context(self._view(visit, visit.key), None) | {"data": data}))
        self._shared.forget()
        return redirect(answer.page, session.message_cookie(answer.message, secure=visit.request.secure))

    async def _refused(self, visit: _Visit, page: Page, form: dict[str, list[str]], error: str) -> Response:
        """Show a form again, with what was given and what was wrong with it."""
        given = {field: each[0] for field, each in form.items()}
        view = _with_query(await self._full_view(visit, visit.key), page, list(given.items()))
        context = self._context(view, page) | {"given": given, "problem": visit.words.error(error)}
        return form_reply(render(page.template, context | {"data": await _loaded(page, view)}), 422)

    def _stopped(self, visit: _Visit, action: Action, stopped: StoppedError) -> Response:
        """Say what was done before an error, and what the error is. Raises one that is the application's own."""
        error = stopped.__cause__
        assert error is not None
        self._shared.forget()
        if not isinstance(error, AiotaskqError):
            raise error
        return self._problem(visit, answered(error, f"dashboard: {action.operation.name}"), stopped.done.message)

    def _preferred(self, visit: _Visit, form: dict[str, list[str]]) -> Response:
        known = {"language": (*LANGUAGES, ""), "theme": (*THEMES, "")}
        given = {name: form[name][0] for name in known if name in form}
        if any(value not in known[name] for name, value in given.items()):
            raise ValidationError("preferences: a language or a theme of these pages is needed")
        wanted = msgspec.structs.replace(visit.preferences, **given)
        back = next(iter(form.get("back", ())), "")
        return redirect(_own_page(back), session.preferences_cookie(wanted, secure=visit.request.secure))

    # ---- login ----

    async def _user(self, login: Login, key: str, now: int) -> str | None:
        """Return who has logged in with this session, None for nobody."""
        user = session.user_of(key, login.secret, now)
        ended = user is not None and await self._tq.values.get_public(session.logout_key(key)) is not None
        return None if ended else user

    def _login_page(self, login: Login, visit: _Visit, wrong: bool = False) -> Response:
        request = visit.request
        if visit.wants_data:
            raise ProblemError(401, "NoToken", marked("log in first"))
        if deep := visit.name.count("/"):  # no page is there, and its cookies would be those of another folder
            return redirect("../" * deep)
        key = visit.key or session.new_session(visit.now)  # the form in another tab stays valid
        back = link(visit.name, **dict(request.query)) if request.method == "GET" else "./"
        data = {"wrong": wrong, "back": back, "by_name": login.by_name}
        context = self._context(self._view(visit, key), None) | {"data": data}
        reply = page_reply(render("login", context), 401)
        if visit.key:
            return reply
        return msgspec.structs.replace(
            reply, headers=(*reply.headers, ("Set-Cookie", visit.cookie(session.SESSION, key)))
        )

    async def _log_in(self, login: Login, visit: _Visit, form: dict[str, list[str]]) -> Response:
        user = await login.user(form, visit.request.address)
        if user is None:
            return self._login_page(login, visit, wrong=True)
        cookie = visit.cookie(session.SESSION, session.new_login(login.secret, visit.now, user))
        return redirect(_own_page(next(iter(form.get("back", ())), "")), cookie)


def page_reply(body: bytes, status: int = 200, *, media_type: str = HTML) -> Response:
    """Return a page, which no cache keeps."""
    return Response(status, body, (*SECURITY, ("Cache-Control", "no-store")), media_type)


def form_reply(body: bytes, status: int = 200) -> Response:
    """Return the page that follows a form without a redirect; the browser keeps it for its button Back."""
    return Response(status, body, (*SECURITY, ("Cache-Control", "private, no-cache")), HTML)


def redirect(where: str, *cookies: str) -> Response:
    """Send the browser to a page of the dashboard, as ``task?id=…``."""
    headers = [*SECURITY, ("Location", where), ("Cache-Control", "no-store")]
    return Response(303, b"", (*headers, *(("Set-Cookie", each) for each in cookies)), HTML)


async def _loaded(page: Page, view: View) -> dict[str, Any]:
    with limited_reads(READ_LIMIT):
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


def _own_page(address: str) -> str:
    """Return the address if it is one of these pages, else that of the overview."""
    name = address.partition("?")[0]
    known = name == "./" or (name != "" and name in pages)
    return address if known and _PLAIN.fullmatch(address) else "./"


def _said(message: session.Message | None, words: Words) -> session.Message | None:
    """Return the message if an action can have left it: the cookie could hold any text."""
    return message if message is not None and words.knows(message.text, message.values) else None


def _page(name: str) -> Page:
    page = pages.get(name)
    if page is None:
        raise ProblemError(404, "NotFound", marked("there is nothing at this path"))
    return page


def _with_query(view: View, page: Page, pairs: list[tuple[str, str]]) -> View:
    known = {name: value[:1_000] for name, value in pairs if name in page.parameters}
    return replace(view, name=page.name, query=known)
