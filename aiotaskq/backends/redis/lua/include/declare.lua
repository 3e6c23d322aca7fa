-- Takes note of the rows that a push parks: the bounds that they declare, and how many may wait.

-- Take the bounds that pushed rows declare. Return a gate where more rows than may would wait, and how many may.
local function declare_gates()
  if not declared then return nil end
  local tools = gate_tools()
  local rule = tools.rule

  local function first_to_pass(a, b)
    if a.priority ~= b.priority then return a.priority < b.priority end
    if a.due ~= b.due then return a.due < b.due end
    return a.seq < b.seq
  end

  for key, bounds in pairs(declared) do
    local gate, known = tools.gate_of(key)
    local other = not gate.fixed and rule.bounds_text(bounds) ~= gate.text
    if other then rule.set_bounds(gate, bounds, latest) end
    if other or not known then tools.save_gate(key, gate, true) end
  end
  for key, rows in pairs(arrived) do
    local gate = tools.gate_of(key)
    local most = gate.bounds.max_waiting
    if most then
      local waiting, count = tools.count_waiting(key), 0
      if waiting == 0 then
        local weights, newest = {}, 0
        table.sort(rows, first_to_pass)
        for _, row in ipairs(rows) do
          if row.due <= row.at then weights[#weights + 1] = row.weight end
          newest = math.max(newest, row.at)
        end
        local held, unstarted = call('ZCARD', root .. 'slots:' .. key), call('HGET', root .. 'unstarted', key) or 0
        local copy = {tat = gate.tat, closed = gate.closed, bounds = gate.bounds}
        count = rule.admit(copy, held, tonumber(unstarted), newest, weights)
      end
      if waiting + #rows - count > most then return key, string.format('%.0f', most) end
    end
    gated.touch(key, latest)
  end
end
