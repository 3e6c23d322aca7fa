-- ARGV: the most notes of a task, the most bytes of their texts, and 1 if a task that has completed takes notes, too;
-- for each task its id, its fence, the number of its new notes, and three words for each of those: the bytes of its
-- text, its kind and time, and its text.
-- Returns 1 or 0 for each task: whether it runs with this fence, and the notes were appended.
-- include: base
-- include: when_full

local most, most_bytes, answer, i = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, 4
while ARGV[i] do
  local id, fence, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local row, key, held = row_of(id), root .. 'notes:' .. id, 0
  local takes = row and (row.status == 'running' or (ARGV[3] == '1' and row.status == 'completed'))
  if takes and row.fence == fence then
    held = 1
    local last, bytes = match(call('HGET', root .. 'noted', id) or '0 0', '^(%d+) (%d+)$')
    last, bytes = tonumber(last), tonumber(bytes)
    local added = {}
    for j = 1, count do
      local at = i + 3 * j
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
  i = i + 3 + 3 * count
end
return answer
