-- ARGV: hint, now, the number of rows, the number of lines; of all lines: the numbers of their rows, the lanes, the
-- gates, the bounds that the rows declare as JSON, how many slots these give; of all rows, in the order of the lines:
-- the ids; id and state of each; id and body; 0 and stamp; due_at and stamp. A line has the new rows of one lane that
-- are parked at the same gate, their only one, in claim order; the gate has no other line. The rows are due at `now`,
-- have no keys and no expiry, and their bounds have no rate and no max_waiting. The states of a line are those of rows
-- that have passed if its rows are not more than the slots, since most such lines pass; else those of parked rows.
-- Returns 1. Or 0, and nothing is written, if that is not all of what there is to do: then push.lua does it.

local MAX_WORDS = 4000  -- as in base.lua
local PARKED = '4611686018427387904'  -- as in base.lua
local RUN_AT = #'pending 0 0 - - 2 ' + 20 + 2  -- where it begins in the state of a new row; see HEAD in base.lua
local root, words, call, sub, match, min = KEYS[1], ARGV, redis.call, string.sub, string.match, math.min
local now, count, lines = tonumber(words[2]), tonumber(words[3]), tonumber(words[4])
local lanes, gates, bounds, slots, ids = 4 + lines, 4 + 2 * lines, 4 + 3 * lines, 4 + 4 * lines, 5 + 5 * lines
local states, bodies, live, dues = ids + count, ids + 3 * count, ids + 5 * count, ids + 7 * count

local function call_in_chunks(command, key, list, first, last)
  for i = first, last, MAX_WORDS do call(command, root .. key, unpack(list, i, min(i + MAX_WORDS - 1, last))) end
end

for i = ids, states - 1, MAX_WORDS do
  for _, known in ipairs(call('HMGET', root .. 'state', unpack(words, i, min(i + MAX_WORDS, states) - 1))) do
    if known then return 0 end
  end
end

-- How many rows of each line may pass at once.
local passing, lengths, keys, paused, new = {}, {}, {}, {}, {}
for _, queue in ipairs(call('SMEMBERS', root .. 'paused')) do paused[queue] = true end
local stored = call('HMGET', root .. 'gates', unpack(words, gates + 1, gates + lines))
local waited = call('SMISMEMBER', root .. 'waited', unpack(words, gates + 1, gates + lines))
if call('EXISTS', root .. 'rated') == 1 then
  for _, flag in ipairs(call('SMISMEMBER', root .. 'rated', unpack(words, gates + 1, gates + lines))) do
    if flag == 1 then return 0 end
  end
end

-- The slots of a stored gate, or nil if more than they matters.
local function read_slots(text, declared, most)
  local closed, fixed, json = match(text, '^%S+ (%S+) %- (%d) (.*)$')
  if not closed or tonumber(closed) > now then return nil end
  if fixed == '0' then return json == declared and most or nil end
  local set = cjson.decode(json)
  if set.interval or set.max_waiting then return nil end
  return min(set.cap or math.huge, set.window or math.huge)
end

local known, asked, there, place, name  -- of the line before: most are alike
for n = 1, lines do
  local text, declared, most = stored[n], words[bounds + n], tonumber(words[slots + n])
  keys[n] = root .. 'slots:' .. words[gates + n]
  if text then
    if text ~= known or declared ~= asked then
      known, asked, there = text, declared, read_slots(text, declared, most)
    end
    most = there
  end
  if words[lanes + n] ~= place then
    place = words[lanes + n]
    name = match(place, ':(.*)')
  end
  if not most or paused[name] then return 0 end
  local free, length = most - call('SCARD', keys[n]), tonumber(words[4 + n])
  if free > 0 and waited[n] == 1 then return 0 end
  passing[n], lengths[n] = free > 0 and min(free, length) or 0, length
  new[name] = (new[name] or 0) + length
end

-- Write the states of these rows of a lane anew: with this run_at in place of the other one, and with another first
-- character of due_at; that of parked rows where there is none.
local function rewrite(first, last, lane, run_at, before, mark)
  for i = first, last do
    local at, due = states + 2 * i + 1, words[dues + 2 * i]
    local state, behind = words[at], RUN_AT + #(before or due)
    local names = match(state, '^ %- %d+ %d+ ()', behind) + #lane
    -- luacheck: ignore 122 (the arguments are those of this call only)
    words[at] = sub(state, 1, RUN_AT - 1) .. (run_at or due) .. sub(state, behind, names - 1)
      .. (mark or sub(due, 1, 1)) .. sub(state, names + 1)
  end
end

-- Let them pass, and park the others.
local made, m, enters, e, ready, before = {}, 0, {}, 0, {}, 0
local shared
asked = nil
for n = 1, lines do
  local length, pass, declared, lane = lengths[n], passing[n], words[bounds + n], words[lanes + n]
  if not stored[n] then
    made[m + 1], made[m + 2] = words[gates + n], '0 0 - 0 ' .. declared
    m = m + 2
  end
  if declared ~= asked then asked, shared = declared, string.find(declared, '"window"', 1, true) and words[2] end
  if length > tonumber(words[slots + n]) then
    rewrite(before, before + pass - 1, lane, shared, PARKED, '-')
  else
    rewrite(before + pass, before + length - 1, lane, PARKED, shared)
  end
  if pass > 0 then
    local rows = ready[lane]
    if not rows then
      rows = {}
      ready[lane] = rows
    end
    local r = #rows
    for i = before, before + pass - 1 do
      rows[r + 1], rows[r + 2] = shared or words[dues + 2 * i], words[dues + 2 * i + 1]
      r = r + 2
    end
    for i = ids + before, ids + before + pass - 1, MAX_WORDS do
      call('SADD', keys[n], unpack(words, i, min(i + MAX_WORDS, ids + before + pass) - 1))
    end
  end
  if pass < length then
    local key, gate = 'wait:' .. #lane .. ':' .. lane .. ':', words[gates + n]
    call_in_chunks('ZADD', key .. gate, words, dues + 2 * (before + pass), dues + 2 * (before + length) - 1)
    call('ZADD', root .. 'lines:' .. gate, match(lane, '^%-?%d+'), lane)
    e = e + 1
    enters[e] = gate
  end
  before = before + length
end

call_in_chunks('HSET', 'gates', made, 1, m)
call_in_chunks('SADD', 'waited', enters, 1, e)
call_in_chunks('HSET', 'state', words, states, bodies - 1)
call_in_chunks('HSET', 'body', words, bodies, live - 1)
call_in_chunks('ZADD', 'is:live', words, live, dues - 1)
for lane, rows in pairs(ready) do
  call_in_chunks('ZADD', 'lane:' .. lane, rows, 1, #rows)
  call('ZADD', root .. 'heads', call('ZRANGE', root .. 'lane:' .. lane, 0, 0, 'WITHSCORES')[2], lane)
end
for queue, rows in pairs(new) do call('HINCRBY', root .. 'counts', 'pending:' .. queue, rows) end
redis.pcall('PUBLISH', root .. 'hints', words[1])
return 1
