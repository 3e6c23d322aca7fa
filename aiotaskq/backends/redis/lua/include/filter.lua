-- The filter of a task search, from the first argument; the status is compared by the caller.
local where = cmsgpack.unpack(ARGV[1])

-- The number or text of a member of the JSON, without its name; nil if it is null or missing. A text may hold the name
-- of another member only with escaped quotes.
local function member(json, name, from)
  local _, at = find(json, '"' .. name .. '":', from, true)
  if not at then return nil end
  local number = match(json, '^%-?%d+', at + 1)
  if number then return tonumber(number) end
  if sub(json, at + 1, at + 1) ~= '"' then return nil end
  local last = at + 2
  while true do
    last = find(json, '["\\]', last)
    if not last then return nil end
    if sub(json, last, last) == '"' then break end
    last = last + 2
  end
  local ok, words = pcall(cjson.decode, '[' .. sub(json, at + 1, last) .. ']')
  return ok and words[1] or nil
end

local function matches(row, id)
  if where.since then
    local created = member(get_field('body', id) or '', 'created_at', 1)
    if not created or created < where.since then return false end
  end
  if where.error or where.error_type then
    local said = member(states[id], 'error_message', row.json)
    if not said then return false end
    if where.error and not find(said, where.error, 1, true) then return false end
    if where.error_type and sub(said, 1, #where.error_type) ~= where.error_type then return false end
  end
  if where.type or where.scheduler_task_id then
    local names = names_of(row)
    if where.type and names.type ~= where.type then return false end
    if where.scheduler_task_id and names.schedule ~= where.scheduler_task_id then return false end
  end
  return (not where.queue or queue_of(row.lane) == where.queue)
    and (not where.before or (row.completed ~= '-' and tonumber(row.completed) < tonumber(where.before)))
end
