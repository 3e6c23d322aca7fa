-- The state of a gate, and the rule by which rows pass it: core/gate.py in Lua. Instants are exact up to 2^53.

local function gate_rule()
  local BOUNDS = {'cap', 'window', 'interval', 'burst', 'max_waiting'}  -- in the order of their JSON

  local texts = {}  -- by the tables of bounds: many gates have the same

  -- Return bounds as JSON; what has its default value is left out.
  local function bounds_text(bounds)
    if texts[bounds] then return texts[bounds] end
    local parts = {}
    for _, name in ipairs(BOUNDS) do
      local value = bounds[name]
      if type(value) == 'number' and not (name == 'burst' and value == 1) then
        parts[#parts + 1] = string.format('"%s":%.0f', name, value)
      end
    end
    texts[bounds] = '{' .. table.concat(parts, ',') .. '}'
    return texts[bounds]
  end

  local read_bounds = {}  -- by their JSON: many gates have the same

  -- Read a stored gate: tat, closed_until, next_at or '-', 1 if its bounds are fixed, and these as JSON.
  local function parse_gate(text)
    local tat, closed, next_at, fixed, bounds = string.match(text, '^(%S+) (%S+) (%S+) (%d) (.*)')
    read_bounds[bounds] = read_bounds[bounds] or cjson.decode(bounds)
    return {
      tat = tonumber(tat), closed = tonumber(closed), next_at = tonumber(next_at), fixed = fixed == '1',
      bounds = read_bounds[bounds], text = bounds,
    }
  end

  local function gate_text(gate)
    local next_at = gate.next_at and string.format('%.0f', gate.next_at) or '-'
    return string.format('%.0f %.0f %s %d %s', gate.tat, gate.closed, next_at, gate.fixed and 1 or 0, gate.text)
  end

  -- Set the bounds of a gate; by a faster rate the tokens that were taken come back sooner.
  local function set_bounds(gate, bounds, now)
    local before, interval = gate.bounds.interval, bounds.interval
    if before and interval and gate.tat > now then
      gate.tat = math.min(gate.tat, now + math.ceil((gate.tat - now) / before) * interval)
    end
    gate.bounds, gate.text = bounds, bounds_text(bounds)
  end

  -- How many rows may hold a slot beside `held` ones.
  local function free_slots(bounds, held)
    return math.max(0, math.min(bounds.cap or math.huge, bounds.window or math.huge) - held)
  end

  -- Return how many of the rows with these weights may pass, and set tat and next_at of the gate.
  local function admit(gate, held, unstarted, now, weights)
    local bounds = gate.bounds
    if now < gate.closed then
      gate.next_at = weights[1] and gate.closed or nil
      return 0
    end
    local most = math.min(free_slots(bounds, held), #weights)
    gate.next_at = nil
    if not bounds.interval then return most end
    local burst, count = bounds.burst or 1, 0
    gate.tat = math.max(gate.tat, now + math.min(unstarted, burst) * bounds.interval)
    for i = 1, most do
      local at = gate.tat - (burst - math.min(weights[i], burst)) * bounds.interval
      if at > now then
        gate.next_at = at
        break
      end
      gate.tat, count = gate.tat + weights[i] * bounds.interval, i
    end
    return count
  end

  return {
    bounds_text = bounds_text, parse_gate = parse_gate, gate_text = gate_text, set_bounds = set_bounds,
    free_slots = free_slots, admit = admit,
  }
end
