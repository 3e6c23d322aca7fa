-- Inserting rows, for pushes and follow-up tasks.
-- include: index

-- Insert a row, or return the id of the row that has its id or one of its keys. A repeated push returns nil and true.
local function insert(id, body, state)
  local row = parse(state)
  if states[id] == nil then load_states({id}) end
  if states[id] then
    local stored = parse(states[id])
    if stored and stored.seq == row.seq then return nil, true end
    return id
  end
  if row.keyed then
    local names = names_of(row)
    if names.schedule and call('GET', root .. 'fired:' .. id) == row.seq then return nil, true end
    local other = holder('once', names.once) or holder('unique', names.unique)
    if other then return other end
    if names.once then set_field('once', names.once, id) end
  end
  set_state(id, state)
  bodies[#bodies + 1] = id
  bodies[#bodies + 1] = body
  index(id, row, true)
end

-- The numbers of the rows that were not inserted because of another one, the ids of those others; how many rows there
-- were, and how many of them are new and wait for no other row.
local numbers, others, number, entering = {}, {}, 0, 0

-- Insert rows: id, body and state of each.
local function insert_list(rows)
  local ids = {}
  for i = 1, #rows, 3 do ids[#ids + 1] = rows[i] end
  load_states(ids)
  for i = 1, #rows, 3 do
    number = number + 1
    local other, repeated = insert(rows[i], rows[i + 1], rows[i + 2])
    if other or repeated and in_transaction then
      numbers[#numbers + 1] = number
      others[#others + 1] = other or ''
    elseif not repeated then
      local row = parse(states[rows[i]])
      if not find(row.place, '^,"waits":') then entering = entering + 1 end
    end
  end
end
