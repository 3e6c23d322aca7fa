-- The gates of groups whose budgets are used up. Needs gates.lua.

local USED_UP_UNTIL = 253402300799000000  -- as in core/usage.py; exact, since it is a multiple of 32

local function set_closed(key, until_instant)
  use_gates()
  local tools = gate_tools()
  local gate = tools.gate_of(key)
  gate.closed, gate.next_at = until_instant, until_instant > 0 and until_instant or gate.next_at
  tools.save_gate(key, gate, true)
end

-- Close the gate of a group, and park what has passed it and has not started.
local function close_budget(key)
  set_closed(key, USED_UP_UNTIL)
  local ids = gated.holders(key)
  load_states(ids)
  for _, id in ipairs(ids) do
    local row = parse(states[id])
    if row and row.status == 'pending' then admission.park(id, row) end
  end
end

local function open_budget(key, now)
  set_closed(key, 0)
  flush()
  gated.touch(key, now)
end
