-- Delete a row and its keys.
local function remove(id, row)
  unindex(id, row)
  set_state(id, false)
  if not row.keyed then return end
  local names = names_of(row)
  if names.once and get_field('once', names.once) == id then set_field('once', names.once, false) end
  -- Its schedule may be in another store. A scheduler that died between the push and its own write pushes the task
  -- again.
  if names.schedule then call('SET', root .. 'fired:' .. id, row.seq, 'EX', 3600) end
end
