-- Takes note of the rows that a push parks: the bounds that they declare, and how many may wait.

-- Of the rows that were inserted: the bounds that they declare, by gate; those parked at each gate; and when the
-- latest one was pushed.
local declared, arrived, latest

function admission.note_push(row)
  if not declared then declared, arrived, latest = {}, {}, 0 end
  local place = gated.place_of(row)
  for i, key in ipairs(place.keys) do declared[key] = gated.declared_bounds(place, i) end
  local due = tonumber(row.due) or tonumber(row.run_at)
  local at = math.min(tonumber(row.seq), due)  -- as `pushed_at` of core.parking
  latest = math.max(latest, at)
  if not gated.is_parked(row) or not place.gate then return end
  arrived[place.gate] = arrived[place.gate] or {}
  table.insert(arrived[place.gate], {
    priority = tonumber(match(row.lane, '^%-?%d+')), due = due, seq = tonumber(row.seq), at = at,
    weight = place.weight,
  })
  gated.touch(place.gate, at)
end

-- Take the bounds that pushed rows declare. Return a gate where more rows than may would wait, and how many may.
function admission.declare()
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
    if other and known then gate.next_at = latest end  -- what waits there may pass, though this push waits elsewhere
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
