-- Events, and what waits for them.

-- The event of this key, as it is stored; nil if there is none at this instant.
local function event_of(key, now)
  local stored = redis.call('HGET', KEYS[1] .. 'events', key)
  local expires = stored and string.match(stored, '^%S+ (%S+)')
  if stored and (expires == '-' or tonumber(expires) > tonumber(now)) then return stored end
end

-- The field of the step that an event becomes for a wait, which is given as it is in waits:<key>.
local function event_field(key, number, wait)
  return string.match(wait, '^%S+ (%S+)') .. ' event ' .. number .. ' ' .. key
end

-- Store an event for a task that waits for it, unless it came behind the timeout.
local function answer(id, key, number, wait, stored)
  local n, version, ends = string.match(wait, '^%S+ %S+ (%S+) (%S+) (%S+)$')
  local at, text = string.match(stored, '^(%S+) %S+ (.*)$')
  if tonumber(ends) < tonumber(at) then return end
  local value = n .. ' ' .. at .. ' ' .. version .. ' ' .. text
  redis.call('HSETNX', KEYS[1] .. 'steps:' .. id, event_field(key, number, wait), value)
  redis.call('SADD', KEYS[1] .. 'stepped', id)
end

-- Forget a wait of a task.
local function forget_wait(id, key, number)
  redis.call('HDEL', KEYS[1] .. 'waits:' .. key, number .. ' ' .. id)
  redis.call('SREM', KEYS[1] .. 'waiting:' .. id, number .. ' ' .. key)
  if redis.call('EXISTS', KEYS[1] .. 'waits:' .. key) == 0 then redis.call('SREM', KEYS[1] .. 'awaited', key) end
end

-- Forget the waits of a task.
local function forget_waits(id)
  for _, wait in ipairs(redis.call('SMEMBERS', KEYS[1] .. 'waiting:' .. id)) do
    local number, key = string.match(wait, '^(%S+) (.*)$')
    forget_wait(id, key, number)
  end
end
