-- ARGV: filter, packed statuses, cursor or '', id to begin behind or '', rows wanted, rows to look at.
-- Returns the cursor behind the last row looked at, '' at the end, and rows, the newest push first.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: index
-- include: answer
-- include: filter
-- include: held

-- Running rows to sort, and owners to merge, for one answer; a walk over all live rows finds more of them soon.
local MAX_SORTED, MAX_OWNERS = 5000, 100
local STEP = 100  -- rows read at a time

-- Compare stamps byte for byte, as sorted sets do. Lua compares strings by the server's locale, in which digits keep
-- their order.
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
  local row = row_of(ARGV[4])
  from = row and row.seq .. ARGV[4]
end
local statuses, lists = {}, {}

local function merge(list)
  if #list > 0 then lists[#lists + 1] = {list = list, at = 1} end
end

local function merge_index(name)
  merge(call('ZREVRANGEBYLEX', root .. 'is:' .. name, from and '(' .. from or '+', '-', 'LIMIT', 0, look))
end

for _, status in ipairs(cmsgpack.unpack(ARGV[2])) do
  statuses[status] = true
  if not LIVE[status] then merge_index(status) end
end
local owners = statuses.running and not statuses.pending and owners_of_held(MAX_OWNERS + 1)
if owners and #owners <= MAX_OWNERS and call('ZCARD', root .. 'leased') <= MAX_SORTED then
  for _, owner in ipairs(owners) do
    local last = from and '(' .. owner .. ' ' .. from or '(' .. owner .. '!'
    local list = call('ZREVRANGEBYLEX', root .. 'held', last, '[' .. owner .. ' ', 'LIMIT', 0, look)
    for i = 1, #list do list[i] = sub(list[i], #owner + 2) end
    merge(list)
  end
  local stamps, list = call('ZUNION', 1, root .. 'leased', 'WEIGHTS', 0), {}
  for i = #stamps, 1, -1 do
    if #list == look then break end
    if not from or less(stamps[i], from) then list[#list + 1] = stamps[i] end
  end
  merge(list)
elseif statuses.pending or statuses.running then
  merge_index('live')
end

-- Return the stamp of the newest row that is left in the lists.
local function next_stamp()
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
    local stamp = next_stamp()
    if not stamp then break end
    stamps[i], ids[i] = stamp, sub(stamp, 21)
  end
  if #ids == 0 then break end
  load_states(ids)
  for i, id in ipairs(ids) do
    local row = parse(states[id])
    if states[id] and (not row or statuses[row.status] and matches(row, id)) then found[#found + 1] = id end
    seen = seen + 1
    if #found == wanted or seen == look then
      cursor = stamps[i]
      break
    end
  end
end
return {cursor, read_rows(found)}
