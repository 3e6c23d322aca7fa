"""A transaction in Redis: what one run of a function has read and decided, and what ``lua/commit.lua`` is to write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.change import Change, Room, encoded_changes, has_moved, holds
from aiotaskq.backends.flow.gates import Admitted, admit_touched
from aiotaskq.backends.flow.groups import again, concerns, follow, follow_deletes, parents_first, waits_again
from aiotaskq.backends.flow.transaction import Messages, push
from aiotaskq.backends.listeners import ENDED, GATES, READY
from aiotaskq.backends.redis.gate_rows import GateRows
from aiotaskq.backends.redis.reads import Reads, Unread, digest, postings_of, to_members
from aiotaskq.backends.redis.rows import HEAD, changed_words, json_of, keys_of, pack, packed, progress_json, row_words
from aiotaskq.backends.side_rows import WORKER
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import decoded, encoded, verbatim
from aiotaskq.core.gate import budget_gate
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.parking import slots
from aiotaskq.core.status import PENDING, RUNNING
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage

_KEPT = ("flow", "attempts")
_LIVE = (b"pending", b"running")
_ids = msgspec.json.Decoder(list[str]).decode


class RedisTransaction(GateRows):
    """The rows of one run of a function."""

    def __init__(
        self,
        reads: Reads,
        messages: Messages,
        codec: Codec | None = None,
        refused: Container[int] = (),
        conflicts: Mapping[str, str] = {},
    ) -> None:
        """``refused``: which of the changes of ``update`` do not hold, since the script has said so.
        ``conflicts``: the ids of the rows that have the id or a key of new ones, by the ids of these, for the same
        reason; ``""`` where a push is repeated.
        """
        GateRows.__init__(self, reads)
        self.codec = codec
        self.messages, self._refused, self._conflicts = messages, refused, conflicts
        self._certain: set[int] = set()  # the changes of this `update` whose rows need not be read, by identity
        self._looked = 0  # how many changes of `update` were looked at
        self.updates: dict[str, int] = {}
        """Which changes of ``update`` are those of the tasks with these ids."""
        self._compared: dict[str, set[str]] = {"state": set(), "usage": set()}
        self._tasks: dict[str, Task | None] = {}  # as they were written
        self._groups: dict[str, GroupState | None] = {}  # the same
        self._deleted: list[str] = []
        self._changes: dict[str, Change] = {}
        self._new: dict[str, Task] = {}
        self._bounded: set[str] = set()  # the new tasks that count for the bound of a push
        self._members: dict[str, list[Member]] = {}
        self.side_words: list[str] = []
        """How (``put``, ``add`` or ``remove``), place, name, text and instant of each side row."""
        self._ends: list[tuple[Task, Task]] = []  # from which something follows
        self.room: Room | None = None
        self.admitted: Admitted | None = None
        """What was done at gates."""

    def foresee(self, ids: Sequence[str], *reads: Callable[[], object]) -> None:
        names: dict[str, dict[Any, Any]] = {}
        for read in (lambda: self.need(tasks=ids), *reads):
            try:
                read()
            except Unread as unread:
                for kind, each in unread.names.items():
                    names.setdefault(kind, {}).update(each)
        if names:
            raise Unread(names)

    # ---- as the rows of a transaction ----

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        self._compared["state"].update(ids)
        return self.look(ids)

    def look(self, ids: Sequence[str]) -> dict[str, Task]:
        return self._known("tasks", ids, self._tasks)

    def _known(self, kind: str, ids: Sequence[str], written: Mapping[str, Any]) -> dict[str, Any]:
        found = {**self.read(kind, ids), **{each: written[each] for each in ids if each in written}}
        return {each: row for each, row in found.items() if row is not None}

    def write(self, change: Change, row: Task, is_due: bool = False) -> None:
        task_id, after = row.task_id, change.after
        self.post(row, after, is_due)
        self._tasks[task_id] = after
        if task_id in self._new:
            self._new[task_id] = after
        elif (known := self._changes.get(task_id)) is not None:
            self._changes[task_id] = replace(known, after=after)
        else:
            self._changes[task_id] = change

    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        found = self._known("groups", ids, self._groups)
        gone = [each for each in ids if each not in found and each not in self._groups]
        self.unread_groups.update(each for each in gone if self._reads.digests["groups"][each])
        return found

    def write_groups(self, groups: Sequence[GroupState], callbacks: bool = False) -> None:
        self._groups.update({group.group_id: group for group in groups})

    def drop_groups(self, ids: Sequence[str]) -> None:
        self._groups.update(dict.fromkeys(ids))

    def count_live(self, ids: Sequence[str]) -> dict[str, int]:
        # Behind the groups, which are compared: see Reads.fetch. The end of a member writes its group, too.
        lists = self.answers([("LRANGE", f"members:{group_id}", "0", "-1") for group_id in ids])
        members = dict(zip(ids, map(to_members, ids, lists), strict=True))
        tasks = [member.member_id for found in members.values() for member in found if not member.is_group]
        inner = self.groups([member.member_id for found in members.values() for member in found if member.is_group])
        live = {group_id for group_id, group in inner.items() if group.ended_at is None}
        live.update(name for name, head in self.read("heads", tasks).items() if head and head[1] in _LIVE)
        return {group_id: sum(member.member_id in live for member in found) for group_id, found in members.items()}

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        self.room = room  # the script counts

    def check_push(self, tasks: Sequence[Task]) -> bool:
        # At once: a transaction begins anew where something is not read.
        self.need(gates={key: None for task in tasks if task.flow is not None for key, _ in task.flow.gates})
        self._bounded.update(task.task_id for task in tasks)  # the script checks
        return False

    def insert(self, tasks: Sequence[Task]) -> list[Task]:
        return [self._insert(task) for task in tasks]

    def _insert(self, task: Task) -> Task:
        task_id = task.task_id
        if (known := self._new.get(task_id)) is not None:
            return known
        if (other := self._conflicts.get(task_id)) is not None:
            if not other:
                return task.replace()
            row = self.look([other]).get(other)
            gave_up = row is not None and row.unique_key is None and other in self._changes
            if row is not None and not gave_up:
                return row
        self._new[task_id] = self._tasks[task_id] = task
        self.post(None, task)
        return task

    def existing(self, ids: Sequence[str]) -> Collection[str]:
        self._compared["state"].update(ids)
        return self._known("state", ids, self._tasks).keys()

    def add_members(self, members: Sequence[Member]) -> None:
        for member in members:
            self._members.setdefault(member.group_id, []).append(member)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        return [each for text in self.read("groups:inner", ids).values() if text for each in _ids(text)]

    # ---- what the verbs of the backend do ----

    def update(self, changes: Sequence[Change]) -> list[bool]:
        """Do as ``Backend.update``, and what follows."""
        changes = encoded_changes(changes, self.codec)
        self._certain = {id(change) for change in changes if _is_certain(change)}
        flows = [flow for change in changes if (flow := change.before.flow) is not None]
        self.need(
            tasks=[
                *(change.before.task_id for change in changes if id(change) not in self._certain),
                *(child for flow in flows for child, _ in flow.children),
            ],
            groups=[group_id for flow in flows if (group_id := flow.group or flow.source)],
        )
        if ends := Counter([key for flow in flows for key, _ in flow.gates]):
            self.need(gates=ends, waiting={key: count + 1 for key, count in ends.items()})
        return parents_first(changes, self._update)

    def _update(self, changes: Sequence[Change]) -> list[bool]:
        held, written = [], []
        for change in changes:
            before, after = change.before, change.after
            task_id = before.task_id
            row = self._tasks[task_id] if task_id in self._tasks else before if id(change) in self._certain else None
            if row is None:
                row = self.tasks([task_id]).get(task_id)
            self._looked += 1
            held.append(row is not None and holds(row, change) and self._looked not in self._refused)
            if row is None or not held[-1] or (row.flow is not None and has_moved(row, change)):
                held[-1] = False
                continue
            if row.flow != before.flow:  # the reader knew another row, or could not decode it: the stored flow stays
                after = after.replace(flow=row.flow)
            if waits_again(row, after):
                self._follow()  # it reads what follows from the changes before it
                after = again(self, after)
            self.updates.setdefault(task_id, self._looked)
            self.write(replace(change, after=after, then=()), row)
            if row is not before:  # the rules tell by identity what has not changed
                same = {name: value for name in _KEPT if (value := getattr(before, name)) == getattr(row, name)}
                row = row.replace(**same)
            written.append((row, after))
            if change.then:
                push(self, change.then, refused=False)
            if concerns(row, after):
                self._ends.append((row, after))
            if row.final and not after.final:
                self._follow()
        self.touched.written(written)
        self._follow()
        return held

    def delete(self, tasks: Sequence[Task], damaged: Sequence[str] = ()) -> int:
        """Delete tasks that were read, and do what follows; return how many. ``damaged``: ids of unreadable ones."""
        self._deleted += damaged
        for task in tasks:
            self._deleted.append(task.task_id)
            self._tasks[task.task_id] = None
            self.post(task, None)
        follow_deletes(self, tasks)
        return len(self._deleted)

    def _follow(self) -> None:
        if self._ends:
            ends, self._ends = self._ends, []
            follow(self, ends)

    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        self._compared["usage"].update(usages)
        self.fields["usage"].update((task_id, json_of(usage)) for task_id, usage in usages.items())

    def recode(self, ids: Sequence[str], codec: Codec) -> dict[str, bool | None]:
        """Do as ``Backend.recode``, by id."""
        self.need(tasks=ids, progress=ids, usage=ids)
        progress, usage = self.read("progress", ids), self.read("usage", ids)
        done: dict[str, bool | None] = dict.fromkeys(ids)
        for task_id, task in self.tasks(ids).items():
            if usage[task_id] is not None:  # it has a key of its own
                task = task.replace(usage=None)
            if (task := decoded(task, codec)).undecodable is not None:
                continue
            new = encoded(task, codec)
            if progress[task_id] is not None:  # beside that of its push
                self.fields["progress"][task_id] = progress_json(verbatim(new).progress)
                new = new.replace(progress=None, coded={k: v for k, v in (new.coded or {}).items() if k != "progress"})
            _, self.fields["body"][task_id], self.fields["state"][task_id] = row_words(new)
            done[task_id] = True
        return done

    def answers(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Run commands that read; see ``Reads``."""
        found = self.read("answers", commands)
        return [found[words] for words in commands]

    def compare(self, key: str, name: str, text: bytes) -> None:
        """Let the commit compare a field of a hash with what ``answers`` has read."""
        self._reads.digests.setdefault(key, {}).setdefault(name, digest(text))

    def heads(self, ids: Sequence[str]) -> dict[str, re.Match[bytes] | None]:
        """Read the heads of rows; None where there is none, or it cannot be read."""
        self._compared["state"].update(ids)
        return {task_id: HEAD(text or b"") for task_id, text in self.read("state", ids).items()}

    # ---- the commit ----

    def settle(self) -> None:
        """Let tasks pass the gates that were touched."""
        if self.admitted is None and "touched" in vars(self):
            touched = self.touched
            if touched.given_back:
                for queue in touched.given_back.keys() & set(self.paused_queues()):
                    touched.park(touched.given_back[queue], queue)
            if swept := touched.swept:  # at once
                each = dict.fromkeys(swept, 2)
                self.need(gates=swept, waiting=each, later=dict.fromkeys(swept, touched.now))
            self.admitted = admit_touched(self)

    def hints(self) -> dict[str, list[str]]:
        """Return the hints of what it writes, with their names."""
        ended = [change.after.task_id for change in self._changes.values() if change.after.final]
        ended += self.touched.followed.ended_groups
        hints = {ENDED: list(dict.fromkeys(ended))} if ended else {}
        if self._changes or self._deleted or self._new or self.moved or self.touched.changes:
            hints[READY] = []
        if self.admitted is not None and self.admitted.has_next_at:
            hints[GATES] = []
        return hints

    def words(self) -> list[str | bytes] | None:
        """Return the arguments of ``lua/commit.lua`` behind the hint; None where nothing is to be written."""
        self._put_groups()
        fresh, keyed = self._put_new()
        moved, writes = self.put_gates(), self.writes()
        changes = [*packed(map(changed_words, self._changes.values()))]
        new = packed(map(row_words, sorted(keyed, key=lambda task: task.task_id not in self._bounded)))
        if not (changes or self._new or self._deleted or self.side_words or writes or moved):
            return None
        checks = []
        for key, found in self._reads.digests.items():
            names = [name for name in found if key not in self._compared or name in self._compared[key]]
            checks.append([key, names, [found[name] for name in names]])
        puts = zip(self.side_words[::5], self.side_words[1::5], strict=True)
        adds = any(how == "put" and not place.startswith(f"{WORKER}:") for how, place in puts)
        states = {row.task.task_id: digest(row.text) for row, _ in self.moved.values()}
        checks.append(["state", list(states), list(states.values())])
        head = {
            "checks": checks,
            "changes": len(changes),
            "deleted": self._deleted,
            "side": self.side_words,
            "moved": len(moved),
            "bounded": sum(task.task_id in self._bounded for task in keyed),
            "fresh": list(fresh),
            "stamps": list(fresh.values()),
            "entering": sum(not self._new[name].waits for name in fresh if name in self._bounded),
            # What only adds is refused by a server whose memory is full; what lets tasks end is not.
            "grows": bool(self._new) or (adds and not changes),
            "writes": writes,
            "now": str(self.touched.now if self.room is None else self.room.now),
            "maxsize": False if self.room is None else self.room.maxsize,
        }
        return [pack(head), *moved, *changes, *new]

    def _put_new(self) -> tuple[dict[str, str], list[Task]]:
        """Name the index entries of new rows that only their ids may be in conflict with; return these, and the others.

        Of these the push stamps by id. The script does not handle them one by one, as it does the others.
        """
        fresh: dict[str, str] = {}
        keyed: list[Task] = []
        counts: Counter[str] = Counter()
        bodies, states = self.fields["body"], self.fields["state"]
        for task_id, task in self._new.items():
            if task.status is not PENDING or keys_of(task):
                keyed.append(task)
                continue
            _, bodies[task_id], states[task_id] = row_words(task)
            seq = fresh[task_id] = f"{task.seq:020d}"
            counts[task.queue] += 1
            self.scores["is:live"][seq + task_id] = 0
            if not task.parked or task.flow is None:
                self.scores[f"lane:{task.priority}:{task.queue}"][seq + task_id] = task.run_at
            if task.expires_at is not None:
                self.scores["expiring"][task_id] = task.expires_at
        self.commands += (["HINCRBY", "counts", [f"pending:{queue}", str(by)]] for queue, by in counts.items())
        return fresh, keyed

    def _put_groups(self) -> None:
        for group_id, members in self._members.items():
            texts = [json_of((member.member_id, member.name, member.is_group)) for member in members]
            self.commands.append(["RPUSH", f"members:{group_id}", texts])
        for group_id, after in self._groups.items():
            before = self._reads.found.get("groups", {}).get(group_id)
            left, entered = postings_of(before), postings_of(after)
            for key, member in {**left, **entered}:
                if (score := entered.get((key, member))) != left.get((key, member)):
                    self.scores[key][member] = score
            if after is None:
                self.commands.append(["UNLINK", f"members:{group_id}", []])
                for key in ("groups", "groups:then", "groups:inner"):
                    self.fields[key][group_id] = False
                if before is not None and before.budget:
                    self.drop_gates([budget_gate(group_id)])
                continue
            self.fields["groups"][group_id] = json_of(replace(after, then=None, on_failure=None))
            callbacks = {name: getattr(after, name) for name in ("then", "on_failure")}
            if any(task is not getattr(before, name, None) for name, task in callbacks.items()):
                self.fields["groups:then"][group_id] = json_of(callbacks)
            if inner := [member.member_id for member in self._members.get(group_id, ()) if member.is_group]:
                self.fields["groups:inner"][group_id] = json_of(inner)


def _is_certain(change: Change) -> bool:
    """Whether the row that a change writes is known but for what the script compares: it runs, and its run ends.

    What a row passes and waits for does not change while it runs.
    """
    before, after = change.before, change.after
    return (
        before.status is RUNNING and before.undecodable is None and not concerns(before, after) and slots(before) != ()
    )
