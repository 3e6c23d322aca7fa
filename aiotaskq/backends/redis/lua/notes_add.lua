-- ARGV: the most notes of a task, the most bytes of their texts, and 1 if a task that has completed takes notes, too;
-- for each task its id, its fence, what it has used up as JSON or '' for what is known, the number of its new notes,
-- and three words for each of those: the bytes of its text, its kind and time, and its text.
-- The variant without gates is for calls in which no task has used up anything.
-- Returns 1 or 0 for each task: whether it runs with this fence, and the notes were appended;
-- with gates one more 1 if the time has changed at which a gate may let a row pass, else 0.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include with gates: gate
-- include with gates: gates
-- include with gates: usage_text
-- include with gates: usage
-- include with gates: budgets
-- include: when_full

local most, most_bytes, answer, i = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, 4
while ARGV[i] do
  local id, fence, used, count = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local row, key, held = row_of(id), root .. 'notes:' .. id, 0
  local takes = row and (row.status == 'running' or (ARGV[3] == '1' and row.status == 'completed'))
  if takes and row.fence == fence then
    held = 1
    if used ~= '' then spend(id, row, used) end
  end
  if held == 1 and count > 0 then
    local last, bytes = match(call('HGET', root .. 'noted', id) or '0 0', '^(%d+) (%d+)$')
    last, bytes = tonumber(last), tonumber(bytes)
    local added = {}
    for j = 1, count do
      local at = i + 1 + 3 * j
      last, bytes = last + 1, bytes + tonumber(ARGV[at])
      added[j] = ARGV[at] .. ' ' .. string.format('%.0f', last) .. ' ' .. ARGV[at + 1] .. ' ' .. ARGV[at + 2]
    end
    call_in_chunks('RPUSH', 'notes:' .. id, added)
    local length = call('LLEN', key)
    while length > most or bytes > most_bytes do
      bytes, length = bytes - tonumber(match(call('LPOP', key), '^%d+')), length - 1
    end
    call('HSET', root .. 'noted', id, string.format('%.0f %.0f', last, bytes))
  end
  answer[#answer + 1] = held
  i = i + 4 + 3 * count
end
if admission then
  flush()
  answer[#answer + 1] = admission.admit() and 1 or 0
end
return answer
