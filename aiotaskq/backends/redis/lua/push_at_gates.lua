-- ARGV: hint, now, the number of rows, the number of lines, the number of kinds of lines, packed: the numbers of the
-- rows of all lines; of each kind: the lane, the bounds that the rows declare as JSON, how many slots these give, the
-- number of lines; of all lines, in the order of the kinds: the gates; of all rows, in the order of the lines: the ids;
-- id and state of each; id and body; 0 and stamp; due_at and stamp. A line has the new rows of one lane that are parked
-- at the same gate, their only one, in claim order; the gate has no other line. The rows are due at `now`, have no keys
-- and no expiry, and their bounds have no rate and no max_waiting. The states of a line are those of rows that have
-- passed if its rows are not more than the slots, since most such lines pass; else those of parked rows.
-- Returns 1. Or 0, and nothing is written, where more than slots decides (a known id, a rate, other bounds, a closed
-- gate, a paused queue, rows that wait at a gate with room): then push.lua has to push these rows.

-- include: constants

local RUN_AT = #'pending 0 0 - - 2 ' + 20 + 2  -- where it begins in the state of a new row; see HEAD in head.lua
local root, words, call, sub, match, min = KEYS[1], ARGV, redis.call, string.sub, string.match, math.min
local now, count, lines, lengths = tonumber(words[2]), tonumber(words[3]), tonumber(words[4]), cmsgpack.unpack(words[6])
local gates = 6 + 4 * words[5]
local ids = gates + lines + 1
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
local passing, whole, new = {}, {}, {}
local stored = call('HMGET', root .. 'gates', unpack(words, gates + 1, gates + lines))
local waited = call('EXISTS', root .. 'waited') == 1
  and call('SMISMEMBER', root .. 'waited', unpack(words, gates + 1, gates + lines)) or {}
local slot_lists = call('HMGET', root .. 'slots', unpack(words, gates + 1, gates + lines))
if call('EXISTS', root .. 'rated') == 1 then
  for _, flag in ipairs(call('SMISMEMBER', root .. 'rated', unpack(words, gates + 1, gates + lines))) do
    if flag == 1 then return 0 end
  end
end
local paused = {}
for _, queue in ipairs(call('SMEMBERS', root .. 'paused')) do paused[queue] = true end

-- The slots of a stored gate, or nil if more than they matters.
local function read_slots(text, declared, most)
  local closed, fixed, json = match(text, '^%S+ (%S+) %- %S+ (%d) (.*)$')
  if not closed or tonumber(closed) > now then return nil end
  if fixed == '0' then return json == declared and most or nil end
  local set = cjson.decode(json)
  if set.interval or set.max_waiting then return nil end
  return min(set.cap or math.huge, set.window or math.huge)
end

-- How many rows hold a slot of a gate: see `slots` in base.lua.
local function count_held(gate, slot_list)
  if not slot_list then return 0 end
  if slot_list == '' then return call('SCARD', root .. 'slots:' .. gate) end
  local _, ends = string.gsub(slot_list, '\n', '\n')
  return ends + 1
end

local line = 0
for kind = 7, gates, 4 do
  local lane, declared, slots = words[kind], words[kind + 1], tonumber(words[kind + 2])
  local name, rows, passed = match(lane, ':(.*)'), 0, 0
  if paused[name] then return 0 end
  local known, there  -- of the line before: most are alike
  local are_parked = false  -- whether the client has sent the states of parked rows
  for _ = 1, words[kind + 3] do
    line = line + 1
    local text, most, length = stored[line], slots, lengths[line]
    if text then
      if text ~= known then known, there = text, read_slots(text, declared, slots) end
      most = there
    end
    if not most then return 0 end
    local free = most - count_held(words[gates + line], slot_lists[line])
    if free > 0 and waited[line] == 1 then return 0 end
    passing[line] = free > 0 and min(free, length) or 0
    rows, passed = rows + length, passed + passing[line]
    are_parked = are_parked or length > slots
  end
  -- Whether the words that the client has sent are those of its rows: most rows of many gates pass.
  whole[kind] = rows == passed and not are_parked and not string.find(declared, '"window"', 1, true)
  new[name] = (new[name] or 0) + rows
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

