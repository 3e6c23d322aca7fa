-- ARGV: id, a number or '' for the newest notes, limit. Returns the notes with a greater number, the first ones, or the
-- newest ones: each as the bytes of its text, its number, its kind, its time and its text, with a blank between.
local key, limit = KEYS[1] .. 'notes:' .. ARGV[1], tonumber(ARGV[3])
if ARGV[2] == '' then return redis.call('LRANGE', key, -limit, -1) end
local first = redis.call('LINDEX', key, 0)
if not first then return {} end
local skipped = math.max(0, tonumber(ARGV[2]) + 1 - tonumber(string.match(first, '^%d+ (%d+)')))
return redis.call('LRANGE', key, skipped, skipped + limit - 1)
