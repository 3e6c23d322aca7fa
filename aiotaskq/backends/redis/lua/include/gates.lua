-- Lets parked rows pass their gates. It runs when the changes of the rows are written, before rows are claimed.

local known_tools
local function gate_tools()
  if known_tools then return known_tools end
  local rule = gate_rule()
  local MOST = 100  -- rows looked at together where no bound is smaller

  local gates = {}  -- by key, as far as they were read: see gate.lua

  -- Return a gate, a new one if there is none; then its second value is false. The text is what was read, if it was.
  local function gate_of(key, text)
    local gate = gates[key]
    if not gate then
      if text == nil then text = call('HGET', root .. 'gates', key) end
      gate = rule.parse_gate(text or '0 0 - 0 {}')
      gate.known, gate.saved_at, gate.saved_tat = text, gate.next_at, gate.tat
      gates[key] = gate
    end
    return gate, gate.known
  end

  -- Note the state of a gate; return whether it has another next_at now. Other fields than next_at and tat were set
  -- only where set is true.
  local function save_gate(key, gate, set)
    if gate.known and not set and gate.next_at == gate.saved_at and gate.tat == gate.saved_tat then return false end
    local before = gate.saved_at
    gate.known, gate.saved_at, gate.saved_tat = true, gate.next_at, gate.tat
    set_field('gates', key, rule.gate_text(gate))
    if gate.next_at == before then return false end
    set_score('gates:due', key, gate.next_at and string.format('%.0f', gate.next_at) or false)
    return gate.next_at ~= nil
  end

  local function count_waiting(key)
    local count = 0
    for _, lane in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
      count = count + call('ZCARD', root .. gated.wait_key(key, lane))
    end
    return count
  end

  -- Let rows pass the gates that were touched, and then those behind them, first in, first out: a gate behind others
  -- sees what has passed all of them. Return whether there is a new time at which a gate may let a row pass.
  local function admit_touched()
    local queue, queued, head, later, closed_queues = gated.touched, {}, 1, false, nil
    gated.touched = {}
    for _, key in ipairs(queue) do queued[key] = true end

    local function enqueue(key, at)
      gated.touched_at[key] = math.max(at, gated.touched_at[key] or at)
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

    local clock, clock_text
    local function instant(now)
      if now ~= clock then clock, clock_text = now, string.format('%.0f', now) end
      return clock_text
    end

    -- Return up to so many of the stamps of due rows of open queues, in claim order, and their lanes.
    local function due_at(key, lanes, now, most)
      if not lanes[3] then  -- one lane, as nearly always
        if not lanes[1] or is_closed(lanes[1]) then return {}, {} end
        local wait = root .. gated.wait_key(key, lanes[1])
        return call('ZRANGEBYSCORE', wait, '-inf', now, 'LIMIT', 0, most), {lanes[1]}
      end
      local stamps, lane_of, n = {}, {}, 1
      while lanes[n] and #stamps < most do
        local priority, rows = lanes[n + 1], {}
        while lanes[n] and lanes[n + 1] == priority do
          if not is_closed(lanes[n]) then
            local found = call('ZRANGEBYSCORE', root .. gated.wait_key(key, lanes[n]), '-inf', now, 'WITHSCORES',
              'LIMIT', 0, most - #stamps)
            for i = 1, #found, 2 do
              rows[#rows + 1] = {stamp = found[i], at = tonumber(found[i + 1]), lane = lanes[n]}
            end
          end
          n = n + 2
        end
        table.sort(rows, function(a, b)
          if a.at ~= b.at then return a.at < b.at end
          return a.stamp < b.stamp
        end)
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
        local wait = root .. gated.wait_key(key, lanes[n])
        local found = call('ZRANGEBYSCORE', wait, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        if found[1] then
          first = math.min(first or math.huge, tonumber(found[2]))
        elseif call('EXISTS', wait) == 0 then
          set_score('lines:' .. key, lanes[n], false)
        end
      end
      return first
    end

    -- The rows that have passed all gates: id and state of each; run_at and stamp by lane.
    local moved, passed = {}, {}

    local function write_moved()
      call_in_chunks('HSET', 'state', moved)
      for lane, rows in pairs(passed) do
        call_in_chunks('ZADD', 'lane:' .. lane, rows)
        changed_lanes[lane] = true
      end
      moved, passed = {}, {}
      flush()
    end

    -- Move rows that have passed a gate: to the next one, or to their lanes.
    local function move(key, rows, count, now)
      local gone, slots = {}, {}
      for i = 1, count do
        local row = rows[i]
        local place, due = row.place, row.due
        local behind = place.keys[place.at[key] + 1]
        local run_at, tail = PARKED, row.tail
        gone[row.lane] = gone[row.lane] or {}
        table.insert(gone[row.lane], row.stamp)
        slots[2 * i - 1], slots[2 * i] = '0', row.id
        gated.add_unstarted(place, key, place.weight)
        if behind then
          place.behind = place.behind or gated.tail_of(behind, place.flow, place.names)
          tail = place.behind
          gated.enter_gate(behind, row.lane, row.stamp, due)
          enqueue(behind, now)
        else
          run_at = due == '-' and instant(now) or due
          if place.shared and tonumber(run_at) < now then run_at = instant(now) end
          due = '-'
          passed[row.lane] = passed[row.lane] or {}
          table.insert(passed[row.lane], run_at)
          table.insert(passed[row.lane], row.stamp)
          if row.expires ~= '-' then
            set_score('expiring', row.id, row.expires)
            set_score('expired', row.id, false)
          end
        end
        local names = due .. ' ' .. tail
        local state = row.first .. run_at .. ' ' .. row.mid .. ' ' .. #names .. ' ' .. row.lane .. names .. row.json
        states[row.id], moved[#moved + 1], moved[#moved + 2] = state, row.id, state
      end
      for lane, stamps in pairs(gone) do call_in_chunks('ZREM', gated.wait_key(key, lane), stamps) end
      call_in_chunks('ZADD', 'slots:' .. key, slots)
      gated.unwritten[key] = true  -- for who looks again
    end

    -- Read a row that is parked at a gate; nil if it is not there.
    local PARKED_HEAD = '^(pending %S+ %S+ %S+ (%S+) [23] (%-?%d+) )' .. PARKED .. ' (%S+ (%d+)) (%d+) ()'
    local function parked_row(key, stamp, lane)
      local id = sub(stamp, 21)
      local first, expires, seq, mid, long, names, at = match(states[id] or '', PARKED_HEAD)
      if not first or seq .. id ~= stamp or sub(states[id], at, at + long - 1) ~= lane then return nil end
      local due, behind = match(states[id], '^(%S+) ()', at + long)
      local tail = sub(states[id], behind, at + long + names - 1)
      local place = gated.read_place(tail)
      if place.gate ~= key or not place.at[key] then return nil end
      return {
        id = id, stamp = stamp, lane = lane, first = first, expires = expires, mid = mid, due = due, tail = tail,
        place = place, json = sub(states[id], at + long + names),
      }
    end

    -- Read what a gate has at this instant: its lanes, how many slots are held, and the rows that may be the next.
    local function look(key, now)
      local gate, known = gate_of(key)
      local lanes = call('ZRANGE', root .. 'lines:' .. key, 0, -1, 'WITHSCORES')
      local held = call('ZCARD', root .. 'slots:' .. key)
      if not known then  -- another program has deleted it: the rows know its bounds
        local stamp = due_at(key, lanes, '+inf', 1)[1]
        local row = stamp and row_of(sub(stamp, 21))
        local place = row and row.flow and gated.place_of(row)
        if place and place.at[key] then rule.set_bounds(gate, gated.declared_bounds(place, place.at[key]), now) end
      end
      local interval = gate.bounds.interval
      local limit = math.min(MOST, rule.free_slots(gate.bounds, held), interval and (gate.bounds.burst or 1) or MOST)
      local stamps, lane_of, ids = {}, {}, {}
      if limit > 0 or now < gate.closed then
        -- One more than may pass tells when the next one may, or that there are more.
        local more = interval or limit == MOST or now < gate.closed
        stamps, lane_of = due_at(key, lanes, instant(now), more and limit + 1 or limit)
        for i = 1, #stamps do ids[i] = sub(stamps[i], 21) end
      end
      return {
        gate = gate, known = known, lanes = lanes, held = held, limit = limit, stamps = stamps, lane_of = lane_of,
        ids = ids,
      }
    end

    -- Let the first rows that may pass a gate do so. Return whether there may be more of them.
    local function pass(key, now, seen)
      local gate, bounds, stamps, lane_of = seen.gate, seen.gate.bounds, seen.stamps, seen.lane_of
      local rows, weights, damaged = {}, {}, false
      load_states(seen.ids)
      for i = 1, #stamps do
        local lane = lane_of[i] or lane_of[1]
        local row = parked_row(key, stamps[i], lane)
        if row then
          rows[#rows + 1], weights[#weights + 1] = row, row.place.weight
        else
          set_score(gated.wait_key(key, lane), stamps[i], false)
          damaged, gated.unwritten[key] = true, true
        end
      end
      if damaged then return true end
      local may_be = gate.next_at or gated.entered[key] or not seen.known
      local delayed = may_be and first_delayed(key, seen.lanes, instant(now))
      local unstarted = bounds.interval and (call('HGET', root .. 'unstarted', key) or 0) + (gated.weights[key] or 0)
      local count = rule.admit(gate, seen.held, unstarted or 0, now, weights)
      if count > 0 then move(key, rows, count, now) end
      if delayed then gate.next_at = math.min(math.max(delayed, gate.closed), gate.next_at or math.huge) end
      later = save_gate(key, gate) or later
      return seen.limit < count and count == #rows
    end

    -- Many gates are looked at together: their rows are read with one command.
    local seen, ids = {}, {}
    for i, text in ipairs(read_fields('gates', queue)) do gate_of(queue[i], text) end
    for _, key in ipairs(queue) do
      if gated.touched_at[key] and not gated.unwritten[key] then
        seen[key] = look(key, gated.touched_at[key])
        for _, id in ipairs(seen[key].ids) do ids[#ids + 1] = id end
      end
    end
    load_states(ids)
    while queue[head] do
      local key = queue[head]
      head, queued[key] = head + 1, nil
      local now = gated.touched_at[key]
      if not now then
        local gate = gate_of(key)
        gate.next_at = 0
        later = save_gate(key, gate) or later
      else
        if gated.unwritten[key] then
          write_moved()
          seen[key] = nil
        end
        local found = seen[key] or look(key, now)
        seen[key] = nil
        if pass(key, now, found) then enqueue(key, now) end
      end
    end
    gated.touched_at, gated.entered = {}, {}
    write_moved()
    return later
  end

  known_tools = {
    gate_of = gate_of, save_gate = save_gate, count_waiting = count_waiting, admit_touched = admit_touched, rule = rule,
  }
  return known_tools
end

admission = {}

-- Note that a running row with this place ends: it gives back its slots.
function admission.note_end(id, tail, at)
  use_gates()
  local keys = gated.read_place(tail).keys
  for i = #keys, 1, -1 do
    set_score('slots:' .. keys[i], id, false)
    gated.touch(keys[i], at)
  end
end

-- Let rows pass the gates that were touched, if there are any. Return whether there is a new time at which a gate may
-- let a row pass.
function admission.admit() return gated and gated.touched[1] and gate_tools().admit_touched() end
