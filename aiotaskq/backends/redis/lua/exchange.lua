-- ARGV: hint, the words of a claim (see claim_rows.lua; its limit may be 0), then packed lists of changes. Returns 1 or
-- 0 for each change: whether its guard held; and the claimed rows.
-- include: update_rows
-- include: claim_rows
-- include: when_full

local flags, limit = {}, tonumber(ARGV[4])
if #ARGV > 7 then
  local held, write_changes = note_changes(unpacked(8, #ARGV))
  write_changes()
  publish(ARGV[1])
  flags = held
end
return {flags, limit > 0 and claim(ARGV[2], ARGV[3], limit, ARGV[5], ARGV[6], ARGV[7]) or {}}
