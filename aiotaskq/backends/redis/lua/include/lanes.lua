-- Finds due rows. A lane is the sorted set of the pending rows of one queue and priority, by run_at. Lanes of paused
-- queues, and of queues that the caller did not ask for, are left out; so are expired rows.
-- include: index

local paused = {}
for _, queue in ipairs(call('SMEMBERS', root .. 'paused')) do paused[queue] = true end
local wanted = nil

-- Restrict is_open() to these packed queues; '' is every queue.
local function want_queues(packed)
  if packed == '' then return end
  wanted = {}
  for _, queue in ipairs(cmsgpack.unpack(packed)) do wanted[queue] = true end
end

local function is_open(queue) return not paused[queue] and (not wanted or wanted[queue] == true) end

-- Take an expired row out of its lane, so that claims do not meet it again.
local function set_expired(id, lane, stamp, expires)
  set_score('expiring', id, false)
  remove_from_lane(lane, stamp)  -- a parked row is in none
  set_score('expired', id, expires)
end

local MAX_EXPIRED = 10000  -- taken out in one call of a script: the server runs no other command meanwhile

local function sweep_expired(now)
  local late = call('ZRANGEBYSCORE', root .. 'expiring', '-inf', now, 'LIMIT', 0, MAX_EXPIRED)
  if #late == 0 then return end
  load_states(late)
  for _, id in ipairs(late) do
    local row = parse(states[id])
    if row and row.status == 'pending' and row.expires ~= '-' then
      set_expired(id, row.lane, row.seq .. id, row.expires)
    else
      set_score('expiring', id, false)
    end
  end
  flush()
end

-- How many rows of open lanes are due, and when the first row of these lanes is or was.
local function count_ready(now)
  local ready, first = 0, nil
  local heads = call('ZRANGE', root .. 'heads', 0, -1, 'WITHSCORES')
  for i = 1, #heads, 2 do
    if is_open(queue_of(heads[i])) then
      first = first or heads[i + 1]
      if tonumber(heads[i + 1]) > tonumber(now) then break end
      ready = ready + call('ZCOUNT', root .. 'lane:' .. heads[i], '-inf', now)
    end
  end
  return ready, first
end

local function by_run_at(a, b)
  if a.at ~= b.at then return a.at < b.at end
  return a.stamp < b.stamp
end

-- Return the open lanes whose first row is due, by priority, and these priorities in ascending order.
local function due_lanes(now)
  local lanes, priorities = {}, {}
  for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', now)) do
    if is_open(queue_of(lane)) then
      local priority = tonumber(match(lane, '^[^:]+'))
      if not lanes[priority] then
        lanes[priority] = {}
        priorities[#priorities + 1] = priority
      end
      table.insert(lanes[priority], lane)
    end
  end
  table.sort(priorities)
  return lanes, priorities
end

-- Return the first due rows of lanes of one priority, in claim order; with several lanes it may be more than the limit.
local function due_rows(lanes, now, limit)
  local found, n = {}, 0
  if #lanes == 1 then
    for i, stamp in ipairs(call('ZRANGEBYSCORE', root .. 'lane:' .. lanes[1], '-inf', now, 'LIMIT', 0, limit)) do
      found[i] = {lane = lanes[1], stamp = stamp}
    end
    return found
  end
  for _, lane in ipairs(lanes) do
    local part = call('ZRANGEBYSCORE', root .. 'lane:' .. lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #part, 2 do
      n = n + 1
      found[n] = {lane = lane, stamp = part[i], at = tonumber(part[i + 1])}
    end
  end
  table.sort(found, by_run_at)
  return found
end

-- The instant at which rows count for the bound of a push: now, or the latest push stamp if that is later. A task that
-- was pushed without a delay is due by its own push stamp, on whatever host's clock.
local function bound_instant(now)
  local newest = call('ZREVRANGEBYLEX', root .. 'is:live', '+', '-', 'LIMIT', 0, 1)[1]
  return string.format('%.0f', math.max(now, newest and tonumber(sub(newest, 1, 20)) or 0))
end
