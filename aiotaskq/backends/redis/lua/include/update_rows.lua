-- Applies many changes; each is one guarded write (change.lua), and the most frequent kind has a shorter way.

-- Apply changes, six words each: id, status, fence and cancel flag ('' for any) of the guard, the new state, and
-- what else there is: false, a table, or, for a row without keys that ends, only its completed_at and, if it has gates,
-- behind a blank its ended_at.
local function apply_changes(changes)
  local ids, answer = {}, {}
  for i = 1, #changes, 6 do ids[#ids + 1] = changes[i] end
  load_states(ids)
  local rows, stamps, ends, e, entries = {}, {}, {}, 0, {held = {}, leased = {}}
  -- Of the row before: many are alike, and end together.
  local more_before, completed, ended_at, final, final_word, lease_before, held_key, holder_word
  local shapes = {}  -- of running rows, by the length of their states: see gated.shape_of()
  for i = 1, #changes, 6 do
    local id, state, more = changes[i], changes[i + 4], changes[i + 5]
    local held, lane, seq, lease, gate
    local stored = states[id] or ''
    local short = type(more) == 'string' and not written[id]
    local shape = short and shapes[#stored]
    if shape and gated.has_shape(stored, shape) then
      held, lane, lease = shape.fence == changes[i + 2], shape.lane, shape.lease
      seq, gate = sub(stored, shape.seq, shape.seq + 19), sub(stored, shape.gate, shape.flow - 1)
    else
      local status, fence, cancel, expires, rest, keyed, run_at, ended, long, names, at
      status, fence, cancel, lease, expires, rest, keyed, seq, run_at, ended, long, names, at = match(stored, HEAD)
      short = short and status == 'running' and (keyed == '0' or keyed == '2')
      if short then
        held, lane = fence == changes[i + 2], sub(stored, at, at + long - 1)
        if keyed == '2' and held then
          if not admission then error('GATES REQUIRED') end
          use_gates()
          shape = ended == '-'
            and gated.shape_of(stored, status, fence, cancel, lease, expires, rest, seq, run_at, long, names, at)
          if shape then
            shapes[#stored], gate = shape, sub(stored, shape.gate, shape.flow - 1)
          else
            gate = {at = at + long, json = at + long + names}
          end
        end
      end
    end
    if short then
      -- A running row that ends, without keys: most changes are of this kind. All of its writes are listed at once;
      -- through apply_change() they would cost the server twice as much.
      if held then
        if not (final and find(state, final_word, 1, true) == 1) then
          final = match(state, '^%S+')
          final_word = final .. ' '
        end
        if gate then
          if more ~= more_before then
            more_before, completed, ended_at = more, match(more, '^(%S+) ?(%S*)')
            ended_at = tonumber(ended_at)  -- none if the client knew of no gates
          end
          more = completed
          if type(gate) == 'string' then
            gated.free_slot(gate, id, ended_at)
          else
            local place = gated.note_end(id, stored, gate.at, gate.json, ended_at)
            if place.tied then error('FLOW REQUIRED') end
          end
        end
        local ended = ends[final]
        if not ended then
          ended = {order = {}, times = {}, lanes = {}, n = 0}
          ends[final] = ended
        end
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
  local changes = cmsgpack.unpack(ARGV[first])
  for i = first + 1, #ARGV do
    for _, word in ipairs(cmsgpack.unpack(ARGV[i])) do changes[#changes + 1] = word end
  end
  return apply_changes(changes)
end
