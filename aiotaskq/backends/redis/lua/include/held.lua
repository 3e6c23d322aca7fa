-- The rows that workers hold, by owner.

-- The owners of such rows, at most so many, each found from the one before.
local function owners_of_held(most)
  local owners, from = {}, '-'
  while #owners < most do
    local member = call('ZRANGE', root .. 'held', from, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then break end
    owners[#owners + 1] = match(member, '^%S+')
    from = '[' .. owners[#owners] .. '!'  -- the first character behind a blank
  end
  return owners
end
