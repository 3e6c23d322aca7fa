-- The keys of one namespace. Reads rows, and notes what shall change; flush.lua writes it.
--
-- KEYS[1] is the prefix of every key, a hash tag ('{aiotaskq}:'): all keys are in one slot of a cluster, and one
-- pattern of an access control list covers them. The keys:
--
-- body                 hash: id to the part of a row that its push writes and no change touches; see rows.py
-- state                hash: id to the part that changes: a head of words for these scripts, then JSON
-- progress             hash: id to JSON, of rows that have any
-- usage                hash: id to JSON, of rows that have used up anything
-- is:live              sorted set: the stamps of pending and running rows, in push order (all scores are 0)
-- is:<status>          the same for each final status
-- lane:<prio>:<queue>  sorted set: the stamps of pending rows by run_at, that is, in claim order
-- heads                sorted set: the lanes that have rows, by the run_at of their first row
-- held                 sorted set: the running rows of workers, each as owner, blank and stamp (all scores are 0)
-- leased               sorted set: the stamps of other running rows by lease_until, those without at infinity
-- expiring             sorted set: the ids of pending rows by expires_at
-- expired              the same, for rows that are out of their lane because they have expired
-- ended:<status>       sorted set: the ids of final rows by completed_at
-- unique               hash: the unique key of a pending or running row to its id
-- once                 hash: idempotency key to id
-- counts               hash: '<status>:<queue>' to the number of rows
-- active               hash: schedule to the number of its pending and running rows
-- fired:<id>           the seq of a schedule's task that was deleted; it expires after an hour
-- paused               set of queues
-- gates                hash: gate to JSON: see reads.py; each change of what is below gives it a new version
-- gates:due            sorted set: the gates that have a next_at, by it
-- slots                sorted set: the rows that hold a slot of a gate, each as the length of the gate, a colon, the
--                      gate, a colon and the id (all scores are 0)
-- wait:<n>:<queue>:<gate>  sorted set: the rows of a queue (n bytes long) that are parked there, each as its place in
--                      the order in which they pass, and its id. The score is 0, or due_at for one that was not due
--                      when it was pushed, until it is
-- lines:<gate>         sorted set: the queues with rows that are parked there, and perhaps others (all scores are 0)
-- groups               hash: group to JSON, without its callbacks; see groups.py
-- groups:then          hash: group to JSON: its two callbacks
-- groups:inner         hash: group to JSON: the ids of the groups in it
-- groups:live          sorted set: the created_at of each group that has not ended in twenty digits, and its id
-- groups:ended         the same for those that have ended (all scores are 0)
-- groups:done          sorted set: the ids of those that are in no other group, by ended_at
-- groups:cancelling    sorted set: the ids of those that were cancelled and have not ended (all scores are 0)
-- members:<group>      list: each member as JSON
-- schedules            hash: id of a schedule to its row; see schedules.py
-- schedules:due        sorted set: the ids of those that are enabled and due at a time, by it
-- schedules:outbox     sorted set: the ids of those whose outbox has tasks (all scores are 0)
-- side:<kind>:<owner>  hash: the name of a side row to its text; the owner may be ''
-- names:<kind>:<owner> sorted set: these names (all scores are 0)
-- owners:<kind>        sorted set: the owners of rows (all scores are 0)
-- tagged:<name>=<value>  set: the ids of the tasks with this tag
-- until:<kind>         sorted set: the names of rows without an owner that expire, by until
-- format               the number of this layout (FORMAT in scripts.py)
--
-- A stamp is the row's seq in twenty digits, followed by its id. An owner is one word without '!'.
-- Instants are scores, which are exact until the year 2255. The rows are the truth: an index entry that its row does
-- not confirm is dropped when a script meets it.
--
-- A command costs more than the work on one row. So a script reads the rows of a whole batch with one command, notes
-- the changes, and writes them in flush() with one command for each key. For the same reason the rows are fields of two
-- hashes and not keys of their own, and the body is stored apart from the state, which alone is written again.
--
-- A server that has reached maxmemory refuses a command that needs memory, unless its script has written before. Verbs
-- that must work then (all but the pushes) begin with a write that needs no memory: include/when_full.lua.

