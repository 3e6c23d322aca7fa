"""``aiotaskq_push``: what pushes a task by SQL alone, in a trigger of the application's or from another language.

A function on PostgreSQL, a procedure on MySQL, a view with a trigger on SQLite. They have the same arguments, refuse
the same, and write the row that a push writes for a type without options of its own.
"""

from __future__ import annotations

from typing import Final

from aiotaskq.core.errors import INT32, MAX_ID, MAX_KEY, MAX_NAME, MAX_PAYLOAD, TEN_YEARS
from aiotaskq.core.task import SECOND

NAME: Final = "aiotaskq_push"
_TEXTS: Final = {"type": MAX_NAME, "queue": MAX_NAME, "task_id": MAX_ID} | dict.fromkeys(
    ("unique_key", "idempotency_key"), MAX_KEY
)
_DEFAULTS: Final = {"params": "'{}'", "queue": "'default'", "priority": "0", "delay": "0", "max_retries": "3"}
_TRIES: Final = 10  # of a push in conflict with rows that are gone when it reads them
_UNSEEN: Final = "a key is held by a task that this transaction does not see; begin a new one"

# In these statements the names that are no columns are arguments, or what each database computes: ``new_id``,
# ``now_us``, ``due`` and ``stamp``.
_INSERT: Final = f"""INSERT INTO task_queue (task_id, task_type, params, status, priority, retry_count, max_retries,
      created_at, queue, run_at, seq, timeout, unique_key, live_key, idempotency_key)
    SELECT new_id, type, params, 'pending', priority, 0, max_retries,
      (now_us - now_us % {SECOND}) / {SECOND}, queue, due, stamp, timeout, unique_key, unique_key, idempotency_key"""
# The sweep expires the row itself, and tells of it.
_FREE: Final = "UPDATE task_queue SET live_key = NULL WHERE"
_EXPIRED: Final = "live_key = {}unique_key AND status = 'pending' AND expires_at <= {}"
_FOUND: Final = """SELECT t.task_id INTO there FROM task_queue AS t
    WHERE t.task_id = new_id OR t.idempotency_key = idempotency_key OR t.live_key = unique_key
    ORDER BY CASE WHEN t.task_id = new_id THEN 0 WHEN t.idempotency_key = idempotency_key THEN 1 ELSE 2 END LIMIT 1"""


def _refused(text: str, params: str, size: str, number: str = "", refusal: str = "'{}'", new: str = "") -> str:
    """Return the CASE of what is refused. ``text``, ``params`` and ``number`` are conditions of a wrong value."""
    cases = [("type IS NULL", "type: must not be empty")]
    for name, most in _TEXTS.items():
        # Other white space is a control character, or not known as white space to each database.
        said = f"{name}: 1 to {most} characters are needed, not only blanks, no control characters"
        cases.append((f"trim({name}) = '' OR {text.format(name, most)}", said))
    for name, low in (("priority", -INT32), ("max_retries", 0)):
        wrong = number.format(name, "'integer'") + f"{name} NOT BETWEEN {low} AND {INT32}"
        cases.append((wrong, f"{name}: an integer in {low}..{INT32} is needed"))
    for name, below, said in (("delay", "<", "at least"), ("timeout", "<=", "more than")):
        wrong = number.format(name, "'integer', 'real'") + f"{name} {below} 0 OR {name} > {TEN_YEARS}"
        cases.append((wrong, f"{name}: {said} 0 seconds and at most ten years are needed"))
    too_long = f"params: more than {MAX_PAYLOAD:,} bytes of JSON; store a reference instead"
    cases += [(params, "params: a JSON object is needed"), (f"{size} > {MAX_PAYLOAD}", too_long)]
    ended = f"""EXISTS (SELECT 1 FROM task_queue AS t WHERE t.task_id = {new}task_id
      AND t.status NOT IN ('pending', 'running') AND coalesce(t.idempotency_key <> {new}idempotency_key, true))"""  # noqa: S608
    cases.append((ended, "task_id: it has ended; use another id"))
    return "CASE" + "".join(f"\n    WHEN {wrong} THEN {refusal.format(said)}" for wrong, said in cases) + " END"


