-- Inserting rows, for pushes and follow-up tasks.
-- include: index

-- Insert a row; return nil and the row, or the id of the row that has its id or one of its keys, '' if the push is
-- repeated.
local function insert(id, body, state)
  local row = parse(state)
  if states[id] == nil then load_states({id}) end
  if states[id] then
    local stored = parse(states[id])
    return stored and stored.seq == row.seq and '' or id
  end
  if row.keyed then
    local names = names_of(row)
    if names.schedule and call('GET', root .. 'fired:' .. id) == row.seq then return '' end
    local other = holder('once', names.once) or holder('unique', names.unique)
    if other then return other end
    if names.once then set_field('once', names.once, id) end
  end
  set_state(id, state)
  set_field('body', id, body)
  index(id, row, true)
  return nil, row
end

-- The numbers of the rows that were not inserted because of another one, the ids of those others; how many rows there
-- were, and how many of the bounded ones are new and wait for no other row.
local numbers, others, number, entering = {}, {}, 0, 0

-- Insert rows: id, body and state of each; the first ones are bounded.
local function insert_list(rows, bounded)
  local ids = {}
  for i = 1, #rows, 3 do ids[#ids + 1] = rows[i] end
  load_states(ids)
  for i = 1, #rows, 3 do
    number = number + 1
    local other, row = insert(rows[i], rows[i + 1], rows[i + 2])
    if row and bounded and number <= bounded and not find(row.place, '^,"waits":') then
      entering = entering + 1
    elseif other and (other ~= '' or in_transaction) then
      numbers[#numbers + 1] = number
      others[#others + 1] = other
    end
  end
end
