-- Applies one change: compares the row with the guard, and writes the new state if they agree.

-- The new state with the names that are stored: the client could not decode the body, so it does not know them, or the
-- row has given up its unique key since the client read it.
local function with_stored_names(row, state, stored)
  local names = stored.names
  if stored.flow then
    local place, known = place_of(stored), row.flow and place_of(row) or place_of(stored)
    local gate = not known.waits and (known.gate or place.gate)
    local long = gate and #gate or known.waits and string.format('w%04d', known.waits) or '-'
    names = (row.due or '-') .. ' ' .. long .. ' ' .. #place.flow .. ' ' .. (gate or '') .. place.flow .. place.names
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
  if type(more) ~= 'table' then more = {} end
  local row = parse(states[id])
  local held = row and row.status == status and row.fence == fence and (cancel == '' or row.cancel == cancel)
    and (not more.lease or row.lease == more.lease)
  if held and more.revived and row.keyed then
    local newer = holder('unique', names_of(row).unique)
    held = not newer or newer == id
  end
  if not held then return false end
  local after = parse(state)
  if (row.flow or after.flow) and not in_transaction then error('FLOW REQUIRED') end
  local same = after.names == row.names or row.flow and after.flow and names_json(after) == names_json(row)
  if more.undecodable or not more.body and not same then
    state = with_stored_names(after, state, row)
    after = parse(state)
  end
  unindex(id, row)
  set_state(id, state)
  index(id, after)
  if more.body then
    bodies[#bodies + 1] = id
    bodies[#bodies + 1] = more.body
  end
  local follow_ups = more.follow_ups or {}
  for i = 1, #follow_ups, 3 do insert(follow_ups[i], follow_ups[i + 1], follow_ups[i + 2]) end
  return true
end
