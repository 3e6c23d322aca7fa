-- ARGV: hint, key, now, the bounds to set as JSON or '', 1 if those of pushes count again, closed_until or '', the
-- least closed_until, tokens to take, 1 if nothing is to be changed where an operator has set bounds.
-- Changes a gate as core.gate.changed says, and admits it. Returns its state.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates

use_gates()
local tools = gate_tools()
local key, now = ARGV[2], tonumber(ARGV[3])
local gate = tools.gate_of(key)
if ARGV[9] == '1' and gate.fixed then return {tools.rule.gate_text(gate), 0} end
tools.charge(key, gate, now)  -- first the starts of before, by the bounds of before
if ARGV[4] ~= '' then
  local bounds = {}
  for name, value in pairs(gate.bounds) do bounds[name] = value end
  for name, value in pairs(cjson.decode(ARGV[4])) do bounds[name] = value end
  for name, value in pairs(bounds) do if value == cjson.null then bounds[name] = nil end end
  tools.rule.set_bounds(gate, bounds, now)
  gate.fixed = true
end
if ARGV[5] == '1' then gate.fixed = false end
if ARGV[6] ~= '' then gate.closed = tonumber(ARGV[6]) end
gate.closed = math.max(gate.closed, tonumber(ARGV[7]))
local charge = tonumber(ARGV[8])
if charge ~= 0 and gate.bounds.interval then
  gate.tat = math.max(gate.tat, now) + charge * gate.bounds.interval
end
tools.save_gate(key, gate, true)
if not gate.fixed and gated.is_rated(key) or gate.fixed and gate.bounds.interval and not gated.is_rated(key) then
  -- From now on other rows count in `unstarted`.
  local on = not gated.is_rated(key)
  gated.set_rated(key, on)
  local ids, sum = gated.holders(key), 0
  load_states(ids)
  for _, id in ipairs(ids) do
    local row = parse(states[id])
    local place = row and row.status == 'pending' and gated.place_of(row)
    if place and gated.counts_unstarted(place, key) then sum = sum + gated.tokens(place, key) end
  end
  set_field('unstarted', key, string.format('%.0f', sum))
end
flush()
gated.touch(key, now)
local later = admission.admit()
publish(ARGV[1], later)
return {tools.rule.gate_text(gate), later and 1 or 0}
