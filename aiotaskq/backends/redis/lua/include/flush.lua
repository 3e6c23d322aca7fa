-- Writes what was noted, and tells other processes.
-- include: base

local function add_to_counter(key, field, by)
  if by ~= 0 and call('HINCRBY', root .. key, field, by) <= 0 then call('HDEL', root .. key, field) end
end

-- Remove what is noted as false; return the other words by key.
local function remove_noted(noted, command)
  local adding = {}
  for key, entries in pairs(noted) do
    local words, removed = {}, {}
    for name, value in pairs(entries) do
      if not value then
        removed[#removed + 1] = name
      elseif command == 'ZREM' then
        words[#words + 1], words[#words + 2] = value, name
      else
        words[#words + 1], words[#words + 2] = name, value
      end
    end
    call_in_chunks(command, key, removed)
    adding[key] = words
  end
  return adding
end

-- Write what was noted; first what needs no memory. States stay known.
local function flush()
  local scores, fields = remove_noted(zsets, 'ZREM'), remove_noted(hashes, 'HDEL')
  for _, kind in ipairs(deleted[1] and OF_TASKS or {}) do
    if call('EXISTS', root .. 'owners:' .. kind) == 1 then
      call_in_chunks('ZREM', 'owners:' .. kind, deleted)
      for _, id in ipairs(deleted) do
        for _, name in ipairs(kind == 'tag' and call('ZRANGE', root .. 'names:tag:' .. id, 0, -1) or {}) do
          call('SREM', root .. 'tagged:' .. name, id)
        end
        call('UNLINK', root .. 'side:' .. kind .. ':' .. id, root .. 'names:' .. kind .. ':' .. id)
      end
    end
  end
  for key, words in pairs(scores) do call_in_chunks('ZADD', key, words) end
  for key, words in pairs(fields) do call_in_chunks('HSET', key, words) end
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
  deleted, zsets, hashes, changed_lanes, count_deltas, active_deltas = {}, {}, {state = {}}, {}, {}, {}
end

-- Send a hint ('' for none) to other processes; it is no error if it is lost.
local function publish(hint)
  if hint ~= '' then redis.pcall('PUBLISH', root .. 'hints', hint) end
end
