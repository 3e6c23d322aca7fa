-- ARGV: kind, a number, so many names to delete, then name, text, and until or '' of each row to store.
-- Returns 0, and writes nothing, if one of the names is missing.
-- include: side

local last = 2 + ARGV[2]
for i = 3, last do
  if call('HEXISTS', side, ARGV[i]) == 0 then return 0 end
end
for i = 3, last do remove(ARGV[i]) end
for i = last + 1, #ARGV, 3 do put(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return 1
