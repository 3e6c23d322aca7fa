-- ARGV: kind, then for each row the id of its task, the fence and the push stamp of the run, name and text. Returns for
-- each the text that is there now: the first one that was written. False if the task does not run so.
-- include: base
-- include: side
-- include: when_full

local answer = {}
for i = 2, #ARGV, 5 do
  local id, name = ARGV[i], ARGV[i + 3]
  local row, place, stored = row_of(id), ARGV[1] .. ':' .. id, false
  local runs = row and row.status == 'running' and row.fence == ARGV[i + 1]
  if runs and tonumber(row.seq) == tonumber(ARGV[i + 2]) then
    stored = call('HGET', root .. 'side:' .. place, name)
    if not stored then
      stored = ARGV[i + 4]
      put_side(place, name, stored)
    end
  end
  answer[#answer + 1] = stored
end
return answer
