-- ARGV: kind, now, limit: deletes up to limit expired rows. With now '' all but the last rows, as many as limit says.
-- Returns how many were deleted.
-- include: side

local gone
if ARGV[2] == '' then gone = call('ZRANGE', names, 0, -1 - ARGV[3])
else gone = call('ZRANGEBYSCORE', expiry, '-inf', ARGV[2], 'LIMIT', 0, ARGV[3]) end
for _, name in ipairs(gone) do remove(name) end
return #gone