def _defaults(assignment: str) -> str:
    return "\n  ".join(assignment.format(name, f"coalesce({name}, {value});") for name, value in _DEFAULTS.items())


def postgresql(clock: str, channel: str, message: str) -> list[str]:
    """Return the statement that makes the function, which notifies by this message, once for a transaction."""
    text = "length({0}) > {1} OR {0} ~ '[\\x01-\\x1f\\x7f]'"
    refused = _refused(text, "jsonb_typeof(params) <> 'object'", "octet_length(CAST(params AS text))")
    function = f"""CREATE OR REPLACE FUNCTION {NAME}(type text, params jsonb DEFAULT NULL, queue text DEFAULT NULL,
  priority integer DEFAULT NULL, delay double precision DEFAULT NULL, max_retries integer DEFAULT NULL,
  task_id text DEFAULT NULL, unique_key text DEFAULT NULL, idempotency_key text DEFAULT NULL,
  timeout double precision DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_variable
DECLARE
  now_us bigint := {clock};
  stamp bigint := now_us; due bigint; refusal text; there text;
  millis text := lpad(to_hex(now_us / 1000), 12, '0');
  chance text := gen_random_uuid();
  new_id text := coalesce(task_id, left(millis, 8) || '-' || right(millis, 4) || '-7' || substr(chance, 16, 4) || 'a'
    || substr(chance, 21));
BEGIN
  {_defaults("{} := {}")}
  refusal := {refused};
  IF refusal IS NOT NULL THEN RAISE invalid_parameter_value USING MESSAGE = refusal; END IF;
  due := now_us + CAST(delay * {SECOND} AS bigint);
  {_FREE} {_EXPIRED.format("", "now_us")};
  FOR tries IN 1..{_TRIES} LOOP
    {_INSERT} ON CONFLICT DO NOTHING;
    IF FOUND THEN PERFORM pg_notify('{channel}', '{message}'); RETURN new_id; END IF;
    {_FOUND};
    IF FOUND THEN RETURN there; END IF;
  END LOOP;
  RAISE unique_violation USING MESSAGE = '{_UNSEEN}';
END $$"""
    return [function]


def mysql(clock: str, text: str) -> list[str]:
    """Return the statements that make the procedure; ``text`` is the type of a long text."""
    wrong = "char_length({0}) > {1} OR {0} REGEXP '[[:cntrl:]]'"
    refused = _refused(wrong, "NOT json_valid(params) OR json_type(params) <> 'OBJECT'", "length(params)")
    expired = _EXPIRED.format("", "now_us")
    # Without the hint it may read, and lock, all rows; without the lock it may not see the row. An update that finds no
    # row would lock the gap in which it looked. The time stands still within a statement, which may push many.
    hint = "FORCE INDEX (PRIMARY, uq_task_queue_idempotency_key, uq_task_queue_live_key)\n    WHERE"
    procedure = f"""CREATE PROCEDURE {NAME}(
  IN type {text}, IN params {text}, IN queue {text},
  IN priority INT, IN delay DOUBLE, IN max_retries INT, IN task_id {text},
  IN unique_key {text}, IN idempotency_key {text}, IN timeout DOUBLE, OUT id {text}
) MODIFIES SQL DATA SQL SECURITY INVOKER
push: BEGIN
  DECLARE now_us BIGINT DEFAULT {clock};
  DECLARE stamp BIGINT DEFAULT greatest(now_us, coalesce(@aiotaskq_seq + 1, 0));
  DECLARE millis TEXT DEFAULT lpad(lower(hex(now_us DIV 1000)), 12, '0');
  DECLARE chance TEXT DEFAULT md5(uuid());
  DECLARE new_id {text} DEFAULT coalesce(task_id, concat(left(millis, 8), '-', right(millis, 4), '-7', left(chance, 3),
    '-a', substr(chance, 4, 3), '-', right(chance, 12)));
  DECLARE refusal, there {text};
  DECLARE due, tries BIGINT DEFAULT 0;
  DECLARE CONTINUE HANDLER FOR 1062 SET id = NULL;
  {_defaults("SET {} = {}")}
  SET refusal = {refused};
  IF refusal IS NOT NULL THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = refusal; END IF;
  SET @aiotaskq_seq = stamp, due = now_us + CAST(round(delay * {SECOND}) AS SIGNED);
  IF EXISTS (SELECT 1 FROM task_queue WHERE {expired}) THEN {_FREE} {expired}; END IF;
  WHILE tries < {_TRIES} DO
    SET tries = tries + 1, id = new_id;
    {_INSERT};
    IF id IS NOT NULL THEN LEAVE push; END IF;
    {_FOUND.replace("WHERE", hint)} LOCK IN SHARE MODE;
    IF there IS NOT NULL THEN SET id = there; LEAVE push; END IF;
  END WHILE;
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{_UNSEEN}';
END"""  # noqa: S608 - our own names
    return [f"DROP PROCEDURE IF EXISTS {NAME}", procedure]


