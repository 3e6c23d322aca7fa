-- ARGV: how many notes a task may have, and how many bytes of text; 1 if these are the last notes of their runs, else
-- 0. Then for each task its id, the fence of the run, how many notes there are, and the words of those: see notes.lua.
-- Returns 1 or 0 for each task: whether it runs with this fence, and the notes were appended.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: notes
-- include: when_full

local most, most_bytes, answer, i = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, 4
while ARGV[i] do
  local id, fence, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local row = row_of(id)
  local takes = row and (row.status == 'running' or (ARGV[3] == '1' and row.status == 'completed'))
  takes = takes and row.fence == fence
  if takes and count > 0 then append_notes(id, ARGV, i + 3, count, most, most_bytes) end
  answer[#answer + 1] = takes and 1 or 0
  i = i + 3 + 3 * count
end
return answer
