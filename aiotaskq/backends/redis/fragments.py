"""How tasks lie in Redis, and the pieces of Lua that the scripts share.

``KEYS[1]`` is what every key begins with, in one hash tag (``{aiotaskq}:``), so that all keys are in one slot of a
cluster and one pattern of an access list. Under it:

======================  ==============================================================================================
``body``                hash: id to what a push wrote once and for all; see ``rows``
``state``               hash: id to what changes: a head that scripts read, and JSON that they do not
``progress``            hash: id to JSON, of rows that have any
``is:live``             sorted set: the stamps of pending and running rows, in push order (all scores are 0)
``is:<status>``         the same for each final status
``lane:<prio>:<queue>`` sorted set: the stamps of pending rows by ``run_at``, that is, in claim order
``heads``               sorted set: the lanes that have rows, by the ``run_at`` of their first
``running``             sorted set: the stamps of running rows by ``lease_until``, without a lease at infinity
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

A script reads the rows of a whole batch with one command, notes what shall change, and writes it in ``flush`` with one
command for each key: a command costs a script more than what it does for one row. The rows lie in two hashes, not in
keys of their own, for the same reason, and a body is apart from its state so that a transition does not write it again.

A server whose memory is full refuses what needs memory only to a script that has written nothing yet. So the verbs that
must work then, all but the pushes, begin with a write that needs none.
"""

from __future__ import annotations

FORMAT = 1

