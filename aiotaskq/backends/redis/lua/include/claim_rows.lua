-- Claims due rows: the lowest priority number first; in one priority by run_at, then by push stamp.

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
  local shapes = gated and gated.shapes

  -- Note that a row is claimed, whose JSON is this; return its new state. `rest` is the end of its head, and JSON.
  local function claimed_state(id, fence, cancel, expires, rest, json, gates)
    taken = taken + 1
    ids[taken] = id
    json_states[taken] = json .. running .. fence .. ending
      .. (cancel == '1' and ',"cancel_requested":true' or '') .. gates
    local state = 'running ' .. fence .. ' ' .. cancel .. ' ' .. lease .. ' ' .. expires .. ' ' .. rest .. stored
    states[id] = state
    return state
  end

  -- The same as take(), for a row that has passed its gates in this call.
  local function take_passed(id, shape, run_at)
    local state = states[id]
    local moved = #run_at - #PARKED  -- what is behind its run_at
    shape.next_fence = shape.next_fence or next_fence(shape.fence)
    local gates = gated.note_claim(state, run_at, shape.names + moved, shape.json + moved)
    return claimed_state(id, shape.next_fence, shape.cancel, '-', sub(state, shape.rest),
      sub(state, shape.json + moved), gates)
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
    if status ~= 'pending' or seq .. id ~= stamp or sub(state, at, at + long - 1) ~= lane then
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
    local gates = ''
    if keyed == '2' or keyed == '3' then
      if run_at == PARKED then
        remove_from_lane(lane, stamp)
        return nil
      end
      use_gates()
      gates = gated.note_claim(state, run_at, at + long, at + long + names)
    end
    return claimed_state(id, next_fence(fence), cancel, expires, sub(state, rest), sub(state, at + long + names), gates)
  end

  for _, priority in ipairs(priorities) do
    while left > 0 do
      local most = left
      local found, looked, rows, leased, claimed, n = due_rows(lanes[priority], now, most), {}, {}, {}, {}, 0
      for i = 1, math.min(most, #found) do looked[i] = sub(found[i].stamp, 21) end
      load_states(looked)
      for i = 1, #looked do
        local lane, stamp = found[i].lane, found[i].stamp
        local shape = shapes and shapes[looked[i]]
        local state
        if shape and shape.expires == '-' then
          state = take_passed(looked[i], shape, gated.run_ats[looked[i]])
        else
          state = take(lane, stamp, looked[i])
        end
        if state then
          n = n + 2
          rows[n - 1], rows[n] = looked[i], state
          leased[n - 1], leased[n] = score, prefix .. stamp
          claimed[lane] = claimed[lane] or {}
          table.insert(claimed[lane], stamp)
        end
      end
      for lane, stamps in pairs(claimed) do
        call_in_chunks('ZREM', 'lane:' .. lane, stamps)
        changed_lanes[lane] = true
        add_count('pending', lane, -#stamps)
        add_count('running', lane, #stamps)
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
