"""The Lua scripts that only read (and drop, on the way, entries of an index whose row is gone)."""

from __future__ import annotations

from aiotaskq.backends.redis.connection import Script
from aiotaskq.backends.redis.fragments import BASE, MATCHES, OPEN_QUEUES, READY

# ARGV: ids. Answers with rows; one that is not there has no state.
GET = Script(BASE + "return read(ARGV, {})")

# ARGV: ids. Answers with 1 or 0: whether it runs and was asked to stop.
CANCELLING = Script(
    BASE
    + """
local answer = {}
load(ARGV)
for i, id in ipairs(ARGV) do
  local f = parse(states[id])
  answer[i] = f and f.status == 'running' and f.cancel == '1' and 1 or 0
end
return answer
"""
)

# ARGV: filter, packed statuses, cursor or '', id to begin behind or '', rows wanted, rows looked at.
# Answers with the cursor behind the last one looked at, '' at the end, and with rows.
FIND = Script(
    BASE
    + MATCHES
    + """
local FEW = 5000  -- running rows that are put in order for one answer; where there are more, they are not hard to find
local STEP = 100  -- rows read at a time

-- Strings are compared in the server's locale, which digits do not mind, and byte for byte in sorted sets.
local function less(a, b)
  local x, y = sub(a, 1, 20), sub(b, 1, 20)
  if x ~= y then return x < y end
  for i = 21, math.min(#a, #b) do
    x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local cursor, wanted, look = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local from
if cursor ~= '' then
  from = cursor
elseif ARGV[4] ~= '' then
  local f = facts(ARGV[4])
  from = f and f.seq .. ARGV[4]
end
local statuses, lists = {}, {}

local function merge(list)
  if #list > 0 then lists[#lists + 1] = {list = list, at = 1} end
end

local function listed(name)
  merge(call('ZREVRANGEBYLEX', root .. 'is:' .. name, from and '(' .. from or '+', '-', 'LIMIT', 0, look))
end

for _, status in ipairs(cmsgpack.unpack(ARGV[2])) do
  statuses[status] = true
  if not LIVE[status] then listed(status) end
end
if statuses.running and not statuses.pending and call('ZCARD', root .. 'running') <= FEW then
  local stamps, list = call('ZUNION', 1, root .. 'running', 'WEIGHTS', 0), {}
  for i = #stamps, 1, -1 do
    if #list == look then break end
    if not from or less(stamps[i], from) then list[#list + 1] = stamps[i] end
  end
  merge(list)
elseif statuses.pending or statuses.running then
  listed('live')
end

local function newest()
  local best
  for _, l in ipairs(lists) do
    if l.list[l.at] and (not best or less(best.list[best.at], l.list[l.at])) then best = l end
  end
  if not best then return end
  best.at = best.at + 1
  return best.list[best.at - 1]
end

local found, seen = {}, 0
cursor = ''
while cursor == '' do
  local stamps, ids = {}, {}
  for i = 1, math.min(STEP, look - seen) do
    local stamp = newest()
    if not stamp then break end
    stamps[i], ids[i] = stamp, sub(stamp, 21)
  end
  if #ids == 0 then break end
  load(ids)
  for i, id in ipairs(ids) do
    local f = parse(states[id])
    if states[id] and (not f or statuses[f.status] and matches(f)) then found[#found + 1] = id end
    seen = seen + 1
    if #found == wanted or seen == look then
      cursor = stamps[i]
      break
    end
  end
end
return {cursor, read(found, {})}
"""
)

# ARGV: now, limit. Answers with rows, the longest overdue first.
OVERDUE = Script(
    BASE
    + """
local found = {}
for name, status in pairs({running = 'running', expiring = 'pending', expired = 'pending'}) do
  local part, ids = call('ZRANGEBYSCORE', root .. name, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2]), {}
  for i = 1, #part, 2 do ids[#ids + 1] = name == 'running' and sub(part[i], 21) or part[i] end
  load(ids)
  for i, id in ipairs(ids) do
    local f = parse(states[id])
    if f and f.status == status then
      found[#found + 1] = {id = id, at = tonumber(part[2 * i])}
    else
      zset(name, part[2 * i - 1], false)
    end
  end
end
flush()
table.sort(found, function(a, b) return a.at < b.at end)
local ids = {}
for i = 1, math.min(#found, tonumber(ARGV[2])) do ids[i] = found[i].id end
return read(ids, {})
"""
)

# ARGV: now, limit. Answers with rows, the largest priority number first, and of one priority the oldest first.
LEAST_READY = Script(
    BASE
    + OPEN_QUEUES
    + READY
    + """
want('')
sweep(ARGV[1])
local at, left = latest(tonumber(ARGV[1])), tonumber(ARGV[2])
local lanes, priorities = {}, {}
for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', at)) do
  local priority, queue = split(lane)
  if is_open(queue) then
    if not lanes[priority] then
      lanes[priority] = {}
      priorities[#priorities + 1] = priority
    end
    table.insert(lanes[priority], lane)
  end
end
table.sort(priorities, function(a, b) return a > b end)
local ids = {}
for _, priority in ipairs(priorities) do
  local found = {}
  for _, lane in ipairs(lanes[priority]) do
    local part = call('ZRANGEBYSCORE', root .. 'lane:' .. lane, '-inf', at, 'WITHSCORES', 'LIMIT', 0, left)
    for i = 1, #part, 2 do found[#found + 1] = {stamp = part[i], at = tonumber(part[i + 1])} end
  end
  table.sort(found, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return a.stamp < b.stamp
  end)
  for i = 1, math.min(#found, left) do ids[#ids + 1] = sub(found[i].stamp, 21) end
  left = left - math.min(#found, left)
  if left == 0 then break end
end
return read(ids, {})
"""
)

# ARGV: now, packed queues or '', whether to count all. Answers with the number of ready rows, the first run_at, counts.
LOOK = Script(
    BASE
    + OPEN_QUEUES
    + """
want(ARGV[2])
sweep(ARGV[1])
local ready, first, now = 0, nil, tonumber(ARGV[1])
local heads = call('ZRANGE', root .. 'heads', 0, -1, 'WITHSCORES')
for i = 1, #heads, 2 do
  local _, queue = split(heads[i])
  if is_open(queue) then
    first = first or heads[i + 1]
    if tonumber(heads[i + 1]) > now then break end
    ready = ready + call('ZCOUNT', root .. 'lane:' .. heads[i], '-inf', ARGV[1])
  end
end
return {ready, first or false, ARGV[3] == '1' and call('HGETALL', root .. 'counts') or false}
"""
)