-- Note that these rows hold slots of a gate.
local texts, t = {}, 0
local function take_slots(gate, slot_list, first, last)
  local held = slot_list and slot_list ~= '' and slot_list .. '\n' or ''
  if slot_list ~= '' and last - first < FEW and count_held(gate, slot_list) + last - first < FEW then
    for i = first, last do
      if words[i] == '' or string.find(words[i], '\n', 1, true) then held = nil end
    end
    if held then
      texts[t + 1] = gate
      texts[t + 2] = held .. (first == last and words[first] or table.concat(words, '\n', first, last))
      t = t + 2
      return
    end
  end
  if slot_list ~= '' then
    for id in string.gmatch(slot_list or '', '[^\n]+') do call('SADD', root .. 'slots:' .. gate, id) end
    texts[t + 1], texts[t + 2] = gate, ''
    t = t + 2
  end
  call_in_chunks('SADD', 'slots:' .. gate, words, first, last)
end

-- Let them pass, and park the others.
local made, m, enters, e, ready, before = {}, 0, {}, 0, {}, 0

-- The same for the rows of a line of which some wait, or that share a gate fairly.
local function divide(gate, length, pass, kind)
  local lane, most, shared = words[kind], tonumber(words[kind + 2]), nil
  if string.find(words[kind + 1], '"window"', 1, true) then shared = words[2] end
  if length > most then
    rewrite(before, before + pass - 1, lane, shared, PARKED, '-')
  else
    rewrite(before + pass, before + length - 1, lane, PARKED, shared)
  end
  local rows = ready[lane]
  local r = #rows
  for i = before, before + pass - 1 do
    rows[r + 1], rows[r + 2] = shared or words[dues + 2 * i], words[dues + 2 * i + 1]
    r = r + 2
  end
  if pass < length then
    local key = 'wait:' .. #lane .. ':' .. lane .. ':'
    call_in_chunks('ZADD', key .. gate, words, dues + 2 * (before + pass), dues + 2 * (before + length) - 1)
    call('ZADD', root .. 'lines:' .. gate, match(lane, '^%-?%d+'), lane)
    e = e + 1
    enters[e] = gate
  end
end

line = 0
for kind = 7, gates, 4 do
  local first, lane, declared, all = before, words[kind], words[kind + 1], whole[kind]
  ready[lane] = ready[lane] or {}
  for _ = 1, words[kind + 3] do
    line = line + 1
    local gate, length, pass = words[gates + line], lengths[line], passing[line]
    if not stored[line] then
      made[m + 1], made[m + 2] = gate, '0 0 - 0 0 ' .. declared
      m = m + 2
    end
    if not all then divide(gate, length, pass, kind) end
    if pass > 0 then take_slots(gate, slot_lists[line], ids + before, ids + before + pass - 1) end
    before = before + length
  end
  if all then call_in_chunks('ZADD', 'lane:' .. lane, words, dues + 2 * first, dues + 2 * before - 1) end
end

if t > 0 then
  texts[t + 1], texts[t + 2] = '\n', WIDE
  call_in_chunks('HSET', 'slots', texts, 1, t + 2)
end
call_in_chunks('HSET', 'gates', made, 1, m)
call_in_chunks('SADD', 'waited', enters, 1, e)
call_in_chunks('HSET', 'state', words, states, bodies - 1)
call_in_chunks('HSET', 'body', words, bodies, live - 1)
call_in_chunks('ZADD', 'is:live', words, live, dues - 1)
for lane, rows in pairs(ready) do
  call_in_chunks('ZADD', 'lane:' .. lane, rows, 1, #rows)
  local head = call('ZRANGE', root .. 'lane:' .. lane, 0, 0, 'WITHSCORES')[2]
  if head then call('ZADD', root .. 'heads', head, lane) end
end
for queue, rows in pairs(new) do call('HINCRBY', root .. 'counts', 'pending:' .. queue, rows) end
redis.pcall('PUBLISH', root .. 'hints', words[1])
return 1
