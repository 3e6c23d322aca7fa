-- The event of this key, as it is stored; nil if there is none at this instant.
local function event_of(key, now)
  local stored = redis.call('HGET', KEYS[1] .. 'events', key)
  local expires = stored and string.match(stored, '^%S+ (%S+)')
  if stored and (expires == '-' or tonumber(expires) > tonumber(now)) then return stored end
end
