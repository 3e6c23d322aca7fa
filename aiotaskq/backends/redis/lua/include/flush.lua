-- Writes what was noted, and tells other processes.
-- include: base

local function add_to_counter(key, field, by)
  if by ~= 0 and call('HINCRBY', root .. key, field, by) <= 0 then call('HDEL', root .. key, field) end
end

-- Write what was noted; first what needs no memory. States stay known.
local function flush()
  local rows, r, deleted, adding = {}, 0, {}, {}
  for id in pairs(written) do
    if states[id] then
      rows[r + 1], rows[r + 2] = id, states[id]
      r = r + 2
    else
      deleted[#deleted + 1] = id
    end
  end
  for key, members in pairs(zsets) do
    local added, a, removed, n = nil, 0, nil, 0
    for member, score in pairs(members) do
      if score then
        added = added or {}
        added[a + 1], added[a + 2] = score, member
        a = a + 2
      else
        n = n + 1
        removed = removed or {}
        removed[n] = member
      end
    end
    if removed then call_in_chunks('ZREM', key, removed) end
    adding[key] = added
  end
  call_in_chunks('HDEL', 'state', deleted)
  call_in_chunks('HDEL', 'body', deleted)
  call_in_chunks('HDEL', 'progress', deleted)
  call_in_chunks('HDEL', 'usage', deleted)
  for _, kind in ipairs(deleted[1] and OF_TASKS or {}) do
    if call('EXISTS', root .. 'owners:' .. kind) == 1 then
      call_in_chunks('ZREM', 'owners:' .. kind, deleted)
      for _, id in ipairs(deleted) do
        call('UNLINK', root .. 'side:' .. kind .. ':' .. id, root .. 'names:' .. kind .. ':' .. id)
      end
    end
  end
  call_in_chunks('HSET', 'state', rows)
  call_in_chunks('HSET', 'body', bodies)
  for key, added in pairs(adding) do call_in_chunks('ZADD', key, added) end
  for key, fields in pairs(hashes) do
    local values, dropped = {}, {}
    for field, value in pairs(fields) do
      if value then
        values[#values + 1] = field
        values[#values + 1] = value
      else
        dropped[#dropped + 1] = field
      end
    end
    call_in_chunks('HDEL', key, dropped)
    call_in_chunks('HSET', key, values)
  end
  for lane in pairs(changed_lanes) do
    local head = call('ZRANGE', root .. 'lane:' .. lane, 0, 0, 'WITHSCORES')
    if head[1] then call('ZADD', root .. 'heads', head[2], lane) else call('ZREM', root .. 'heads', lane) end
  end
  for status, lanes in pairs(count_deltas) do
    local queues = {}
    for lane, by in pairs(lanes) do queues[queue_of(lane)] = (queues[queue_of(lane)] or 0) + by end
    for queue, by in pairs(queues) do add_to_counter('counts', status .. ':' .. queue, by) end
  end
  for schedule, by in pairs(active_deltas) do add_to_counter('active', schedule, by) end
  written, bodies, zsets, hashes, changed_lanes, count_deltas, active_deltas = {}, {}, {}, {}, {}, {}, {}
end

-- Send a hint ('' for none) to other processes; it is no error if it is lost.
local function publish(hint)
  if hint ~= '' then redis.pcall('PUBLISH', root .. 'hints', hint) end
end
