-- ARGV: kind, now, limit: deletes up to limit expired rows without an owner. With now '' all but the last ones, as many
-- as limit says. Returns how many were deleted.
local root, call = KEYS[1], redis.call
-- include: side

local gone
if ARGV[2] == '' then gone = call('ZRANGE', root .. 'names:' .. ARGV[1] .. ':', 0, -1 - ARGV[3])
else gone = call('ZRANGEBYSCORE', root .. 'until:' .. ARGV[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3]) end
for _, name in ipairs(gone) do remove_side(ARGV[1] .. ':', name) end
return #gone
