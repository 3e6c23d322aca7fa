-- ARGV: hint, the words of a claim (see claim_rows.lua; its limit may be 0), what a transaction writes but for rows
-- (packed, see transaction.py), ids and states of rows whose place changes, and packed lists of changes and new rows,
-- first those that count for the bound of a push.
-- Everything is written, or nothing. Returns 1 and the claimed rows. If something has changed since it was read: 0, and
-- its key and field.
-- If there is no room: -1, and how many rows are too many. If changes do not hold: -2, and their ids. If new rows
-- have the id or a key of another row: -3, their ids, and those of the other rows, '' where the push is repeated.
-- include: update_rows
-- include: claim_rows
-- include: side

in_transaction = true
local given = cmsgpack.unpack(ARGV[8])
local at, moved = 9 + given.moved, {}
for i = 9, at - 1 do moved[i - 8] = ARGV[i] end

for _, check in ipairs(given.checks) do
  local key, fields, digests = unpack(check)
  local values = key ~= 'last' and read_fields(key, fields)
  for i, field in ipairs(fields) do
    local value = values and values[i]
    if key == 'state' then states[field] = value
    elseif key == 'last' then value = call('ZRANGE', root .. 'names:' .. field, -1, -1)[1] end
    if value and key ~= 'gates' then value = redis.sha1hex(value) end
    if (value or '') ~= digests[i] then return {0, key .. ' ' .. field} end
  end
end

local changes, ready = unpacked(at, at + given.changes - 1), 0
if given.maxsize then  -- count the rows that stay ready
  local now, ids = tonumber(given.now), {}
  sweep_expired(given.now)
  local instant = bound_instant(now)
  ready = count_ready(instant)
  for i = 1, #changes, 6 do ids[#ids + 1] = changes[i] end
  load_states(ids)
  for _, id in ipairs(ids) do
    local row = parse(states[id])
    if row and row.status == 'pending' and is_open(queue_of(row.lane)) and tonumber(row.run_at) <= tonumber(instant)
      and (row.expires == '-' or tonumber(row.expires) > now) then
      ready = ready - 1
    end
  end
end

local fired = {}
load_states(given.deleted)
for _, id in ipairs(given.deleted) do
  local row = parse(states[id])
  if row then index(id, row, false) end
  set_state(id, false)
  if row and row.keyed then
    local names = names_of(row)
    if names.once and get_field('once', names.once) == id then set_field('once', names.once, false) end
    -- Its schedule may be in another store. A scheduler that died between the push and its own write pushes the task
    -- again.
    if names.schedule then fired[id] = row.seq end
  end
end
local wrong = {}
local held, write_changes = note_changes(changes)
for i = 1, #held do
  if held[i] == 0 then wrong[#wrong + 1] = changes[6 * i - 5] end
end
if wrong[1] then return {-2, wrong} end
local rows = unpacked(at + given.changes, #ARGV)
insert_list(rows, given.bounded)
entering = entering + given.entering
for i, place in ipairs(numbers) do wrong[i] = rows[3 * place - 2] end
load_states(given.fresh)
for i, id in ipairs(given.fresh) do
  if states[id] then
    local row = parse(states[id])
    wrong[#wrong + 1] = id
    others[#others + 1] = row and row.seq == given.stamps[i] and '' or id
  end
end
if others[1] then
  return {-3, wrong, others}
end
if given.maxsize and entering > 0 and ready + entering > given.maxsize then
  return {-1, ready + entering - given.maxsize}
end

if not given.grows then call('DEL', root .. 'room') end  -- as in when_full.lua
for id, seq in pairs(fired) do call('SET', root .. 'fired:' .. id, seq, 'EX', 3600) end
write_changes()
call_in_chunks('HSET', 'state', moved)
for _, write in ipairs(given.writes) do
  local lane = match(write[2], '^lane:(.*)')
  if lane then changed_lanes[lane] = true end
  if write[1] == 'UNLINK' then call('UNLINK', root .. write[2]) else call_in_chunks(write[1], write[2], write[3]) end
end
for i = 1, #given.side, 5 do
  local how, place, name, text, expires = unpack(given.side, i, i + 4)
  if how == 'remove' then
    remove_side(place, name)
  elseif how == 'put' or call('HEXISTS', root .. 'side:' .. place, name) == 0 then
    put_side(place, name, text, expires)
  end
end
flush()
publish(ARGV[1])
local limit = tonumber(ARGV[4])
if limit == 0 then return {1, {}} end
states = {}  -- they are written
return {1, claim(ARGV[2], ARGV[3], limit, ARGV[5], ARGV[6], ARGV[7])}
