-- ARGV: a packed table of what is read of gates: `gates`, keys; `waiting`, keys and limits; `later`, keys, instants and
-- limits; `holders`, keys; `counted`, keys.
-- Returns a list with as many parts: the texts of gates, where there is none '- ' and how many rows hold a slot and
-- wait; for each key 1 if these are all rows, and ids and states of the first ones of each queue; for each key when the
-- next row is due after those that are by then, and ids and states of these; for each key ids and states of the rows
-- that hold a slot; for each key how many hold one and wait; and the queues that are paused, whose rows are left out.
-- include: base

local given = cmsgpack.unpack(ARGV[1])
local is_paused, names = {}, call('SMEMBERS', root .. 'paused')
for _, name in ipairs(names) do is_paused[name] = true end

local function wait_key(key, queue) return 'wait:' .. #queue .. ':' .. queue .. ':' .. key end

local function slots_of(key)
  local sized = #key .. ':' .. key
  return root .. 'slots', '[' .. sized .. ':', '(' .. sized .. ';'
end

local function counts_of(key)
  local count = call('ZCARD', root .. 'later:' .. key)
  for _, queue in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
    local here = call('ZCARD', root .. wait_key(key, queue))
    if here == 0 then call('ZREM', root .. 'lines:' .. key, queue) end
    count = count + here
  end
  return call('ZLEXCOUNT', slots_of(key)) .. ' ' .. count
end

local function rows_of(ids)
  local rows = {}
  for i, state in ipairs(read_fields('state', ids)) do
    rows[2 * i - 1], rows[2 * i] = ids[i], state or ''
  end
  return rows
end

local function append(rows, more)
  for i = 1, #more do rows[#rows + 1] = more[i] end
  return rows
end

-- The rows of these members of a sorted set, whose ids begin there. An entry without a row is dropped.
local function rows_at(key, members, ids)
  local rows = {}
  for i, state in ipairs(read_fields('state', ids)) do
    if state then
      rows[#rows + 1], rows[#rows + 2] = ids[i], state
    else
      call('ZREM', key, members[i])
    end
  end
  return rows
end

local texts, text_of = read_fields('gates', given.gates), {}
for i, text in ipairs(texts) do
  text_of[given.gates[i]] = text
  texts[i] = text or '- ' .. counts_of(given.gates[i])
end
local waiting, later, holders, counted = {}, {}, {}, {}
for i = 1, #given.waiting, 2 do
  local key, limit = given.waiting[i], given.waiting[i + 1]
  local rows, is_whole = nil, 1
  local is_empty = text_of[key] and find(text_of[key], '^%d+ %d+ 0 ')
  for _, queue in ipairs(is_empty and {} or call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
    if not is_paused[queue] then
      local at = root .. wait_key(key, queue)
      local found, ids = call('ZRANGE', at, 0, limit - 1), {}
      for n, member in ipairs(found) do ids[n] = sub(member, 49) end
      local here = rows_at(at, found, ids)
      if #found == limit then is_whole = 0 end
      rows = rows and append(rows, here) or here
    end
  end
  waiting[#waiting + 1] = {is_whole, rows or {}}
end
for i = 1, #given.later, 3 do
  local key, most = root .. 'later:' .. given.later[i], given.later[i + 2]
  local found = call('ZRANGEBYSCORE', key, '-inf', given.later[i + 1], 'LIMIT', 0, most)
  local ids = {}
  for n, member in ipairs(found) do
    local length, from = match(member, '^(%d+):()')
    ids[n] = sub(member, from + length + 48)
  end
  later[#later + 1] = {call('ZRANGE', key, #found, #found, 'WITHSCORES')[2] or false, rows_at(key, found, ids)}
end
for _, key in ipairs(given.holders) do
  local length, ids = #tostring(#key) + #key + 3, {}
  local at, from, to = slots_of(key)
  for n, member in ipairs(call('ZRANGE', at, from, to, 'BYLEX')) do ids[n] = sub(member, length) end
  holders[#holders + 1] = rows_of(ids)
end
for i, key in ipairs(given.counted) do counted[i] = counts_of(key) end
return {texts, waiting, later, holders, counted, names}
