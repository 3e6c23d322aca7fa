"""How tasks lie in Redis, and the pieces of Lua that the scripts share.

``KEYS[1]`` is what every key begins with, in one hash tag (``{aiotaskq}:``), so that all keys are in one slot of a
cluster and one pattern of an access list. Under it:

======================  ==============================================================================================
``task:<id>``           hash: a row; see ``redis_rows``
``is:<status>``         sorted set: the stamps of all rows of that status, in push order (all scores are 0)
``lane:<prio>:<queue>`` sorted set: the stamps of pending rows by ``run_at``, that is, in claim order
``heads``               sorted set: the lanes that have rows, by the ``run_at`` of their first
``leases``              sorted set: the ids of running rows by ``lease_until``
``expiring``            sorted set: the ids of pending rows by ``expires_at``
``expired``             the same, once they are out of their lane, which nobody claims from any more
``ended:<status>``      sorted set: the ids of final rows by ``completed_at``
``unique``              hash: unique key of a pending or running row to its id
``once``                hash: idempotency key to id
``counts``              hash: ``<status>:<queue>`` to the number of rows
``active``              hash: schedule to the number of its pending and running rows
``fired:<id>``          for an hour, the ``seq`` of a schedule's task that was deleted
``paused``              set of queues
``values``, ``until``   hash of public values, and sorted set of those that expire
``format``              the number of this layout
======================  ==============================================================================================

A stamp is the row's ``seq`` in twenty digits, and its id. Instants are scores, which are exact until the year 2255.
What the indexes say is believed only where the row says the same; an entry without its row is dropped when it is met.

A server whose memory is full refuses what needs memory only to a script that has written nothing yet. So the verbs that
must work then, all but the pushes, begin with a write that needs none.
"""

from __future__ import annotations

FORMAT = 1

BASE = """
local root, call = KEYS[1], redis.call
local touched, counted, running_of = {}, {}, {}
local LIVE = {pending = true, running = true}
local FACTS = {'status', 'queue', 'priority', 'run_at', 'seq', 'expires_at', 'lease_until', 'completed_at',
  'unique_key', 'idempotency_key', 'scheduler_task_id', 'fence', 'cancel_requested', 'type'}

local function complete(f)
  f.queue, f.priority, f.seq, f.fence = f.queue or 'default', f.priority or '0', f.seq or '0', f.fence or '0'
  return f
end

-- What the indexes and guards are made of, nil where there is no row.
local function facts(id)
  local found, f = call('HMGET', root .. 'task:' .. id, unpack(FACTS)), {}
  if not found[1] then return nil end
  for i, name in ipairs(FACTS) do f[name] = found[i] or nil end
  return complete(f)
end

-- A whole row as it is answered, its id at the end.
local function read(id)
  local row = call('HGETALL', root .. 'task:' .. id)
  row[#row + 1] = id
  return row
end

local function set(f, pairs_of, from)
  for i = from, #pairs_of - 1, 2 do f[pairs_of[i]] = pairs_of[i + 1] end
  return f
end

local function stamp(seq, id) return string.rep('0', 20 - #seq) .. seq .. id end
local function id_of(stamped) return string.sub(stamped, 21) end
local function lane_of(f) return f.priority .. ':' .. f.queue end

local function count(f, by)
  local name = f.status .. ':' .. f.queue
  counted[name] = (counted[name] or 0) + by
  local schedule = f.scheduler_task_id
  if schedule and LIVE[f.status] then running_of[schedule] = (running_of[schedule] or 0) + by end
end

local function out_of_lane(id, f)
  call('ZREM', root .. 'lane:' .. lane_of(f), stamp(f.seq, id))
  touched[lane_of(f)] = true
end

local function unindex(id, f)
  call('ZREM', root .. 'is:' .. f.status, stamp(f.seq, id))
  if f.status == 'pending' then
    out_of_lane(id, f)
    if f.expires_at then
      call('ZREM', root .. 'expiring', id)
      call('ZREM', root .. 'expired', id)
    end
  elseif f.status == 'running' then
    call('ZREM', root .. 'leases', id)
  else
    call('ZREM', root .. 'ended:' .. f.status, id)
  end
  if f.unique_key and LIVE[f.status] and call('HGET', root .. 'unique', f.unique_key) == id then
    call('HDEL', root .. 'unique', f.unique_key)
  end
  count(f, -1)
end

local function index(id, f)
  call('ZADD', root .. 'is:' .. f.status, 0, stamp(f.seq, id))
  if f.status == 'pending' then
    call('ZADD', root .. 'lane:' .. lane_of(f), f.run_at or '0', stamp(f.seq, id))
    touched[lane_of(f)] = true
    if f.expires_at then call('ZADD', root .. 'expiring', f.expires_at, id) end
  elseif f.status == 'running' then
    if f.lease_until then call('ZADD', root .. 'leases', f.lease_until, id) end
  else
    call('ZADD', root .. 'ended:' .. f.status, f.completed_at or '+inf', id)
  end
  if f.unique_key and LIVE[f.status] then call('HSET', root .. 'unique', f.unique_key, id) end
  count(f, 1)
end

local function add(name, key, by)
  if by ~= 0 and call('HINCRBY', root .. name, key, by) <= 0 then call('HDEL', root .. name, key) end
end

local function finish()
  for lane in pairs(touched) do
    local head = call('ZRANGE', root .. 'lane:' .. lane, 0, 0, 'WITHSCORES')
    if head[1] then call('ZADD', root .. 'heads', head[2], lane) else call('ZREM', root .. 'heads', lane) end
  end
  for name, by in pairs(counted) do add('counts', name, by) end
  for schedule, by in pairs(running_of) do add('active', schedule, by) end
end

local function holder(name, key)
  local id = key and call('HGET', root .. name, key)
  local f = id and facts(id)
  if f and (name == 'once' or LIVE[f.status]) then return id end
end
"""

