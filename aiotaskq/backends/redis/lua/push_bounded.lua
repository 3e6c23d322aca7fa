-- ARGV: hint, maxsize, now, the number of lists of changes, these lists (packed), then lists of rows as for a push.
-- Returns -1 and what a push returns, with 1 or 0 at its end and what has followed for groups behind it, if rows of
-- groups have ended: see groups.lua. Or, if nothing was written, how many tasks are too many, 0 if a change did not
-- hold.
-- include: base
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: groups
-- include: change
-- include: lanes
-- include: room

local maxsize, now = tonumber(ARGV[2]), tonumber(ARGV[3])
sweep_expired(ARGV[3])
local at = bound_instant(now)
local ready = 0
for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', at)) do
  if is_open(queue_of(lane)) then ready = ready + call('ZCOUNT', root .. 'lane:' .. lane, '-inf', at) end
end

-- Note one change, if its guard holds, and count the row as gone if it was ready.
local function settle(id, ...)
  local row = row_of(id)
  if not apply_change(id, ...) then return false end
  local due = row.status == 'pending' and is_open(queue_of(row.lane)) and tonumber(row.run_at) <= tonumber(at)
  if due and (row.expires == '-' or tonumber(row.expires) > now) then ready = ready - 1 end
  return true
end

local last = 4 + ARGV[4]
for n = 5, last do
  local changes = cmsgpack.unpack(ARGV[n])
  for i = 1, #changes, 6 do
    if not settle(unpack(changes, i, i + 5)) then return {0} end
  end
end
for n = last + 1, #ARGV do insert_list(cmsgpack.unpack(ARGV[n])) end
if new > 0 and ready + new > maxsize then return {ready + new - maxsize} end
local full, most = admission.declare()
if full then return {-1, {}, {}, full, most} end
flush()
local followed = admission.follow()
local later = admission.admit()
publish(ARGV[1], later)
if followed then return {-1, numbers, read_rows(others), later and 1 or 0, followed} end
return {-1, numbers, read_rows(others), later and 1 or nil}