-- Whether the client has decided what follows from the changes of rows with a flow. Where it has not, a script that
-- meets one stops with an error: it has written nothing, and the client does it in a transaction.
local in_transaction = false

local PARKED = '4611686018427387904'  -- run_at; not exact as a number
local OF_TASKS = {'note', 'step', 'tag'}  -- the kinds of side rows whose owners are tasks
local MAX_WORDS = 4000  -- of one command: Lua's unpack() is limited to some thousands

local root, call = KEYS[1], redis.call
local sub, match, find = string.sub, string.match, string.find
local LIVE = {pending = true, running = true}

-- Read or to be written: states by id (false: no such row), ids of deleted rows, members of sorted sets (a score, or
-- false to remove the member), fields of hashes (a value, or false to remove the field).
local states, deleted, zsets, hashes = {}, {}, {}, {state = {}}
-- Lanes whose first row may be another now; changes of counts by status and lane, and of active rows by schedule.
local changed_lanes, count_deltas, active_deltas = {}, {}, {}

local function call_in_chunks(command, key, words)
  for i = 1, #words, MAX_WORDS do
    call(command, root .. key, unpack(words, i, math.min(i + MAX_WORDS - 1, #words)))
  end
end

local function read_fields(key, fields)
  local found = {}
  for i = 1, #fields, MAX_WORDS do
    local part = call('HMGET', root .. key, unpack(fields, i, math.min(i + MAX_WORDS - 1, #fields)))
    if #fields <= MAX_WORDS then return part end
    for _, value in ipairs(part) do found[#found + 1] = value end
  end
  return found
end

-- Read the states of these ids, unless they are known, with one command.
local function load_states(ids)
  local missing, n = {}, 0
  for i = 1, #ids do
    if states[ids[i]] == nil then
      n = n + 1
      missing[n] = ids[i]
    end
  end
  local found = read_fields('state', missing)
  for i = 1, n do states[missing[i]] = found[i] end
end

local function set_score(key, member, score)
  zsets[key] = zsets[key] or {}
  zsets[key][member] = score
end

local function set_field(key, field, value)
  hashes[key] = hashes[key] or {}
  hashes[key][field] = value
end

-- Note the state of a row, false to delete the row.
local function set_state(id, state)
  states[id], hashes.state[id] = state, state
  if not state then
    deleted[#deleted + 1] = id
    for _, key in ipairs({'body', 'progress', 'usage'}) do set_field(key, id, false) end
  end
end

local function get_field(key, field)
  local value = hashes[key] and hashes[key][field]
  if value == nil then value = call('HGET', root .. key, field) end
  return value
end

local function queue_of(lane) return sub(lane, find(lane, ':', 1, true) + 1) end

-- The head of a state: status, fence, cancel flag, lease, expires_at, seq, run_at, completed_at, and the lengths in
-- bytes of three texts, which follow: the lane, the keys as a JSON list, where there are any, and for a row with a flow
-- (with gates, in a group) its place (see rows.py); then JSON. The lease is lease_until, or '@', the owner and perhaps
-- '!alone' for a running row that its worker holds, or '-'.
local HEAD = '^(%S+) (%-?%d+) ([01]) (%S+) (%S+) ()(%-?%d+) (%-?%d+) (%S+) (%d+) (%d+) (%d+) ()'

-- The fields of a head, which guards and indexes depend on; nil if there is no row, or its head cannot be read.
local function parse(state)
  if not state then return nil end
  local status, fence, cancel, lease, expires, _, seq, run_at, completed, lane, names, place, at = match(state, HEAD)
  if not status then return nil end
  local names_at = at + lane
  local place_at = names_at + names
  return {
    status = status, fence = fence, cancel = cancel, lease = lease, expires = expires, seq = seq, run_at = run_at,
    completed = completed, keyed = names ~= '0', flow = place ~= '0', lane = sub(state, at, names_at - 1),
    names = sub(state, names_at, place_at - 1), place = sub(state, place_at, place_at + place - 1),
    json = place_at + place,
  }
end

local function row_of(id)
  if states[id] == nil then load_states({id}) end
  return parse(states[id])
end
