-- Applies guarded writes: compares a row with its guard, and writes the new state if they agree.
-- include: insert

-- The new state with the keys that are stored: the client could not decode the body, so it does not know them, or the
-- row has given up its unique key since the client read it. A flow that it could not decode stays, too.
local function with_stored_names(row, state, stored)
  local place = row.flow and row.place or stored.place
  local words = {
    row.status, row.fence, row.cancel, row.lease, row.expires, stored.seq, row.run_at, row.completed, #row.lane,
    #stored.names, #place, row.lane,
  }
  return table.concat(words, ' ') .. stored.names .. place .. sub(state, row.json)
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
  if more.undecodable or not more.body and after.names ~= row.names then
    state = with_stored_names(after, state, row)
    after = parse(state)
  end
  index(id, row, false)
  set_state(id, state)
  index(id, after, true)
  if more.body then set_field('body', id, more.body) end
  local follow_ups = more.follow_ups or {}
  for i = 1, #follow_ups, 3 do insert(follow_ups[i], follow_ups[i + 1], follow_ups[i + 2]) end
  return true
end

-- Note changes, six words each: id, status, fence and cancel flag ('' for any) of the guard, the new state, and what
-- else there is: false, a table, or, for a row without keys that ends, only its completed_at. Return 1 or 0 for each:
-- whether its guard held; and what writes them all.
local function note_changes(changes)
  local ids, answer = {}, {}
  for i = 1, #changes, 6 do ids[#ids + 1] = changes[i] end
  load_states(ids)
  local rows, stamps, ends, e, entries = {}, {}, {}, 0, {held = {}, leased = {}}
  local lease_before, held_key, holder_word  -- of the row before: many are alike
  for i = 1, #changes, 6 do
    local id, state, more = changes[i], changes[i + 4], changes[i + 5]
    local held
    local status, fence, _, lease, _, _, seq, _, _, long, names, place, at = match(states[id] or '', HEAD)
    if type(more) == 'string' and hashes.state[id] == nil and status == 'running' and names == '0' then
      -- A running row that ends, without keys: most changes are of this kind. All of its writes are listed at once;
      -- through apply_change() they would cost the server twice as much.
      held = fence == changes[i + 2]
      if held then
        if place ~= '0' and not in_transaction then error('FLOW REQUIRED') end
        local final, lane = match(state, '^%S+'), sub(states[id], at, at + long - 1)
        local ended = ends[final] or {order = {}, times = {}, lanes = {}, n = 0}
        ends[final] = ended
        if lease ~= lease_before then
          lease_before, held_key, holder_word = lease, held_entry('', lease)
        end
        e = e + 1
        local stamp, entry = seq .. id, entries[held_key]
        stamps[e] = stamp
        entry[#entry + 1] = holder_word .. stamp
        states[id] = state
        rows[2 * e - 1], rows[2 * e] = id, state
        ended.n = ended.n + 2
        ended.order[ended.n - 1], ended.order[ended.n] = '0', stamp
        ended.times[ended.n - 1], ended.times[ended.n] = more, id
        ended.lanes[lane] = (ended.lanes[lane] or 0) + 1
      end
    else
      held = apply_change(id, changes[i + 1], changes[i + 2], changes[i + 3], state, more)
    end
    answer[#answer + 1] = held and 1 or 0
  end
  return answer, function()
    call_in_chunks('ZREM', 'is:live', stamps)
    for key, members in pairs(entries) do call_in_chunks('ZREM', key, members) end
    call_in_chunks('HSET', 'state', rows)
    for status, ended in pairs(ends) do
      call_in_chunks('ZADD', 'is:' .. status, ended.order)
      call_in_chunks('ZADD', 'ended:' .. status, ended.times)
      for lane, n in pairs(ended.lanes) do
        add_count('running', lane, -n)
        add_count(status, lane, n)
      end
    end
    flush()
  end
end

-- Return the changes in the packed lists of the arguments from this one on, up to another one.
local function unpacked(first, last)
  if last < first then return {} end
  local changes = cmsgpack.unpack(ARGV[first])
  for i = first + 1, last do
    for _, word in ipairs(cmsgpack.unpack(ARGV[i])) do changes[#changes + 1] = word end
  end
  return changes
end
