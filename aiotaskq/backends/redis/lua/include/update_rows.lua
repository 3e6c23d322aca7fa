-- Applies many changes; each is one guarded write (change.lua), and the most frequent kind has a shorter way.

-- Apply packed changes, six words each: id, status, fence and cancel flag ('' for any) of the guard, the new state, and
-- what else there is: false, a table, or, for a row without keys that ends, only its completed_at and, if it has gates,
-- behind a blank its ended_at.
local function apply_changes(packed)
  local changes, ids, answer = cmsgpack.unpack(packed), {}, {}
  for i = 1, #changes, 6 do ids[#ids + 1] = changes[i] end
  load_states(ids)
  local rows, stamps, ends, e, entries = {}, {}, {}, 0, {held = {}, leased = {}}
  local more_before, completed, ended_at  -- of the row before: many end together
  for i = 1, #changes, 6 do
    local id, state, more = changes[i], changes[i + 4], changes[i + 5]
    local held
    local status, fence, _, lease, _, _, keyed, seq, _, _, long, names, at = match(states[id] or '', HEAD)
    local short = type(more) == 'string' and status == 'running' and not written[id]
    if short and (keyed == '0' or keyed == '2') then
      -- A running row that ends, without keys: most changes are of this kind. All of its writes are listed at once;
      -- through apply_change() they would cost the server twice as much.
      held = fence == changes[i + 2]
      if held then
        local lane, final = sub(states[id], at, at + long - 1), match(state, '^%S+')
        if keyed == '2' then
          if not admission then error('GATES REQUIRED') end
          if more ~= more_before then
            more_before, completed, ended_at = more, match(more, '^(%S+) ?(%S*)')
            ended_at = tonumber(ended_at)  -- none if the client knew of no gates
          end
          more = completed
          use_gates()
          local place = gated.note_end(id, states[id], at + long, at + long + names, ended_at)
          if place and place.tied then admission.note_final(id, place, final, ended_at) end
        end
        local ended = ends[final]
        if not ended then
          ended = {order = {}, times = {}, lanes = {}, n = 0}
          ends[final] = ended
        end
        e = e + 1
        stamps[e] = seq .. id
        local key, member = held_entry(stamps[e], lease)
        entries[key][#entries[key] + 1] = member
        states[id] = state
        rows[2 * e - 1], rows[2 * e] = id, state
        ended.n = ended.n + 2
        ended.order[ended.n - 1], ended.order[ended.n] = '0', stamps[e]
        ended.times[ended.n - 1], ended.times[ended.n] = more, id
        ended.lanes[lane] = (ended.lanes[lane] or 0) + 1
      end
    else
      held = apply_change(id, changes[i + 1], changes[i + 2], changes[i + 3], state, more)
    end
    answer[#answer + 1] = held and 1 or 0
  end
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
  if admission then admission.declare(true) end
  flush()
  return answer
end

-- Apply the packed changes of the arguments from this one on. Return 1 or 0 for each: whether its guard held.
local function apply_change_lists(first)
  local answer = {}
  for i = first, #ARGV do
    for _, held in ipairs(apply_changes(ARGV[i])) do answer[#answer + 1] = held end
  end
  return answer
end
