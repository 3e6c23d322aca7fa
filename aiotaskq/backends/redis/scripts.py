"""What each verb that writes does inside Redis: Lua scripts, each of which runs as one step."""

from __future__ import annotations

from aiotaskq.backends.redis.connection import Script
from aiotaskq.backends.redis.fragments import BASE, FULL, MATCHES, OPEN_QUEUES, PUSH_ROW, READY, REMOVE_ROW

OPEN = Script("""
local there = redis.call('GET', KEYS[1] .. 'format')
if not there then redis.call('SET', KEYS[1] .. 'format', ARGV[1]) end
return there or ARGV[1]
""")

# ARGV: lists of rows, packed: id, body and state of each. Answers with the number of each row that met another in its
# way, and then with those others.
PUSH = Script(
    BASE
    + PUSH_ROW
    + """
local numbers, others, number = {}, {}, 0
for _, packed in ipairs(ARGV) do
  local rows, ids = cmsgpack.unpack(packed), {}
  for i = 1, #rows, 3 do ids[#ids + 1] = rows[i] end
  load(ids)
  for i = 1, #rows, 3 do
    number = number + 1
    local other = push(rows[i], rows[i + 1], rows[i + 2])
    if other then
      numbers[#numbers + 1] = number
      others[#others + 1] = other
    end
  end
end
flush()
return {numbers, read(others, {})}
"""
)

_CHANGE = """
-- A state with the names of the one before: who could not read the body did not know them.
local function renamed(state, before)
  local f = parse(state)
  local keyed = before.keyed and '1' or '0'
  local words = {f.status, f.fence, f.cancel, f.lease, f.expires, keyed, before.seq, f.run_at, f.completed, #f.lane}
  return table.concat(words, ' ') .. ' ' .. #before.names .. ' ' .. f.lane .. before.names .. sub(state, f.json)
end

-- Apply one change if it holds.
local function change(id, status, fence, cancel, state, more)
  local f = parse(states[id])
  local held = f and f.status == status and f.fence == fence and (cancel == '' or f.cancel == cancel)
    and (not more.lease or f.lease == more.lease)
  if held and more.revived and f.keyed then
    local newer = holder('unique', names_of(f).unique)
    held = not newer or newer == id
  end
  if not held then return false end
  if more.unread then state = renamed(state, f) end
  unindex(id, f)
  write(id, state)
  index(id, parse(state))
  if more.body then
    bodies[#bodies + 1] = id
    bodies[#bodies + 1] = more.body
  end
  local follow = more.follow or {}
  for j = 1, #follow, 3 do push(follow[j], follow[j + 1], follow[j + 2]) end
  return true
end
"""

_UPDATE = """
-- Apply packed changes: id, status, fence and cancel flag ('' for any) as they must be, the new state, and what else
-- there is: false, a table, or of one that ends and has no keys only its completed_at. Answers with 1 or 0 for each.
local function update(packed)
  local changes, ids, answer = cmsgpack.unpack(packed), {}, {}
  for i = 1, #changes, 6 do ids[#ids + 1] = changes[i] end
  load(ids)
  local rows, stamps, ends, e = {}, {}, {}, 0
  for i = 1, #changes, 6 do
    local id, state, more = changes[i], changes[i + 4], changes[i + 5]
    local held
    local status, fence, _, _, _, _, keyed, seq, _, _, long, _, at = match(states[id] or '', HEAD)
    if type(more) == 'string' and status == 'running' and keyed == '0' and not written[id] then
      -- It ran and has come to its end, and that is all: the case that must be quick, as all that is written can be
      -- listed at once. By the way of all others it costs the server twice as much.
      held = fence == changes[i + 2]
      if held then
        local lane, new = sub(states[id], at, at + long - 1), match(state, '^%S+')
        local ended = ends[new]
        if not ended then
          ended = {order = {}, times = {}, lanes = {}, n = 0}
          ends[new] = ended
        end
        e = e + 1
        stamps[e] = seq .. id
        states[id] = state
        rows[2 * e - 1], rows[2 * e] = id, state
        ended.n = ended.n + 2
        ended.order[ended.n - 1], ended.order[ended.n] = '0', stamps[e]
        ended.times[ended.n - 1], ended.times[ended.n] = more, id
        ended.lanes[lane] = (ended.lanes[lane] or 0) + 1
      end
    else
      held = change(id, changes[i + 1], changes[i + 2], changes[i + 3], state, type(more) == 'table' and more or {})
    end
    answer[#answer + 1] = held and 1 or 0
  end
  each('ZREM', 'is:live', stamps)
  each('ZREM', 'running', stamps)
  each('HSET', 'state', rows)
  for status, ended in pairs(ends) do
    each('ZADD', 'is:' .. status, ended.order)
    each('ZADD', 'ended:' .. status, ended.times)
    for lane, number in pairs(ended.lanes) do
      count({status = 'running', lane = lane}, -number)
      count({status = status, lane = lane}, number)
    end
  end
  flush()
  return answer
end
"""

