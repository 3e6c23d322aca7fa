-- Lets parked rows pass their gates. It runs when the changes of the rows are written, before rows are claimed.

local known_tools
local function gate_tools()
  if known_tools then return known_tools end
  local rule = gate_rule()
  local BATCH = 100  -- the most rows that pass a gate at a time: as in core/gate.py
  -- The most rows that pass, and gates that are admitted, in one call of a script: the server runs no other command
  -- meanwhile. What is left is made due, for another call.
  local MAX_WORK = 5000
  local PAGE = 50  -- lanes of a gate that are read with one command

  local gates = {}  -- by key, as far as they were read: see gate.lua

  -- Return a gate, and its stored text; a new gate and false if it does not exist. `text` is the stored one, if it was
  -- read before.
  local function gate_of(key, text)
    local gate = gates[key]
    if not gate then
      if text == nil then text = call('HGET', root .. 'gates', key) end
      gate = rule.parse_gate(text or '0 0 - 0 0 {}')
      gate.known, gate.saved_at, gate.saved_tat, gate.saved_charged = text, gate.next_at, gate.tat, gate.charged
      gates[key] = gate
    end
    return gate, gate.known
  end

  -- Note the state of a gate; return whether it has another next_at now. Where set is not true, only next_at, tat and
  -- charged may be others.
  local function save_gate(key, gate, set)
    if gate.known and not set and gate.next_at == gate.saved_at and gate.tat == gate.saved_tat
      and gate.charged == gate.saved_charged then
      return false
    end
    local before = gate.saved_at
    gate.known, gate.saved_at, gate.saved_tat, gate.saved_charged = true, gate.next_at, gate.tat, gate.charged
    set_field('gates', key, rule.gate_text(gate))
    if gate.bounds.interval then
      set_member('timed', key, true)
    elseif set then
      set_member('timed', key, false)
      call('DEL', root .. 'started:' .. key)
    end
    if gate.next_at == before then return false end
    set_score('gates:due', key, gate.next_at and string.format('%.0f', gate.next_at) or false)
    return gate.next_at ~= nil
  end

  -- Leave a gate to the next sweep.
  local function make_due(key)
    local gate, known = gate_of(key)
    gate.next_at = 0
    if known then save_gate(key, gate) else set_score('gates:due', key, '0') end
  end

  -- What rule.charge() needs: the starts that were not charged yet. Nil without a rate.
  local function starts_of(key, gate)
    if not gate.bounds.interval then return nil end
    local found = call('ZREVRANGE', root .. 'started:' .. key, 0, -1, 'WITHSCORES')
    for i = 1, #found, 2 do found[i], found[i + 1] = tonumber(match(found[i], '^%d+')), tonumber(found[i + 1]) end
    return {unstarted = (call('HGET', root .. 'unstarted', key) or 0) + (gated.weights[key] or 0), started = found}
  end

  local function charge(key, gate, now)
    local starts = starts_of(key, gate)
    if not starts then return end
    rule.charge(gate, starts, now)
    if starts.started[1] then call('DEL', root .. 'started:' .. key) end
  end

  local function count_waiting(key)
    local count = call('ZCARD', root .. 'later:' .. key)
    for _, lane in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
      count = count + call('ZCARD', root .. gated.wait_key(key, lane))
    end
    return count
  end

  local closed_queues
  local function is_closed(lane)
    if not closed_queues then
      closed_queues = {}
      for _, name in ipairs(call('SMEMBERS', root .. 'paused')) do closed_queues[name] = true end
    end
    return closed_queues[queue_of(lane)]
  end

  -- Put the rows at a gate that are due by now among those that may pass. Return whether these are all.
  local function promote(key, now)
    local found = call('ZRANGEBYSCORE', root .. 'later:' .. key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, MAX_WORK)
    if not found[1] then return true end
    local rows = {}
    for i = 1, #found, 2 do
      local lane, stamp = gated.parse_later(found[i])
      rows[lane] = rows[lane] or {}
      table.insert(rows[lane], found[i + 1])
      table.insert(rows[lane], stamp)
    end
    local lanes = {}
    for lane, words in pairs(rows) do
      call_in_chunks('ZADD', gated.wait_key(key, lane), words)
      lanes[#lanes + 1], lanes[#lanes + 2] = match(lane, '^%-?%d+'), lane
    end
    call_in_chunks('ZADD', 'lines:' .. key, lanes)
    call('ZREMRANGEBYRANK', root .. 'later:' .. key, 0, #found / 2 - 1)
    return #found < 2 * MAX_WORK
  end

  local function claims_first(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return a.stamp < b.stamp
  end

  -- Return the stamps of the first due rows at a gate, in claim order, at most `most`, and their lanes: one lane if all
  -- are in it. Rows of paused queues are left out. Then the next due time of rows that are not due, though they were
  -- pushed as due (by a clock ahead of this one), and how many rows there are, if that is known. Drops lanes without
  -- rows from the index.
  local function due_at(key, now, most)
    local stamps, lane_of, rows, priority, from, first, total = {}, {}, {}, nil, 0, nil, 0

    local function look_at(lane)
      if is_closed(lane) then
        total = nil
        return {}
      end
      local wait, wanted = root .. gated.wait_key(key, lane), most - #stamps
      local found = call('ZRANGEBYSCORE', wait, '-inf', now, 'WITHSCORES', 'LIMIT', 0, wanted)
      local count = call('ZCARD', wait)
      if count == 0 then set_score('lines:' .. key, lane, false) end
      if #found < 2 * wanted and count > #found / 2 then
        local behind = call('ZRANGEBYSCORE', wait, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
        first = behind and math.min(first or math.huge, tonumber(behind))
      end
      total = total and total + count
      return found
    end

    local function take_rows()
      table.sort(rows, claims_first)
      for i = 1, math.min(#rows, most - #stamps) do
        stamps[#stamps + 1] = rows[i].stamp
        lane_of[#stamps] = rows[i].lane
      end
      rows = {}
    end

    local lanes
    repeat
      lanes = call('ZRANGE', root .. 'lines:' .. key, from, from + PAGE - 1, 'WITHSCORES')
      if from == 0 and not lanes[3] then  -- one lane, as nearly always
        local found = lanes[1] and look_at(lanes[1]) or {}
        for i = 1, #found, 2 do stamps[#stamps + 1] = found[i] end
        return stamps, {lanes[1]}, first, total
      end
      for n = 1, #lanes, 2 do
        if lanes[n + 1] ~= priority then
          take_rows()
          priority = lanes[n + 1]
          if #stamps >= most then return stamps, lane_of, first, nil end
        end
        local found = look_at(lanes[n])
        for i = 1, #found, 2 do
          rows[#rows + 1] = {stamp = found[i], at = tonumber(found[i + 1]), lane = lanes[n]}
        end
      end
      from = from + PAGE
    until #lanes < 2 * PAGE
    take_rows()
    return stamps, lane_of, first, total
  end

  -- Whether a row waits at a gate that is due, and of no paused queue.
  local function has_due(key, now)
    if due_at(key, now, 1)[1] then return true end
    for _, member in ipairs(call('ZRANGEBYSCORE', root .. 'later:' .. key, '-inf', now, 'LIMIT', 0, PAGE)) do
      if not is_closed(gated.parse_later(member)) then return true end
    end
    return false
  end

  -- Read a new row that is parked at a gate, by its state; nil if it is not parked. A row that has several gates, is
  -- not due, or may expire stays parked: admit_touched() decides on it.
  local NEW_HEAD = '^pending %S+ %S+ %S+ (%S+) [23] (%d+) ()' .. PARKED .. '() %S+ (%d+) (%d+) ()'
  local function new_row(state)
    local expires, seq, from, to, long, names, at = match(state, NEW_HEAD)
    if not expires then return nil end
    local begin = at + long
    local due, behind = match(state, '^(%d+) ()', begin)
    local place = due and gated.read_place(sub(state, behind, begin + names - 1))
    if not place or not place.gate then return nil end
    return {
      state = state, seq = tonumber(seq), from = from, to = to, names = begin, due = due, place = place,
      lane = sub(state, at, begin - 1), stays = place.keys[2] or expires ~= '-' or tonumber(due) > tonumber(seq),
    }
  end

  -- Return the state of a row that passes its last gate; `at` has the places of its parts. A mark for due_at takes the
  -- place of one character, so that the length of the names stays.
  local function unparked(state, at, run_at)
    return sub(state, 1, at.from - 1) .. run_at .. sub(state, at.to, at.names - 1) .. '-' .. sub(state, at.names + 1)
  end

  -- Let all of these new rows pass a gate at which none waits, if all may; else none. `text` is that of the gate.
  local function enter_all(key, text, line, rows, now)
    local gate = rule.parse_gate(text or '0 0 - 0 0 {}')
    local declared = gated.declared_bounds(line[#line].place, 1)
    local bounds = (text and gate.fixed) and gate.bounds or declared
    if bounds.interval or gate.closed > now or gated.is_rated(key) then return end
    if #line > rule.free_slots(bounds, gated.count_slots(key)) then return end
    for _, row in ipairs(line) do
      rows[row.at] = unparked(row.state, row, row.place.shared and string.format('%.0f', now) or row.due)
    end
  end

  -- Let rows pass the gates that were touched, and then those behind them, first in, first out: a gate behind others
  -- sees what has passed all of them. Return whether there is a new time at which a gate may let a row pass.
  local function admit_touched()
    local touched, queue, queued, head, next_at_set = gated.touched, {}, {}, 1, false
    local work_left = MAX_WORK
    gated.touched = {}

    local function enqueue(key, at)
      gated.touched_at[key] = at and math.max(at, gated.touched_at[key] or at)
      if not queued[key] then queue[#queue + 1] = key end
      queued[key] = true
    end

    local clock, clock_text
    local function instant(now)
      if now ~= clock then clock, clock_text = now, string.format('%.0f', now) end
      return clock_text
    end

    -- The rows that have moved, as id and state; of those that have passed all gates also run_at and stamp, by lane.
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

    -- Keep a row that has passed its last gate for the claim that follows, which claims most such rows: until then it
    -- is not written.
    local function hand_over(row)
      local rows = gated.for_claim[row.shape.lane]
      if not rows then
        rows = {first = 1, n = 0, sorted = true}
        gated.for_claim[row.shape.lane] = rows
      end
      local last = rows[rows.n]
      if last and (row.at < last.at or row.at == last.at and row.stamp < last.stamp) then rows.sorted = false end
      rows.n = rows.n + 1
      rows[rows.n] = row
    end

    -- Move the first `count` of the rows that were read at a gate to their next gates, or to their lanes.
    local function move_rows(key, rows, count, now)
      local gone, any_rated = {}, gated.any_rated()
      for i = 1, count do
        local id, stamp, due, shape = rows.ids[i], rows.stamps[i], rows.dues[i], rows.shapes[i]
        local place, lane, state = shape.place, shape.lane, states[id]
        local behind = place.keys[place.at[key] + 1]
        gone[lane] = (gone[lane] or 0) + 1
        if any_rated or place.rated then gated.add_unstarted(place, key, 1) end
        if due == '-' or place.shared and tonumber(due) < now then due = instant(now) end
        if behind then
          place.behind = place.behind or gated.tail_of(behind, place.flow, place.names)
          local names, mid = due .. ' ' .. place.behind, match(state, '^( %S+ %d+) ', shape.to)
          state = sub(state, 1, shape.to - 1) .. mid .. ' ' .. #names .. ' ' .. lane .. names .. sub(state, shape.json)
          moved[#moved + 1], moved[#moved + 2] = id, state
          gated.enter_gate(behind, lane, stamp, due)
          enqueue(behind, now)
        else
          local run_at, at = due, tonumber(due)
          if gated.claim_follows and shape.expires == '-' then
            hand_over({at = at, run_at = run_at, stamp = stamp, shape = shape})
          else
            state = unparked(state, shape, run_at)
            moved[#moved + 1], moved[#moved + 2] = id, state
            local due_rows = passed[lane]
            if not due_rows then
              due_rows = {}
              passed[lane] = due_rows
            end
            due_rows[#due_rows + 1], due_rows[#due_rows + 2] = run_at, stamp
            if shape.expires ~= '-' then
              set_score('expiring', id, shape.expires)
              set_score('expired', id, false)
            end
          end
        end
        states[id] = state
      end
      -- By their ranks: rows pass in the order of their lanes, so they are the first ones there.
      for lane, n in pairs(gone) do call('ZREMRANGEBYRANK', root .. gated.wait_key(key, lane), 0, n - 1) end
      gated.add_slots(key, rows.ids, count)
      gated.unwritten[key] = true  -- the index of the slots is written before the gate is read again
      work_left = work_left - count
    end

    local PARKED_HEAD = '^pending (%S+) ([01]) %S+ (%S+) ()[23] (%-?%d+) ()' .. PARKED .. '() %S+ (%d+) (%d+) ()'

    -- Return the shape of a parked row: the places of the parts of its state, and the parts that most rows of a gate
    -- share. Nil if the row is not parked.
    local function shape_of(state)
      local fence, cancel, expires, rest, seq, from, to, long, names, at = match(state, PARKED_HEAD)
      if not fence then return nil end
      local begin = at + long
      local json, behind = begin + names, match(state, '^%S+ ()', begin)
      return {
        fence = fence, cancel = cancel, expires = expires,
        rest = rest, from = from, to = to, names = begin, json = json,
        lane = sub(state, at, begin - 1),
        place = gated.read_place(sub(state, behind, json - 1)),
        seq = from - #seq - 1, due = behind - 2,  -- where it begins, and where that ends
        head = sub(state, 1, from - #seq - 2), middle = sub(state, from - 1, begin - 1),
        tail = sub(state, behind - 1, json - 1), behind = sub(state, to, begin - 1),  -- its run_at
      }
    end

    -- Return the due_at and the shape of a row that is parked at a gate; `shape` is that of the row before, which often
    -- is the same. Nil if it is not parked there, and true if it has expired: it would hold a slot, and start nothing.
    local function parked_row(key, id, stamp, lane, now, shape)
      local state = states[id] or ''
      -- It is quicker to find the same parts where they are expected than to match the pattern.
      if not (shape and find(state, shape.head, 1, true) == 1
        and find(state, shape.middle, shape.from - 1, true) == shape.from - 1
        and find(state, shape.tail, shape.due + 1, true) == shape.due + 1) then
        shape = shape_of(state)
      end
      if not shape or sub(state, shape.seq, shape.from - 2) ~= sub(stamp, 1, 20) then return nil end
      local place, expires = shape.place, shape.expires
      if shape.lane ~= lane then return nil end
      if place.gate ~= key or not place.at[key] then return nil end
      if expires ~= '-' and tonumber(expires) <= now then return nil, true end  -- the reaper settles it
      return sub(state, shape.names, shape.due), shape
    end

    -- Read a gate, how many rows hold a slot, how many may pass at a time by the slots, and the first rows.
    local function read_gate(key, now)
      local gate, known = gate_of(key)
      local may_be_delayed = gate.next_at or gated.entered[key] or not known
      local is_whole = not (may_be_delayed and (gate.next_at or 0) <= now or gated.entered[key])
        or promote(key, instant(now))
      local held = gated.count_slots(key)
      if not known then  -- another program has deleted it: the rows know its bounds
        local stamp = due_at(key, '+inf', 1)[1]
        local row = stamp and row_of(sub(stamp, 21))
        local place = row and row.flow and gated.place_of(row)
        if place and place.at[key] then rule.new_bounds(gate, gated.declared_bounds(place, place.at[key])) end
      end
      local interval = gate.bounds.interval
      local batch = interval and math.min(BATCH, gate.bounds.burst or 1) or BATCH
      local may_pass = math.min(batch, rule.free_slots(gate.bounds, held))
      local stamps, lane_of, ids, first, total = {}, {}, {}, nil, nil
      if may_pass > 0 or now < gate.closed then
        -- One more row than may pass tells when that one may pass, or that more may.
        local one_more = interval or may_pass == BATCH or now < gate.closed
        stamps, lane_of, first, total = due_at(key, instant(now), one_more and may_pass + 1 or may_pass)
        for i = 1, #stamps do ids[i] = sub(stamps[i], 21) end
      end
      return {
        gate = gate, held = held, may_pass = may_pass, stamps = stamps, lane_of = lane_of, ids = ids, first = first,
        total = total,  -- how many rows wait, if it is known
        is_whole = is_whole, may_be_delayed = may_be_delayed,
      }
    end

    -- Let the first rows pass a gate. Return whether more may pass, so that it has to be admitted again.
    local function admit_first(key, now, seen)
      local gate, stamps, lane_of = seen.gate, seen.stamps, seen.lane_of
      local rows, weights, any_stale, n, last = {ids = {}, stamps = {}, dues = {}, shapes = {}}, {}, false, 0, nil
      load_states(seen.ids)
      for i = 1, #stamps do
        local lane, id = lane_of[i] or lane_of[1], seen.ids[i]
        local due, shape = parked_row(key, id, stamps[i], lane, now, last)
        if due then
          n, last = n + 1, shape
          rows.ids[n], rows.stamps[n], rows.dues[n], rows.shapes[n] = id, stamps[i], due, shape
          weights[n] = gated.tokens(shape.place, key)
        else
          set_score(gated.wait_key(key, lane), stamps[i], false)
          -- An expired one still waits, out of the way of the others.
          if shape then set_score('later:' .. key, gated.later_member(lane, stamps[i]), 'inf') end
          any_stale, gated.unwritten[key] = true, true
        end
      end
      if any_stale then return true end
      local later = seen.may_be_delayed
        and call('ZRANGEBYSCORE', root .. 'later:' .. key, '-inf', '(inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
      local delayed = later and math.min(tonumber(later), seen.first or math.huge) or seen.first
      charge(key, gate, now)
      local count = rule.admit(gate, seen.held, now, weights)
      if count > 0 then move_rows(key, rows, count, now) end
      if count == seen.total and not later then set_member('waited', key, false) end
      if delayed then gate.next_at = math.min(math.max(delayed, gate.closed), gate.next_at or math.huge) end
      next_at_set = save_gate(key, gate) or next_at_set
      return seen.may_pass < count and count == n
    end

    -- Most gates at which a row ends have no other one that waits: then there is nothing to do, unless it has a rate.
    local any_timed = call('EXISTS', root .. 'gates:due', root .. 'timed') > 0
    local waits = call('EXISTS', root .. 'waited') == 1 and read_flags('waited', touched) or {}
    local waiting, busy = {}, {}
    for i, key in ipairs(touched) do
      if any_timed or waits[i] == 1 then
        busy[#busy + 1] = key
        waiting[key] = waits[i] == 1
      end
    end
    local texts, text_before, is_timed = read_fields('gates', busy), nil, nil  -- most are alike
    for i, key in ipairs(busy) do
      local text = texts[i]
      if text and text ~= text_before then
        text_before, is_timed = text, find(text, '"interval"', 1, true) or not find(text, '^%S+ %S+ %- ')
      end
      if waiting[key] or text and is_timed then
        gate_of(key, text)
        enqueue(key, gated.touched_at[key])
      end
    end
    -- Many gates are looked at together: their rows are read with one command.
    local seen, ids = {}, {}
    gated.load_slots(queue)
    for i = 1, math.min(#queue, work_left) do
      local key = queue[i]
      if gated.touched_at[key] and not gated.unwritten[key] then
        seen[key] = read_gate(key, gated.touched_at[key])
        for _, id in ipairs(seen[key].ids) do ids[#ids + 1] = id end
      end
    end
    load_states(ids)
    while queue[head] do
      local key = queue[head]
      head, queued[key], work_left = head + 1, nil, work_left - 1
      local now = work_left >= 0 and gated.touched_at[key]
      if not now then  -- another call of a script goes on
        make_due(key)
        next_at_set = true
      else
        if gated.unwritten[key] then
          for other in pairs(gated.unwritten) do seen[other] = nil end  -- rows have come to these since they were read
          write_moved()
        end
        local found = seen[key] or read_gate(key, now)
        seen[key] = nil
        if not found.is_whole then  -- rows before these may be due, too: another call of a script goes on
          make_due(key)
          next_at_set = true
        elseif admit_first(key, now, found) then
          enqueue(key, now)
        end
      end
    end
    gated.touched_at, gated.entered = {}, {}
    write_moved()
    return next_at_set
  end

  known_tools = {
    gate_of = gate_of, save_gate = save_gate, make_due = make_due, count_waiting = count_waiting,
    admit_touched = admit_touched, rule = rule, new_row = new_row, enter_all = enter_all, unparked = unparked,
    starts_of = starts_of, charge = charge, has_due = has_due,
  }
  return known_tools
end

admission = {}

-- Write the rows that were handed to a claim which has not taken them.
function admission.write_unclaimed()
  local written_rows = {}
  for lane, rows in pairs(gated.for_claim) do
    local scores = {}
    for i = rows.first, rows.n do
      local row = rows[i]
      local id = sub(row.stamp, 21)
      local state = gate_tools().unparked(states[id], row.shape, row.run_at)
      states[id] = state
      written_rows[#written_rows + 1], written_rows[#written_rows + 2] = id, state
      scores[#scores + 1], scores[#scores + 2] = row.run_at, row.stamp
      changed_lanes[lane] = true
    end
    call_in_chunks('ZADD', 'lane:' .. lane, scores)
  end
  gated.for_claim = {}
  call_in_chunks('HSET', 'state', written_rows)
end

-- Park a pending row that holds slots at its first gate: they are for others.
function admission.park(id, row)
  if not row.flow then return end
  local place, keys, n = gated.place_of(row), gated.slots_of(row)
  if n == 0 then return end
  local left = gated.holds_back(row)
  unindex(id, row)
  for i = 1, n do gated.touch(keys[i]) end
  if left then gated.touch(left) end
  local due = gated.is_parked(row) and row.due or row.run_at
  local names = due .. ' ' .. gated.tail_of(keys[1], place.flow, place.names)
  set_state(id, gated.with_names(row, states[id], PARKED, names))
  index(id, parse(states[id]))
end

-- Let rows pass the gates that were touched, if there are any. Return whether there is a new time at which a gate may
-- let a row pass; this one if there are too many for one call of a script.
function admission.admit()
  local due = gated and gated.made_due
  local next_at_set = gated and gated.touched[1] and gate_tools().admit_touched()
  return next_at_set or due
end