def sqlite() -> list[str]:
    """Return the statements that make the view, into which rows are inserted, and its trigger."""
    text = "typeof({0}) NOT IN ('text', 'null') OR length({0}) > {1} OR instr({0}, char(0))"
    text += " OR {0} GLOB '*[' || char(1, 45, 31, 127) || ']*'"
    params = "typeof(params) <> 'text' OR instr(params, char(0)) OR NOT json_valid(params)"
    params += " OR json_type(params) <> 'object'"
    number = "typeof({0}) NOT IN ({1}, 'null') OR "
    refused = _refused(text, params, "length(CAST(params AS BLOB))", number, "RAISE(ABORT, '{}')", "NEW.")
    now = f"strftime('%s', 'now') * {SECOND} + substr(strftime('%f', 'now'), 4) * 1000"
    names = ("type", "params", "queue", "priority", "delay", "max_retries", *list(_TEXTS)[2:], "timeout")
    values = {name: f"NEW.{name}" for name in names}
    values |= {name: f"coalesce(NEW.{name}, {value})" for name, value in _DEFAULTS.items()}
    given = f"SELECT {', '.join(f'{value} AS {name}' for name, value in values.items())}, {now} AS now_us"
    # The time stands still within a statement, which may push many. A conflict is looked for before the insert: what
    # happens in one is decided by the statement that fires the trigger, such as INSERT OR REPLACE.
    trigger = f"""CREATE TRIGGER {NAME}_insert INSTEAD OF INSERT ON {NAME} BEGIN
  SELECT {refused} FROM ({given});
  {_FREE} {_EXPIRED.format("NEW.", now)};
  {_INSERT}
    FROM (SELECT *, now_us + CAST(round(delay * {SECOND}) AS INTEGER) AS due,
      coalesce(task_id, printf('%08x-%04x-7%.3s-a%.3s-%s', now_us / 1000 >> 16, now_us / 1000 & 65535,
        lower(hex(randomblob(2))), lower(hex(randomblob(2))), lower(hex(randomblob(6))))) AS new_id,
      max(now_us, coalesce((SELECT max(t.seq) + 1 FROM task_queue AS t WHERE t.seq < now_us + {SECOND}), 0)) AS stamp
      FROM ({given}))
    WHERE NOT EXISTS (SELECT 1 FROM task_queue AS t WHERE t.task_id = NEW.task_id)
      AND NOT EXISTS (SELECT 1 FROM task_queue AS t WHERE t.idempotency_key = NEW.idempotency_key)
      AND NOT EXISTS (SELECT 1 FROM task_queue AS t WHERE t.live_key = NEW.unique_key);
END"""  # noqa: S608 - our own names
    view = f"CREATE VIEW {NAME} ({', '.join(names)}) AS SELECT {', '.join(['NULL'] * len(names))} WHERE false"
    return [f"DROP VIEW IF EXISTS {NAME}", view, trigger]
