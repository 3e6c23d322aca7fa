-- Claims due rows: the lowest priority number first; in one priority by run_at, then by push stamp.

local DASH = byte('-')

local function next_fence(fence)
  if #fence < 16 then return string.format('%d', fence + 1) end
  -- A double is not exact for so many digits.
  local nines = match(fence, '9*$')
  local head = sub(fence, 1, #fence - #nines)
  if head == '' then return '1' .. string.rep('0', #nines) end
  return sub(head, 1, -2) .. (tonumber(sub(head, -1)) + 1) .. string.rep('0', #nines)
end

-- Claim up to `left` rows and return them. owner is JSON, lease as in a head; queues (packed) can be ''.
local function claim(owner, now, left, lease, started, queues)
  want_queues(queues)
  sweep_expired(now)
  local lanes, priorities = due_lanes(now)
  local ids, json_states, taken = {}, {}, 0
  local stored = ',"lease_owner":' .. owner .. ',"began_at":' .. now .. ',"started_at":' .. started
  local running = stored .. ',"status":"running","fence":'
  local ending = tonumber(lease) and ',"lease_until":' .. lease or ''
  local held_key, prefix, score = held_entry('', lease)
  local any_rated = gated and gated.any_rated()
  local alike = {}  -- shapes of pending rows with a gate, by the length of their states: see gated.shape_of()

  -- The same as take(), for a row that has passed its gates in this call, and is still written as a parked one.
  local function take_for_claim(row, id)
    local run_at, shape = row.run_at, row.shape
    local state, place = states[id], shape.place
    if not shape.claimed then
      local fence = next_fence(shape.fence)
      shape.claimed = 'running ' .. fence .. ' ' .. shape.cancel .. ' ' .. lease .. ' - '
      shape.answer = running .. fence .. ending .. (shape.cancel == '1' and ',"cancel_requested":true' or '')
        .. gated.place_json(place.gate, place.flow) .. ',"run_at":'
    end
    if any_rated or place.rated then gated.note_start(id, place, now) end
    taken = taken + 1
    ids[taken], json_states[taken] = id, sub(state, shape.json) .. shape.answer .. run_at
    state = shape.claimed .. sub(state, shape.rest, shape.from - 1) .. run_at .. shape.behind .. '-'
      .. sub(state, shape.names + 1) .. stored
    states[id] = state
    return state
  end

  -- Return the new state of a row, or nil if it cannot be claimed. It reads the head itself: parse() and with_head()
  -- would be half of what a claim costs.
  local function take(lane, stamp, id)
    local state = states[id]
    local status, fence, cancel, _, expires, rest, keyed, seq, run_at, _, long, names, at = match(state or '', HEAD)
    if state and not status then  -- the head is damaged: make one of what the index knows
      state = 'pending 0 0 - - 0 ' .. sub(stamp, 1, 20) .. ' 0 - ' .. #lane .. ' 0 ' .. lane .. state
      status, fence, cancel, _, expires, rest, keyed, seq, run_at, _, long, names, at = match(state, HEAD)
    end
    local begin = status and at + long
    if status ~= 'pending' or seq .. id ~= stamp or sub(state, at, begin - 1) ~= lane then
      remove_from_lane(lane, stamp)
      return nil
    end
    if expires ~= '-' then
      if tonumber(expires) <= tonumber(now) then
        set_expired(id, lane, stamp, expires)
        return nil
      end
      set_score('expiring', id, false)
      set_score('expired', id, false)
    end
    local gates, json = '', begin + names
    if keyed == '2' or keyed == '3' then
      if run_at == PARKED then
        remove_from_lane(lane, stamp)
        return nil
      end
      use_gates()
      if expires == '-' and keyed == '2' and not gated.any_rated() then
        alike[#state] = gated.shape_of(state, status, fence, cancel, '-', expires, rest, seq, run_at, long, names, at)
      end
      local due = sub(state, begin, begin) == '-' and 'null' or match(state, '^%S+', begin)
      local gate, flow = gated.note_claim(id, state, begin, json, now)
      gates = ',"run_at":' .. run_at .. ',"due_at":' .. due .. ',"gate":' .. gate .. ',"flow":' .. flow
    end
    fence = next_fence(fence)
    taken = taken + 1
    ids[taken] = id
    json_states[taken] = sub(state, json) .. running .. fence .. ending
      .. (cancel == '1' and ',"cancel_requested":true' or '') .. gates
    state = 'running ' .. fence .. ' ' .. cancel .. ' ' .. lease .. ' ' .. expires .. ' ' .. sub(state, rest) .. stored
    states[id] = state
    return state
  end

  -- The same for a row with a gate whose state is as that of another one; nil if it differs nevertheless.
  local function take_alike(lane, stamp, id, state, shape)
    local run_at = sub(state, shape.run_at, shape.behind - 1)
    if sub(state, shape.seq, shape.seq + 19) ~= sub(stamp, 1, 20) or shape.lane ~= lane or run_at == PARKED
      or byte(state, shape.due) ~= DASH then
      return nil
    end
    if not shape.claimed then
      local fence = next_fence(shape.fence)
      shape.claimed = 'running ' .. fence .. ' ' .. shape.cancel .. ' ' .. lease .. ' - '
      shape.answer = running .. fence .. ending .. (shape.cancel == '1' and ',"cancel_requested":true' or '')
        .. ',"run_at":'
    end
    taken = taken + 1
    ids[taken] = id
    json_states[taken] = sub(state, shape.json) .. shape.answer .. run_at .. ',"gate":"'
      .. sub(state, shape.gate, shape.flow - 1) .. '","flow":' .. sub(state, shape.flow, shape.flow_to)
    state = shape.claimed .. sub(state, shape.rest) .. stored
    states[id] = state
    return state
  end

  for _, priority in ipairs(priorities) do
    while left > 0 do
      local most = left
      local found, looked, rows, leased, n = due_rows(lanes[priority], now, most), {}, {}, {}, 0
      local claimed, moved = {}, {}  -- by lane: the stamps to remove from it, and how many rows are claimed
      for i = 1, math.min(most, #found) do looked[i] = sub(found[i].stamp, 21) end
      load_states(looked)
      for i = 1, #looked do
        local lane, stamp, state = found[i].lane, found[i].stamp
        if found[i].shape then
          lane = found[i].shape.lane
          state = take_for_claim(found[i], looked[i])
          gated.for_claim[lane].first = gated.for_claim[lane].first + 1
          moved[lane] = (moved[lane] or 0) + 1
        else
          local before = gated and states[looked[i]]
          local shape = before and alike[#before]
          state = shape and gated.has_shape(before, shape) and take_alike(lane, stamp, looked[i], before, shape)
            or take(lane, stamp, looked[i])
          if state then
            claimed[lane] = claimed[lane] or {}
            table.insert(claimed[lane], stamp)
          end
        end
        if state then
          n = n + 2
          rows[n - 1], rows[n] = looked[i], state
          leased[n - 1], leased[n] = score, prefix .. stamp
        end
      end
      for lane, stamps in pairs(claimed) do
        call_in_chunks('ZREM', 'lane:' .. lane, stamps)
        changed_lanes[lane] = true
        moved[lane] = (moved[lane] or 0) + #stamps
      end
      for lane, count in pairs(moved) do
        add_count('pending', lane, -count)
        add_count('running', lane, count)
      end
      call_in_chunks('HSET', 'state', rows)
      call_in_chunks('ZADD', held_key, leased)
      flush()
      left = left - n / 2
      if #found < most then break end
    end
  end
  return read_rows(ids, json_states)
end
