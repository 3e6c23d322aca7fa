-- Lets parked rows pass their gates. It runs when the changes of the rows are written, before rows are claimed.

local MOST = 100  -- rows looked at together where no bound is smaller

local gates = {}  -- by key, as far as they were read: see gate.lua

-- Return a gate, a new one if there is none; then its second value is false.
local function gate_of(key)
  local gate = gates[key]
  if not gate then
    local text = call('HGET', root .. 'gates', key)
    gate = parse_gate(text or '0 0 - 0 {}')
    gate.stored = text
    gates[key] = gate
  end
  return gate, gate.stored or gate.changed
end

-- Note the state of a gate; return whether it has another next_at now.
local function save_gate(key, gate)
  local text = gate_text(gate)
  if text == (gate.changed or gate.stored) then return false end
  local before = string.match(gate.changed or gate.stored or '0 0 -', '^%S+ %S+ (%S+)')
  local next_at = string.match(text, '^%S+ %S+ (%S+)')
  set_field('gates', key, text)
  gate.changed = text
  if next_at == before then return false end
  set_score('gates:due', key, next_at ~= '-' and next_at)
  return next_at ~= '-'
end

local function count_waiting(key)
  local count = 0
  for _, lane in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
    count = count + call('ZCARD', root .. wait_key(key, lane))
  end
  return count
end

-- Let rows pass the gates that were touched, and then those behind them, first in, first out: a gate behind others
-- sees what has passed all of them. Return whether there is a new time at which a gate may let a row pass.
local function admit_touched()
  local queue, queued, head, later, closed_queues = touched, {}, 1, false, nil
  touched = {}
  for _, key in ipairs(queue) do queued[key] = true end

  local function enqueue(key, at)
    touched_at[key] = math.max(at, touched_at[key] or at)
    if not queued[key] then queue[#queue + 1] = key end
    queued[key] = true
  end

  local function is_closed(lane)
    if not closed_queues then
      closed_queues = {}
      for _, name in ipairs(call('SMEMBERS', root .. 'paused')) do closed_queues[name] = true end
    end
    return closed_queues[queue_of(lane)]
  end

  -- Return up to so many of the stamps of due rows of open queues, in claim order, and their lanes.
  local function due_at(key, lanes, now, most)
    local stamps, lane_of = {}, {}
    local n = 1
    while lanes[n] and #stamps < most do
      local priority, part = lanes[n + 1], {}
      while lanes[n] and lanes[n + 1] == priority do
        if not is_closed(lanes[n]) then part[#part + 1] = lanes[n] end
        n = n + 2
      end
      local rows = {}
      for _, lane in ipairs(part) do
        local found = call('ZRANGEBYSCORE', root .. wait_key(key, lane), '-inf', now, 'WITHSCORES',
          'LIMIT', 0, most - #stamps)
        for i = 1, #found, 2 do
          rows[#rows + 1] = {stamp = found[i], at = tonumber(found[i + 1]), lane = lane}
        end
      end
      if #part > 1 then
        table.sort(rows, function(a, b)
          if a.at ~= b.at then return a.at < b.at end
          return a.stamp < b.stamp
        end)
      end
      for i = 1, math.min(#rows, most - #stamps) do
        stamps[#stamps + 1] = rows[i].stamp
        lane_of[#stamps] = rows[i].lane
      end
    end
    return stamps, lane_of
  end

  -- The first due time after now of the rows at a gate, also of paused queues. Lanes without rows are dropped.
  local function first_delayed(key, lanes, now)
    local first
    for n = 1, #lanes, 2 do
      local wait = root .. wait_key(key, lanes[n])
      local found = call('ZRANGEBYSCORE', wait, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if found[1] then
        first = math.min(first or math.huge, tonumber(found[2]))
      elseif call('EXISTS', wait) == 0 then
        set_score('lines:' .. key, lanes[n], false)
      end
    end
    return first
  end

  -- Move a row that has passed a gate: to the next one, or to its lane.
  local function move(key, id, row, now)
    local place, stamp = row.place, row.seq .. id
    local flow = place.flow
    local behind = flow.keys[flow.at[key] + 1]
    local run_at, due = PARKED, place.due
    set_score(wait_key(key, row.lane), stamp, false)
    set_score('slots:' .. key, id, '0')
    add_unstarted(key, flow.weight)
    unwritten[key] = true
    if behind then
      enter_gate(behind, row.lane, stamp, due)
      enqueue(behind, now)
    else
      run_at = due or string.format('%.0f', now)
      if flow.shared and tonumber(run_at) < now then run_at = string.format('%.0f', now) end
      due = nil
      set_score('lane:' .. row.lane, stamp, run_at)
      changed_lanes[row.lane] = true
      if row.expires ~= '-' then
        set_score('expiring', id, row.expires)
        set_score('expired', id, false)
      end
    end
    local names = with_place(due, behind or key, flow.text, place.names)
    set_state(id, with_names(row, states[id], run_at, names))
  end

  -- Let the first rows that may pass a gate do so. Return whether there may be more of them.
  local function pass(key, now)
    if unwritten[key] then flush() end
    local gate, known = gate_of(key)
    local at, lanes = string.format('%.0f', now), call('ZRANGE', root .. 'lines:' .. key, 0, -1, 'WITHSCORES')
    local held, bounds = call('ZCARD', root .. 'slots:' .. key), gate.bounds
    if not known then  -- another program has deleted it: the rows know its bounds
      local stamp = due_at(key, lanes, '+inf', 1)[1]
      local row = stamp and row_of(sub(stamp, 21))
      local flow = row and row.flow and place_of(row).flow
      if flow and flow.at[key] then set_bounds(gate, flow.bounds[flow.at[key]]) end
      bounds = gate.bounds
    end
    local limit = math.min(MOST, free_slots(bounds, held), bounds.interval and (bounds.burst or 1) or MOST)
    local rows, weights, damaged = {}, {}, false
    if limit > 0 or now < gate.closed then
      local stamps, lane_of = due_at(key, lanes, at, limit + 1)
      local ids = {}
      for i, stamp in ipairs(stamps) do ids[i] = sub(stamp, 21) end
      load_states(ids)
      for i, id in ipairs(ids) do
        local row = parse(states[id])
        local here = row and is_parked(row) and place_of(row).gate == key and place_of(row).flow.at[key]
        if here and row.seq .. id == stamps[i] and row.lane == lane_of[i] then
          rows[#rows + 1], weights[#weights + 1] = {id = id, row = row}, row.place.flow.weight
        else
          set_score(wait_key(key, lane_of[i]), stamps[i], false)
          damaged, unwritten[key] = true, true
        end
      end
    end
    if damaged then return true end
    local delayed = (gate.next_at or entered[key] or not known) and first_delayed(key, lanes, at)
    local unstarted = bounds.interval and call('HGET', root .. 'unstarted', key) or 0
    local count = admit(gate, held, tonumber(unstarted), now, weights)
    for i = 1, count do move(key, rows[i].id, rows[i].row, now) end
    if delayed then gate.next_at = math.min(math.max(delayed, gate.closed), gate.next_at or math.huge) end
    later = save_gate(key, gate) or later
    return limit < count and count == #rows
  end

  while queue[head] do
    local key = queue[head]
    head, queued[key] = head + 1, nil
    local now = touched_at[key]
    if not now then
      local gate = gate_of(key)
      gate.next_at = 0
      later = save_gate(key, gate) or later
    elseif pass(key, now) then
      enqueue(key, now)
    end
  end
  touched_at, entered = {}, {}
  flush()
  return later
end
