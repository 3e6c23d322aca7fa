-- Rows with gates: their places at gates, the slots that they hold, and their indexes. Needs slots.lua.

-- What is there for rows with gates is made when the first one is met, so that calls without them do not pay for it.
function use_gates()
  if gated then return end
  gated = {
    unwritten = {},  -- gates with changes that are not written yet
    entered = {},  -- gates at which rows were parked
    touched = {},  -- gates to admit, in order
    touched_at = {},  -- by gate, the instant of that; false: the next sweep admits it
    weights = {},  -- by gate, the change of `unstarted`
    started = {},  -- by gate, what `started:<gate>` gets: instants and members
    claim_follows = false,  -- then flush() leaves these changes to a later one: most are zero after the claim
    -- By lane, the rows for that claim: they have passed their last gate, and are still written as parked rows. Each
    -- has at (its run_at as a number), run_at, stamp and shape (see gates.lua).
    for_claim = {},
    ended = {},  -- by gate, the ids of ended rows that had a slot
    made_due = false,  -- whether gates were made due that are not touched
  }

  -- The places of rows with gates, by their names without due_at: most rows that a script meets have the same. A place
  -- has the gate at which the row is (false if at none); keys and bounds of all its gates, and the number of each key
  -- in `at`; with one gate, its bounds as `text`. Then the weight and the weights by key; whether a gate is a fair
  -- share (shared) or has a rate (rated); the flow as text, and the JSON of the names. `tied`: it is in a group, or
  -- the callback of one.
  local places, rated = {}, nil
  local ONE_GATE = '^{"gates":%[%["([^"\\]+)",({[^}]*})%]%]}$'  -- most flows; to decode JSON takes longer
  local ONE_GROUP = '^{"group":"([^"\\]+)"}$'

  -- The key of the gate of a flow with one, and its bounds as JSON; nil if it may have others or none.
  local function only_gate(flow) return match(flow, ONE_GATE) end

  local function decode_flow(place)
    local ok, flow = pcall(cjson.decode, place.flow)
    for _, gate in ipairs(ok and flow.gates or {}) do
      if not place.at[gate[1]] then
        place.keys[#place.keys + 1], place.bounds[#place.bounds + 1] = gate[1], gate[2]
        place.at[gate[1]] = #place.keys
        place.shared, place.rated = place.shared or gate[2].window, place.rated or gate[2].interval
      end
    end
    place.weight = ok and flow.weight or 1
    for _, pair in ipairs(ok and flow.weights or {}) do place.weights[pair[1]] = pair[2] end
    place.group, place.tied = ok and flow.group, ok and (flow.group or flow.source)
  end

  local function read_place(tail)
    local place = places[tail]
    if place then return place end
    local long, length, at = match(tail, '^(%S+) (%d+)!? ()')
    local behind = at + (tonumber(long) or 0)
    local flow = sub(tail, behind, behind + length - 1)
    local key, bounds = only_gate(flow)
    place = {
      gate = behind > at and sub(tail, at, behind - 1), keys = {key}, bounds = {}, text = bounds, at = {}, weight = 1,
      weights = {}, flow = flow, names = sub(tail, behind + length), shared = false, rated = false,
      waits = tonumber(match(long, '^w(%d+)')),
    }
    if key then
      place.at[key], place.shared, place.rated = 1, find(bounds, 'window', 1, true), find(bounds, 'interval', 1, true)
    else
      place.group = match(flow, ONE_GROUP)
      place.tied = place.group
      if not place.group then decode_flow(place) end
    end
    places[tail] = place
    return place
  end

  -- The bounds that a row declares for one of its gates; rows with the same text mostly get the same table.
  local read_bounds = {}
  local function declared_bounds(place, number)
    if not place.bounds[number] then
      local text = place.text
      read_bounds[text] = read_bounds[text] or cjson.decode(text)
      place.bounds[1] = read_bounds[text]
    end
    return place.bounds[number]
  end

  local function due_of(run_at, due) return run_at ~= PARKED and sub(due, 1, 1) == '-' and '-' or due end

  -- The place of a row with gates, whose due_at (or '-') is then in row.due.
  local function place_of(row)
    if not row.place then
      local due, at = match(row.names, '^(%S+) ()')
      row.due, row.tail = due_of(row.run_at, due), sub(row.names, at)
      row.place = read_place(row.tail)
    end
    return row.place
  end

  -- The names of a row with a flow behind its due_at; it is at this gate, or waits for so many parents.
  local function tail_of(gate, flow, names, waits)
    return (gate and #gate or waits and string.format('w%04d', waits) or '-') .. ' ' .. #flow .. ' ' .. (gate or '')
      .. flow .. names
  end

  -- The state of a row with gates, with another run_at and other names.
  local function with_names(row, state, run_at, names)
    return row.status .. ' ' .. row.fence .. ' ' .. row.cancel .. ' ' .. row.lease .. ' ' .. row.expires
      .. (row.keyed and ' 3 ' or ' 2 ') .. row.seq .. ' ' .. run_at .. ' ' .. row.completed .. ' ' .. #row.lane .. ' '
      .. #names .. ' ' .. row.lane .. names .. sub(state, row.json)
  end

  local function is_parked(row) return row.flow and row.status == 'pending' and row.run_at == PARKED end

  -- The keys of the gates of which a row holds a slot, and how many of them count.
  local function slots_of(row)
    if not row.flow or not LIVE[row.status] then return {}, 0 end
    local place = place_of(row)
    if not is_parked(row) then return place.keys, #place.keys end
    return place.keys, (place.gate and place.at[place.gate] or 1) - 1
  end

  -- Whether a change of a pending row to `after` would give it slots that it does not hold: has_moved() in base.py.
  function gated.has_moved(row, after)
    if row.status ~= 'pending' or after.status ~= 'pending' then return false end
    local _, n = slots_of(after)
    if n == 0 then return false end
    return is_parked(row) ~= is_parked(after) or is_parked(row) and place_of(row).gate ~= place_of(after).gate
  end

  -- Note that a gate is to be admitted at this instant, or by the next sweep.
  local function touch(key, at)
    local known = gated.touched_at[key]
    if known == nil then
      gated.touched[#gated.touched + 1], gated.touched_at[key] = key, at or false
    elseif at and (not known or at > known) then
      gated.touched_at[key] = at
    end
  end

  local function names_json(row) return row.flow and place_of(row).names or row.names end

  slot_tools()

  local function wait_key(gate, lane) return 'wait:' .. #lane .. ':' .. lane .. ':' .. gate end

  -- Whether an operator has set bounds with a rate for a gate.
  local function is_rated(gate)
    if not rated then
      rated = {}
      for _, key in ipairs(call('SMEMBERS', root .. 'rated')) do rated[key] = true end
    end
    return rated[gate]
  end

  function gated.set_rated(gate, on)
    call(on and 'SADD' or 'SREM', root .. 'rated', gate)
    rated[gate] = on or nil
  end

  -- Whether a pending row with a slot counts in `unstarted`: where there may be a rate. Other gates need no counter.
  local function counts_unstarted(place, gate)
    return place.rated and declared_bounds(place, place.at[gate]).interval or is_rated(gate)
  end

  -- The tokens that a row takes from the rate of one of its gates.
  local function tokens(place, gate) return place.weights[gate] or place.weight end

  -- Note that a row has ended that had a slot of a gate.
  local function free_slot(key, id, at)
    local ids = gated.ended[key]
    if not ids then
      gated.ended[key] = id  -- most gates have one: no table for each
    elseif type(ids) == 'table' then
      ids[#ids + 1] = id
    else
      gated.ended[key] = {ids, id}
    end
    touch(key, at)
  end

  -- Note that a running row ends, whose names are here in its state, up to `json`. Return its place.
  function gated.note_end(id, state, at, json, ended_at)
    local place = read_place(sub(state, find(state, ' ', at, true) + 1, json - 1))
    for i = #place.keys, 1, -1 do free_slot(place.keys[i], id, ended_at) end
    return place
  end

  -- Note that a pending row has got a slot (1), or has no more (-1).
  local function add_unstarted(place, gate, sign)
    if counts_unstarted(place, gate) then
      gated.weights[gate] = (gated.weights[gate] or 0) + sign * tokens(place, gate)
    end
  end

  -- Whether a row that is parked at a gate was not due when it was pushed: then it is in `later:<gate>` until it is.
  local function is_later(stamp, due) return due ~= '-' and tonumber(due) > tonumber(sub(stamp, 1, 20)) end

  local function later_member(lane, stamp) return #lane .. ':' .. lane .. stamp end
  gated.later_member = later_member

  -- Return lane and stamp of a member of `later:<gate>`.
  function gated.parse_later(member)
    local length, at = match(member, '^(%d+):()')
    return sub(member, at, at + length - 1), sub(member, at + length)
  end

  -- Note that a row is parked at a gate.
  local function enter_gate(gate, lane, stamp, due)
    if is_later(stamp, due) then
      set_score('later:' .. gate, later_member(lane, stamp), due)
      set_member('waited', gate, true)
      gated.unwritten[gate], gated.entered[gate] = true, true
      return
    end
    set_score(wait_key(gate, lane), stamp, due == '-' and '0' or due)
    set_score('lines:' .. gate, lane, match(lane, '^%-?%d+'))
    set_member('waited', gate, true)
    gated.unwritten[gate], gated.entered[gate] = true, true
  end

  -- Add a row with gates to their indexes, or remove it: the slots that it holds, and where it is parked.
  local function index_gates(id, row, stamp, add)
    local place, keys, n = place_of(row), slots_of(row)
    for i = 1, n do
      gated.set_slot(keys[i], id, add)
      if row.status == 'pending' then
        add_unstarted(place, keys[i], add and 1 or -1)
        if add and counts_unstarted(place, keys[i]) then  -- given back: it starts once more
          set_score('started:' .. keys[i], tokens(place, keys[i]) .. ' ' .. id, false)
        end
      end
      gated.unwritten[keys[i]] = true
    end
    if not is_parked(row) or not place.gate then return end
    if add then
      enter_gate(place.gate, row.lane, stamp, row.due)
    else
      set_score(wait_key(place.gate, row.lane), stamp, false)
      if is_later(stamp, row.due) or row.expires ~= '-' then
        set_score('later:' .. place.gate, later_member(row.lane, stamp), false)
      end
      gated.unwritten[place.gate] = true
    end
  end

  -- What the head of a row has of its flow, as JSON.
  local function place_json(gate, flow)
    return ',"gate":' .. (gate and cjson.encode(gate) or 'null') .. ',"flow":' .. flow
  end

  local function place_as_json(run_at, due, place)
    if not place.json then
      place.json = place_json(place.gate, place.flow) .. (place.waits and ',"waits":' .. place.waits or '')
    end
    return ',"run_at":' .. run_at .. ',"due_at":' .. (due == '-' and 'null' or due) .. place.json
  end

  -- Return the shape of a row: where the parts of its state are, and the parts that many rows share, by the captures of
  -- HEAD. Nil unless the row has no keys, and its flow is a gate without a rate. Its seq begins two characters behind
  -- `rest`, and has twenty digits; a blank behind it, run_at begins.
  function gated.shape_of(state, status, fence, cancel, lease, expires, rest, seq, run_at, long, length, at)
    local begin = at + long
    local due_to, gate_long, flow_long, gate = match(state, '^%S+() (%d+) (%d+)! ()', begin)
    if not due_to or #seq ~= 20 then return nil end
    local behind, flow = rest + 23 + #run_at, gate + gate_long
    return {
      status = status, fence = fence, cancel = cancel, lease = lease, expires = expires, rest = rest,
      head = sub(state, 1, rest + 1), seq = rest + 2, run_at = rest + 23, behind = behind,
      middle = sub(state, behind, begin - 1), lane = sub(state, at, begin - 1), due = begin, due_to = due_to,
      mark = sub(state, due_to, gate - 1), gate = gate, flow = flow, flow_to = flow + flow_long - 1,
      json = begin + length,
    }
  end

  -- Whether the parts of a state are where those of another one are. This is quicker than to match HEAD.
  function gated.has_shape(state, shape)
    local behind, due_to = shape.behind, shape.due_to
    return find(state, shape.head, 1, true) == 1 and find(state, shape.middle, behind, true) == behind
      and find(state, shape.mark, due_to, true) == due_to and byte(state, shape.run_at - 1) == 32
  end

  -- Whether there may be a rate at the gate of a row that declares none.
  local function any_rated() return is_rated('') or next(rated) end

  -- Note that a row with this place is claimed: it has started.
  function gated.note_start(id, place, now)
    if not place.rated and not any_rated() then return end
    for i = 1, #place.keys do
      local key = place.keys[i]
      if counts_unstarted(place, key) then
        add_unstarted(place, key, -1)
        local started = gated.started[key]
        if not started then
          started = {}
          gated.started[key] = started
        end
        started[#started + 1], started[#started + 2] = now, tokens(place, key) .. ' ' .. id
      end
    end
  end

  -- The same for a row whose names are here in its state, up to `json`. Return its gate as JSON, and its flow.
  function gated.note_claim(id, state, at, json, now)
    local long, length, begin = match(state, '^%S+ (%d+) (%d+)! ()', at)
    if long and not any_rated() then
      local behind = begin + long
      return '"' .. sub(state, begin, behind - 1) .. '"', sub(state, behind, behind + length - 1)
    end
    local place = read_place(sub(state, find(state, ' ', at, true) + 1, json - 1))
    gated.note_start(id, place, now)
    return place.gate and cjson.encode(place.gate) or 'null', place.flow
  end

  -- The gate at which others may pass as soon as a row does not wait there: holds_back() in core/parking.py. False or
  -- nil if there is none.
  function gated.holds_back(row)
    local gate = is_parked(row) and place_of(row).gate
    return gate and tokens(row.place, gate) > 1 and gate
  end

  -- Touch the gates at which a row may pass when `before` becomes `after`: another one, or this one. The widest comes
  -- first: a row that waits there is before one that only now reaches it.
  function gated.touch_changed(before, after, at)
    local kept, held = {}, {}
    local keys, n = slots_of(after)
    for i = 1, n do kept[keys[i]] = true end
    keys, n = slots_of(before)
    local gate = is_parked(after) and place_of(after).gate
    local left = gated.holds_back(before)
    if gate and is_parked(before) and place_of(before).gate == gate and before.due == after.due
      and before.lane == after.lane and tokens(before.place, gate) == tokens(after.place, gate) then
      gate, left = false, false  -- it waits as before
    end
    for i = 1, n do held[keys[i]] = not kept[keys[i]] end
    if gate and not held[gate] then touch(gate, at) end
    if left then touch(left, at) end
    for i = n, 1, -1 do
      if held[keys[i]] then touch(keys[i], at) end
    end
  end

  -- Write what is not a change of a row.
  function gated.flush()
    gated.unwritten = {}
    gated.write_slots()
    if gated.claim_follows then return end
    for gate, by in pairs(gated.weights) do
      if by ~= 0 then call('HINCRBY', root .. 'unstarted', gate, by) end
    end
    for gate, words in pairs(gated.started) do
      if call('SISMEMBER', root .. 'timed', gate) == 1 then call_in_chunks('ZADD', 'started:' .. gate, words) end
    end
    gated.weights, gated.started = {}, {}
  end

  gated.read_place = read_place
  gated.declared_bounds = declared_bounds
  gated.place_of = place_of
  gated.tail_of = tail_of
  gated.with_names = with_names
  gated.is_parked = is_parked
  gated.slots_of = slots_of
  gated.touch = touch
  gated.names_json = names_json
  gated.wait_key = wait_key
  gated.is_rated = is_rated
  gated.any_rated = any_rated
  gated.free_slot = free_slot
  gated.counts_unstarted = counts_unstarted
  gated.add_unstarted = add_unstarted
  gated.tokens = tokens
  gated.enter_gate = enter_gate
  gated.index_gates = index_gates
  gated.place_json = place_json
  gated.place_as_json = place_as_json
end
