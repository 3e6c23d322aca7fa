-- Public values: a hash, and a sorted set of the keys that expire.
local values, expiry, call = KEYS[1] .. 'values', KEYS[1] .. 'until', redis.call

local function is_live(key, now)
  local at = call('ZSCORE', expiry, key)
  return not at or tonumber(at) > tonumber(now)
end