_UPDATE += """
-- Apply all the packed changes from this argument on.
local function update_from(first)
  local answer = {}
  for i = first, #ARGV do
    for _, held in ipairs(update(ARGV[i])) do answer[#answer + 1] = held end
  end
  return answer
end
"""

_CLAIM = """
local function before(a, b)
  if a.at ~= b.at then return a.at < b.at end
  return a.stamp < b.stamp
end

-- The first due rows of lanes of one priority, in claim order.
local function due(lanes, now, limit)
  local found = {}
  if #lanes == 1 then
    for i, stamp in ipairs(call('ZRANGEBYSCORE', root .. 'lane:' .. lanes[1], '-inf', now, 'LIMIT', 0, limit)) do
      found[i] = {lane = lanes[1], stamp = stamp}
    end
    return found
  end
  for _, lane in ipairs(lanes) do
    local part = call('ZRANGEBYSCORE', root .. 'lane:' .. lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #part, 2 do found[#found + 1] = {lane = lane, stamp = part[i], at = tonumber(part[i + 1])} end
  end
  table.sort(found, before)
  return found
end

local function next_fence(fence)
  if #fence < 16 then return string.format('%d', fence + 1) end
  -- More than the numbers of Lua are exact for.
  local nines = match(fence, '9*$')
  local head = sub(fence, 1, #fence - #nines)
  if head == '' then return '1' .. string.rep('0', #nines) end
  return sub(head, 1, -2) .. (tonumber(sub(head, -1)) + 1) .. string.rep('0', #nines)
end

-- owner is JSON; lease and queues (packed) can be ''. Answers with rows.
local function claim(owner, now, left, lease, started, queues)
  want(queues)
  sweep(now)
  local lanes, priorities = {}, {}
  for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', now)) do
    local priority, queue = split(lane)
    if is_open(queue) then
      if not lanes[priority] then
        lanes[priority] = {}
        priorities[#priorities + 1] = priority
      end
      table.insert(lanes[priority], lane)
    end
  end
  table.sort(priorities)

  local ids, shown, taken = {}, {}, 0
  local stored = ',"lease_owner":' .. owner .. ',"started_at":' .. started
  local running = stored .. ',"status":"running","fence":'
  local ending = lease ~= '' and ',"lease_until":' .. lease or ''
  local held, score = lease ~= '' and lease or '-', lease ~= '' and lease or '+inf'

  -- The new state of a row that is claimed. By hand, as ``parse`` and its like would be half of what a claim costs.
  local function take(lane, stamp, id)
    local state = states[id]
    local status, fence, cancel, _, expires, rest, _, seq, _, _, long, names, at = match(state or '', HEAD)
    if state and not status then  -- damaged: what the index knows must do
      state = 'pending 0 0 - - 0 ' .. sub(stamp, 1, 20) .. ' 0 - ' .. #lane .. ' 0 ' .. lane .. state
      status, fence, cancel, _, expires, rest, _, seq, _, _, long, names, at = match(state, HEAD)
    end
    if status ~= 'pending' or seq .. id ~= stamp or sub(state, at, at + long - 1) ~= lane then
      out_of_lane(lane, stamp)
      return nil
    end
    if expires ~= '-' then
      if tonumber(expires) <= tonumber(now) then
        lapse(id, lane, stamp, expires)
        return nil
      end
      zset('expiring', id, false)
      zset('expired', id, false)
    end
    fence = next_fence(fence)
    taken = taken + 1
    ids[taken] = id
    shown[taken] = sub(state, at + long + names) .. running .. fence .. ending
      .. (cancel == '1' and ',"cancel_requested":true' or '')
    state = 'running ' .. fence .. ' ' .. cancel .. ' ' .. held .. ' ' .. expires .. ' ' .. sub(state, rest) .. stored
    states[id] = state
    return state
  end

  for _, priority in ipairs(priorities) do
    while left > 0 do
      local most = left
      local found, looked, rows, leased, moved, n = due(lanes[priority], now, most), {}, {}, {}, {}, 0
      for i = 1, math.min(most, #found) do looked[i] = sub(found[i].stamp, 21) end
      load(looked)
      for i = 1, #looked do
        local lane, stamp = found[i].lane, found[i].stamp
        local state = take(lane, stamp, looked[i])
        if state then
          n = n + 2
          rows[n - 1], rows[n] = looked[i], state
          leased[n - 1], leased[n] = score, stamp
          moved[lane] = moved[lane] or {}
          table.insert(moved[lane], stamp)
        end
      end
      for lane, stamps in pairs(moved) do
        each('ZREM', 'lane:' .. lane, stamps)
        touched[lane] = true
        count({status = 'pending', lane = lane}, -#stamps)
        count({status = 'running', lane = lane}, #stamps)
      end
      each('HSET', 'state', rows)
      each('ZADD', 'running', leased)
      flush()
      left = left - n / 2
      if #found < most then break end
    end
  end
  return read(ids, {}, shown)
end
"""