BASE = """
local root, call = KEYS[1], redis.call
local sub, match, find = string.sub, string.match, string.find
local LIVE = {pending = true, running = true}
local MANY = 4000  -- words of one command: Lua hands over some thousands at a time

-- What was read or shall be written: states by id (false: none), members of sorted sets (a score, or false), fields of
-- hashes (a value, or false).
local states, written, bodies, gone, zsets, hashes = {}, {}, {}, {}, {}, {}
local touched, counted, running_of = {}, {}, {}

local function each(command, key, words)
  for i = 1, #words, MANY do call(command, root .. key, unpack(words, i, math.min(i + MANY - 1, #words))) end
end

local function fetch(key, fields)
  if #fields <= MANY then return #fields > 0 and call('HMGET', root .. key, unpack(fields)) or {} end
  local found = {}
  for i = 1, #fields, MANY do
    for _, value in ipairs(call('HMGET', root .. key, unpack(fields, i, math.min(i + MANY - 1, #fields)))) do
      found[#found + 1] = value
    end
  end
  return found
end

-- Read the states of these ids with one command.
local function load(ids)
  local missing, n = {}, 0
  for i = 1, #ids do
    if states[ids[i]] == nil then
      n = n + 1
      missing[n] = ids[i]
    end
  end
  local found = fetch('state', missing)
  for i = 1, n do states[missing[i]] = found[i] end
end

local function write(id, state) states[id], written[id] = state, true end

local function members(key)
  local set = zsets[key]
  if not set then
    set = {}
    zsets[key] = set
  end
  return set
end

local function zset(key, member, score) members(key)[member] = score end

local function hash(key, field, value)
  hashes[key] = hashes[key] or {}
  hashes[key][field] = value
end

local function look_up(key, field)
  local value = hashes[key] and hashes[key][field]
  if value == nil then value = call('HGET', root .. key, field) end
  return value
end

-- The head of a state: status, fence, cancel flag, lease_until, expires_at, whether there are keys, seq, run_at,
-- completed_at, the bytes of the lane and of the names; then the lane, the names and JSON.
local HEAD = '^(%S+) (%-?%d+) ([01]) (%S+) (%S+) ()([01]) (%-?%d+) (%-?%d+) (%S+) (%d+) (%d+) ()'

-- What guards and indexes are made of, nil where there is no row or none that can be read.
local function parse(state)
  if not state then return nil end
  local status, fence, cancel, lease, expires, rest, keyed, seq, run_at, completed, lane, names, at = match(state, HEAD)
  if not status then return nil end
  return {
    status = status, fence = fence, cancel = cancel, lease = lease, expires = expires, rest = rest,
    keyed = keyed == '1', seq = seq, run_at = run_at, completed = completed, lane = sub(state, at, at + lane - 1),
    names = sub(state, at + lane, at + lane + names - 1), json = at + lane + names,
  }
end

local function facts(id)
  if states[id] == nil then load({id}) end
  return parse(states[id])
end

local function queue_of(lane) return sub(lane, find(lane, ':', 1, true) + 1) end

-- type, unique_key, idempotency_key, scheduler_task_id
local function names_of(f)
  local ok, names = pcall(cjson.decode, f.names)
  if not ok or type(names) ~= 'table' then return {} end
  for i = 1, 4 do
    if type(names[i]) ~= 'string' then names[i] = nil end
  end
  return {type = names[1], unique = names[2], once = names[3], schedule = names[4]}
end

local function count(f, by)
  local lanes = counted[f.status]
  if not lanes then
    lanes = {}
    counted[f.status] = lanes
  end
  lanes[f.lane] = (lanes[f.lane] or 0) + by
end

local function out_of_lane(lane, stamp)
  zset('lane:' .. lane, stamp, false)
  touched[lane] = true
end

local function unindex(id, f)
  local stamp = f.seq .. id
  if f.status == 'pending' then
    zset('is:live', stamp, false)
    out_of_lane(f.lane, stamp)
    if f.expires ~= '-' then
      zset('expiring', id, false)
      zset('expired', id, false)
    end
  elseif f.status == 'running' then
    zset('is:live', stamp, false)
    zset('running', stamp, false)
  else
    zset('is:' .. f.status, stamp, false)
    zset('ended:' .. f.status, id, false)
  end
  if f.keyed and LIVE[f.status] then
    local names = names_of(f)
    if names.unique and look_up('unique', names.unique) == id then hash('unique', names.unique, false) end
    if names.schedule then running_of[names.schedule] = (running_of[names.schedule] or 0) - 1 end
  end
  count(f, -1)
end

local function index(id, f)
  local stamp = f.seq .. id
  if f.status == 'pending' then
    zset('is:live', stamp, '0')
    zset('lane:' .. f.lane, stamp, f.run_at)
    touched[f.lane] = true
    if f.expires ~= '-' then zset('expiring', id, f.expires) end
  elseif f.status == 'running' then
    zset('is:live', stamp, '0')
    zset('running', stamp, f.lease == '-' and '+inf' or f.lease)
  else
    zset('is:' .. f.status, stamp, '0')
    zset('ended:' .. f.status, id, f.completed == '-' and '+inf' or f.completed)
  end
  if f.keyed and LIVE[f.status] then
    local names = names_of(f)
    if names.unique then hash('unique', names.unique, id) end
    if names.schedule then running_of[names.schedule] = (running_of[names.schedule] or 0) + 1 end
  end
  count(f, 1)
end

local function add(name, key, by)
  if by ~= 0 and call('HINCRBY', root .. name, key, by) <= 0 then call('HDEL', root .. name, key) end
end

-- Write what was noted, first what needs no memory. What was read stays known.
local function flush()
  local rows, r, less, adding = {}, 0, {}, {}
  for id in pairs(written) do
    if states[id] then
      rows[r + 1], rows[r + 2] = id, states[id]
      r = r + 2
    else
      less[#less + 1] = id
    end
  end
  for key, members in pairs(zsets) do
    local more, m, out, o = {}, 0, {}, 0
    for member, score in pairs(members) do
      if score then
        more[m + 1], more[m + 2] = score, member
        m = m + 2
      else
        o = o + 1
        out[o] = member
      end
    end
    each('ZREM', key, out)
    if m > 0 then adding[key] = more end
  end
  each('HDEL', 'state', less)
  each('HDEL', 'body', less)
  each('HDEL', 'progress', less)
  each('HSET', 'state', rows)
  each('HSET', 'body', bodies)
  for key, more in pairs(adding) do each('ZADD', key, more) end
  for key, fields in pairs(hashes) do
    for field, value in pairs(fields) do
      if value then call('HSET', root .. key, field, value) else call('HDEL', root .. key, field) end
    end
  end
  for lane in pairs(touched) do
    local head = call('ZRANGE', root .. 'lane:' .. lane, 0, 0, 'WITHSCORES')
    if head[1] then call('ZADD', root .. 'heads', head[2], lane) else call('ZREM', root .. 'heads', lane) end
  end
  for status, lanes in pairs(counted) do
    local queues = {}
    for lane, by in pairs(lanes) do queues[queue_of(lane)] = (queues[queue_of(lane)] or 0) + by end
    for queue, by in pairs(queues) do add('counts', status .. ':' .. queue, by) end
  end
  for schedule, by in pairs(running_of) do add('active', schedule, by) end
  written, bodies, zsets, hashes, touched, counted, running_of = {}, {}, {}, {}, {}, {}, {}
end

local function holder(name, key)
  local id = key and look_up(name, key)
  local f = id and facts(id)
  if f and (name == 'once' or LIVE[f.status]) then return id end
end

-- What the head says, as the JSON of a state ends with it when it is answered.
local function said(f)
  return ',"status":"' .. f.status .. '","fence":' .. f.fence .. (f.lease ~= '-' and ',"lease_until":' .. f.lease or '')
    .. (f.cancel == '1' and ',"cancel_requested":true' or '')
end

-- Append whole rows as they are answered: id, body, state, progress; a row that is not there has no state. ``shown``
-- are the states as they are answered, where they are known already.
local function read(ids, answer, shown)
  load(ids)
  local parts = fetch('body', ids)
  local progress = call('HLEN', root .. 'progress') > 0 and fetch('progress', ids)
  local n = #answer
  for i, id in ipairs(ids) do
    local state = shown and shown[i]
    if not state then
      local f = parse(states[id])
      state = f and sub(states[id], f.json) .. said(f) or states[id] or ''
    end
    answer[n + 1], answer[n + 2], answer[n + 3] = id, parts[i] or '', state
    answer[n + 4] = progress and progress[i] and ',"progress":' .. progress[i] or ''
    n = n + 4
  end
  return answer
end

-- The states with these in the place of what their heads begin with.
local function headed(f, state, status, fence, cancel, lease)
  return status .. ' ' .. fence .. ' ' .. cancel .. ' ' .. lease .. ' ' .. f.expires .. ' ' .. sub(state, f.rest)
end
"""

