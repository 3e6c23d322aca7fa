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

  -- Read a stored gate: tat, closed_until, next_at or '-', charged_until, 1 if its bounds are fixed, and these as JSON.
  local function parse_gate(text)
    local tat, closed, next_at, charged, fixed, bounds = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%d) (.*)')
    read_bounds[bounds] = read_bounds[bounds] or cjson.decode(bounds)
    return {
      tat = tonumber(tat), closed = tonumber(closed), next_at = tonumber(next_at), fixed = fixed == '1',
      charged = tonumber(charged),
      bounds = read_bounds[bounds], text = bounds,
    }
  end

  local function gate_text(gate)
    local next_at = gate.next_at and string.format('%.0f', gate.next_at) or '-'
    local fixed = gate.fixed and 1 or 0
    return string.format('%.0f %.0f %s %.0f %d %s', gate.tat, gate.closed, next_at, gate.charged, fixed, gate.text)
  end

  -- Set the bounds that a new gate is made with.
  local function new_bounds(gate, bounds) gate.bounds, gate.text = bounds, bounds_text(bounds) end

  -- Set other bounds of a gate; by a faster rate the tokens that were taken come back sooner. What started before there
  -- was a rate takes none.
  local function set_bounds(gate, bounds, now)
    local before, interval = gate.bounds.interval, bounds.interval
    if interval and not before then
      gate.charged = math.max(gate.charged, now)
    elseif interval and gate.tat > now then
      gate.tat = math.min(gate.tat, now + math.ceil((gate.tat - now) / before) * interval)
    end
    new_bounds(gate, bounds)
  end

  -- How many rows may hold a slot beside `held` ones.
  local function free_slots(bounds, held)
    return math.max(0, math.min(bounds.cap or math.huge, bounds.window or math.huge) - held)
  end

  -- Charge a gate with starts: `starts` has the unstarted tokens and `started`, a list of tokens and instants, one
  -- behind the other, the latest first. Each is charged once.
  local function charge(gate, starts, now)
    local bounds = gate.bounds
    if not bounds.interval then return end
    local sum = math.min(starts.unstarted, bounds.burst or 1)
    gate.tat = math.max(gate.tat, now + sum * bounds.interval)
    for i = 1, #starts.started, 2 do
      local at = starts.started[i + 1]
      sum = sum + starts.started[i]
      gate.tat, gate.charged = math.max(gate.tat, math.min(at, now) + sum * bounds.interval), math.max(gate.charged, at)
    end
  end

  -- Return how many of the rows with these weights may pass a charged gate, and set its tat and next_at.
  local function admit(gate, held, now, weights)
    local bounds = gate.bounds
    if now < gate.closed then
      gate.next_at = weights[1] and gate.closed or nil
      return 0
    end
    local most = math.min(free_slots(bounds, held), #weights)
    gate.next_at = nil
    if not bounds.interval then return most end
    local burst, count = bounds.burst or 1, 0
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
    new_bounds = new_bounds, free_slots = free_slots, charge = charge, admit = admit,
  }
end
