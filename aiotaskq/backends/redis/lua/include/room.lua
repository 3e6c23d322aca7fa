-- The instant at which rows count for the bound of a push: now, or the latest push stamp if that is later. A task that
-- was pushed without a delay is due by its own push stamp, on whatever host's clock.
local function bound_instant(now)
  local newest = call('ZREVRANGEBYLEX', root .. 'is:live', '+', '-', 'LIMIT', 0, 1)[1]
  return string.format('%.0f', math.max(now, newest and tonumber(sub(newest, 1, 20)) or 0))
end
