-- Applies one change: compares the row with the guard, and writes the new state if they agree.

-- The new state with the names that are stored: the client could not decode the body, so it does not know them, or the
-- row has given up its unique key since the client read it.
local function with_stored_names(state, stored)
  local row, names = parse(state), stored.names
  if stored.flow then
    local place = gated.place_of(stored)
    local known = row.flow and gated.place_of(row) or place
    local gate, waits = known.gate or place.gate, known.waits
    names = (row.due or '-') .. ' ' .. gated.tail_of(not waits and gate, place.flow, place.names, waits)
  end
  local words = {
    row.status, row.fence, row.cancel, row.lease, row.expires, (stored.keyed and 1 or 0) + (stored.flow and 2 or 0),
    stored.seq, row.run_at, row.completed, #row.lane, #names,
  }
  return table.concat(words, ' ') .. ' ' .. row.lane .. names .. sub(state, row.json)
end

-- Apply a change, and return whether its guard holds. cancel is '' where the cancel flag does not matter; more is a
-- table where there is more to check or to write than the state.
local function apply_change(id, status, fence, cancel, state, more)
  if type(more) ~= 'table' then more = {at = more and match(more, ' (%S+)')} end
  local row = parse(states[id])
  local held = row and row.status == status and row.fence == fence and (cancel == '' or row.cancel == cancel)
    and (not more.lease or row.lease == more.lease)
  if held and more.revived and row.keyed then
    local newer = holder('unique', names_of(row).unique)
    held = not newer or newer == id
  end
  if not held then return false end
  if row.flow and not admission then error('GATES REQUIRED') end
  local after = parse(state)
  if row.flow and after.flow and gated.has_moved(row, after) then return false end
  local same = after.names == row.names or row.flow and after.flow and gated.names_json(after) == gated.names_json(row)
  if more.undecodable or not more.body and not same then
    state = with_stored_names(state, row)
    after = parse(state)
  end
  if after.flow and LIVE[row.status] ~= LIVE[after.status] and gated.place_of(after).tied and not in_transaction then
    error('FLOW REQUIRED')
  end
  unindex(id, row)
  set_state(id, state)
  index(id, after)
  if after.flow and (not row.flow or gated.place_of(row).flow ~= gated.place_of(after).flow) then
    if not admission then error('GATES REQUIRED') end
    admission.note_other_gates(after)
  end
  if row.flow or after.flow then gated.touch_changed(row, after, tonumber(more.at)) end
  if after.flow and row.status == 'running' and after.status == 'pending' and not gated.is_parked(after)
    and call('SISMEMBER', root .. 'paused', queue_of(after.lane)) == 1 then
    admission.park(id, after)  -- else it would keep its slots until the queue is resumed
  end
  if more.body then
    bodies[#bodies + 1] = id
    bodies[#bodies + 1] = more.body
  end
  local follow_ups = more.follow_ups or {}
  for i = 1, #follow_ups, 3 do insert(follow_ups[i], follow_ups[i + 1], follow_ups[i + 2]) end
  return true
end
