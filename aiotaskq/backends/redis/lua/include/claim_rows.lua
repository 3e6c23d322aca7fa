-- Claims due rows: the lowest priority number first; in one priority by run_at, then by push stamp.
-- include: answer
-- include: lanes

local function next_fence(fence)
  if #fence < 16 then return string.format('%d', fence + 1) end
  -- A double is not exact for so many digits.
  local head, nines = match(fence, '^(.-)(9*)$')
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
  -- Return the new state of a row, or nil if it cannot be claimed. It reads the head itself: parse() would
  -- be half of what a claim costs.
  local function take(lane, stamp, id)
    local state = states[id]
    local status, fence, cancel, _, expires, rest, seq, run_at, _, long, names, place, at = match(state or '', HEAD)
    if state and not status then  -- the head is damaged: make one of what the index knows
      state = 'pending 0 0 - - ' .. sub(stamp, 1, 20) .. ' 0 - ' .. #lane .. ' 0 0 ' .. lane .. state
      status, fence, cancel, _, expires, rest, seq, run_at, _, long, names, place, at = match(state, HEAD)
    end
    local begin = status and at + long
    if status ~= 'pending' or seq .. id ~= stamp or sub(state, at, begin - 1) ~= lane
      or place ~= '0' and run_at == PARKED then
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
    fence = next_fence(fence)
    taken = taken + 1
    ids[taken] = id
    local place_at = begin + names
    local json = place_at + place
    json_states[taken] = sub(state, json) .. running .. fence .. ',"run_at":' .. run_at .. ending
      .. (cancel == '1' and ',"cancel_requested":true' or '')
      .. (json > place_at and sub(state, place_at, json - 1) or '')
    state = 'running ' .. fence .. ' ' .. cancel .. ' ' .. lease .. ' ' .. expires .. ' ' .. sub(state, rest) .. stored
    states[id] = state
    return state
  end

  for _, priority in ipairs(priorities) do
    while left > 0 do
      local most = left
      local found, looked, rows, leased, n = due_rows(lanes[priority], now, most), {}, {}, {}, 0
      local claimed = {}  -- by lane: the stamps to remove from it
      for i = 1, math.min(most, #found) do looked[i] = sub(found[i].stamp, 21) end
      load_states(looked)
      for i = 1, #looked do
        local lane, stamp = found[i].lane, found[i].stamp
        local state = take(lane, stamp, looked[i])
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
