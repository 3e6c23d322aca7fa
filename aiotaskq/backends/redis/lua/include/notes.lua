-- Appends notes to a task. Needs base.lua.

-- `words` has, from `first` on, three words for each of `count` notes: the bytes of its text, its kind and time, and
-- its text. The oldest notes go where there are more than `most`, or texts of more than `most_bytes`.
local function append_notes(id, words, first, count, most, most_bytes)
  local key, added = root .. 'notes:' .. id, {}
  local last, bytes = match(call('HGET', root .. 'noted', id) or '0 0', '^(%d+) (%d+)$')
  last, bytes = tonumber(last), tonumber(bytes)
  for j = 1, count do
    local at = first + 3 * (j - 1)
    last, bytes = last + 1, bytes + tonumber(words[at])
    added[j] = words[at] .. ' ' .. string.format('%.0f', last) .. ' ' .. words[at + 1] .. ' ' .. words[at + 2]
  end
  call_in_chunks('RPUSH', 'notes:' .. id, added)
  local length = call('LLEN', key)
  while length > most or bytes > most_bytes do
    bytes, length = bytes - tonumber(match(call('LPOP', key), '^%d+')), length - 1
  end
  call('HSET', root .. 'noted', id, string.format('%.0f %.0f', last, bytes))
end