# ARGV: maxsize, now, the number of lists of changes, these, packed, and then lists of rows as for a push. Answers with
# -1, and as a push does; or, where nothing was written, with the number of tasks that are too many, 0 if a change did
# not hold.
PUSH_BOUNDED = Script(
    BASE
    + PUSH_ROW
    + _CHANGE
    + OPEN_QUEUES
    + READY
    + """
local maxsize, now = tonumber(ARGV[1]), tonumber(ARGV[2])
want('')
sweep(ARGV[2])
local at = latest(now)
local ready = 0
for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', at)) do
  local _, queue = split(lane)
  if is_open(queue) then ready = ready + call('ZCOUNT', root .. 'lane:' .. lane, '-inf', at) end
end

-- Apply one change if it holds; it is not written yet.
local function settle(id, status, fence, cancel, state, more)
  local f = facts(id)
  if not change(id, status, fence, cancel, state, type(more) == 'table' and more or {}) then return false end
  local due = f.status == 'pending' and is_open(queue_of(f.lane)) and tonumber(f.run_at) <= tonumber(at)
  if due and (f.expires == '-' or tonumber(f.expires) > now) then ready = ready - 1 end
  return true
end

local behind = 3 + tonumber(ARGV[3])
for n = 4, behind do
  local changes = cmsgpack.unpack(ARGV[n])
  for i = 1, #changes, 6 do
    if not settle(unpack(changes, i, i + 5)) then return {0} end
  end
end
local numbers, others, number, new = {}, {}, 0, 0
for n = behind + 1, #ARGV do
  local rows, ids = cmsgpack.unpack(ARGV[n]), {}
  for i = 1, #rows, 3 do ids[#ids + 1] = rows[i] end
  load(ids)
  for i = 1, #rows, 3 do
    number = number + 1
    local known = states[rows[i]]
    local other = push(rows[i], rows[i + 1], rows[i + 2])
    if other then
      numbers[#numbers + 1] = number
      others[#others + 1] = other
    elseif not known and states[rows[i]] then
      new = new + 1
    end
  end
end
if new > 0 and ready + new > maxsize then return {ready + new - maxsize} end
flush()
return {-1, numbers, read(others, {})}
"""
)