FULL = """
call('DEL', root .. 'room')  -- a write that needs no memory
"""

PUSH_ROW = """
-- Insert, or answer with the id of the row that is in the way; nil where the push was repeated.
local function push(row)
  local id, f = row[1], complete(set({}, row, 2))
  local there = facts(id)
  if there then return there.seq ~= f.seq and id or nil end
  if f.scheduler_task_id and call('GET', root .. 'fired:' .. id) == f.seq then return nil end
  local other = holder('once', f.idempotency_key) or holder('unique', f.unique_key)
  if other then return other end
  call('HSET', root .. 'task:' .. id, unpack(row, 2))
  if f.idempotency_key then call('HSET', root .. 'once', f.idempotency_key, id) end
  index(id, f)
end
"""

OPEN_QUEUES = """
local paused = {}
for _, queue in ipairs(call('SMEMBERS', root .. 'paused')) do paused[queue] = true end
local wanted = nil
local function want(packed)
  if packed == '' then return end
  wanted = {}
  for _, queue in ipairs(cmsgpack.unpack(packed)) do wanted[queue] = true end
end

local function split(lane)
  local colon = string.find(lane, ':', 1, true)
  return tonumber(string.sub(lane, 1, colon - 1)), string.sub(lane, colon + 1)
end
local function is_open(queue) return not paused[queue] and (not wanted or wanted[queue] == true) end

-- An expired row is not claimed; it is taken out of its lane, so that nobody has to step over it again.
local function lapse(id, f)
  call('ZREM', root .. 'expiring', id)
  out_of_lane(id, f)
  call('ZADD', root .. 'expired', f.expires_at, id)
end

local function sweep(now)
  for _, id in ipairs(call('ZRANGEBYSCORE', root .. 'expiring', '-inf', now, 'LIMIT', 0, 10000)) do
    local f = facts(id)
    if f and f.status == 'pending' and f.expires_at then lapse(id, f) else call('ZREM', root .. 'expiring', id) end
  end
end
"""

MATCHES = """
local where = cmsgpack.unpack(ARGV[1])
local function matches(f)
  return (not where.type or f.type == where.type) and (not where.queue or f.queue == where.queue)
    and (not where.scheduler_task_id or f.scheduler_task_id == where.scheduler_task_id)
    and (not where.before or (f.completed_at and tonumber(f.completed_at) < tonumber(where.before)) or false)
end
"""

REMOVE_ROW = """
local function remove(id, f)
  unindex(id, f)
  if f.idempotency_key and call('HGET', root .. 'once', f.idempotency_key) == id then
    call('HDEL', root .. 'once', f.idempotency_key)
  end
  call('DEL', root .. 'task:' .. id)
  -- Its schedule lives elsewhere, and hands it over once more if who fired it died at that moment (C8).
  if f.scheduler_task_id then call('SET', root .. 'fired:' .. id, f.seq, 'EX', 3600) end
end
"""
