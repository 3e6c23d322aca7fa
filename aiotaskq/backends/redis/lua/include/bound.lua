-- The bound of a push: how many rows are ready, and changes that make room.

-- Note one change, and return nil if its guard does not hold, else whether the row was ready.
local function settle_one(at, now, id, ...)
  local row = row_of(id)
  if not apply_change(id, ...) then return nil end
  local due = row.status == 'pending' and is_open(queue_of(row.lane)) and tonumber(row.run_at) <= tonumber(at)
  return due and (row.expires == '-' or tonumber(row.expires) > now)
end

-- Note the changes in the lists ARGV[first] to ARGV[last], and return how many rows are ready then; nil if one of them
-- does not hold.
local function ready_without(now, first, last)
  local at, ready = bound_instant(now), 0
  for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', at)) do
    if is_open(queue_of(lane)) then ready = ready + call('ZCOUNT', root .. 'lane:' .. lane, '-inf', at) end
  end
  for n = first, last do
    local changes = cmsgpack.unpack(ARGV[n])
    for i = 1, #changes, 6 do
      local was_ready = settle_one(at, now, unpack(changes, i, i + 5))
      if was_ready == nil then return nil end
      if was_ready then ready = ready - 1 end
    end
  end
  return ready
end
