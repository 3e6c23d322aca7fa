-- ARGV: hint, key, now, bounds as JSON or '', 1 if those of pushes count again, closed_until or '', tokens to take.
-- Changes a gate as core.gate.changed says, and admits it. Returns its state.
-- include: base
-- include: gate
-- include: gates

local key, now = ARGV[2], tonumber(ARGV[3])
local gate = gate_of(key)
if ARGV[4] ~= '' then
  set_bounds(gate, cjson.decode(ARGV[4]))
  gate.fixed = true
end
if ARGV[5] == '1' then gate.fixed = false end
if ARGV[6] ~= '' then gate.closed = tonumber(ARGV[6]) end
local charge = tonumber(ARGV[7])
if charge ~= 0 and gate.bounds.interval then
  gate.tat = math.max(gate.tat, now) + charge * gate.bounds.interval
end
save_gate(key, gate, true)
flush()
touch(key, now)
local later = admit_touched()
publish(ARGV[1], later)
return {gate_text(gate), later and 1 or 0}