# ARGV: lists of changes, packed. Answers with 1 or 0 for each.
UPDATE = Script(BASE + PUSH_ROW + _CHANGE + _UPDATE + FULL + "return update_from(1)")

# ARGV: owner as JSON, now, limit, lease_until or '', started_at, packed queues or ''. Answers with rows.
CLAIM = Script(
    BASE + OPEN_QUEUES + _CLAIM + FULL + "return claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])"
)

# ARGV: as for a claim, and then lists of changes, packed. Answers with 1 or 0 for each change, and with rows.
EXCHANGE = Script(
    BASE
    + PUSH_ROW
    + _CHANGE
    + _UPDATE
    + OPEN_QUEUES
    + _CLAIM
    + FULL
    + """
local held = update_from(7)
return {held, claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])}
"""
)

# ARGV: lease_until, then id and fence of each. Answers with 1 or 0 (the cancel flag), -1 where it is lost.
HEARTBEAT = Script(
    BASE
    + FULL
    + """
local answer, ids = {}, {}
for i = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
load(ids)
for i, id in ipairs(ids) do
  local f = parse(states[id])
  if f and f.status == 'running' and f.fence == ARGV[2 * i + 1] then
    write(id, headed(f, states[id], f.status, f.fence, f.cancel, ARGV[1]))
    zset('running', f.seq .. id, ARGV[1])
    answer[i] = f.cancel == '1' and 1 or 0
  else
    answer[i] = -1
  end
end
flush()
return answer
"""
)

# ARGV: id, fence and JSON of each. Answers with 1 or 0.
REPORT = Script(
    BASE
    + FULL
    + """
local answer = {}
for i = 1, #ARGV, 3 do
  local f = facts(ARGV[i])
  local held = f and f.status == 'running' and f.fence == ARGV[i + 1]
  if held then call('HSET', root .. 'progress', ARGV[i], ARGV[i + 2]) end
  answer[#answer + 1] = held and 1 or 0
end
return answer
"""
)

# ARGV: ids. Answers with 1 or 0: whether it runs (and is flagged now).
CANCEL = Script(
    BASE
    + FULL
    + """
local answer = {}
load(ARGV)
for i, id in ipairs(ARGV) do
  local f = parse(states[id])
  local runs = f and f.status == 'running'
  if runs then write(id, headed(f, states[id], f.status, f.fence, '1', f.lease)) end
  answer[i] = runs and 1 or 0
end
flush()
return answer
"""
)

# ARGV: filter, status, limit, how many to pass over, rows looked at.
# Answers with the number of deleted rows, and of those to pass over next, -1 at the end.
PURGE = Script(
    BASE
    + MATCHES
    + REMOVE_ROW
    + FULL
    + """
local ended, left, kept, look = 'ended:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local before = where.before and '(' .. where.before or '+inf'
local page = call('ZRANGEBYSCORE', root .. ended, '-inf', before, 'LIMIT', kept, look)
local deleted = 0
load(page)
for _, id in ipairs(page) do
  if deleted == left then break end
  local f = parse(states[id])
  if not f or f.status ~= ARGV[2] then
    zset(ended, id, false)
  elseif matches(f) then
    remove(id, f)
    deleted = deleted + 1
  else
    kept = kept + 1
  end
end
flush()
return {deleted, #page < look and -1 or kept}
"""
)

# ARGV: ids. Answers with the number of those that were there.
DELETE = Script(
    BASE
    + REMOVE_ROW
    + FULL
    + """
local deleted = 0
load(ARGV)
for _, id in ipairs(ARGV) do
  if states[id] then
    local f = parse(states[id])
    if f then remove(id, f) else write(id, false) end
    deleted = deleted + 1
  end
end
flush()
return deleted
"""
)

# ARGV: queue, 1 or 0.
PAUSE = Script(
    BASE
    + FULL
    + """
call(ARGV[2] == '1' and 'SADD' or 'SREM', root .. 'paused', ARGV[1])
"""
)
