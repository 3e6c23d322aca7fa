-- What groups have used up, and the gates of those whose budgets are used up. Needs usage.lua and gates.lua.

local USED_UP_UNTIL = 253402300799000000  -- as in core/usage.py; exact, since it is a multiple of 32

local function sums_of(group) return decode_usage(get_field('groups:sums', group) or '{}') end

-- Whether a sum has reached the budget of a group; false if it has no budget.
local function is_used_up(group, sums)
  local budget = get_field('groups:sums', group .. ' budget')
  for name, most in pairs(budget and decode_usage(budget) or {}) do
    if (sums[name] or 0) >= most then return true end
  end
  return false
end

-- Close the gate of a group, and park what has passed it and has not started.
local function close_budget(group)
  use_gates()
  local tools, key = gate_tools(), 'budget:' .. group
  local gate = tools.gate_of(key)
  gate.closed, gate.next_at = USED_UP_UNTIL, USED_UP_UNTIL
  tools.save_gate(key, gate, true)
  local ids = gated.holders(key)
  load_states(ids)
  for _, id in ipairs(ids) do
    local row = parse(states[id])
    if row and row.status == 'pending' then admission.park(id, row) end
  end
end

local function open_budget(group, now)
  use_gates()
  local tools, key = gate_tools(), 'budget:' .. group
  local gate = tools.gate_of(key)
  gate.closed = 0
  tools.save_gate(key, gate, true)
  flush()
  gated.touch(key, now)
end

-- Add to the sums of a group, and of those around it.
local function add_to_groups(group, risen)
  while group do
    local text = get_field('groups', group)
    if not text then return end
    local sums = sums_of(group)
    for name, by in pairs(risen) do sums[name] = (sums[name] or 0) + by end
    set_field('groups:sums', group, usage_text(sums))
    if is_used_up(group, sums) then close_budget(group) end
    group = cjson.decode(match(text, ' ({.*)$')).parent_id
  end
end

-- Store what a task reports, whose row is given, and add it to the sums of its group.
local function spend(id, row, text)
  local risen = report_usage(id, text)
  if not risen or not row.flow then return end
  local group = gated.place_of(row).group
  if group then add_to_groups(group, risen) end
end
