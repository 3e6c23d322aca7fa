-- ARGV: a packed table of what is read of gates: `gates`, keys; `waiting`, keys and limits; `later`, keys, instants and
-- limits; `holders`, keys; `counted`, keys.
-- Returns a list with as many parts: the texts of gates, of version 0 where there is none; for each key 1 if these are
-- all rows, and ids and states of the first ones of each queue; for each key when the next row is due after those that
-- are by then, and ids and states of these; for each key ids and states of the rows that hold a slot; for each key how
-- many hold one and wait; and the queues that are paused, whose rows are left out.
-- include: base

local given = cmsgpack.unpack(ARGV[1])
local is_paused, names = {}, call('SMEMBERS', root .. 'paused')
for _, name in ipairs(names) do is_paused[name] = true end

local function slots_of(key)
  local sized = #key .. ':' .. key
  return root .. 'slots', '[' .. sized .. ':', '(' .. sized .. ';'
end

-- The queues with rows that are parked at a gate, and perhaps others, each with the key of these rows.
local function lines_of(key)
  local lines = {}
  for i, queue in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
    lines[i] = {queue = queue, key = root .. 'wait:' .. #queue .. ':' .. queue .. ':' .. key}
  end
  return lines
end

local function counts_of(key)
  local count = 0
  for _, line in ipairs(lines_of(key)) do
    local here = call('ZCARD', line.key)
    if here == 0 then call('ZREM', root .. 'lines:' .. key, line.queue) end
    count = count + here
  end
  return call('ZLEXCOUNT', slots_of(key)) .. ',' .. count
end

-- Append ids and states of the rows that these members name from this place on. Where their sorted set is given, an
-- entry without a row is dropped.
local function append_rows(rows, members, from, key)
  local ids = {}
  for i, member in ipairs(members) do ids[i] = sub(member, from) end
  for i, state in ipairs(read_fields('state', ids)) do
    if state or not key then
      rows[#rows + 1], rows[#rows + 2] = ids[i], state or ''
    else
      call('ZREM', key, members[i])
    end
  end
  return rows
end

local texts, text_of = read_fields('gates', given.gates), {}
for i, text in ipairs(texts) do
  text_of[given.gates[i]] = text
  texts[i] = text or '[0,' .. counts_of(given.gates[i]) .. ',null]'
end
local waiting, later, holders, counted = {}, {}, {}, {}
for i = 1, #given.waiting, 2 do
  local key, limit, rows, is_whole = given.waiting[i], given.waiting[i + 1], {}, 1
  local is_empty = text_of[key] and find(text_of[key], '^%[%d+,%d+,0,')
  for _, line in ipairs(is_empty and {} or lines_of(key)) do
    if not is_paused[line.queue] then
      local found = call('ZRANGEBYSCORE', line.key, 0, 0, 'LIMIT', 0, limit)
      append_rows(rows, found, 49, line.key)
      if #found == limit then is_whole = 0 end
    end
  end
  waiting[#waiting + 1] = {is_whole, rows}
end
for i = 1, #given.later, 3 do
  local rows, left, next_due = {}, given.later[i + 2], nil
  for _, line in ipairs(lines_of(given.later[i])) do
    local found = call('ZRANGEBYSCORE', line.key, '(0', given.later[i + 1], 'LIMIT', 0, left)
    append_rows(rows, found, 49, line.key)
    left = left - #found
    local due = call('ZRANGEBYSCORE', line.key, '(0', '+inf', 'WITHSCORES', 'LIMIT', #found, 1)[2]
    if due and (not next_due or tonumber(due) < tonumber(next_due)) then next_due = due end
  end
  later[#later + 1] = {next_due or false, rows}
end
for i, key in ipairs(given.holders) do
  local at, from, to = slots_of(key)
  holders[i] = append_rows({}, call('ZRANGE', at, from, to, 'BYLEX'), #tostring(#key) + #key + 3)
end
for i, key in ipairs(given.counted) do counted[i] = counts_of(key) end
return {texts, waiting, later, holders, counted, names}