FULL = """
call('DEL', root .. 'room')  -- a write that needs no memory
"""

PUSH_ROW = """
-- Insert, or answer with the id of the row that is in the way; nil where the push was repeated.
local function push(id, body, state)
  local f = parse(state)
  if states[id] == nil then load({id}) end
  if states[id] then
    local there = parse(states[id])
    return not (there and there.seq == f.seq) and id or nil
  end
  if f.keyed then
    local names = names_of(f)
    if names.schedule and call('GET', root .. 'fired:' .. id) == f.seq then return nil end
    local other = holder('once', names.once) or holder('unique', names.unique)
    if other then return other end
    if names.once then hash('once', names.once, id) end
  end
  write(id, state)
  bodies[#bodies + 1] = id
  bodies[#bodies + 1] = body
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
  local colon = find(lane, ':', 1, true)
  return tonumber(sub(lane, 1, colon - 1)), sub(lane, colon + 1)
end
local function is_open(queue) return not paused[queue] and (not wanted or wanted[queue] == true) end

-- An expired row is not claimed; it is taken out of its lane, so that nobody has to step over it again.
local function lapse(id, lane, stamp, expires)
  zset('expiring', id, false)
  out_of_lane(lane, stamp)
  zset('expired', id, expires)
end

local function sweep(now)
  local late = call('ZRANGEBYSCORE', root .. 'expiring', '-inf', now, 'LIMIT', 0, 10000)
  if #late == 0 then return end
  load(late)
  for _, id in ipairs(late) do
    local f = parse(states[id])
    if f and f.status == 'pending' and f.expires ~= '-' then
      lapse(id, f.lane, f.seq .. id, f.expires)
    else
      zset('expiring', id, false)
    end
  end
  flush()
end
"""

READY = """
-- The instant at which tasks count for a bound: one pushed without delay is due by its push stamp, on any clock.
local function latest(now)
  local newest = call('ZREVRANGEBYLEX', root .. 'is:live', '+', '-', 'LIMIT', 0, 1)[1]
  return string.format('%.0f', math.max(now, newest and tonumber(sub(newest, 1, 20)) or 0))
end
"""

MATCHES = """
local where = cmsgpack.unpack(ARGV[1])
local named = where.type or where.scheduler_task_id
local function matches(f)
  if named then
    local names = names_of(f)
    if where.type and names.type ~= where.type then return false end
    if where.scheduler_task_id and names.schedule ~= where.scheduler_task_id then return false end
  end
  return (not where.queue or queue_of(f.lane) == where.queue)
    and (not where.before or (f.completed ~= '-' and tonumber(f.completed) < tonumber(where.before)))
end
"""

REMOVE_ROW = """
local function remove(id, f)
  unindex(id, f)
  write(id, false)
  if not f.keyed then return end
  local names = names_of(f)
  if names.once and look_up('once', names.once) == id then hash('once', names.once, false) end
  -- Its schedule lives elsewhere, and hands it over once more if who fired it died at that moment (C8).
  if names.schedule then call('SET', root .. 'fired:' .. id, f.seq, 'EX', 3600) end
end
"""
