-- ARGV: kind, a number, so many names to delete, then name, text, and until or '' of each row to store: all without an
-- owner. Returns 0, and writes nothing, if one of the names is missing.
local root, call = KEYS[1], redis.call
-- include: side

local place, last = ARGV[1] .. ':', 2 + ARGV[2]
for i = 3, last do
  if call('HEXISTS', root .. 'side:' .. place, ARGV[i]) == 0 then return 0 end
end
for i = 3, last do remove_side(place, ARGV[i]) end
for i = last + 1, #ARGV, 3 do put_side(place, ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return 1
