-- ARGV: queue, 1 if it was paused or 0 if it was resumed, where to begin in the first gate ('0' at its begin), keys of
-- gates. Of a paused queue, the rows that have passed give their slots back; of a resumed one, the gates at which rows
-- wait are made due. Returns for how many gates that is done, where to begin in the next one, and 1 if the time has
-- changed at which a gate may let a row pass.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates
-- include: when_full

local MOST_ROWS = 2000  -- looked at in one call: the server runs no other command meanwhile
local queue, cursor, first, looked = ARGV[1], ARGV[3], 4, 0
use_gates()
if call('SISMEMBER', root .. 'paused', queue) ~= tonumber(ARGV[2]) then return {#ARGV, '0', 0} end  -- changed again
while first <= #ARGV and looked < MOST_ROWS do
  local key = ARGV[first]
  looked = looked + 1
  if ARGV[2] == '1' then
    local found = gated.slot_list(key) ~= '' and {'0', gated.holders(key)}
      or call('SSCAN', root .. 'slots:' .. key, cursor, 'COUNT', 500)
    cursor, looked = found[1], looked + #found[2]
    load_states(found[2])
    for _, id in ipairs(found[2]) do
      local row = parse(states[id])
      if row and row.status == 'pending' and queue_of(row.lane) == queue then admission.park(id, row) end
    end
  else
    for _, lane in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
      if queue_of(lane) == queue and call('EXISTS', root .. gated.wait_key(key, lane)) == 1 then gated.touch(key) end
    end
  end
  if cursor == '0' then first = first + 1 end
end
flush()
return {first - 4, cursor, admission.admit() and 1 or 0}
