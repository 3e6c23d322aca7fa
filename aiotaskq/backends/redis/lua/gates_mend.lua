-- ARGV: now, keys of gates. Deletes those without a use. Where rows wait without a next_at, drops the slots that no row
-- has, parks the rows of paused queues that have one (a pause that was cut off has left them), and makes the gate due
-- if there were any, or a slot is free. Returns how many are due, and how many gates were looked at: it ends early
-- after many rows.
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

use_gates()
local tools = gate_tools()
local now = tonumber(ARGV[1])
local MOST_SLOTS = 1000  -- looked at in one gate
local MOST_WORK = 5000  -- gates and rows: the server runs no other command meanwhile
local looked, done = 0, 0
local paused = {}
for _, queue in ipairs(call('SMEMBERS', root .. 'paused')) do paused[queue] = true end

for at = 2, #ARGV do
  if looked >= MOST_WORK then break end
  looked, done = looked + 1, done + 1
  local key = ARGV[at]
  local gate, known = tools.gate_of(key)
  local idle = known and not gate.fixed and not gate.next_at and gate.tat <= now and gate.closed <= now
  local held, waiting = gated.count_slots(key), tools.count_waiting(key)
  if idle and held == 0 and waiting == 0 then
    set_field('gates', key, false)
    set_field('unstarted', key, false)
    set_field('slots', key, false)
    set_member('waited', key, false)
    set_member('timed', key, false)
    call('DEL', root .. 'lines:' .. key, root .. 'later:' .. key, root .. 'started:' .. key)
  elseif waiting > 0 and not gate.next_at then
    local ids, dropped = gated.holders(key, MOST_SLOTS), false
    load_states(ids)
    looked = looked + #ids
    for _, id in ipairs(ids) do
      local row, holds = parse(states[id]), false
      if row and row.status == 'pending' and paused[queue_of(row.lane)] then
        admission.park(id, row)
        row, holds = parse(states[id]), true
      end
      if row then
        local keys, n = gated.slots_of(row)
        for i = 1, n do holds = holds or keys[i] == key end
      end
      if not holds then
        gated.set_slot(key, id, false)
        dropped = true
      end
    end
    if dropped or tools.rule.free_slots(gate.bounds, held) > 0 then  -- or only rows of paused queues wait
      set_member('waited', key, true)
      gated.touch(key)
    end
  end
end
local due = #gated.touched
flush()
if due > 0 then admission.admit() end
return {due, done}
